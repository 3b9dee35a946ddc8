//! Ids from and to Python: lists of `int`, and numpy arrays.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyInt, PyList};

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

/// Items of a list that are asked for together, so that the memory of one is fetched while others are read.
const BLOCK: usize = 32;

/// Reads leading `int`s without counting references, because in the stable ABI that means function calls.
fn ids_of_list(list: &Bound<'_, PyList>) -> PyResult<Vec<u32>> {
    let n = list.len();
    let mut ids = Vec::with_capacity(n);
    with_critical_section(list, || {
        let mut block = [std::ptr::null_mut(); BLOCK];
        for from in (0..n).step_by(BLOCK) {
            let items = &mut block[..BLOCK.min(n - from)];
            for (at, item) in (from..).zip(items.iter_mut()) {
                // SAFETY: the critical section (in other builds the GIL) keeps the list unchanged, and nothing here runs
                // code that could change it, so the item at an index below its length is alive.
                *item = unsafe { ffi::PyList_GetItem(list.as_ptr(), at as ffi::Py_ssize_t) };
            }
            for &mut item in items {
                // SAFETY: as above. What is no `int` sets an error and is not asked to become one.
                let value = unsafe { ffi::PyLong_AsUnsignedLongLong(item) };
                let Ok(id) = u32::try_from(value) else { return };
                ids.push(id);
            }
        }
    });
    // An error of the interpreter occurs again, with its message, below.
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

/// The `int` of every id, made once, so that lists of ids share them: several times faster than making new ones.
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

/// The integer types of a numpy array.
pub trait Number: Copy + Send + Sync + 'static {
    const DTYPE: &'static str;
}

impl Number for u16 {
    const DTYPE: &'static str = "=u2";
}

impl Number for u32 {
    const DTYPE: &'static str = "=u4";
}

impl Number for u64 {
    const DTYPE: &'static str = "=i8";
}

/// Numbers that a numpy array uses as its memory.
#[pyclass(frozen)]
struct Memory {
    /// Address of the numbers, which only the array reads or writes.
    start: NonNull<c_void>,
    bytes: ffi::Py_ssize_t,
    _numbers: Box<dyn Send + Sync>,
}

// SAFETY: the memory at `start` belongs to `_numbers`, which may be sent and shared, and is only given away as a buffer.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn of<N: Number>(mut numbers: Vec<N>) -> Self {
        let start = NonNull::from(&mut numbers[..]).cast();
        Self { start, bytes: size_of_val(&numbers[..]) as ffi::Py_ssize_t, _numbers: Box::new(numbers) }
    }
}

#[pymethods]
impl Memory {
    /// # Safety
    /// Only the interpreter may call it, with a view to be filled in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let Self { start, bytes, .. } = *slf.get();
        // SAFETY: the view belongs to the interpreter, which keeps `slf`, and so the memory, alive as long as the view.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.as_ptr(), bytes, 0, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// The numbers as a writable one-dimensional numpy array, without a copy.
pub fn numpy_array<N: Number>(py: Python<'_>, mut numbers: Vec<N>) -> PyResult<Bound<'_, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    numbers.shrink_to_fit();
    FROM_BUFFER.import(py, "numpy", "frombuffer")?.call1((Memory::of(numbers), N::DTYPE))
}
