//! Which two neighbours join to a token, and to which: the inner question of encoding.

use super::merge::LongMerger;
use super::vocabulary::Vocabulary;
use crate::N_BYTES;

/// The rank of two neighbours that do not join to a token. Ranks fit 21 bits, and so positive `i32`s with room for six
/// more.
pub const NO_TOKEN: u32 = u32::MAX;

const ID_BITS: u32 = 21;
pub const MAX_TOKENS: usize = 1 << ID_BITS;

const EMPTY: u64 = u64::MAX;

/// For two neighbouring tokens the id of the token they join to: that id is also the rank of joining them.
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
    /// Finds the one pair that each token is joined from.
    ///
    /// Neighbours can only join to a token in the state in which the rule, applied to that token's bytes alone, has two
    /// left: nothing outside of them takes part before they are joined. So the tokens are merged in the order of their
    /// lengths, each by what is known of shorter ones. One that leaves more than two is never reached by merging.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let ids = vocabulary.ids();
        let n_slots = (2 * ids.len()).next_power_of_two();
        let mut ranks = Self {
            of_bytes: vec![NO_TOKEN; N_BYTES * N_BYTES].into_boxed_slice(),
            slots: vec![EMPTY; n_slots],
            shift: u64::BITS - n_slots.trailing_zeros(),
            byte_ids: [0; N_BYTES],
            n_tokens: vocabulary.tokens.len(),
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
                ranks.insert(left, right, id);
            }
            if let &[left, right] = token {
                ranks.of_bytes[left as usize * N_BYTES + right as usize] = id;
            }
        }
        ranks
    }

    fn insert(&mut self, left: u32, right: u32, id: u32) {
        let pair = pack(left, right);
        let mut at = self.slot_of(pair);
        while self.slots[at] != EMPTY {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = pair << ID_BITS | u64::from(id);
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
}
