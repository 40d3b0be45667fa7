//! What did the network hear while a capture was read? Every stream's volleys up to its decision.

use crate::capture::{CaptureError, FrameBatch, Nanos, Source};
use crate::encode::{MAX_ACTIVE, Volley};
use crate::model::Model;
use crate::packet::{Decoder, StreamKey};
use crate::stream::{Leader, StreamLimits, StreamTable};
use crate::train::labels::StreamName;

/// One packet as the network heard it.
#[derive(Clone)]
pub struct TracePacket {
    /// Number of its frame in the capture, from 1.
    pub number: u64,
    pub time: Nanos,
    pub volley: Volley,
}

/// One stream, and its packets until it was decided.
pub struct StreamTrace {
    pub name: StreamName,
    /// All packets of the stream, those after the decision too.
    pub packets: u64,
    pub heard: Vec<TracePacket>,
    pub evidence: Vec<f32>,
    /// Who led at the end.
    pub leader: Option<Leader>,
}

/// What is kept of an open stream.
struct Open {
    heard: Vec<TracePacket>,
    evidence: Vec<f32>,
    leader: Option<Leader>,
}

/// Reads a source to its end, or until `most` packets were heard. Streams come in the order of their first packets.
///
/// # Errors
/// Where the source can't be read.
pub fn hear(model: &Model, source: &mut dyn Source, decoder: &Decoder, most: usize) -> Result<Vec<StreamTrace>, CaptureError> {
    let mut table: StreamTable<Open> = StreamTable::new(StreamLimits::NONE, foldhash::fast::RandomState::default());
    let (mut batch, mut buffer, mut active) = (FrameBatch::new(), model.network.buffer(), [0; MAX_ACTIVE]);
    let (mut number, mut count) = (0, 0);
    let classes = model.classes.len();
    'reading: while source.fill(&mut batch)? {
        for frame in batch.iter() {
            number += 1;
            let Ok(headers) = decoder.decode(frame.link.0, frame.bytes) else { continue };
            for (key, direction) in StreamKey::of(model.key, &headers, frame.bytes).into_iter().flatten() {
                let open = || Open { evidence: vec![0.0; classes], heard: Vec::new(), leader: None };
                let seen = table.packet(&table.arrival(key, direction, &headers, &frame), number, |_| true, open);
                let state = &mut table.get_mut(seen.at).state;
                if state.leader.is_some_and(|l| model.decision.settled(&l)) {
                    continue;
                }
                let mut volley = Volley::default();
                model.layout.encode(&headers, frame.bytes, seen.context, &mut volley);
                let n = model.layout.inputs(&volley, &mut active);
                model.network.potentials(&active[..n], &mut buffer);
                state.heard.push(TracePacket { number, time: frame.timestamp, volley });
                state.leader = model.decision.hear(&model.network, &buffer, &mut state.evidence, state.leader.as_ref());
                count += 1;
                if count >= most {
                    break 'reading;
                }
            }
        }
    }
    let streams = table.take().into_iter().map(|s| StreamTrace {
        name: StreamName::of(&s.key),
        packets: s.packets,
        heard: s.state.heard,
        evidence: s.state.evidence,
        leader: s.state.leader,
    });
    Ok(streams.collect())
}
