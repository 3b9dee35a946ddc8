//! Cuts text into the pieces that BPE works on; no token ever spans two of them.
//!
//! Patterns of the GPT-2 family are scanned by hand ([`scan`]). Any other pattern runs on an automaton, in time linear in
//! each match ([`linear`]); what would need a backtracking engine is refused.

#[cfg(target_arch = "x86_64")]
mod blocks;
mod classes;
mod family;
mod linear;
#[cfg(target_arch = "x86_64")]
mod masks;
mod scan;

use std::fmt;

use regex_automata::Input;

use family::Family;
use linear::Linear;

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
    Linear(Linear),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let engine = match Family::recognise(pattern) {
            Some(family) => Engine::Scan(family),
            None => Engine::Linear(Linear::new(pattern)?),
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
    pub fn split(&self, text: &[u8], sink: &mut impl Sink) {
        match (str::from_utf8(text), &self.engine) {
            (Ok(valid), Engine::Scan(family)) => scan::scan(family, valid.as_bytes(), sink),
            (Ok(valid), _) => self.split_str(valid, &mut |start, end| sink.piece(start, end)),
            (Err(_), _) => self.split_broken(text, &mut |start, end| sink.piece(start, end)),
        }
    }

    #[inline(never)]
    fn split_broken(&self, text: &[u8], emit: &mut dyn FnMut(usize, usize)) {
        let mut at = 0;
        let mut broken_from = None;
        for chunk in text.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if let Some(from) = broken_from.take() {
                    emit(from, at);
                }
                self.split_str(chunk.valid(), &mut |start, end| emit(at + start, at + end));
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
    }

    #[inline(never)]
    fn split_str(&self, text: &str, emit: &mut dyn FnMut(usize, usize)) {
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
                return;
            }
            Engine::Linear(Linear { automaton, gives_back }) => {
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
        }
        emit_up_to(text.len(), text.len());
    }
}

#[cfg(test)]
mod tests;
