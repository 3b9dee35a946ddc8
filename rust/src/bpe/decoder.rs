//! Converts ids back to bytes, all at once or as they arrive.

use super::vocabulary::{Vocabulary, VocabularyError};
use crate::key::MAX_LEN;

/// Bytes per token in the table; the last byte holds the length.
const ROW: usize = 16;
const LENGTH: usize = ROW - 1;

/// The lengths of tokens that do not fit into a row, and of ids without a token.
const LONG: u8 = u8::MAX;

/// Number of ids decoded between two checks of the size of the output.
const CHUNK: usize = 256;

/// The bytes of the tokens, for copying sixteen at a time.
pub struct Decoder {
    rows: Vec<[u8; ROW]>,
}

impl Decoder {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let rows = (0..vocabulary.size() as u32).map(|id| {
            let mut row = [0; ROW];
            row[LENGTH] = LONG;
            if let Ok(token) = vocabulary.token(id)
                && token.len() <= MAX_LEN
            {
                row[..token.len()].copy_from_slice(token);
                row[LENGTH] = token.len() as u8;
            }
            row
        });
        Self { rows: rows.collect() }
    }

    /// The bytes of the ids; special tokens give their names.
    pub fn decode(&self, vocabulary: &Vocabulary, ids: &[u32]) -> Result<Vec<u8>, VocabularyError> {
        let mut out: Vec<u8> = Vec::with_capacity(5 * ids.len() + CHUNK * ROW);
        let mut at = 0;
        for chunk in ids.chunks(CHUNK) {
            out.resize(at + ROW * CHUNK, 0);
            for &id in chunk {
                match self.rows.get(id as usize) {
                    Some(row) if row[LENGTH] != LONG => {
                        out[at..at + ROW].copy_from_slice(row);
                        at += row[LENGTH] as usize;
                    }
                    _ => {
                        out.truncate(at);
                        out.extend_from_slice(vocabulary.token(id)?);
                        at = out.len();
                        out.resize(at + ROW * CHUNK, 0);
                    }
                }
            }
        }
        out.truncate(at);
        Ok(out)
    }
}

/// Decodes tokens that arrive one by one. An incomplete character is held back; bytes that can no longer become one are
/// U+FFFD, as when everything is decoded at once.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// The text that becomes complete with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = match self.pending.utf8_chunks().last() {
            Some(last) if could_begin_a_character(last.invalid()) => self.pending.len() - last.invalid().len(),
            _ => self.pending.len(),
        };
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// The rest at the end: nothing, or U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

fn could_begin_a_character(bytes: &[u8]) -> bool {
    !bytes.is_empty() && str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Where each token starts in the joined text, in characters. A token that starts inside a character starts where that
/// character does.
pub fn starts_in_characters<'v>(tokens: impl Iterator<Item = &'v [u8]>) -> Vec<usize> {
    let continues = |&byte: &u8| (0x80..0xc0).contains(&byte);
    let mut characters = 0_usize;
    tokens
        .map(|token| {
            let start = characters - usize::from(characters > 0 && token.first().is_some_and(continues));
            characters += token.iter().filter(|byte| !continues(byte)).count();
            start
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stream_says_what_the_whole_says(bytes in prop::collection::vec(any::<u8>(), 0..40), text in ".{0,10}", step in 1_usize..5) {
            let bytes = [text.as_bytes(), &bytes, text.as_bytes()].concat();
            let mut stream = StreamDecoder::default();
            let mut said: String = bytes.chunks(step).map(|part| stream.push(part)).collect();
            said += &stream.finish();
            prop_assert_eq!(said, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_character_is_held_back_until_it_is_whole() {
        let mut stream = StreamDecoder::default();
        let parts: [&[u8]; 5] = [b"a\xf0\x9f", b"\x99", b"\x82b", b"\xe6", b"c"];
        assert_eq!(parts.map(|part| stream.push(part)), ["a", "", "🙂b", "", "\u{fffd}c"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn tokens_start_at_characters() {
        let tokens: [&[u8]; 5] = [b"a", b"\xe6\xbc", b"\xa2", b"bc", b"d"];
        assert_eq!(starts_in_characters(tokens.into_iter()), [0, 1, 1, 2, 4]);
    }
}
