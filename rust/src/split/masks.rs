//! Character classes of 64 bytes as bits, computed with the vector units of x86-64 machines.

use std::arch::x86_64::*;

/// Bytes processed together.
pub const BLOCK: usize = 64;

/// One bit for each byte of a block, the first in the lowest bit. A byte in no mask belongs to another class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    pub letter: u64,
    pub number: u64,
    pub space: u64,
    /// Whitespace other than line ends, including spaces.
    pub blank: u64,
    pub line_end: u64,
    pub apostrophe: u64,
    /// Bytes of non-ASCII characters.
    pub wide: u64,
}

impl Masks {
    /// By table lookup: the reference for the vector units.
    #[cfg(test)]
    pub fn of(block: &[u8; BLOCK]) -> Self {
        use super::classes::{Class, OF_BYTE};
        let mut masks = Self::default();
        for (at, &byte) in block.iter().enumerate() {
            let bit = 1 << at;
            masks.space |= if byte == b' ' { bit } else { 0 };
            masks.apostrophe |= if byte == b'\'' { bit } else { 0 };
            match OF_BYTE[byte as usize] {
                Class::Letter => masks.letter |= bit,
                Class::Number => masks.number |= bit,
                Class::Space => masks.blank |= bit,
                Class::LineEnd => masks.line_end |= bit,
                Class::NonAscii => masks.wide |= bit,
                Class::Other => {}
            }
        }
        masks
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn by_avx512(block: &[u8; BLOCK]) -> Self {
        // SAFETY: 64 bytes are read, the size of the array; they need not be aligned.
        let bytes = unsafe { _mm512_loadu_epi8(block.as_ptr().cast()) };
        let is = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
        let within = |bytes, first: u8, n: u8| {
            _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8(first as i8)), _mm512_set1_epi8(n as i8))
        };
        let lower = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
        let line_end = is(b'\n') | is(b'\r');
        Self {
            letter: within(lower, b'a', 26),
            number: within(bytes, b'0', 10),
            space: is(b' '),
            blank: is(b' ') | within(bytes, b'\t', 5) & !line_end,
            line_end,
            apostrophe: is(b'\''),
            wide: _mm512_movepi8_mask(bytes),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn by_avx2(block: &[u8; BLOCK]) -> Self {
        // SAFETY: twice 32 bytes are read, the size of the array; they need not be aligned.
        let halves =
            unsafe { [_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block[32..].as_ptr().cast())] };
        let is = |byte: u8| bits(halves, |half| _mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte as i8)));
        // Comparison is signed, so the range is moved to the lowest values.
        let within = |half, first: u8, n: u8| {
            let moved = _mm256_sub_epi8(half, _mm256_set1_epi8(first.wrapping_add(0x80) as i8));
            _mm256_cmpgt_epi8(_mm256_set1_epi8((n ^ 0x80) as i8), moved)
        };
        let line_end = is(b'\n') | is(b'\r');
        Self {
            letter: bits(halves, |half| within(_mm256_or_si256(half, _mm256_set1_epi8(0x20)), b'a', 26)),
            number: bits(halves, |half| within(half, b'0', 10)),
            space: is(b' '),
            blank: is(b' ') | bits(halves, |half| within(half, b'\t', 5)) & !line_end,
            line_end,
            apostrophe: is(b'\''),
            wide: bits(halves, |half| half),
        }
    }
}

/// The highest bit of each byte of both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(halves: [__m256i; 2], of: impl Fn(__m256i) -> __m256i) -> u64 {
    let [low, high] = halves.map(|half| u64::from(_mm256_movemask_epi8(of(half)) as u32));
    low | high << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_units_know_every_byte_at_every_place() {
        for shift in 0..=u8::MAX {
            let block: [u8; BLOCK] = std::array::from_fn(|at| (at as u8).wrapping_mul(5).wrapping_add(shift));
            let expected = Masks::of(&block);
            if is_x86_feature_detected!("avx512bw") {
                // SAFETY: it was just checked.
                assert_eq!(unsafe { Masks::by_avx512(&block) }, expected);
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                assert_eq!(unsafe { Masks::by_avx2(&block) }, expected);
            }
        }
    }
}
