//! Prefetching: hints to the CPU to load memory into its cache. They change the speed of later accesses and nothing else.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Prefetches the cache line of the first byte of `at`.
#[inline]
pub(crate) fn prefetch<P>(at: &P) {
    prefetch_at(std::ptr::from_ref(at).cast());
}

#[inline]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the intrinsic takes a pointer"))]
fn prefetch_at(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no architectural effect at any address, even an invalid one.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches all cache lines of `at`.
#[inline]
pub(crate) fn prefetch_whole<P>(at: &P) {
    let bytes: *const u8 = std::ptr::from_ref(at).cast();
    for offset in (0..size_of::<P>()).step_by(LINE).chain([size_of::<P>().saturating_sub(1)]) {
        prefetch_at(bytes.wrapping_add(offset));
    }
}

/// Prefetches the cache lines of a slice that begins at the start of a line. Elements must not be longer than a line.
#[inline]
pub(crate) fn prefetch_span<P>(span: &[P]) {
    // Not `step_by`: where the compiler does not unroll it, preparing a packet takes 40 % more instructions (callgrind).
    for line in span.chunks(LINE / size_of::<P>()) {
        prefetch(&line[0]);
    }
}
