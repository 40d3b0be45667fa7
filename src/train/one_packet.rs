//! Patterns for one-shot learning: packets selected in a capture, encoded with the context of their streams.
//!
//! A packet without content (a SYN, an acknowledgement) looks like that of any other protocol, so a stream or a filter selects the first
//! packets with content in each direction only.

use std::ops::ControlFlow;

use crate::capture::{CaptureError, Filter, Source};
use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::packet::{KeyKind, StreamKey};
use crate::stream::{Intake, StreamLimits, StreamTracker};

use super::corpus::FlowStart;
use super::labels::StreamName;

/// Slots masked for one-shot neurons by default: their values differ between hosts and between messages, which one packet can't show
/// (`benches/one_packet.rs` measures with and without the mask).
pub const DEFAULT_MASK: [&str; 5] = ["ttl", "options", "tcp.window", "length", "stream.previous"];

/// Default tolerance: the factor by which the neuron fires more easily than the patterns require.
pub const TOLERANCE: f32 = 3.0;

/// Packets that a stream or a filter selects of each direction of a stream.
const PACKETS_PER_DIRECTION: u8 = 2;

/// Largest number of patterns, so that the check of each takes a bounded time.
pub const MAX_PATTERNS: usize = 256;

/// Selection of packets in a capture.
pub enum PacketSelection {
    /// Numbers in the capture, from 1; of the frame of a tunnel the innermost packet.
    Packets(Vec<u64>),
    /// The first packets with content, in each direction, of the first stream whose name has the words of this text ([`StreamName::matches`]).
    Stream(String),
    /// The first packets with content, in each direction, of the streams of this key.
    Key(StreamKey),
    /// The first packets with content, in each direction, of all streams that match a BPF filter; of the frame of a tunnel the innermost packet.
    Matching(Filter),
}

/// A selected packet.
pub struct Pattern {
    /// Number in the capture, from 1.
    pub packet: u64,
    /// Name of the stream.
    pub stream: StreamName,
    /// Whether the packet has content ([`Volley::content`]).
    pub content: bool,
    /// Slot values of the packet.
    pub volley: Volley,
    /// Indices of its active inputs.
    pub inputs: Vec<u32>,
}

/// The packets that [`patterns`] found.
#[derive(Default)]
pub struct SelectedPackets {
    /// The selected packets, at most [`MAX_PATTERNS`].
    pub patterns: Vec<Pattern>,
    /// Number of selected packets beyond that.
    pub more: usize,
    /// Selected packets without content that a stream or a filter left out.
    pub empty: usize,
    /// Numbers of the first packets with content of the streams of packets without content.
    pub instead: Vec<u64>,
    /// Begin of the flows of the selected packets.
    pub flows: Vec<FlowStart>,
}

/// What is known of a stream while the capture is read.
#[derive(Default)]
struct OpenStream {
    /// Packets that a stream or a filter selected, by direction.
    selected: [u8; 2],
    /// Whether a packet without content was selected, and none with content has followed.
    wants_content: bool,
    /// Whether a packet of it was selected.
    is_counted: bool,
}

/// The selected packets of a capture. With `any`, packets without content are selected like others.
///
/// # Errors
/// The capture can't be read.
pub fn patterns(
    source: &mut dyn Source,
    key: KeyKind,
    layout: &Layout,
    intake: &Intake,
    selection: &mut PacketSelection,
    any: bool,
) -> Result<SelectedPackets, CaptureError> {
    let mut tracker = StreamTracker::new(key, intake, StreamLimits::default()).with_traces(layout.traces());
    let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
    let (mut found, mut chosen) = (SelectedPackets::default(), None);
    tracker.visit(
        source,
        |_| OpenStream::default(),
        |packet| {
            let (key, number, direction) = (packet.stream.key, packet.number + 1, usize::from(packet.context.direction & 1));
            let by_number = matches!(selection, PacketSelection::Packets(_));
            let wanted = match selection {
                PacketSelection::Packets(numbers) => packet.innermost && numbers.contains(&number),
                PacketSelection::Stream(text) => is_chosen(&mut chosen, key, text),
                PacketSelection::Key(wanted) => *wanted == key,
                PacketSelection::Matching(filter) => packet.innermost && filter.admits(packet.frame.link, packet.frame.bytes),
            };
            let stream = &mut packet.stream.state;
            if !wanted && !stream.wants_content {
                return ControlFlow::Continue(());
            }
            layout.encode(packet.headers, packet.frame.bytes, packet.context, &packet.traces, &mut volley);
            if volley.content && stream.wants_content {
                stream.wants_content = false;
                found.instead.push(number);
            }
            stream.wants_content |= wanted && !volley.content && stream.selected == [0, 0];
            if !wanted {
                return ControlFlow::Continue(());
            }
            if !by_number {
                let selected = &mut stream.selected[direction];
                if !volley.content && !any {
                    found.empty += 1;
                    return ControlFlow::Continue(());
                }
                // Of a flow with traces also the later packets that are scored: a flood may be one flow.
                if *selected == PACKETS_PER_DIRECTION && packet.traces.later().is_none() {
                    return ControlFlow::Continue(());
                }
                *selected = (*selected + 1).min(PACKETS_PER_DIRECTION);
            }
            if !std::mem::replace(&mut stream.is_counted, true) {
                found.flows.extend(FlowStart::of(packet.stream));
            }
            if found.patterns.len() == MAX_PATTERNS {
                found.more += 1;
                return ControlFlow::Continue(());
            }
            let n = layout.inputs(&volley, &mut active);
            let (inputs, content) = (active[..n].to_vec(), volley.content);
            found.patterns.push(Pattern { packet: number, stream: StreamName::of(&key), content, volley, inputs });
            ControlFlow::Continue(())
        },
    )?;
    Ok(found)
}

/// Whether `key` is the first stream whose name matches `text`; `chosen` is that stream once it was found.
fn is_chosen(chosen: &mut Option<StreamKey>, key: StreamKey, text: &str) -> bool {
    if chosen.is_none() && StreamName::of(&key).matches(text) {
        *chosen = Some(key);
    }
    *chosen == Some(key)
}
