//! Large tables with random access: huge pages and prefetching.

/// A table of `n` equal entries, on huge pages if the system has them: with random access to megabytes on pages of four
/// kilobytes, address translation takes as long as the memory itself.
pub fn filled_table<T: Copy>(entry: T, n: usize) -> Vec<T> {
    let mut table = empty_table(n);
    table.resize(n, entry);
    table
}

/// As above, without entries and with room for `n`.
pub fn empty_table<T>(n: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(n);
    advise_huge_pages(&mut table);
    table
}

/// Must come before the memory is first touched.
fn advise_huge_pages<T>(table: &mut Vec<T>) {
    // Miri does not support the call.
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        const PAGE: usize = 1 << 12;
        let start = table.as_mut_ptr().addr().next_multiple_of(PAGE);
        let end = (table.as_mut_ptr().addr() + table.capacity() * size_of::<T>()) / PAGE * PAGE;
        if start < end {
            let first = table.as_mut_ptr().with_addr(start);
            // SAFETY: the range is within the allocation that `table` owns, and the advice changes how memory is
            // backed,
            // never its content. A system that does not support it returns an error, which changes nothing.
            unsafe { libc::madvise(first.cast(), end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(any(not(target_os = "linux"), miri))]
    let _ = table;
}

/// Prefetches the cache line of `table[index]`, if it exists.
#[inline(always)]
pub fn prefetch<T>(table: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(slot) = table.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has this instruction, which is only a hint; the address is that of a live element.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (table, index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_filled_whatever_its_size() {
        // Miri would take a minute to write a megabyte.
        for n in [0, 1, 1_000, if cfg!(miri) { 5_000 } else { 1 << 20 }] {
            assert_eq!(filled_table(7_u32, n), vec![7; n]);
        }
    }

    #[test]
    fn prefetching_reads_nothing() {
        prefetch(&[1, 2, 3], 2);
        prefetch(&[1, 2, 3], 3);
        prefetch::<u8>(&[], 0);
    }
}
