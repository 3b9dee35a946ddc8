//! The order of merges: which pairs are merged next, and how many of them at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::corpus::Crew;
use super::pair::PackedPair;

/// Merges in a batch: more would gain nothing, since handing over a batch takes a small part of its time.
const MAX_BATCH: usize = 256;

/// The floor falls to this share of itself. Each time, all pairs are looked at once.
const FLOOR_FALLS: u64 = 8;

/// The pairs that occur at least `floor` times, each with a count that it has or had. Most pairs are never so frequent.
pub struct Queue {
    heap: BinaryHeap<(u64, Reverse<PackedPair>)>,
    /// By token, the last batch that has a pair with it on the left or on the right.
    on_left: Vec<u32>,
    on_right: Vec<u32>,
    batch: u32,
    floor: u64,
}

impl Queue {
    pub fn new(crew: &Crew) -> Self {
        // Lowered before it is used.
        let floor = crew.largest_count().saturating_mul(FLOOR_FALLS);
        Self { heap: BinaryHeap::new(), on_left: Vec::new(), on_right: Vec::new(), batch: 0, floor }
    }

    pub fn push(&mut self, pair: PackedPair, count: u64) {
        if count >= self.floor {
            self.heap.push((count, Reverse(pair)));
        }
    }

    fn lower_floor(&mut self, crew: &Crew) {
        self.floor = (self.floor / FLOOR_FALLS).max(1);
        let mut pairs = std::mem::take(&mut self.heap).into_vec();
        pairs.clear();
        crew.pairs_from(self.floor, |pair, count| pairs.push((count, Reverse(pair))));
        self.heap = pairs.into();
    }

    /// Moves the pairs to merge next, in their order, to the empty `batch`: at most `limit`, at least one if a pair
    /// occurs.
    ///
    /// A batch ends where a pair begins with a token that another pair of it ends with, or the other way round, and
    /// after a pair of equal tokens. Until there, no merge changes the count of a later pair of the batch, since they
    /// never overlap. Nor does a merge create a pair that would come first. Each occurrence of a new pair was one of an
    /// old pair: of the last old token in its left half and the first in its right half. So the old pair was at least
    /// as frequent, and at equal counts it comes first, since a new token has a larger id than those it consists of. If
    /// the new pair came before a later one of the batch, so did the old one: it would be in the batch, but it begins
    /// or ends with a token that a merged pair has on the other side.
    pub fn take(&mut self, batch: &mut Vec<PackedPair>, limit: usize, crew: &Crew) {
        self.batch += 1;
        while batch.len() < limit.min(MAX_BATCH) {
            let Some((known, Reverse(pair))) = self.heap.pop() else {
                // Until the batch is merged, its pairs would be found again.
                if !batch.is_empty() || self.floor <= 1 {
                    break;
                }
                self.lower_floor(crew);
                continue;
            };
            // The count of a pair in the heap only falls, so an outdated top is pushed again with its current count.
            let current = crew.count(pair);
            if current != known {
                self.push(pair, current);
                continue;
            }
            let (left, right) = pair.unpack();
            if self.is_on(&self.on_right, left) || self.is_on(&self.on_left, right) {
                self.push(pair, current);
                break;
            }
            batch.push(pair);
            if left == right {
                break;
            }
            for (side, token) in [(&mut self.on_left, left), (&mut self.on_right, right)] {
                if side.len() <= token as usize {
                    side.resize(token as usize + 1, 0);
                }
                side[token as usize] = self.batch;
            }
        }
    }

    fn is_on(&self, side: &[u32], token: u32) -> bool {
        side.get(token as usize) == Some(&self.batch)
    }
}
