//! How often each distinct piece of a corpus occurs, which is all that training needs.
//!
//! Memory depends only on the distinct pieces. Tables of several threads, files or machines add up to the table of the
//! whole ([`PieceCounts::absorb`]); the order in which text was counted does not matter.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::key::{self, Key};
use crate::memory::{filled_table, prefetch};
use crate::specials::Specials;
use crate::split::{Sink, Splitter};

/// Number of pieces gathered before they are looked up, so that memory is fetched for one while others are counted.
const BATCH: usize = 64;

const FIRST_SLOTS: usize = 1 << 12;

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    count: u64,
}

/// Distinct pieces and their counts.
#[derive(Clone, Default)]
pub struct PieceCounts {
    /// Open addressing with linear probing, at most three quarters full; the length is a power of two.
    slots: Vec<Slot>,
    used: usize,
    long: FxHashMap<Box<[u8]>, u64>,
}

impl PieceCounts {
    /// Number of distinct pieces.
    pub fn len(&self) -> usize {
        self.used + self.long.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All pieces, each with its count, in no particular order.
    pub fn for_each(&self, visit: impl FnMut(&[u8], u64)) {
        self.for_each_of(0, 1, visit);
    }

    /// The pieces of one of `n` shares of similar size; each piece is in one of them.
    pub fn for_each_of(&self, share: usize, n: usize, mut visit: impl FnMut(&[u8], u64)) {
        let slots = self.slots.len();
        // They come in the order of their hashes, so equally long ranges hold about equally many pieces.
        for slot in &self.slots[slots * share / n..slots * (share + 1) / n] {
            if !slot.key.is_empty() {
                visit(&slot.key.bytes()[..slot.key.len()], slot.count);
            }
        }
        for (piece, &count) in self.long.iter().skip(share).step_by(n) {
            visit(piece, count);
        }
    }

    /// The `most` most frequent pieces that pass `wanted`; among equally frequent ones, those with smaller bytes first.
    pub fn top(&self, most: usize, wanted: impl Fn(&[u8]) -> bool) -> Vec<(Box<[u8]>, u64)> {
        let mut all: Vec<(Box<[u8]>, u64)> = Vec::new();
        let order = |a: &(Box<[u8]>, u64), b: &(Box<[u8]>, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        self.for_each(|piece, count| {
            if wanted(piece) {
                all.push((piece.into(), count));
            }
            if all.len() > 4 * most + 1_000_000 {
                all.select_nth_unstable_by(most, order);
                all.truncate(most);
            }
        });
        all.sort_unstable_by(order);
        all.truncate(most);
        all
    }

    pub fn add(&mut self, piece: &[u8], count: u64) {
        match Key::of(piece) {
            Some(key) => self.add_key(key, key.hash(), count),
            None => self.add_long(piece, count),
        }
    }

    /// Adds the counts of `other`.
    pub fn absorb(&mut self, other: Self) {
        if self.used < other.used {
            let mine = std::mem::replace(self, other);
            return self.absorb(mine);
        }
        // They come in the order of their hashes, so the slots after the last one hold pieces of both tables, and those
        // before
        // it only pieces of one.
        while 8 * (self.used + other.used) > 7 * self.slots.len() {
            self.grow();
        }
        for slot in other.slots {
            if !slot.key.is_empty() {
                self.add_key(slot.key, slot.key.hash(), slot.count);
            }
        }
        for (piece, count) in other.long {
            *self.long.entry(piece).or_default() += count;
        }
    }

    #[inline(never)]
    fn add_keys(&mut self, keys: &[(Key, u64)]) {
        for &(key, hash) in keys {
            self.add_key(key, hash, 1);
        }
    }

    #[inline(always)]
    fn add_key(&mut self, key: Key, hash: u64, count: u64) {
        if 4 * self.used >= 3 * self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.key == key {
                slot.count += count;
                return;
            }
            if slot.key.is_empty() {
                *slot = Slot { key, count };
                self.used += 1;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = filled_table(Slot::default(), (2 * self.slots.len()).max(FIRST_SLOTS));
        let mask = larger.len() - 1;
        let old = std::mem::replace(&mut self.slots, larger);
        for slot in old.into_iter().filter(|slot| !slot.key.is_empty()) {
            let mut at = slot.key.hash() as usize & mask;
            while !self.slots[at].key.is_empty() {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }

    #[cold]
    fn add_long(&mut self, piece: &[u8], count: u64) {
        match self.long.get_mut(piece) {
            Some(known) => *known += count,
            None => match self.long.entry(piece.into()) {
                Entry::Vacant(vacant) => drop(vacant.insert(count)),
                Entry::Occupied(_) => unreachable!("it was looked up"),
            },
        }
    }
}

/// Counts the pieces of texts: one thread's splitter, special tokens and table.
pub struct Counter<'s> {
    splitter: Splitter,
    specials: &'s Specials,
    counts: PieceCounts,
    waiting: [(Key, u64); BATCH],
    n_waiting: usize,
}

impl<'s> Counter<'s> {
    pub fn new(splitter: Splitter, specials: &'s Specials) -> Self {
        let waiting = [(Key::default(), 0); BATCH];
        Self { splitter, specials, counts: PieceCounts::default(), waiting, n_waiting: 0 }
    }

    /// Counts the pieces of one text. Special tokens in it split it and are not counted.
    pub fn add(&mut self, text: &[u8]) {
        let Self { splitter, specials, counts, waiting, n_waiting } = self;
        specials.between(text, |text| splitter.split(text, &mut Gather { text, counts, waiting, n_waiting }));
    }

    pub fn finish(mut self) -> PieceCounts {
        self.counts.add_keys(&self.waiting[..self.n_waiting]);
        self.counts
    }
}

/// Gathers pieces and prefetches their slots; counts a batch when it is full.
struct Gather<'a> {
    text: &'a [u8],
    counts: &'a mut PieceCounts,
    waiting: &'a mut [(Key, u64); BATCH],
    n_waiting: &'a mut usize,
}

impl Sink for Gather<'_> {
    #[inline(always)]
    fn piece(&mut self, start: usize, end: usize) {
        if end - start > key::MAX_LEN {
            return self.counts.add_long(&self.text[start..end], 1);
        }
        let key = Key::new(self.text, start, end);
        let hash = key.hash();
        prefetch(&self.counts.slots, hash as usize & self.counts.slots.len().wrapping_sub(1));
        self.waiting[*self.n_waiting] = (key, hash);
        *self.n_waiting += 1;
        if *self.n_waiting == BATCH {
            *self.n_waiting = 0;
            self.counts.add_keys(self.waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn as_map(counts: &PieceCounts) -> BTreeMap<Vec<u8>, u64> {
        let mut map = BTreeMap::new();
        counts.for_each(|piece, count| assert_eq!(map.insert(piece.to_vec(), count), None));
        assert_eq!(map.len(), counts.len());
        map
    }

    fn count(texts: &[&str], specials: &[&str]) -> PieceCounts {
        let specials = Specials::new(specials.iter().map(|&name| name.to_owned())).unwrap();
        let mut counter = Counter::new(Splitter::new(r"[a-z]+|\s+(?!\S)|.").unwrap(), &specials);
        for text in texts {
            counter.add(text.as_bytes());
        }
        counter.finish()
    }

    #[test]
    fn pieces_of_all_lengths_are_counted() {
        let words: Vec<String> =
            (0..20_000_u32).map(|i| format!("{:b}", i).replace('0', "a").replace('1', "b")).collect();
        let text = words.join(" ");
        let long = "c".repeat(40);
        let counted = as_map(&count(&[&text, &text, &long], &[]));
        assert_eq!(counted.len(), 20_000 + 2);
        assert!(words.iter().all(|word| counted[word.as_bytes()] == 2));
        assert_eq!((counted[&b" "[..]], counted[long.as_bytes()]), (2 * 19_999, 1));
    }

    #[test]
    fn tables_add_up() {
        let texts = ["a b c a", "b bb aaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaa a"];
        let mut sum = PieceCounts::default();
        for text in texts {
            sum.absorb(count(&[text], &[]));
        }
        assert_eq!(as_map(&sum), as_map(&count(&texts, &[])));
    }

    #[test]
    fn large_tables_with_little_in_common_add_up() {
        let table = |range: std::ops::Range<u64>| {
            let mut counts = PieceCounts::default();
            range.for_each(|n| counts.add(format!("{n:09}").repeat(1 + (n % 7 == 0) as usize).as_bytes(), n));
            counts
        };
        let mut sum = table(0..70_000);
        sum.absorb(table(60_000..130_000));
        let mut whole = table(0..130_000);
        whole.absorb(table(60_000..70_000));
        assert_eq!(as_map(&sum), as_map(&whole));
        assert!(4 * sum.used <= 3 * sum.slots.len());
    }

    #[test]
    fn every_piece_is_in_one_share() {
        let mut counts = PieceCounts::default();
        (0..5_000_u64).for_each(|n| counts.add(n.to_string().repeat(1 + n as usize % 5).as_bytes(), n + 1));
        for n in [1, 2, 3, 16] {
            let mut shares = BTreeMap::new();
            let sizes = (0..n).map(|share| {
                let before = shares.len();
                counts.for_each_of(share, n, |piece, count| assert_eq!(shares.insert(piece.to_vec(), count), None));
                shares.len() - before
            });
            assert!(sizes.collect::<Vec<_>>().iter().all(|size| (4_000..6_000).contains(&(size * n))));
            assert_eq!(shares, as_map(&counts));
        }
    }

    #[test]
    fn special_tokens_cut_the_text_and_are_not_counted() {
        let counted = as_map(&count(&["ab<|x|>cd"], &["<|x|>"]));
        assert_eq!(counted, BTreeMap::from([(b"ab".to_vec(), 1), (b"cd".to_vec(), 1)]));
    }

    #[test]
    fn the_top_is_by_count_and_then_by_bytes() {
        let counts = count(&["c c b b a"], &[]);
        let top: Vec<_> = counts.top(3, |piece| piece != b" ").into_iter().map(|(p, n)| (p.to_vec(), n)).collect();
        assert_eq!(top, [(b"b".to_vec(), 2), (b"c".to_vec(), 2), (b"a".to_vec(), 1)]);
    }
}
