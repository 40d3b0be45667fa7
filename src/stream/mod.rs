//! What do we know of this stream so far?
//!
//! Input: decoded packets. Output: each packet's [`Context`] and its stream's state. Time comes from the packets.

mod decision;

pub use decision::{Decision, Evidence, FEATURES, Leader};

use hashbrown::HashMap;

use crate::capture::{Frame, Nanos};
use crate::encode::{Context, NO_PREVIOUS, previous_of};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};

/// One stream and what `T` its user keeps of it.
#[derive(Debug)]
pub struct Stream<T> {
    pub key: StreamKey,
    /// First-seen order, from 0.
    pub number: u64,
    /// Direction of the first packet: whether the key's first endpoint sent it.
    pub first_direction: Direction,
    pub first: Nanos,
    pub last: Nanos,
    pub packets: u64,
    /// Octets on the wire, link header included.
    pub bytes: u64,
    previous: u8,
    pub state: T,
}

/// The streams of one key kind. Chosen addresses can't be made to collide: hashing is seeded by the process.
#[derive(Debug)]
pub struct Streams<T> {
    kind: KeyKind,
    index: HashMap<StreamKey, usize, foldhash::fast::RandomState>,
    streams: Vec<Stream<T>>,
}

impl<T> Streams<T> {
    pub fn new(kind: KeyKind) -> Self {
        Self { kind, index: HashMap::default(), streams: Vec::new() }
    }

    /// Files a packet under its stream (for hosts: its sender's and its receiver's) and hands each to `visit` with the packet's context.
    #[inline]
    pub fn packet(
        &mut self,
        headers: &Headers,
        frame: &Frame<'_>,
        mut open: impl FnMut(&StreamKey) -> T,
        mut visit: impl FnMut(&mut Stream<T>, Context),
    ) {
        match self.kind {
            KeyKind::Flow => {
                let (key, direction) = StreamKey::flow(headers, frame.bytes);
                let stream = self.entry(key, direction, frame, &mut open);
                let way = u8::from(direction != stream.first_direction);
                step(stream, headers, frame, way, &mut visit);
            }
            KeyKind::Host => {
                for (way, key) in (0u8..).zip(StreamKey::hosts(headers, frame.bytes)) {
                    if let Some(key) = key {
                        let direction = if way == 0 { Direction::Forward } else { Direction::Backward };
                        let stream = self.entry(key, direction, frame, &mut open);
                        step(stream, headers, frame, way, &mut visit);
                    }
                }
            }
        }
    }

    fn entry(&mut self, key: StreamKey, direction: Direction, frame: &Frame<'_>, open: &mut impl FnMut(&StreamKey) -> T) -> &mut Stream<T> {
        let next = self.streams.len();
        let at = *self.index.entry(key).or_insert(next);
        if at == next {
            self.streams.push(Stream {
                key,
                number: next as u64,
                first_direction: direction,
                first: frame.timestamp,
                last: frame.timestamp,
                packets: 0,
                bytes: 0,
                previous: NO_PREVIOUS,
                state: open(&key),
            });
        }
        &mut self.streams[at]
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Ends all streams, in the order in which they were first seen.
    pub fn into_ended(self) -> Vec<Stream<T>> {
        self.streams
    }
}

#[inline]
fn step<T>(stream: &mut Stream<T>, headers: &Headers, frame: &Frame<'_>, way: u8, visit: &mut impl FnMut(&mut Stream<T>, Context)) {
    let context = Context { direction: way, position: stream.packets.min(255) as u8, previous: stream.previous };
    stream.previous = previous_of(headers, way);
    stream.packets += 1;
    stream.bytes += u64::from(frame.wire_len);
    stream.last = stream.last.max(frame.timestamp);
    visit(stream, context);
}
