//! The Python boundary: `rustbpe_py.train` and `rustbpe_py.Encoder`.
//!
//! Work on text runs with the interpreter released. Whatever is wrong with an argument is a `ValueError` (or a
//! `TypeError` for a wrong type), never a panic.

use std::num::NonZero;
use std::thread::available_parallelism;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString};

use crate::encode::{self, VocabularyError};
use crate::pattern::{PatternError, Splitter};
use crate::train::{N_BYTES, Pair, PieceCounter};

/// Text gathered from the iterator before it is counted with the interpreter released.
const COUNT_BATCH_BYTES: usize = 4 << 20;

/// Merges between two looks at Ctrl-C and calls of `progress`.
const MERGES_PER_TICK: usize = 64;

impl From<PatternError> for PyErr {
    fn from(error: PatternError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

impl From<VocabularyError> for PyErr {
    fn from(error: VocabularyError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// Learn the merges of a byte-level BPE from an iterable of `str`.
///
/// `vocab_size` is 256 bytes plus the merges, special tokens not included. `progress(done, total)` is called with the
/// number of merges now and then. Returns the merges as pairs of ids, fewer where the text does not yield as many.
#[pyfunction]
#[pyo3(signature = (texts, vocab_size, pattern, progress=None))]
fn train(
    py: Python<'_>,
    texts: &Bound<'_, PyAny>,
    vocab_size: i64,
    pattern: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Pair>> {
    let limit = u32::try_from(vocab_size).ok().and_then(|size| (size as usize).checked_sub(N_BYTES));
    let Some(limit) = limit else {
        let message = format!("vocab_size {vocab_size} does not hold the {N_BYTES} byte values: ask for more");
        return Err(PyValueError::new_err(message));
    };
    let counter = count(py, texts, PieceCounter::new(Splitter::new(pattern)?))?;
    if counter.is_empty() {
        return Err(PyValueError::new_err("there is no text to train on: every text is empty"));
    }
    let report = |done: usize| -> PyResult<()> {
        if !done.is_multiple_of(MERGES_PER_TICK) && done != limit {
            return Ok(());
        }
        Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done, limit)).map(drop))
        })
    };
    py.detach(|| counter.train(limit, report))
}

fn count(py: Python<'_>, texts: &Bound<'_, PyAny>, mut counter: PieceCounter) -> PyResult<PieceCounter> {
    let mut batch: Vec<PyBackedStr> = Vec::new();
    let mut bytes = 0;
    let mut count_batch = |batch: &mut Vec<PyBackedStr>| -> PyResult<()> {
        py.check_signals()?;
        py.detach(|| batch.iter().try_for_each(|text| counter.add(text)))?;
        batch.clear();
        Ok(())
    };
    for item in texts.try_iter()? {
        let text = backed_str(&item?)?;
        bytes += text.len();
        batch.push(text);
        if bytes >= COUNT_BATCH_BYTES {
            count_batch(&mut batch)?;
            bytes = 0;
        }
    }
    count_batch(&mut batch)?;
    Ok(counter)
}

/// Text in ids and back, for one split pattern, list of merges and list of special tokens.
///
/// Ids are the 256 byte values, the merges in their order, then the special tokens, which no text encodes to.
#[pyclass(frozen, module = "rustbpe_py")]
struct Encoder(encode::Encoder);

#[pymethods]
impl Encoder {
    #[new]
    #[pyo3(signature = (pattern, merges, special_tokens=Vec::new()))]
    fn new(pattern: &str, merges: Vec<Pair>, special_tokens: Vec<String>) -> PyResult<Self> {
        Ok(Self(encode::Encoder::new(Splitter::new(pattern)?, &merges, &special_tokens)?))
    }

    /// Ids in all: bytes, merges and special tokens.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.size()
    }

    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        let text = backed_str(text)?;
        Ok(py.detach(|| self.0.encode(&text))?)
    }

    /// The ids of each text, encoded on `threads` threads (default: as many as the machine runs at once).
    #[pyo3(signature = (texts, threads=None))]
    fn encode_batch(
        &self,
        py: Python<'_>,
        texts: Vec<Bound<'_, PyAny>>,
        threads: Option<NonZero<usize>>,
    ) -> PyResult<Vec<Vec<u32>>> {
        let texts = texts.iter().map(backed_str).collect::<PyResult<Vec<_>>>()?;
        let threads = threads.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get);
        Ok(py.detach(|| self.0.encode_batch(&texts, threads))?)
    }

    /// The bytes the ids stand for, special tokens as their text.
    fn decode_bytes<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let ids = ids.try_iter()?.map(|id| token_id(&id?)).collect::<PyResult<Vec<_>>>()?;
        let bytes = py.detach(|| self.0.decode(&ids))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The bytes of one token, of a special token its text.
    fn token_bytes<'py>(&self, py: Python<'py>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.0.token(token_id(id)?)?))
    }
}

/// The UTF-8 of a `str` without copying it. Lone surrogates have none.
fn backed_str(text: &Bound<'_, PyAny>) -> PyResult<PyBackedStr> {
    let Ok(text) = text.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!("expected str, got {}", text.get_type().name()?)));
    };
    PyBackedStr::try_from(text.clone())
        .map_err(|error| PyValueError::new_err(format!("the text is not valid Unicode: {error}")))
}

fn token_id(id: &Bound<'_, PyAny>) -> PyResult<u32> {
    id.extract().map_err(|error: PyErr| {
        if !error.is_instance_of::<PyOverflowError>(id.py()) {
            return error;
        }
        PyValueError::new_err(format!("{id} is no token id: it is negative or beyond any vocabulary"))
    })
}

#[pymodule]
fn rustbpe_py(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(train, module)?)?;
    module.add_class::<Encoder>()
}
