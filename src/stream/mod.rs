//! What do we know of this stream so far?
//!
//! Input: which stream each packet belongs to. Output: the packet's [`Context`] and the stream's state. Time comes from the packets.

mod assignments;
mod basis;
mod decision;
mod table;
mod tracker;

pub use assignments::{AssignmentError, Assignments};
pub use basis::{Basis, UnknownReason};
pub use decision::{Decision, FEATURES, Leader};
pub use table::{EndReason, PacketPlace, StreamIndex, StreamLimits, StreamTable, SweptStream};
pub use tracker::{StreamTracker, TrackedPacket};

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::capture::{Frame, InterfaceId, Nanos};
use crate::encode::{Context, NO_PREVIOUS, length_bucket, previous_of};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};

/// A packet as its stream is told of it: no octet of the frame is needed any more.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub key: StreamKey,
    /// Of the key, by the hasher of the table.
    pub hash: u32,
    pub timestamp: Nanos,
    /// Octets on the wire.
    pub wire_len: u32,
    pub direction: Direction,
    /// The live interface that the packet came in by; `None` for captures.
    pub interface: Option<InterfaceId>,
    /// [`length_bucket`] of its payload.
    size: u8,
    tcp_flags: u8,
}

/// What tables and those who share streams out know of a key's hash: its upper half.
#[inline]
fn hash(hasher: &RandomState, key: &StreamKey) -> u32 {
    (hasher.hash_one(key) >> 32) as u32
}

impl Arrival {
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

    /// Whether it asks for a TCP connection: SYN without ACK.
    fn opens(&self) -> bool {
        self.tcp_flags & 0b1_0010 == 0b10
    }

    /// 1 where it carries a TCP FIN.
    fn closes(&self) -> u8 {
        self.tcp_flags & 1
    }

    /// 1 where it is a TCP reset.
    fn resets(&self) -> u8 {
        self.tcp_flags >> 2 & 1
    }
}

/// One stream and what `T` its user keeps of it.
///
/// Aligned to cache lines: the engine's record is two of them, and would lie in three if it began anywhere.
#[derive(Debug)]
#[repr(align(64))]
pub struct Stream<T> {
    pub key: StreamKey,
    /// Number of its first packet, from 0: first-seen order, and unique within a capture and key.
    pub number: u64,
    pub first: Nanos,
    pub last: Nanos,
    pub packets: u64,
    /// Octets on the wire, link header included.
    pub bytes: u64,
    /// Those of the packets and bytes that went in `first_direction`.
    pub own_packets: u64,
    pub own_bytes: u64,
    /// Direction that counts as the stream's own: of a flow's first packet; a host's sending.
    pub first_direction: Direction,
    /// The live interface that its first packet came in by; `None` for captures.
    pub interface: Option<InterfaceId>,
    previous: u8,
    /// Who has closed a TCP connection: bit 0 the first direction, bit 1 the other, both after a reset.
    closed: u8,
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

    /// Counts a packet; returns what was known of the stream before it.
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
