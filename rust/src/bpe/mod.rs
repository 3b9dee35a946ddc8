//! Turns text into token ids and back, exactly as BPE by rank defines it.
//!
//! Inside a piece, the two neighbours whose joined bytes are the token of the lowest id are merged first, the leftmost
//! of equals; this repeats until no two neighbours join to a token. It is `tiktoken`'s rule, under which any split of a
//! token counts and not only the one training merged; a piece that is a token itself is that token.
//!
//! [`vocabulary`] holds the tokens, [`ranks`] which neighbours join, [`merge`] applies the rule to one piece, [`cache`]
//! remembers what it gave, [`lookup`] takes a text's pieces through these, and [`encoder`] puts them together.

mod batch;
mod cache;
mod decoder;
mod encoder;
mod lookup;
mod merge;
mod ranks;
mod vocabulary;

pub use batch::{Encoded, encode_batch};
pub use decoder::StreamDecoder;
pub use encoder::{Allowed, EncodeError, Encoder, Id, Worker};
pub use vocabulary::{Vocabulary, VocabularyError, merges_of_ranks};
