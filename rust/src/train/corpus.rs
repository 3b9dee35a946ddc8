//! The distinct pieces in parts, of which each thread merges one.
//!
//! A merge in one piece does not depend on other pieces, so threads share nothing while they merge a batch: a part goes
//! to its thread and comes back with the pairs that were created in it. The count of a pair is the sum over the parts.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, scope};

use super::counts::PieceCounts;
use super::pair::PackedPair;
use super::part::{Created, INSIDE, Neighbor, Part};

/// A smaller part does not merit a thread: handing it over would take longer than its merges.
const MIN_CELLS_PER_PART: u64 = 1 << 19;

/// Positions in the distinct pieces are 32-bit numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooManyPieces {
    bytes: u64,
}

impl fmt::Display for TooManyPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the distinct pieces take {} bytes together, more than training can hold: use a pattern with shorter \
             pieces or less text",
            self.bytes
        )
    }
}

impl std::error::Error for TooManyPieces {}

/// The distinct pieces of a text, ready for merging.
pub struct Corpus {
    parts: Vec<Part>,
}

impl Corpus {
    /// In one part for each of `threads`, or in fewer if there is little text.
    pub fn new(counts: &PieceCounts, threads: usize) -> Result<Self, TooManyPieces> {
        let n_cells = n_cells(counts)?;
        Ok(Self::in_parts(counts, n_cells, threads.min((n_cells / MIN_CELLS_PER_PART) as usize).max(1)))
    }

    #[cfg(test)]
    pub fn with_parts(counts: &PieceCounts, n: usize) -> Self {
        Self::in_parts(counts, n_cells(counts).unwrap(), n)
    }

    fn in_parts(counts: &PieceCounts, n_cells: u64, n: usize) -> Self {
        let part = |index| Part::new(counts, index, n, n_cells as usize / n);
        scope(|scope| {
            let others: Vec<_> = (1..n).map(|index| scope.spawn(move || part(index))).collect();
            let own = part(0);
            let others = others.into_iter().map(|other| other.join().expect("laying out pieces does not panic"));
            Self { parts: std::iter::once(own).chain(others).collect() }
        })
    }

    /// Starts a thread for each part but one, which the caller merges. They end when what is returned is dropped.
    pub fn on_threads<'scope>(self, scope: &'scope Scope<'scope, '_>) -> Crew {
        let mut parts = self.parts.into_iter().map(Box::new);
        let own = parts.next().expect("a corpus has a part");
        let others = parts.map(|part| Other::new(scope, part)).collect();
        Crew { own, others, totals: Vec::new(), neighbors: Vec::new() }
    }
}

fn n_cells(counts: &PieceCounts) -> Result<u64, TooManyPieces> {
    let mut n_cells = 1_u64;
    counts.for_each(|piece, _| n_cells += if piece.len() > 1 { piece.len() as u64 + 1 } else { 0 });
    match n_cells < u64::from(INSIDE) {
        true => Ok(n_cells),
        false => Err(TooManyPieces { bytes: n_cells }),
    }
}

/// Merges that every part makes, and the id of the first.
#[derive(Clone)]
struct Batch {
    pairs: Arc<[PackedPair]>,
    first: u32,
}

/// A part that a thread merges. Between batches it is here, so that its counts can be read.
struct Other {
    part: Option<Box<Part>>,
    batches: SyncSender<(Box<Part>, Batch)>,
    merged: Receiver<(Box<Part>, Created)>,
}

impl Other {
    fn new<'scope>(scope: &'scope Scope<'scope, '_>, part: Box<Part>) -> Self {
        let (batches, to_merge) = sync_channel::<(Box<Part>, Batch)>(1);
        let (done, merged) = sync_channel(1);
        scope.spawn(move || {
            for (mut part, batch) in to_merge {
                let created = part.merge_all(&batch.pairs, batch.first);
                if done.send((part, created)).is_err() {
                    break;
                }
            }
        });
        Self { part: Some(part), batches, merged }
    }

    fn part(&self) -> &Part {
        self.part.as_ref().expect("a part is back after its batch")
    }

    fn start(&mut self, batch: &Batch) {
        let part = self.part.take().expect("a part is back after its batch");
        self.batches.send((part, batch.clone())).expect("merging does not panic");
    }

    fn finish(&mut self) -> Created {
        let (part, created) = self.merged.recv().expect("merging does not panic");
        self.part = Some(part);
        created
    }
}

/// The parts of a corpus, each with its thread.
pub struct Crew {
    own: Box<Part>,
    others: Vec<Other>,
    /// By neighbor, its count in all parts; and the neighbors that have one. Empty between uses.
    totals: Vec<u64>,
    neighbors: Vec<u32>,
}

impl Crew {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&*self.own).chain(self.others.iter().map(Other::part))
    }

    /// At least how often the most frequent pair occurs.
    pub fn largest_count(&self) -> u64 {
        self.parts().flat_map(Part::pairs).map(|(_, count)| count).max().unwrap_or(0)
    }

    /// Calls `each` with every pair that occurs at least `least` times, and its count.
    pub fn pairs_from(&self, least: u64, mut each: impl FnMut(PackedPair, u64)) {
        // Such a pair has at least its share of `least` in one of the parts; the first of these gives it.
        let share = least.div_ceil(1 + self.others.len() as u64);
        for (index, part) in self.parts().enumerate() {
            for (pair, _) in part.pairs().filter(|&(_, count)| count >= share) {
                let count = self.count(pair);
                if count >= least && self.parts().take(index).all(|earlier| earlier.count(pair) < share) {
                    each(pair, count);
                }
            }
        }
    }

    /// How often the pair occurs now; 0 if it never did or was merged.
    pub fn count(&self, pair: PackedPair) -> u64 {
        self.parts().map(|part| part.count(pair)).sum()
    }

    /// Replaces the pairs of a batch by the ids from `first` on, each everywhere before the next, and calls `created`
    /// with every new pair and its count after the whole batch.
    pub fn merge(&mut self, pairs: &[PackedPair], first: u32, mut created: impl FnMut(PackedPair, u64)) {
        let batch = Batch { pairs: pairs.into(), first };
        self.others.iter_mut().for_each(|other| other.start(&batch));
        let mut parts = vec![self.own.merge_all(pairs, first)];
        parts.extend(self.others.iter_mut().map(Other::finish));
        self.totals.resize(first as usize + pairs.len(), 0);
        for (index, id) in (first..).take(pairs.len()).enumerate() {
            self.sum(parts.iter().map(|part| part.of(index).0), |x, count| created(PackedPair::new(x, id), count));
            self.sum(parts.iter().map(|part| part.of(index).1), |y, count| created(PackedPair::new(id, y), count));
        }
    }

    /// Calls `each` with every neighbor and its count in all parts.
    fn sum<'c>(&mut self, parts: impl Iterator<Item = &'c [Neighbor]>, mut each: impl FnMut(u32, u64)) {
        let Self { totals, neighbors, .. } = self;
        for &(neighbor, count) in parts.flatten() {
            let total = &mut totals[neighbor as usize];
            if *total == 0 {
                neighbors.push(neighbor);
            }
            *total += count;
        }
        for neighbor in neighbors.drain(..) {
            each(neighbor, std::mem::take(&mut totals[neighbor as usize]));
        }
    }
}
