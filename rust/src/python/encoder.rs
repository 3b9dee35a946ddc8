//! Encoding and decoding.

use std::num::NonZero;

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyTypeError, PyUnicodeDecodeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::ids::{Ints, Number, id_of, ids_of, numpy_array};
use super::texts::{Text, all_texts, text_of};
use super::{threads_of, value_error};
use crate::bpe::{self, Allowed, EncodeError, Encoded, Id, Vocabulary, VocabularyError, encode_batch};
use crate::split::Splitter;
use crate::{N_BYTES, Pair};

/// Below this many bytes, releasing the interpreter costs more than it saves.
const DETACH_BYTES: usize = 1 << 12;

/// Below this much text per thread, starting a thread costs more than it saves.
const MIN_BYTES_PER_THREAD: usize = 1 << 16;

impl From<VocabularyError> for PyErr {
    fn from(error: VocabularyError) -> Self {
        value_error(error)
    }
}

impl From<EncodeError> for PyErr {
    fn from(error: EncodeError) -> Self {
        value_error(error)
    }
}

/// The byte order and the merges for tokens in the order of their ranks, as in rank files.
///
/// The first 256 are the bytes, and each later one must be a merge of two of lower rank.
#[pyfunction]
pub fn merges_of_ranks<'py>(py: Python<'py>, tokens: Vec<Vec<u8>>) -> PyResult<(Bound<'py, PyBytes>, Vec<Pair>)> {
    let tokens: Vec<Box<[u8]>> = tokens.into_iter().map(Into::into).collect();
    let (order, merges) = py.detach(|| bpe::merges_of_ranks(&tokens))?;
    Ok((PyBytes::new(py, &order), merges))
}

/// Converts text to ids and back, for one split pattern, list of merges and special tokens.
///
/// Ids are the 256 byte values (or `byte_order`), the merges in order, then the special tokens: a list of names, which
/// are numbered after the merges, or a dict of names and ids. No text encodes to them unless `allowed_special` names
/// them. `frequent_pieces` are cached from the start, which only affects speed. Immutable; may be shared between
/// threads.
#[pyclass(frozen, module = "rustbpe_py")]
pub struct Encoder {
    inner: bpe::Encoder,
    frequent: Vec<Vec<u8>>,
    ints: Ints,
}

#[pymethods]
impl Encoder {
    #[new]
    #[pyo3(signature = (pattern, merges, special_tokens=None, *, byte_order=None, frequent_pieces=Vec::new()))]
    fn new(
        py: Python<'_>,
        pattern: &str,
        merges: Vec<Pair>,
        special_tokens: Option<&Bound<'_, PyAny>>,
        byte_order: Option<Vec<u8>>,
        frequent_pieces: Vec<Vec<u8>>,
    ) -> PyResult<Self> {
        let specials = special_tokens.map_or(Ok(Vec::new()), |tokens| specials_of(tokens, N_BYTES + merges.len()))?;
        let byte_order = byte_order.unwrap_or_else(|| (0..=u8::MAX).collect());
        let splitter = Splitter::new(pattern).map_err(value_error)?;
        let inner = py.detach(|| -> Result<_, VocabularyError> {
            let vocabulary = Vocabulary::new(&byte_order, merges, specials)?;
            Ok(bpe::Encoder::new(splitter, vocabulary, &frequent_pieces))
        })?;
        Ok(Self { inner, frequent: frequent_pieces, ints: Ints::default() })
    }

    /// One more than the largest id.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocabulary().size()
    }

    #[getter]
    fn pattern(&self) -> &str {
        self.inner.splitter().pattern()
    }

    #[getter]
    fn merges(&self) -> Vec<Pair> {
        self.inner.vocabulary().merges().to_vec()
    }

    #[getter]
    fn byte_order<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.vocabulary().byte_order())
    }

    /// Names and ids, in the order they were given.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let specials = PyDict::new(py);
        for (name, id) in self.inner.vocabulary().specials() {
            specials.set_item(name, id)?;
        }
        Ok(specials)
    }

    /// The ids of one text. `allowed_special`: "all", or the names of special tokens to recognize.
    #[pyo3(signature = (text, *, allowed_special=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'_, PyAny>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = self.ids_of_text::<u32>(py, text, allowed_special)?;
        self.ints.list(py, self.vocab_size(), &ids)
    }

    /// Like `encode`, as a numpy array of uint16, or uint32 if the vocabulary has larger ids.
    #[pyo3(signature = (text, *, allowed_special=None))]
    fn encode_to_numpy<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'_, PyAny>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.is_narrow() {
            true => numpy_array(py, self.ids_of_text::<u16>(py, text, allowed_special)?),
            false => numpy_array(py, self.ids_of_text::<u32>(py, text, allowed_special)?),
        }
    }

    /// Writes the ids of one text to the beginning of `out`, an array of uint16 or uint32; returns their number.
    #[pyo3(signature = (text, out, *, allowed_special=None))]
    fn encode_into(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        if let Ok(out) = PyBuffer::<u32>::get(out) {
            return fill(&out, &self.ids_of_text(py, text, allowed_special)?);
        }
        let Ok(out) = PyBuffer::<u16>::get(out) else {
            return Err(PyTypeError::new_err("out must be an array of uint16 or uint32"));
        };
        match self.is_narrow() {
            true => fill(&out, &self.ids_of_text(py, text, allowed_special)?),
            false => Err(value_error("the vocabulary has ids that do not fit uint16: give an array of uint32")),
        }
    }

    /// The number of ids of the text.
    #[pyo3(signature = (text, *, allowed_special=None))]
    fn count(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        Ok(self.ids_of_text::<u32>(py, text, allowed_special)?.len())
    }

    /// The ids of each text, on `threads` threads (default: as many as the machine runs at once).
    #[pyo3(signature = (texts, threads=None, *, allowed_special=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'_, PyAny>,
        threads: Option<NonZero<usize>>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Bound<'py, PyList>>> {
        let Encoded::<u32> { ids, offsets } =
            self.encode_texts(py, &all_texts(texts)?, None, threads, allowed_special)?;
        let ranges = offsets.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
        ranges.map(|range| self.ints.list(py, self.vocab_size(), &ids[range])).collect()
    }

    /// Like `encode_batch`: the concatenated ids of all texts, as uint16 or uint32, and the int64 offsets at which each
    /// text starts and the last one ends. `prepend` is an id to put before each text.
    #[pyo3(signature = (texts, threads=None, *, prepend=None, allowed_special=None))]
    fn encode_batch_to_numpy<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'_, PyAny>,
        threads: Option<NonZero<usize>>,
        prepend: Option<u32>,
        allowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let texts = all_texts(texts)?;
        match self.is_narrow() {
            true => as_numpy(py, self.encode_texts::<u16>(py, &texts, prepend, threads, allowed_special)?),
            false => as_numpy(py, self.encode_texts::<u32>(py, &texts, prepend, threads, allowed_special)?),
        }
    }

    /// The pieces into which the pattern splits the text; joined, they are the text.
    fn split<'py>(&self, py: Python<'py>, text: &Bound<'_, PyAny>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let text = text_of(text)?;
        let mut pieces = Vec::new();
        let bytes = text.as_ref();
        let mut add = |start, end| pieces.push(PyBytes::new(py, &bytes[start..end]));
        self.inner.splitter().split(bytes, &mut add);
        Ok(pieces)
    }

    /// The bytes of the ids; special tokens give their names. Accepts any iterable of ids and integer arrays.
    fn decode_bytes<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.bytes_of_ids(py, ids)?))
    }

    /// Like `decode_bytes`, as text; `errors` as in `bytes.decode`.
    #[pyo3(signature = (ids, errors="replace"))]
    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>, errors: &str) -> PyResult<Bound<'py, PyString>> {
        text_of_bytes(py, &self.bytes_of_ids(py, ids)?, errors)
    }

    /// `decode` for each.
    #[pyo3(signature = (batch, errors="replace"))]
    fn decode_batch<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, PyAny>,
        errors: &str,
    ) -> PyResult<Vec<Bound<'py, PyString>>> {
        batch.try_iter()?.map(|ids| self.decode(py, &ids?, errors)).collect()
    }

    /// For each id, where its token starts in the decoded text, in characters; within a character, where that starts.
    fn offsets(&self, ids: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
        Ok(self.inner.starts(&ids_of(ids)?)?)
    }

    /// The bytes of one token; for a special token, its name.
    fn token_bytes<'py>(&self, py: Python<'py>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.inner.vocabulary().token(id_of(id)?)?))
    }

    /// The id of the ordinary token with exactly these bytes, or None.
    fn token_id(&self, token: &[u8]) -> Option<u32> {
        self.inner.token_id(token)
    }

    /// A decoder for ids that arrive one by one.
    fn stream(slf: Bound<'_, Self>) -> StreamDecoder {
        StreamDecoder { encoder: slf.unbind(), state: bpe::StreamDecoder::default() }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let this = slf.get();
        let frequent: Vec<_> = this.frequent.iter().map(|piece| PyBytes::new(py, piece)).collect();
        let keywords = PyDict::new(py);
        keywords.set_item("byte_order", this.byte_order(py))?;
        keywords.set_item("frequent_pieces", frequent)?;
        let positional = (this.pattern(), this.merges(), this.special_tokens(py)?);
        let make = py.import("functools")?.getattr("partial")?.call((slf.get_type(),), Some(&keywords))?;
        Ok((make, positional.into_pyobject(py)?))
    }

    fn __repr__(&self) -> String {
        format!("<Encoder of {} ids>", self.vocab_size())
    }
}

impl Encoder {
    /// Whether all ids fit 16 bits.
    fn is_narrow(&self) -> bool {
        self.vocab_size() <= u16::MAX as usize + 1
    }

    fn ids_of_text<I: Id>(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        allowed: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<I>> {
        let text = text_of(text)?;
        let bytes = text.as_ref();
        self.with_allowed(allowed, |allowed| match bytes.len() < DETACH_BYTES {
            true => Ok(self.inner.encode(bytes, allowed)?),
            false => Ok(py.detach(|| self.inner.encode(bytes, allowed))?),
        })
    }

    fn encode_texts<I: Id>(
        &self,
        py: Python<'_>,
        texts: &[Text],
        prepend: Option<u32>,
        threads: Option<NonZero<usize>>,
        allowed: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Encoded<I>> {
        if let Some(id) = prepend {
            self.inner.vocabulary().token(id)?;
        }
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        let threads = threads_of(threads).min(bytes / MIN_BYTES_PER_THREAD).max(1);
        self.with_allowed(allowed, |allowed| {
            Ok(py.detach(|| encode_batch(&self.inner, texts, allowed, prepend, threads))?)
        })
    }

    fn with_allowed<T>(
        &self,
        allowed: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&Allowed) -> PyResult<T>,
    ) -> PyResult<T> {
        let Some(allowed) = allowed.filter(|allowed| !allowed.is_none()) else { return work(&Allowed::default()) };
        if let Ok(word) = allowed.cast::<PyString>() {
            return match word.to_str()? {
                "all" => work(self.inner.allow_all()),
                other => Err(value_error(format_args!("allowed_special is \"all\" or a set of names, not {other:?}"))),
            };
        }
        let names = allowed.try_iter()?.map(|name| name?.extract::<String>()).collect::<PyResult<Vec<_>>>()?;
        work(&self.inner.allow(names)?)
    }

    fn bytes_of_ids(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let ids = ids_of(ids)?;
        match ids.len() < DETACH_BYTES {
            true => Ok(self.inner.decode(&ids)?),
            false => Ok(py.detach(|| self.inner.decode(&ids))?),
        }
    }
}

/// Names with their ids, from a dict, or from an iterable of names, which are numbered from `first` on.
fn specials_of(tokens: &Bound<'_, PyAny>, first: usize) -> PyResult<Vec<(String, u32)>> {
    if let Ok(tokens) = tokens.cast::<PyDict>() {
        return tokens.iter().map(|(name, id)| Ok((name.extract()?, id_of(&id)?))).collect();
    }
    let names = tokens.try_iter()?.enumerate();
    names.map(|(index, name)| Ok((name?.extract()?, (first + index) as u32))).collect()
}

fn as_numpy<'py, I: Number>(py: Python<'py>, encoded: Encoded<I>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    Ok((numpy_array(py, encoded.ids)?, numpy_array(py, encoded.offsets)?))
}

fn fill<I: Element>(out: &PyBuffer<I>, ids: &[I]) -> PyResult<usize> {
    let (true, Some(place)) = (!out.readonly(), out.as_slice_ptr()) else {
        return Err(value_error("out is not writable or not contiguous"));
    };
    if place.len() < ids.len() {
        return Err(value_error(format_args!("the text has {} ids, out has room for {}", ids.len(), place.len())));
    }
    // SAFETY: the buffer is contiguous and writable, holds at least as many items of this type, and belongs to `out`
    // until
    // it is released; `ids` is our own memory. Nothing else is called meanwhile.
    unsafe { std::ptr::copy_nonoverlapping(ids.as_ptr(), place.cast().as_ptr(), ids.len()) };
    Ok(ids.len())
}

fn text_of_bytes<'py>(py: Python<'py>, bytes: &[u8], errors: &str) -> PyResult<Bound<'py, PyString>> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Ok(PyString::new(py, text));
    }
    let text = PyBytes::new(py, bytes).call_method1("decode", ("utf-8", errors));
    text.map_err(|error| match error.is_instance_of::<PyUnicodeDecodeError>(py) {
        true => value_error(format_args!("the ids are no valid text: {error}")),
        false => error,
    })?
    .cast_into()
    .map_err(Into::into)
}

/// Decodes ids as they arrive and never splits a character: an incomplete one is held back.
#[pyclass(module = "rustbpe_py")]
pub struct StreamDecoder {
    encoder: Py<Encoder>,
    state: bpe::StreamDecoder,
}

#[pymethods]
impl StreamDecoder {
    /// The text that becomes complete with this id.
    fn push(&mut self, id: &Bound<'_, PyAny>) -> PyResult<String> {
        let token = self.encoder.get().inner.vocabulary().token(id_of(id)?)?;
        Ok(self.state.push(token))
    }

    /// The rest at the end: nothing, or U+FFFD for an incomplete character.
    fn finish(&mut self) -> String {
        self.state.finish()
    }
}
