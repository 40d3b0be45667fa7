//! Who hears what the engine finds, and in which words?

use std::sync::Arc;
use std::time::Duration;

use crate::capture::{LinkType, Nanos};
use crate::model::Model;
use crate::packet::{Direction, StreamKey};
use crate::snn::ClassId;
use crate::stream::{Basis, Leader, UnknownReason};

use super::Counters;

/// What a verdict tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A stream has been given a class; once a stream.
    Detection,
    /// A stream has ended.
    Stream,
}

/// What a model says of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub event: Event,
    /// Place among [`super::EngineSettings::models`].
    pub model: usize,
    /// The model that said it: another may have taken its place since.
    pub named: Arc<Model>,
    pub key: StreamKey,
    /// Number of the stream's first packet.
    pub number: u64,
    /// Number of the packet that brought the verdict about; `u64::MAX` at the end of the source.
    pub packet: u64,
    /// When: the packet's time for a detection, the stream's last for its end.
    pub timestamp: Nanos,
    pub first: Nanos,
    pub last: Nanos,
    pub packets: u64,
    pub bytes: u64,
    pub first_direction: Direction,
    /// The class in front, where any packet was scored.
    pub leader: Option<Leader>,
    /// The class, where it has earned its threshold.
    pub class: Option<ClassId>,
    pub confidence: f32,
}

impl Verdict {
    /// What the class rests on; `None` without a class, or for a model that does not tell.
    pub fn basis(&self) -> Option<Basis> {
        let leader = self.leader.filter(|_| self.class.is_some())?;
        self.named.decision.basis(&leader)
    }

    /// Why the stream has no class; `None` with a class.
    pub fn unknown_reason(&self) -> Option<UnknownReason> {
        self.class.is_none().then(|| self.named.decision.unknown_reason(self.leader.as_ref()))
    }

    /// Total order: by packet, stream, model, then the detection before the end.
    pub(super) fn order(&self) -> (u64, u64, &StreamKey, usize, Event) {
        (self.packet, self.number, &self.key, self.model, self.event)
    }
}

/// A packet of a stream that was given a class.
#[derive(Clone, Debug)]
pub struct EvidencePacket {
    /// The packet's number, from 0.
    pub packet: u64,
    pub timestamp: Nanos,
    pub link: LinkType,
    /// Octets on the wire; `bytes` may hold fewer.
    pub wire_len: u32,
    pub bytes: Vec<u8>,
    pub key: StreamKey,
    pub model: usize,
    pub named: Arc<Model>,
    pub class: ClassId,
    pub confidence: f32,
}

/// What one worker has done since it last told.
#[derive(Debug)]
pub struct Progress<'a> {
    pub worker: usize,
    /// Counts since then.
    pub counters: &'a Counters,
    /// Streams that the worker remembers now.
    pub live: usize,
    /// Batches that wait for the worker.
    pub queue: usize,
    /// Time at work, and time that it waited for any.
    pub busy: Duration,
    pub idle: Duration,
    /// How far the worker is behind the clock of a live source.
    pub lag: Option<Duration>,
}

/// Who hears of it. All is told from one thread.
pub trait Observer {
    /// A stream was given a class, or has ended; in the order of the packets that brought it about.
    fn verdict(&mut self, verdict: &Verdict);

    /// What the writer of [`super::EngineSettings::writer`] wrote of the verdict that was told last.
    fn written(&mut self, _octets: &[u8]) {}

    /// A packet of a stream that was given a class, where [`super::EngineSettings::keep_packets`] asks for them.
    fn packet(&mut self, _packet: &EvidencePacket) {}

    /// A worker has handled a batch; live sources have batches of no frames where nothing comes.
    fn progress(&mut self, _progress: &Progress<'_>) {}
}

impl<F: FnMut(&Verdict)> Observer for F {
    fn verdict(&mut self, verdict: &Verdict) {
        self(verdict);
    }
}
