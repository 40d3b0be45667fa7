//! Patterns for one-shot learning: packets selected in a capture, encoded with the context of their streams.

use std::ops::ControlFlow;

use crate::capture::{CaptureError, Filter, Source};
use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::packet::{Decoder, KeyKind};
use crate::snn::OneShot;
use crate::stream::{StreamLimits, StreamTracker};

use super::labels::StreamName;

/// Slots masked for one-shot neurons by default: their values differ between hosts and between messages, which one packet can't show
/// (`benches/one_packet.rs` measures with and without the mask).
pub const DEFAULT_MASK: [&str; 5] = ["ttl", "options", "tcp.window", "length", "stream.previous"];

/// Default tolerance: the factor by which the neuron fires more easily than the patterns require.
pub const TOLERANCE: f32 = 3.0;

/// Selection of packets in a capture.
pub enum PacketSelection {
    /// Numbers in the capture, from 1.
    Packets(Vec<u64>),
    /// The first stream whose name contains this text.
    Stream(String),
    /// Packets that match a BPF filter.
    Matching(Filter),
}

/// A selected packet.
pub struct Pattern {
    /// Number in the capture, from 1.
    pub packet: u64,
    /// Name of the stream.
    pub stream: StreamName,
    /// Slot values of the packet.
    pub volley: Volley,
    /// Indices of its active inputs.
    pub inputs: Vec<u32>,
}

/// The selected packets, at most [`OneShot::MOST`], and the number of selected packets beyond that.
///
/// # Errors
/// The capture can't be read.
pub fn patterns(
    source: &mut dyn Source,
    key: KeyKind,
    layout: &Layout,
    decoder: &Decoder,
    selection: &mut PacketSelection,
) -> Result<(Vec<Pattern>, usize), CaptureError> {
    let mut tracker = StreamTracker::new(key, decoder, StreamLimits::default()).with_traces(layout.traces());
    let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
    let (mut found, mut more, mut chosen) = (Vec::new(), 0, None);
    tracker.visit(
        source,
        |_| (),
        |packet| {
            let (key, number) = (packet.stream.key, packet.number + 1);
            let wanted = match selection {
                PacketSelection::Packets(numbers) => numbers.contains(&number),
                PacketSelection::Stream(text) => {
                    if chosen.is_none() && StreamName::of(&key).to_string().contains(text.as_str()) {
                        chosen = Some(key);
                    }
                    chosen == Some(key)
                }
                PacketSelection::Matching(filter) => filter.admits(packet.frame.link, packet.frame.bytes),
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
