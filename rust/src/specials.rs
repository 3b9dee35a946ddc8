//! Special tokens inside text, recognized only if a caller asks for it.

use std::convert::Infallible;
use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};

/// The names of special tokens. Among names that begin at the same position, the longest matches.
#[derive(Clone, Default)]
pub struct Specials {
    names: Vec<String>,
    search: Option<AhoCorasick>,
}

/// Names that cannot be special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpecials(String);

impl fmt::Display for BadSpecials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSpecials {}

impl Specials {
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, BadSpecials> {
        let names: Vec<String> = names.into_iter().collect();
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(BadSpecials("a special token is empty".to_owned()));
            }
            if names[..index].contains(name) {
                return Err(BadSpecials(format!("special token {name:?} appears twice")));
            }
        }
        if names.is_empty() {
            return Ok(Self::default());
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names);
        let search = search.map_err(|e| BadSpecials(format!("the special tokens are too large: {e}")))?;
        Ok(Self { names, search: Some(search) })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether none of them can span a line end.
    pub fn may_cut_at_lines(&self) -> bool {
        self.names.iter().all(|name| !name.contains('\n'))
    }

    /// Calls `part` with the text between the special tokens, without empty parts.
    pub fn between(&self, text: &[u8], mut part: impl FnMut(&[u8])) {
        let Ok(()) = self.cut(text, |found| {
            if let Part::Text(text) = found {
                part(text);
            }
            Ok::<_, Infallible>(())
        });
    }

    /// Calls `visit` with the parts of the text and the special tokens in it (by index among the names), in order.
    #[inline]
    pub fn cut<E>(&self, text: &[u8], mut visit: impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut end = 0;
        if let Some(search) = &self.search {
            for found in search.find_iter(text) {
                if end < found.start() {
                    visit(Part::Text(&text[end..found.start()]))?;
                }
                visit(Part::Special(found.pattern().as_usize()))?;
                end = found.end();
            }
        }
        if end < text.len() { visit(Part::Text(&text[end..])) } else { Ok(()) }
    }
}

/// A part of a text with special tokens.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'t> {
    Text(&'t [u8]),
    Special(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(names: &[&str]) -> Result<Specials, BadSpecials> {
        Specials::new(names.iter().map(|&name| name.to_owned()))
    }

    #[test]
    fn the_longest_name_counts_and_parts_keep_their_order() {
        let specials = specials(&["<a>", "<a><b>", "x"]).unwrap();
        let mut seen = String::new();
        let visit = |part: Part<'_>| {
            seen += &match part {
                Part::Text(text) => format!("[{}]", str::from_utf8(text).unwrap()),
                Part::Special(index) => format!("({index})"),
            };
            Ok::<_, Infallible>(())
        };
        specials.cut(b"x1<a><b>2<a>3", visit).unwrap();
        assert_eq!(seen, "(2)[1](1)[2](0)[3]");
    }

    #[test]
    fn names_must_differ_and_say_something() {
        assert!(specials(&["a", "a"]).err().unwrap().to_string().contains("appears twice"));
        assert!(specials(&[""]).err().unwrap().to_string().contains("empty"));
    }
}
