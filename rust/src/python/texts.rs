//! Texts from Python: `str`, bytes, and Arrow columns. None is copied, except non-ASCII `str`, which the interpreter
//! encodes as UTF-8.

use std::ops::Range;
use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyByteArray, PyBytes, PyString};

use super::value_error;

/// Bytes of a text that do not move while it lives.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
    Owned(Vec<u8>),
    Row(Arc<Column>, Range<usize>),
    Part(Arc<Text>, Range<usize>),
}

impl AsRef<[u8]> for Text {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Row(column, range) => &column.data()[range.clone()],
            Self::Part(text, range) => &(**text).as_ref()[range.clone()],
        }
    }
}

/// The buffer of an Arrow array; its format says signed bytes, regardless of the content.
pub struct Column(PyBuffer<i8>);

impl Column {
    fn data(&self) -> &[u8] {
        let bytes = self.0.as_slice_ptr().filter(|bytes| !bytes.is_empty());
        // SAFETY: the buffer is held until `self` is dropped, Arrow's arrays never change, and any byte is a `u8`.
        bytes.map_or(&[], |bytes| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), bytes.len()) })
    }
}

/// One text. Lone surrogates have no UTF-8.
pub fn text_of(item: &Bound<'_, PyAny>) -> PyResult<Text> {
    if let Ok(text) = item.cast::<PyString>() {
        return PyBackedStr::try_from(text.clone())
            .map(Text::Str)
            .map_err(|error| value_error(format_args!("the text is not valid Unicode: {error}")));
    }
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Text::Bytes(bytes.clone().into()));
    }
    if let Ok(bytes) = item.cast::<PyByteArray>() {
        return Ok(Text::Bytes(bytes.clone().into()));
    }
    Err(PyTypeError::new_err(format!("expected str or bytes, got {}", item.get_type().name()?)))
}

/// One text, or all of an Arrow array (or of the chunks of one).
pub fn append_texts(item: &Bound<'_, PyAny>, texts: &mut Vec<Text>) -> PyResult<()> {
    if item.is_instance_of::<PyString>() || !item.hasattr("buffers")? && !item.hasattr("iterchunks")? {
        texts.push(text_of(item)?);
        return Ok(());
    }
    if item.hasattr("iterchunks")? {
        for chunk in item.call_method0("iterchunks")?.try_iter()? {
            append_column(&chunk?, texts)?;
        }
        return Ok(());
    }
    append_column(item, texts)
}

/// All texts of an iterable of texts, or of an Arrow array.
pub fn all_texts(texts: &Bound<'_, PyAny>) -> PyResult<Vec<Text>> {
    let mut all = Vec::new();
    if !texts.is_instance_of::<PyString>() && (texts.hasattr("buffers")? || texts.hasattr("iterchunks")?) {
        append_texts(texts, &mut all)?;
        return Ok(all);
    }
    for item in texts.try_iter()? {
        append_texts(&item?, &mut all)?;
    }
    Ok(all)
}

fn append_column(array: &Bound<'_, PyAny>, texts: &mut Vec<Text>) -> PyResult<()> {
    let kind = array.getattr("type")?.str()?.to_string();
    let wide = match kind.as_str() {
        "string" | "binary" => false,
        "large_string" | "large_binary" => true,
        _ => {
            return Err(PyTypeError::new_err(format!(
                "an Arrow array of {kind} holds no texts: cast it to string or large_string"
            )));
        }
    };
    let (first, n): (usize, usize) = (array.getattr("offset")?.extract()?, array.len()?);
    let buffers: Vec<Option<Bound<'_, PyAny>>> = array.call_method0("buffers")?.extract()?;
    let [validity, Some(offsets), Some(data)] = &buffers[..] else { return Ok(()) };
    let (offsets, column) = (Column(PyBuffer::get(offsets)?), Arc::new(Column(PyBuffer::get(data)?)));
    let validity = validity.as_ref().map(PyBuffer::get).transpose()?.map(Column);
    let offset = |row: usize| -> Option<usize> {
        match wide {
            true => offsets.data().as_chunks::<8>().0.get(row).map(|&o| u64::from_le_bytes(o) as usize),
            false => offsets.data().as_chunks::<4>().0.get(row).map(|&o| u32::from_le_bytes(o) as usize),
        }
    };
    for row in first..first + n {
        if validity.as_ref().is_some_and(|bits| bits.data()[row / 8] >> (row % 8) & 1 == 0) {
            continue;
        }
        let (Some(from), Some(to)) = (offset(row), offset(row + 1)) else {
            return Err(value_error("the Arrow array's offsets are cut off"));
        };
        if from > to || to > column.data().len() {
            return Err(value_error("the Arrow array's offsets do not fit its data"));
        }
        texts.push(Text::Row(Arc::clone(&column), from..to));
    }
    Ok(())
}
