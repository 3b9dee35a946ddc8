//! Exact byte-level byte-pair encoding (Sennrich et al. 2016): training and encoding on one split pattern.
//!
//! Text is split into pieces by a pattern ([`split`]); no token ever spans two pieces. [`train`] learns merges from the
//! counts of the pieces; [`bpe`] applies them. Only `python`, behind the feature of that name, uses the interpreter.

pub mod bpe;
pub mod key;
mod memory;
pub mod specials;
pub mod split;
pub mod train;

#[cfg(feature = "python")]
mod python;

/// Ids of two neighboring tokens.
pub type Pair = (u32, u32);

/// The byte values come before any merge.
pub const N_BYTES: usize = 256;
