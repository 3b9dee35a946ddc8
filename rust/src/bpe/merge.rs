//! Applies the rule of BPE to one piece.
//!
//! Short pieces are merged in arrays on the stack, by searching for the lowest rank repeatedly. Longer ones keep their
//! pairs in one bucket per rank. Very long ones are merged window by window, whose memory stays in the cache. This is
//! exact: a list of tokens is the result of the rule for their joined bytes exactly if any two neighbors are the result
//! for theirs, because the first merge across any other border would also happen in the two tokens alone. So windows
//! only
//! need to agree where they meet, and a piece of a million bytes takes linear time.

use super::id::NO_TOKEN;
use super::ranks::Ranks;

/// Pieces up to this many bytes count as short.
pub const SHORT: usize = 64;

/// Size of a window in bytes, unless tokens are so long that it would hold only a few of them.
const WINDOW: usize = 1 << 12;
const MIN_TOKENS_PER_WINDOW: usize = 32;

/// Tokens at the end of a window that are merged again in the next, because the following text may change them.
const LEFT_OVER: usize = 8;

/// Appends the tokens of a piece of 2 to `SHORT` bytes, in quadratic time.
pub fn merge_short(ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
    match piece.len() {
        ..=16 => merge_within::<16>(ranks, piece, out),
        17..=32 => merge_within::<32>(ranks, piece, out),
        _ => merge_within::<SHORT>(ranks, piece, out),
    }
}

/// Like `merge_short`, for a piece of at most `N` bytes.
fn merge_within<const N: usize>(ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
    let n = piece.len();
    // The rank of joining the token that starts at each position with the next one.
    let mut waiting = [NO_TOKEN; N];
    let mut tokens = [0_u32; N];
    let mut next = [0_u8; N];
    // Entries after the last token are written but never read.
    let mut previous = [0_u8; SHORT + 1];
    for i in 0..n {
        tokens[i] = ranks.byte_ids[piece[i] as usize];
        next[i] = i as u8 + 1;
        previous[i + 1] = i as u8;
    }
    for i in 0..n - 1 {
        waiting[i] = ranks.joined_bytes(piece[i], piece[i + 1]);
    }
    while let Some((at, id)) = lowest(&waiting[..n - 1]) {
        let gone = next[at] as usize;
        let after = next[gone] as usize;
        tokens[at] = id;
        next[at] = after as u8;
        previous[after] = at as u8;
        waiting[gone] = NO_TOKEN;
        waiting[at] = if after < n { ranks.joined(id, tokens[after]) } else { NO_TOKEN };
        if at > 0 {
            let before = previous[at] as usize;
            waiting[before] = ranks.joined(tokens[before], id);
        }
    }
    let mut at = 0;
    while at < n {
        out.push(tokens[at]);
        at = next[at] as usize;
    }
}

/// The first position of the lowest rank. A scalar loop, because a wide load of recently written data would stall (no
/// store forwarding).
#[inline(always)]
fn lowest(waiting: &[u32]) -> Option<(usize, u32)> {
    let mut best = (0, NO_TOKEN);
    for (at, &rank) in waiting.iter().enumerate() {
        best = if rank < best.1 { (at, rank) } else { best };
    }
    (best.1 != NO_TOKEN).then_some(best)
}

/// Merges long pieces; reuses its buffers.
#[derive(Default)]
pub struct LongMerger {
    /// The tokens, indexed by start position.
    nodes: Vec<Node>,
    queue: Buckets,
    places: Vec<u32>,
}

/// A token, the positions of its neighbors, and the rank of joining it with the next one.
#[derive(Clone, Copy, Default)]
struct Node {
    token: u32,
    next: u32,
    previous: u32,
    waiting: u32,
}

impl LongMerger {
    /// Appends the tokens of a piece of two or more bytes.
    pub fn merge_any(&mut self, ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
        let window = WINDOW.max(MIN_TOKENS_PER_WINDOW * ranks.longest);
        match piece.len() {
            ..=SHORT => merge_short(ranks, piece, out),
            n if n <= 2 * window => self.merge(ranks, piece, out),
            _ => self.merge_in_windows(ranks, piece, window, out),
        }
    }

    fn merge_in_windows(&mut self, ranks: &Ranks, piece: &[u8], least: usize, out: &mut Vec<u32>) {
        let (first, mut from, mut window) = (out.len(), 0, least);
        loop {
            let (start, to) = (out.len(), piece.len().min(from + window));
            self.merge(ranks, &piece[from..to], out);
            if start == first || self.stand_apart(ranks, out[start - 1], out[start], piece, from) {
                if to == piece.len() {
                    return;
                }
                from = to - take_back(ranks, out, out.len() - LEFT_OVER.min(out.len() - start - 1));
                window = least;
            } else {
                // The merge crosses the border between the windows: move the border, if necessary to the start.
                let keep = if window < piece.len() { start.saturating_sub(LEFT_OVER) } else { first };
                out.truncate(start);
                from -= take_back(ranks, out, keep.max(first));
                window *= 2;
            }
        }
    }

    /// Whether two neighbors that meet at `at` are the result of the rule for their bytes.
    fn stand_apart(&mut self, ranks: &Ranks, left: u32, right: u32, piece: &[u8], at: usize) -> bool {
        let [before, after] = [left, right].map(|token| ranks.lengths[token as usize] as usize);
        let mut tokens = Vec::with_capacity(2);
        self.merge_any(ranks, &piece[at - before..at + after], &mut tokens);
        tokens == [left, right]
    }

    fn merge(&mut self, ranks: &Ranks, piece: &[u8], out: &mut Vec<u32>) {
        let n = piece.len();
        self.start(ranks, piece);
        let mut places = std::mem::take(&mut self.places);
        while let Some(rank) = self.queue.pop(&mut places) {
            // Leftmost first. They are mostly sorted already, so sorting is cheap.
            places.sort_unstable();
            for (i, &place) in places.iter().enumerate() {
                if self.nodes[place as usize].waiting != rank {
                    continue;
                }
                // If the new token joins at a lower rank, that merge comes before the rest.
                if self.join(ranks, place, rank) < rank {
                    places[i + 1..].iter().for_each(|&later| self.queue.push(rank, later));
                    break;
                }
            }
        }
        self.places = places;
        let mut at = 0;
        while at < n {
            out.push(self.nodes[at].token);
            at = self.nodes[at].next as usize;
        }
        self.shrink();
    }

    fn start(&mut self, ranks: &Ranks, piece: &[u8]) {
        self.nodes.clear();
        self.nodes.extend(piece.iter().enumerate().map(|(at, &byte)| Node {
            token: ranks.byte_ids[byte as usize],
            next: at as u32 + 1,
            previous: at.saturating_sub(1) as u32,
            waiting: piece.get(at + 1).map_or(NO_TOKEN, |&after| ranks.joined_bytes(byte, after)),
        }));
        self.queue.start(ranks.lengths.len());
        // Backwards, because buckets are last in, first out.
        for (place, node) in self.nodes.iter().enumerate().rev() {
            if node.waiting != NO_TOKEN {
                self.queue.push(node.waiting, place as u32);
            }
        }
    }

    /// Joins the token at `place` with the next one into `id`; returns the lowest rank of the new pairs.
    #[inline(always)]
    fn join(&mut self, ranks: &Ranks, place: u32, id: u32) -> u32 {
        let (gone, before) = (self.nodes[place as usize].next, self.nodes[place as usize].previous);
        let after = self.nodes[gone as usize].next;
        self.nodes[gone as usize].waiting = NO_TOKEN;
        let mut with_next = NO_TOKEN;
        if let Some(node) = self.nodes.get_mut(after as usize) {
            node.previous = place;
            with_next = ranks.joined(id, node.token);
        }
        self.nodes[place as usize] = Node { token: id, next: after, previous: before, waiting: with_next };
        if with_next != NO_TOKEN {
            self.queue.push(with_next, place);
        }
        let mut with_previous = NO_TOKEN;
        if place > 0 {
            let node = &mut self.nodes[before as usize];
            with_previous = ranks.joined(node.token, id);
            node.waiting = with_previous;
            if with_previous != NO_TOKEN {
                self.queue.push(with_previous, before);
            }
        }
        with_next.min(with_previous)
    }

    /// Frees the buffers after a piece of many megabytes.
    fn shrink(&mut self) {
        if self.nodes.len() > 1 << 20 {
            *self = Self::default();
        }
    }
}

/// Truncates the list to `len` tokens; returns the number of bytes of the removed ones.
fn take_back(ranks: &Ranks, tokens: &mut Vec<u32>, len: usize) -> usize {
    tokens.drain(len..).map(|token| ranks.lengths[token as usize] as usize).sum()
}

const NONE: u32 = u32::MAX;

/// A priority queue of positions by rank: a linked list for each rank, and a bit for each non-empty list.
#[derive(Default)]
struct Buckets {
    first: Vec<u32>,
    bits: Vec<u64>,
    /// No bit is set in the words before this one.
    lowest: usize,
    /// Position, and the next entry of the same rank.
    entries: Vec<(u32, u32)>,
}

impl Buckets {
    /// Prepares for ranks below `n_ranks`. Everything pushed before must have been popped.
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

    /// Returns the lowest rank and puts all its positions into `places`.
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
    use crate::bpe::rank_builder::ranks_of;
    use crate::bpe::vocabulary::Vocabulary;
    use crate::{N_BYTES, Pair};
    use proptest::prelude::*;

    /// The rule itself: look at all neighbors, join the first pair with the lowest id, start again.
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

    /// Valid merges over the letters a-d, with random repeats and duplicates.
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
            let ranks = ranks_of(&vocabulary);
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
            for window in [16, 24] {
                long.clear();
                merger.merge_in_windows(&ranks, piece.as_bytes(), window, &mut long);
                prop_assert_eq!(&long, &expected);
            }
        }
    }
}
