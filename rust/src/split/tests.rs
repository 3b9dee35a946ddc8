use std::sync::LazyLock;

use super::*;

use proptest::prelude::*;

const NANOCHAT: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
    let mut out = Vec::new();
    splitter.split(text.as_bytes(), &mut |start, end| out.push(&text[start..end]));
    out
}

/// The pieces as a backtracking engine finds them; text that no match covers is a piece too.
fn by_backtracking<'t>(regex: &fancy_regex::Regex, text: &'t str) -> Vec<&'t str> {
    let (mut out, mut end) = (Vec::new(), 0);
    for found in regex.find_iter(text).map(Result::unwrap) {
        out.extend([&text[end..found.start()], found.as_str()].into_iter().filter(|piece| !piece.is_empty()));
        end = found.end();
    }
    out.extend(Some(&text[end..]).filter(|rest| !rest.is_empty()));
    out
}

/// Characters that the patterns distinguish, and any other character.
fn text() -> impl Strategy<Value = String> {
    let telling = prop::sample::select(vec![
        "a", "Z", "the", "é", "漢", "🙂", "\u{301}", "0", "7", "12345", "½", " ", " ", "  ", "\t", "\n", "\r\n",
        "\u{a0}", "\u{3000}", "\u{85}", "'", "'s", "'LL", "'ve", "'R", "'l", "'ſ", "'ſa", ".", "^", "/", "\0", "-x",
    ]);
    let any = any::<char>().prop_map(String::from);
    let part = prop_oneof![4 => telling.prop_map(String::from), 1 => any];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

static AUTOMATA: LazyLock<Vec<(Splitter, fancy_regex::Regex)>> = LazyLock::new(|| {
    let patterns = [
        O200K,
        r"\w+|\s+(?!\S)|\s+",
        r"\s+(?!\S)|[a-z]+",
        r"[|(\]]+|(?:a|b)+|\s+(?!\S)|\s|.",
        r"x*",
        // Possessive where it makes no difference.
        r"[^\r\n\p{L}\p{N}]?+\p{L}++'?+|\p{N}{1,3}+[\p{P}^]*+ |\s++$|\s+(?!\S)|\s",
        r" ?+[a-z\]]++[A-Z]*|\pN++\x2e?+|.",
        // A class may begin with its closing bracket; flags also hold after the look-ahead.
        r"(?:é|[a-c])+|[]|a]++b|[^]|(\s]+|\s+(?!\S)|\s|.",
        r"(?i)[a-c]+|\s+(?!\S)|[d-z]+|\s",
    ];
    let both = patterns.map(|pattern| (Splitter::new(pattern).unwrap(), fancy_regex::Regex::new(pattern).unwrap()));
    assert!(both.iter().all(|(automaton, _)| matches!(automaton.engine, Engine::Linear(_))));
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
        let reference = fancy_regex::Regex::new(pattern).unwrap();
        prop_assert_eq!(pieces(&scanner, &text), by_backtracking(&reference, &text), "{}", pattern);
    }

    #[test]
    fn the_automaton_cuts_as_a_backtracking_engine_does(text in text()) {
        for (automaton, reference) in AUTOMATA.iter() {
            prop_assert_eq!(pieces(automaton, &text), by_backtracking(reference, &text), "{}", automaton.pattern());
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
            });
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
    let cases = [
        (r"\w++\d|\s+", r"the possessive \w++"),
        (r"a++\b|.", r"the possessive a++"),
        (r"(?:ab)++|.", r"the possessive (?:ab)++"),
        (r"(?:a++b)*|.", r"inside of (?:a++b)"),
        (r"(?i)a++b|.", r"the possessive a++"),
        (r"(?:é++b)*|.", r"inside of (?:é++b)"),
        (r"\U0001F600++🙂?😀", r"the possessive \U0001F600++"),
        (r"a*?+b|.", "repeats a quantifier"),
        (r"[]b]++b|.", r"the possessive []b]++"),
        (r"a++b{,3}a|.", r"the possessive a++"),
        (r"(?U)a+|\s+(?!\S)|.", "behind the flags (?U)"),
        (r"a(?!b)|.", "look-around"),
        (r"(?<=a)b|.", "look-around"),
        (r"(a)\1|.", "backreferences are not supported"),
    ];
    for (pattern, why) in cases {
        let error = Splitter::new(pattern).err().unwrap_or_else(|| panic!("{pattern} is refused")).to_string();
        assert!(error.contains(why), "{pattern}: {error}");
    }
}

/// Alternatives of repeated characters, classes and groups, including possessive ones.
fn pattern() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec!["a", "[ab]", "[^b]", "b", r"\s", "é", "(?:a|é)", "$", "."]);
    let repeated =
        prop::sample::select(vec!["", "", "?", "*", "+", "{0,1}", "{1,2}", "?+", "*+", "++", "{1,2}+", "+?"]);
    let item =
        (atom, repeated).prop_map(|(atom, often)| if atom == "$" { atom.into() } else { format!("{atom}{often}") });
    let alternative = prop::collection::vec(item, 1..5).prop_map(|items| items.concat());
    let any = prop_oneof![4 => alternative, 1 => Just(r"\s+(?!\S)".to_owned())];
    prop::collection::vec(any, 1..4).prop_map(|alternatives| alternatives.join("|"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_not_refused_cuts_as_a_backtracking_engine_does(pattern in pattern(), text in r"[abé \n]{0,12}") {
        if let Ok(splitter) = Splitter::new(&pattern) {
            let reference = fancy_regex::Regex::new(&pattern).unwrap();
            prop_assert_eq!(pieces(&splitter, &text), by_backtracking(&reference, &text));
        }
    }
}

proptest! {
    #[test]
    fn any_pattern_is_a_splitter_or_an_error(pattern in r"([a-c(|)?*+{}1,é🙂\\\[\]^!<=:ipxuU$ -]|\\s\+|\(\?|\\p\{L\}){0,12}") {
        if let Ok(splitter) = Splitter::new(&pattern) {
            prop_assert_eq!(pieces(&splitter, "aé 🙂b  c").concat(), "aé 🙂b  c");
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod of_blocks {
    use super::*;

    fn found(scan: impl FnOnce(&mut dyn FnMut(usize, usize))) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        scan(&mut |start, end| found.push((start, end)));
        found
    }

    /// The pieces are the same character by character, and in blocks with every vector unit that the machine has.
    fn all_agree(family: &Family, text: &[u8]) {
        let expected = found(|sink| scan::one_by_one(family, text, &mut { sink }));
        assert_eq!(found(|sink| blocks::scan_with(family, text, &mut { sink }, masks::Masks::of)), expected);
        assert_eq!(found(|sink| super::super::scan(family, text, &mut { sink })), expected);
        if blocks::has_avx512() {
            // SAFETY: it was just checked.
            assert_eq!(found(|sink| unsafe { blocks::scan_avx512(family, text, &mut { sink }) }), expected);
        }
        if blocks::has_avx2() {
            // SAFETY: as above.
            assert_eq!(found(|sink| unsafe { blocks::scan_avx2(family, text, &mut { sink }) }), expected);
        }
    }

    #[test]
    fn ascii_is_cut_in_blocks_up_to_every_end() {
        // Miri only has the units that it was compiled for.
        assert!(!cfg!(miri) || blocks::has_avx512() && blocks::has_avx2());
        let family = Family::recognize(NANOCHAT).unwrap();
        let text = "It's 12345  apples!?\n\n \t end, we'LL\r\n  see: x = -(y+100);    ".repeat(3);
        // Miri takes a second for each.
        for end in (0..text.len()).step_by(if cfg!(miri) { 13 } else { 1 }) {
            all_agree(&family, &text.as_bytes()[..end]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn blocks_are_cut_as_single_characters_are(
            parts in prop::collection::vec((text(), 1..30_usize), 1..12),
            pick in any::<prop::sample::Index>(),
        ) {
            let families = family::tests::spellings().into_iter().map(|pattern| Family::recognize(&pattern).unwrap());
            let families: Vec<Family> = families.filter(|family| family.is_modern() && family.digits > 0).collect();
            // Some runs are longer than a block.
            let text: String =
                parts.iter().map(|(part, n)| if *n < 20 { part.clone() } else { part.repeat(*n) }).collect();
            all_agree(pick.get(&families), text.as_bytes());
        }
    }
}
