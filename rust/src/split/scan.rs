//! A hand-written scanner for the patterns of the GPT-2 family: one pass, no allocation, no state.
//!
//! Each character is read a bounded number of times: a run of whitespace makes at most three pieces, and any other
//! piece ends at the first character that does not belong to it.

use super::classes::{Class, OF_BYTE, decode};
use super::family::{Contractions, Family};
use super::sink::Sink;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Passes every piece of `text`, which must be valid UTF-8, to `sink`, on any machine.
#[inline(always)]
pub fn one_by_one(family: &Family, text: &[u8], sink: &mut impl Sink) {
    // Specialized for the two shapes in use, with the choices as constants.
    match family.is_modern() {
        true => run::<true>(family, text, sink),
        false => run::<false>(family, text, sink),
    }
}

#[inline(always)]
fn run<const MODERN: bool>(family: &Family, text: &[u8], sink: &mut impl Sink) {
    let mut at = 0;
    while at < text.len() {
        let end = piece::<MODERN>(family, text, at);
        sink.piece(at, end);
        at = end;
    }
}

/// The end of the piece at `at`, for a modern pattern.
#[inline(never)]
pub fn modern_piece(family: &Family, text: &[u8], at: usize) -> usize {
    piece::<true>(family, text, at)
}

#[inline(always)]
fn piece<const MODERN: bool>(family: &Family, text: &[u8], at: usize) -> usize {
    let any_prefix = MODERN || family.any_prefix;
    let first = text[at];
    // The most common piece by far: a space and a word, or a word.
    if first == b' ' && at + 1 < text.len() && OF_BYTE[text[at + 1] as usize] == Class::Letter {
        return letters(text, at + 2);
    }
    let (class, width) = decode(text, at);
    let next = at + width;
    match class {
        Class::Letter => letters(text, next),
        Class::Number if family.digits == 0 => run_of(text, next, Class::Number),
        Class::Number => digits(text, next, family.digits - 1),
        Class::LineEnd => whitespace::<MODERN>(family, text, at),
        Class::Other => {
            if first == b'\''
                && let Some(end) = contraction(family.contractions, text, next)
            {
                return end;
            }
            match any_prefix && class_at(text, next) == Some(Class::Letter) {
                true => letters(text, next),
                false => punctuation::<MODERN>(family, text, next),
            }
        }
        Class::Space => match class_at(text, next) {
            Some(Class::Letter) if any_prefix || first == b' ' => letters(text, next),
            Some(Class::Other) if first == b' ' => punctuation::<MODERN>(family, text, next),
            Some(Class::Number) if first == b' ' && family.digits == 0 => run_of(text, next, Class::Number),
            _ => whitespace::<MODERN>(family, text, at),
        },
        Class::NonAscii => unreachable!("a decoded character is not a byte"),
    }
}

fn class_at(text: &[u8], at: usize) -> Option<Class> {
    (at < text.len()).then(|| decode(text, at).0)
}

/// The end of the run of letters from `at` on.
#[inline(always)]
fn letters(text: &[u8], mut at: usize) -> usize {
    while let Some(eight) = text.get(at..at + 8) {
        let eight = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let run = leading_ascii_letters(eight);
        at += run;
        if run < 8 {
            return match text[at] {
                0x80.. => run_of(text, at, Class::Letter),
                _ => at,
            };
        }
    }
    run_of(text, at, Class::Letter)
}

/// How many of the first bytes, in memory order, are ASCII letters; compares all eight at once.
#[inline(always)]
fn leading_ascii_letters(eight: u64) -> usize {
    let lower = (eight | (0x20 * ONES)) & !HIGH;
    let from_a = lower + (0x80 - 0x61) * ONES;
    let beyond_z = lower + (0x80 - 0x7b) * ONES;
    let others = !(from_a & !beyond_z & !eight) & HIGH;
    others.trailing_zeros() as usize / 8
}

fn run_of(text: &[u8], mut at: usize, wanted: Class) -> usize {
    while at < text.len() {
        let (class, width) = decode(text, at);
        if class != wanted {
            break;
        }
        at += width;
    }
    at
}

fn digits(text: &[u8], mut at: usize, most: usize) -> usize {
    for _ in 0..most {
        match at < text.len() && decode(text, at).0 == Class::Number {
            true => at += decode(text, at).1,
            false => break,
        }
    }
    at
}

fn punctuation<const MODERN: bool>(family: &Family, text: &[u8], at: usize) -> usize {
    let mut at = run_of(text, at, Class::Other);
    if MODERN || family.punctuation_takes_line_ends {
        while at < text.len() && matches!(text[at], b'\r' | b'\n') {
            at += 1;
        }
    }
    at
}

/// The end of a contraction whose apostrophe is the byte before `at`.
pub fn contraction(which: Contractions, text: &[u8], at: usize) -> Option<usize> {
    let fold = |byte: u8| match which {
        Contractions::AnyCase => byte.to_ascii_lowercase(),
        Contractions::Lower => byte,
    };
    let first = fold(*text.get(at)?);
    if matches!(first, b's' | b'd' | b'm' | b't') {
        return Some(at + 1);
    }
    let second = fold(*text.get(at + 1)?);
    match (first, second) {
        (b'l', b'l') | (b'v' | b'r', b'e') => Some(at + 2),
        // U+017F, the long s, is an s if case is ignored.
        (0xc5, 0xbf) if which == Contractions::AnyCase => Some(at + 2),
        _ => None,
    }
}

/// The end of the piece that begins with the whitespace at `start`: up to the last line end or the end of the text if
/// the pattern has these rules, else all except the last character, which is left to the next piece.
fn whitespace<const MODERN: bool>(family: &Family, text: &[u8], start: usize) -> usize {
    let (mut at, mut before_last, mut after_line_end) = (start, start, None);
    while at < text.len() {
        let (class, width) = decode(text, at);
        if !class.is_space() {
            break;
        }
        before_last = at;
        at += width;
        if class == Class::LineEnd {
            after_line_end = Some(at);
        }
    }
    let at_end = at == text.len();
    match after_line_end {
        _ if at_end && family.end_is_one_piece => at,
        Some(end) if MODERN || family.cut_after_line_end => end,
        _ if at_end || before_last == start => at,
        _ => before_last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_up_to_the_first_other_byte() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                let mut eight = *b"abYZazAz";
                eight[at] = byte;
                let expected = if byte.is_ascii_alphabetic() { 8 } else { at };
                assert_eq!(leading_ascii_letters(u64::from_le_bytes(eight)), expected, "{byte} at {at}");
            }
        }
    }
}
