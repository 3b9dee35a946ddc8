//! Exact byte-level byte-pair encoding (Sennrich et al. 2016): training and encoding on one split pattern.
//!
//! Text is cut into pieces by a pattern ([`pattern`]); no token ever spans two pieces. [`train`] learns merges from the
//! counts of the pieces; [`encode`] applies them. Token ids are the 256 byte values, then the merges in the order they
//! were learned, then the special tokens. Only `python`, behind the feature of that name, knows the interpreter.

pub mod encode;
pub mod pattern;
pub mod train;

#[cfg(feature = "python")]
mod python;
