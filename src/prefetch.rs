//! How is the cache asked for memory ahead of time? Hints that change nothing but the speed of what follows.

/// Octets of a cache line.
const LINE: usize = 64;

/// Asks the cache for the line of `at`.
#[inline]
pub(crate) fn prefetch<P>(at: &P) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the address is that of a reference, and a prefetch reads nothing architecturally.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks the cache for all lines that begin a multiple of their length after `span`'s start.
#[inline]
pub(crate) fn prefetch_span<P>(span: &[P]) {
    span.iter().step_by(LINE / size_of::<P>()).for_each(prefetch);
}
