//! Cuts text into the pieces that BPE works on.
//!
//! The patterns of the GPT-2 family end in `\s+(?!\S)|\s+`, whose look-ahead makes a backtracking engine keep one state
//! per whitespace character: a million spaces exhaust it. For the known heads of that family the same pieces come from
//! an automaton in linear time. Any other pattern runs on `fancy_regex`, which reports the text it cannot handle.

use std::fmt;

use regex_automata::Input;
use regex_automata::meta;

/// What the family's patterns end with: whitespace leaves its last character to the word that follows it.
const LOOKAHEAD_TAIL: &str = r"|\s+(?!\S)|\s+";

/// Heads before that tail, with an equal spelling free of possessive quantifiers. They are equal because what follows
/// each of these quantifiers either cannot match what a shorter repetition would give back, or cannot fail.
const FAMILY: [(&str, &str); 3] = [
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
    ),
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
    ),
];

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

/// A compiled split pattern. Clones are cheap and share no scratch memory: give each thread its own.
#[derive(Clone)]
pub struct Splitter(Engine);

#[derive(Clone)]
enum Engine {
    Linear(meta::Regex),
    Backtracking(fancy_regex::Regex),
}

/// Order of the automaton's patterns; at one place in the text the first that matches wins.
const WHITESPACE_BEFORE_WORD: usize = 1;

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let head = pattern.strip_suffix(LOOKAHEAD_TAIL);
        let engine = match FAMILY.iter().find(|(original, _)| head == Some(original)) {
            Some((_, plain)) => Engine::Linear(linear(plain)?),
            None => Engine::Backtracking(
                fancy_regex::Regex::new(pattern).map_err(|e| PatternError::Invalid(e.to_string()))?,
            ),
        };
        Ok(Self(engine))
    }

    /// Calls `emit` with each piece in order. The pieces joined are `text`: what no match covers is a piece of its own.
    pub fn split<'t>(&self, text: &'t str, mut emit: impl FnMut(&'t str)) -> Result<(), PatternError> {
        let mut end = 0;
        let mut emit_up_to = |from: usize, to: usize| {
            if end < from {
                emit(&text[end..from]);
            }
            if from < to {
                emit(&text[from..to]);
            }
            end = to;
        };
        match &self.0 {
            Engine::Linear(automaton) => {
                let mut at = 0;
                while let Some(found) = automaton.search(&Input::new(text).range(at..)) {
                    at = found.end();
                    if found.pattern().as_usize() == WHITESPACE_BEFORE_WORD {
                        at -= text[found.range()].chars().next_back().map_or(0, char::len_utf8);
                    }
                    emit_up_to(found.start(), at);
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

/// `head|\s+(?!\S)|\s+` without the look-ahead. `\s+\s` matches whitespace of two characters and more, which at the end
/// of the text the first pattern has taken already; its last character is given back, as the look-ahead would.
fn linear(head: &str) -> Result<meta::Regex, PatternError> {
    meta::Regex::new_many(&[&format!(r"{head}|\s+\z"), r"\s+\s", r"\s+"])
        .map_err(|e| PatternError::Invalid(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        splitter.split(text, |piece| out.push(piece.to_owned())).unwrap();
        out
    }

    fn family_patterns() -> impl Iterator<Item = String> {
        FAMILY.iter().map(|(head, _)| format!("{head}{LOOKAHEAD_TAIL}"))
    }

    /// A small multiplicative generator: the tests need variety, not quality.
    fn random_text(seed: u64, length: usize) -> String {
        const ALPHABET: [char; 24] = [
            'a', 'Z', 's', 'l', 'ſ', 'é', '漢', '🙂', '\u{301}', '0', '7', '½', ' ', ' ', ' ', '\t', '\n', '\r',
            '\u{a0}', '\u{3000}', '\'', '.', '^', '\0',
        ];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                ALPHABET[(state >> 33) as usize % ALPHABET.len()]
            })
            .collect()
    }

    #[test]
    fn splits_words_numbers_contractions_and_whitespace() {
        let splitter = Splitter::new(&family_patterns().next().unwrap()).unwrap();
        assert_eq!(
            pieces(&splitter, "It'S 12345  apples!\n\n  end  "),
            ["It", "'S", " ", "12", "34", "5", " ", " apples", "!\n\n", " ", " end", "  "]
        );
        assert_eq!(pieces(&splitter, "it'ſ"), ["it", "'ſ"]);
        assert!(pieces(&splitter, "").is_empty());
    }

    #[test]
    fn the_automaton_cuts_as_the_look_ahead_does() {
        for pattern in family_patterns() {
            let linear = Splitter::new(&pattern).unwrap();
            assert!(matches!(linear.0, Engine::Linear(_)));
            let reference = Splitter(Engine::Backtracking(fancy_regex::Regex::new(&pattern).unwrap()));
            for seed in 0..2_000 {
                let text = random_text(seed, 1 + seed as usize % 60);
                assert_eq!(pieces(&linear, &text), pieces(&reference, &text), "{pattern} on {text:?}");
            }
        }
    }

    #[test]
    fn a_million_spaces_are_two_pieces_before_a_word() {
        for pattern in family_patterns() {
            let splitter = Splitter::new(&pattern).unwrap();
            let text = " ".repeat(1_000_000) + "x";
            let found = pieces(&splitter, &text);
            assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [999_999, 2]);
        }
    }

    #[test]
    fn text_that_no_match_covers_is_kept() {
        let splitter = Splitter::new("[a-z]+").unwrap();
        assert_eq!(pieces(&splitter, "12ab, c."), ["12", "ab", ", ", "c", "."]);
        let empty_matches = Splitter::new("x*").unwrap();
        assert_eq!(pieces(&empty_matches, "éxxa").concat(), "éxxa");
    }

    #[test]
    fn unusable_patterns_are_errors() {
        assert!(matches!(Splitter::new("(["), Err(PatternError::Invalid(_))));
        let greedy = Splitter::new(r"\w+|\s+(?!\S)|\s+").unwrap();
        let result = greedy.split(&" ".repeat(2_000_000), |_| ());
        assert!(matches!(result, Err(PatternError::GaveUp(_))));
    }
}
