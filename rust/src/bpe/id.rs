//! Token ids: how many there can be and the integer types that hold them.

/// Bits of the largest id.
pub const ID_BITS: u32 = 21;
pub const MAX_TOKENS: usize = 1 << ID_BITS;

/// In place of an id: two neighbors that do not join to a token. Above every rank, which an id is.
pub const NO_TOKEN: u32 = u32::MAX;

/// An integer type that ids are written as.
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
