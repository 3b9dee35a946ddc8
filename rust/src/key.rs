//! Pieces of up to fifteen bytes as two machine words: the keys of the tables for counting and encoding.
//!
//! Over 99 % of the pieces of ordinary text are that short. They are compared and hashed without following a pointer.

/// Longer pieces have no key.
pub const MAX_LEN: usize = 15;

/// The bytes of a piece, zero-padded, and its length in the last byte. The default is the empty piece, which no text
/// contains: tables use it for an empty slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    low: u64,
    high: u64,
}

const MASKS: [(u64, u64); MAX_LEN + 1] = {
    let mut masks = [(0, 0); MAX_LEN + 1];
    let mut len = 1;
    while len <= MAX_LEN {
        masks[len] = match len {
            ..8 => (u64::MAX >> (64 - 8 * len), 0),
            8 => (u64::MAX, 0),
            _ => (u64::MAX, u64::MAX >> (128 - 8 * len)),
        };
        len += 1;
    }
    masks
};

impl Key {
    /// The key of `text[start..end]`, at most `MAX_LEN` bytes.
    #[inline(always)]
    pub fn new(text: &[u8], start: usize, end: usize) -> Self {
        let len = end - start;
        let Some(sixteen) = text.get(start..start + 16) else { return Self::padded(&text[start..end]) };
        let (low, high) = sixteen.split_at(8);
        let word = |eight: &[u8]| u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let (low_mask, high_mask) = MASKS[len];
        Self { low: word(low) & low_mask, high: word(high) & high_mask | (len as u64) << 56 }
    }

    /// Near the end of the text, where sixteen bytes cannot be loaded at once.
    #[cold]
    fn padded(piece: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..piece.len()].copy_from_slice(piece);
        bytes[15] = piece.len() as u8;
        let both = u128::from_le_bytes(bytes);
        Self { low: both as u64, high: (both >> 64) as u64 }
    }

    /// The key of a whole piece, or None when it is too long for one.
    pub fn of(piece: &[u8]) -> Option<Self> {
        (piece.len() <= MAX_LEN).then(|| Self::padded(piece))
    }

    pub fn is_empty(self) -> bool {
        self.high == 0
    }

    pub fn len(self) -> usize {
        (self.high >> 56) as usize
    }

    /// The piece, in the first `len` of sixteen bytes.
    pub fn bytes(self) -> [u8; 16] {
        (u128::from(self.low) | u128::from(self.high) << 64).to_le_bytes()
    }

    /// Multiplied and folded; tables use as many of its low bits as they need.
    #[inline(always)]
    pub fn hash(self) -> u64 {
        let product = u128::from(self.low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(self.high ^ 0xd1b5_4a32_d192_ed03);
        product as u64 ^ (product >> 64) as u64
    }
}

/// A key, and a count of at most fifteen in the half of the last byte that the length does not need.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountedKey(Key);

const COUNT_SHIFT: u32 = 60;

impl Key {
    pub fn counted(self, count: usize) -> CountedKey {
        CountedKey(Self { low: self.low, high: self.high | (count as u64) << COUNT_SHIFT })
    }
}

impl CountedKey {
    /// Without a branch between the words, which would often be mispredicted.
    #[inline(always)]
    pub fn is(self, key: Key) -> bool {
        (self.0.low ^ key.low) | (self.0.high ^ key.high) << (u64::BITS - COUNT_SHIFT) == 0
    }

    #[inline(always)]
    pub fn count(self) -> usize {
        (self.0.high >> COUNT_SHIFT) as usize
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_its_piece_wherever_it_stands() {
        let text = b"abcdefghijklmnopqrstuvwxyz\0\0\0";
        for start in 0..text.len() {
            for end in start + 1..=text.len().min(start + MAX_LEN) {
                let (key, piece) = (Key::new(text, start, end), &text[start..end]);
                assert_eq!(Key::of(piece), Some(key));
                assert_eq!(&key.bytes()[..key.len()], piece);
                assert!(!key.is_empty());
            }
        }
        assert_ne!(Key::of(b"a"), Key::of(b"a\0"));
        let key = Key::of(b"012345678abcdef").unwrap();
        assert!(key.counted(15).is(key) && key.counted(15).count() == 15 && key.counted(0).is(key));
        assert!(!key.counted(3).is(Key::of(b"012345678abcdeg").unwrap()));
        assert_eq!(Key::of(b"0123456789abcdef"), None);
    }
}
