//! What was counted on the way: every frame is in exactly one of these.

use std::collections::BTreeMap;

use crate::packet::Undecodable;

/// Counts of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub frames: u64,
    /// Octets on the wire.
    pub bytes: u64,
    /// Frames that could not be decoded, by reason.
    pub undecodable: BTreeMap<Undecodable, u64>,
    /// Volleys scored, over all models.
    pub scored: u64,
    /// Streams opened, ended by a timeout, evicted from a full table, over all models.
    pub opened: u64,
    pub timed_out: u64,
    pub evicted: u64,
    /// Streams that were given up before they were decided since too many were undecided at once.
    pub hurried: u64,
    /// Streams lost since their worker panicked, and packets that it was handling.
    pub lost_streams: u64,
    pub lost_packets: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        for (&reason, count) in &other.undecodable {
            *self.undecodable.entry(reason).or_default() += count;
        }
        self.scored += other.scored;
        self.opened += other.opened;
        self.timed_out += other.timed_out;
        self.evicted += other.evicted;
        self.hurried += other.hurried;
        self.lost_streams += other.lost_streams;
        self.lost_packets += other.lost_packets;
    }
}
