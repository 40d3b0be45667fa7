//! Output types of the engine, and the two traits that receive it: [`VerdictWriter`] on the worker's thread, [`Observer`] on the
//! caller's.

use std::sync::Arc;
use std::time::Duration;

use crate::capture::{InterfaceId, LinkType, Nanos};
use crate::episode::{Episode, InputSpike};
use crate::model::Model;
use crate::packet::{Direction, StreamKey};
use crate::snn::ClassId;
use crate::stream::{Basis, Leader, UnknownReason};

use super::{Counters, OuterHeaders};

/// What caused a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A stream was assigned a class; at most once for each stream. When it ends, if its class follows from an episode.
    Detection,
    /// A stream has ended.
    Stream,
}

/// The classification of a stream by one model, at the time of an [`Event`].
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What caused the verdict.
    pub event: Event,
    /// Index of the model in [`super::EngineSettings::models`].
    pub model_index: usize,
    /// The model that classified the stream. Another may have replaced it since.
    pub model: Arc<Model>,
    /// Key of the stream.
    pub key: StreamKey,
    /// Number of the stream's first packet: that of its frame, in which streams of other keys may begin too.
    pub number: u64,
    /// Number of the packet that caused the verdict; `u64::MAX` at the end of the source.
    pub packet: u64,
    /// Time of the packet that caused a detection; time of the stream's last packet when it has ended.
    pub timestamp: Nanos,
    /// Time of the stream's first packet.
    pub first: Nanos,
    /// Time of the stream's last packet so far.
    pub last: Nanos,
    /// Packets of the stream so far.
    pub packets: u64,
    /// Bytes of the stream so far, on the wire.
    pub bytes: u64,
    /// Packets of the stream so far in its own direction (`first_direction`).
    pub own_packets: u64,
    /// Bytes of the stream so far in its own direction, on the wire.
    pub own_bytes: u64,
    /// Direction that counts as the stream's own: that of a flow's first packet, or of the packets that a host sends.
    pub first_direction: Direction,
    /// The interface that the stream's first packet came in by; `None` if that is not known.
    pub interface: Option<InterfaceId>,
    /// What the stream's packets are wrapped in; `None` if that is nothing, or too many streams are in tunnels.
    pub tunnel: Option<Box<OuterHeaders>>,
    /// The leading class; `None` if no packet was scored.
    pub leader: Option<Leader>,
    /// The assigned class; `None` if the leading class does not reach its threshold, and the stream is part of no episode of it.
    pub class: Option<ClassId>,
    /// Whether the class was assigned because the stream is part of an episode.
    pub by_episode: bool,
    /// Calibrated confidence in the leading class, 0 to 1.
    pub confidence: f32,
}

impl Verdict {
    /// What the class rests on; `None` without a class, or for a model that does not distinguish content from handshakes.
    pub fn basis(&self) -> Option<Basis> {
        if self.by_episode {
            return Some(Basis::Episode);
        }
        let leader = self.leader.filter(|_| self.class.is_some())?;
        self.model.decision.basis(&leader)
    }

    /// Why the stream has no class; `None` with a class.
    pub fn unknown_reason(&self) -> Option<UnknownReason> {
        self.class.is_none().then(|| self.model.decision.unknown_reason(self.leader.as_ref()))
    }

    /// Total order: by packet, stream, and model; the detection before the end.
    pub(super) fn order(&self) -> (u64, u64, &StreamKey, usize, Event) {
        (self.packet, self.number, &self.key, self.model_index, self.event)
    }
}

/// A packet of a stream that was assigned a class.
#[derive(Clone, Debug)]
pub struct EvidencePacket {
    /// Number of the packet in the source, from 0.
    pub packet: u64,
    /// Time of the packet.
    pub timestamp: Nanos,
    /// Link type of the frame.
    pub link: LinkType,
    /// Bytes on the wire; `bytes` may hold fewer.
    pub wire_len: u32,
    /// The captured frame.
    pub bytes: Vec<u8>,
    /// Key of the stream.
    pub key: StreamKey,
    /// Number of the stream's first packet.
    pub(super) stream: u64,
    /// Index of the model in [`super::EngineSettings::models`].
    pub model_index: usize,
    /// The model that classified the stream.
    pub model: Arc<Model>,
    /// The class of the stream.
    pub class: ClassId,
    /// Whether the stream has the class only if it is part of an episode.
    pub(super) is_open: bool,
    /// Calibrated confidence in the class, 0 to 1.
    pub confidence: f32,
}

/// An episode of a model's class.
#[derive(Clone, Debug)]
pub struct EpisodeOutput {
    /// The episode.
    pub episode: Episode,
    /// Index of the model in [`super::EngineSettings::models`].
    pub model_index: usize,
    /// The model that classified the flows.
    pub model: Arc<Model>,
    /// The stream at which the episode begins, with its own direction; `None` for its other events.
    pub stream: Option<(StreamKey, Direction)>,
}

/// The work of one worker since its last progress.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Number of the worker, from 0.
    pub worker: usize,
    /// Counters of this period.
    pub counters: &'a Counters,
    /// Streams in the worker's tables now, over all models.
    pub live: usize,
    /// Batches that wait for the worker.
    pub queue: usize,
    /// Time that the worker spent working.
    pub busy: Duration,
    /// Time that the worker spent waiting for work.
    pub idle: Duration,
    /// The time by the clock of a live source.
    pub clock: Option<Nanos>,
    /// Delay of the worker behind the clock of a live source.
    pub lag: Option<Duration>,
}

/// One item of the engine's output.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A stream was assigned a class, or has ended. Verdicts come in the order of the packets that caused them, each after the episodes of the
    /// packets before.
    Verdict {
        /// The verdict.
        verdict: &'a Verdict,
        /// What the [`VerdictWriter`] wrote; empty where [`super::EngineSettings::writer`] is `None`.
        text: &'a [u8],
    },
    /// An episode has begun, lasts, or has ended. It comes after the verdict that caused it.
    Episode(&'a EpisodeOutput),
    /// A flow has excited a neuron of episodes. It comes after the episode that begins with it.
    Spike {
        /// What the flow added to the neuron.
        spike: InputSpike,
        /// Index of the model in [`super::EngineSettings::models`].
        model_index: usize,
    },
    /// A packet of a stream with a class; only if [`super::EngineSettings::keep_packets`] is above 0.
    Packet(&'a EvidencePacket),
    /// A worker has handled a batch. Live sources have batches without frames when no packets arrive.
    Progress(&'a Progress<'a>),
}

/// Receives the engine's output, on the thread that called [`super::run`].
///
/// Closures that take a [`Verdict`] are observers that ignore everything else.
pub trait Observer {
    /// Takes one item. Workers wait if it takes long.
    fn observe(&mut self, output: Output<'_>);
}

impl<F: FnMut(&Verdict)> Observer for F {
    fn observe(&mut self, output: Output<'_>) {
        if let Output::Verdict { verdict, .. } = output {
            self(verdict);
        }
    }
}

/// Formats verdicts on the worker's thread, so that the workers share that work. Each worker has its own, and so has the caller's thread, for
/// streams that may be part of an episode.
pub trait VerdictWriter: Send {
    /// Appends the text of a verdict to `out`. The observer receives only verdicts with text.
    fn write(&mut self, verdict: &Verdict, out: &mut Vec<u8>);
}
