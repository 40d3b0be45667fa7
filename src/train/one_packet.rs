//! What is a neuron shown that learns from one packet? Packets that a user points at in a capture, with what their stream knew.

use crate::capture::{CaptureError, Filter, FrameBatch, Source};
use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::packet::{Decoder, KeyKind, StreamKey};
use crate::snn::OneShot;
use crate::stream::{StreamLimits, StreamTable};

use super::labels::StreamName;

/// Slots that a one-shot neuron does not look at unless told otherwise: they differ from host to host and from message to
/// message, and one packet can't show that (`benches/one_packet.rs` has figures with and without).
pub const WITHOUT: [&str; 5] = ["ttl", "options", "tcp.window", "length", "stream.previous"];

/// Factor by which the neuron is made to fire more easily than what it was shown needs.
pub const TOLERANCE: f32 = 3.0;

/// The packets pointed at.
pub enum PacketSelection {
    /// By number in the capture, from 1.
    Packets(Vec<u64>),
    /// The first stream whose description holds this text.
    Stream(String),
    /// Those that a BPF expression admits.
    Admitted(Filter),
}

/// One of them.
pub struct Pattern {
    pub packet: u64,
    pub stream: StreamName,
    pub volley: Volley,
    /// Its active inputs.
    pub inputs: Vec<u32>,
}

/// The packets pointed at, at most [`OneShot::MOST`], and how many more there were.
///
/// # Errors
/// Where the capture can't be read.
pub fn patterns(
    source: &mut dyn Source,
    key: KeyKind,
    layout: &Layout,
    decoder: &Decoder,
    pointed: &mut PacketSelection,
) -> Result<(Vec<Pattern>, usize), CaptureError> {
    let mut table: StreamTable<()> = StreamTable::new(StreamLimits::NONE, foldhash::fast::RandomState::default());
    let (mut batch, mut volley, mut active) = (FrameBatch::new(), Volley::default(), [0; MAX_ACTIVE]);
    let (mut found, mut more, mut number, mut chosen) = (Vec::new(), 0, 0, None);
    while source.fill(&mut batch)? {
        for frame in batch.iter() {
            number += 1;
            let Ok(headers) = decoder.decode(frame.link.0, frame.bytes) else { continue };
            for (key, direction) in StreamKey::of(key, &headers, frame.bytes).into_iter().flatten() {
                let seen = table.packet(&table.arrival(key, direction, &headers, &frame), number, |_| true, || ());
                let wanted = match pointed {
                    PacketSelection::Packets(numbers) => numbers.contains(&number),
                    PacketSelection::Stream(text) => {
                        if chosen.is_none() && StreamName::of(&key).to_string().contains(text.as_str()) {
                            chosen = Some(key);
                        }
                        chosen == Some(key)
                    }
                    PacketSelection::Admitted(filter) => filter.admits(frame.link, frame.bytes),
                };
                if !wanted {
                    continue;
                }
                if found.len() == OneShot::MOST {
                    more += 1;
                    continue;
                }
                layout.encode(&headers, frame.bytes, seen.context, &mut volley);
                let n = layout.inputs(&volley, &mut active);
                found.push(Pattern { packet: number, stream: StreamName::of(&key), volley, inputs: active[..n].to_vec() });
            }
        }
    }
    Ok((found, more))
}
