//! Caches the ids of pieces.
//!
//! A [`Seeded`] table is filled once, with the vocabulary and the pieces that were most frequent in training, and is
//! then
//! shared by all threads without a lock. Each thread caches other pieces in [`Recent`], a table of fixed size in which
//! new pieces overwrite old ones.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::id::Id;
use crate::key::{CountedKey, Key};
use crate::memory::{filled_table, prefetch};

/// The integer type of ids in entries: 16 bits if all ids of a vocabulary fit, which makes room for twice as many.
pub trait Slot: Id + Default {
    /// As many ids as fit into sixteen bytes.
    type Slots: Copy + Default + AsRef<[Self]> + AsMut<[Self]>;
    const ROOM: usize = 16 / size_of::<Self>();

    /// Writes all of them to `room`, which has length `ROOM`.
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

#[derive(Clone, Copy, Default)]
pub struct Entry<S: Slot> {
    key: CountedKey,
    /// The ids, then zeros.
    pub slots: S::Slots,
}

/// A cache line of two entries. Both are always compared: a branch between them would often be mispredicted.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line<S: Slot>([Entry<S>; 2]);

impl<S: Slot> Line<S> {
    #[inline(always)]
    fn find(&self, key: Key) -> Option<usize> {
        let [first, second] = self.0.each_ref().map(|entry| entry.key.is(key));
        (first | second).then_some(usize::from(second))
    }
}

impl<S: Slot> Entry<S> {
    /// `ids` are at most `S::ROOM`.
    fn new(key: Key, ids: &[u32]) -> Self {
        let mut slots = S::Slots::default();
        for (slot, &id) in slots.as_mut().iter_mut().zip(ids) {
            *slot = S::of(id);
        }
        Self { key: key.counted(ids.len()), slots }
    }

    /// Number of ids.
    #[inline(always)]
    pub fn n(&self) -> usize {
        self.key.count()
    }

    pub fn ids(&self) -> &[S] {
        &self.slots.as_ref()[..self.n()]
    }
}

/// Open addressing by lines, at most half full; the number of lines is a power of two.
pub struct Seeded<S: Slot> {
    lines: Vec<Line<S>>,
    used: usize,
}

/// The position of an entry that does not exist.
const NOWHERE: usize = usize::MAX;

impl<S: Slot> Seeded<S> {
    pub fn with_room_for(n: usize) -> Self {
        Self { lines: filled_table(Line::default(), n.next_power_of_two()), used: 0 }
    }

    /// Adds a piece unless it is there or has too many tokens.
    pub fn insert(&mut self, key: Key, ids: &[u32]) {
        if ids.len() > S::ROOM || self.used >= self.lines.len() || self.get(key).is_some() {
            return;
        }
        let mut line = self.line_of(key.hash());
        let free = loop {
            match self.lines[line].0.iter_mut().find(|entry| entry.key.is_empty()) {
                Some(free) => break free,
                None => line = (line + 1) & (self.lines.len() - 1),
            }
        };
        *free = Entry::new(key, ids);
        self.used += 1;
    }

    /// The line in which the search for a piece starts.
    #[inline(always)]
    pub fn line_of(&self, hash: u64) -> usize {
        hash as usize & (self.lines.len() - 1)
    }

    /// The position of a piece's entry, searched from `line` on; `NOWHERE` if there is none.
    #[inline(always)]
    pub fn find(&self, key: Key, line: usize) -> usize {
        let entries = &self.lines[line];
        match entries.find(key) {
            Some(second) => 2 * line + second,
            None if entries.0[1].key.is_empty() => NOWHERE,
            None => self.find_behind(key, line),
        }
    }

    #[inline(never)]
    fn find_behind(&self, key: Key, line: usize) -> usize {
        self.find(key, (line + 1) & (self.lines.len() - 1))
    }

    #[inline(always)]
    pub fn at(&self, place: usize) -> Option<&Entry<S>> {
        Some(&self.lines.get(place / 2)?.0[place % 2])
    }

    pub fn get(&self, key: Key) -> Option<&Entry<S>> {
        self.at(self.find(key, self.line_of(key.hash())))
    }

    #[inline(always)]
    pub fn prefetch(&self, line: usize) {
        prefetch(&self.lines, line);
    }
}

const RECENT_LINES: usize = 1 << 15;

/// In each line the newer entry comes first.
pub struct Recent<S: Slot>(Vec<Line<S>>);

impl<S: Slot> Default for Recent<S> {
    fn default() -> Self {
        Self(filled_table(Line::default(), RECENT_LINES))
    }
}

impl<S: Slot> Recent<S> {
    pub fn get(&self, key: Key, hash: u64) -> Option<&Entry<S>> {
        let line = &self.0[Self::line_of(hash)];
        line.find(key).map(|second| &line.0[second])
    }

    pub fn insert(&mut self, key: Key, hash: u64, ids: &[u32]) {
        if ids.len() <= S::ROOM {
            let Line(entries) = &mut self.0[Self::line_of(hash)];
            entries[1] = entries[0];
            entries[0] = Entry::new(key, ids);
        }
    }

    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.0, Self::line_of(hash));
    }

    /// From the high bits, because the seeded table uses the low ones.
    fn line_of(hash: u64) -> usize {
        (hash >> 32) as usize % RECENT_LINES
    }
}

/// The ids of pieces that are too long for a key, such as rulers and long words; a new piece replaces an old one.
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
    /// Longer pieces hardly ever recur.
    pub const MAX_LEN: usize = 256;

    /// The ids of the piece, computed by `merge` if they are not cached.
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
            assert_eq!(table.get(key).unwrap().ids(), ids.map(|id| id as u16));
        }
        let absent = Key::of(b"absent").unwrap();
        table.insert(absent, &[1; 9]);
        assert!(table.get(absent).is_none());
    }

    #[test]
    fn a_full_seeded_table_stays_searchable() {
        let mut table = Seeded::<u32>::with_room_for(10);
        keys().for_each(|(key, ids)| table.insert(key, &ids));
        assert!(keys().filter(|&(key, _)| table.get(key).is_some()).count() >= 10);
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
