//! Slot values by byte permutation: those of 64 slots at a time.
//!
//! The bytes that slots may hold are loaded into four registers of 64 bytes: those of the frame from the network header on, those from the
//! transport header on, the payload with the derived values, and the traces. A table of the layout says which of these 256 bytes each slot
//! holds. A property test compares the result with the plain loops.

use std::ops::Range;

use super::frame::{self, DERIVED_VALUES};
use super::{Context, MAX_PAYLOAD, Place, Shape, Slot, Volley};
use crate::packet::Headers;
use crate::trace::{TRACES, TraceValues};

/// Slots handled at once, and bytes of a register.
const WIDE: usize = 64;
/// First of the 256 bytes that are of the transport header, of the payload, derived values and traces.
const TRANSPORT: usize = WIDE;
const PAYLOAD: usize = 2 * WIDE;
const DERIVED: usize = PAYLOAD + MAX_PAYLOAD as usize;
const TRACE: usize = 3 * WIDE;
const _: () = assert!(DERIVED.is_multiple_of(16) && DERIVED + DERIVED_VALUES <= TRACE && TRACE + TRACES <= u8::MAX as usize);

/// Which of the 256 bytes have room for a place, and which element of `ends` says where those that the packet has end.
fn bytes_of(place: Place) -> (Range<usize>, u8) {
    match place {
        Place::Ipv4 | Place::Ipv6 | Place::Arp => (0..TRANSPORT, 0),
        Place::Ipv4Group => (frame::IPV4_DESTINATION..TRANSPORT, 1),
        Place::Ipv6Group => (frame::IPV6_DESTINATION..TRANSPORT, 2),
        Place::Tcp | Place::Udp | Place::Sctp | Place::Icmp | Place::Icmpv6 | Place::Igmp => (TRANSPORT..PAYLOAD, 3),
        Place::TcpOption => (TRANSPORT + frame::TCP_OPTIONS..PAYLOAD, 4),
        Place::Payload | Place::FoldedPayload => (PAYLOAD..DERIVED, 5),
        Place::Derived => (DERIVED..TRACE, 6),
        Place::Trace => (TRACE..4 * WIDE, 7),
    }
}

/// The slots of a layout in chunks of [`WIDE`].
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    chunks: Vec<Chunk>,
}

/// A chunk of slots; the last is padded with slots that no packet has. Sets of slots have a bit each.
#[derive(Clone, Debug)]
struct Chunk {
    /// Which of the 256 bytes each slot holds, `[slot]`.
    from: [u8; WIDE],
    /// Which element of `ends` that byte must lie before, `[slot]`.
    ends: [u8; WIDE],
    /// The slots that packets of each shape may have, `[shape]`.
    present: [u64; Shape::COUNT],
    /// The slots that are silent if their byte identifies a flow.
    identifying: u64,
    /// The slots of traces.
    traces: u64,
    /// The slots of folded payload bytes.
    folded: u64,
}

impl Permutation {
    /// The permutation of these slots; `None` if the registers have no room for the offset of one.
    pub fn new(slots: &[Slot]) -> Option<Self> {
        Some(Self { chunks: slots.chunks(WIDE).map(Chunk::new).collect::<Option<_>>()? })
    }

    /// Writes the slot values of a packet, whose shape `volley` has, to `volley`. `identifying`: which bytes from the transport header on
    /// identify a flow, a bit each. Returns whether the CPU has the instructions.
    #[inline]
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls a function compiled for features that the CPU was found to have")
    )]
    pub fn encode(
        &self,
        headers: &Headers,
        frame: &[u8],
        identifying: u64,
        context: Context,
        traces: &TraceValues,
        volley: &mut Volley,
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vbmi")
            && std::arch::is_x86_feature_detected!("avx512bitalg")
        {
            // SAFETY: the CPU has these features.
            unsafe { avx512::encode(&self.chunks, headers, frame, identifying, context, traces, volley) };
            return true;
        }
        let _ = (headers, frame, identifying, context, traces, volley);
        false
    }
}

impl Chunk {
    fn new(slots: &[Slot]) -> Option<Self> {
        let set = |has: &dyn Fn(&Slot) -> bool| slots.iter().rev().fold(0, |set, slot| set << 1 | u64::from(has(slot)));
        let mut chunk = Self {
            from: [0; WIDE],
            ends: [0; WIDE],
            present: std::array::from_fn(|shape| set(&|slot| slot.place.is_in(shape))),
            identifying: set(&|slot| frame::may_identify(slot.place, slot.offset)),
            traces: set(&|slot| slot.place == Place::Trace),
            folded: set(&|slot| slot.place == Place::FoldedPayload),
        };
        for (i, slot) in slots.iter().enumerate() {
            let (mut bytes, end) = bytes_of(slot.place);
            (chunk.from[i], chunk.ends[i]) = (bytes.nth(slot.offset.into())? as u8, end);
        }
        Some(chunk)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::SILENT;
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg")]
    pub(super) fn encode(
        chunks: &[Chunk],
        headers: &Headers,
        frame: &[u8],
        identifying: u64,
        context: Context,
        traces: &TraceValues,
        volley: &mut Volley,
    ) {
        let network = frame::tail(frame, headers.network_at.into());
        let transport = frame::tail(frame, headers.transport_at.into());
        let payload = frame::tail(&frame[..frame.len().min(headers.payload_end as usize)], headers.payload_at as usize);
        let ends = _mm512_set1_epi64(i64::from_le_bytes(ends(headers, network, transport, payload)));
        let identifying = _mm512_set1_epi64(identifying as i64);
        let derived = u128::from_le_bytes(frame::derived_values(headers, frame, context));
        let derived = _mm_set_epi64x((derived >> 64) as i64, derived as i64);
        let payload = _mm512_inserti32x4::<{ (DERIVED - PAYLOAD) as i32 / 16 }>(first_bytes(payload), derived);
        let (network, transport, traces) = (first_bytes(network), first_bytes(transport), first_bytes(traces.levels()));
        let no_level = _mm512_set1_epi8(TraceValues::NO_LEVEL as i8);
        let silent = _mm512_set1_epi16(SILENT as i16);
        let shape = usize::from(volley.shape.0);
        for (chunk, slots) in chunks.iter().zip(volley.slots.as_chunks_mut::<WIDE>().0) {
            let (from, end) = (first_bytes(&chunk.from), _mm512_shuffle_epi8(ends, first_bytes(&chunk.ends)));
            let below = _mm512_permutex2var_epi8(network, from, transport);
            let above = _mm512_permutex2var_epi8(payload, from, traces);
            let values = folded(chunk.folded, _mm512_mask_blend_epi8(_mm512_movepi8_mask(from), below, above));
            let captured = _mm512_mask_cmplt_epu8_mask(chunk.present[shape], from, end);
            let identifies = _mm512_mask_bitshuffle_epi64_mask(chunk.identifying, identifying, from);
            let without_level = _mm512_mask_cmpeq_epi8_mask(chunk.traces, values, no_level);
            let has_value = captured & !(identifies | without_level);
            let halves = [
                (has_value as u32, _mm512_castsi512_si256(values)),
                ((has_value >> 32) as u32, _mm512_extracti64x4_epi64::<1>(values)),
            ];
            for (slots, (has_value, values)) in slots.as_chunks_mut().0.iter_mut().zip(halves) {
                store(slots, _mm512_mask_cvtepu8_epi16(silent, has_value, values));
            }
        }
    }

    /// Where, among the 256 bytes, those that the packet has end: of the network header, the IPv4 group, the IPv6 group, the transport header,
    /// the TCP options, the payload, the derived values, the traces. The slices begin at the network header, the transport header and the
    /// payload.
    #[inline]
    fn ends(headers: &Headers, network: &[u8], transport: &[u8], payload: &[u8]) -> [u8; 8] {
        let network_end = network.len().min(WIDE);
        let transport_end = TRANSPORT + transport.len().min(WIDE);
        let options_end = TRANSPORT + (headers.payload_at as usize).saturating_sub(headers.transport_at.into());
        let ends = [
            network_end,
            if frame::is_ipv4_group(network) { network_end } else { 0 },
            if frame::is_ipv6_group(network) { network_end } else { 0 },
            transport_end,
            options_end.min(transport_end),
            PAYLOAD + payload.len().min(DERIVED - PAYLOAD),
            DERIVED + DERIVED_VALUES,
            TRACE + TRACES,
        ];
        ends.map(|end| end as u8)
    }

    /// The values with those of the slots `which` folded, as [`Layout::payload_value`](super::super::Layout::payload_value) does.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn folded(which: u64, values: __m512i) -> __m512i {
        let every = |value: u8| _mm512_set1_epi8(value as i8);
        let lowercase = _mm512_or_si512(values, every(b'a' - b'A'));
        let is_letter = _mm512_mask_cmplt_epu8_mask(which, _mm512_sub_epi8(lowercase, every(b'a')), every(26));
        let is_digit = _mm512_mask_cmplt_epu8_mask(which, _mm512_sub_epi8(values, every(b'0')), every(10));
        _mm512_mask_blend_epi8(is_letter | is_digit, values, every(frame::FOLDED))
    }

    /// The first 64 bytes, with zeros in place of those that `bytes` lacks.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    #[expect(unsafe_code, reason = "loads through a pointer")]
    fn first_bytes(bytes: &[u8]) -> __m512i {
        // SAFETY: the mask admits the bytes of the slice alone.
        unsafe { _mm512_maskz_loadu_epi8(frame::lowest(bytes.len()), bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    #[expect(unsafe_code, reason = "stores through a pointer")]
    fn store(slots: &mut [u16; WIDE / 2], values: __m512i) {
        // SAFETY: the reference is to 64 bytes.
        unsafe { _mm512_storeu_si512(slots.as_mut_ptr().cast(), values) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::LayoutData;
    use super::super::{Coding, Group, Layout, LayoutOptions, MAX_SLOTS};
    use super::*;
    use crate::capture::{CaptureFile, FrameBatch, LinkType, Source};
    use crate::packet::Decoder;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// Payload bytes of a layout with traces.
    const PAYLOAD_WITH_TRACES: u16 = 40;

    const PLACES: [Place; 16] = [
        Place::Derived,
        Place::Ipv4,
        Place::Ipv4Group,
        Place::Ipv6,
        Place::Ipv6Group,
        Place::Arp,
        Place::Tcp,
        Place::TcpOption,
        Place::Udp,
        Place::Sctp,
        Place::Icmp,
        Place::Icmpv6,
        Place::Igmp,
        Place::Payload,
        Place::FoldedPayload,
        Place::Trace,
    ];

    /// Ethernet frames of every network and transport header with arbitrary bytes, cut anywhere.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let header = select(vec![[8, 0, 0x45], [8, 0, 0x47], [0x86, 0xdd, 0x60], [8, 6, 0], [0x88, 0xcc, 2]]);
        let protocol = select(vec![1u8, 2, 6, 6, 6, 17, 17, 58, 132, 200]);
        let destination = select(vec![10u8, 0xe0, 0xff]);
        let options = vec(select(vec![0u8, 1, 1, 1, 2, 3, 8, 8, 10, 10, 200]), 0..40);
        let fragment = select(vec![0u8, 0, 0, 7]);
        (header, protocol, destination, options, fragment, vec(any::<u8>(), 130..200), 0u8..180, 14usize..200).prop_map(
            |(header, protocol, destination, options, fragment, mut frame, length, captured)| {
                frame[12..15].copy_from_slice(&header);
                let (ip, over) = (14, if header[2] == 0x60 { 40 } else { usize::from(header[2] & 15) * 4 });
                if over == 40 {
                    frame[ip + 4..ip + 7].copy_from_slice(&[0, length, protocol]);
                    frame[ip + 24] = destination;
                } else {
                    frame[ip + 2..ip + 4].copy_from_slice(&[0, length]);
                    frame[ip + 6..ip + 10].copy_from_slice(&[0, fragment, 64, protocol]);
                    frame[ip + 16] = destination;
                }
                if protocol == 6 {
                    frame[ip + over + 12] = (5 + options.len().div_ceil(4) as u8) << 4;
                    frame[ip + over + 20..][..options.len()].copy_from_slice(&options);
                }
                frame.truncate(captured);
                frame
            },
        )
    }

    /// Built-in layouts, with a group of slots masked or none, and layouts of arbitrary slots.
    fn layouts() -> impl Strategy<Value = Layout> {
        let built_in = (0..=MAX_PAYLOAD, any::<bool>(), select(Group::ALL.to_vec())).prop_map(|(payload, traces, masked)| {
            // With traces there is room for fewer payload bytes.
            let payload = if traces { payload.min(PAYLOAD_WITH_TRACES) } else { payload };
            let mut layout = Layout::headers(&LayoutOptions { payload, traces, ..LayoutOptions::default() });
            assert!(layout.permutation.is_some());
            // No slots are of a group that this layout lacks.
            let _ = layout.mask(masked.name());
            layout
        });
        let slots = |offsets: Range<u16>| {
            vec((select(PLACES.to_vec()), offsets), 1..=MAX_SLOTS).prop_map(|slots| {
                let slot = |(place, offset)| Slot { name: String::new(), place, offset, group: Group::Network, bits: 8 };
                let slots = slots.into_iter().map(slot).collect();
                let data = LayoutData { coding: Coding::OneHot, slots, coincidences: Vec::new(), coincidence_bits: 0 };
                Layout::try_from(data).expect("few enough slots")
            })
        };
        prop_oneof![2 => built_in, 2 => slots(0..16), 1 => slots(0..40), 1 => slots(0..u16::MAX)]
    }

    fn agree(layout: &Layout, link: LinkType, frame: &[u8], context: Context, levels: [u8; TRACES]) {
        let Ok(headers) = Decoder::default().decode(link, frame) else { return };
        let (mut permuted, mut plain) = (Volley::default(), Volley::default());
        let traces = TraceValues::of(levels);
        layout.encode(&headers, frame, context, &traces, &mut permuted);
        let identifying = layout.identifying_bytes(&headers, frame);
        layout.encode_plain(&headers, frame, identifying, context, &traces, &mut plain.slots);
        layout.apply_mask(&mut plain.slots);
        let slots = layout.slots().len();
        assert_eq!(permuted.slots[..slots], plain.slots[..slots], "{headers:?}");
    }

    fn contexts() -> impl Strategy<Value = Context> {
        any::<[u8; 3]>().prop_map(|[direction, position, previous]| Context { direction, position, previous })
    }

    fn levels() -> impl Strategy<Value = [u8; TRACES]> {
        vec(select(vec![0, 1, 47, TraceValues::NO_LEVEL]), TRACES).prop_map(|levels| levels.try_into().expect("as many"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn permutations_give_the_values_of_the_plain_loops(
            layout in layouts(), frame in frames(), context in contexts(), levels in levels(),
        ) {
            agree(&layout, LinkType::ETHERNET, &frame, context, levels);
        }
    }

    #[test]
    fn permutations_give_the_values_of_the_plain_loops_for_the_fixtures() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
        let layouts = [(MAX_PAYLOAD, false), (PAYLOAD_WITH_TRACES, true)]
            .map(|(payload, traces)| Layout::headers(&LayoutOptions { payload, traces, ..LayoutOptions::default() }));
        let mut batch = FrameBatch::new();
        for path in std::fs::read_dir(folder).expect("fixtures").flatten() {
            let mut file = CaptureFile::open(&path.path()).expect("a fixture");
            while file.fill(&mut batch).expect("a fixture") {
                for (number, packet) in batch.iter().enumerate() {
                    let mut frame = packet.bytes.to_vec();
                    let (at, context) = (number * 7 % frame.len().min(128), Context::first(number as u8));
                    for layout in &layouts {
                        agree(layout, packet.link, &frame, context, [number as u8; TRACES]);
                        agree(layout, packet.link, &frame[..at], context, [number as u8; TRACES]);
                    }
                    frame[at] ^= 1 << (number % 8);
                    layouts.iter().for_each(|layout| agree(layout, packet.link, &frame, context, [number as u8; TRACES]));
                }
            }
        }
    }
}
