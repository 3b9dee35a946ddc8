//! The distinct pieces as one array of tokens, and the positions of every pair of neighbors in it.
//!
//! A token of n bytes takes n cells. Its first and last cells hold its id and the cells between are never read, so both
//! neighbors of a token are found from its length alone; a separator stands between pieces. A merge writes a few cells
//! and
//! moves nothing. Every pair that it creates contains the new id, so the list of a pair's positions is complete when it
//! is made and only becomes outdated: a position counts as long as its cells still hold the pair.

use std::fmt;

use rustc_hash::FxHashMap;

use super::counts::PieceCounts;
use crate::{N_BYTES, Pair};

const SEPARATOR: u32 = u32::MAX;
/// A cell that is no longer the first or last of a token.
const INSIDE: u32 = u32::MAX - 1;

/// The positions of pairs are in blocks of this size, which do not move when more are added.
const PLACES_PER_BLOCK: usize = 1 << 20;

/// A pair in one word, in the order of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedPair(u64);

impl PackedPair {
    pub fn new(left: u32, right: u32) -> Self {
        Self(u64::from(left) << 32 | u64::from(right))
    }

    pub fn unpack(self) -> Pair {
        ((self.0 >> 32) as u32, self.0 as u32)
    }
}

/// How often a pair occurs in the whole text, and where its positions are listed.
struct Occurrences {
    count: u64,
    block: u32,
    start: u32,
    len: u32,
}

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

pub struct Corpus {
    cells: Vec<u32>,
    /// For each cell, the piece that it belongs to; and the pieces' counts.
    piece_of: Vec<u32>,
    weights: Vec<u64>,
    /// Length in bytes of each token.
    lengths: Vec<u32>,
    pairs: FxHashMap<PackedPair, Occurrences>,
    blocks: Vec<Vec<u32>>,
    left: Side,
    right: Side,
    /// Positions of the pair of the new token with itself.
    twins: Vec<u32>,
}

/// The results of one merge on one side of its occurrences, by neighbor.
#[derive(Default)]
struct Side {
    /// Indexed by token: the count of that neighbor, and the number of its positions (while they are sorted, where the
    /// next
    /// one goes).
    weight: Vec<u64>,
    places: Vec<u32>,
    neighbors: Vec<u32>,
    found: Vec<(u32, u32)>,
}

impl Side {
    #[inline(always)]
    fn add(&mut self, neighbor: u32, place: u32, weight: u64) {
        let at = neighbor as usize;
        if self.places[at] == 0 {
            self.neighbors.push(neighbor);
        }
        self.places[at] += 1;
        self.weight[at] += weight;
        self.found.push((neighbor, place));
    }
}

impl Corpus {
    pub fn new(counts: &PieceCounts) -> Result<Self, TooManyPieces> {
        let mut n_cells = 1_u64;
        counts.for_each(|piece, _| n_cells += if piece.len() > 1 { piece.len() as u64 + 1 } else { 0 });
        if n_cells >= u64::from(INSIDE) {
            return Err(TooManyPieces { bytes: n_cells });
        }
        let mut cells = Vec::with_capacity(n_cells as usize);
        let mut piece_of = Vec::with_capacity(n_cells as usize);
        let mut weights = Vec::new();
        cells.push(SEPARATOR);
        piece_of.push(0);
        counts.for_each(|piece, count| {
            if piece.len() > 1 {
                let index = weights.len() as u32;
                weights.push(count);
                cells.extend(piece.iter().map(|&byte| u32::from(byte)));
                cells.push(SEPARATOR);
                piece_of.extend(std::iter::repeat_n(index, piece.len() + 1));
            }
        });
        let mut corpus = Self {
            cells,
            piece_of,
            weights,
            lengths: vec![1; N_BYTES],
            pairs: FxHashMap::default(),
            blocks: Vec::new(),
            left: Side::default(),
            right: Side::default(),
            twins: Vec::new(),
        };
        corpus.find_byte_pairs();
        Ok(corpus)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (PackedPair, u64)> {
        self.pairs.iter().map(|(&pair, found)| (pair, found.count))
    }

    /// How often the pair occurs now; 0 if it never did or was merged.
    pub fn count(&self, pair: PackedPair) -> u64 {
        self.pairs.get(&pair).map_or(0, |found| found.count)
    }

    /// The first pairs consist of bytes: they are counted in a full table, and their positions sorted by counting sort.
    fn find_byte_pairs(&mut self) {
        let mut weight = vec![0_u64; N_BYTES * N_BYTES];
        let mut places = vec![0_u32; N_BYTES * N_BYTES];
        let index_of = |window: &[u32]| (window[0] as usize * N_BYTES, window[1]);
        for (at, window) in self.cells.windows(2).enumerate() {
            if window[0] < SEPARATOR && window[1] < SEPARATOR {
                let (row, column) = index_of(window);
                weight[row + column as usize] += self.weights[self.piece_of[at] as usize];
                places[row + column as usize] += 1;
            }
        }
        let mut all = vec![0_u32; places.iter().map(|&n| n as usize).sum()];
        let mut start = 0;
        for (index, n) in places.iter_mut().enumerate().filter(|(_, n)| **n > 0) {
            let pair = PackedPair::new((index / N_BYTES) as u32, (index % N_BYTES) as u32);
            self.pairs.insert(pair, Occurrences { count: weight[index], block: 0, start, len: *n });
            start += std::mem::replace(n, start);
        }
        for (at, window) in self.cells.windows(2).enumerate() {
            if window[0] < SEPARATOR && window[1] < SEPARATOR {
                let (row, column) = index_of(window);
                let next = &mut places[row + column as usize];
                all[*next as usize] = at as u32;
                *next += 1;
            }
        }
        self.blocks.push(all);
    }

    /// Replaces `pair` by `id`, the next id, everywhere, and calls `created` with every new pair and its count.
    pub fn merge(&mut self, pair: PackedPair, id: u32, mut created: impl FnMut(PackedPair, u64)) {
        let (a, b) = pair.unpack();
        let merged = self.pairs.remove(&pair).expect("a pair that is merged occurs");
        self.lengths.push(self.lengths[a as usize] + self.lengths[b as usize]);
        for side in [&mut self.left, &mut self.right] {
            side.weight.resize(self.lengths.len(), 0);
            side.places.resize(self.lengths.len(), 0);
        }
        let n_twins = self.replace(a, b, id, &merged);
        // The left neighbor of `a` is now that of the new token, the right neighbor of `b` too.
        let mut left = std::mem::take(&mut self.left);
        self.settle(&mut left, |x| (PackedPair::new(x, a), PackedPair::new(x, id)), (a, 0), &mut created);
        self.left = left;
        let mut right = std::mem::take(&mut self.right);
        self.settle(&mut right, |y| (PackedPair::new(b, y), PackedPair::new(id, y)), (a, n_twins), &mut created);
        self.right = right;
        if n_twins > 0 {
            let places = std::mem::take(&mut self.twins);
            let (block, start) = self.room_for(places.len());
            self.blocks[block as usize].extend_from_slice(&places);
            let pair = PackedPair::new(id, id);
            self.pairs.insert(pair, Occurrences { count: n_twins, block, start, len: places.len() as u32 });
            created(pair, n_twins);
            self.twins = places;
        }
        self.twins.clear();
    }

    /// Writes the new token over every occurrence and records its neighbors. Returns how often it follows itself, which
    /// is
    /// also how often a neighbor `a`, recorded on its right, has itself become part of a new token.
    fn replace(&mut self, a: u32, b: u32, id: u32, merged: &Occurrences) -> u64 {
        let Self { cells, piece_of, weights, lengths, blocks, left, right, twins, .. } = self;
        let (a_len, b_len, id_len) = (lengths[a as usize], lengths[b as usize], lengths[id as usize]);
        let mut n_twins = 0;
        let start = merged.start as usize;
        for &place in &blocks[merged.block as usize][start..start + merged.len as usize] {
            let second = (place + a_len) as usize;
            let first = place as usize;
            if cells[first] != a || cells[second] != b {
                continue;
            }
            let end = second + b_len as usize;
            let (x, y) = (cells[first - 1], cells[end]);
            cells[second - 1] = INSIDE;
            cells[second] = INSIDE;
            cells[first] = id;
            cells[end - 1] = id;
            let weight = weights[piece_of[first] as usize];
            if x == id {
                n_twins += weight;
                twins.push(place - id_len);
            } else if x != SEPARATOR {
                left.add(x, place - lengths[x as usize], weight);
            }
            if y != SEPARATOR {
                right.add(y, place, weight);
            }
        }
        n_twins
    }

    /// Moves the counts of one side from the old pairs to the new ones and lists the positions of these. The final
    /// count of
    /// neighbor `less.0` is lower by `less.1` than recorded.
    fn settle(
        &mut self,
        side: &mut Side,
        pairs_of: impl Fn(u32) -> (PackedPair, PackedPair),
        less: (u32, u64),
        created: &mut impl FnMut(PackedPair, u64),
    ) {
        let (block, mut start) = self.room_for(side.found.len());
        let first = start as usize;
        for &neighbor in &side.neighbors {
            let at = neighbor as usize;
            let (old, new) = pairs_of(neighbor);
            let weight = side.weight[at];
            // If a token repeats, the old pair is the merged one, which no longer exists.
            if let Some(found) = self.pairs.get_mut(&old) {
                found.count -= weight;
                if found.count == 0 {
                    self.pairs.remove(&old);
                }
            }
            let count = weight - if neighbor == less.0 { less.1 } else { 0 };
            let len = side.places[at];
            if count > 0 {
                self.pairs.insert(new, Occurrences { count, block, start, len });
                created(new, count);
            }
            side.weight[at] = 0;
            side.places[at] = start;
            start += len;
        }
        let places = &mut self.blocks[block as usize];
        places.resize(first + side.found.len(), 0);
        for &(neighbor, place) in &side.found {
            let next = &mut side.places[neighbor as usize];
            places[*next as usize] = place;
            *next += 1;
        }
        for neighbor in side.neighbors.drain(..) {
            side.places[neighbor as usize] = 0;
        }
        side.found.clear();
    }

    /// The block with room for `n` more positions, and where they begin in it.
    fn room_for(&mut self, n: usize) -> (u32, u32) {
        if self.blocks.last().is_none_or(|last| last.len() + n > last.capacity()) {
            self.blocks.push(Vec::with_capacity(n.max(PLACES_PER_BLOCK)));
        }
        let last = self.blocks.len() - 1;
        (last as u32, self.blocks[last].len() as u32)
    }
}
