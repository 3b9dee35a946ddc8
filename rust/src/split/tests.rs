use std::sync::LazyLock;

use super::*;

use proptest::prelude::*;

const NANOCHAT: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
    let mut out = Vec::new();
    splitter.split(text.as_bytes(), &mut |start, end| out.push(&text[start..end])).unwrap();
    out
}

fn backtracking(pattern: &str) -> Splitter {
    let regex = fancy_regex::Regex::new(pattern).unwrap();
    Splitter { pattern: pattern.to_owned(), engine: Engine::Backtracking(regex) }
}

/// What the patterns look at, and any character at all.
fn text() -> impl Strategy<Value = String> {
    let telling = prop::sample::select(vec![
        "a", "Z", "the", "é", "漢", "🙂", "\u{301}", "0", "7", "12345", "½", " ", " ", "  ", "\t", "\n", "\r\n",
        "\u{a0}", "\u{3000}", "\u{85}", "'", "'s", "'LL", "'ve", "'R", "'l", "'ſ", "'ſa", ".", "^", "/", "\0", "-x",
    ]);
    let any = any::<char>().prop_map(String::from);
    let part = prop_oneof![4 => telling.prop_map(String::from), 1 => any];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

static AUTOMATA: LazyLock<Vec<(Splitter, Splitter)>> = LazyLock::new(|| {
    let patterns = [O200K, r"\w+|\s+(?!\S)|\s+", r"\s+(?!\S)|[a-z]+", r"[|(\]]+|(?:a|b)+|\s+(?!\S)|\s|.", r"x*"];
    let both = patterns.map(|pattern| (Splitter::new(pattern).unwrap(), backtracking(pattern)));
    assert!(both.iter().all(|(automaton, _)| matches!(automaton.engine, Engine::Linear { .. })));
    both.into()
});

#[test]
fn splits_words_numbers_contractions_and_whitespace() {
    let splitter = Splitter::new(NANOCHAT).unwrap();
    assert!(matches!(splitter.engine, Engine::Scan(_)));
    assert_eq!(
        pieces(&splitter, "It'S 12345  apples!\n\n  end  "),
        ["It", "'S", " ", "12", "34", "5", " ", " apples", "!\n\n", " ", " end", "  "]
    );
    assert_eq!(pieces(&splitter, "it'ſ"), ["it", "'ſ"]);
    assert!(pieces(&splitter, "").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_scanner_cuts_as_a_backtracking_engine_does(text in text(), pick in any::<prop::sample::Index>()) {
        let spellings = family::tests::spellings();
        let pattern = pick.get(&spellings);
        let scanner = Splitter::new(pattern).unwrap();
        prop_assert!(matches!(scanner.engine, Engine::Scan(_)));
        prop_assert_eq!(pieces(&scanner, &text), pieces(&backtracking(pattern), &text), "{}", pattern);
    }

    #[test]
    fn the_automaton_cuts_as_a_backtracking_engine_does(text in text()) {
        for (automaton, reference) in AUTOMATA.iter() {
            prop_assert_eq!(pieces(automaton, &text), pieces(reference, &text), "{}", automaton.pattern());
        }
    }

    #[test]
    fn bytes_are_covered_and_broken_ones_stand_alone(bytes in prop::collection::vec(any::<u8>(), 0..60), text in text()) {
        let bytes = [text.as_bytes(), &bytes, text.as_bytes()].concat();
        for pattern in [NANOCHAT, r"[a-z]+"] {
            let mut end = 0;
            Splitter::new(pattern).unwrap().split(&bytes, &mut |from, to| {
                assert!(from == end && to > from);
                let valid = str::from_utf8(&bytes[from..to]).is_ok();
                assert!(valid || bytes[from..to].utf8_chunks().all(|chunk| chunk.valid().is_empty()));
                end = to;
            }).unwrap();
            prop_assert_eq!(end, bytes.len());
        }
    }

    #[test]
    fn a_cut_leaves_the_pieces_as_they_are(text in text(), pick in any::<prop::sample::Index>()) {
        let spellings = family::tests::spellings();
        let pattern: &String = pick.get(&spellings);
        let splitter = Splitter::new(pattern).unwrap();
        let text = text.replace(".", ".\n");
        if let Some(cut) = splitter.last_cut(text.as_bytes()) {
            let apart = [pieces(&splitter, &text[..cut]), pieces(&splitter, &text[cut..])].concat();
            prop_assert_eq!(pieces(&splitter, &text), apart);
        }
    }
}

#[test]
fn lines_are_where_text_is_cut() {
    let cut = |pattern: &str, text: &str| Splitter::new(pattern).unwrap().last_cut(text.as_bytes());
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    assert_eq!((cut(NANOCHAT, "a\nb\n c\n"), cut(gpt2, "a\nb\n c\n")), (Some(2), Some(2)));
    assert_eq!((cut(NANOCHAT, "a\r\nb"), cut(gpt2, "a\r\nb")), (Some(3), None));
    assert_eq!((cut(NANOCHAT, "a\né"), cut(O200K, "a\nb")), (None, None));
}

#[test]
fn a_million_spaces_are_two_pieces_before_a_word() {
    for pattern in [NANOCHAT, O200K, r"\w+|\s+(?!\S)|\s+"] {
        let text = " ".repeat(1_000_000) + "x";
        let lengths: Vec<usize> = pieces(&Splitter::new(pattern).unwrap(), &text).iter().map(|p| p.len()).collect();
        let expected: &[usize] = if pattern.starts_with(r"\w") { &[999_999, 1, 1] } else { &[999_999, 2] };
        assert_eq!(lengths, expected, "{pattern}");
    }
}

#[test]
fn text_that_no_match_covers_is_kept() {
    let splitter = Splitter::new("[a-z]+").unwrap();
    assert_eq!(pieces(&splitter, "12ab, c."), ["12", "ab", ", ", "c", "."]);
    assert_eq!(pieces(&Splitter::new("x*").unwrap(), "éxxa").concat(), "éxxa");
}

#[test]
fn unusable_patterns_are_errors() {
    assert!(matches!(Splitter::new("(["), Err(PatternError::Invalid(_))));
    let greedy = Splitter::new(r"\w++|\s+(?!\S)|\s+").unwrap();
    let result = greedy.split(" ".repeat(2_000_000).as_bytes(), &mut |_, _| ());
    assert!(matches!(result, Err(PatternError::GaveUp(_))));
}
