//! What was counted on the way: every frame is in exactly one of these.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Model;
use crate::packet::Undecodable;

/// How often the neurons of each class of a model spiked.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeCounts {
    pub model: Arc<Model>,
    /// One count for each class, over its neurons.
    pub counts: Vec<u64>,
}

/// Counts of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub frames: u64,
    /// Octets on the wire.
    pub bytes: u64,
    /// Frames that could not be decoded, by reason.
    pub undecodable: BTreeMap<Undecodable, u64>,
    /// Volleys scored, over all models.
    pub scored: u64,
    /// Streams opened, ended by a timeout or a new connection in their place, evicted from a full table, over all models.
    pub opened: u64,
    pub timed_out: u64,
    pub evicted: u64,
    /// Streams that were given up before they were decided since too many were undecided at once.
    pub hurried: u64,
    /// Streams lost since their worker panicked, and packets that it was handling.
    pub lost_streams: u64,
    pub lost_packets: u64,
    /// Packets of named streams that could not be kept for want of room ([`super::EngineSettings::keep_packets`]).
    pub unkept: u64,
    /// Packets that the tap's reader was too slow for ([`super::Tap`]).
    pub untapped: u64,
    /// SpikeCounts of the output neurons, counted for live sources; one entry a batch and model.
    pub spikes: Vec<SpikeCounts>,
}

impl Counters {
    /// Adds another counters. SpikeCounts are left out: they are told with each batch and add up to no end.
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
        self.unkept += other.unkept;
        self.untapped += other.untapped;
    }
}
