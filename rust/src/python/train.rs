//! Counting and training.

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::texts::{Text, append_texts};
use super::{threads_of, value_error};
use crate::specials::Specials;
use crate::split::Splitter;
use crate::train::{Corpus, Counter, PieceCounts, SavedCounts, learn_merges};
use crate::{N_BYTES, Pair};

/// Text gathered before a thread counts it.
const BATCH_BYTES: usize = 1 << 20;

/// Number of batches that wait for each of the other threads: enough while the gathering thread counts one.
const WAITING_PER_THREAD: usize = 2;

/// Size of the blocks in which files are read.
const BLOCK_BYTES: usize = 4 << 20;

/// Merges between two checks for Ctrl-C and calls of `progress`.
const MERGES_PER_TICK: usize = 64;

/// Learn the merges of a byte-level BPE from an iterable of `str`, bytes or Arrow arrays.
///
/// `vocab_size` is 256 bytes plus the merges, without special tokens; those split the text where they occur and are not
/// learned. `progress(done, total)` is called with the number of merges from time to time. `threads` is the number of
/// threads including the calling one (default: as many as the machine runs at once). Returns the merges as pairs of
/// ids,
/// fewer if the text does not have enough pairs; the first n of them are those of a smaller vocabulary.
#[pyfunction]
#[pyo3(signature = (texts, vocab_size, pattern, progress=None, *, special_tokens=Vec::new(), threads=None))]
pub fn train(
    py: Python<'_>,
    texts: &Bound<'_, PyAny>,
    vocab_size: i64,
    pattern: &str,
    progress: Option<Py<PyAny>>,
    special_tokens: Vec<String>,
    threads: Option<NonZero<usize>>,
) -> PyResult<Vec<Pair>> {
    let limit = n_merges(vocab_size)?;
    let mut counter = PieceCounter::new(pattern, special_tokens, threads)?;
    counter.add(py, texts)?;
    let corpus = counter.corpus(py)?;
    drop(counter);
    learn(py, corpus, limit, progress)
}

fn n_merges(vocab_size: i64) -> PyResult<usize> {
    let limit = u32::try_from(vocab_size).ok().and_then(|size| (size as usize).checked_sub(N_BYTES));
    limit.ok_or_else(|| {
        value_error(format_args!("vocab_size {vocab_size} does not hold the {N_BYTES} byte values: ask for more"))
    })
}

/// How often each distinct piece occurs in the texts added so far, which is all that training needs.
#[pyclass(module = "rustbpe_py")]
pub struct PieceCounter {
    splitter: Splitter,
    specials: Specials,
    threads: usize,
    counts: PieceCounts,
}

#[pymethods]
impl PieceCounter {
    #[new]
    #[pyo3(signature = (pattern, special_tokens=Vec::new(), threads=None))]
    fn new(pattern: &str, special_tokens: Vec<String>, threads: Option<NonZero<usize>>) -> PyResult<Self> {
        Ok(Self {
            splitter: Splitter::new(pattern).map_err(value_error)?,
            specials: Specials::new(special_tokens).map_err(value_error)?,
            threads: threads_of(threads),
            counts: PieceCounts::default(),
        })
    }

    /// Counts the texts of an iterable of `str`, bytes or Arrow arrays; after an error, counts none of them.
    fn add(&mut self, py: Python<'_>, texts: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut texts = texts.try_iter()?;
        self.count(py, move |_, batch| {
            let Some(item) = texts.next().transpose()? else { return Ok(false) };
            append_texts(&item, batch)?;
            Ok(true)
        })
    }

    /// Counts a file as one text, read block by block if the pattern allows splitting at lines, else at once.
    fn add_file(&mut self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let mut blocks = Blocks::open(&path, self.splitter.clone(), self.specials.may_cut_at_lines())?;
        self.count(py, move |py, batch| match py.detach(|| blocks.next())? {
            Some(block) => {
                batch.push(Text::Owned(block));
                Ok(true)
            }
            None => Ok(false),
        })
    }

    /// Adds the counts of another counter with the same pattern and special tokens.
    fn absorb(&mut self, other: &Self) -> PyResult<()> {
        self.must_match(other.splitter.pattern(), other.specials.names())?;
        self.counts.absorb(other.counts.clone());
        Ok(())
    }

    /// The table as bytes; equal tables give equal bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| SavedCounts::to_bytes(self.splitter.pattern(), self.specials.names(), &self.counts));
        PyBytes::new(py, &bytes)
    }

    #[staticmethod]
    #[pyo3(signature = (data, threads=None))]
    fn from_bytes(py: Python<'_>, data: &[u8], threads: Option<NonZero<usize>>) -> PyResult<Self> {
        let saved = py.detach(|| SavedCounts::from_bytes(data)).map_err(value_error)?;
        let mut counter = Self::new(&saved.pattern, saved.specials, threads)?;
        counter.counts = saved.counts;
        Ok(counter)
    }

    /// Number of distinct pieces.
    fn __len__(&self) -> usize {
        self.counts.len()
    }

    /// The `n` most frequent pieces of at least `min_bytes` and at most `max_bytes` bytes, with their counts.
    #[pyo3(signature = (n, min_bytes=1, max_bytes=None))]
    fn top<'py>(
        &self,
        py: Python<'py>,
        n: usize,
        min_bytes: usize,
        max_bytes: Option<usize>,
    ) -> Vec<(Bound<'py, PyBytes>, u64)> {
        let lengths = min_bytes..=max_bytes.unwrap_or(usize::MAX);
        let top = py.detach(|| self.counts.top(n, |piece| lengths.contains(&piece.len())));
        top.into_iter().map(|(piece, count)| (PyBytes::new(py, &piece), count)).collect()
    }

    /// Like the function `train`, from the counts, which are kept.
    #[pyo3(signature = (vocab_size, progress=None))]
    fn train(&self, py: Python<'_>, vocab_size: i64, progress: Option<Py<PyAny>>) -> PyResult<Vec<Pair>> {
        let limit = n_merges(vocab_size)?;
        learn(py, self.corpus(py)?, limit, progress)
    }

    fn __repr__(&self) -> String {
        format!("<PieceCounter of {} distinct pieces>", self.counts.len())
    }
}

impl PieceCounter {
    fn must_match(&self, pattern: &str, specials: &[String]) -> PyResult<()> {
        match pattern == self.splitter.pattern() && specials == self.specials.names() {
            true => Ok(()),
            false => Err(value_error("the tables were counted with different patterns or special tokens")),
        }
    }

    fn corpus(&self, py: Python<'_>) -> PyResult<Corpus> {
        if self.counts.is_empty() {
            return Err(value_error("there is no text to train on: every text is empty"));
        }
        py.detach(|| Corpus::new(&self.counts, self.threads)).map_err(value_error)
    }

    /// Counts the texts that `more` appends to a batch, until it returns that there are no more. This thread gathers
    /// texts,
    /// and counts the batches that do not fit into the other threads' queues: all of them if it is alone.
    fn count(
        &mut self,
        py: Python<'_>,
        mut more: impl FnMut(Python<'_>, &mut Vec<Text>) -> PyResult<bool>,
    ) -> PyResult<()> {
        let Self { splitter, specials, threads, counts } = self;
        let (splitter, specials, n_others) = (&*splitter, &*specials, *threads - 1);
        let (sender, receiver) = sync_channel(WAITING_PER_THREAD * n_others);
        // Objects of the interpreter are returned to this thread, which may drop them.
        let (used_sender, used) = channel();
        let (batches, table) = (Batches { waiting: Mutex::new(receiver), used: used_sender }, Mutex::new(None));
        let counter = || Counter::new(splitter.clone(), specials);
        let count_waiting = |mut counter: Counter<'_>| {
            batches.count(&mut counter);
            add_table(&table, counter.finish());
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..n_others).map(|_| scope.spawn(|| count_waiting(counter()))).collect();
            let mut own = counter();
            let gathered = gather(py, &mut more, splitter, specials.may_cut_at_lines(), |batch| {
                if let Err(TrySendError::Full(batch)) = sender.try_send(batch) {
                    py.detach(|| count_batch(&mut own, &batch));
                }
                used.try_iter().for_each(drop);
                py.check_signals()
            });
            drop(sender);
            py.detach(|| {
                count_waiting(own);
                others.into_iter().for_each(|other| other.join().expect("counting does not panic"));
            });
            gathered
        })?;
        let table: Option<PieceCounts> = table.into_inner().expect("no thread panics with the lock");
        py.detach(|| counts.absorb(table.expect("every thread adds its table")));
        Ok(())
    }
}

/// Batches on their way to the threads that count them, and back.
struct Batches {
    waiting: Mutex<Receiver<Vec<Text>>>,
    used: Sender<Vec<Text>>,
}

impl Batches {
    /// Counts waiting batches until no more can come.
    fn count(&self, counter: &mut Counter<'_>) {
        loop {
            let batch = self.waiting.lock().expect("no thread panics with the lock").recv();
            let Ok(batch) = batch else { break };
            count_batch(counter, &batch);
            // If it is not taken back, it is dropped here, and the interpreter releases its objects later.
            drop(self.used.send(batch));
        }
    }
}

fn count_batch(counter: &mut Counter<'_>, batch: &[Text]) {
    batch.iter().for_each(|text| counter.add(text.as_ref()));
}

/// Leaves one table for all threads once every thread has called it. With many threads, several add tables in parallel.
fn add_table(table: &Mutex<Option<PieceCounts>>, mut own: PieceCounts) {
    loop {
        let mut waiting = table.lock().expect("no thread panics with the lock");
        let Some(other) = waiting.take() else {
            *waiting = Some(own);
            return;
        };
        drop(waiting);
        own.absorb(other);
    }
}

fn learn(py: Python<'_>, corpus: Corpus, limit: usize, progress: Option<Py<PyAny>>) -> PyResult<Vec<Pair>> {
    let tick = |done: usize| -> PyResult<()> {
        if !done.is_multiple_of(MERGES_PER_TICK) && done != limit {
            return Ok(());
        }
        Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done, limit)).map(drop))
        })
    };
    py.detach(|| learn_merges(corpus, limit, tick))
}

fn gather(
    py: Python<'_>,
    more: &mut impl FnMut(Python<'_>, &mut Vec<Text>) -> PyResult<bool>,
    splitter: &Splitter,
    may_cut: bool,
    mut hand_over: impl FnMut(Vec<Text>) -> PyResult<()>,
) -> PyResult<()> {
    let mut batch: Vec<Text> = Vec::new();
    let mut bytes = 0;
    loop {
        let first_new = batch.len();
        if !more(py, &mut batch)? {
            break;
        }
        let new_bytes: usize = batch[first_new..].iter().map(|text| text.as_ref().len()).sum();
        bytes += new_bytes;
        if new_bytes > 2 * BATCH_BYTES && may_cut {
            for text in batch.split_off(first_new) {
                for part in parts(text, splitter) {
                    batch.push(part);
                    hand_over(std::mem::take(&mut batch))?;
                }
            }
            bytes = 0;
        } else if bytes >= BATCH_BYTES {
            hand_over(std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    if batch.is_empty() { Ok(()) } else { hand_over(std::mem::take(&mut batch)) }
}

/// A text, split where the pattern allows it into parts that several threads can count.
fn parts(text: Text, splitter: &Splitter) -> Vec<Text> {
    let text = Arc::new(text);
    let bytes = (*text).as_ref();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut from = 0;
    while bytes.len() - from > BATCH_BYTES {
        let Some(cut) = splitter.last_cut(&bytes[from..from + BATCH_BYTES]) else { break };
        ranges.push(from..from + cut);
        from += cut;
    }
    ranges.push(from..bytes.len());
    ranges.into_iter().map(|range| Text::Part(Arc::clone(&text), range)).collect()
}

/// A file in blocks that end where the pattern allows a split.
struct Blocks {
    file: File,
    path: PathBuf,
    splitter: Splitter,
    may_cut: bool,
    /// The bytes read after the last split.
    rest: Vec<u8>,
    ended: bool,
}

impl Blocks {
    fn open(path: &std::path::Path, splitter: Splitter, may_cut: bool) -> PyResult<Self> {
        let file = File::open(path).map_err(|e| value_error(format_args!("cannot read {}: {e}", path.display())))?;
        Ok(Self { file, path: path.to_owned(), splitter, may_cut, rest: Vec::new(), ended: false })
    }

    fn next(&mut self) -> PyResult<Option<Vec<u8>>> {
        while !self.ended {
            let before = self.rest.len();
            let most = before.max(BLOCK_BYTES) as u64;
            let read = (&mut self.file).take(most).read_to_end(&mut self.rest);
            let read = read.map_err(|e| value_error(format_args!("cannot read {}: {e}", self.path.display())))?;
            self.ended = (read as u64) < most;
            if self.may_cut
                && !self.ended
                && let Some(cut) = self.splitter.last_cut(&self.rest)
            {
                let rest = self.rest.split_off(cut);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
        }
        let rest = std::mem::take(&mut self.rest);
        Ok((!rest.is_empty()).then_some(rest))
    }
}
