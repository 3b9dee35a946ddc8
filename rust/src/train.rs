//! Learns merges: repeatedly joins the commonest pair of neighbouring tokens inside the pieces of a corpus.
//!
//! The corpus is first reduced to its distinct pieces and how often each occurs, so memory is bounded by the distinct
//! pieces. A merge then visits only the pieces that hold its pair. Of pairs equally common the smaller (by its two ids)
//! is merged first, which makes the result independent of hashing and of the order of the texts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::pattern::{PatternError, Splitter};

/// Ids of two neighbouring tokens.
pub type Pair = (u32, u32);

/// The byte values come before any merge.
pub const N_BYTES: usize = 256;

/// Counts the distinct pieces of a corpus, text by text.
pub struct PieceCounter {
    splitter: Splitter,
    counts: FxHashMap<Box<str>, u64>,
}

impl PieceCounter {
    pub fn new(splitter: Splitter) -> Self {
        Self { splitter, counts: FxHashMap::default() }
    }

    pub fn add(&mut self, text: &str) -> Result<(), PatternError> {
        let counts = &mut self.counts;
        self.splitter.split(text, |piece| match counts.get_mut(piece) {
            Some(count) => *count += 1,
            None => {
                counts.insert(piece.into(), 1);
            }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The merges in the order learned, at most `limit`; fewer when every piece has become one token. `tick` is called
    /// with the number of merges so far after each; its error ends the training.
    pub fn train<E>(self, limit: usize, mut tick: impl FnMut(usize) -> Result<(), E>) -> Result<Vec<Pair>, E> {
        let mut corpus = Corpus::new(&self.counts);
        drop(self.counts);
        let mut heap: BinaryHeap<_> = corpus.pairs.iter().map(|(&pair, at)| (at.count, Reverse(pair))).collect();
        let mut merges = Vec::with_capacity(limit);
        while merges.len() < limit {
            let Some((count, Reverse(pair))) = heap.pop() else { break };
            // The count of a pair only falls once it is in the heap, so a stale top is put back where it belongs now.
            let current = corpus.pairs[&pair].count;
            if current != count {
                if current > 0 {
                    heap.push((current, Reverse(pair)));
                }
                continue;
            }
            let id = (N_BYTES + merges.len()) as u32;
            corpus.merge(pair, id, |new_pair, count| heap.push((count, Reverse(new_pair))));
            merges.push(pair);
            tick(merges.len())?;
        }
        Ok(merges)
    }
}

/// Where a pair occurs: how often in the whole text, and in which words it occurred when they were last looked at.
#[derive(Default)]
struct Occurrences {
    count: u64,
    words: Vec<u32>,
}

impl Occurrences {
    fn add(&mut self, weight: u64, word: u32) {
        self.count += weight;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

/// The distinct pieces as token ids, each with its weight, and where every pair of neighbours occurs.
struct Corpus {
    tokens: Vec<u32>,
    words: Vec<Word>,
    pairs: FxHashMap<Pair, Occurrences>,
}

struct Word {
    span: Range<usize>,
    weight: u64,
}

impl Corpus {
    fn new(counts: &FxHashMap<Box<str>, u64>) -> Self {
        let mut corpus = Self { tokens: Vec::new(), words: Vec::new(), pairs: FxHashMap::default() };
        for (piece, &weight) in counts.iter().filter(|(piece, _)| piece.len() > 1) {
            let start = corpus.tokens.len();
            let word = corpus.words.len() as u32;
            corpus.tokens.extend(piece.bytes().map(u32::from));
            for pair in corpus.tokens[start..].windows(2) {
                corpus.pairs.entry((pair[0], pair[1])).or_default().add(weight, word);
            }
            corpus.words.push(Word { span: start..corpus.tokens.len(), weight });
        }
        corpus
    }

    /// Replaces `pair` by `id` everywhere and calls `found` with every pair this creates and its count.
    fn merge(&mut self, pair: Pair, id: u32, mut found: impl FnMut(Pair, u64)) {
        let words = std::mem::take(&mut self.pairs.get_mut(&pair).expect("a merged pair occurs").words);
        let mut created: FxHashMap<Pair, Occurrences> = FxHashMap::default();
        for index in words {
            let word = &mut self.words[index as usize];
            let tokens = &mut self.tokens[word.span.clone()];
            let pairs = &mut self.pairs;
            let length = merge_word(tokens, pair, id, |change, neighbours| {
                // Pairs with the new id are in `created` alone; the others were there before this merge.
                let new = neighbours.0 == id || neighbours.1 == id;
                match (change, new) {
                    (Change::Added, _) => created.entry(neighbours).or_default().add(word.weight, index),
                    (Change::Removed, true) => {
                        created.get_mut(&neighbours).expect("added by this word").count -= word.weight;
                    }
                    (Change::Removed, false) => {
                        pairs.get_mut(&neighbours).expect("counted before").count -= word.weight;
                    }
                }
            });
            word.span.end = word.span.start + length;
        }
        for (new_pair, occurrences) in created {
            if occurrences.count > 0 {
                found(new_pair, occurrences.count);
                self.pairs.insert(new_pair, occurrences);
            }
        }
    }
}

enum Change {
    Added,
    Removed,
}

/// Joins `pair` into `id` from left to right within `tokens`, in place; returns the new length.
fn merge_word(tokens: &mut [u32], pair: Pair, id: u32, mut changed: impl FnMut(Change, Pair)) -> usize {
    let (mut read, mut write) = (0, 0);
    while read < tokens.len() {
        if tokens[read] != pair.0 || tokens.get(read + 1) != Some(&pair.1) {
            tokens[write] = tokens[read];
            read += 1;
            write += 1;
            continue;
        }
        changed(Change::Removed, pair);
        if write > 0 {
            let left = tokens[write - 1];
            changed(Change::Removed, (left, pair.0));
            changed(Change::Added, (left, id));
        }
        if let Some(&right) = tokens.get(read + 2) {
            changed(Change::Removed, (pair.1, right));
            changed(Change::Added, (id, right));
        }
        tokens[write] = id;
        read += 2;
        write += 1;
    }
    write
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn train(texts: &[&str], pattern: &str, limit: usize) -> Vec<Pair> {
        let mut counter = PieceCounter::new(Splitter::new(pattern).unwrap());
        for text in texts {
            counter.add(text).unwrap();
        }
        counter.train(limit, |_| Ok::<_, Infallible>(())).unwrap()
    }

    /// The definition: count all pairs afresh before each merge.
    fn train_by_definition(pieces: &[&str], limit: usize) -> Vec<Pair> {
        let mut words: Vec<Vec<u32>> = pieces.iter().map(|p| p.bytes().map(u32::from).collect()).collect();
        let mut merges = Vec::new();
        while merges.len() < limit {
            let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
            for word in &words {
                word.windows(2).for_each(|w| *counts.entry((w[0], w[1])).or_default() += 1);
            }
            let Some((&pair, _)) = counts.iter().max_by_key(|&(&pair, &count)| (count, Reverse(pair))) else { break };
            let id = (N_BYTES + merges.len()) as u32;
            for word in &mut words {
                let length = merge_word(word, pair, id, |_, _| ());
                word.truncate(length);
            }
            merges.push(pair);
        }
        merges
    }

    #[test]
    fn ties_go_to_the_smaller_pair() {
        let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
        assert_eq!(train(&["ca", "ab", "bc"], "[a-z]+", 3), [(a, b), (b, c), (c, a)]);
    }

    #[test]
    fn overlapping_repeats_are_counted_and_merged_as_defined() {
        for length in 2..40 {
            let text = "a".repeat(length);
            assert_eq!(train(&[&text], "a+", 20), train_by_definition(&[&text], 20), "length {length}");
        }
    }

    #[test]
    fn merges_equal_the_definition_on_random_words() {
        let mut state = 7_u64;
        for round in 0..200 {
            let words: Vec<String> = (0..1 + round % 30)
                .map(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    (0..1 + (state >> 40) % 12).map(|i| if state >> i & 1 == 0 { 'a' } else { 'b' }).collect()
                })
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(train(&words, "[a-z]+", 60), train_by_definition(&words, 60), "{words:?}");
        }
    }

    #[test]
    fn training_ends_when_every_piece_is_one_token() {
        assert_eq!(train(&["abc"], "[a-z]+", 100).len(), 2);
        assert!(train(&["a"], "[a-z]+", 100).is_empty());
    }

    #[test]
    fn an_error_of_tick_ends_the_training() {
        let mut counter = PieceCounter::new(Splitter::new("[a-z]+").unwrap());
        counter.add("abcdefgh").unwrap();
        let result = counter.train(100, |done| if done == 3 { Err("stop") } else { Ok(()) });
        assert_eq!(result, Err("stop"));
    }
}
