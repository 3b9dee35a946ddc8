//! Ids as Python has them: lists of `int`, and numpy arrays.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyByteArray, PyInt, PyList};

use super::value_error;

/// The ids in an iterable of `int`, or in an array of integers.
pub fn ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(list) = ids.cast::<PyList>() {
        return ids_of_list(list);
    }
    let py = ids.py();
    if ids.hasattr("__array_interface__")? {
        if let Ok(array) = PyBuffer::<u16>::get(ids) {
            return Ok(array.to_vec(py)?.into_iter().map(u32::from).collect());
        }
        if let Ok(array) = PyBuffer::<u32>::get(ids) {
            return array.to_vec(py);
        }
        if let Ok(array) = PyBuffer::<i64>::get(ids) {
            return array.to_vec(py)?.into_iter().map(|id| u32::try_from(id).map_err(|_| no_id(id))).collect();
        }
    }
    ids.try_iter()?.map(|id| id_of(&id?)).collect()
}

/// As many ids as are plain `int`s are read without counting references, which in the stable ABI are function calls.
fn ids_of_list(list: &Bound<'_, PyList>) -> PyResult<Vec<u32>> {
    let n = list.len();
    let mut ids = Vec::with_capacity(n);
    with_critical_section(list, || {
        for at in 0..n as ffi::Py_ssize_t {
            // SAFETY: the critical section (in other builds the GIL) keeps the list as it is, and reading an exact
            // `int` runs no code that could change it: so the item at a place below its length is alive.
            let value = unsafe {
                let item = ffi::PyList_GetItem(list.as_ptr(), at);
                if item.is_null() || ffi::PyLong_CheckExact(item) == 0 {
                    break;
                }
                ffi::PyLong_AsLong(item)
            };
            let Ok(id) = u32::try_from(value) else { break };
            ids.push(id);
        }
    });
    // An error of the interpreter is found again, with its message, below.
    drop(PyErr::take(list.py()));
    for at in ids.len()..n {
        ids.push(id_of(&list.get_item(at)?)?);
    }
    Ok(ids)
}

pub fn id_of(id: &Bound<'_, PyAny>) -> PyResult<u32> {
    id.extract().map_err(|error: PyErr| match error.is_instance_of::<PyOverflowError>(id.py()) {
        true => no_id(id),
        false => error,
    })
}

fn no_id(id: impl std::fmt::Display) -> PyErr {
    value_error(format_args!("{id} is no token id: it is negative or beyond any vocabulary"))
}

/// The `int` of every id, made once: lists of ids then share them, which is several times faster than making new ones.
#[derive(Default)]
pub struct Ints(PyOnceLock<Vec<Py<PyInt>>>);

impl Ints {
    pub fn list<'py>(&self, py: Python<'py>, size: usize, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        let ints = self.0.get_or_init(py, || {
            let all = (0..size).map(|id| id.into_pyobject(py).expect("an int can always be made").unbind());
            all.collect()
        });
        PyList::new(py, ids.iter().map(|&id| ints[id as usize].bind(py)))
    }
}

/// The integers a numpy array is made of.
pub trait Number: Copy {
    const DTYPE: &'static str;
    type Bytes: AsRef<[u8]>;
    fn bytes(self) -> Self::Bytes;
}

macro_rules! number {
    ($type:ty, $dtype:literal, $width:literal) => {
        impl Number for $type {
            const DTYPE: &'static str = $dtype;
            type Bytes = [u8; $width];
            #[inline(always)]
            fn bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
        }
    };
}
number!(u16, "<u2", 2);
number!(u32, "<u4", 4);
number!(u64, "<i8", 8);

/// Copies little-endian numbers into `out`, which has room for exactly them.
pub fn write_bytes<N: Number>(parts: &[Vec<N>], out: &mut [u8]) {
    let width = size_of::<N>();
    let mut at = 0;
    for part in parts {
        for (place, &number) in out[at..].chunks_exact_mut(width).zip(part) {
            place.copy_from_slice(number.bytes().as_ref());
        }
        at += width * part.len();
    }
}

/// The parts joined, as a writable numpy array of one dimension.
pub fn numpy_array<'py, N: Number>(py: Python<'py>, parts: &[Vec<N>]) -> PyResult<Bound<'py, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let n: usize = parts.iter().map(Vec::len).sum();
    let bytes = PyByteArray::new_with(py, n * size_of::<N>(), |out| {
        write_bytes(parts, out);
        Ok(())
    })?;
    FROM_BUFFER.import(py, "numpy", "frombuffer")?.call1((bytes, N::DTYPE))
}
