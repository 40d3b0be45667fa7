//! Encoding of a frame: header bytes and context to slot values.

use super::icmp;
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
        let identifying = self.identifying_bytes(headers, frame);
        let permuted = self.permutation.as_ref();
        let permuted = permuted.is_some_and(|p| p.encode(headers, frame, identifying, context, traces, volley));
        if !permuted {
            self.encode_plain(headers, frame, identifying, context, traces, &mut volley.slots);
        }
        self.apply_mask(&mut volley.slots);
    }

    /// Writes the values of the slots to `slots`, in plain loops. `identifying`: the [`Layout::identifying_bytes`].
    pub(super) fn encode_plain(
        &self,
        headers: &Headers,
        frame: &[u8],
        identifying: u64,
        context: Context,
        traces: &TraceValues,
        slots: &mut [u16],
    ) {
        slots[..self.slots().len()].fill(SILENT);
        copy(&derived_values(headers, frame, context)[..DERIVED_VALUES], self.runs(Place::Derived), slots);
        self.encode_network(headers, frame, slots);
        self.encode_transport(headers, frame, identifying, slots);
        if headers.network != Network::Arp {
            let end = (headers.payload_end as usize).min(frame.len());
            let payload = tail(&frame[..end], headers.payload_at as usize);
            copy(payload, self.runs(Place::Payload), slots);
            for &(slot, offset) in self.places(Place::FoldedPayload) {
                if let Some(&byte) = payload.get(usize::from(offset)) {
                    slots[slot.index()] = self.payload_value(slot, byte);
                }
            }
        }
        copy(traces.levels(), self.runs(Place::Trace), slots);
        for &(slot, _) in self.places(Place::Trace) {
            if slots[slot.index()] == u16::from(TraceValues::NO_LEVEL) {
                slots[slot.index()] = SILENT;
            }
        }
    }

    /// The value of a slot of the payload for a byte.
    pub fn payload_value(&self, slot: SlotId, byte: u8) -> u16 {
        let is_folded = self.slots()[slot.index()].place == Place::FoldedPayload && byte.is_ascii_alphanumeric();
        u16::from(if is_folded { FOLDED } else { byte })
    }

    #[inline]
    fn encode_network(&self, headers: &Headers, frame: &[u8], slots: &mut [u16]) {
        let header = tail(frame, headers.network_at.into());
        match headers.network {
            Network::Ipv4 => {
                copy(header, self.runs(Place::Ipv4), slots);
                if is_ipv4_group(header) {
                    copy(&header[IPV4_DESTINATION..], self.runs(Place::Ipv4Group), slots);
                }
            }
            Network::Ipv6 => {
                copy(header, self.runs(Place::Ipv6), slots);
                if is_ipv6_group(header) {
                    copy(&header[IPV6_DESTINATION..], self.runs(Place::Ipv6Group), slots);
                }
            }
            Network::Arp => copy(header, self.runs(Place::Arp), slots),
            Network::None | Network::Other => {}
        }
    }

    #[inline]
    fn encode_transport(&self, headers: &Headers, frame: &[u8], identifying: u64, slots: &mut [u16]) {
        let at = usize::from(headers.transport_at);
        let header = tail(frame, at);
        match headers.transport {
            Transport::Tcp => {
                copy(header, self.runs(Place::Tcp), slots);
                let end = (headers.payload_at as usize).min(frame.len());
                copy(tail(&frame[..end], at + TCP_OPTIONS), self.runs(Place::TcpOption), slots);
            }
            Transport::Udp => copy(header, self.runs(Place::Udp), slots),
            Transport::Sctp => copy(header, self.runs(Place::Sctp), slots),
            Transport::Icmp => copy(header, self.runs(Place::Icmp), slots),
            Transport::Icmpv6 => copy(header, self.runs(Place::Icmpv6), slots),
            Transport::Igmp => copy(header, self.runs(Place::Igmp), slots),
            Transport::None | Transport::Other => {}
        }
        for (place, start) in [(Place::Tcp, 0), (Place::Udp, 0), (Place::TcpOption, TCP_OPTIONS)] {
            for &(slot, offset) in self.places(place).iter().filter(|&&(_, offset)| may_identify(place, offset)) {
                if (identifying >> start).checked_shr(offset.into()).is_some_and(|bits| bits & 1 != 0) {
                    slots[slot.index()] = SILENT;
                }
            }
        }
    }

    /// Which bytes from the transport header on identify a flow, a bit each: the low bytes of ephemeral ports, and the values of TCP timestamps
    /// if the layout has slots for options.
    #[inline]
    pub(super) fn identifying_bytes(&self, headers: &Headers, frame: &[u8]) -> u64 {
        let at = headers.transport_at as usize;
        let low_byte = |high: usize| u64::from(frame.get(at + high).is_some_and(|&byte| is_ephemeral(byte))) << (high + 1);
        match headers.transport {
            Transport::Tcp if !self.places(Place::TcpOption).is_empty() => {
                let end = (headers.payload_at as usize).min(frame.len());
                let options = frame.get(at + TCP_OPTIONS..end).unwrap_or(&[]);
                low_byte(0) | low_byte(2) | timestamp_values(options) << TCP_OPTIONS
            }
            Transport::Tcp | Transport::Udp => low_byte(0) | low_byte(2),
            _ => 0,
        }
    }
}

/// Offset of the destination address in an IPv4 header (RFC 791 section 3.1).
pub(super) const IPV4_DESTINATION: usize = 16;
/// Offset of the destination address in an IPv6 header (RFC 8200 section 3).
pub(super) const IPV6_DESTINATION: usize = 24;
/// Offset of the options in a TCP header (RFC 9293 section 3.1).
pub(super) const TCP_OPTIONS: usize = 20;

/// Whether the destination of an IPv4 header is a multicast group: 224.0.0.0/4 (RFC 5771).
#[inline]
pub(super) fn is_ipv4_group(header: &[u8]) -> bool {
    header.get(IPV4_DESTINATION).is_some_and(|byte| byte >> 4 == 0b1110)
}

/// Whether the destination of an IPv6 header is a multicast group: ff00::/8 (RFC 4291 section 2.7).
#[inline]
pub(super) fn is_ipv6_group(header: &[u8]) -> bool {
    header.get(IPV6_DESTINATION) == Some(&0xff)
}

/// Value of a slot with [`Place::FoldedPayload`] for all ASCII letters and digits.
pub const FOLDED: u8 = b'x';

/// The bytes from `at` on; none if there are not so many.
#[inline]
pub(super) fn tail(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or(&[])
}

/// Copies the bytes of a place into its slots, as far as `bytes` reach.
#[inline(always)]
fn copy(bytes: &[u8], runs: &[Run], slots: &mut [u16]) {
    for run in runs {
        for (slot, &byte) in slots[run.slot..][..run.len].iter_mut().zip(tail(bytes, run.offset)) {
            *slot = u16::from(byte);
        }
    }
}

/// Number of derived values.
pub(super) const DERIVED_VALUES: usize = 12;

/// The values of the slots with [`Place::Derived`], by their offset: the first [`DERIVED_VALUES`].
#[inline]
pub(super) fn derived_values(headers: &Headers, frame: &[u8], context: Context) -> [u8; 16] {
    let length = headers.payload_wire_len;
    let mut values = [0; 16];
    let mut set = |which: u16, value: u8| values[usize::from(which)] = value;
    set(derived::ETHER_TYPE_HIGH, (headers.ether_type >> 8) as u8);
    set(derived::ETHER_TYPE_LOW, headers.ether_type as u8);
    set(derived::RECEIVER, receiver_kind(headers, frame));
    set(derived::DIRECTION, context.direction);
    set(derived::POSITION, context.position.min(15));
    set(derived::PAYLOAD_LEN_HIGH, (length >> 8).min(255) as u8);
    set(derived::PAYLOAD_LEN_LOW, length as u8);
    set(derived::PAYLOAD_BUCKET, length_bucket(length));
    set(derived::PREVIOUS, context.previous);
    let (protocol, [kind, code]) = icmp::protocol_and_message(headers, frame);
    set(derived::PROTOCOL, protocol);
    set(derived::ICMP_TYPE, kind);
    set(derived::ICMP_CODE, code);
    values
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

/// Whether the byte at this offset of a place may identify a flow: the low byte of a port, or part of a TCP timestamp.
pub(super) fn may_identify(place: Place, offset: u16) -> bool {
    match place {
        Place::Tcp | Place::Udp => offset == 1 || offset == 3,
        Place::TcpOption => true,
        _ => false,
    }
}

/// Which bytes of TCP options (at most 40) are values of a timestamp option (RFC 7323 section 3), a bit each.
fn timestamp_values(options: &[u8]) -> u64 {
    let (mut at, mut values) = (0, 0);
    while at < options.len() {
        match options[at] {
            END_OF_OPTIONS => break,
            NO_OPERATION => at += 1,
            kind => {
                let length = options.get(at + 1).map_or(2, |&l| l as usize).max(2);
                if kind == TIMESTAMPS {
                    values |= lowest(at + length) & !lowest(at + 2);
                }
                at += length;
            }
        }
    }
    values
}

/// A mask of the lowest `n` bits; all bits if there are not so many.
#[inline]
pub(super) fn lowest(n: usize) -> u64 {
    1u64.checked_shl(n as u32).map_or(u64::MAX, |bit| bit - 1)
}

/// Kinds of TCP options (RFC 9293 section 3.2, RFC 7323 section 3).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMPS: u8 = 8;
