//! Vectorised one-hot coding: the active inputs of 32 slots or coincidences at a time.
//!
//! Only AVX-512 is faster than the plain loop: it holds the volley in four registers, looks slots up in them and writes only the inputs
//! that spike. A property test compares it with the plain loop.

use super::frame::lowest;
use super::inputs::InputList;
use super::{MAX_ACTIVE, MAX_SLOTS, SlotId};

/// Slots or coincidences handled at once.
const WIDE: usize = 32;
/// Constant that the joint value of a coincidence is mixed with before it is multiplied.
pub(super) const MIX: u32 = 0x9e37_79b9;
/// The two multipliers of the joint value.
pub(super) const MULTIPLY: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];

/// Parts of a packet whose inputs are listed apart: [`PORTS`] and [`PAYLOAD`].
pub(super) const PARTS: usize = 2;
/// Number of the part that the ports are.
pub(super) const PORTS: usize = 0;
/// Number of the part that the payload is.
pub(super) const PAYLOAD: usize = 1;

/// The slots and the coincidences of a layout in chunks of [`WIDE`].
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    /// Number of slots.
    slots: usize,
    /// Which slots are of each part, a bit each, `[chunk][part]`.
    slot_parts: [[u32; PARTS]; MAX_SLOTS / WIDE],
    pairs: Vec<Pairs>,
}

/// A chunk of coincidences; the last is padded with pairs that never spike.
#[derive(Clone, Debug)]
struct Pairs {
    /// First slots.
    a: [u16; WIDE],
    /// Second slots.
    b: [u16; WIDE],
    /// [`MIX`] combined with the number of the pair.
    mix: [u32; WIDE],
    /// One bit per pair, set unless it is padding.
    real: u32,
    /// Which pairs involve each part, `[part]`.
    parts: [u32; PARTS],
}

impl Chunks {
    /// The chunks of `slots` slots and of these coincidences. `part`: the part that a slot is of.
    pub fn new(slots: usize, pairs: &[(SlotId, SlotId)], part: impl Fn(SlotId) -> Option<usize>) -> Self {
        let mut all = Self { slots, ..Self::default() };
        for slot in SlotId::first(slots) {
            if let Some(part) = part(slot) {
                all.slot_parts[slot.index() / WIDE][part] |= 1 << (slot.index() % WIDE);
            }
        }
        for (at, chunk) in pairs.chunks(WIDE).enumerate() {
            let mut of_chunk =
                Pairs { a: [0; WIDE], b: [0; WIDE], mix: [0; WIDE], real: lowest(chunk.len()) as u32, parts: [0; PARTS] };
            for (i, &(a, b)) in chunk.iter().enumerate() {
                (of_chunk.a[i], of_chunk.b[i]) = (a.into(), b.into());
                of_chunk.mix[i] = (((at * WIDE + i) as u32) << 16) ^ MIX;
                [a, b].into_iter().filter_map(&part).for_each(|part| of_chunk.parts[part] |= 1 << i);
            }
            all.pairs.push(of_chunk);
        }
        all
    }
}

/// Writes the active inputs of a one-hot volley's slots and coincidences to `active` and returns their number, and those that depend on each
/// part to `parts` if they are wanted. Coincidence inputs begin at `base`; `bits` bits number them. `None` if the CPU does not have AVX-512.
#[inline]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls a function compiled for features that the CPU was found to have")
)]
pub(super) fn inputs(
    slots: &[u16; MAX_SLOTS],
    chunks: &Chunks,
    base: u32,
    bits: u32,
    active: &mut [u32; MAX_ACTIVE],
    parts: Option<&mut [InputList; PARTS]>,
) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("popcnt")
        && std::arch::is_x86_feature_detected!("bmi2")
    {
        // SAFETY: the CPU has these features.
        return Some(unsafe { avx512::inputs(slots, chunks, base, bits, active, parts) });
    }
    let _ = (slots, chunks, base, bits, active, parts);
    None
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::{MAX_ACTIVE, MAX_SLOTS, SILENT};
    use super::{Chunks, InputList, MULTIPLY, PARTS, Pairs, WIDE, lowest};

    // To number the inputs that spike, bits are counted and masks made: with instructions of their own, which AVX-512 does not imply.
    #[target_feature(enable = "avx512f,avx512bw,popcnt,bmi2")]
    pub(super) fn inputs(
        slots: &[u16; MAX_SLOTS],
        chunks: &Chunks,
        base: u32,
        bits: u32,
        active: &mut [u32; MAX_ACTIVE],
        mut parts: Option<&mut [InputList; PARTS]>,
    ) -> usize {
        let mut count = 0;
        parts.iter_mut().flat_map(|parts| parts.iter_mut()).for_each(|part| part.count = 0);
        let silent = _mm512_set1_epi16(SILENT as i16);
        let low = _mm512_set1_epi16(0xff);
        let table: [__m512i; MAX_SLOTS / WIDE] = std::array::from_fn(|i| words(&slots[i * WIDE..]));
        let numbers = _mm512_slli_epi32::<8>(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        for (i, &values) in table.iter().enumerate().take(chunks.slots.div_ceil(WIDE)) {
            let spikes = _mm512_cmpneq_epi16_mask(values, silent) & lowest(chunks.slots - i * WIDE) as u32;
            let (left, right) = halves(_mm512_and_si512(values, low));
            let slot = |half: usize| _mm512_add_epi32(numbers, _mm512_set1_epi32(((i * WIDE + half * 16) << 8) as i32));
            let (left, right) = (_mm512_or_si512(left, slot(0)), _mm512_or_si512(right, slot(1)));
            append(active, &mut count, spikes, left, right);
            append_to_parts(parts.as_deref_mut(), &chunks.slot_parts[i], spikes, left, right);
        }
        let look_up = |places: __m512i| {
            let below = _mm512_permutex2var_epi16(table[0], places, table[1]);
            let above = _mm512_permutex2var_epi16(table[2], places, table[3]);
            _mm512_mask_blend_epi16(_mm512_test_epi16_mask(places, _mm512_set1_epi16(64)), below, above)
        };
        let hash = |joint: __m512i, mix: &[u32]| {
            let mixed = _mm512_xor_si512(joint, doubles(mix));
            let once = _mm512_mullo_epi32(mixed, _mm512_set1_epi32(MULTIPLY[0] as i32));
            let folded = _mm512_xor_si512(once, _mm512_srli_epi32::<15>(once));
            let twice = _mm512_mullo_epi32(folded, _mm512_set1_epi32(MULTIPLY[1] as i32));
            let top = _mm512_srl_epi32(twice, _mm_cvtsi32_si128(32 - bits as i32));
            _mm512_add_epi32(top, _mm512_set1_epi32(base as i32))
        };
        for Pairs { a, b, mix, real, parts: of_parts } in &chunks.pairs {
            let (a, b) = (look_up(words(a)), look_up(words(b)));
            let spikes = _mm512_cmpneq_epi16_mask(a, silent) & _mm512_cmpneq_epi16_mask(b, silent) & real;
            let joint = _mm512_or_si512(_mm512_slli_epi16::<8>(a), _mm512_and_si512(b, low));
            let (left, right) = halves(joint);
            let (left, right) = (hash(left, &mix[..16]), hash(right, &mix[16..]));
            append(active, &mut count, spikes, left, right);
            append_to_parts(parts.as_deref_mut(), of_parts, spikes, left, right);
        }
        count
    }

    /// The two halves of 32 words, widened to double words.
    #[target_feature(enable = "avx512f")]
    fn halves(words: __m512i) -> (__m512i, __m512i) {
        (_mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(words)))
    }

    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "loads through a pointer")]
    fn words(from: &[u16]) -> __m512i {
        let from: &[u16; WIDE] = from.first_chunk().expect("32 words");
        // SAFETY: the reference is to 64 bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "loads through a pointer")]
    fn doubles(from: &[u32]) -> __m512i {
        let from: &[u32; 16] = from.first_chunk().expect("16 double words");
        // SAFETY: the reference is to 64 bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    /// Appends the inputs, in two halves, that spike and are of a part to the list of that part.
    #[target_feature(enable = "avx512f,popcnt,bmi2")]
    #[inline]
    fn append_to_parts(
        parts: Option<&mut [InputList; PARTS]>,
        of_parts: &[u32; PARTS],
        spikes: u32,
        left: __m512i,
        right: __m512i,
    ) {
        let Some(parts) = parts else { return };
        for (part, of_part) in parts.iter_mut().zip(of_parts) {
            if of_part & spikes != 0 {
                append(&mut part.inputs, &mut part.count, of_part & spikes, left, right);
            }
        }
    }

    /// Appends the inputs, in two halves, that `chosen` selects to the first `n` of a list.
    #[inline]
    #[target_feature(enable = "avx512f,popcnt,bmi2")]
    #[expect(unsafe_code, reason = "stores through a pointer")]
    fn append(list: &mut [u32; MAX_ACTIVE], n: &mut usize, chosen: u32, left: __m512i, right: __m512i) {
        for (chosen, inputs) in [(chosen as u16, left), ((chosen >> 16) as u16, right)] {
            let count = chosen.count_ones() as usize;
            let room = &mut list[*n..*n + count];
            let dense = _mm512_maskz_compress_epi32(chosen, inputs);
            // SAFETY: the mask admits `count` elements, which `room` holds.
            unsafe { _mm512_mask_storeu_epi32(room.as_mut_ptr().cast(), lowest(count) as u16, dense) };
            *n += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ActiveInputs, Layout, LayoutOptions, SILENT, Volley};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vectors_find_the_inputs_that_the_plain_loop_finds(
            values in prop::collection::vec(prop_oneof![3 => 0u16..256, 1 => Just(SILENT)], super::MAX_SLOTS),
            payload in 0u16..48, bits in 1u32..20,
        ) {
            let layout = Layout::headers(&LayoutOptions { payload, coincidence_bits: bits, ..LayoutOptions::default() });
            let mut volley = Volley::default();
            volley.slots.copy_from_slice(&values);
            let (mut plain, mut wide) = (ActiveInputs::default(), ActiveInputs::default());
            layout.inputs_by_part_plain(&volley, &mut plain);
            layout.inputs_by_part(&volley, &mut wide);
            prop_assert_eq!(wide.all(), plain.all());
            prop_assert_eq!(wide.ports(), plain.ports());
            prop_assert_eq!(wide.payload(), plain.payload());
            let mut alone = [0; super::super::MAX_ACTIVE];
            let count = layout.inputs(&volley, &mut alone);
            prop_assert_eq!(&alone[..count], plain.all());
        }
    }
}
