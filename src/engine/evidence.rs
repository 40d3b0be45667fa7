//! Buffer of the first packets of undecided streams, which become evidence when their stream is assigned a class.

use std::sync::Arc;

use crate::capture::{Frame, LinkType, Nanos};
use crate::model::Model;
use crate::stream::Stream;

use super::EvidencePacket;
use super::evidence_rows::EvidenceRow;
use super::stream_state::StreamState;

/// Bytes of packets that are buffered for one model in one shard.
const MAX_BUFFERED_BYTES: usize = 32 << 20;

/// A packet without its stream's class.
#[derive(Debug)]
struct BufferedPacket {
    packet: u64,
    timestamp: Nanos,
    link: LinkType,
    wire_len: u32,
    bytes: Vec<u8>,
}

impl BufferedPacket {
    fn copy(packet: u64, frame: &Frame<'_>) -> Self {
        let Frame { timestamp, link, wire_len, bytes, .. } = *frame;
        Self { packet, timestamp, link, wire_len, bytes: bytes.to_vec() }
    }

    /// The packet with the class of its stream, or the leading one if that `is_open`; `None` without a class.
    fn into_evidence(
        self,
        number: usize,
        model: &Arc<Model>,
        stream: &Stream<StreamState>,
        is_open: bool,
    ) -> Option<EvidencePacket> {
        let leader = stream.state.leader()?;
        Some(EvidencePacket {
            packet: self.packet,
            timestamp: self.timestamp,
            link: self.link,
            wire_len: self.wire_len,
            bytes: self.bytes,
            key: stream.key,
            stream: stream.number,
            model_index: number,
            model: Arc::clone(model),
            class: if is_open { leader.class } else { model.decision.class(&leader)? },
            is_open,
            confidence: model.decision.confidence(&leader),
        })
    }
}

/// The first packets of undecided streams, by their row of evidence.
#[derive(Debug, Default)]
pub(super) struct EvidenceBuffer {
    rows: Vec<Vec<BufferedPacket>>,
    /// Bytes of all packets.
    bytes: usize,
}

impl EvidenceBuffer {
    /// Copies a packet of the undecided stream that owns `row`. Returns whether there was room.
    pub fn push(&mut self, row: EvidenceRow, packet: u64, frame: &Frame<'_>) -> bool {
        if self.bytes + frame.bytes.len() > MAX_BUFFERED_BYTES {
            return false;
        }
        self.bytes += frame.bytes.len();
        let row = row.index();
        if row >= self.rows.len() {
            self.rows.resize_with(row + 1, Vec::new);
        }
        self.rows[row].push(BufferedPacket::copy(packet, frame));
        true
    }

    fn take(&mut self, row: EvidenceRow) -> Vec<BufferedPacket> {
        let taken = self.rows.get_mut(row.index()).map(std::mem::take).unwrap_or_default();
        self.bytes -= taken.iter().map(|p| p.bytes.len()).sum::<usize>();
        taken
    }

    /// Removes the packets of a row whose stream is no longer scored.
    pub fn discard(&mut self, row: EvidenceRow) {
        self.take(row);
    }

    /// Moves the packets of a row to `out`, when its stream is assigned a class, or ends and may be part of an episode (`is_open`). `number`:
    /// index of the model.
    pub fn release(
        &mut self,
        row: EvidenceRow,
        number: usize,
        model: &Arc<Model>,
        stream: &Stream<StreamState>,
        is_open: bool,
        out: &mut Vec<EvidencePacket>,
    ) {
        out.extend(self.take(row).into_iter().filter_map(|p| p.into_evidence(number, model, stream, is_open)));
    }
}

/// A packet of a stream that already has a class; `None` where the current model gives the stream none. `number`: index of the model.
pub(super) fn evidence_packet(
    packet: u64,
    frame: &Frame<'_>,
    number: usize,
    model: &Arc<Model>,
    stream: &Stream<StreamState>,
) -> Option<EvidencePacket> {
    BufferedPacket::copy(packet, frame).into_evidence(number, model, stream, false)
}
