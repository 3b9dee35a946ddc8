//! The consumer of the scanners' pieces.

/// Receives the pieces of a text, in order: a closure or, where speed matters, a type whose method is inlined into the
/// scanner.
pub trait Sink {
    fn piece(&mut self, start: usize, end: usize);
}

impl<F: FnMut(usize, usize)> Sink for F {
    #[inline(always)]
    fn piece(&mut self, start: usize, end: usize) {
        self(start, end);
    }
}
