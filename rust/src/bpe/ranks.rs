//! Which two neighbours join to a token, and to which: the inner question of encoding.

use super::merge::LongMerger;
use super::vocabulary::Vocabulary;
use crate::N_BYTES;
use crate::memory::filled_table;

/// The rank of two neighbours that do not join to a token. Ranks fit 21 bits.
pub const NO_TOKEN: u32 = u32::MAX;

const ID_BITS: u32 = 21;
pub const MAX_TOKENS: usize = 1 << ID_BITS;

/// For two neighbouring tokens the id of the token they join to: that id is also the rank of joining them.
pub struct Ranks {
    /// Of byte values, not ids.
    of_bytes: Box<[u32]>,
    pairs: PairTable,
    pub byte_ids: [u32; N_BYTES],
    /// Bytes of every ordinary token, and of the longest.
    pub lengths: Box<[u32]>,
    pub longest: usize,
}

impl Ranks {
    /// Finds the one pair that each token is joined from.
    ///
    /// Neighbours can only join to a token in the state in which the rule, applied to that token's bytes alone, has two
    /// left: nothing outside of them takes part before they are joined. So the tokens are merged in the order of their
    /// lengths, each by what is known of shorter ones. One that leaves more than two is never reached by merging.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let ids = vocabulary.ids();
        let lengths: Box<[u32]> = vocabulary.tokens.iter().map(|token| token.len() as u32).collect();
        let mut ranks = Self {
            of_bytes: vec![NO_TOKEN; N_BYTES * N_BYTES].into_boxed_slice(),
            pairs: PairTable::with_room_for(ids.len()),
            byte_ids: [0; N_BYTES],
            longest: lengths.iter().copied().max().unwrap_or(1) as usize,
            lengths,
        };
        for (id, &byte) in vocabulary.byte_order().iter().enumerate() {
            ranks.byte_ids[byte as usize] = id as u32;
        }
        let mut by_length: Vec<(&[u8], u32)> = ids.into_iter().filter(|(token, _)| token.len() > 1).collect();
        by_length.sort_unstable_by_key(|(token, _)| token.len());
        let (mut merger, mut parts) = (LongMerger::default(), Vec::new());
        for (token, id) in by_length {
            parts.clear();
            merger.merge_any(&ranks, token, &mut parts);
            if let &[left, right] = &parts[..] {
                ranks.pairs.insert(pack(left, right), id);
            }
            if let &[left, right] = token {
                ranks.of_bytes[left as usize * N_BYTES + right as usize] = id;
            }
        }
        ranks
    }

    /// The id of two neighbouring tokens joined, or `NO_TOKEN`.
    #[inline(always)]
    pub fn joined(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(pack(left, right))
    }

    /// As `joined`, of two byte values.
    #[inline(always)]
    pub fn joined_bytes(&self, left: u8, right: u8) -> u32 {
        self.of_bytes[left as usize * N_BYTES + right as usize]
    }
}

#[inline(always)]
fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// Ids by pair, in one word each. Every pair has two buckets of two slots it may be in (cuckoo hashing, Pagh and Rodler
/// 2004), so that a look-up, which mostly finds nothing, always reads the same four slots and never branches on them.
struct PairTable {
    /// The number of buckets is a power of two.
    buckets: Vec<[u64; 2]>,
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

/// Pairs that may be moved to make room for one.
const MOST_MOVES: usize = 100;

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

    /// Of a pair that is not in the table.
    fn insert(&mut self, pair: u64, id: u32) {
        let mut slot = pair << ID_BITS | u64::from(id);
        let mut to = 0;
        for moves in 0..MOST_MOVES {
            let choices = self.buckets_of(slot >> ID_BITS);
            for bucket in choices {
                if let Some(free) = self.buckets[bucket].iter_mut().find(|slot| **slot == EMPTY) {
                    *free = slot;
                    return;
                }
            }
            // The one that gives way goes to its other bucket.
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
    fn a_token_is_joined_from_what_the_rule_leaves_of_it() {
        let order: Vec<u8> = (0..=u8::MAX).rev().collect();
        let byte = |b: u8| 255 - u32::from(b);
        // abc is learned as ab + c, but bc has the lower rank, so that a + bc is what abc is joined from.
        let merges = vec![(byte(b'b'), byte(b'c')), (byte(b'a'), byte(b'b')), (257, byte(b'c')), (256, byte(b'd'))];
        let ranks = Ranks::new(&Vocabulary::new(&order, merges, vec![]).unwrap());
        assert_eq!((ranks.joined(byte(b'b'), byte(b'c')), ranks.joined_bytes(b'b', b'c')), (256, 256));
        assert_eq!((ranks.joined(byte(b'a'), 256), ranks.joined(256, byte(b'd'))), (258, 259));
        assert_eq!((ranks.joined(257, byte(b'c')), ranks.joined_bytes(b'd', b'b')), (NO_TOKEN, NO_TOKEN));
        assert_eq!(ranks.byte_ids[usize::from(b'a')], byte(b'a'));
    }

    #[test]
    fn a_pair_table_finds_what_it_holds_and_nothing_else() {
        let pairs: Vec<u64> = (0..20_000_u32).map(|i| pack(i % 150, i / 150 * 7)).collect();
        // Far too small, so that it has to grow.
        let mut table = PairTable::with_room_for(16);
        for (id, &pair) in pairs.iter().enumerate() {
            assert_eq!(table.get(pair), NO_TOKEN);
            table.insert(pair, id as u32);
        }
        assert!(pairs.iter().enumerate().all(|(id, &pair)| table.get(pair) == id as u32));
        assert!((0..20_000).all(|i| table.get(pack(i, 3)) == NO_TOKEN));
    }
}
