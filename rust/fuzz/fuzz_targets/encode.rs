//! Any bytes: pieces as a backtracking engine cuts them, ids that decode to the text, tables that come back.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustbpe_py::bpe::{Allowed, Encoder, Vocabulary, merges_of_ranks};
use rustbpe_py::specials::Specials;
use rustbpe_py::split::Splitter;
use rustbpe_py::train::{Corpus, Counter, SavedCounts, learn_merges};

const PATTERNS: [&str; 4] = [
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"\w+|\s+(?!\S)|\s+",
];

static ENGINES: LazyLock<Vec<(Splitter, fancy_regex::Regex)>> = LazyLock::new(|| {
    PATTERNS.iter().map(|p| (Splitter::new(p).unwrap(), fancy_regex::Regex::new(p).unwrap())).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, text)) = data.split_first() else { return };
    let (splitter, reference) = &ENGINES[choice as usize % PATTERNS.len()];
    let mut ends = Vec::new();
    splitter.split(text, &mut |_, end| ends.push(end));
    if let Ok(text) = str::from_utf8(text) {
        let found: Vec<_> =
            reference.find_iter(text).map(|m| (m.as_ref().unwrap().start(), m.unwrap().end())).collect();
        assert!(found.iter().all(|(_, end)| ends.contains(end)));
    }
    let specials = Specials::new(["<a>".to_owned()]).unwrap();
    let mut counter = Counter::new(splitter.clone(), &specials);
    counter.add(text);
    let counts = counter.finish();
    let saved = SavedCounts::to_bytes(splitter.pattern(), specials.names(), &counts);
    assert_eq!(SavedCounts::from_bytes(&saved).unwrap().counts.len(), counts.len());
    let _ = SavedCounts::from_bytes(text);
    let merges = learn_merges(Corpus::new(&counts).unwrap(), 50, |_| Ok::<_, ()>(())).unwrap();
    let order: Vec<u8> = (0..=u8::MAX).collect();
    let first = 256 + merges.len() as u32;
    let vocabulary = Vocabulary::new(&order, merges, vec![("<a>".to_owned(), first)]).unwrap();
    let tokens: Vec<Box<[u8]>> = (0..first).map(|id| vocabulary.token(id).unwrap().into()).collect();
    let _ = merges_of_ranks(&tokens);
    let encoder = Encoder::new(splitter.clone(), vocabulary, &[text]);
    for allowed in [&Allowed::default(), encoder.allow_all()] {
        let ids: Vec<u32> = encoder.encode(text, allowed).unwrap();
        assert_eq!(encoder.decode(&ids).unwrap(), text);
    }
});
