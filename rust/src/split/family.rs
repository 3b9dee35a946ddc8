//! The split patterns of the GPT-2 family, recognized by their spelling.
//!
//! They all read: contractions, words, numbers, punctuation, whitespace. What differs are a few choices, and those are
//! what a [`Family`] holds. Spellings with and without possessive quantifiers are equal here, because what follows each
//! of these quantifiers either cannot match what a shorter repetition would give back, or cannot fail.

/// The choices of one pattern of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub contractions: Contractions,
    /// A word takes any one character before it but letters, numbers and line ends; otherwise a space only.
    pub any_prefix: bool,
    /// At most this many digits a piece; 0 means any number of them, with a space before.
    pub digits: usize,
    /// Punctuation takes the line ends that follow it.
    pub punctuation_takes_line_ends: bool,
    /// Whitespace is cut after its last line end.
    pub cut_after_line_end: bool,
    /// Whitespace at the end of the text is one piece, whatever it holds.
    pub end_is_one_piece: bool,
}

/// Which of 's 't 'd 'm 'll 've 're are pieces of their own. In any case, the long s counts as an s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contractions {
    Lower,
    AnyCase,
}

const CONTRACTIONS: [(&str, Contractions); 5] = [
    (r"'(?i:[sdmt]|ll|ve|re)|", Contractions::AnyCase),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|", Contractions::AnyCase),
    (r"'s|'t|'re|'ve|'m|'ll|'d|", Contractions::Lower),
    (r"'(?:[sdmt]|ll|ve|re)|", Contractions::Lower),
    (r"(?:'s|'t|'re|'ve|'m|'ll|'d)|", Contractions::Lower),
];

const WORDS: [(&str, bool); 6] = [
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+|", true),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}++|", true),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|", true),
    (r" ?\p{L}+|", false),
    (r" ?\p{L}++|", false),
    (r" ?+\p{L}++|", false),
];

const NUMBERS: [(&str, usize); 9] = [
    (r"\p{N}{1,2}|", 2),
    (r"\p{N}{1,3}|", 3),
    (r"\p{N}{1,2}+|", 2),
    (r"\p{N}{1,3}+|", 3),
    (r"\p{N}{1}|", 1),
    (r"\p{N}|", 1),
    (r" ?\p{N}+|", 0),
    (r" ?\p{N}++|", 0),
    (r" ?+\p{N}++|", 0),
];

const PUNCTUATION: [(&str, bool); 5] = [
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*+|", true),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*|", true),
    (r" ?[^\s\p{L}\p{N}]+[\r\n]*|", true),
    (r" ?[^\s\p{L}\p{N}]++|", false),
    (r" ?[^\s\p{L}\p{N}]+|", false),
];

/// Whether the end of the text comes first, and whether whitespace is cut after its last line end. `\s*[\r\n]+` cuts
/// where `\s*[\r\n]` does, and a last `\s` finds only single characters left, as `\s+` would.
const WHITESPACE: [(&str, (bool, bool)); 7] = [
    (r"\s*[\r\n]|\s+(?!\S)|\s+", (false, true)),
    (r"\s*[\r\n]+|\s+(?!\S)|\s+", (false, true)),
    (r"\s++$|\s*[\r\n]|\s+(?!\S)|\s", (true, true)),
    (r"\s+$|\s*[\r\n]|\s+(?!\S)|\s", (true, true)),
    (r"\s+(?!\S)|\s+", (false, false)),
    (r"\s++$|\s+(?!\S)|\s", (true, false)),
    (r"\s+(?!\S)|\s", (false, false)),
];

impl Family {
    /// The shape of patterns since GPT-4's: what a prefix is and where line ends go.
    #[inline(always)]
    pub fn is_modern(&self) -> bool {
        self.any_prefix && self.punctuation_takes_line_ends && self.cut_after_line_end
    }

    /// The choices that `pattern` spells, or None when it is not of the family.
    pub fn recognize(pattern: &str) -> Option<Self> {
        let (contractions, rest) = take(pattern, &CONTRACTIONS)?;
        let (any_prefix, rest) = take(rest, &WORDS)?;
        let (digits, rest) = take(rest, &NUMBERS)?;
        let (punctuation_takes_line_ends, rest) = take(rest, &PUNCTUATION)?;
        let &(_, (end_is_one_piece, cut_after_line_end)) = WHITESPACE.iter().find(|&&(tail, _)| tail == rest)?;
        Some(Self {
            contractions,
            any_prefix,
            digits,
            punctuation_takes_line_ends,
            cut_after_line_end,
            end_is_one_piece,
        })
    }
}

fn take<'p, T: Copy>(pattern: &'p str, spellings: &[(&str, T)]) -> Option<(T, &'p str)> {
    spellings.iter().find_map(|&(spelling, choice)| Some((choice, pattern.strip_prefix(spelling)?)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Every pattern that is recognized, all combinations of spellings.
    pub fn spellings() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut append = |parts: Vec<&str>| {
            all = all.iter().flat_map(|head| parts.iter().map(move |part| format!("{head}{part}"))).collect();
        };
        append(CONTRACTIONS.iter().map(|c| c.0).collect());
        append(WORDS.iter().map(|c| c.0).collect());
        append(NUMBERS.iter().map(|c| c.0).collect());
        append(PUNCTUATION.iter().map(|c| c.0).collect());
        append(WHITESPACE.iter().map(|c| c.0).collect());
        all
    }

    #[test]
    fn known_patterns_are_recognized_and_others_are_not() {
        let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let found = Family::recognize(gpt2).unwrap();
        assert_eq!((found.contractions, found.any_prefix, found.digits), (Contractions::Lower, false, 0));
        let cl100k = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
        let found = Family::recognize(cl100k).unwrap();
        assert!(found.any_prefix && found.end_is_one_piece && found.cut_after_line_end && found.digits == 3);
        assert_eq!(Family::recognize(&format!("{gpt2}|x")), None);
        assert_eq!(Family::recognize(r"\w+|\s+"), None);
    }
}
