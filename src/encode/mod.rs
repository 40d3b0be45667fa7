//! Which inputs fire? A packet's header bytes become one volley: the set of input neurons that spike at the same instant.
//!
//! Input: a frame, its [`Headers`] and what its stream remembers ([`Context`]). Output: a [`Volley`] of slot values, which
//! [`Layout::inputs`] turns into the active inputs of a network.

mod layout;
mod vector;

pub use layout::{Coding, Group, Layout, LayoutError, LayoutOptions, MAX_ACTIVE, MAX_PAYLOAD, MAX_SLOTS, Place, Slot, SlotId};

use crate::packet::{Headers, Network, Transport};

/// What the stream knows when a packet of it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// 0: sent by the stream's first sender (flow) or by the host itself; 1: the other way.
    pub direction: u8,
    /// Packets of the stream before this one, saturating at 255.
    pub position: u8,
    /// [`length_bucket`] of the stream's previous packet with its direction in the top bit; 255 for the first packet.
    pub previous: u8,
}

impl Context {
    /// The context of a stream's first packet.
    pub fn first(direction: u8) -> Self {
        Self { direction, position: 0, previous: NO_PREVIOUS }
    }
}

/// [`Context::previous`] of a stream's first packet.
pub const NO_PREVIOUS: u8 = 255;

/// A slot without a value: none of its inputs spikes.
pub const SILENT: u16 = 0xffff;

/// One simultaneous volley: for each slot of the layout the byte whose input spikes, or [`SILENT`].
#[derive(Clone, Copy)]
pub struct Volley {
    /// Slot values; only the first ones belong to the layout.
    pub slots: [u16; MAX_SLOTS],
    /// Which slots may have a value: those of the headers that the packet has.
    shape: Shape,
    /// Whether the packet shows what its stream carries: every packet except a TCP segment without payload.
    pub content: bool,
}

/// A set of slots and coincidences to look at: an index into the layout's.
#[derive(Clone, Copy, Debug)]
struct Shape(u8);

impl Shape {
    /// All of them.
    const WHOLE: Self = Self(0);
    const COUNT: usize = 1 + Network::COUNT * Transport::COUNT;

    fn of(headers: &Headers) -> Self {
        Self((1 + headers.network as usize * Transport::COUNT + headers.transport as usize) as u8)
    }
}

impl Default for Volley {
    fn default() -> Self {
        Self { slots: [SILENT; MAX_SLOTS], shape: Shape::WHOLE, content: true }
    }
}

/// Four buckets an octave: 0 for no octets, else 1 + floor(4 log2(length)), at most 64.
pub fn length_bucket(length: u32) -> u8 {
    if length == 0 {
        return 0;
    }
    let octave = 31 - length.leading_zeros();
    // The two bits below the leading one choose the quarter of the octave.
    let quarter = if octave >= 2 { (length >> (octave - 2)) & 3 } else { (length << (2 - octave)) & 3 };
    (1 + octave * 4 + quarter).min(64) as u8
}

/// What a stream remembers of a packet with a payload of this [`length_bucket`] for the next one's [`Context::previous`].
pub fn previous_of(size: u8, direction: u8) -> u8 {
    size | (direction & 1) << 7
}

/// Who receives: 0 one host, 1 a group, 2 everybody.
fn receiver_kind(headers: &Headers, frame: &[u8]) -> u8 {
    if let Some(mac) = headers.dst_mac(frame) {
        return if mac == [0xff; 6] { 2 } else { mac[0] & 1 };
    }
    match headers.dst_addr(frame) {
        Some(address) => u8::from(address.is_multicast()),
        None => 0,
    }
}

/// Offset of the flags in a TCP header (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;

/// Whether a packet shows what its stream carries: every packet except a TCP segment without payload.
pub fn has_content(headers: &Headers, frame: &[u8]) -> bool {
    let segment = headers.transport == Transport::Tcp && frame.len() > headers.transport_at as usize + TCP_FLAGS;
    !segment || headers.payload_wire_len > 0
}

impl Layout {
    /// Fills `volley` from a frame. Slots whose byte the packet lacks stay silent, as do masked bytes (TCP timestamp values).
    pub fn encode(&self, headers: &Headers, frame: &[u8], context: Context, volley: &mut Volley) {
        volley.shape = Shape::of(headers);
        volley.content = has_content(headers, frame);
        let slots = &mut volley.slots[..self.slots().len()];
        slots.fill(SILENT);
        let at = |start: usize, places: &[(SlotId, u16)], end: usize, slots: &mut [u16]| {
            for &(slot, offset) in places {
                let place = start + offset as usize;
                if place < end {
                    slots[slot.index()] = frame[place] as u16;
                }
            }
        };
        let end = frame.len();
        let payload_end = (headers.payload_end as usize).min(end);
        for &(slot, what) in self.places(Place::Derived) {
            let length = headers.payload_wire_len;
            let value = match what {
                0 => headers.ether_type >> 8,
                1 => headers.ether_type & 0xff,
                2 => u16::from(receiver_kind(headers, frame)),
                3 => u16::from(context.direction),
                4 => u16::from(context.position.min(15)),
                5 => (length >> 8).min(255) as u16,
                6 => (length & 0xff) as u16,
                7 => u16::from(length_bucket(length)),
                8 => u16::from(context.previous),
                _ => SILENT,
            };
            slots[slot.index()] = value;
        }
        let network = headers.network_at as usize;
        match headers.network {
            Network::Ipv4 => {
                at(network, self.places(Place::Ipv4), end, slots);
                if frame.get(network + 16).is_some_and(|b| b >> 4 == 14) {
                    at(network + 16, self.places(Place::Ipv4Group), end, slots);
                }
            }
            Network::Ipv6 => {
                at(network, self.places(Place::Ipv6), end, slots);
                if frame.get(network + 24) == Some(&0xff) {
                    at(network + 24, self.places(Place::Ipv6Group), end, slots);
                }
            }
            Network::Arp => at(network, self.places(Place::Arp), end, slots),
            Network::None | Network::Other => {}
        }
        let transport = headers.transport_at as usize;
        match headers.transport {
            Transport::Tcp => {
                at(transport, self.places(Place::Tcp), end, slots);
                mask_ephemeral(frame, transport, self.places(Place::Tcp), slots);
                let options = self.places(Place::TcpOption);
                if !options.is_empty() && frame.len() > transport + 20 {
                    let stop = (headers.payload_at as usize).min(end);
                    at(transport + 20, options, stop, slots);
                    mask_timestamps(&frame[transport + 20..stop.max(transport + 20)], options, slots);
                }
            }
            Transport::Udp => {
                at(transport, self.places(Place::Udp), end, slots);
                mask_ephemeral(frame, transport, self.places(Place::Udp), slots);
            }
            Transport::Sctp => at(transport, self.places(Place::Sctp), end, slots),
            Transport::Icmp => at(transport, self.places(Place::Icmp), end, slots),
            Transport::Icmpv6 => at(transport, self.places(Place::Icmpv6), end, slots),
            Transport::Igmp => at(transport, self.places(Place::Igmp), end, slots),
            Transport::None | Transport::Other => {}
        }
        if headers.network != Network::Arp {
            at(headers.payload_at as usize, self.places(Place::Payload), payload_end, slots);
        }
        self.apply_mask(slots);
    }
}

/// Ports from here on are handed out by operating systems: Linux's default `net.ipv4.ip_local_port_range` begins here, the range
/// of RFC 6335 section 6 lies within.
const EPHEMERAL: u8 = 0x80;

/// Whether a port with this high octet is ephemeral.
pub fn is_ephemeral(high: u8) -> bool {
    high >= EPHEMERAL
}

/// Silences the low octet of ephemeral ports: it names a flow.
fn mask_ephemeral(frame: &[u8], transport: usize, places: &[(SlotId, u16)], slots: &mut [u16]) {
    for &(slot, offset) in places.iter().filter(|p| p.1 == 1 || p.1 == 3) {
        if frame.get(transport + offset as usize - 1).is_some_and(|&high| is_ephemeral(high)) {
            slots[slot.index()] = SILENT;
        }
    }
}

/// Silences the slots that hold the eight value octets of a TCP timestamp option (RFC 7323 section 3): they name a flow.
fn mask_timestamps(options: &[u8], places: &[(SlotId, u16)], slots: &mut [u16]) {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => break,
            1 => at += 1,
            kind => {
                let length = options.get(at + 1).map_or(2, |&l| l as usize).max(2);
                if kind == 8 {
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

#[cfg(test)]
mod tests {
    use super::length_bucket;

    #[test]
    fn length_buckets_grow_four_an_octave() {
        assert_eq!(length_bucket(0), 0);
        assert_eq!(length_bucket(1), 1);
        assert_eq!(length_bucket(2), 5);
        assert_eq!(length_bucket(4), 9);
        assert_eq!(length_bucket(5), 10);
        assert_eq!(length_bucket(u32::MAX), 64);
        assert!((1..70000).all(|l| length_bucket(l) <= length_bucket(l + 1)));
    }
}
