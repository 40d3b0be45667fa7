//! Encoding of a frame: header bytes and context to slot values.

use super::layout::{Run, derived};
use super::{Context, Layout, Place, SILENT, Shape, SlotId, Volley, has_content, length_bucket};
use crate::packet::{Headers, Network, Transport};
use crate::trace::TraceValues;

impl Layout {
    /// Fills `volley` from a frame. Slots whose byte the packet does not have stay silent, and so do the values of TCP timestamps and the low
    /// byte of ephemeral ports, which identify a flow.
    pub fn encode(&self, headers: &Headers, frame: &[u8], context: Context, traces: &TraceValues, volley: &mut Volley) {
        volley.shape = Shape::of(headers);
        volley.content = has_content(headers, frame);
        let slots = &mut volley.slots[..self.slots().len()];
        slots.fill(SILENT);
        self.encode_derived(headers, frame, context, slots);
        self.encode_network(headers, frame, slots);
        self.encode_transport(headers, frame, slots);
        if headers.network != Network::Arp {
            let end = (headers.payload_end as usize).min(frame.len());
            copy(&frame[..end], headers.payload_at as usize, self.runs(Place::Payload), slots);
        }
        for run in self.runs(Place::Trace) {
            let levels = traces.levels().get(run.offset..).unwrap_or(&[]);
            for (slot, &level) in slots[run.slot..][..run.len].iter_mut().zip(levels) {
                *slot = if level == TraceValues::NO_LEVEL { SILENT } else { u16::from(level) };
            }
        }
        self.apply_mask(slots);
    }

    #[inline]
    fn encode_derived(&self, headers: &Headers, frame: &[u8], context: Context, slots: &mut [u16]) {
        let length = headers.payload_wire_len;
        for &(slot, which) in self.places(Place::Derived) {
            slots[slot.index()] = match which {
                derived::ETHER_TYPE_HIGH => headers.ether_type >> 8,
                derived::ETHER_TYPE_LOW => headers.ether_type & 0xff,
                derived::RECEIVER => u16::from(receiver_kind(headers, frame)),
                derived::DIRECTION => u16::from(context.direction),
                derived::POSITION => u16::from(context.position.min(15)),
                derived::PAYLOAD_LEN_HIGH => (length >> 8).min(255) as u16,
                derived::PAYLOAD_LEN_LOW => (length & 0xff) as u16,
                derived::PAYLOAD_BUCKET => u16::from(length_bucket(length)),
                derived::PREVIOUS => u16::from(context.previous),
                _ => SILENT,
            };
        }
    }

    #[inline]
    fn encode_network(&self, headers: &Headers, frame: &[u8], slots: &mut [u16]) {
        let at = headers.network_at as usize;
        match headers.network {
            Network::Ipv4 => {
                copy(frame, at, self.runs(Place::Ipv4), slots);
                // Groups are 224.0.0.0/4 (RFC 5771).
                if frame.get(at + IPV4_DESTINATION).is_some_and(|b| b >> 4 == 0b1110) {
                    copy(frame, at + IPV4_DESTINATION, self.runs(Place::Ipv4Group), slots);
                }
            }
            Network::Ipv6 => {
                copy(frame, at, self.runs(Place::Ipv6), slots);
                // Groups are ff00::/8 (RFC 4291 section 2.7).
                if frame.get(at + IPV6_DESTINATION) == Some(&0xff) {
                    copy(frame, at + IPV6_DESTINATION, self.runs(Place::Ipv6Group), slots);
                }
            }
            Network::Arp => copy(frame, at, self.runs(Place::Arp), slots),
            Network::None | Network::Other => {}
        }
    }

    #[inline]
    fn encode_transport(&self, headers: &Headers, frame: &[u8], slots: &mut [u16]) {
        let at = headers.transport_at as usize;
        match headers.transport {
            Transport::Tcp => {
                copy(frame, at, self.runs(Place::Tcp), slots);
                mask_ephemeral(frame, at, self.places(Place::Tcp), slots);
                let (options, first) = (self.places(Place::TcpOption), at + TCP_OPTIONS);
                if !options.is_empty() && frame.len() > first {
                    let end = (headers.payload_at as usize).min(frame.len());
                    copy(&frame[..end], first, self.runs(Place::TcpOption), slots);
                    mask_timestamps(&frame[first..end.max(first)], options, slots);
                }
            }
            Transport::Udp => {
                copy(frame, at, self.runs(Place::Udp), slots);
                mask_ephemeral(frame, at, self.places(Place::Udp), slots);
            }
            Transport::Sctp => copy(frame, at, self.runs(Place::Sctp), slots),
            Transport::Icmp => copy(frame, at, self.runs(Place::Icmp), slots),
            Transport::Icmpv6 => copy(frame, at, self.runs(Place::Icmpv6), slots),
            Transport::Igmp => copy(frame, at, self.runs(Place::Igmp), slots),
            Transport::None | Transport::Other => {}
        }
    }
}

/// Offset of the destination address in an IPv4 header (RFC 791 section 3.1).
const IPV4_DESTINATION: usize = 16;
/// Offset of the destination address in an IPv6 header (RFC 8200 section 3).
const IPV6_DESTINATION: usize = 24;
/// Offset of the options in a TCP header (RFC 9293 section 3.1).
const TCP_OPTIONS: usize = 20;

/// Copies the bytes of a header that begins at `start` into their slots, as far as `bytes` reach.
#[inline(always)]
fn copy(bytes: &[u8], start: usize, runs: &[Run], slots: &mut [u16]) {
    for run in runs {
        let from = bytes.get(start + run.offset..).unwrap_or(&[]);
        for (slot, &byte) in slots[run.slot..][..run.len].iter_mut().zip(from) {
            *slot = u16::from(byte);
        }
    }
}

/// Receiver of a frame: 0 one host, 1 a group, 2 broadcast.
fn receiver_kind(headers: &Headers, frame: &[u8]) -> u8 {
    if let Some(mac) = headers.dst_mac(frame) {
        return if mac == [0xff; 6] { 2 } else { mac[0] & 1 };
    }
    match headers.dst_addr(frame) {
        Some(address) => u8::from(address.is_multicast()),
        None => 0,
    }
}

/// High byte of the first ephemeral port: operating systems hand out ports from here on. Linux's default `net.ipv4.ip_local_port_range`
/// begins here, and the range of RFC 6335 section 6 lies within.
const EPHEMERAL: u8 = 0x80;

/// Whether a port with this high byte is ephemeral.
pub fn is_ephemeral(high: u8) -> bool {
    high >= EPHEMERAL
}

/// Makes the low byte of ephemeral ports silent: it identifies a flow. `places` are those of a header with ports in its first four bytes.
fn mask_ephemeral(frame: &[u8], transport: usize, places: &[(SlotId, u16)], slots: &mut [u16]) {
    for &(slot, offset) in places.iter().filter(|p| p.1 == 1 || p.1 == 3) {
        if frame.get(transport + offset as usize - 1).is_some_and(|&high| is_ephemeral(high)) {
            slots[slot.index()] = SILENT;
        }
    }
}

/// Makes the slots with the eight value bytes of a TCP timestamp option (RFC 7323 section 3) silent: they identify a flow.
fn mask_timestamps(options: &[u8], places: &[(SlotId, u16)], slots: &mut [u16]) {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            END_OF_OPTIONS => break,
            NO_OPERATION => at += 1,
            kind => {
                let length = options.get(at + 1).map_or(2, |&l| l as usize).max(2);
                if kind == TIMESTAMPS {
                    for &(slot, offset) in places {
                        if (at + 2..at + length).contains(&(offset as usize)) {
                            slots[slot.index()] = SILENT;
                        }
                    }
                }
                at += length;
            }
        }
    }
}

/// Kinds of TCP options (RFC 9293 section 3.2, RFC 7323 section 3).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMPS: u8 = 8;
