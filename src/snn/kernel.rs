//! The scoring kernel: the sum of int8 weight rows, as wide as the machine allows.
//!
//! AVX-512, AVX2 or portable code is chosen at run time; a property test compares each with the plain loop.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Columns of a vector of 64 bytes.
pub(super) const WIDE: usize = 64;
/// Columns of the narrowest rows. Rows of fewer than [`WIDE`] columns are 16 or 32 long.
pub(super) const NARROW: usize = 16;

/// Which of 64 groups of neurons have a block of weights in a row, and the number of the first of these blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct BlockIndex {
    /// A bit for each group.
    pub groups: u64,
    pub first: u32,
}

impl BlockIndex {
    /// Groups of an index.
    pub const GROUPS: usize = u64::BITS as usize;

    /// The number of the block of a group, if it has one.
    #[inline(always)]
    pub fn block(self, group: usize) -> Option<usize> {
        (self.groups >> group & 1 == 1).then(|| self.number(group) as usize)
    }

    /// The number that the block of a group has or would have.
    #[inline(always)]
    fn number(self, group: usize) -> u32 {
        self.first + (self.groups & ((1 << group) - 1)).count_ones()
    }
}

/// Finds the blocks of one of the 64 groups of `index` in the rows `active`; `index[row * words]` is of a row. Writes their numbers to `out`,
/// which has room for one of each row, and returns those that exist.
#[inline]
pub(super) fn find_blocks<'a>(index: &[BlockIndex], words: usize, active: &[u32], group: usize, out: &'a mut [u32]) -> &'a [u32] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("popcnt") {
        // SAFETY: the CPU has the feature.
        return unsafe { find_blocks_popcnt(index, words, active, group, out) };
    }
    find_blocks_portable(index, words, active, group, out)
}

/// [`find_blocks`] with the instruction that counts bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn find_blocks_popcnt<'a>(index: &[BlockIndex], words: usize, active: &[u32], group: usize, out: &'a mut [u32]) -> &'a [u32] {
    find_blocks_portable(index, words, active, group, out)
}

#[inline(always)]
fn find_blocks_portable<'a>(index: &[BlockIndex], words: usize, active: &[u32], group: usize, out: &'a mut [u32]) -> &'a [u32] {
    let mut found = 0;
    for &row in active {
        // Written whether it exists or not: a branch would be mispredicted at every third row.
        let entry = index[row as usize * words];
        out[found] = entry.number(group);
        found += (entry.groups >> group & 1) as usize;
    }
    &out[..found]
}

/// Writes the sum of the rows `active` of `weights`, `[row * stride + column]`, to `out[..stride]`. `stride` is a multiple of 64, or 16 or 32.
#[inline]
pub(super) fn sum_rows(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    #[cfg(target_arch = "x86_64")]
    {
        if stride >= WIDE && std::arch::is_x86_feature_detected!("avx512bw") {
            // SAFETY: the CPU has the feature.
            return unsafe { sum_rows_avx512(weights, stride, active, out) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the feature.
            return unsafe { sum_rows_avx2(weights, stride, active, out) };
        }
    }
    sum_rows_portable(weights, stride, active, out);
}

/// Asserts that every active row is within `weights`, that `stride` is a multiple of `lane` and that `out` has room for `stride` sums.
///
/// Compiled with its caller's vector width. It finds the largest row, because a test of each row would be a branch per row (a third of the
/// time).
#[inline(always)]
fn check(weights: &[i8], stride: usize, lane: usize, active: &[u32], out: &[i16]) {
    assert!(stride.is_multiple_of(lane) && out.len() >= stride, "stride and buffer must match the network");
    let most = active.iter().fold(0, |most, &row| row.max(most)) as usize;
    assert!(active.is_empty() || (most + 1) * stride <= weights.len(), "an active row is outside the network");
}

/// The plain loop.
pub(super) fn sum_rows_portable(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    check(weights, stride, NARROW, active, out);
    out[..stride].fill(0);
    for &input in active {
        let row = &weights[input as usize * stride..][..stride];
        for (sum, &weight) in out[..stride].iter_mut().zip(row) {
            *sum += i16::from(weight);
        }
    }
}

/// Sums with AVX-512BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn sum_rows_avx512(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    check(weights, stride, WIDE, active, out);
    // As many cache lines of a row at once as there are: more loads in flight, and the CPU's prefetcher follows rows of many lines.
    let mut column = 0;
    while column < stride {
        let lines = match (stride - column) / WIDE {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        // SAFETY: `check` asserted that row * stride + stride is within `weights`; column + lines * 64 <= stride <= out's length.
        unsafe {
            let (first, out) = (weights.as_ptr().add(column), &mut out[column..]);
            match lines {
                8 => sum_lines_avx512::<8>(first, stride, active, out),
                4 => sum_lines_avx512::<4>(first, stride, active, out),
                2 => sum_lines_avx512::<2>(first, stride, active, out),
                _ => sum_lines_avx512::<1>(first, stride, active, out),
            }
        }
        column += lines * WIDE;
    }
}

/// Sums `64 * N` columns from `first` on, which points into the first row. Rows are taken in pairs: with their bytes interleaved, one
/// multiplication by 1 widens both and adds them, where single rows would need one each.
///
/// # Safety
/// `64 * N` bytes from `first + row * stride` on are readable for each active row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn sum_lines_avx512<const N: usize>(first: *const i8, stride: usize, active: &[u32], out: &mut [i16]) {
    let ones = _mm512_set1_epi8(1);
    // For each sixteen columns, the sums of the first eight and of the last eight.
    let mut sums = [[_mm512_setzero_si512(); 2]; N];
    let mut add = |line: usize, a: __m512i, b: __m512i| {
        let pairs = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
        for (sum, pair) in sums[line].iter_mut().zip(pairs) {
            *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(ones, pair));
        }
    };
    // SAFETY: the caller guarantees it.
    let load = |row: u32, line: usize| unsafe { _mm512_loadu_si512(first.add(row as usize * stride + line * 64).cast()) };
    let (pairs, rest) = active.as_chunks::<2>();
    for &[a, b] in pairs {
        (0..N).for_each(|line| add(line, load(a, line), load(b, line)));
    }
    for &row in rest {
        (0..N).for_each(|line| add(line, load(row, line), _mm512_setzero_si512()));
    }
    // Restores the order of the columns: eight sums are two of these numbers.
    let halves = [_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)];
    for (line, [low, high]) in out.chunks_exact_mut(64).zip(sums) {
        for (half, order) in line.chunks_exact_mut(32).zip(halves) {
            // SAFETY: the chunk holds 32 sums.
            unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast(), _mm512_permutex2var_epi64(low, order, high)) };
        }
    }
}

/// Sums with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_rows_avx2(weights: &[i8], stride: usize, active: &[u32], out: &mut [i16]) {
    check(weights, stride, NARROW, active, out);
    let mut column = 0;
    while column < stride {
        let parts = ((stride - column) / NARROW).min(WIDE / NARROW);
        // SAFETY: `check` asserted that row * stride + stride is within `weights`; column + parts * 16 <= stride <= out's length.
        unsafe {
            let (first, out) = (weights.as_ptr().add(column), &mut out[column..]);
            match parts {
                1 => sum_parts_avx2::<1>(first, stride, active, out),
                2 => sum_parts_avx2::<2>(first, stride, active, out),
                _ => sum_parts_avx2::<4>(first, stride, active, out),
            }
        }
        column += parts * NARROW;
    }
}

/// Sums `16 * N` columns from `first` on, which points into the first row.
///
/// # Safety
/// `16 * N` bytes from `first + row * stride` on are readable for each active row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sum_parts_avx2<const N: usize>(first: *const i8, stride: usize, active: &[u32], out: &mut [i16]) {
    let mut sums = [_mm256_setzero_si256(); N];
    for &row in active {
        for (part, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller guarantees it.
            let weights = unsafe { _mm_loadu_si128(first.add(row as usize * stride + part * NARROW).cast()) };
            *sum = _mm256_add_epi16(*sum, _mm256_cvtepi8_epi16(weights));
        }
    }
    for (chunk, sum) in out.chunks_exact_mut(NARROW).zip(sums) {
        // SAFETY: the chunk holds 16 sums.
        unsafe { _mm256_storeu_si256(chunk.as_mut_ptr().cast(), sum) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vector_kernels_equal_the_portable_one(stride in prop::sample::select(&[16usize, 32, 64, 128, 192, 960]), bytes in prop::collection::vec(-127i8..=127, 960 * 40), active in prop::collection::vec(0u32..40, 0..256)) {
            let weights = &bytes[..stride * 40];
            let mut want = vec![0; stride];
            sum_rows_portable(weights, stride, &active, &mut want);
            let mut got = vec![1; stride];
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has the feature.
                unsafe { sum_rows_avx2(weights, stride, &active, &mut got) };
                prop_assert_eq!(&got, &want);
            }
            if stride >= WIDE && std::arch::is_x86_feature_detected!("avx512bw") {
                got.fill(1);
                // SAFETY: the CPU has the feature.
                unsafe { sum_rows_avx512(weights, stride, &active, &mut got) };
                prop_assert_eq!(&got, &want);
            }
        }
    }
}
