//! Splits text into the pieces that BPE works on; no token ever spans two of them.
//!
//! Patterns of the GPT-2 family use a hand-written scanner ([`scan`]). Any other pattern runs on an automaton, in time
//! linear in each match ([`linear`]); a pattern that needs a backtracking engine is rejected.

#[cfg(target_arch = "x86_64")]
mod blocks;
mod classes;
mod family;
mod linear;
#[cfg(target_arch = "x86_64")]
mod masks;
mod scan;
mod sink;

use regex_automata::Input;

pub use linear::PatternError;
pub use sink::Sink;

use family::Family;
use linear::Linear;

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
        let engine = match Family::recognize(pattern) {
            Some(family) => Engine::Scan(family),
            None => Engine::Linear(Linear::new(pattern)?),
        };
        Ok(Self { pattern: pattern.to_owned(), engine })
    }

    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The last position in `text` where a cut changes no piece, regardless of the text around it: before a visible
    /// ASCII
    /// character that begins a line. None if the pattern or the text has no such position.
    pub fn last_cut(&self, text: &[u8]) -> Option<usize> {
        let Engine::Scan(family) = &self.engine else { return None };
        memchr::memrchr_iter(b'\n', text).map(|line_end| line_end + 1).find(|&at| {
            // A pattern without a rule for line ends would make one piece of whitespace at the end of the text.
            let before = family.cut_after_line_end || at >= 2 && text[at - 2].is_ascii_graphic();
            before && text.get(at).is_some_and(u8::is_ascii_graphic)
        })
    }

    /// Passes each piece to `sink`, in order. They cover all of `text`: text between matches is a separate piece. Bytes
    /// that
    /// are not UTF-8 match no pattern: each run of them is a piece, and ends the previous one.
    #[inline]
    pub fn split(&self, text: &[u8], sink: &mut impl Sink) {
        match (str::from_utf8(text), &self.engine) {
            (Ok(valid), Engine::Scan(family)) => scan(family, valid.as_bytes(), sink),
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
                scan(family, text.as_bytes(), &mut |start, end| emit(start, end));
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
                    // An empty match is not a piece; the search continues after the next character.
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

/// Passes every piece of `text`, which must be valid UTF-8, to `sink`: in blocks if the machine can, else one by one.
#[inline]
fn scan(family: &Family, text: &[u8], sink: &mut impl Sink) {
    #[cfg(target_arch = "x86_64")]
    if family.is_modern() && family.digits > 0 && blocks::scan(family, text, sink) {
        return;
    }
    scan::one_by_one(family, text, sink);
}

#[cfg(test)]
mod tests;
