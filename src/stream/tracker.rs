//! Stream tracking of a source that is read in one thread: every packet with its stream, its position and its context.
//!
//! Input: a [`Source`], an [`Intake`] and the kind of key. Output: one [`TrackedPacket`] per packet and stream for a visitor, and the
//! streams at the end. Training, one-packet learning, evaluation, `spiked features` and the report read captures through it. The engine
//! does the same in batches over several workers; the test `engine_and_tracker_see_the_same_packets` compares the two.
//!
//! It is in this folder because it needs `capture`, `packet` and `encode`, which come before `stream`, and neither networks nor labels.

use std::ops::ControlFlow;

use crate::capture::{CaptureError, Frame, FrameBatch, Source};
use crate::encode::{Context, Layout, Volley};
use crate::packet::{Headers, KeyKind, StreamKey};

use super::{FragmentTable, Intake, Stream, StreamLimits, StreamTable, is_fragment};
use crate::trace::{TraceTable, TraceValues};

/// One packet of one stream.
#[derive(Debug)]
pub struct TrackedPacket<'a, T> {
    /// Number of the frame in the source, from 0. With [`KeyKind::Host`] a frame is a packet of two streams; one of a tunnel has packets of the
    /// streams of the tunnel too, which come first.
    pub number: u64,
    /// The frame.
    pub frame: Frame<'a>,
    /// The packet's headers.
    pub headers: &'a Headers,
    /// Whether it is the innermost packet of its frame: no tunnel, or what the innermost tunnel carries.
    pub innermost: bool,
    /// What the stream knew before this packet.
    pub context: Context,
    /// Traces of the flow's hosts, if the tracker has them.
    pub traces: TraceValues,
    /// The stream, with this packet counted.
    pub stream: &'a mut Stream<T>,
}

impl<T> TrackedPacket<'_, T> {
    /// Writes the packet's slot values, one per slot of `layout`, into `volley`.
    pub fn encode(&self, layout: &Layout, volley: &mut Volley) {
        layout.encode(self.headers, self.frame.bytes, self.context, &self.traces, volley);
    }
}

/// Streams of a source, each with a `T` that its user keeps for it.
pub struct StreamTracker<T> {
    key: KeyKind,
    intake: Intake,
    table: StreamTable<T>,
    traces: Option<TraceTable>,
    /// Frames read so far.
    frames: u64,
    ended: Vec<Stream<T>>,
    fragments: FragmentTable,
}

impl<T> StreamTracker<T> {
    /// Streams of the kind `key` within `limits`, which apply to that kind as in the engine ([`StreamLimits::for_key`]).
    pub fn new(key: KeyKind, intake: &Intake, limits: StreamLimits) -> Self {
        let table = StreamTable::new(limits.for_key(key), foldhash::fast::RandomState::default());
        Self { key, intake: *intake, table, traces: None, frames: 0, ended: Vec::new(), fragments: FragmentTable::default() }
    }

    /// The tracker with traces of the hosts.
    #[must_use]
    pub fn with_traces(self, traces: Option<TraceTable>) -> Self {
        let traces = traces.map(|table| table.by_vlan(self.intake.vlan_in_key));
        Self { traces, ..self }
    }

    /// Reads `source` to its end, or until `visit` breaks. `open` makes the state of a stream from its key when its first packet
    /// arrives. A frame that cannot be decoded is numbered and skipped.
    ///
    /// # Errors
    /// If the source cannot be read any further.
    pub fn visit(
        &mut self,
        source: &mut dyn Source,
        mut open: impl FnMut(&StreamKey) -> T,
        mut visit: impl FnMut(TrackedPacket<'_, T>) -> ControlFlow<()>,
    ) -> Result<(), CaptureError> {
        let mut batch = FrameBatch::new();
        while source.fill(&mut batch)? {
            for frame in batch.iter() {
                if self.frame(frame, &mut open, &mut visit).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn frame(
        &mut self,
        frame: Frame<'_>,
        open: &mut impl FnMut(&StreamKey) -> T,
        visit: &mut impl FnMut(TrackedPacket<'_, T>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Self { key: kind, intake, table, traces, frames, ended, fragments } = self;
        let number = *frames;
        *frames += 1;
        let mut packets = intake.decoder.decode_all(frame.link, frame.bytes).peekable();
        while let Some(headers) = packets.next() {
            let innermost = packets.peek().is_none();
            let traces = traces.as_mut().map_or(TraceValues::NONE, |t| t.observe(&headers, frame.bytes, frame.timestamp));
            for (key, direction) in StreamKey::of(*kind, &headers, frame.bytes).into_iter().flatten() {
                let (key, direction) = match kind {
                    KeyKind::Flow if is_fragment(&headers, frame.bytes) => {
                        fragments.stream(key, direction, &headers, &frame).unwrap_or((key, direction))
                    }
                    _ => (key, direction),
                };
                let key = intake.key(key, frame.interface);
                let arrival = table.arrival(key, direction, &headers, &frame);
                let place = table.packet(&arrival, number, |_| true, || open(&key));
                ended.extend(place.ended.map(|(stream, _)| stream));
                let stream = table.get_mut(place.at);
                visit(TrackedPacket { number, frame, headers: &headers, innermost, context: place.context, traces, stream })?;
            }
        }
        ControlFlow::Continue(())
    }

    /// All streams, ended or not, in the order of their first packets.
    pub fn finish(mut self) -> Vec<Stream<T>> {
        let mut streams = self.ended;
        streams.append(&mut self.table.take());
        // Stable: the streams of one frame stay in the order outermost first, sender before receiver.
        streams.sort_by_key(|stream| stream.number);
        streams
    }
}
