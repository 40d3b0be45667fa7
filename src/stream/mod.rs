//! Streams: what is known of each one so far, its evidence and its class.
//!
//! Input: packets with the key of their stream, and the potentials of a network. Output: each packet's [`Context`], and the stream's
//! [`Leader`] and class. Time is the time of the packets.

mod approximate;
mod assignments;
mod basis;
mod candidates;
mod decision;
mod evidence;
mod fragments;
mod intake;
mod leader;
mod table;
mod tracker;

pub use assignments::{AssignmentError, Assignments};
pub use basis::{Basis, UnknownReason};
pub use candidates::CandidateScorer;
pub use decision::Decision;
pub use evidence::Contributions;
pub use fragments::{FragmentTable, is_fragment};
pub use intake::Intake;
pub use leader::{CONSTANT_FEATURES, FEATURES, Leader};
pub use table::{EndReason, PacketPlace, StreamIndex, StreamLimits, StreamTable, SweptStream};
pub use tracker::{StreamTracker, TrackedPacket};

use std::hash::BuildHasher;

use etherparse::IpNumber;
use foldhash::fast::RandomState;

use crate::capture::{Frame, InterfaceId, Nanos};
use crate::encode::{Context, NO_PREVIOUS, length_bucket, previous_of};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};

/// What a stream needs to know of a packet, without the frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Key of the stream.
    pub key: StreamKey,
    /// Hash of the key by the hasher of the table.
    pub hash: u32,
    /// Time of the packet.
    pub timestamp: Nanos,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Direction of the packet within the key.
    pub direction: Direction,
    /// The interface that the packet came in by; `None` if that is not known.
    pub interface: Option<InterfaceId>,
    /// [`length_bucket`] of its payload.
    size: u8,
    /// TCP flags as [`TcpSignals`] has them; 0 for other packets.
    tcp: TcpSignals,
}

/// What a stream needs to know of a TCP header, in 16 bits: FIN, SYN, RST and ACK in the lower four, and in the upper twelve a hash of the
/// sequence number that the client's SYN has, if the segment is a SYN or an answer to one. Two connections of the same ports have the
/// same hash in one of 4,096 cases.
#[derive(Clone, Copy, Debug)]
struct TcpSignals(u16);

impl TcpSignals {
    const FIN: u16 = 1;
    const SYN: u16 = 2;
    const RST: u16 = 4;
    const ACK: u16 = 8;

    #[inline(always)]
    fn new(headers: &Headers, frame: &[u8]) -> Self {
        let flags = u16::from(headers.tcp_flags);
        let signals = flags & 7 | flags >> 1 & Self::ACK;
        if signals & Self::SYN == 0 {
            return Self(signals);
        }
        let word = |at: usize| frame.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_be_bytes);
        // RFC 9293: the sequence number is at offset 4. The answer acknowledges the next one, at offset 8.
        let at = usize::from(headers.transport_at);
        let client = if signals & Self::ACK == 0 { word(at + 4) } else { word(at + 8).wrapping_sub(1) };
        Self(signals | ((client ^ client >> 12 ^ client >> 24) << 4) as u16)
    }

    /// Whether it has exactly this one of SYN and ACK, or both.
    fn is(self, flags: u16) -> bool {
        self.0 & (Self::SYN | Self::ACK) == flags
    }

    /// The hash of the sequence number of the client's SYN; `None` unless the segment has SYN.
    fn client_sequence(self) -> Option<u16> {
        (self.0 & Self::SYN != 0).then_some(self.0 >> 4)
    }
}

/// Hash of a key, as stream tables and the distribution over shards use it: the upper half of the hasher's.
#[inline]
fn hash(hasher: &RandomState, key: &StreamKey) -> u32 {
    (hasher.hash_one(key) >> 32) as u32
}

impl Arrival {
    /// A packet of the stream `key`; `hasher` is the hasher of its table.
    #[inline(always)]
    pub fn new(key: StreamKey, hasher: &RandomState, direction: Direction, headers: &Headers, frame: &Frame<'_>) -> Self {
        let Frame { timestamp, wire_len, .. } = *frame;
        let size = length_bucket(headers.payload_wire_len);
        Self {
            key,
            hash: hash(hasher, &key),
            timestamp,
            wire_len,
            direction,
            interface: frame.interface,
            size,
            tcp: TcpSignals::new(headers, frame.bytes),
        }
    }

    /// Whether it opens a TCP connection: SYN without ACK.
    fn opens(&self) -> bool {
        self.tcp.is(TcpSignals::SYN)
    }

    /// 1 if it has the TCP flag FIN, else 0.
    fn closes(&self) -> u8 {
        u8::from(self.tcp.0 & TcpSignals::FIN != 0)
    }

    /// 1 if it has the TCP flag RST, else 0.
    fn resets(&self) -> u8 {
        u8::from(self.tcp.0 & TcpSignals::RST != 0)
    }

    /// The client's direction, if this is the first packet of a flow. The first packet of TCP comes from the server if it answers a SYN, and
    /// likely also if the connection was captured from the middle and the sender has the lower port. All other first packets come from
    /// the client.
    fn client(&self) -> Direction {
        let (source, destination) = match self.direction {
            Direction::Forward => (self.key.port_a(), self.key.port_b()),
            Direction::Backward => (self.key.port_b(), self.key.port_a()),
        };
        let answers = self.tcp.is(TcpSignals::SYN | TcpSignals::ACK);
        let from_server = self.key.ip_number() == Some(IpNumber::TCP) && (answers || !self.opens() && source < destination);
        match (self.direction, from_server) {
            (Direction::Forward, false) | (Direction::Backward, true) => Direction::Forward,
            _ => Direction::Backward,
        }
    }
}

/// Nanoseconds without a packet after which a SYN with another sequence number opens another connection, even if the last one was not
/// closed: the time after which systems send a SYN again (RFC 6298).
const RECONNECT_PAUSE: u64 = 1_000_000_000;

/// A number of packets in five bytes, as streams are many. It stops at 2^40 - 1, which takes twelve days at a million packets a second.
#[derive(Clone, Copy, Debug, Default)]
struct PacketCount([u8; 5]);

impl PacketCount {
    const MAX: u64 = (1 << 40) - 1;

    #[inline]
    fn get(self) -> u64 {
        let [a, b, c, d, high] = self.0;
        u64::from(high) << 32 | u64::from(u32::from_le_bytes([a, b, c, d]))
    }

    #[inline]
    fn add(&mut self, packets: u64) {
        let [a, b, c, d, high, ..] = (self.get() + packets).min(Self::MAX).to_le_bytes();
        self.0 = [a, b, c, d, high];
    }
}

/// A number of bytes in seven bytes. It stops at 2^56 - 1, which takes two months at 100 Gbit/s. The halves are read and written by
/// themselves: a processor can't forward a store to a load of another width.
#[derive(Clone, Copy, Debug, Default)]
struct ByteCount {
    low: [u8; 4],
    high: [u8; 3],
}

impl ByteCount {
    #[inline]
    fn get(self) -> u64 {
        let [a, b, c] = self.high;
        u64::from(u32::from_le_bytes([a, b, c, 0])) << 32 | u64::from(u32::from_le_bytes(self.low))
    }

    #[inline]
    fn add(&mut self, bytes: u32) {
        let (low, carry) = u32::from_le_bytes(self.low).overflowing_add(bytes);
        self.low = low.to_le_bytes();
        if carry {
            self.carry();
        }
    }

    #[cold]
    fn carry(&mut self) {
        let [a, b, c] = self.high;
        match u32::from_le_bytes([a, b, c, 0]) + 1 {
            0x0100_0000 => self.low = [0xff; 4],
            high => self.high.copy_from_slice(&high.to_le_bytes()[..3]),
        }
    }
}

/// One stream, with the state `T` that its user keeps for it.
#[derive(Debug)]
pub struct Stream<T> {
    /// Key of the stream.
    pub key: StreamKey,
    /// Number of its first packet in the source, from 0. Unique within a source and key.
    pub number: u64,
    /// Time of the first packet.
    pub first: Nanos,
    /// Latest time of a packet.
    pub last: Nanos,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far, on the wire and with the link header.
    pub bytes: u64,
    /// Packets so far in [`Stream::first_direction`].
    own_packets: PacketCount,
    /// Bytes so far in [`Stream::first_direction`].
    own_bytes: ByteCount,
    /// The interface of the first packet; `None` if that is not known.
    pub interface: Option<InterfaceId>,
    /// [`Context::previous`] of the next packet.
    previous: u8,
    /// Directions that have closed a TCP connection: bit 0 the first direction, bit 1 the other; both after a reset. Bit 2 is set if the
    /// sequence number of the client's SYN is known; the upper 4 bits of its hash are in bits 4 to 7. Bit 3 is set if the stream's own
    /// direction, of any protocol, is [`Direction::Backward`]: a byte of its own would make all records larger.
    tcp: u8,
    /// The lower 8 bits of the hash of the sequence number of the client's SYN ([`TcpSignals`]).
    sequence: u8,
    /// The state that the user of the table keeps.
    pub state: T,
}

impl<T> Stream<T> {
    fn open(packet: &Arrival, number: u64, state: T) -> Self {
        let Arrival { key, timestamp, .. } = *packet;
        let own = if key.kind() == KeyKind::Host { Direction::Forward } else { packet.client() };
        Self {
            key,
            number,
            first: timestamp,
            last: timestamp,
            packets: 0,
            bytes: 0,
            own_packets: PacketCount::default(),
            own_bytes: ByteCount::default(),
            interface: packet.interface,
            previous: NO_PREVIOUS,
            tcp: if own == Direction::Backward { Self::BACKWARD } else { 0 },
            sequence: 0,
            state,
        }
    }

    /// [`Stream::tcp`] of a connection that both sides have closed.
    const CLOSED: u8 = 3;
    /// Bit of [`Stream::tcp`]: the sequence number of the client's SYN is known.
    const SEQUENCE_KNOWN: u8 = 4;
    /// Bit of [`Stream::tcp`]: the stream's own direction is [`Direction::Backward`].
    const BACKWARD: u8 = 8;

    /// Direction that counts as the stream's own: that of a flow's client, or of the packets that a host sends.
    #[inline]
    pub fn first_direction(&self) -> Direction {
        if self.tcp & Self::BACKWARD == 0 { Direction::Forward } else { Direction::Backward }
    }

    /// Whether both sides have closed the TCP connection, or one has reset it.
    fn is_closed(&self) -> bool {
        self.tcp & Self::CLOSED == Self::CLOSED
    }

    /// Whether the packet opens another TCP connection than the stream's: a SYN that is not the stream's own, sent again or late, after the
    /// connection was closed or after a pause in it.
    fn is_followed_by(&self, packet: &Arrival) -> bool {
        if !packet.opens() {
            return false;
        }
        let own = u16::from(self.tcp >> 4) << 8 | u16::from(self.sequence);
        let same = self.tcp & Self::SEQUENCE_KNOWN != 0
            && packet.direction == self.first_direction()
            && packet.tcp.client_sequence() == Some(own);
        !same && (self.is_closed() || packet.timestamp.0.saturating_sub(self.last.0) > RECONNECT_PAUSE)
    }

    /// Packets so far in [`Stream::first_direction`].
    pub fn own_packets(&self) -> u64 {
        self.own_packets.get()
    }

    /// Bytes so far in [`Stream::first_direction`], on the wire and with the link header.
    pub fn own_bytes(&self) -> u64 {
        self.own_bytes.get()
    }

    /// Counts a packet; returns what the stream knew before it.
    #[inline]
    fn step(&mut self, packet: &Arrival) -> Context {
        let way = u8::from(packet.direction != self.first_direction());
        let context = Context { direction: way, position: self.packets.min(255) as u8, previous: self.previous };
        self.previous = previous_of(packet.size, way);
        self.packets += 1;
        self.bytes += u64::from(packet.wire_len);
        let own = u64::from(way ^ 1);
        self.own_packets.add(own);
        self.own_bytes.add(u32::from(way ^ 1) * packet.wire_len);
        self.last = self.last.max(packet.timestamp);
        self.tcp |= (packet.closes() << way) | (packet.resets() * Self::CLOSED);
        if self.tcp & Self::SEQUENCE_KNOWN == 0
            && let Some(sequence) = packet.tcp.client_sequence()
        {
            self.tcp |= Self::SEQUENCE_KNOWN | ((sequence >> 8) as u8) << 4;
            self.sequence = sequence as u8;
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_count_adds_over_all_its_bytes_and_stops_at_its_maximum() {
        let mut count = PacketCount::default();
        for (packets, want) in [(0, 0), (1, 1), (255, 256), (1 << 32, (1 << 32) + 256), (1 << 39, (1 << 39) + (1 << 32) + 256)] {
            count.add(packets);
            assert_eq!(count.get(), want);
        }
        count.add(1 << 39);
        count.add(1);
        assert_eq!(count.get(), PacketCount::MAX);
    }

    #[test]
    fn a_byte_count_carries_and_stops_at_its_maximum() {
        let mut count = ByteCount::default();
        for wanted in [0, 0xffff_ffff, 0x1_ffff_fffe, 0x2_ffff_fffd] {
            assert_eq!(count.get(), wanted);
            count.add(u32::MAX);
        }
        let mut count = ByteCount { low: [0xff; 4], high: [0xff, 0xff, 0xff] };
        count.add(7);
        assert_eq!(count.get(), (1 << 56) - 1);
        let mut count = ByteCount { low: [0xff; 4], high: [0xff, 0xff, 0] };
        count.add(7);
        assert_eq!(count.get(), (1 << 48) + 6);
    }
}
