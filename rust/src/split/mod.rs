//! Cuts text into the pieces that BPE works on; no token ever spans two of them.
//!
//! Patterns of the GPT-2 family are scanned by hand ([`scan`]). Any other pattern runs on an automaton in time linear
//! in each match; its one look-ahead, `\s+(?!\S)` among the alternatives, is replaced by an equal rule. Only what has no
//! such form (other look-around, possessive quantifiers, back references) runs on a backtracking engine, which counts
//! its steps and reports the text it cannot handle.

mod classes;
mod family;
mod scan;

use std::fmt;

use regex_automata::Input;
use regex_automata::meta;

use family::Family;

/// Whitespace leaves its last character to what follows it.
const LOOKAHEAD: &str = r"\s+(?!\S)";

/// A pattern that does not compile, or that gave up on a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    Invalid(String),
    GaveUp(String),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "the split pattern is not a valid regular expression: {why}"),
            Self::GaveUp(why) => write!(f, "the split pattern backtracks too much on this text: {why}"),
        }
    }
}

impl std::error::Error for PatternError {}

/// What takes the pieces of a text, in order: a closure, or where its speed counts a type of its own, whose function can
/// be made part of the scanner.
pub trait Sink {
    fn piece(&mut self, start: usize, end: usize);
}

impl<F: FnMut(usize, usize)> Sink for F {
    #[inline(always)]
    fn piece(&mut self, start: usize, end: usize) {
        self(start, end);
    }
}

/// A compiled split pattern. Clones are cheap and share no scratch memory: give each thread its own.
#[derive(Clone)]
pub struct Splitter {
    pattern: String,
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Scan(Family),
    Linear { automaton: meta::Regex, gives_back: Option<usize> },
    Backtracking(fancy_regex::Regex),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let engine = match Family::recognise(pattern) {
            Some(family) => Engine::Scan(family),
            None => match linear(pattern) {
                Some(engine) => engine,
                None => Engine::Backtracking(
                    fancy_regex::Regex::new(pattern).map_err(|e| PatternError::Invalid(e.to_string()))?,
                ),
            },
        };
        Ok(Self { pattern: pattern.to_owned(), engine })
    }

    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// A place, as late in `text` as there is one, where cutting leaves every piece as it is, whatever came before and
    /// whatever will follow: before a visible ASCII character that begins a line. None where the pattern or the text
    /// has no such place.
    pub fn last_cut(&self, text: &[u8]) -> Option<usize> {
        let Engine::Scan(family) = &self.engine else { return None };
        memchr::memrchr_iter(b'\n', text).map(|line_end| line_end + 1).find(|&at| {
            // A pattern without a rule for line ends would make one piece of whitespace at the end of the text.
            let before = family.cut_after_line_end || at >= 2 && text[at - 2].is_ascii_graphic();
            before && text.get(at).is_some_and(u8::is_ascii_graphic)
        })
    }

    /// Gives each piece to `sink`, in order. They cover all of `text`: what no match covers is a piece of
    /// its own. Bytes that are not UTF-8 are text of no pattern: each run of them is a piece, and ends what is before.
    #[inline]
    pub fn split(&self, text: &[u8], sink: &mut impl Sink) -> Result<(), PatternError> {
        match (str::from_utf8(text), &self.engine) {
            (Ok(valid), Engine::Scan(family)) => {
                scan::scan(family, valid.as_bytes(), sink);
                Ok(())
            }
            (Ok(valid), _) => self.split_str(valid, &mut |start, end| sink.piece(start, end)),
            (Err(_), _) => self.split_broken(text, &mut |start, end| sink.piece(start, end)),
        }
    }

    #[inline(never)]
    fn split_broken(&self, text: &[u8], emit: &mut dyn FnMut(usize, usize)) -> Result<(), PatternError> {
        let mut at = 0;
        let mut broken_from = None;
        for chunk in text.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if let Some(from) = broken_from.take() {
                    emit(from, at);
                }
                self.split_str(chunk.valid(), &mut |start, end| emit(at + start, at + end))?;
                at += chunk.valid().len();
            }
            if !chunk.invalid().is_empty() {
                broken_from.get_or_insert(at);
                at += chunk.invalid().len();
            }
        }
        if let Some(from) = broken_from {
            emit(from, at);
        }
        Ok(())
    }

    #[inline(never)]
    fn split_str(&self, text: &str, emit: &mut dyn FnMut(usize, usize)) -> Result<(), PatternError> {
        let mut end = 0;
        let mut emit_up_to = |from: usize, to: usize| {
            if end < from {
                emit(end, from);
            }
            if from < to {
                emit(from, to);
            }
            end = to;
        };
        match &self.engine {
            Engine::Scan(family) => {
                scan::scan(family, text.as_bytes(), &mut |start, end| emit(start, end));
                return Ok(());
            }
            Engine::Linear { automaton, gives_back } => {
                let mut at = 0;
                while let Some(found) = automaton.search(&Input::new(text).range(at..)) {
                    let mut to = found.end();
                    if Some(found.pattern().as_usize()) == *gives_back {
                        to -= text[found.range()].chars().next_back().map_or(0, char::len_utf8);
                    }
                    emit_up_to(found.start(), to);
                    // An empty match is no piece; the search goes on behind the next character.
                    at = to;
                    if found.start() == to {
                        at += text[to..].chars().next().map_or(1, char::len_utf8);
                    }
                    if at > text.len() {
                        break;
                    }
                }
            }
            Engine::Backtracking(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|e| PatternError::GaveUp(e.to_string()))?;
                    emit_up_to(found.start(), found.end());
                }
            }
        }
        emit_up_to(text.len(), text.len());
        Ok(())
    }
}

/// `head|\s+(?!\S)|tail` as three patterns of which the first that matches wins: `head` or whitespace up to the end of
/// the text, `\s+\s`, whose last character is given back as the look-ahead would, and `tail`. None for a pattern that
/// has another form of look-around, or a quantifier that must not be read as two.
fn linear(pattern: &str) -> Option<Engine> {
    if has_possessive(pattern) {
        return None;
    }
    let alternatives = top_level_alternatives(pattern);
    let Some(at) = alternatives.iter().position(|&a| a == LOOKAHEAD) else {
        let automaton = meta::Regex::new(pattern).ok()?;
        return Some(Engine::Linear { automaton, gives_back: None });
    };
    let head = [&alternatives[..at], &[r"\s+\z"]].concat().join("|");
    let mut patterns = vec![head, r"\s+\s".to_owned()];
    if at + 1 < alternatives.len() {
        patterns.push(alternatives[at + 1..].join("|"));
    }
    Some(Engine::Linear { automaton: meta::Regex::new_many(&patterns).ok()?, gives_back: Some(1) })
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

/// `x?+`, `x*+`, `x++` and `x{n}+` are possessive for a backtracking engine; the automaton would read two quantifiers.
fn has_possessive(pattern: &str) -> bool {
    let mut last = None;
    for (at, byte, _) in syntax_bytes(pattern) {
        if byte == b'+' && last.is_some_and(|(before, b)| before + 1 == at && matches!(b, b'?' | b'*' | b'+' | b'}')) {
            return true;
        }
        last = Some((at, byte));
    }
    false
}

/// Place, byte and depth of groups of everything outside of escapes and classes.
fn syntax_bytes(pattern: &str) -> impl Iterator<Item = (usize, u8, usize)> {
    let bytes = pattern.as_bytes();
    let (mut at, mut depth, mut in_class) = (0, 0_usize, 0_usize);
    std::iter::from_fn(move || {
        while let Some(&byte) = bytes.get(at) {
            let here = at;
            at += 1;
            match byte {
                // An escape with a braced argument is one thing: `\p{L}`, `\x{41}`.
                b'\\' => {
                    let braced =
                        matches!(bytes.get(at), Some(b'p' | b'P' | b'x' | b'u')) && bytes.get(at + 1) == Some(&b'{');
                    at = match bytes[here..].iter().position(|&b| b == b'}') {
                        Some(close) if braced => here + close + 1,
                        _ => at + 1,
                    };
                }
                b'[' => in_class += 1,
                b']' if in_class > 0 => in_class -= 1,
                _ if in_class > 0 => {}
                b'(' => {
                    depth += 1;
                    return Some((here, byte, depth));
                }
                b')' => depth = depth.saturating_sub(1),
                _ => return Some((here, byte, depth)),
            }
        }
        None
    })
}

#[cfg(test)]
mod tests;
