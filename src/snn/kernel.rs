//! The scoring kernel: the sum of int8 weight rows, as wide as the machine allows.
//!
//! AVX-512, AVX2 or portable code is chosen at run time; a property test holds each to the plain loop.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Sums the rows `active` of `weights` (each `stride` long, a multiple of 64) into `out[..stride]`.
#[inline]
pub(super) fn sum_rows(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    let rows = weights.len() / stride;
    assert!(stride.is_multiple_of(64) && out.len() >= stride, "stride and buffer must match the network");
    assert!(active.iter().all(|&i| (i as usize) < rows), "an active row lies outside the network");
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
    // Two lines of a row at once where it has them: twice the loads under way.
    let mut column = 0;
    while column < stride {
        let lines = if stride - column >= 128 { 2 } else { 1 };
        // SAFETY: the caller keeps row * stride + stride within `weights`, and column + lines * 64 <= stride <= out's length.
        unsafe {
            match lines {
                2 => sum_columns_avx512::<4>(weights.as_ptr().add(column), stride, active, &mut out[column..]),
                _ => sum_columns_avx512::<2>(weights.as_ptr().add(column), stride, active, &mut out[column..]),
            }
        }
        column += lines * 64;
    }
}

/// Sums `32 * N` columns from `first` on, which points into the first row.
///
/// # Safety
/// The CPU has AVX-512BW, `32 * N` octets from `first + row * stride` on are readable for each active row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn sum_columns_avx512<const N: usize>(first: *const i8, stride: usize, active: &[u32], out: &mut [i16]) {
    let mut sums = [_mm512_setzero_si512(); N];
    for &row in active {
        for (part, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller promised.
            let row = unsafe { _mm256_loadu_si256(first.add(row as usize * stride + part * 32).cast()) };
            *sum = _mm512_add_epi16(*sum, _mm512_cvtepi8_epi16(row));
        }
    }
    for (sums_out, sum) in out.chunks_exact_mut(32).zip(sums) {
        // SAFETY: the chunk holds 32 sums.
        unsafe { _mm512_storeu_si512(sums_out.as_mut_ptr().cast(), sum) };
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
