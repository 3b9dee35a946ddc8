//! Learns merges: repeatedly joins the most frequent pair of neighboring tokens inside the pieces of a corpus.
//!
//! The corpus is first reduced to its distinct pieces and how often each occurs ([`counts`]); the pieces are then laid
//! out as arrays, one for each thread ([`corpus`], [`part`]), in which a merge only visits the positions of its pair.
//! Among equally frequent pairs, the smaller one (by its two ids) is merged first, so the result does not depend on
//! hashing, threads or the order of the texts. The merges of a smaller vocabulary are the first ones of a larger one.

mod corpus;
mod counts;
mod pair;
mod part;
mod queue;
mod saved;

use std::thread::scope;

pub use corpus::{Corpus, TooManyPieces};
pub use counts::{Counter, PieceCounts};
pub use saved::{SavedCounts, SavedError};

use queue::Queue;

use crate::{N_BYTES, Pair};

/// The merges in the order learned, at most `limit`; fewer if every piece has become a single token. `tick` is called
/// with the number of merges for each one, some time after it; its error ends the training.
pub fn learn_merges<E>(
    corpus: Corpus,
    limit: usize,
    mut tick: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Pair>, E> {
    scope(|scope| {
        let mut crew = corpus.on_threads(scope);
        let mut queue = Queue::new(&crew);
        let mut merges = Vec::new();
        let mut batch = Vec::new();
        while merges.len() < limit {
            queue.take(&mut batch, limit - merges.len(), &crew);
            if batch.is_empty() {
                break;
            }
            let first = (N_BYTES + merges.len()) as u32;
            crew.merge(&batch, first, |pair, count| queue.push(pair, count));
            for pair in batch.drain(..) {
                merges.push(pair.unpack());
                tick(merges.len())?;
            }
        }
        Ok(merges)
    })
}

#[cfg(test)]
mod tests;
