//! A pair of tokens as one number.

use crate::Pair;

/// A pair in one word, in the order of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedPair(u64);

impl PackedPair {
    pub fn new(left: u32, right: u32) -> Self {
        Self(u64::from(left) << 32 | u64::from(right))
    }

    pub fn unpack(self) -> Pair {
        ((self.0 >> 32) as u32, self.0 as u32)
    }
}
