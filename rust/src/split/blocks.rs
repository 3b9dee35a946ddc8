//! Finds the pieces of the family's modern patterns for 64 bytes at a time.
//!
//! A pattern does not look at anything before a piece, so a block starts where a piece begins. Whether a piece begins
//! at
//! a byte then depends on the classes of a few bytes around it, which for a whole block is arithmetic on words of 64
//! bits (as Langdale and Lemire 2019 do for JSON): the carry of an addition follows a run. Positions that a block
//! cannot
//! decide, because the text continues or is not ASCII, are left to the character scanner.

use super::family::Family;
use super::masks::{BLOCK, Masks};
use super::scan::{contraction, modern_piece};
use super::sink::Sink;

/// Fewer bytes than this at the end of the text are scanned one by one.
const MIN_BYTES: usize = 16;

/// Passes every piece of `text` to `sink`, for a modern pattern that limits digits. Returns false, and does nothing, on
/// a machine without the necessary vector unit.
#[inline]
pub fn scan(family: &Family, text: &[u8], sink: &mut impl Sink) -> bool {
    if has_avx512() {
        // SAFETY: the machine has what the function is compiled for.
        unsafe { scan_avx512(family, text, sink) };
        return true;
    }
    if has_avx2() {
        // SAFETY: as above.
        unsafe { scan_avx2(family, text, sink) };
        return true;
    }
    false
}

pub fn has_avx512() -> bool {
    has_bit_instructions() && is_x86_feature_detected!("avx512bw")
}

pub fn has_avx2() -> bool {
    has_bit_instructions() && is_x86_feature_detected!("avx2")
}

fn has_bit_instructions() -> bool {
    is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt")
}

#[target_feature(enable = "avx512bw,bmi1,bmi2,lzcnt")]
pub fn scan_avx512(family: &Family, text: &[u8], sink: &mut impl Sink) {
    scan_with(family, text, sink, |block| Masks::by_avx512(block));
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
pub fn scan_avx2(family: &Family, text: &[u8], sink: &mut impl Sink) {
    scan_with(family, text, sink, |block| Masks::by_avx2(block));
}

#[inline(always)]
pub fn scan_with(family: &Family, text: &[u8], sink: &mut impl Sink, masks: impl Fn(&[u8; BLOCK]) -> Masks) {
    let mut at = 0;
    while text.len() - at >= MIN_BYTES {
        let masks = match text[at..].first_chunk() {
            Some(block) => masks(block),
            None => masks(&padded(&text[at..])),
        };
        let mut starts = starts(&masks, family.digits);
        let mut contractions = starts & masks.apostrophe & masks.letter >> 1;
        while contractions != 0 {
            starts |= after_contraction(family, text, at, contractions.trailing_zeros(), &masks);
            contractions &= contractions - 1;
        }
        starts &= known(&masks);
        if starts == 0 {
            // Until the text is ASCII again.
            let wide_end = text.len().min(at + BLOCK - masks.wide.leading_zeros() as usize);
            at = one_by_one(family, text, at, sink);
            while at < wide_end {
                at = one_by_one(family, text, at, sink);
            }
            continue;
        }
        let (block, mut from) = (at, at);
        while starts != 0 {
            at = block + starts.trailing_zeros() as usize;
            sink.piece(from, at);
            from = at;
            starts &= starts - 1;
        }
    }
    while at < text.len() {
        at = one_by_one(family, text, at, sink);
    }
}

#[inline(always)]
fn one_by_one(family: &Family, text: &[u8], at: usize, sink: &mut impl Sink) -> usize {
    let end = modern_piece(family, text, at);
    sink.piece(at, end);
    end
}

/// Bytes beyond the end belong to none of the classes.
#[inline(never)]
fn padded(rest: &[u8]) -> [u8; BLOCK] {
    let mut block = [u8::MAX; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// The positions, except the first, at which a block can tell whether a piece begins there: those before any non-ASCII
/// byte, and before the blanks at their end, which may belong to the next piece.
#[inline(always)]
fn known(masks: &Masks) -> u64 {
    let ascii = masks.wide.wrapping_sub(1) & !masks.wide;
    let n = u64::BITS - (ascii & !masks.blank).leading_zeros();
    u64::MAX.checked_shr(u64::BITS - n).unwrap_or(0) & !1
}

/// Where pieces begin, given that one begins with the block.
#[inline(always)]
fn starts(masks: &Masks, most_digits: usize) -> u64 {
    let &Masks { letter, number, space, blank, line_end, apostrophe: _, wide } = masks;
    let white = blank | line_end;
    let other = !(letter | number | white | wide);
    let after = |mask: u64| mask << 1;
    let before = |mask: u64| mask >> 1;

    // Punctuation, with a space before it and line ends after it.
    let other_first = other & !after(other | space);
    let taken_first = line_end & after(other);
    let taken = line_end & !line_end.wrapping_add(taken_first);
    // A word, with one other character before it.
    let prefix = other_first & before(letter);
    let letter_first = letter & !after(letter | blank | prefix);
    // Whitespace up to its last line end; the following blanks except the last; the last, unless a word or punctuation
    // takes it.
    let line_end_first = line_end & !after(white | other);
    let blank_first = blank & !after(blank);
    let blank_last = blank & before(letter | number | other);
    let between_line_ends = {
        let first = blank_first & after(line_end & !taken);
        firsts_of_runs_to(blank, first, line_end)
    };
    other_first
        | letter_first
        | groups(number, most_digits)
        | line_end_first
        | (blank_first | blank_last) & !between_line_ends
}

/// The beginnings, among the bits of `first`, of those runs in `mask` that are followed by a bit of `stop`.
#[inline(always)]
fn firsts_of_runs_to(mask: u64, first: u64, stop: u64) -> u64 {
    let mut behind = mask.wrapping_add(first) & !mask & stop;
    let mut found = 0;
    while behind != 0 {
        let lower = (behind & behind.wrapping_neg()) - 1;
        found |= 1 << (u64::BITS - (!mask & lower).leading_zeros());
        behind &= behind - 1;
    }
    found
}

/// Every `most`-th digit of each run, starting with the first.
#[inline(always)]
fn groups(number: u64, most: usize) -> u64 {
    let mut starts = number & !(number << 1);
    let mut found = starts;
    // All digits between them belong to the same run.
    let full = (1..most).fold(number, |full, by| full & number << by) & number << most;
    loop {
        starts = starts << most & full;
        if starts == 0 {
            return found;
        }
        found |= starts;
    }
}

/// The position after the contraction whose apostrophe is byte `place` of the block, if it is one and letters follow.
#[inline(never)]
fn after_contraction(family: &Family, text: &[u8], block: usize, place: u32, masks: &Masks) -> u64 {
    match contraction(family.contractions, text, block + place as usize + 1) {
        Some(end) if end - block < BLOCK => masks.letter & 1 << (end - block),
        _ => 0,
    }
}
