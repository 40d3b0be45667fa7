//! The built-in layout: which header fields have slots, and which pairs of them have coincidence inputs.
//!
//! A slot is one byte of a packet, or one value derived from it. With one-hot coding each value of a slot is an input of the network, and a
//! coincidence is an input for the values of two slots together.
//!
//! Fields without slots, because they identify a host or a flow and not what a stream carries: addresses (except multicast groups, which
//! identify a protocol), IP identification, checksums, TCP sequence and acknowledgement numbers, TCP timestamp values. Ports have slots, since
//! many services are on fixed ports; the low byte of an ephemeral port is silent (`encode::frame`).

use super::layout::{ALL_BITS, LayoutData, derived};
use super::{Coding, Group, Layout, Place, Slot, SlotId};
use crate::trace::trace_names;

/// Largest number of payload bytes for which the built-in layout has room.
pub const MAX_PAYLOAD: u16 = 48;

/// Options of the built-in layout.
#[derive(Clone, Debug)]
pub struct LayoutOptions {
    /// How slot values become inputs.
    pub coding: Coding,
    /// Number of payload bytes with a slot, 0 to [`MAX_PAYLOAD`].
    pub payload: u16,
    /// Number of payload bytes before the folded ones ([`Place::FoldedPayload`]). The first bytes of a payload show its format: a method, a version,
    /// a type. Behind them text is mostly names of hosts, users and files, which differ from network to network, while binary fields still show
    /// the format.
    pub exact_payload: u16,
    /// Base-2 logarithm of the number of coincidence inputs, onto which pairs of values are hashed; 0 for none. Ignored with dual-rail coding,
    /// which has none.
    pub coincidence_bits: u32,
    /// Whether the traces of a flow's hosts (counts of recent events that decay, see [`crate::trace`]) have slots. Then the fields that show a
    /// host's system have none, and those of IPv4 and of IPv6 that say the same share one.
    pub traces: bool,
}

impl Default for LayoutOptions {
    fn default() -> Self {
        Self { coding: Coding::OneHot, payload: 16, exact_payload: 8, coincidence_bits: 16, traces: false }
    }
}

impl Layout {
    /// The built-in header layout with `options`.
    pub fn headers(options: &LayoutOptions) -> Self {
        let slots = header_slots(options);
        let one_hot = options.coding == Coding::OneHot && options.coincidence_bits > 0;
        let coincidences = if one_hot { coincidences(&slots) } else { Vec::new() };
        let data = LayoutData { coding: options.coding, slots, coincidences, coincidence_bits: options.coincidence_bits };
        Layout::try_from(data).expect("the built-in layout is within the limits")
    }

    /// The layout of Davies et al. 2025: one word of `bits` bits, at most 16, in dual-rail coding.
    pub fn paper_word(bits: u8) -> Self {
        let mut b = SlotList::default();
        b.add(Place::Payload, Group::Payload, "word", &[0, 1]);
        b.slots[0].bits = bits.saturating_sub(ALL_BITS);
        b.slots[1].bits = bits.min(ALL_BITS);
        let data = LayoutData { coding: Coding::DualRail, slots: b.slots, coincidences: Vec::new(), coincidence_bits: 0 };
        Layout::try_from(data).expect("two slots are within the limits")
    }
}

/// The slots of the built-in layout. Names are Wireshark's or close to them. The last argument of each line has the offsets of the bytes within
/// the header or option list, or the numbers of derived values.
fn header_slots(options: &LayoutOptions) -> Vec<Slot> {
    let mut b = SlotList::default();
    b.add(Place::Derived, Group::Link, "eth.type", &[derived::ETHER_TYPE_HIGH, derived::ETHER_TYPE_LOW]);
    b.add(Place::Derived, Group::Link, "frame.receiver", &[derived::RECEIVER]);
    b.add(Place::Ipv4, Group::Network, "ip.ihl", &[0]);
    b.add(Place::Ipv4, Group::Network, "ip.tos", &[1]);
    b.add(Place::Ipv4, Group::Length, "ip.len", &[2, 3]);
    b.add(Place::Ipv4, Group::Network, "ip.flags", &[6, 7]);
    b.add(Place::Ipv4, Group::Ttl, "ip.ttl", &[8]);
    b.add(Place::Ipv4, Group::Network, "ip.proto", &[9]);
    b.add(Place::Ipv4Group, Group::Network, "ip.group", &[0, 1, 2, 3]);
    b.add(Place::Ipv6, Group::Network, "ipv6.class", &[0, 1]);
    b.add(Place::Ipv6, Group::Length, "ipv6.plen", &[4, 5]);
    b.add(Place::Ipv6, Group::Network, "ipv6.nxt", &[6]);
    b.add(Place::Ipv6, Group::Ttl, "ipv6.hlim", &[7]);
    b.add(Place::Ipv6Group, Group::Network, "ipv6.group", &[1, 14, 15]);
    b.add(Place::Arp, Group::Network, "arp.opcode", &[6, 7]);
    b.add(Place::Tcp, Group::Ports, "tcp.srcport", &[0, 1]);
    b.add(Place::Tcp, Group::Ports, "tcp.dstport", &[2, 3]);
    b.add(Place::Tcp, Group::Transport, "tcp.hdr_len", &[12]);
    b.add(Place::Tcp, Group::Transport, "tcp.flags", &[13]);
    b.add(Place::Tcp, Group::Transport, "tcp.window", &[14, 15]);
    b.add(Place::Tcp, Group::Transport, "tcp.urgent", &[19]);
    // Offsets 12 to 15 are the echoed timestamp of a SYN. Values of timestamps elsewhere are silent too (`encode::frame`).
    b.add(Place::TcpOption, Group::Options, "tcp.options", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]);
    b.add(Place::Udp, Group::Ports, "udp.srcport", &[0, 1]);
    b.add(Place::Udp, Group::Ports, "udp.dstport", &[2, 3]);
    b.add(Place::Udp, Group::Length, "udp.length", &[4, 5]);
    b.add(Place::Sctp, Group::Ports, "sctp.srcport", &[0, 1]);
    b.add(Place::Sctp, Group::Ports, "sctp.dstport", &[2, 3]);
    b.add(Place::Sctp, Group::Transport, "sctp.chunk", &[12, 13]);
    b.add(Place::Icmp, Group::Transport, "icmp.type", &[0]);
    b.add(Place::Icmp, Group::Transport, "icmp.code", &[1]);
    b.add(Place::Icmpv6, Group::Transport, "icmpv6.type", &[0]);
    b.add(Place::Icmpv6, Group::Transport, "icmpv6.code", &[1]);
    b.add(Place::Igmp, Group::Transport, "igmp.type", &[0]);
    b.add(Place::Derived, Group::Length, "payload.len", &[derived::PAYLOAD_LEN_HIGH, derived::PAYLOAD_LEN_LOW]);
    b.add(Place::Derived, Group::Length, "payload.size", &[derived::PAYLOAD_BUCKET]);
    b.add_payload(options.payload.min(MAX_PAYLOAD), options.exact_payload);
    b.add(Place::Derived, Group::Context, "stream.direction", &[derived::DIRECTION]);
    b.add(Place::Derived, Group::Context, "stream.position", &[derived::POSITION]);
    b.add(Place::Derived, Group::Context, "stream.previous", &[derived::PREVIOUS]);
    if options.traces {
        b.slots.retain(|slot| !shows_host(slot) && !shows_ip_version(slot));
        b.add(Place::Derived, Group::Network, "ip.proto", &[derived::PROTOCOL]);
        b.add(Place::Derived, Group::Transport, "icmp.type", &[derived::ICMP_TYPE]);
        b.add(Place::Derived, Group::Transport, "icmp.code", &[derived::ICMP_CODE]);
        for (number, name) in (0..).zip(trace_names()) {
            b.add(Place::Trace, Group::Trace, &name, &[number]);
        }
    }
    b.slots
}

/// Whether a slot shows the host's system or its program rather than what the host does. Training captures of behaviours come from few hosts,
/// which these values would tell apart.
fn shows_host(slot: &Slot) -> bool {
    const FIELDS: [&str; 7] = ["ip.ihl", "ip.tos", "ip.flags", "ipv6.class", "tcp.hdr_len", "tcp.window", "tcp.urgent"];
    match slot.group {
        Group::Ttl | Group::Options => true,
        Group::Length => field(slot) != "payload.size",
        _ => FIELDS.contains(&field(slot)),
    }
}

/// Whether a slot shows the version of IP, or what the two versions say differently. Attacks are the same over both, and few training captures of
/// attacks are of IPv6.
fn shows_ip_version(slot: &Slot) -> bool {
    const FIELDS: [&str; 7] = ["eth.type", "ip.proto", "ipv6.nxt", "icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code"];
    FIELDS.contains(&field(slot))
}

/// The name of a slot's field.
fn field(slot: &Slot) -> &str {
    slot.name.split('[').next().unwrap_or_default()
}

/// Neighbouring slots of one header, then the pairs of [`PAIRS`] and of traces. Pairs with a slot that the options leave out have none.
fn coincidences(slots: &[Slot]) -> Vec<(SlotId, SlotId)> {
    let find = |name: &str| slots.iter().position(|s| s.name == name).map(SlotId::from_index);
    let header = |slot: &Slot| if slot.place == Place::FoldedPayload { Place::Payload } else { slot.place };
    let mut coincidences = Vec::new();
    for i in 1..slots.len() {
        let one_header = header(&slots[i]) == header(&slots[i - 1]);
        if one_header && !matches!(slots[i].place, Place::Derived | Place::Trace) {
            coincidences.push((SlotId::from_index(i - 1), SlotId::from_index(i)));
        }
    }
    let headers = TRACE_HEADERS.into_iter().flat_map(|header| TRACES_WITH_HEADERS.map(|trace| (header, trace)));
    for (a, b) in PAIRS.into_iter().chain(headers).chain(TRACE_PAIRS) {
        if let (Some(a), Some(b)) = (find(a), find(b)) {
            coincidences.push((a, b));
        }
    }
    coincidences
}

/// Pairs of slots that have a coincidence input besides neighbours.
const PAIRS: [(&str, &str); 30] = [
    ("ip.ttl", "tcp.window[0]"),
    ("ip.proto", "ip.ttl"),
    ("ip.flags[0]", "ip.ttl"),
    ("tcp.flags", "payload.size"),
    ("tcp.flags", "tcp.window[0]"),
    ("tcp.flags", "stream.position"),
    ("payload[0]", "payload[2]"),
    ("payload[0]", "payload[3]"),
    ("payload[1]", "payload[3]"),
    ("payload[2]", "payload[4]"),
    ("payload[3]", "payload[5]"),
    ("payload[0]", "payload.size"),
    ("payload[1]", "payload.size"),
    ("payload[0]", "ip.proto"),
    ("payload[0]", "ipv6.nxt"),
    ("payload[0]", "udp.dstport[1]"),
    ("payload[0]", "udp.srcport[1]"),
    ("payload[0]", "tcp.dstport[1]"),
    ("payload[0]", "tcp.srcport[1]"),
    ("payload.len[0]", "payload.len[1]"),
    ("payload.len[1]", "payload[1]"),
    ("payload.len[1]", "payload[2]"),
    ("payload.len[1]", "payload[3]"),
    ("payload.len[1]", "payload[4]"),
    ("payload.size", "stream.position"),
    ("payload.size", "stream.direction"),
    ("payload.size", "stream.previous"),
    ("payload[0]", "stream.direction"),
    ("payload[0]", "stream.previous"),
    ("stream.direction", "stream.position"),
];

/// Slots that have a coincidence with each of [`TRACES_WITH_HEADERS`]: the same rate means different things of different packets.
const TRACE_HEADERS: [&str; 3] = ["ip.proto", "tcp.flags", "payload.size"];
const TRACES_WITH_HEADERS: [&str; 11] = [
    "trace.source.begun.1s",
    "trace.source.ports.10s",
    "trace.source.peers.10s",
    "trace.source.answers.10s",
    "trace.destination.received.1s",
    "trace.destination.sources.10s",
    "trace.destination.answered.10s",
    "trace.service.flows.10s",
    "trace.service.replies.10s",
    "trace.flow.forward.1s",
    "trace.destination.packets.1s",
];

/// Pairs of traces that have a coincidence input.
const TRACE_PAIRS: [(&str, &str); 15] = [
    ("trace.source.ports.10s", "trace.source.peers.10s"),
    ("trace.source.begun.10s", "trace.source.answers.10s"),
    ("trace.source.begun.10s", "trace.destination.received.10s"),
    ("trace.destination.received.10s", "trace.destination.sources.10s"),
    ("trace.destination.received.10s", "trace.destination.answered.10s"),
    ("trace.destination.received.10s", "trace.destination.requested.10s"),
    ("trace.service.flows.10s", "trace.source.begun.10s"),
    ("trace.service.flows.10s", "trace.service.replies.10s"),
    ("trace.service.flows.60s", "trace.service.replies.60s"),
    ("trace.service.flows.60s", "trace.service.regular"),
    ("trace.service.flows.60s", "trace.service.open"),
    ("trace.service.replies.60s", "trace.service.open"),
    ("trace.service.regular", "trace.service.gap"),
    ("trace.flow.forward.1s", "trace.flow.backward.1s"),
    ("trace.destination.packets.1s", "trace.destination.received.1s"),
];

/// Slots in the order of the header.
#[derive(Default)]
struct SlotList {
    slots: Vec<Slot>,
}

impl SlotList {
    /// Adds one slot for each offset. The slots of a field with several are numbered from 0, whatever their offsets.
    fn add(&mut self, place: Place, group: Group, name: &str, offsets: &[u16]) {
        for (i, &offset) in offsets.iter().enumerate() {
            let name = if offsets.len() > 1 { format!("{name}[{i}]") } else { name.to_string() };
            self.slots.push(Slot { name, place, offset, group, bits: ALL_BITS });
        }
    }

    /// Adds slots for the first `bytes` bytes of the payload, folded ones behind the first `exact`.
    fn add_payload(&mut self, bytes: u16, exact: u16) {
        for offset in 0..bytes {
            let (place, field) =
                if offset < exact { (Place::Payload, "payload") } else { (Place::FoldedPayload, "payload.folded") };
            let (name, group) = (format!("{field}[{offset}]"), Group::Payload);
            self.slots.push(Slot { name, place, offset, group, bits: ALL_BITS });
        }
    }
}
