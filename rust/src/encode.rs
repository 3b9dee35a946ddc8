//! Turns text into token ids and back, exactly as BPE by rank defines it.
//!
//! Inside a piece, the two neighbours whose joined bytes are the token of the lowest id are merged first, the leftmost
//! of equals; this repeats until no two neighbours join to a token. It is `tiktoken`'s rule, under which any split of a
//! token counts and not only the one training merged. Special tokens have ids but are never produced from text.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fmt;

use rustc_hash::FxHashMap;

use crate::pattern::{PatternError, Splitter};
use crate::train::{N_BYTES, Pair};

/// Pieces up to this many bytes are merged by scanning an array, longer ones with a heap.
const SHORT_PIECE: usize = 64;

/// Below this much text per thread starting the thread costs more than it saves.
const MIN_BYTES_PER_THREAD: usize = 1 << 16;

/// Bytes of all tokens together: a broken file of merges can double the length of a token with each.
const MAX_VOCABULARY_BYTES: usize = 1 << 30;

/// The rank of two neighbours that do not join to a token.
const NO_TOKEN: u32 = u32::MAX;

/// Merges and special tokens that make no vocabulary, or an id that is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VocabularyError {
    MergeOfUnknown { merge: usize, id: u32, known: usize },
    TooLarge { merge: usize },
    BadSpecial(String),
    UnknownId { id: u32, size: usize },
}

impl fmt::Display for VocabularyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MergeOfUnknown { merge, id, known } => {
                write!(f, "merge {merge} joins id {id}, but only ids below {known} exist before it")
            }
            Self::TooLarge { merge } => {
                write!(f, "with merge {merge} the tokens are longer than {MAX_VOCABULARY_BYTES} bytes together")
            }
            Self::BadSpecial(name) => write!(f, "special token {name:?} is empty or appears twice"),
            Self::UnknownId { id, size } => write!(f, "id {id} is not in the vocabulary of {size} tokens"),
        }
    }
}

impl std::error::Error for VocabularyError {}

/// A vocabulary with everything that encoding and decoding look up.
pub struct Encoder {
    splitter: Splitter,
    tokens: Vec<Box<[u8]>>,
    ids: FxHashMap<Box<[u8]>, u32>,
    joined: FxHashMap<Pair, u32>,
}

impl Encoder {
    pub fn new(splitter: Splitter, merges: &[Pair], specials: &[String]) -> Result<Self, VocabularyError> {
        let mut tokens = ordinary_tokens(merges)?;
        let mut ids = FxHashMap::default();
        for (id, token) in tokens.iter().enumerate() {
            // Two merges may spell the same bytes; the first of them is the token.
            ids.entry(token.clone()).or_insert(id as u32);
        }
        let joined = joined_pairs(&tokens, &ids);
        for (index, special) in specials.iter().enumerate() {
            if special.is_empty() || specials[..index].contains(special) {
                return Err(VocabularyError::BadSpecial(special.clone()));
            }
            tokens.push(special.as_bytes().into());
        }
        Ok(Self { splitter, tokens, ids, joined })
    }

    /// Ids in all: bytes, merges and special tokens.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// The bytes of one token; of a special token, its text.
    pub fn token(&self, id: u32) -> Result<&[u8], VocabularyError> {
        let token = self.tokens.get(id as usize).map(AsRef::as_ref);
        token.ok_or(VocabularyError::UnknownId { id, size: self.size() })
    }

    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, VocabularyError> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for &id in ids {
            bytes.extend_from_slice(self.token(id)?);
        }
        Ok(bytes)
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PatternError> {
        self.encode_split(text, &self.splitter)
    }

    /// As [`Self::encode`] for each text, on up to `threads` threads; the result does not depend on how many.
    pub fn encode_batch<T>(&self, texts: &[T], threads: usize) -> Result<Vec<Vec<u32>>, PatternError>
    where
        T: AsRef<str> + Sync,
    {
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        let threads = threads.min(bytes / MIN_BYTES_PER_THREAD).max(1);
        let encode_chunk = |chunk: &[T]| -> Result<Vec<Vec<u32>>, PatternError> {
            let splitter = self.splitter.clone();
            chunk.iter().map(|text| self.encode_split(text.as_ref(), &splitter)).collect()
        };
        if threads == 1 {
            return encode_chunk(texts);
        }
        std::thread::scope(|scope| {
            let chunks = texts.chunks(texts.len().div_ceil(threads));
            let workers: Vec<_> = chunks.map(|chunk| scope.spawn(|| encode_chunk(chunk))).collect();
            let mut all = Vec::with_capacity(texts.len());
            for worker in workers {
                all.extend(worker.join().expect("encoding does not panic")?);
            }
            Ok(all)
        })
    }

    fn encode_split(&self, text: &str, splitter: &Splitter) -> Result<Vec<u32>, PatternError> {
        let mut out = Vec::with_capacity(text.len() / 3);
        splitter.split(text, |piece| self.encode_piece(piece.as_bytes(), &mut out))?;
        Ok(out)
    }

    fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        match self.ids.get(piece) {
            Some(&id) => out.push(id),
            None if piece.len() <= SHORT_PIECE => self.merge_short(piece, out),
            None => self.merge_long(piece, out),
        }
    }

    /// The id of two neighbours joined, which is also the rank of joining them.
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.joined.get(&(left, right)).copied().unwrap_or(NO_TOKEN)
    }

    /// Quadratic in the piece, without allocation. `ranks[i]` is the rank of tokens `i` and `i + 1`.
    fn merge_short(&self, piece: &[u8], out: &mut Vec<u32>) {
        let mut tokens = [0_u32; SHORT_PIECE];
        let mut ranks = [NO_TOKEN; SHORT_PIECE];
        let mut n = piece.len();
        for (token, &byte) in tokens.iter_mut().zip(piece) {
            *token = u32::from(byte);
        }
        for i in 0..n - 1 {
            ranks[i] = self.rank(tokens[i], tokens[i + 1]);
        }
        while let Some((at, &best)) = ranks[..n - 1].iter().enumerate().min_by_key(|&(_, rank)| rank) {
            if best == NO_TOKEN {
                break;
            }
            tokens[at] = best;
            tokens.copy_within(at + 2..n, at + 1);
            ranks.copy_within(at + 2..n, at + 1);
            n -= 1;
            ranks[at] = if at + 1 < n { self.rank(best, tokens[at + 1]) } else { NO_TOKEN };
            if at > 0 {
                ranks[at - 1] = self.rank(tokens[at - 1], best);
            }
        }
        out.extend_from_slice(&tokens[..n]);
    }

    /// O(n log n): the neighbours wait in a heap, the tokens are a linked list over the places where they start.
    fn merge_long(&self, piece: &[u8], out: &mut Vec<u32>) {
        let n = piece.len();
        let mut tokens: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.saturating_sub(1)).collect();
        let mut ranks: Vec<u32> = tokens.windows(2).map(|pair| self.rank(pair[0], pair[1])).collect();
        ranks.push(NO_TOKEN);
        let waiting = ranks.iter().enumerate().filter(|&(_, &rank)| rank != NO_TOKEN);
        let mut heap: BinaryHeap<_> = waiting.map(|(at, &rank)| Reverse((rank, at))).collect();
        while let Some(Reverse((rank, at))) = heap.pop() {
            // An entry whose neighbours have changed since no longer has this rank.
            if ranks[at] != rank {
                continue;
            }
            let gone = next[at];
            let after = next[gone];
            tokens[at] = rank;
            next[at] = after;
            ranks[gone] = NO_TOKEN;
            ranks[at] = NO_TOKEN;
            if after < n {
                previous[after] = at;
                ranks[at] = self.rank(rank, tokens[after]);
                push_rank(&mut heap, ranks[at], at);
            }
            if at > 0 {
                let before = previous[at];
                ranks[before] = self.rank(tokens[before], rank);
                push_rank(&mut heap, ranks[before], before);
            }
        }
        let mut at = 0;
        while at < n {
            out.push(tokens[at]);
            at = next[at];
        }
    }
}

fn push_rank(heap: &mut BinaryHeap<Reverse<(u32, usize)>>, rank: u32, at: usize) {
    if rank != NO_TOKEN {
        heap.push(Reverse((rank, at)));
    }
}

fn ordinary_tokens(merges: &[Pair]) -> Result<Vec<Box<[u8]>>, VocabularyError> {
    let mut tokens: Vec<Box<[u8]>> = (0..=u8::MAX).map(|byte| Box::from([byte])).collect();
    let mut total = N_BYTES;
    for (merge, &(left, right)) in merges.iter().enumerate() {
        let known = tokens.len();
        let token_of = |id: u32| tokens.get(id as usize).ok_or(VocabularyError::MergeOfUnknown { merge, id, known });
        let (left, right) = (token_of(left)?, token_of(right)?);
        total += left.len() + right.len();
        if total > MAX_VOCABULARY_BYTES {
            return Err(VocabularyError::TooLarge { merge });
        }
        let token = [&left[..], &right[..]].concat();
        tokens.push(token.into());
    }
    Ok(tokens)
}

/// For every token and every way to cut it into two tokens: that pair and the token's id. Only cuts after a length that
/// some token has are tried, since a token of a million spaces has a million cuts.
fn joined_pairs(tokens: &[Box<[u8]>], ids: &FxHashMap<Box<[u8]>, u32>) -> FxHashMap<Pair, u32> {
    let lengths: BTreeSet<usize> = tokens.iter().map(|token| token.len()).collect();
    let mut joined = FxHashMap::default();
    for (token, &id) in ids {
        for &cut in lengths.range(..token.len()) {
            let (left, right) = token.split_at(cut);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                joined.insert((left, right), id);
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn encoder(merges: &[Pair]) -> Encoder {
        Encoder::new(Splitter::new(WORDS).unwrap(), merges, &["<|bos|>".to_owned()]).unwrap()
    }

    /// Merges over the letters a-d, every one legal, with repeats and duplicates as they come.
    fn random_merges(seed: u64, n: usize) -> Vec<Pair> {
        let mut state = seed;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % limit
        };
        (0..n)
            .map(|done| {
                let mut id = || match below(4 + done) {
                    letter @ 0..4 => u32::from(b'a') + letter as u32,
                    merge => (N_BYTES + merge - 4) as u32,
                };
                (id(), id())
            })
            .collect()
    }

    /// The rule itself: look at all neighbours, join the first of the lowest id, start again.
    fn by_definition(encoder: &Encoder, piece: &[u8]) -> Vec<u32> {
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        if encoder.ids.contains_key(piece) {
            parts = vec![piece.to_vec()];
        }
        loop {
            let ranked = parts.windows(2).enumerate();
            let ranked = ranked.filter_map(|(i, w)| encoder.ids.get(&w.concat()[..]).map(|&id| (id, i)));
            let Some((_, at)) = ranked.min() else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        parts.iter().map(|part| encoder.ids[&part[..]]).collect()
    }

    #[test]
    fn short_and_long_merging_follow_the_definition() {
        for seed in 0..60 {
            let encoder = encoder(&random_merges(seed, 25));
            for length in 2..=SHORT_PIECE {
                let piece: Vec<u8> =
                    (0..length).map(|i| b'a' + ((seed * 31 + (i * i * 7 + i / 3) as u64) % 4) as u8).collect();
                let expected = by_definition(&encoder, &piece);
                let mut whole = Vec::new();
                encoder.encode_piece(&piece, &mut whole);
                assert_eq!(whole, expected);
                if !encoder.ids.contains_key(&piece[..]) {
                    let mut long = Vec::new();
                    encoder.merge_long(&piece, &mut long);
                    assert_eq!(long, expected);
                }
            }
        }
    }

    #[test]
    fn any_text_comes_back() {
        let encoder = encoder(&random_merges(3, 40));
        for text in ["", "abcd dcba", "  \n\tabc é漢🙂 1234 <|bos|>", &"ab".repeat(10_000), &" ".repeat(100_000)] {
            let ids = encoder.encode(text).unwrap();
            assert_eq!(encoder.decode(&ids).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_special_token_has_an_id_that_text_never_gets() {
        let encoder = encoder(&[(u32::from(b'<'), u32::from(b'|'))]);
        assert_eq!(encoder.size(), 258);
        assert_eq!(encoder.token(257).unwrap(), b"<|bos|>");
        assert!(encoder.encode("<|bos|>").unwrap().iter().all(|&id| id < 257));
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let encoder = encoder(&random_merges(9, 40));
        let texts: Vec<String> = (0..301).map(|i| "abcd dcab  ba ".repeat(i)).collect();
        let one = encoder.encode_batch(&texts, 1).unwrap();
        assert_eq!(encoder.encode_batch(&texts, 4).unwrap(), one);
        assert_eq!(one[7], encoder.encode(&texts[7]).unwrap());
    }

    #[test]
    fn unusable_vocabularies_are_errors() {
        let splitter = || Splitter::new(WORDS).unwrap();
        let error = |merges: &[Pair], specials: &[String]| Encoder::new(splitter(), merges, specials).err().unwrap();
        assert_eq!(error(&[(0, 256)], &[]), VocabularyError::MergeOfUnknown { merge: 0, id: 256, known: 256 });
        let doubling: Vec<Pair> = (0..40).map(|i| if i == 0 { (0, 0) } else { (255 + i, 255 + i) }).collect();
        assert_eq!(error(&doubling, &[]), VocabularyError::TooLarge { merge: 28 });
        let twice = ["<|a|>".to_owned(), "<|a|>".to_owned()];
        assert_eq!(error(&[], &twice), VocabularyError::BadSpecial("<|a|>".to_owned()));
        assert_eq!(encoder(&[]).decode(&[257]), Err(VocabularyError::UnknownId { id: 257, size: 257 }));
    }
}
