//! Any bytes: pieces as a backtracking engine cuts them, ids by the definition, which decode to the text, tables that come
//! back.
#![no_main]

use std::collections::HashMap;
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

/// The ids of a piece: its own where it is a token, else the two neighbors of the lowest id are joined, again and again.
fn by_definition(ids: &HashMap<&[u8], u32>, piece: &[u8]) -> Vec<u32> {
    let mut cuts: Vec<usize> = (0..=piece.len()).collect();
    if ids.contains_key(piece) {
        cuts = vec![0, piece.len()];
    }
    let joined = |(at, cuts): (usize, &[usize])| Some((*ids.get(&piece[cuts[0]..cuts[2]])?, at));
    while let Some((_, at)) = cuts.windows(3).enumerate().filter_map(joined).min() {
        cuts.remove(at + 1);
    }
    cuts.windows(2).map(|cuts| ids[&piece[cuts[0]..cuts[1]]]).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, text)) = data.split_first() else { return };
    let (splitter, reference) = &ENGINES[choice as usize % PATTERNS.len()];
    let (mut pieces, mut ends) = (Vec::new(), Vec::new());
    splitter.split(text, &mut |start, end| {
        pieces.push(&text[start..end]);
        ends.push(end);
    });
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
    // Of those that are spelled alike the lowest.
    let known = (0..first).rev().map(|id| (&tokens[id as usize][..], id)).collect();
    let expected: Vec<u32> = pieces.iter().flat_map(|piece| by_definition(&known, piece)).collect();
    let encoder = Encoder::new(splitter.clone(), vocabulary, &[text]);
    assert_eq!(encoder.encode::<u32>(text, &Allowed::default()).unwrap(), expected);
    for allowed in [&Allowed::default(), encoder.allow_all()] {
        let ids: Vec<u32> = encoder.encode(text, allowed).unwrap();
        assert_eq!(encoder.decode(&ids).unwrap(), text);
    }
});
