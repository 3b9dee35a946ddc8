//! Which two neighbours join to a token, and to which: the inner question of encoding.

use std::collections::BTreeSet;

use super::vocabulary::Vocabulary;
use crate::N_BYTES;

/// The rank of two neighbours that do not join to a token. Ranks fit 21 bits, and so positive `i32`s with room for six
/// more.
pub const NO_TOKEN: u32 = u32::MAX;

const ID_BITS: u32 = 21;
pub const MAX_TOKENS: usize = 1 << ID_BITS;

const EMPTY: u64 = u64::MAX;

/// For any two tokens the id of the token they join to: that id is also the rank of joining them.
pub struct Ranks {
    /// Of byte values, not ids.
    of_bytes: Box<[u32]>,
    /// Open addressing; left, right and joined id in one word. The length is a power of two.
    slots: Vec<u64>,
    shift: u32,
    pub byte_ids: [u32; N_BYTES],
    pub n_tokens: usize,
}

impl Ranks {
    /// Lists every token with every way to cut it into two. Only cuts after a length that some token has are tried,
    /// since a token of a million spaces has a million cuts.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let ids = vocabulary.ids();
        let lengths: BTreeSet<usize> = vocabulary.tokens.iter().map(|token| token.len()).collect();
        let mut joined = Vec::new();
        let mut of_bytes = vec![NO_TOKEN; N_BYTES * N_BYTES].into_boxed_slice();
        for (&token, &id) in &ids {
            if let &[left, right] = token {
                of_bytes[left as usize * N_BYTES + right as usize] = id;
            }
            for &cut in lengths.range(..token.len()) {
                let (left, right) = token.split_at(cut);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    joined.push(pack(left, right) << ID_BITS | u64::from(id));
                }
            }
        }
        let n_slots = (2 * joined.len()).next_power_of_two().max(2);
        let mut ranks = Self {
            of_bytes,
            slots: vec![EMPTY; n_slots],
            shift: u64::BITS - n_slots.trailing_zeros(),
            byte_ids: [0; N_BYTES],
            n_tokens: vocabulary.tokens.len(),
        };
        for (id, &byte) in vocabulary.byte_order().iter().enumerate() {
            ranks.byte_ids[byte as usize] = id as u32;
        }
        for entry in joined {
            let mut at = ranks.slot_of(entry >> ID_BITS);
            while ranks.slots[at] != EMPTY {
                at = (at + 1) & (n_slots - 1);
            }
            ranks.slots[at] = entry;
        }
        ranks
    }

    fn slot_of(&self, pair: u64) -> usize {
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// The id of two neighbouring tokens joined, or `NO_TOKEN`.
    #[inline(always)]
    pub fn joined(&self, left: u32, right: u32) -> u32 {
        let pair = pack(left, right);
        let mut at = self.slot_of(pair);
        loop {
            let slot = self.slots[at];
            if slot >> ID_BITS == pair {
                return slot as u32 & (MAX_TOKENS as u32 - 1);
            }
            if slot == EMPTY {
                return NO_TOKEN;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// As `joined`, of two byte values.
    #[inline(always)]
    pub fn joined_bytes(&self, left: u8, right: u8) -> u32 {
        self.of_bytes[left as usize * N_BYTES + right as usize]
    }
}

fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_token_joins_to_it_and_nothing_else_does() {
        let order: Vec<u8> = (0..=u8::MAX).rev().collect();
        let byte = |b: u8| 255 - u32::from(b);
        let merges = vec![(byte(b'a'), byte(b'b')), (256, byte(b'c')), (byte(b'b'), byte(b'c'))];
        let ranks = Ranks::new(&Vocabulary::new(&order, merges, vec![]).unwrap());
        assert_eq!((ranks.joined(byte(b'a'), byte(b'b')), ranks.joined_bytes(b'a', b'b')), (256, 256));
        assert_eq!((ranks.joined(256, byte(b'c')), ranks.joined(byte(b'a'), 258)), (257, 257));
        assert_eq!((ranks.joined(256, 256), ranks.joined_bytes(b'b', b'a')), (NO_TOKEN, NO_TOKEN));
        assert_eq!(ranks.byte_ids[usize::from(b'a')], byte(b'a'));
    }
}
