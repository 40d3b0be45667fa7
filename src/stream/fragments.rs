//! Fragments of IP packets: the fragments after the first have no ports, so they take the stream of the first one.
//!
//! Input: the frames in their order. Output: the key of each later fragment's stream, if its first fragment was seen before it.

use std::collections::{HashMap, VecDeque};

use crate::capture::{Frame, Nanos};
use crate::packet::{Direction, Headers, Network, StreamKey};

/// First fragments that are remembered; the oldest makes room for a new one.
const MAX_PACKETS: usize = 4096;
/// Nanoseconds for which a first fragment is remembered, as hosts keep fragments (Linux: `ipfrag_time`).
const LIFETIME: u64 = 30_000_000_000;
/// The bit "more fragments" in the seventh byte of an IPv4 header (RFC 791).
const MORE_FRAGMENTS: u8 = 0x20;
/// Next header of an IPv6 header before a fragment header (RFC 8200), and the bytes before that header.
const FRAGMENT_HEADER: u8 = 44;
const IPV6_LEN: usize = 40;

/// What the fragments of one packet have in common: the flow without ports in one direction, and the identification.
type PacketId = (StreamKey, Direction, u32);

/// First fragments, by what later ones have in common with them.
#[derive(Debug, Default)]
pub struct FragmentTable {
    streams: HashMap<PacketId, (StreamKey, Direction, Nanos)>,
    /// Keys of `streams`, oldest first.
    order: VecDeque<PacketId>,
}

/// The identification of a fragment, 0 bits for more; `None` if the frame is not a fragment, or not of one of the two forms below.
fn identification(headers: &Headers, frame: &[u8]) -> Option<u32> {
    let ip = frame.get(usize::from(headers.network_at)..)?;
    match headers.network {
        Network::Ipv4 if headers.later_fragment || ip.get(6)? & MORE_FRAGMENTS != 0 => {
            Some(u32::from(u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?)))
        }
        // The fragment header follows directly, unless there are hop-by-hop or routing options, which are rare.
        Network::Ipv6 if *ip.get(6)? == FRAGMENT_HEADER => {
            Some(u32::from_be_bytes(ip.get(IPV6_LEN + 4..IPV6_LEN + 8)?.try_into().ok()?))
        }
        _ => None,
    }
}

/// Whether the frame is a fragment that [`FragmentTable::stream`] has to see.
#[inline]
pub fn is_fragment(headers: &Headers, frame: &[u8]) -> bool {
    matches!(headers.network, Network::Ipv4 | Network::Ipv6) && identification(headers, frame).is_some()
}

impl FragmentTable {
    /// The stream of a fragment, whose own key and direction are `key` and `direction`: that of the first fragment of the same packet.
    /// Returns `None` for a later fragment whose first one is not known.
    pub fn stream(
        &mut self,
        key: StreamKey,
        direction: Direction,
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Option<(StreamKey, Direction)> {
        let Some(number) = identification(headers, frame.bytes) else { return Some((key, direction)) };
        let Some((bare, bare_direction)) = StreamKey::flow_without_ports(headers, frame.bytes) else {
            return Some((key, direction));
        };
        let id = (bare, bare_direction, number);
        if headers.later_fragment {
            let &(key, direction, first) = self.streams.get(&id)?;
            return (frame.timestamp.0.abs_diff(first.0) <= LIFETIME).then_some((key, direction));
        }
        if self.streams.insert(id, (key, direction, frame.timestamp)).is_none() {
            self.order.push_back(id);
            if self.order.len() > MAX_PACKETS
                && let Some(oldest) = self.order.pop_front()
            {
                self.streams.remove(&oldest);
            }
        }
        Some((key, direction))
    }
}
