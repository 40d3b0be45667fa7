//! What is a neuron shown that learns from one packet? Packets that a user points at in a capture, with what their stream knew.

use std::ops::ControlFlow;

use crate::capture::{CaptureError, Filter, Source};
use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::packet::{Decoder, KeyKind};
use crate::snn::OneShot;
use crate::stream::{StreamLimits, StreamTracker};

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
    let mut tracker = StreamTracker::new(key, decoder, StreamLimits::default());
    let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
    let (mut found, mut more, mut chosen) = (Vec::new(), 0, None);
    tracker.visit(
        source,
        |_| (),
        |packet| {
            let (key, number) = (packet.stream.key, packet.number + 1);
            let wanted = match pointed {
                PacketSelection::Packets(numbers) => numbers.contains(&number),
                PacketSelection::Stream(text) => {
                    if chosen.is_none() && StreamName::of(&key).to_string().contains(text.as_str()) {
                        chosen = Some(key);
                    }
                    chosen == Some(key)
                }
                PacketSelection::Admitted(filter) => filter.admits(packet.frame.link, packet.frame.bytes),
            };
            if !wanted {
                return ControlFlow::Continue(());
            }
            if found.len() == OneShot::MOST {
                more += 1;
                return ControlFlow::Continue(());
            }
            packet.encode(layout, &mut volley);
            let n = layout.inputs(&volley, &mut active);
            let inputs = active[..n].to_vec();
            found.push(Pattern { packet: number, stream: StreamName::of(&key), volley, inputs });
            ControlFlow::Continue(())
        },
    )?;
    Ok((found, more))
}
