//! What short pieces encode to, remembered.
//!
//! A [`Seeded`] table is filled once, with the vocabulary and the pieces that were commonest in training, and is then
//! shared by all threads without a lock. What it does not hold each thread remembers in [`Recent`], a table of fixed
//! size in which new pieces overwrite old ones.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::encoder::Id;
use crate::key::{CountedKey, Key};
use crate::memory::{filled_table, prefetch};

/// What entries hold ids as: uint16 where all ids of a vocabulary fit, which leaves room for twice as many.
pub trait Slot: Id + Default {
    /// As many as fit sixteen bytes.
    type Slots: Copy + Default + AsRef<[Self]> + AsMut<[Self]>;
    const ROOM: usize = 16 / size_of::<Self>();

    /// Writes all of them to `room`, which has `ROOM` places.
    fn put<I: Id>(slots: &Self::Slots, room: &mut [I]);
}

macro_rules! slot {
    ($type:ty, $room:literal) => {
        impl Slot for $type {
            type Slots = [Self; $room];
            #[inline(always)]
            fn put<I: Id>(slots: &Self::Slots, room: &mut [I]) {
                room.copy_from_slice(&slots.map(|id| I::of(id.into())));
            }
        }
    };
}
slot!(u16, 8);
slot!(u32, 4);

/// Two share a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub struct Entry<S: Slot> {
    key: CountedKey,
    /// The ids and, behind them, zeros.
    pub slots: S::Slots,
}

impl<S: Slot> Entry<S> {
    /// Of at most `S::ROOM` ids.
    fn new(key: Key, ids: &[u32]) -> Self {
        let mut slots = S::Slots::default();
        for (slot, &id) in slots.as_mut().iter_mut().zip(ids) {
            *slot = S::of(id);
        }
        Self { key: key.counted(ids.len()), slots }
    }

    /// How many ids.
    #[inline(always)]
    pub fn n(&self) -> usize {
        self.key.count()
    }

    pub fn ids(&self) -> &[S] {
        &self.slots.as_ref()[..self.n()]
    }
}

/// Open addressing, at most half full; the length is a power of two.
pub struct Seeded<S: Slot> {
    entries: Vec<Entry<S>>,
    used: usize,
}

impl<S: Slot> Seeded<S> {
    pub fn with_room_for(n: usize) -> Self {
        Self { entries: filled_table(Entry::default(), (2 * n).next_power_of_two().max(2)), used: 0 }
    }

    /// Remembers a piece unless it is known or has too many tokens.
    pub fn insert(&mut self, key: Key, ids: &[u32]) {
        if ids.len() > S::ROOM || 2 * self.used >= self.entries.len() || self.get(key, key.hash()).is_some() {
            return;
        }
        let mask = self.entries.len() - 1;
        let mut at = key.hash() as usize & mask;
        while !self.entries[at].key.is_empty() {
            at = (at + 1) & mask;
        }
        self.entries[at] = Entry::new(key, ids);
        self.used += 1;
    }

    #[inline(always)]
    pub fn get(&self, key: Key, hash: u64) -> Option<&Entry<S>> {
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let entry = &self.entries[at];
            if entry.key.is(key) {
                return Some(entry);
            }
            if entry.key.is_empty() {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.entries, hash as usize & (self.entries.len() - 1));
    }
}

const RECENT_ENTRIES: usize = 1 << 16;

/// Pairs of entries, the newer first.
pub struct Recent<S: Slot>(Vec<[Entry<S>; 2]>);

impl<S: Slot> Default for Recent<S> {
    fn default() -> Self {
        Self(filled_table([Entry::default(); 2], RECENT_ENTRIES / 2))
    }
}

impl<S: Slot> Recent<S> {
    #[inline(always)]
    pub fn get(&self, key: Key, hash: u64) -> Option<&Entry<S>> {
        self.0[Self::pair_of(hash)].iter().find(|entry| entry.key.is(key))
    }

    pub fn insert(&mut self, key: Key, hash: u64, ids: &[u32]) {
        if ids.len() <= S::ROOM {
            let pair = &mut self.0[Self::pair_of(hash)];
            pair[1] = pair[0];
            pair[0] = Entry::new(key, ids);
        }
    }

    /// The seeded table takes the low bits.
    fn pair_of(hash: u64) -> usize {
        (hash >> 32) as usize % (RECENT_ENTRIES / 2)
    }
}

/// What pieces too long for a key encode to, those of a text's rulers and long words; a new one takes the place of an old.
pub struct RecentLong {
    entries: Vec<LongEntry>,
}

#[derive(Clone, Default)]
struct LongEntry {
    piece: Vec<u8>,
    ids: Vec<u32>,
}

impl Default for RecentLong {
    fn default() -> Self {
        Self { entries: vec![LongEntry::default(); Self::ENTRIES] }
    }
}

impl RecentLong {
    const ENTRIES: usize = 1 << 13;
    /// Longer pieces hardly come again.
    pub const MAX_LEN: usize = 256;

    /// The ids of the piece, found by `merge` if they are not remembered.
    pub fn get_or(&mut self, piece: &[u8], merge: impl FnOnce(&mut Vec<u32>)) -> &[u32] {
        let hash = FxBuildHasher.hash_one(piece);
        let entry = &mut self.entries[hash as usize % Self::ENTRIES];
        if entry.piece != piece {
            entry.piece.clear();
            entry.piece.extend_from_slice(piece);
            entry.ids.clear();
            merge(&mut entry.ids);
        }
        &entry.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = (Key, [u32; 2])> {
        (0..5_000_u32).map(|i| (Key::of(format!("k{i}").as_bytes()).unwrap(), [i, i + 1]))
    }

    #[test]
    fn a_seeded_table_gives_back_what_it_was_given() {
        let mut table = Seeded::<u16>::with_room_for(5_000);
        keys().for_each(|(key, ids)| table.insert(key, &ids));
        for (key, ids) in keys() {
            assert_eq!(table.get(key, key.hash()).unwrap().ids(), ids.map(|id| id as u16));
        }
        let absent = Key::of(b"absent").unwrap();
        table.insert(absent, &[1; 9]);
        assert!(table.get(absent, absent.hash()).is_none());
    }

    #[test]
    fn a_full_seeded_table_stays_searchable() {
        let mut table = Seeded::<u32>::with_room_for(10);
        keys().for_each(|(key, ids)| table.insert(key, &ids));
        assert!(keys().filter(|&(key, _)| table.get(key, key.hash()).is_some()).count() >= 10);
    }

    #[test]
    fn recent_pieces_are_right_or_forgotten() {
        let mut recent = Recent::<u32>::default();
        keys().for_each(|(key, ids)| recent.insert(key, key.hash(), &ids));
        let found = keys().filter(|&(key, ids)| {
            recent.get(key, key.hash()).is_some_and(|entry| {
                assert_eq!(entry.ids(), ids);
                true
            })
        });
        assert!(found.count() > 4_500);
    }

    #[test]
    fn a_recent_long_piece_is_merged_once() {
        let mut recent = RecentLong::default();
        assert_eq!(recent.get_or(b"a ruler of any kind", |ids| ids.extend([1, 2])), [1, 2]);
        assert_eq!(recent.get_or(b"a ruler of any kind", |_| unreachable!("it is known")), [1, 2]);
        assert_eq!(recent.get_or(b"another one, longer", |ids| ids.push(3)), [3]);
    }
}
