//! Learns merges: repeatedly joins the most frequent pair of neighboring tokens inside the pieces of a corpus.
//!
//! The corpus is first reduced to its distinct pieces and how often each occurs ([`counts`]); the pieces are then laid
//! out as one array ([`corpus`]), in which a merge only visits the positions of its pair. Among equally frequent pairs,
//! the
//! smaller one (by its two ids) is merged first, so the result does not depend on hashing, threads or the order of the
//! texts. The merges of a smaller vocabulary are the first ones of a larger one.

mod corpus;
mod counts;
mod saved;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub use corpus::{Corpus, TooManyPieces};
pub use counts::{Counter, PieceCounts};
pub use saved::{SavedCounts, SavedError};

use corpus::PackedPair;

use crate::{N_BYTES, Pair};

/// The merges in the order learned, at most `limit`; fewer if every piece has become a single token. `tick` is called
/// with the number of merges after each one; its error ends the training.
pub fn learn_merges<E>(
    mut corpus: Corpus,
    limit: usize,
    mut tick: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Pair>, E> {
    let mut heap: BinaryHeap<(u64, Reverse<PackedPair>)> =
        corpus.pairs().map(|(pair, count)| (count, Reverse(pair))).collect();
    let mut merges = Vec::new();
    while merges.len() < limit {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        // The count of a pair in the heap only falls, so an outdated top is pushed again with its current count.
        let current = corpus.count(pair);
        if current != count {
            if current > 0 {
                heap.push((current, Reverse(pair)));
            }
            continue;
        }
        let id = (N_BYTES + merges.len()) as u32;
        corpus.merge(pair, id, |new_pair, count| heap.push((count, Reverse(new_pair))));
        merges.push(pair.unpack());
        tick(merges.len())?;
    }
    Ok(merges)
}

#[cfg(test)]
mod tests;
