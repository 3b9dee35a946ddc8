//! The Python boundary: `rustbpe_py.train`, `PieceCounter`, `Encoder` and `StreamDecoder`.
//!
//! Work on more than a little text releases the interpreter. Any invalid argument is a `ValueError` (or a `TypeError`
//! for
//! a wrong type), never a panic. Nothing here keeps threads or locks between calls, so a fork is harmless, and no
//! object
//! is changed while another thread can see it.

mod encoder;
mod ids;
mod texts;
mod train;

use std::fmt::Display;
use std::num::NonZero;
use std::thread::available_parallelism;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The error of a user's argument.
fn value_error(error: impl Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// As many threads as requested, or as the machine runs at once.
fn threads_of(threads: Option<NonZero<usize>>) -> usize {
    threads.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get)
}

#[pymodule(gil_used = false)]
fn rustbpe_py(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(train::train, module)?)?;
    module.add_function(wrap_pyfunction!(encoder::merges_of_ranks, module)?)?;
    module.add_class::<train::PieceCounter>()?;
    module.add_class::<encoder::Encoder>()?;
    module.add_class::<encoder::StreamDecoder>()
}
