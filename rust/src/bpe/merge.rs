//! The rule of BPE applied to one piece.
//!
//! Short pieces are merged in arrays on the stack, by looking for the lowest rank again and again. Long ones keep their
//! pairs in one bucket per rank, so that a piece of a million bytes takes time linear in them, apart from sorting the
//! places within a bucket.

use super::ranks::{NO_TOKEN, Ranks};

/// Pieces up to this many bytes count as short.
pub const SHORT: usize = 64;
const PLACE_BITS: u32 = SHORT.trailing_zeros();

/// The rank that no two neighbours have, in the packed form of `merge_short`.
const NEVER: i32 = i32::MAX;

/// Appends the tokens of a piece of 2 to `SHORT` bytes. Quadratic in it.
pub fn merge_short(ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
    let n = piece.len();
    // `waiting[i]` is the rank of the token that starts at `i` and its neighbour, above the place `i` itself: the
    // smallest of them is the lowest rank and, of equals, the leftmost.
    let mut waiting = [NEVER; SHORT];
    let mut tokens = [0_u32; SHORT];
    let mut next = [0_u8; SHORT];
    let mut previous = [0_u8; SHORT + 1];
    for i in 0..n {
        tokens[i] = ranks.byte_ids[piece[i] as usize];
        next[i] = i as u8 + 1;
        previous[i + 1] = i as u8;
    }
    for i in 0..n - 1 {
        waiting[i] = packed(ranks.joined_bytes(piece[i], piece[i + 1]), i);
    }
    let looked_at = n.next_multiple_of(8);
    loop {
        let best = waiting[..looked_at].iter().fold(NEVER, |least, &w| least.min(w));
        if best == NEVER {
            break;
        }
        let at = best as usize % SHORT;
        let id = best as u32 >> PLACE_BITS;
        let gone = next[at] as usize;
        let after = next[gone] as usize;
        tokens[at] = id;
        next[at] = after as u8;
        previous[after] = at as u8;
        waiting[gone] = NEVER;
        waiting[at] = if after < n { packed(ranks.joined(id, tokens[after]), at) } else { NEVER };
        if at > 0 {
            let before = previous[at] as usize;
            waiting[before] = packed(ranks.joined(tokens[before], id), before);
        }
    }
    let mut at = 0;
    while at < n {
        out.push(tokens[at]);
        at = next[at] as usize;
    }
}

#[inline(always)]
fn packed(rank: u32, place: usize) -> i32 {
    if rank == NO_TOKEN { NEVER } else { (rank << PLACE_BITS) as i32 | place as i32 }
}

const NONE: u32 = u32::MAX;

/// Merges long pieces; keeps its memory from one to the next.
#[derive(Default)]
pub struct LongMerger {
    /// The tokens by the place where they start, linked; and their rank with the next one.
    tokens: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    waiting: Vec<u32>,
    queue: Buckets,
    places: Vec<u32>,
}

impl LongMerger {
    /// Appends the tokens of a piece of at least two bytes.
    pub fn merge(&mut self, ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
        let n = piece.len();
        self.start(ranks, piece);
        let mut places = std::mem::take(&mut self.places);
        while let Some(rank) = self.queue.pop(&mut places) {
            // From the left, as they are mostly found, in bursts; sorting what is sorted is cheap.
            places.sort_unstable();
            for (i, &place) in places.iter().enumerate() {
                if self.waiting[place as usize] != rank {
                    continue;
                }
                // A token made of this one that joins at a lower rank goes before the rest.
                if self.join(ranks, place, rank, n) < rank {
                    places[i + 1..].iter().for_each(|&later| self.queue.push(rank, later));
                    break;
                }
            }
        }
        self.places = places;
        let mut at = 0;
        while at < n {
            out.push(self.tokens[at]);
            at = self.next[at] as usize;
        }
        self.shrink();
    }

    fn start(&mut self, ranks: &Ranks, piece: &[u8]) {
        let n = piece.len() as u32;
        self.tokens.clear();
        self.tokens.extend(piece.iter().map(|&byte| ranks.byte_ids[byte as usize]));
        self.next.clear();
        self.next.extend(1..=n);
        self.previous.clear();
        self.previous.extend((0..n).map(|i| i.saturating_sub(1)));
        self.waiting.clear();
        self.waiting.extend(piece.windows(2).map(|pair| ranks.joined_bytes(pair[0], pair[1])));
        self.waiting.push(NO_TOKEN);
        self.queue.start(ranks.n_tokens);
        // Backwards, because a bucket gives back the last first.
        for (place, &rank) in self.waiting.iter().enumerate().rev() {
            if rank != NO_TOKEN {
                self.queue.push(rank, place as u32);
            }
        }
    }

    /// Joins the token at `place` with the next into `id`; returns the lowest rank this brought up.
    #[inline(always)]
    fn join(&mut self, ranks: &Ranks, place: u32, id: u32, n: usize) -> u32 {
        let at = place as usize;
        let gone = self.next[at] as usize;
        let after = self.next[gone] as usize;
        self.tokens[at] = id;
        self.next[at] = after as u32;
        self.waiting[gone] = NO_TOKEN;
        self.waiting[at] = NO_TOKEN;
        let mut lowest = NO_TOKEN;
        if after < n {
            self.previous[after] = place;
            let rank = ranks.joined(id, self.tokens[after]);
            self.waiting[at] = rank;
            if rank != NO_TOKEN {
                self.queue.push(rank, place);
                lowest = rank;
            }
        }
        if at > 0 {
            let before = self.previous[at];
            let rank = ranks.joined(self.tokens[before as usize], id);
            self.waiting[before as usize] = rank;
            if rank != NO_TOKEN {
                self.queue.push(rank, before);
                lowest = lowest.min(rank);
            }
        }
        lowest
    }

    /// After a piece of many megabytes its memory is not kept.
    fn shrink(&mut self) {
        if self.tokens.len() > 1 << 20 {
            *self = Self::default();
        }
    }
}

/// A queue of places by rank: a linked list for each rank, and a bit for each that is not empty.
#[derive(Default)]
struct Buckets {
    first: Vec<u32>,
    bits: Vec<u64>,
    /// No bit is set in the words before this one.
    lowest: usize,
    /// Place, and the next entry of the same rank.
    entries: Vec<(u32, u32)>,
}

impl Buckets {
    /// Empty, for ranks below `n_ranks`. What was pushed before must have been popped.
    fn start(&mut self, n_ranks: usize) {
        self.first.resize(n_ranks, NONE);
        self.bits.resize(n_ranks.div_ceil(64), 0);
        self.lowest = self.bits.len();
        self.entries.clear();
    }

    #[inline(always)]
    fn push(&mut self, rank: u32, place: u32) {
        let word = rank as usize / 64;
        self.bits[word] |= 1 << (rank % 64);
        self.lowest = self.lowest.min(word);
        let first = &mut self.first[rank as usize];
        self.entries.push((place, *first));
        *first = self.entries.len() as u32 - 1;
    }

    /// The lowest rank, and all its places into `places`.
    fn pop(&mut self, places: &mut Vec<u32>) -> Option<u32> {
        places.clear();
        let word = (self.lowest..self.bits.len()).find(|&word| self.bits[word] != 0)?;
        self.lowest = word;
        let rank = word as u32 * 64 + self.bits[word].trailing_zeros();
        self.bits[word] &= self.bits[word] - 1;
        let mut entry = std::mem::replace(&mut self.first[rank as usize], NONE);
        while entry != NONE {
            let (place, next) = self.entries[entry as usize];
            places.push(place);
            entry = next;
        }
        Some(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::vocabulary::Vocabulary;
    use crate::{N_BYTES, Pair};
    use proptest::prelude::*;

    /// The rule itself: look at all neighbours, join the first of the lowest id, start again.
    fn by_definition(vocabulary: &Vocabulary, piece: &[u8]) -> Vec<u32> {
        let ids = vocabulary.ids();
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        loop {
            let ranked = parts.windows(2).enumerate();
            let ranked = ranked.filter_map(|(i, w)| ids.get(&w.concat()[..]).map(|&id| (id, i)));
            let Some((_, at)) = ranked.min() else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        parts.iter().map(|part| ids[&part[..]]).collect()
    }

    /// Merges over the letters a-d, every one legal, with repeats and duplicates as they come.
    fn merges() -> impl Strategy<Value = Vec<Pair>> {
        let choice = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
        prop::collection::vec(choice, 0..40).prop_map(|choices| {
            let id = |choice: prop::sample::Index, done: usize| match choice.index(4 + done) {
                letter @ 0..4 => u32::from(b'a') + letter as u32,
                merge => (N_BYTES + merge - 4) as u32,
            };
            choices.into_iter().enumerate().map(|(done, (l, r))| (id(l, done), id(r, done))).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

        #[test]
        fn short_and_long_merging_follow_the_definition(merges in merges(), piece in "[a-d]{2,64}|a{2,64}|(ab|abc){1,20}") {
            let order: Vec<u8> = (0..=u8::MAX).collect();
            let vocabulary = Vocabulary::new(&order, merges, vec![]).unwrap();
            let ranks = Ranks::new(&vocabulary);
            let expected = by_definition(&vocabulary, piece.as_bytes());
            let (mut short, mut long) = (Vec::new(), Vec::new());
            merge_short(&ranks, piece.as_bytes(), &mut short);
            prop_assert_eq!(&short, &expected);
            let mut merger = LongMerger::default();
            for _ in 0..2 {
                long.clear();
                merger.merge(&ranks, piece.as_bytes(), &mut long);
                prop_assert_eq!(&long, &expected);
            }
        }
    }
}
