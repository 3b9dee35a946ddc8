//! The split patterns of the GPT-2 family, recognized by their spelling.
//!
//! All of them match contractions, words, numbers, punctuation and whitespace. They differ in a few choices, which a
//! [`Family`] holds. Spellings with and without possessive quantifiers are equivalent here: what follows such a
//! quantifier
//! either cannot match the characters that a shorter repetition would give back, or cannot fail.

/// The choices of one pattern of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub contractions: Contractions,
    /// A word includes any one character before it except letters, numbers and line ends; otherwise only a space.
    pub any_prefix: bool,
    /// At most this many digits per piece; 0 means any number of them, including a preceding space.
    pub digits: usize,
    /// Punctuation includes the line ends that follow it.
    pub punctuation_takes_line_ends: bool,
    /// Whitespace is split after its last line end.
    pub cut_after_line_end: bool,
    /// Whitespace at the end of the text is one piece, regardless of its content.
    pub end_is_one_piece: bool,
}

/// Which of 's 't 'd 'm 'll 've 're are separate pieces. If case is ignored, the long s counts as an s.
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

/// Whether the end of the text comes first, and whether whitespace is split after its last line end. `\s*[\r\n]+`
/// splits
/// at the same positions as `\s*[\r\n]`, and a final `\s` only finds single characters left, as `\s+` would.
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
    /// The shape of patterns since GPT-4: which prefix a word has, and where line ends go.
    #[inline(always)]
    pub fn is_modern(&self) -> bool {
        self.any_prefix && self.punctuation_takes_line_ends && self.cut_after_line_end
    }

    /// The choices that `pattern` expresses, or None if it is not of the family.
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

    /// All recognized patterns, in all combinations of spellings.
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
