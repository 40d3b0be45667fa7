//! How is the cache asked for memory ahead of time? Hints that change nothing but the speed of what follows.

/// Octets of a cache line.
const LINE: usize = 64;

/// Asks the cache for the line of `at`.
#[inline]
pub(crate) fn prefetch<P>(at: &P) {
    prefetch_at(std::ptr::from_ref(at).cast());
}

#[inline]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the intrinsic takes a pointer"))]
fn prefetch_at(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing architecturally, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks the cache for every line of `at`.
#[inline]
pub(crate) fn prefetch_whole<P>(at: &P) {
    let octets: *const u8 = std::ptr::from_ref(at).cast();
    for offset in (0..size_of::<P>()).step_by(LINE).chain([size_of::<P>().saturating_sub(1)]) {
        prefetch_at(octets.wrapping_add(offset));
    }
}

/// Asks the cache for all lines that begin a multiple of their length after `span`'s start.
#[inline]
pub(crate) fn prefetch_span<P>(span: &[P]) {
    span.iter().step_by(LINE / size_of::<P>()).for_each(prefetch);
}
