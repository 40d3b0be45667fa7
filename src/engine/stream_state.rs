//! Classification state of a stream in the engine: its leading class, its row of evidence, and whether it was reported.

use crate::capture::Nanos;
use crate::snn::ClassId;
use crate::stream::{Leader, Stream, StreamTable};

use super::evidence_rows::EvidenceRow;

/// The bit of [`StreamState::row`] that marks a stream that was reported to be of a class.
const NAMED: u32 = 1 << 31;
/// The bit that marks a stream that has excited the neurons of episodes.
const SPIKED: u32 = 1 << 30;
/// The bit that marks a stream whose leader is that of a later packet alone.
const LATER: u32 = 1 << 29;
/// All of them.
const MARKS: u32 = NAMED | SPIKED | LATER;
/// The other bits of [`StreamState::row`] of a stream without a row. An `Option` would make the record of each stream larger.
const NO_ROW: u32 = LATER - 1;

/// The state of one stream of one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamState {
    /// Valid after the first scored packet; before it, `packets` is 0.
    leader: Leader,
    /// The row of evidence or [`NO_ROW`], and the [`MARKS`]: in one word, since a byte of their own would take four.
    row: u32,
}

// The documentation promises users how much memory a million streams take.
const _: () = assert!(StreamTable::<StreamState>::bytes_per_stream() <= 136);

impl StreamState {
    /// The state of a new stream. It has no row of evidence yet.
    pub const NEW: Self = Self { leader: Leader::NONE, row: NO_ROW };

    /// The row of evidence; `None` when the stream is no longer scored.
    #[inline]
    pub fn row(&self) -> Option<EvidenceRow> {
        self.is_scored().then(|| EvidenceRow::new(self.row & !MARKS))
    }

    /// Whether the stream's packets are scored.
    #[inline]
    pub fn is_scored(&self) -> bool {
        self.row & !MARKS != NO_ROW
    }

    /// Whether the stream lost its row of evidence before a packet with content was scored. Content starts its evidence again.
    #[inline]
    pub fn is_dropped_before_content(&self) -> bool {
        !self.is_scored() && !self.is_named() && self.leader.packets() > 0 && !self.leader.content()
    }

    /// Whether the stream was reported to be of a class.
    #[inline]
    pub fn is_named(&self) -> bool {
        self.row & NAMED != 0
    }

    /// The leading class; `None` before the first scored packet.
    #[inline]
    pub fn leader(&self) -> Option<Leader> {
        Some(self.leader).filter(|l| l.packets() > 0)
    }

    /// Whether the evidence is of content, and that of the leading class; 0 before the first scored packet.
    pub fn evidence(&self) -> (bool, f32) {
        (self.leader.content(), self.leader.evidence)
    }

    /// Sets the row of evidence.
    pub fn assign_row(&mut self, row: EvidenceRow) {
        self.row = (self.row & MARKS) | row.index() as u32;
    }

    /// Removes and returns the row of evidence. The stream's packets are not scored afterwards.
    pub fn take_row(&mut self) -> Option<EvidenceRow> {
        let row = self.row();
        self.row |= NO_ROW;
        row
    }

    /// Sets the leading class after a packet was scored.
    pub fn set_leader(&mut self, leader: Leader) {
        self.leader = leader;
    }

    /// Sets the leading class of a stream that is neither named nor scored any more by a later packet alone, which can make it part of an
    /// episode but does not name it.
    pub fn set_later_leader(&mut self, leader: Leader) {
        self.leader = leader;
        self.row |= LATER;
    }

    /// Whether the leading class is that of a later packet alone.
    pub fn is_led_by_later_packet(&self) -> bool {
        self.row & LATER != 0
    }

    /// Whether the stream has excited the neurons of episodes.
    #[inline]
    pub fn has_spiked(&self) -> bool {
        self.row & SPIKED != 0
    }

    /// Records that the stream has excited the neurons of episodes.
    pub fn set_spiked(&mut self) {
        self.row |= SPIKED;
    }

    /// Records that what the stream added to the potential of neurons of episodes was taken back.
    pub fn clear_spiked(&mut self) {
        self.row &= !SPIKED;
    }

    /// Records that the stream was reported to be of a class.
    pub fn set_named(&mut self) {
        self.row |= NAMED;
    }

    /// Adapts the state to a model of other classes. `new_id` is the new id of an old class, if the new model has it. A stream that
    /// is no longer scored keeps its class if the new model has it; all other streams lose their leader.
    pub fn remap_classes(&mut self, new_id: impl FnOnce(ClassId) -> Option<ClassId>) {
        match new_id(self.leader.class) {
            Some(class) if !self.is_scored() => self.leader.class = class,
            _ => self.leader = Self::NEW.leader,
        }
    }
}

/// Counts of a stream at the time of one of its packets, for the verdict that the packet may cause.
pub(super) struct StreamSnapshot {
    /// Number of the packet.
    pub packet: u64,
    /// Time of the verdict.
    pub timestamp: Nanos,
    /// Time of the stream's last packet.
    pub last: Nanos,
    pub packets: u64,
    pub bytes: u64,
    pub own_packets: u64,
    pub own_bytes: u64,
}

impl StreamSnapshot {
    /// The counts of `stream` now, with the packet `packet`.
    #[inline]
    pub fn new(stream: &Stream<StreamState>, packet: u64, timestamp: Nanos) -> Self {
        let Stream { last, packets, bytes, .. } = *stream;
        let (own_packets, own_bytes) = (stream.own_packets(), stream.own_bytes());
        Self { packet, timestamp, last, packets, bytes, own_packets, own_bytes }
    }
}
