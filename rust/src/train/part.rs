//! Some of the distinct pieces as one array of tokens, and the positions of every pair of neighbors in it.
//!
//! A token of n bytes takes n cells. Its first and last cells hold its id and the cells between are never read, so both
//! neighbors of a token are found from its length alone; a separator stands between pieces. A merge writes a few cells
//! and moves nothing. Every pair that it creates contains the new id, so the list of a pair's positions is complete
//! when it is made and only becomes outdated: a position counts as long as its cells still hold the pair.

use rustc_hash::FxHashMap;

use super::counts::PieceCounts;
use super::pair::PackedPair;
use crate::N_BYTES;
use crate::memory::{empty_table, prefetch};

const SEPARATOR: u32 = u32::MAX;
/// A cell that is no longer the first or last of a token.
pub const INSIDE: u32 = u32::MAX - 1;

/// The positions of pairs are in blocks of this size, which do not move when more are added.
const PLACES_PER_BLOCK: usize = 1 << 20;

/// Occurrences between the one that is merged and the one whose cells are prefetched.
const AHEAD: usize = 12;

#[derive(Clone, Copy)]
struct Cell {
    token: u32,
    /// Which of the part's weights the piece has that the cell belongs to.
    weight: u32,
}

/// How often a pair occurs in this part of the text, and where its positions are listed.
struct Occurrences {
    count: u64,
    block: u32,
    start: u32,
    len: u32,
}

/// The pieces of one part, and their pairs.
pub struct Part {
    cells: Vec<Cell>,
    /// The distinct counts of the pieces, which are so few that they stay in the cache.
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
    /// next one goes).
    weight: Vec<u64>,
    places: Vec<u32>,
    neighbors: Vec<u32>,
    found: Vec<(u32, u32)>,
}

/// A token that a new token has beside it, and how often.
pub type Neighbor = (u32, u64);

/// The pairs that a batch of merges created in one part, by neighbor of the new token.
#[derive(Default)]
pub struct Created {
    left: Vec<Neighbor>,
    right: Vec<Neighbor>,
    /// Where those of each merge end.
    ends: Vec<(usize, usize)>,
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

impl Created {
    /// The left and right neighbors of the new token of merge `index`; the token itself is a left neighbor only.
    pub fn of(&self, index: usize) -> (&[Neighbor], &[Neighbor]) {
        let (left, right) = if index == 0 { (0, 0) } else { self.ends[index - 1] };
        let (left_end, right_end) = self.ends[index];
        (&self.left[left..left_end], &self.right[right..right_end])
    }
}

impl Part {
    /// Of the pieces that `counts` divides into `n` shares, the share `index`; it takes about `n_cells` cells.
    pub fn new(counts: &PieceCounts, index: usize, n: usize, n_cells: usize) -> Self {
        let mut cells = empty_table(n_cells + n_cells / 16);
        let mut weights = Vec::new();
        let mut known = FxHashMap::default();
        cells.push(Cell { token: SEPARATOR, weight: 0 });
        counts.for_each_of(index, n, |piece, count| {
            if piece.len() > 1 {
                let weight = *known.entry(count).or_insert_with(|| {
                    weights.push(count);
                    (weights.len() - 1) as u32
                });
                cells.extend(piece.iter().map(|&byte| Cell { token: u32::from(byte), weight }));
                cells.push(Cell { token: SEPARATOR, weight });
            }
        });
        let mut part = Self {
            cells,
            weights,
            lengths: vec![1; N_BYTES],
            pairs: FxHashMap::default(),
            blocks: Vec::new(),
            left: Side::default(),
            right: Side::default(),
            twins: Vec::new(),
        };
        part.find_byte_pairs();
        part
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
        let index_of = |window: &[Cell]| {
            let (left, right) = (window[0].token, window[1].token);
            (left < SEPARATOR && right < SEPARATOR).then(|| left as usize * N_BYTES + right as usize)
        };
        for window in self.cells.windows(2) {
            if let Some(index) = index_of(window) {
                weight[index] += self.weights[window[0].weight as usize];
                places[index] += 1;
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
            if let Some(index) = index_of(window) {
                all[places[index] as usize] = at as u32;
                places[index] += 1;
            }
        }
        self.blocks.push(all);
    }

    /// Replaces the pairs of a batch by the ids from `first` on, each everywhere before the next.
    pub fn merge_all(&mut self, batch: &[PackedPair], first: u32) -> Created {
        let mut created = Created::default();
        for (id, &pair) in (first..).zip(batch) {
            self.merge(pair, id, &mut created);
            created.ends.push((created.left.len(), created.right.len()));
        }
        created
    }

    fn merge(&mut self, pair: PackedPair, id: u32, created: &mut Created) {
        let (a, b) = pair.unpack();
        self.lengths.push(self.lengths[a as usize] + self.lengths[b as usize]);
        for side in [&mut self.left, &mut self.right] {
            side.weight.resize(self.lengths.len(), 0);
            side.places.resize(self.lengths.len(), 0);
        }
        let Some(merged) = self.pairs.remove(&pair) else { return };
        let n_twins = self.replace(a, b, id, &merged);
        // The left neighbor of `a` is now that of the new token, the right neighbor of `b` too.
        let mut left = std::mem::take(&mut self.left);
        self.settle(&mut left, |x| (PackedPair::new(x, a), PackedPair::new(x, id)), (a, 0), &mut created.left);
        self.left = left;
        let mut right = std::mem::take(&mut self.right);
        self.settle(&mut right, |y| (PackedPair::new(b, y), PackedPair::new(id, y)), (a, n_twins), &mut created.right);
        self.right = right;
        if n_twins > 0 {
            let places = std::mem::take(&mut self.twins);
            let (block, start) = self.room_for(places.len());
            self.blocks[block as usize].extend_from_slice(&places);
            let found = Occurrences { count: n_twins, block, start, len: places.len() as u32 };
            self.pairs.insert(PackedPair::new(id, id), found);
            created.left.push((id, n_twins));
            self.twins = places;
        }
        self.twins.clear();
    }

    /// Writes the new token over every occurrence and records its neighbors. Returns how often it follows itself, which
    /// is also how often a neighbor `a`, recorded on its right, has itself become part of a new token.
    fn replace(&mut self, a: u32, b: u32, id: u32, merged: &Occurrences) -> u64 {
        let Self { cells, weights, lengths, blocks, left, right, twins, .. } = self;
        let (a_len, b_len, id_len) = (lengths[a as usize], lengths[b as usize], lengths[id as usize]);
        let mut n_twins = 0;
        let start = merged.start as usize;
        let places = &blocks[merged.block as usize][start..start + merged.len as usize];
        for (at, &place) in places.iter().enumerate() {
            if let Some(&later) = places.get(at + AHEAD) {
                prefetch(cells, later as usize);
            }
            let second = (place + a_len) as usize;
            let first = place as usize;
            if cells[first].token != a || cells[second].token != b {
                continue;
            }
            let end = second + b_len as usize;
            let (x, y) = (cells[first - 1].token, cells[end].token);
            cells[second - 1].token = INSIDE;
            cells[second].token = INSIDE;
            cells[first].token = id;
            cells[end - 1].token = id;
            let weight = weights[cells[first].weight as usize];
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
    /// count of neighbor `less.0` is lower by `less.1` than recorded.
    fn settle(
        &mut self,
        side: &mut Side,
        pairs_of: impl Fn(u32) -> (PackedPair, PackedPair),
        less: (u32, u64),
        created: &mut Vec<Neighbor>,
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
                created.push((neighbor, count));
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
