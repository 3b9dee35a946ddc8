use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::specials::Specials;
use crate::split::Splitter;

fn train(texts: &[&str], pattern: &str, limit: usize) -> Vec<Pair> {
    train_in_parts(texts, pattern, limit, 1)
}

fn train_in_parts(texts: &[&str], pattern: &str, limit: usize, parts: usize) -> Vec<Pair> {
    let specials = Specials::default();
    let mut counter = Counter::new(Splitter::new(pattern).unwrap(), &specials);
    for text in texts {
        counter.add(text.as_bytes());
    }
    learn_merges(Corpus::with_parts(&counter.finish(), parts), limit, |_| Ok::<_, Infallible>(())).unwrap()
}

/// The definition: count all pairs again before each merge.
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
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word[at] = id;
                    word.remove(at + 1);
                }
                at += 1;
            }
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
    for length in 2..70 {
        let text = "a".repeat(length);
        assert_eq!(train(&[&text], "a+", 20), train_by_definition(&[&text], 20), "length {length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn merges_equal_the_definition(
        words in prop::collection::vec("[ab]{1,12}|[a-d]{1,40}|[a-z]{2,5}", 1..30),
        parts in 1_usize..4,
    ) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        prop_assert_eq!(train_in_parts(&words, "[a-z]+", 60, parts), train_by_definition(&words, 60));
    }
}

#[test]
fn many_frequent_and_rare_pairs_are_merged_in_order_by_any_number_of_threads() {
    // Counts fall from thousands to one, so batches are long and the floor of the queue falls several times.
    let words: Vec<String> =
        (0..400_u32).map(|n| format!("{:05}", n * 7919 % 100_003).repeat(1 + n as usize % 3)).collect();
    let texts: Vec<&str> =
        words.iter().enumerate().flat_map(|(at, w)| vec![w.as_str(); 2_000 / (at + 1) + 1]).collect();
    let one = train_in_parts(&texts, "[0-9]+", 700, 1);
    assert_eq!(one, train_by_definition(&texts, 700));
    for parts in 2..6 {
        assert_eq!(train_in_parts(&texts, "[0-9]+", 700, parts), one, "{parts} parts");
    }
}

#[test]
fn a_smaller_vocabulary_is_a_prefix_of_a_larger() {
    let text = "the rain in spain stays mainly in the plain";
    assert_eq!(train(&[text], "[a-z]+", 5), train(&[text], "[a-z]+", 25)[..5]);
}

#[test]
fn training_ends_when_every_piece_is_one_token() {
    assert_eq!(train(&["abc"], "[a-z]+", 100).len(), 2);
    assert!(train(&["a"], "[a-z]+", 100).is_empty());
}

#[test]
fn counts_beyond_32_bits_are_kept() {
    let mut counts = PieceCounts::default();
    counts.add(b"ab", (1 << 32) + 1);
    counts.add(b"cd", (1 << 32) + 2);
    counts.add(b"ef", 1 << 31);
    let merges = learn_merges(Corpus::with_parts(&counts, 2), 9, |_| Ok::<_, Infallible>(())).unwrap();
    assert_eq!(merges, [(99, 100), (97, 98), (101, 102)]);
}

#[test]
fn an_error_of_tick_ends_the_training() {
    let mut counts = PieceCounts::default();
    counts.add(b"abcdefgh", 1);
    let result = learn_merges(Corpus::with_parts(&counts, 2), 100, |done| if done == 3 { Err("stop") } else { Ok(()) });
    assert_eq!(result, Err("stop"));
}
