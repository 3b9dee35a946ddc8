//! What short pieces encode to, remembered.
//!
//! A [`Seeded`] table is filled once, with the vocabulary and the pieces that were commonest in training, and is then
//! shared by all threads without a lock. What it does not hold each thread remembers in [`Recent`], a table of fixed
//! size in which new pieces overwrite old ones.

use crate::key::{Key, prefetch};

/// Tokens an entry has room for.
pub const INLINE: usize = 3;

/// Two share a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub struct Entry {
    key: Key,
    pub ids: [u32; INLINE],
    /// How many ids, at most `INLINE`.
    pub n: u32,
}

impl Entry {
    fn new(key: Key, ids: &[u32]) -> Self {
        let mut entry = Self { key, ids: [0; INLINE], n: ids.len() as u32 };
        entry.ids[..ids.len()].copy_from_slice(ids);
        entry
    }
}

/// Open addressing, at most half full; the length is a power of two.
pub struct Seeded {
    entries: Vec<Entry>,
    used: usize,
}

impl Seeded {
    pub fn with_room_for(n: usize) -> Self {
        Self { entries: vec![Entry::default(); (2 * n).next_power_of_two().max(2)], used: 0 }
    }

    /// Remembers a piece unless it is known or has too many tokens.
    pub fn insert(&mut self, key: Key, ids: &[u32]) {
        if ids.len() > INLINE || 2 * self.used >= self.entries.len() || self.get(key, key.hash()).is_some() {
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
    pub fn get(&self, key: Key, hash: u64) -> Option<&Entry> {
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let entry = &self.entries[at];
            if entry.key == key {
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

/// Pairs of entries, the newer first. Its memory is only touched as it fills.
pub struct Recent(Vec<[Entry; 2]>);

impl Default for Recent {
    fn default() -> Self {
        Self(vec![[Entry::default(); 2]; RECENT_ENTRIES / 2])
    }
}

impl Recent {
    #[inline(always)]
    pub fn get(&self, key: Key, hash: u64) -> Option<&Entry> {
        self.0[Self::pair_of(hash)].iter().find(|entry| entry.key == key)
    }

    pub fn insert(&mut self, key: Key, hash: u64, ids: &[u32]) {
        if ids.len() <= INLINE {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = (Key, [u32; 2])> {
        (0..5_000_u32).map(|i| (Key::of(format!("k{i}").as_bytes()).unwrap(), [i, i + 1]))
    }

    #[test]
    fn a_seeded_table_gives_back_what_it_was_given() {
        let mut table = Seeded::with_room_for(5_000);
        keys().for_each(|(key, ids)| table.insert(key, &ids));
        for (key, ids) in keys() {
            let found = table.get(key, key.hash()).unwrap();
            assert_eq!((found.ids[..2].to_vec(), found.n), (ids.to_vec(), 2));
        }
        let absent = Key::of(b"absent").unwrap();
        table.insert(absent, &[1, 2, 3, 4]);
        assert!(table.get(absent, absent.hash()).is_none());
    }

    #[test]
    fn a_full_seeded_table_stays_searchable() {
        let mut table = Seeded::with_room_for(10);
        keys().for_each(|(key, ids)| table.insert(key, &ids));
        assert!(keys().filter(|&(key, _)| table.get(key, key.hash()).is_some()).count() >= 10);
    }

    #[test]
    fn recent_pieces_are_right_or_forgotten() {
        let mut recent = Recent::default();
        keys().for_each(|(key, ids)| recent.insert(key, key.hash(), &ids));
        let found = keys().filter(|&(key, ids)| {
            recent.get(key, key.hash()).is_some_and(|entry| {
                assert_eq!(entry.ids[..2], ids);
                true
            })
        });
        assert!(found.count() > 4_500);
    }
}
