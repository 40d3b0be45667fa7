//! The scoring kernel: the sum of int8 weight rows, as wide as the machine allows.
//!
//! AVX-512, AVX2 or portable code is chosen at run time; a property test holds each to the plain loop.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::prefetch::prefetch_span;

/// Sums the rows `active` of `weights` (each `stride` long, a multiple of 64) into `out[..stride]`.
#[inline]
pub(super) fn sum_rows(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    let rows = weights.len() / stride;
    assert!(stride.is_multiple_of(64) && out.len() >= stride, "stride and buffer must match the network");
    assert!(active.iter().all(|&i| (i as usize) < rows), "an active input lies outside the network");
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bw") {
            // SAFETY: the feature was detected; the rows and the buffer were checked above.
            return unsafe { sum_rows_avx512(weights, stride, active, out) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_rows_avx2(weights, stride, active, out) };
        }
    }
    sum_rows_portable(weights, stride, active, out);
}

/// The plain loop.
pub(super) fn sum_rows_portable(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    out[..stride].fill(0);
    for &input in active {
        let row = &weights[input as usize * stride..][..stride];
        for (sum, &weight) in out[..stride].iter_mut().zip(row) {
            *sum += i16::from(weight);
        }
    }
}

/// # Safety
/// The CPU has AVX-512BW, every active row lies within `weights`, `stride` is a multiple of 64, `out` holds `stride` sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sum_rows_avx512(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    for column in (0..stride).step_by(64) {
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for &input in active {
            // SAFETY: the caller keeps input * stride + stride within `weights`; column + 64 <= stride.
            let row = unsafe { _mm512_loadu_si512(weights.as_ptr().add(input as usize * stride + column).cast()) };
            low = _mm512_add_epi16(low, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(row)));
            high = _mm512_add_epi16(high, _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64::<1>(row)));
        }
        // SAFETY: `out` holds at least `stride` sums and column + 64 <= stride.
        unsafe {
            _mm512_storeu_si512(out.as_mut_ptr().add(column).cast(), low);
            _mm512_storeu_si512(out.as_mut_ptr().add(column + 32).cast(), high);
        }
    }
}

/// # Safety
/// The CPU has AVX2, every active row lies within `weights`, `stride` is a multiple of 64, `out` holds `stride` sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn sum_rows_avx2(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    for column in (0..stride).step_by(64) {
        let mut sums = [_mm256_setzero_si256(); 4];
        for &input in active {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller keeps input * stride + stride within `weights`; column + 64 <= stride.
                let row = unsafe { _mm_loadu_si128(weights.as_ptr().add(input as usize * stride + column + part * 16).cast()) };
                *sum = _mm256_add_epi16(*sum, _mm256_cvtepi8_epi16(row));
            }
        }
        for (part, sum) in sums.iter().enumerate() {
            // SAFETY: `out` holds at least `stride` sums and column + 64 <= stride.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(column + part * 16).cast(), *sum) };
        }
    }
}

/// Prefetches each active row; a hint that changes nothing else.
#[inline]
pub(super) fn prefetch_rows(weights: &[i8], stride: usize, active: &[u32]) {
    for &input in active {
        prefetch_span(&weights[input as usize * stride..][..stride]);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vector_kernels_equal_the_portable_one(stride in 1usize..4, bytes in prop::collection::vec(-127i8..=127, 64 * 3 * 40), active in prop::collection::vec(0u32..40, 0..256)) {
            let stride = stride * 64;
            let weights = &bytes[..stride * 40];
            let mut want = vec![0; stride];
            sum_rows_portable(weights, stride, &active, &mut want);
            let mut got = vec![1; stride];
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: detected; `active` is below 40 rows.
                unsafe { sum_rows_avx2(weights, stride, &active, &mut got) };
                prop_assert_eq!(&got, &want);
            }
            if std::arch::is_x86_feature_detected!("avx512bw") {
                got.fill(1);
                // SAFETY: as above.
                unsafe { sum_rows_avx512(weights, stride, &active, &mut got) };
                prop_assert_eq!(&got, &want);
            }
        }
    }
}
