//! Traces of the streams of a capture: the volleys of each stream up to its decision, and its evidence.

use std::ops::ControlFlow;

use crate::capture::{CaptureError, Nanos, Source};
use crate::encode::Volley;
use crate::model::{Model, StreamEvidence};
use crate::stream::{Intake, Leader, StreamLimits, StreamTracker};
use crate::train::labels::StreamName;

/// One scored packet.
#[derive(Clone)]
pub struct TracePacket {
    /// Number of its frame in the capture, from 1.
    pub number: u64,
    /// Time of the packet.
    pub time: Nanos,
    /// Its slot values.
    pub volley: Volley,
}

/// One stream with its packets up to its decision.
pub struct StreamTrace {
    /// Name of the stream.
    pub name: StreamName,
    /// Number of packets of the stream, including those after the decision.
    pub packets: u64,
    /// The packets that were scored, in order.
    pub scored: Vec<TracePacket>,
    /// Sum of margins, `[class]`.
    pub evidence: Vec<f32>,
    /// The leading class when scoring stopped.
    pub leader: Option<Leader>,
}

impl StreamTrace {
    /// The packets that the evidence comes from: those before the first packet with content are left out, as the evidence leaves them out.
    pub fn counted(&self) -> &[TracePacket] {
        let counted = self.leader.map_or(0, |leader| leader.packets() as usize);
        &self.scored[self.scored.len().saturating_sub(counted)..]
    }
}

/// The packets and the evidence of a stream that is being read.
struct OpenTrace {
    scored: Vec<TracePacket>,
    evidence: StreamEvidence,
}

/// Reads a source to its end, or until `most` packets are scored. Streams end as in the engine with its default limits. They are returned in
/// the order of their first packets.
///
/// # Errors
/// If the source cannot be read.
pub fn trace_streams(
    model: &Model,
    source: &mut dyn Source,
    intake: &Intake,
    most: usize,
) -> Result<Vec<StreamTrace>, CaptureError> {
    let mut tracker = StreamTracker::new(model.key, intake, StreamLimits::default()).with_traces(model.layout.traces());
    let (mut classifier, width) = (model.classifier(), model.layout.slots().len());
    let undecided = classifier.new_stream();
    let open = |_: &_| OpenTrace { scored: Vec::new(), evidence: undecided.clone() };
    let mut count = 0;
    tracker.visit(source, open, |packet| {
        if packet.stream.state.evidence.leader.is_some_and(|leader| model.decision.settled(&leader).is_some()) {
            return ControlFlow::Continue(());
        }
        let mut volley = Volley::default();
        packet.encode(&model.layout, &mut volley);
        let OpenTrace { scored, evidence } = &mut packet.stream.state;
        if !classifier.observe(&volley.slots[..width], volley.content, evidence) {
            return ControlFlow::Continue(());
        }
        scored.push(TracePacket { number: packet.number + 1, time: packet.frame.timestamp, volley });
        count += 1;
        if count >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let streams = tracker.finish().into_iter().map(|s| StreamTrace {
        name: StreamName::of(&s.key),
        packets: s.packets,
        scored: s.state.scored,
        evidence: s.state.evidence.sums,
        leader: s.state.evidence.leader,
    });
    Ok(streams.collect())
}
