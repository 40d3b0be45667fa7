//! Counters of one run: frames, streams, and what was dropped for which reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::packet::Undecodable;

/// Number of spikes of the output neurons of one model, by class.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeCounts {
    /// The model that the neurons belong to.
    pub model: Arc<Model>,
    /// Spikes of all neurons of each class, `[class]`.
    pub counts: Vec<u64>,
}

/// Counters of one run, or of one worker since its last [`super::Progress`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames read, whether they could be decoded or not.
    pub frames: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Frames that could not be decoded, by reason.
    #[serde(with = "crate::map_as_pairs")]
    pub undecodable: BTreeMap<Undecodable, u64>,
    /// Later fragments of IP packets whose first fragment was not seen before them: a stream of their own, without ports.
    pub lone_fragments: u64,
    /// Packets scored, over all models, and those of handshakes that are scored only if their stream ends without content.
    pub scored: u64,
    /// Streams opened, over all models.
    pub opened: u64,
    /// Streams that ended by a timeout, or because a new connection took their place.
    pub timed_out: u64,
    /// Streams that were removed from a full table.
    pub evicted: u64,
    /// Streams whose model was removed, or replaced by one with another kind of key, while they were open.
    #[serde(default)]
    pub model_removed: u64,
    /// Streams whose scoring was stopped before they were decided, because too many streams were undecided at once.
    pub dropped_undecided: u64,
    /// Streams in tunnels whose events do not name the tunnel, because too many streams were in tunnels at once.
    pub dropped_tunnels: u64,
    /// Hosts whose traces were removed from a full table.
    pub evicted_hosts: u64,
    /// Packets that did not fit the buffer of evidence of undecided streams ([`super::EngineSettings::keep_packets`]).
    pub dropped_evidence: u64,
    /// Samples for learning that were dropped because the queue of the [`super::Tap`] was full.
    pub dropped_samples: u64,
    /// Streams lost because their worker panicked.
    pub panic_lost_streams: u64,
    /// Packets lost because their worker panicked.
    pub panic_lost_packets: u64,
    /// Spikes of the output neurons, counted for live sources; one entry for each batch and model.
    #[serde(skip)]
    pub spikes: Vec<SpikeCounts>,
}

impl Counters {
    /// Adds the counts of `other`, except its spikes: these are reported with each batch, and their list would grow without limit.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        for (&reason, count) in &other.undecodable {
            *self.undecodable.entry(reason).or_default() += count;
        }
        self.lone_fragments += other.lone_fragments;
        self.scored += other.scored;
        self.opened += other.opened;
        self.timed_out += other.timed_out;
        self.evicted += other.evicted;
        self.model_removed += other.model_removed;
        self.dropped_undecided += other.dropped_undecided;
        self.dropped_tunnels += other.dropped_tunnels;
        self.evicted_hosts += other.evicted_hosts;
        self.dropped_evidence += other.dropped_evidence;
        self.dropped_samples += other.dropped_samples;
        self.panic_lost_streams += other.panic_lost_streams;
        self.panic_lost_packets += other.panic_lost_packets;
    }
}
