//! Turns text into token ids and back, exactly as BPE by rank defines it.
//!
//! Inside a piece, the two neighbors whose joined bytes are the token of the lowest id are merged first, the leftmost
//! of equals; this repeats until no two neighbors join to a token. It is `tiktoken`'s rule, under which any split of a
//! token counts and not only the one training merged; a piece that is a token itself is that token.
//!
//! [`vocabulary`] holds the tokens, [`ranks`] which neighbors join, [`merge`] applies the rule to one piece,
//! [`rank_builder`] finds the ranks with it, [`cache`] keeps its results, [`long_tokens`] holds the tokens too long for
//! the cache, [`lookup`] takes a text's pieces through these, and [`encoder`] puts them together.

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
