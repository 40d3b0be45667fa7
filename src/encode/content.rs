//! Content: whether a packet shows what its stream carries. Every packet does, except a TCP segment without payload.
//!
//! The fact is stated twice, on headers for the engine and on slot values for training, where only these are stored.

use super::{Layout, Place, SILENT, SlotId};
use crate::packet::{Headers, Transport};

/// Offset of the flags in a TCP header (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;

/// Whether a packet has content.
pub fn has_content(headers: &Headers, frame: &[u8]) -> bool {
    let segment = headers.transport == Transport::Tcp && frame.len() > headers.transport_at as usize + TCP_FLAGS;
    !segment || headers.payload_wire_len > 0
}

impl Layout {
    /// Whether the packet with these slot values, `[slot]`, has content: the same as [`has_content`] for the built-in layout. Where the slots that
    /// show it are masked, other slots of the same header decide. Always true for a layout without slots of the TCP header.
    pub fn is_content(&self, slots: &[u16]) -> bool {
        let value = |slot: SlotId| slots[slot.index()];
        let any = |place: Place| self.places(place).iter().any(|&(slot, _)| value(slot) != SILENT);
        let unmasked = |slot: Option<SlotId>| slot.filter(|slot| !self.masked().contains(slot));
        let segment = unmasked(self.tcp_flags).map_or_else(|| any(Place::Tcp), |flags| value(flags) != SILENT);
        !segment || unmasked(self.payload_size).map_or_else(|| any(Place::Payload), |size| value(size) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, LayoutOptions, MAX_PAYLOAD, Volley};
    use super::*;
    use crate::capture::LinkType;
    use crate::packet::Decoder;
    use proptest::prelude::*;

    /// An Ethernet frame with an IP header of this version and protocol over `transport`, cut to `captured` bytes.
    fn frame(ipv6: bool, protocol: u8, transport: &[u8], captured: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        let length = transport.len() as u8;
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, protocol, 64]);
            frame.extend([1; 32]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + length, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend([1; 8]);
        }
        frame.extend(transport);
        frame.truncate(captured);
        frame
    }

    proptest! {
        #[test]
        fn slots_and_headers_agree_on_content(
            ipv6: bool,
            protocol in prop::sample::select(&[1u8, 2, 6, 6, 6, 17, 58, 132, 200]),
            mut transport in prop::collection::vec(any::<u8>(), 0..64),
            data_offset in 5u8..9,
            captured in 14usize..140,
            payload in 0..=MAX_PAYLOAD,
        ) {
            if let Some(byte) = transport.get_mut(12) {
                *byte = data_offset << 4;
            }
            let frame = frame(ipv6, protocol, &transport, captured);
            let Ok(headers) = Decoder::default().decode(LinkType::ETHERNET, &frame) else { return Ok(()) };
            let layout = Layout::headers(&LayoutOptions { payload, ..LayoutOptions::default() });
            let mut volley = Volley::default();
            layout.encode(&headers, &frame, Context::first(0), &crate::trace::TraceValues::NONE, &mut volley);
            prop_assert_eq!(volley.content, has_content(&headers, &frame));
            prop_assert_eq!(layout.is_content(&volley.slots[..layout.slots().len()]), volley.content);
        }

        #[test]
        fn content_is_known_without_the_flags_and_the_size(
            mut transport in prop::collection::vec(any::<u8>(), 20..64),
            masked in prop::sample::select(&["transport", "length"]),
        ) {
            transport[12] = 5 << 4;
            let frame = frame(false, 6, &transport, usize::MAX);
            let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).expect("a whole frame");
            let mut layout = Layout::headers(&LayoutOptions::default());
            layout.mask(masked).expect("a group of slots");
            let mut volley = Volley::default();
            layout.encode(&headers, &frame, Context::first(0), &crate::trace::TraceValues::NONE, &mut volley);
            prop_assert_eq!(layout.is_content(&volley.slots[..layout.slots().len()]), has_content(&headers, &frame));
        }
    }
}
