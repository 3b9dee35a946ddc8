//! Token ids: how many there can be and the integer types that hold them.

/// Number of bits of the largest id.
pub const ID_BITS: u32 = 21;
pub const MAX_TOKENS: usize = 1 << ID_BITS;

/// Used instead of an id for two neighbors that do not join to a token. Larger than every id, which is also a rank.
pub const NO_TOKEN: u32 = u32::MAX;

/// An integer type in which ids are written.
pub trait Id: Copy + Default + Into<u32> + Send + Sync + 'static {
    const MAX: u32;
    /// Converts an id, which must be at most `MAX`.
    fn of(id: u32) -> Self;
}

impl Id for u16 {
    const MAX: u32 = u16::MAX as u32;
    #[inline(always)]
    fn of(id: u32) -> Self {
        id as Self
    }
}

impl Id for u32 {
    const MAX: u32 = u32::MAX;
    #[inline(always)]
    fn of(id: u32) -> Self {
        id
    }
}
