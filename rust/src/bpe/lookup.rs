//! Turns the pieces of a text into ids: gathers them, looks them up in the tables of cached pieces, writes out ids.
//!
//! Lookups wait for memory, so pieces are processed in batches: gathered, with the cache line of each prefetched, then
//! looked up, then written out. Lines of this thread's own table are prefetched during the lookup.

use std::sync::Mutex;
use std::thread::{ThreadId, current};

use super::cache::{Recent, RecentLong, Seeded, Slot};
use super::error::EncodeError;
use super::id::Id;
use super::long_tokens::LongTokens;
use super::merge::{LongMerger, merge_short};
use super::ranks::Ranks;
use super::vocabulary::Vocabulary;
use crate::key::{self, Key};
use crate::split::{Sink, Splitter};

const BATCH: usize = 64;

/// Positions in a piece are 32-bit numbers, several for each byte.
const MAX_PIECE: usize = 1 << 30;

/// Cached pieces, with their ids in the narrowest type that the vocabulary allows.
pub struct Table<S: Slot> {
    seeded: Seeded<S>,
    /// Memory that earlier encoding threads returned. Never blocks, so that a fork at any moment is harmless.
    idle: Mutex<Vec<(ThreadId, Hand<S>)>>,
}

/// The buffers and caches of one encoding thread.
pub struct Hand<S: Slot> {
    splitter: Splitter,
    recent: Recent<S>,
    recent_long: RecentLong,
    merger: LongMerger,
    merged: Vec<u32>,
    waiting: Box<[Waiting; BATCH]>,
}

/// A piece to be looked up. A piece that is too long for a key has an empty one.
#[derive(Clone, Copy, Default)]
struct Waiting {
    key: Key,
    start: usize,
    end: usize,
    /// In the seeded table: first the line to look in, later the entry.
    place: usize,
}

impl<S: Slot> Table<S> {
    pub fn new(vocabulary: &Vocabulary, ranks: &Ranks, frequent: &[impl AsRef<[u8]>]) -> Self {
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

    /// The table also holds pieces that are not tokens; a piece that is a token has exactly one id.
    pub fn token_id(&self, key: Key) -> Option<u32> {
        let &[id] = self.seeded.get(key)?.ids() else { return None };
        Some(id.into())
    }

    pub fn hand(&self, splitter: &Splitter) -> Hand<S> {
        self.idle_hand().unwrap_or_else(|| Hand {
            splitter: splitter.clone(),
            recent: Recent::default(),
            recent_long: RecentLong::default(),
            merger: LongMerger::default(),
            merged: Vec::new(),
            waiting: Box::new([Waiting::default(); BATCH]),
        })
    }

    /// Prefers the one that this thread used before: it is warm in this core's caches.
    fn idle_hand(&self) -> Option<Hand<S>> {
        let mut idle = self.idle.try_lock().ok()?;
        let last = idle.len().checked_sub(1)?;
        let own = idle.iter().position(|&(owner, _)| owner == current().id());
        Some(idle.swap_remove(own.unwrap_or(last)).1)
    }

    pub fn leave(&self, hand: Hand<S>) {
        if let Ok(mut idle) = self.idle.try_lock() {
            idle.push((current().id(), hand));
        }
    }
}

/// Appends the ids of a text, without looking for special tokens.
pub fn encode<S: Slot, I: Id>(
    ranks: &Ranks,
    long_tokens: &LongTokens,
    table: &Table<S>,
    hand: &mut Hand<S>,
    text: &[u8],
    out: &mut Vec<I>,
) -> Result<(), EncodeError> {
    let Hand { splitter, recent, recent_long, merger, merged, waiting } = hand;
    let misses = Misses { ranks, long_tokens, text, recent, recent_long, merger, merged, too_long: 0 };
    let mut gather = Gather { seeded: &table.seeded, misses, text, waiting, n: 0, out };
    splitter.split(text, &mut gather);
    gather.write();
    match gather.misses.too_long {
        0 => Ok(()),
        bytes => Err(EncodeError::PieceTooLong { bytes }),
    }
}

/// Gathers pieces and prefetches their entries; writes a batch out when it is full.
struct Gather<'a, S: Slot, I: Id> {
    seeded: &'a Seeded<S>,
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
            slot.place = self.seeded.line_of(slot.key.hash());
            self.seeded.prefetch(slot.place);
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
        let Self { seeded, misses, waiting, n, out, .. } = self;
        let pieces = &mut waiting[..std::mem::take(n)];
        find(seeded, misses.recent, pieces);
        write(seeded, misses, pieces, out);
    }
}

#[inline(always)]
fn find<S: Slot>(seeded: &Seeded<S>, recent: &Recent<S>, pieces: &mut [Waiting]) {
    for piece in pieces.iter_mut().filter(|piece| !piece.key.is_empty()) {
        piece.place = seeded.find(piece.key, piece.place);
        if seeded.at(piece.place).is_none() {
            recent.prefetch(piece.key.hash());
        }
    }
}

/// Writes out the ids of pieces. Copies whole entries; the next one overwrites the excess.
#[inline(always)]
fn write<S: Slot, I: Id>(seeded: &Seeded<S>, misses: &mut Misses<'_, S>, pieces: &[Waiting], out: &mut Vec<I>) {
    let mut end = out.len();
    out.resize(end + S::ROOM * pieces.len(), I::default());
    for (done, piece) in pieces.iter().enumerate() {
        let entry = match seeded.at(piece.place) {
            _ if piece.key.is_empty() => None,
            Some(entry) => Some(entry),
            None => misses.recent.get(piece.key, piece.key.hash()),
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

/// Encodes the pieces that are in neither table of short ones.
struct Misses<'a, S: Slot> {
    ranks: &'a Ranks,
    long_tokens: &'a LongTokens,
    text: &'a [u8],
    recent: &'a mut Recent<S>,
    recent_long: &'a mut RecentLong,
    merger: &'a mut LongMerger,
    merged: &'a mut Vec<u32>,
    /// The length of a piece that is too long to merge, 0 if there was none.
    too_long: usize,
}

impl<S: Slot> Misses<'_, S> {
    /// Leaves the ids of the piece in `merged`.
    #[inline(never)]
    fn encode(&mut self, waiting: &Waiting) {
        let ranks = self.ranks;
        let piece = &self.text[waiting.start..waiting.end];
        self.merged.clear();
        if !waiting.key.is_empty() {
            // Not a token, or the seeded table would have it; so it has at least two bytes.
            merge_short(ranks, piece, self.merged);
            self.recent.insert(waiting.key, waiting.key.hash(), self.merged);
            return;
        }
        let Self { recent_long, merger, merged, .. } = self;
        match self.long_tokens.get(piece) {
            Some(id) => merged.push(id),
            None if piece.len() <= RecentLong::MAX_LEN => {
                merged.extend(recent_long.get_or(piece, |out| merger.merge_any(ranks, piece, out)));
            }
            None if piece.len() <= MAX_PIECE => merger.merge_any(ranks, piece, merged),
            None => self.too_long = piece.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::rank_builder::ranks_of;

    #[test]
    fn a_thread_gets_back_what_it_left() {
        let order: Vec<u8> = (0..=u8::MAX).collect();
        let vocabulary = Vocabulary::new(&order, Vec::new(), Vec::new()).unwrap();
        let table = Table::<u16>::new(&vocabulary, &ranks_of(&vocabulary), &[""; 0]);
        let splitter = Splitter::new("[a-z]+|.").unwrap();
        let (own, others) = (table.hand(&splitter), table.hand(&splitter));
        let place = own.waiting.as_ptr();
        table.leave(own);
        std::thread::scope(|scope| drop(scope.spawn(|| table.leave(others))));
        assert_eq!(table.hand(&splitter).waiting.as_ptr(), place);
    }
}
