//! Streams: what is known of each one so far, its evidence and its class.
//!
//! Input: packets with the key of their stream, and the potentials of a network. Output: each packet's [`Context`], and the stream's
//! [`Leader`] and class. Time is the time of the packets.

mod assignments;
mod basis;
mod decision;
mod evidence;
mod leader;
mod table;
mod tracker;

pub use assignments::{AssignmentError, Assignments};
pub use basis::{Basis, UnknownReason};
pub use decision::Decision;
pub use leader::{FEATURES, Leader};
pub use table::{EndReason, PacketPlace, StreamIndex, StreamLimits, StreamTable, SweptStream};
pub use tracker::{StreamTracker, TrackedPacket};

use std::hash::BuildHasher;

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
    /// The live interface that the packet came in by; `None` for captures.
    pub interface: Option<InterfaceId>,
    /// [`length_bucket`] of its payload.
    size: u8,
    /// Low byte of the TCP flags; 0 for other packets.
    tcp_flags: u8,
}

/// Hash of a key, as stream tables and the distribution over shards use it: the upper half of the hasher's.
#[inline]
fn hash(hasher: &RandomState, key: &StreamKey) -> u32 {
    (hasher.hash_one(key) >> 32) as u32
}

impl Arrival {
    /// A packet of the stream `key`; `hasher` is the hasher of its table.
    #[inline]
    pub fn new(key: StreamKey, hasher: &RandomState, direction: Direction, headers: &Headers, frame: &Frame<'_>) -> Self {
        let Frame { timestamp, wire_len, .. } = *frame;
        let size = length_bucket(headers.payload_wire_len);
        Self {
            key,
            hash: hash(hasher, &key),
            timestamp,
            wire_len,
            direction,
            interface: None,
            size,
            tcp_flags: headers.tcp_flags,
        }
    }

    /// Whether it opens a TCP connection: SYN without ACK.
    fn opens(&self) -> bool {
        self.tcp_flags & 0b1_0010 == 0b10
    }

    /// 1 if it has the TCP flag FIN, else 0.
    fn closes(&self) -> u8 {
        self.tcp_flags & 1
    }

    /// 1 if it has the TCP flag RST, else 0.
    fn resets(&self) -> u8 {
        self.tcp_flags >> 2 & 1
    }
}

/// One stream, with the state `T` that its user keeps for it.
///
/// Aligned to cache lines: the engine's record is two of them, and would lie in three if it began anywhere.
#[derive(Debug)]
#[repr(align(64))]
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
    /// Packets so far in `first_direction`.
    pub own_packets: u64,
    /// Bytes so far in `first_direction`.
    pub own_bytes: u64,
    /// Direction that counts as the stream's own: that of a flow's first packet, or of the packets that a host sends.
    pub first_direction: Direction,
    /// The live interface of the first packet; `None` for captures.
    pub interface: Option<InterfaceId>,
    /// [`Context::previous`] of the next packet.
    previous: u8,
    /// Directions that have closed a TCP connection: bit 0 the first direction, bit 1 the other; both after a reset.
    closed: u8,
    /// The state that the user of the table keeps.
    pub state: T,
}

impl<T> Stream<T> {
    fn open(packet: &Arrival, number: u64, state: T) -> Self {
        let Arrival { key, timestamp, direction, .. } = *packet;
        Self {
            key,
            number,
            first: timestamp,
            last: timestamp,
            packets: 0,
            bytes: 0,
            own_packets: 0,
            own_bytes: 0,
            first_direction: if key.kind() == KeyKind::Host { Direction::Forward } else { direction },
            interface: packet.interface,
            previous: NO_PREVIOUS,
            closed: 0,
            state,
        }
    }

    /// Counts a packet; returns what the stream knew before it.
    #[inline]
    fn step(&mut self, packet: &Arrival) -> Context {
        let way = u8::from(packet.direction != self.first_direction);
        let context = Context { direction: way, position: self.packets.min(255) as u8, previous: self.previous };
        self.previous = previous_of(packet.size, way);
        self.packets += 1;
        self.bytes += u64::from(packet.wire_len);
        let own = u64::from(way ^ 1);
        self.own_packets += own;
        self.own_bytes += own * u64::from(packet.wire_len);
        self.last = self.last.max(packet.timestamp);
        self.closed |= (packet.closes() << way) | (packet.resets() * 3);
        context
    }
}
