//! Rewrites patterns outside the family for an automaton, which has no look-around and never backtracks.
//!
//! Two constructs of split patterns can be replaced by equivalent ones: the look-ahead `\s+(?!\S)` as a separate
//! alternative, and a possessive quantifier where giving back a character could never help. Anything else that needs a
//! backtracking engine is rejected, because such an engine can take unbounded time.

use std::fmt;

use regex_automata::meta;
use regex_syntax::ast::ErrorKind;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look};

/// A pattern that does not compile, or that no automaton can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    Invalid(String),
    NotLinear(String),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "the split pattern is not a valid regular expression: {why}"),
            Self::NotLinear(what) => {
                write!(f, "the split pattern cannot be matched without backtracking, which may never end: {what}")
            }
        }
    }
}

impl std::error::Error for PatternError {}

/// Whitespace without its last character, which is left to the next piece.
const LOOKAHEAD: &str = r"\s+(?!\S)";

/// An automaton, and the one of its patterns whose matches give back their last character.
#[derive(Clone)]
pub struct Linear {
    pub automaton: meta::Regex,
    pub gives_back: Option<usize>,
}

impl Linear {
    /// `head|\s+(?!\S)|tail` becomes three patterns of which the first match wins: `head` or whitespace up to the end
    /// of
    /// the text; `\s+\s`, whose last character is given back as by the look-ahead; and `tail`. Flags set in `head` also
    /// hold in `tail`.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let alternatives = top_level_alternatives(pattern);
        let lookahead = alternatives.iter().position(|&a| a == LOOKAHEAD);
        let has_flags = !flags(&alternatives).is_empty();
        let greedy = |part: &[&str]| -> Result<String, PatternError> {
            let part: Result<Vec<_>, _> = part.iter().map(|alternative| greedy(alternative, has_flags)).collect();
            let part = part?.join("|");
            regex_syntax::parse(&part).map_err(refusal)?;
            Ok(part)
        };
        let mut patterns = Vec::new();
        match lookahead {
            None => patterns.push(greedy(&alternatives)?),
            Some(at) => {
                let before = flags(&alternatives[..at]);
                // Other flags change the meaning of whitespace, how much of it matches, or the syntax of the pattern.
                if let Some(flags) = before.iter().find(|flags| flags.contains(['R', 'U', 'u', 'x'])) {
                    return Err(not_linear(&format!("{LOOKAHEAD} behind the flags {flags}")));
                }
                patterns.push(greedy(&[&alternatives[..at], &[r"\s+\z"]].concat())?);
                patterns.push(r"\s+\s".to_owned());
                if at + 1 < alternatives.len() {
                    patterns.push(before.concat() + &greedy(&alternatives[at + 1..])?);
                }
            }
        }
        let automaton = meta::Regex::new_many(&patterns);
        let automaton = automaton.map_err(|error| PatternError::Invalid(error.to_string()))?;
        Ok(Self { automaton, gives_back: lookahead.map(|_| 1) })
    }
}

/// The alternatives of a pattern, as written: `|` outside of groups, classes and escapes separates them.
fn top_level_alternatives(pattern: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (at, byte, depth) in syntax_bytes(pattern) {
        if byte == b'|' && depth == 0 {
            parts.push(&pattern[start..at]);
            start = at + 1;
        }
    }
    parts.push(&pattern[start..]);
    parts
}

/// One part of an alternative: an atom, its number of repetitions, and whether these are possessive.
struct Item<'p> {
    atom: &'p str,
    quantifier: &'p str,
    possessive: bool,
}

impl Item<'_> {
    fn len(&self) -> usize {
        self.atom.len() + self.quantifier.len() + usize::from(self.possessive)
    }
}

/// The alternative with greedy instead of possessive quantifiers, if that does not change any match.
///
/// It does not if a class is repeated and the rest could not begin with a character of that class: if the class gave
/// one
/// back, the rest would fail on it.
fn greedy(alternative: &str, flags: bool) -> Result<String, PatternError> {
    let items = items(alternative);
    let read: usize = items.iter().map(Item::len).sum();
    if read < alternative.len() {
        return Err(PatternError::Invalid(format!("cannot read {}", &alternative[read..])));
    }
    let mut out = String::with_capacity(alternative.len());
    for (at, item) in items.iter().enumerate() {
        if item.possessive && (flags || !keeps_what_it_has(item, &items[at + 1..])) {
            return Err(not_linear(&format!("the possessive {}{}+", item.atom, item.quantifier)));
        }
        if matches!(item.atom, "?" | "*" | "+") && !item.quantifier.is_empty() {
            return Err(PatternError::Invalid(format!("{} repeats a quantifier", item.quantifier)));
        }
        if item.atom.starts_with('(') && has_possessive(item.atom) {
            return Err(not_linear(&format!("a possessive quantifier inside of {}", item.atom)));
        }
        out += item.atom;
        out += item.quantifier;
    }
    Ok(out)
}

/// The flags, as written, that alternatives set for everything after them.
fn flags<'p>(alternatives: &[&'p str]) -> Vec<&'p str> {
    alternatives
        .iter()
        .flat_map(|alternative| items(alternative))
        .map(|item| item.atom)
        .filter(|a| is_flags(a))
        .collect()
}

fn refusal(error: regex_syntax::Error) -> PatternError {
    match &error {
        regex_syntax::Error::Parse(syntax)
            if matches!(syntax.kind(), ErrorKind::UnsupportedLookAround | ErrorKind::UnsupportedBackreference) =>
        {
            not_linear(&syntax.kind().to_string())
        }
        _ => PatternError::Invalid(error.to_string()),
    }
}

fn not_linear(what: &str) -> PatternError {
    PatternError::NotLinear(what.to_owned())
}

fn keeps_what_it_has(item: &Item<'_>, following: &[Item<'_>]) -> bool {
    let Some(own) = class_of(item.atom) else { return false };
    for next in following {
        if matches!(parsed(next.atom).map(Hir::into_kind), Some(HirKind::Look(Look::End))) {
            return true;
        }
        let Some(mut both) = class_of(next.atom) else { return false };
        both.intersect(&own);
        if !both.ranges().is_empty() {
            return false;
        }
        if matches!(next.quantifier.as_bytes(), [] | [b'+'] | [b'{', b'1'..=b'9', ..]) {
            return true;
        }
    }
    true
}

fn parsed(atom: &str) -> Option<Hir> {
    regex_syntax::parse(atom).ok()
}

/// The characters that a single-character atom matches; None for any other atom.
fn class_of(atom: &str) -> Option<ClassUnicode> {
    if atom.starts_with('(') {
        return None;
    }
    match parsed(atom)?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        HirKind::Literal(literal) => {
            let mut characters = str::from_utf8(&literal.0).ok()?.chars();
            let (only, None) = (characters.next()?, characters.next()) else { return None };
            Some(ClassUnicode::new([ClassUnicodeRange::new(only, only)]))
        }
        _ => None,
    }
}

fn items(alternative: &str) -> Vec<Item<'_>> {
    let mut rest = alternative;
    std::iter::from_fn(|| {
        let (atom, after) = rest.split_at_checked(atom_len(rest))?;
        let (quantifier, after) = after.split_at(quantifier_len(after.as_bytes()));
        // `x+?` is lazy, which the automaton supports.
        let possessive = !quantifier.is_empty() && after.starts_with('+');
        rest = if possessive { &after[1..] } else { after };
        (!atom.is_empty()).then_some(Item { atom, quantifier, possessive })
    })
    .collect()
}

fn has_possessive(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    syntax_bytes(pattern).any(|(at, _, _)| {
        let quantifier = quantifier_len(&bytes[at..]);
        quantifier > 0 && bytes.get(at + quantifier) == Some(&b'+')
    })
}

/// `(?i)` and similar flags, which apply to everything after them; not `(?i:a)` or the look-ahead `(?!a)`.
fn is_flags(atom: &str) -> bool {
    let flags = atom.strip_prefix("(?").and_then(|rest| rest.strip_suffix(')'));
    flags.is_some_and(|flags| flags.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'))
}

/// Length in bytes of the escape, class, group or character at the start of a pattern.
fn atom_len(pattern: &str) -> usize {
    let Some(first) = pattern.chars().next() else { return 0 };
    match first {
        '\\' => escape_len(pattern.as_bytes()).min(pattern.len()),
        '[' => class_len(pattern.as_bytes()),
        '(' => {
            // The group ends where the nesting depth is the same as before it.
            let (bytes, mut at, mut depth) = (pattern.as_bytes(), 0, 0_usize);
            while at < bytes.len() {
                match bytes[at] {
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                at += part_len(&bytes[at..]);
                if depth == 0 {
                    break;
                }
            }
            at.min(pattern.len())
        }
        _ => first.len_utf8(),
    }
}

/// Length in bytes of the escape or class at the start, else one.
fn part_len(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'\\') => escape_len(bytes),
        Some(b'[') => class_len(bytes),
        _ => 1,
    }
}

/// Length in bytes of the class at the start, including nested classes. A `]` that comes first is a character.
fn class_len(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += escape_len(&bytes[at..]) - 1,
            b'[' => {
                depth += 1;
                at += usize::from(bytes.get(at + 1) == Some(&b'^'));
                at += usize::from(bytes.get(at + 1) == Some(&b']'));
            }
            b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

/// Length in bytes of the escape at the start, including a braced argument: `\p{L}`, `\x{41}`.
fn escape_len(bytes: &[u8]) -> usize {
    match bytes.get(1) {
        Some(b'p' | b'P' | b'x' | b'u' | b'U') if bytes.get(2) == Some(&b'{') => {
            bytes.iter().position(|&b| b == b'}').map_or(bytes.len(), |close| close + 1)
        }
        Some(b'p' | b'P') => 3,
        Some(b'x') => 4,
        Some(b'u') => 6,
        Some(b'U') => 10,
        Some(0xf0..) => 5,
        Some(0xe0..) => 4,
        Some(0xc0..) => 3,
        _ => 2,
    }
}

/// Length in bytes of the quantifier at the start of a pattern, without a lazy or possessive suffix.
fn quantifier_len(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'?' | b'*' | b'+') => 1,
        Some(b'{') => bytes.iter().position(|&b| b == b'}').map_or(0, |close| close + 1),
        _ => 0,
    }
}

/// Position, byte and group depth of everything outside of escapes and classes.
fn syntax_bytes(pattern: &str) -> impl Iterator<Item = (usize, u8, usize)> {
    let bytes = pattern.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    std::iter::from_fn(move || {
        while let Some(&byte) = bytes.get(at) {
            let here = at;
            at += part_len(&bytes[here..]);
            match byte {
                b'\\' | b'[' => continue,
                b'(' => depth += 1,
                b')' => {
                    depth = depth.saturating_sub(1);
                    continue;
                }
                _ => {}
            }
            return Some((here, byte, depth));
        }
        None
    })
}
