//! What do we know of this stream so far?
//!
//! Input: which stream each packet belongs to. Output: the packet's [`Context`] and the stream's state. Time comes from the packets.

mod decision;
mod table;

pub use decision::{Decision, FEATURES, Leader};
pub use table::{Ended, Limits, Seen, StreamTable, Swept};

use crate::capture::{Frame, Nanos};
use crate::encode::{Context, NO_PREVIOUS, previous_of};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};

/// One stream and what `T` its user keeps of it.
#[derive(Debug)]
pub struct Stream<T> {
    pub key: StreamKey,
    /// Number of its first packet, from 0: first-seen order, and unique within a capture and key.
    pub number: u64,
    pub first: Nanos,
    pub last: Nanos,
    pub packets: u64,
    /// Octets on the wire, link header included.
    pub bytes: u64,
    /// Direction that counts as the stream's own: of a flow's first packet; a host's sending.
    pub first_direction: Direction,
    previous: u8,
    /// Who has closed a TCP connection: bit 0 the first direction, bit 1 the other, both after a reset.
    closed: u8,
    pub state: T,
}

impl<T> Stream<T> {
    fn open(key: StreamKey, direction: Direction, frame: &Frame<'_>, number: u64, state: T) -> Self {
        Self {
            key,
            number,
            first: frame.timestamp,
            last: frame.timestamp,
            packets: 0,
            bytes: 0,
            first_direction: if key.kind() == KeyKind::Host { Direction::Forward } else { direction },
            previous: NO_PREVIOUS,
            closed: 0,
            state,
        }
    }

    /// Counts a packet; returns what was known of the stream before it.
    #[inline]
    fn step(&mut self, headers: &Headers, frame: &Frame<'_>, direction: Direction) -> Context {
        let way = u8::from(direction != self.first_direction);
        let context = Context { direction: way, position: self.packets.min(255) as u8, previous: self.previous };
        self.previous = previous_of(headers, way);
        self.packets += 1;
        self.bytes += u64::from(frame.wire_len);
        self.last = self.last.max(frame.timestamp);
        self.closed |= (headers.tcp_closes(frame.bytes) << way) | (headers.tcp_resets(frame.bytes) * 3);
        context
    }
}
