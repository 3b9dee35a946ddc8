//! Any pattern and any text: a splitter or an error, never a panic; and where the pattern is one of a small grammar (with
//! look-ahead, possessive and lazy quantifiers, flags, and the alternatives of the scanner's family in any order), the
//! pieces that a backtracking engine finds.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rustbpe_py::split::Splitter;

const ATOMS: [&str; 24] = [
    "a",
    "b",
    "é",
    "ſ",
    " ",
    "\n",
    "'",
    ".",
    "$",
    "[ab]",
    "[^b]",
    "[^\\s\\p{L}\\p{N}]",
    "[\\r\\n]",
    "\\s",
    "\\S",
    "\\w",
    "\\d",
    "\\p{L}",
    "\\p{N}",
    "\\p{Lu}",
    "\\x61",
    "[a-z&&[^b]]",
    "[]a]",
    "[\\]b]",
];

const QUANTIFIERS: [&str; 16] =
    ["", "", "", "?", "*", "+", "{0,1}", "{1,2}", "{2}", "{2,}", "?+", "*+", "++", "{1,2}+", "+?", "*?"];

/// Of the family, which is recognized when they stand in its order.
const ALTERNATIVES: [&str; 18] = [
    r"\s+(?!\S)",
    r"\s+",
    r"\s",
    r"\s++$",
    r"\s*[\r\n]",
    r"\s*[\r\n]+",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"'s|'t|'re|'ve|'m|'ll|'d",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}++",
    r" ?\p{L}+",
    r"\p{N}{1,2}",
    r"\p{N}{1,3}+",
    r" ?\p{N}++",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+",
    r"\w+",
];

const MAX_TEXTS: usize = 30;

/// What patterns look at, so that text is more often told apart than at random.
const TEXTS: [&str; 28] = [
    "a", "b", "z", "A", "é", "É", "ſ", "漢", "🙂", "\u{301}", "1", "23", "½", " ", "  ", "\n", "\r\n", "\t", "\u{a0}",
    "\u{85}", "\u{3000}", "'", "'s", "'LL", ".", "!?", "]", "\0",
];

/// A whole pattern of the family: one of each, in order.
const FAMILY: [&[&str]; 5] = [
    &[
        r"'(?i:[sdmt]|ll|ve|re)|",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|",
        r"'s|'t|'re|'ve|'m|'ll|'d|",
        r"'(?:[sdmt]|ll|ve|re)|",
    ],
    &[r"[^\r\n\p{L}\p{N}]?+\p{L}+|", r"[^\r\n\p{L}\p{N}]?\p{L}+|", r" ?\p{L}+|", r" ?+\p{L}++|"],
    &[r"\p{N}{1,2}|", r"\p{N}{1,3}+|", r"\p{N}|", r" ?\p{N}+|"],
    &[r" ?[^\s\p{L}\p{N}]++[\r\n]*+|", r" ?[^\s\p{L}\p{N}]+[\r\n]*|", r" ?[^\s\p{L}\p{N}]++|"],
    &[
        r"\s*[\r\n]|\s+(?!\S)|\s+",
        r"\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"\s+(?!\S)|\s+",
        r"\s++$|\s+(?!\S)|\s",
        r"\s+(?!\S)|\s",
    ],
];

fn alternative(u: &mut Unstructured<'_>, depth: usize, out: &mut String) -> Result<()> {
    if u.ratio(1, 3)? {
        *out += u.choose(&ALTERNATIVES)?;
        return Ok(());
    }
    for _ in 0..u.int_in_range(1..=4)? {
        if depth < 2 && u.ratio(1, 6)? {
            *out += u.choose(&["(?:", "(", "(?i:", "(?s:"])?;
            alternatives(u, depth + 1, out)?;
            out.push(')');
        } else if u.ratio(1, 12)? {
            *out += u.choose(&[r"(?!a)", r"(?=\s)", r"(?<=a)", r"\b", "^", "(?i)", "(?s)"])?;
            continue;
        } else {
            *out += u.choose(&ATOMS)?;
        }
        if !out.ends_with('$') {
            *out += u.choose(&QUANTIFIERS)?;
        }
    }
    Ok(())
}

fn alternatives(u: &mut Unstructured<'_>, depth: usize, out: &mut String) -> Result<()> {
    for at in 0..u.int_in_range(1..=3)? {
        if at > 0 {
            out.push('|');
        }
        alternative(u, depth, out)?;
    }
    Ok(())
}

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    let mut out = String::new();
    for _ in 0..u.int_in_range(0..=16)? {
        out += match u.ratio(1, 8)? {
            true => return Ok(out + u.arbitrary::<&str>()?),
            false => u.choose(&TEXTS)?,
        };
    }
    Ok(out)
}

fn pieces(splitter: &Splitter, text: &[u8]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    splitter.split(text, &mut |start, end| out.push((start, end)));
    let covered = out.iter().try_fold(0, |at, &(start, end)| (start == at && end > start).then_some(end));
    assert_eq!(covered, Some(text.len()), "{} does not cover {text:?}: {out:?}", splitter.pattern());
    out
}

/// As the splitter's, what no match covers a piece too; None where the engine gives up.
fn by_backtracking(regex: &fancy_regex::Regex, text: &str) -> Option<Vec<(usize, usize)>> {
    let (mut out, mut end) = (Vec::new(), 0);
    for found in regex.find_iter(text) {
        let found = found.ok()?;
        out.extend([(end, found.start()), (found.start(), found.end())].iter().filter(|(from, to)| from < to));
        end = found.end();
    }
    out.extend(Some((end, text.len())).filter(|(from, to)| from < to));
    Some(out)
}

/// Compiling a pattern takes longer than many texts, so all that is left of the input becomes texts.
fn compare(pattern: &str, u: &mut Unstructured<'_>) -> Result<()> {
    let Ok(splitter) = Splitter::new(pattern) else { return Ok(()) };
    let reference = fancy_regex::Regex::new(pattern);
    for _ in 0..MAX_TEXTS {
        let text = text(u)?;
        let found = pieces(&splitter, text.as_bytes());
        if let Some(expected) = reference.as_ref().ok().and_then(|regex| by_backtracking(regex, &text)) {
            assert_eq!(found, expected, "{pattern:?} on {text:?}");
        }
        if u.is_empty() {
            break;
        }
    }
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    match u.choose(&[0, 0, 0, 0, 0, 1, 1, 2])? {
        0 => {
            let mut pattern = String::new();
            alternatives(u, 0, &mut pattern)?;
            compare(&pattern, u)?;
        }
        1 => {
            let mut pattern = String::new();
            for parts in FAMILY {
                pattern += u.choose(parts)?;
            }
            let broken = u.arbitrary::<&[u8]>()?;
            pieces(&Splitter::new(&pattern).expect("the family is never refused"), broken);
            compare(&pattern, u)?;
        }
        _ => {
            let text = text(u)?;
            if let Ok(pattern) = str::from_utf8(u.bytes(u.len())?)
                && let Ok(splitter) = Splitter::new(pattern)
            {
                pieces(&splitter, text.as_bytes());
            }
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    // Too few bytes for a whole pattern are no case.
    let _ = run(&mut Unstructured::new(data));
});
