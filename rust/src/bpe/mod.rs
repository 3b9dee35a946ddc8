//! Turns text into token ids and back, exactly as BPE by rank defines it.
//!
//! Inside a piece, the two neighbors whose joined bytes are the token with the lowest id are merged first, the leftmost
//! pair if several are equal; this repeats until no two neighbors join to a token. This is `tiktoken`'s rule, which
//! allows any split of a token and not only the one from training; a piece that is a token itself is that token.
//!
//! [`vocabulary`] holds the tokens, [`ranks`] says which neighbors join, [`merge`] applies the rule to one piece,
//! [`rank_builder`] uses it to find the ranks, [`cache`] keeps its results, [`long_tokens`] holds the tokens too long
//! for
//! the cache, [`lookup`] takes a text's pieces through these, and [`encoder`] combines them.

mod batch;
mod cache;
mod decoder;
mod encoder;
mod error;
mod id;
mod long_tokens;
mod lookup;
mod merge;
mod rank_builder;
mod ranks;
mod vocabulary;

pub use batch::{Encoded, encode_batch};
pub use decoder::StreamDecoder;
pub use encoder::{Allowed, Encoder, Worker};
pub use error::EncodeError;
pub use id::Id;
pub use vocabulary::{Vocabulary, VocabularyError, merges_of_ranks};
