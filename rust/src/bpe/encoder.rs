//! Text to ids, for one text or many, on one thread or several.

use std::fmt;
use std::sync::Mutex;

use rustc_hash::FxHashMap;

use super::cache::{Recent, RecentLong, Seeded, Slot};
use super::decoder::{Decoder, starts_in_characters};
use super::merge::{LongMerger, merge_short};
use super::ranks::Ranks;
use super::vocabulary::{Vocabulary, VocabularyError};
use crate::key::{self, Key};
use crate::specials::{Part, Specials};
use crate::split::{Sink, Splitter};

/// Pieces gathered before they are looked up, so that the memory of one arrives while others are written out.
const BATCH: usize = 64;

/// Places in a piece are counted in 32 bits, several for each byte.
const MAX_PIECE: usize = 1 << 30;

/// What ids are written as.
pub trait Id: Copy + Default + Into<u32> + Send + Sync + 'static {
    const MAX: u32;
    /// Of an id that is at most `MAX`.
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

/// A text that could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodeError {
    PieceTooLong { bytes: usize },
    NoSuchSpecial(String),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PieceTooLong { bytes } => {
                write!(f, "the pattern leaves a piece of {bytes} bytes uncut: too long to merge")
            }
            Self::NoSuchSpecial(name) => write!(f, "{name:?} is no special token of this vocabulary"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// The special tokens that a text may spell; none by default.
#[derive(Clone, Default)]
pub struct Allowed {
    specials: Specials,
    ids: Vec<u32>,
}

impl Allowed {
    pub fn is_none(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether none of them could stand on both sides of a line end.
    pub fn may_cut_at_lines(&self) -> bool {
        self.specials.may_cut_at_lines()
    }
}

/// A vocabulary with everything that encoding and decoding look up.
pub struct Encoder {
    vocabulary: Vocabulary,
    splitter: Splitter,
    ranks: Ranks,
    decoder: Decoder,
    tables: Tables,
    /// Tokens too long for a key.
    long_tokens: FxHashMap<Box<[u8]>, u32>,
    all_specials: Allowed,
}

/// The remembered pieces, in the narrowest form that the vocabulary allows.
enum Tables {
    Narrow(Table<u16>),
    Wide(Table<u32>),
}

struct Table<S: Slot> {
    seeded: Seeded<S>,
    /// What threads that encoded before have left; never waited for, so that a fork at any moment is harmless.
    idle: Mutex<Vec<Hand<S>>>,
}

/// The memory of one thread that encodes.
pub enum Worker {
    Narrow(Hand<u16>),
    Wide(Hand<u32>),
}

pub struct Hand<S: Slot> {
    splitter: Splitter,
    recent: Recent<S>,
    recent_long: RecentLong,
    merger: LongMerger,
    merged: Vec<u32>,
    waiting: Box<[Waiting; BATCH]>,
}

/// A piece to be looked up; of one that is too long for a key only where it stands.
#[derive(Clone, Copy, Default)]
struct Waiting {
    key: Key,
    hash: u64,
    start: usize,
    end: usize,
}

impl Encoder {
    /// `frequent` are pieces whose tokens are remembered from the start, which changes nothing but the speed.
    pub fn new(splitter: Splitter, vocabulary: Vocabulary, frequent: &[impl AsRef<[u8]>]) -> Self {
        let ranks = Ranks::new(&vocabulary);
        let tables = match vocabulary.size() <= usize::from(u16::MAX) + 1 {
            true => Tables::Narrow(Table::new(&vocabulary, &ranks, frequent)),
            false => Tables::Wide(Table::new(&vocabulary, &ranks, frequent)),
        };
        let long_tokens: FxHashMap<Box<[u8]>, u32> = vocabulary
            .ids()
            .into_iter()
            .filter(|(token, _)| token.len() > key::MAX_LEN)
            .map(|(token, id)| (token.into(), id))
            .collect();
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
            None => self.long_tokens.get(token).copied(),
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

    /// Memory to encode with; give it back with [`Self::leave`].
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
            (Tables::Narrow(table), Worker::Narrow(hand)) => Run { encoder: self, table, hand, text, out }.encode(),
            (Tables::Wide(table), Worker::Wide(hand)) => Run { encoder: self, table, hand, text, out }.encode(),
            _ => unreachable!("a worker is used with the encoder that made it"),
        }
    }
}

impl<S: Slot> Table<S> {
    fn new(vocabulary: &Vocabulary, ranks: &Ranks, frequent: &[impl AsRef<[u8]>]) -> Self {
        let ids = vocabulary.ids();
        let mut seeded = Seeded::with_room_for(ids.len() + frequent.len());
        for (&token, &id) in &ids {
            if let Some(key) = Key::of(token) {
                seeded.insert(key, &[id]);
            }
        }
        let mut merged = Vec::new();
        for piece in frequent.iter().map(AsRef::as_ref).filter(|piece| piece.len() > 1) {
            if let Some(key) = Key::of(piece) {
                merged.clear();
                merge_short(ranks, piece, &mut merged);
                seeded.insert(key, &merged);
            }
        }
        Self { seeded, idle: Mutex::default() }
    }

    /// The table also holds pieces that are no tokens; those that are one stand there as themselves.
    fn token_id(&self, key: Key) -> Option<u32> {
        let &[id] = self.seeded.get(key, key.hash())?.ids() else { return None };
        Some(id.into())
    }

    fn hand(&self, splitter: &Splitter) -> Hand<S> {
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| Hand {
            splitter: splitter.clone(),
            recent: Recent::default(),
            recent_long: RecentLong::default(),
            merger: LongMerger::default(),
            merged: Vec::new(),
            waiting: Box::new([Waiting::default(); BATCH]),
        })
    }

    fn leave(&self, hand: Hand<S>) {
        if let Ok(mut idle) = self.idle.try_lock() {
            idle.push(hand);
        }
    }
}

/// One part of a text on its way to ids.
struct Run<'a, S: Slot, I: Id> {
    encoder: &'a Encoder,
    table: &'a Table<S>,
    hand: &'a mut Hand<S>,
    text: &'a [u8],
    out: &'a mut Vec<I>,
}

impl<S: Slot, I: Id> Run<'_, S, I> {
    fn encode(self) -> Result<(), EncodeError> {
        let Self { encoder, table, hand, text, out } = self;
        let Hand { splitter, recent, recent_long, merger, merged, waiting } = hand;
        let misses = Misses { encoder, text, recent, recent_long, merger, merged, too_long: 0 };
        let mut gather = Gather { table, misses, text, waiting, n: 0, out };
        splitter.split(text, &mut gather);
        gather.write();
        match gather.misses.too_long {
            0 => Ok(()),
            bytes => Err(EncodeError::PieceTooLong { bytes }),
        }
    }
}

/// Gathers pieces and asks for the memory of their entries; writes a batch out when it is full.
struct Gather<'a, S: Slot, I: Id> {
    table: &'a Table<S>,
    misses: Misses<'a, S>,
    text: &'a [u8],
    waiting: &'a mut [Waiting; BATCH],
    n: usize,
    out: &'a mut Vec<I>,
}

impl<S: Slot, I: Id> Sink for Gather<'_, S, I> {
    #[inline(always)]
    fn piece(&mut self, start: usize, end: usize) {
        let slot = &mut self.waiting[self.n];
        slot.start = start;
        slot.end = end;
        slot.key = Key::default();
        if end - start <= key::MAX_LEN {
            slot.key = Key::new(self.text, start, end);
            slot.hash = slot.key.hash();
            self.table.seeded.prefetch(slot.hash);
        }
        self.n += 1;
        if self.n == BATCH {
            self.write();
        }
    }
}

impl<S: Slot, I: Id> Gather<'_, S, I> {
    #[inline(never)]
    fn write(&mut self) {
        write(self.table, &mut self.misses, &self.waiting[..self.n], self.out);
        self.n = 0;
    }
}

/// Writes out the ids of pieces. Whole entries are copied, and the next written over what was too much.
#[inline(always)]
fn write<S: Slot, I: Id>(table: &Table<S>, misses: &mut Misses<'_, S>, pieces: &[Waiting], out: &mut Vec<I>) {
    let mut end = out.len();
    out.resize(end + S::ROOM * pieces.len(), I::default());
    for (done, piece) in pieces.iter().enumerate() {
        let entry = match piece.key.is_empty() {
            true => None,
            false => match table.seeded.get(piece.key, piece.hash) {
                Some(entry) => Some(entry),
                None => misses.recent.get(piece.key, piece.hash),
            },
        };
        if let Some(entry) = entry {
            S::put(&entry.slots, &mut out[end..end + S::ROOM]);
            end += entry.n();
            continue;
        }
        misses.encode(piece);
        out.truncate(end);
        out.extend(misses.merged.iter().map(|&id| I::of(id)));
        end = out.len();
        out.resize(end + S::ROOM * (pieces.len() - done - 1), I::default());
    }
    out.truncate(end);
}

/// Encodes the pieces that no table of short ones knows.
struct Misses<'a, S: Slot> {
    encoder: &'a Encoder,
    text: &'a [u8],
    recent: &'a mut Recent<S>,
    recent_long: &'a mut RecentLong,
    merger: &'a mut LongMerger,
    merged: &'a mut Vec<u32>,
    /// The length of a piece that cannot be merged, 0 when there was none.
    too_long: usize,
}

impl<S: Slot> Misses<'_, S> {
    /// Leaves the ids of the piece in `merged`.
    #[inline(never)]
    fn encode(&mut self, waiting: &Waiting) {
        let ranks = &self.encoder.ranks;
        let piece = &self.text[waiting.start..waiting.end];
        self.merged.clear();
        if !waiting.key.is_empty() {
            // It is no token, or the seeded table would have it; so it has at least two bytes.
            merge_short(ranks, piece, self.merged);
            self.recent.insert(waiting.key, waiting.hash, self.merged);
            return;
        }
        let token = if piece.len() <= ranks.longest { self.encoder.long_tokens.get(piece) } else { None };
        match token {
            Some(&id) => self.merged.push(id),
            None if piece.len() <= RecentLong::MAX_LEN => {
                let Self { recent_long, merger, merged, .. } = self;
                merged.extend(recent_long.get_or(piece, |out| merger.merge_any(ranks, piece, out)));
            }
            None if piece.len() <= MAX_PIECE => self.merger.merge_any(ranks, piece, self.merged),
            None => self.too_long = piece.len(),
        }
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
