//! The lookup in the inner loop of encoding: which two neighbors join to which token.

use super::id::{ID_BITS, MAX_TOKENS, NO_TOKEN};
use super::vocabulary::Vocabulary;
use crate::N_BYTES;
use crate::memory::filled_table;

/// For two neighboring tokens, the id of the token that they join to, which is also the rank of joining them.
pub struct Ranks {
    /// Indexed by two byte values, not ids.
    of_bytes: Box<[u32]>,
    pairs: PairTable,
    pub byte_ids: [u32; N_BYTES],
    /// Length in bytes of every ordinary token, and of the longest.
    pub lengths: Box<[u32]>,
    pub longest: usize,
}

impl Ranks {
    /// The tokens of a vocabulary, with room for `n_pairs` pairs, none of which is known yet.
    pub fn without_pairs(vocabulary: &Vocabulary, n_pairs: usize) -> Self {
        let lengths: Box<[u32]> = vocabulary.tokens.iter().map(|token| token.len() as u32).collect();
        let mut ranks = Self {
            of_bytes: vec![NO_TOKEN; N_BYTES * N_BYTES].into_boxed_slice(),
            pairs: PairTable::with_room_for(n_pairs),
            byte_ids: [0; N_BYTES],
            longest: lengths.iter().copied().max().unwrap_or(1) as usize,
            lengths,
        };
        for (id, &byte) in vocabulary.byte_order().iter().enumerate() {
            ranks.byte_ids[byte as usize] = id as u32;
        }
        ranks
    }

    /// Adds that two neighboring tokens join to `id`. They must not have been inserted before.
    pub fn insert(&mut self, left: u32, right: u32, id: u32) {
        self.pairs.insert(pack(left, right), id);
    }

    /// Like `insert`, for two byte values.
    pub fn insert_bytes(&mut self, left: u8, right: u8, id: u32) {
        self.of_bytes[left as usize * N_BYTES + right as usize] = id;
    }

    /// The id of two neighboring tokens joined, or `NO_TOKEN`.
    #[inline(always)]
    pub fn joined(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(pack(left, right))
    }

    /// Like `joined`, for two byte values.
    #[inline(always)]
    pub fn joined_bytes(&self, left: u8, right: u8) -> u32 {
        self.of_bytes[left as usize * N_BYTES + right as usize]
    }
}

#[inline(always)]
fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// Ids by pair, in one word each. Every pair has two possible buckets of two slots (cuckoo hashing, Pagh and Rodler
/// 2004), so a lookup, which mostly finds nothing, always reads the same four slots and never branches on them.
struct PairTable {
    /// The number of buckets is a power of two.
    buckets: Vec<[u64; 2]>,
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

/// Maximum number of pairs that are moved to make room for one.
const MAX_MOVES: usize = 100;

impl PairTable {
    fn with_room_for(n: usize) -> Self {
        let n_buckets = n.next_power_of_two().max(2);
        Self { buckets: filled_table([EMPTY; 2], n_buckets), shift: u64::BITS - n_buckets.trailing_zeros() }
    }

    #[inline(always)]
    fn buckets_of(&self, pair: u64) -> [usize; 2] {
        let hash = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [(hash >> self.shift) as usize, (hash << (u64::BITS - self.shift) >> self.shift) as usize]
    }

    #[inline(always)]
    fn get(&self, pair: u64) -> u32 {
        let [first, second] = self.buckets_of(pair).map(|bucket| self.buckets[bucket]);
        let mut id = NO_TOKEN;
        for slot in [first[0], first[1], second[0], second[1]] {
            id = if slot >> ID_BITS == pair { slot as u32 & (MAX_TOKENS as u32 - 1) } else { id };
        }
        id
    }

    /// Adds a pair that is not in the table.
    fn insert(&mut self, pair: u64, id: u32) {
        let mut slot = pair << ID_BITS | u64::from(id);
        let mut to = 0;
        for moves in 0..MAX_MOVES {
            let choices = self.buckets_of(slot >> ID_BITS);
            for bucket in choices {
                if let Some(free) = self.buckets[bucket].iter_mut().find(|slot| **slot == EMPTY) {
                    *free = slot;
                    return;
                }
            }
            // Evict a pair to its other bucket.
            let full = if choices[0] == to { choices[1] } else { choices[0] };
            std::mem::swap(&mut self.buckets[full][moves % 2], &mut slot);
            to = full;
        }
        let mut larger = Self::with_room_for(2 * self.buckets.len());
        for slot in self.buckets.iter().flatten().copied().chain([slot]).filter(|&slot| slot != EMPTY) {
            larger.insert(slot >> ID_BITS, slot as u32 & (MAX_TOKENS as u32 - 1));
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_table_finds_what_it_holds_and_nothing_else() {
        let pairs: Vec<u64> = (0..20_000_u32).map(|i| pack(i % 150, i / 150 * 7)).collect();
        // Far too small, so that it must grow.
        let mut table = PairTable::with_room_for(16);
        for (id, &pair) in pairs.iter().enumerate() {
            assert_eq!(table.get(pair), NO_TOKEN);
            table.insert(pair, id as u32);
        }
        assert!(pairs.iter().enumerate().all(|(id, &pair)| table.get(pair) == id as u32));
        assert!((0..20_000).all(|i| table.get(pack(i, 3)) == NO_TOKEN));
    }
}
