//! The encoder: a vocabulary with its tables, from texts to ids, including special tokens.

use super::decoder::{Decoder, starts_in_characters};
use super::error::EncodeError;
use super::id::Id;
use super::long_tokens::LongTokens;
use super::lookup::{self, Hand, Table};
use super::rank_builder::ranks_of;
use super::ranks::Ranks;
use super::vocabulary::{Vocabulary, VocabularyError};
use crate::key::Key;
use crate::specials::{Part, Specials};
use crate::split::Splitter;

/// The special tokens to recognize in a text; none by default.
#[derive(Clone, Default)]
pub struct Allowed {
    specials: Specials,
    ids: Vec<u32>,
}

impl Allowed {
    pub fn is_none(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether none of them can span a line end.
    pub fn may_cut_at_lines(&self) -> bool {
        self.specials.may_cut_at_lines()
    }
}

/// A vocabulary with all tables for encoding and decoding.
pub struct Encoder {
    vocabulary: Vocabulary,
    splitter: Splitter,
    ranks: Ranks,
    decoder: Decoder,
    tables: Tables,
    long_tokens: LongTokens,
    all_specials: Allowed,
}

/// The cached pieces, in the narrowest id type that the vocabulary allows.
enum Tables {
    Narrow(Table<u16>),
    Wide(Table<u32>),
}

/// The buffers and caches of one encoding thread.
pub enum Worker {
    Narrow(Hand<u16>),
    Wide(Hand<u32>),
}

impl Encoder {
    /// `frequent` are pieces whose tokens are cached from the start, which only affects speed.
    pub fn new(splitter: Splitter, vocabulary: Vocabulary, frequent: &[impl AsRef<[u8]>]) -> Self {
        let ranks = ranks_of(&vocabulary);
        let tables = match vocabulary.size() <= usize::from(u16::MAX) + 1 {
            true => Tables::Narrow(Table::new(&vocabulary, &ranks, frequent)),
            false => Tables::Wide(Table::new(&vocabulary, &ranks, frequent)),
        };
        let long_tokens = LongTokens::new(&vocabulary);
        let all_specials = Allowed { specials: vocabulary.specials.clone(), ids: vocabulary.special_ids.clone() };
        let decoder = Decoder::new(&vocabulary);
        Self { vocabulary, splitter, ranks, decoder, tables, long_tokens, all_specials }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, VocabularyError> {
        self.decoder.decode(&self.vocabulary, ids)
    }

    /// The id of the ordinary token with exactly these bytes.
    pub fn token_id(&self, token: &[u8]) -> Option<u32> {
        match Key::of(token) {
            Some(key) if key.is_empty() => None,
            Some(key) => match &self.tables {
                Tables::Narrow(table) => table.token_id(key),
                Tables::Wide(table) => table.token_id(key),
            },
            None => self.long_tokens.get(token),
        }
    }

    /// Where each token starts in the text of all of them, in characters.
    pub fn starts(&self, ids: &[u32]) -> Result<Vec<usize>, VocabularyError> {
        let tokens = ids.iter().map(|&id| self.vocabulary.token(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(starts_in_characters(tokens.into_iter()))
    }

    /// All special tokens of the vocabulary.
    pub fn allow_all(&self) -> &Allowed {
        &self.all_specials
    }

    pub fn allow(&self, names: impl IntoIterator<Item = String>) -> Result<Allowed, EncodeError> {
        let mut wanted: Vec<(String, u32)> = Vec::new();
        for name in names {
            let known = self.vocabulary.specials().find(|&(special, _)| special == name);
            match known {
                Some((_, id)) if wanted.iter().all(|&(_, other)| other != id) => wanted.push((name, id)),
                Some(_) => {}
                None => return Err(EncodeError::NoSuchSpecial(name)),
            }
        }
        let (names, ids): (Vec<String>, Vec<u32>) = wanted.into_iter().unzip();
        let specials = Specials::new(names).expect("they are some of the vocabulary's, each once");
        Ok(Allowed { specials, ids })
    }

    /// Buffers and caches for encoding; return them with [`Self::leave`].
    pub fn worker(&self) -> Worker {
        match &self.tables {
            Tables::Narrow(table) => Worker::Narrow(table.hand(&self.splitter)),
            Tables::Wide(table) => Worker::Wide(table.hand(&self.splitter)),
        }
    }

    pub fn leave(&self, worker: Worker) {
        match (&self.tables, worker) {
            (Tables::Narrow(table), Worker::Narrow(hand)) => table.leave(hand),
            (Tables::Wide(table), Worker::Wide(hand)) => table.leave(hand),
            _ => {}
        }
    }

    pub fn encode<I: Id>(&self, text: &[u8], allowed: &Allowed) -> Result<Vec<I>, EncodeError> {
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        let mut worker = self.worker();
        self.encode_into(&mut worker, text, allowed, &mut out)?;
        self.leave(worker);
        Ok(out)
    }

    /// Appends the ids of a text. Its bytes need not be UTF-8.
    pub fn encode_into<I: Id>(
        &self,
        worker: &mut Worker,
        text: &[u8],
        allowed: &Allowed,
        out: &mut Vec<I>,
    ) -> Result<(), EncodeError> {
        if allowed.is_none() {
            return self.encode_part(worker, text, out);
        }
        allowed.specials.cut(text, |part| match part {
            Part::Text(text) => self.encode_part(worker, text, out),
            Part::Special(index) => {
                out.push(I::of(allowed.ids[index]));
                Ok(())
            }
        })
    }

    fn encode_part<I: Id>(&self, worker: &mut Worker, text: &[u8], out: &mut Vec<I>) -> Result<(), EncodeError> {
        match (&self.tables, worker) {
            (Tables::Narrow(table), Worker::Narrow(hand)) => {
                lookup::encode(&self.ranks, &self.long_tokens, table, hand, text, out)
            }
            (Tables::Wide(table), Worker::Wide(hand)) => {
                lookup::encode(&self.ranks, &self.long_tokens, table, hand, text, out)
            }
            _ => unreachable!("a worker is used with the encoder that made it"),
        }
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
