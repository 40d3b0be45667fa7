//! Trace of a model's episode layer over a capture: the potential of each neuron over time, and the episodes.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::capture::{CaptureError, Nanos, Source};
use crate::engine::{self, EngineSettings, Event, Observer, Output, Verdict};
use crate::episode::{Episode, EpisodeState, InputSpike};
use crate::model::Model;
use crate::packet::Address;
use crate::stream::Intake;
use crate::trace::{Activity, BoundedTable};

/// Neurons that are traced at once; of more, those whose potentials stayed low are left out.
const MAX_NEURONS: usize = 512;
/// Groups of spikes of one neuron. With more, neighbours are joined.
const MAX_GROUPS: usize = 2048;
/// Episodes that are traced; later ones are counted.
const MAX_EPISODES: usize = 256;

/// Spikes of one neuron that follow each other closely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpikeGroup {
    /// Time of the first spike.
    pub first: Nanos,
    /// Time of the last spike.
    pub last: Nanos,
    /// Number of spikes.
    pub spikes: u64,
    /// Potential just before the first spike.
    pub before: f32,
    /// Highest potential.
    pub highest: f32,
    /// Potential with the last spike.
    pub after: f32,
    /// Whether the neuron has an episode after the last spike.
    pub lasting: bool,
}

/// Joins neighbouring groups whose first spikes have the same place.
pub fn join_groups(groups: &mut Vec<SpikeGroup>, place: impl Fn(&SpikeGroup) -> u64) {
    groups.dedup_by(|next, group| {
        let joins = place(next) == place(group);
        if joins {
            group.last = next.last;
            group.spikes += next.spikes;
            group.highest = group.highest.max(next.highest);
            group.after = next.after;
            group.lasting = next.lasting;
        }
        joins
    });
}

/// The neuron of one host, class and role over a capture.
#[derive(Clone, Debug, PartialEq)]
pub struct NeuronTrace {
    /// Index of its rule in [`Model::episodes`].
    pub rule: usize,
    /// Its host.
    pub host: Address,
    /// Its input spikes in the order of time, each in a group of its own unless they are too many.
    pub groups: Vec<SpikeGroup>,
    /// Number of its input spikes.
    pub spikes: u64,
    /// Its highest potential.
    pub highest: f32,
    /// Whether it had an episode.
    pub fired: bool,
    /// Spikes of one multiple of this time, in nanoseconds, are one group.
    width: u64,
}

impl NeuronTrace {
    fn new(rule: usize, host: Address) -> Self {
        Self { rule, host, groups: Vec::new(), spikes: 0, highest: 0.0, fired: false, width: 1 }
    }

    fn push(&mut self, spike: &InputSpike) {
        let &InputSpike { before, after, lasting, .. } = spike;
        let time = self.groups.last().map_or(spike.time, |group| group.last.max(spike.time));
        self.groups.push(SpikeGroup { first: time, last: time, spikes: 1, before, highest: after, after, lasting });
        self.spikes += 1;
        self.highest = self.highest.max(after);
        self.fired |= lasting;
        while self.groups.len() > MAX_GROUPS {
            self.width *= 2;
            let width = self.width;
            join_groups(&mut self.groups, |group| group.first.0 / width);
        }
    }
}

impl Activity for NeuronTrace {
    fn activity(&self) -> (u32, Nanos) {
        (self.highest as u32, self.groups.last().map_or(Nanos(0), |group| group.last))
    }

    fn is_evictable(&self) -> bool {
        !self.fired
    }
}

/// An episode from its begin to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedEpisode {
    /// Time at which the neuron fired.
    pub fired: Nanos,
    /// The episode at its end.
    pub episode: Episode,
}

/// The neurons and episodes of a capture.
#[derive(Debug, Default, PartialEq)]
pub struct EpisodeTrace {
    /// Time of the first packet of all streams.
    pub start: Nanos,
    /// Time of the last packet of all streams.
    pub end: Nanos,
    /// The neurons that were excited: those that had an episode first, then by their highest potentials.
    pub neurons: Vec<NeuronTrace>,
    /// Number of times that a neuron with a low potential was left out, because there were too many.
    pub neurons_left_out: u64,
    /// The episodes, in the order in which they began.
    pub episodes: Vec<TracedEpisode>,
    /// Number of further episodes.
    pub episodes_left_out: u64,
}

/// Collects the trace from the engine's output.
struct Tracer {
    neurons: BoundedTable<NeuronTrace>,
    hasher: RandomState,
    span: Option<(Nanos, Nanos)>,
    episodes: Vec<TracedEpisode>,
    episodes_left_out: u64,
}

impl Tracer {
    fn verdict(&mut self, verdict: &Verdict) {
        if verdict.event == Event::Stream {
            let (start, end) = self.span.unwrap_or((verdict.first, verdict.last));
            self.span = Some((start.min(verdict.first), end.max(verdict.last)));
        }
    }

    fn spike(&mut self, spike: &InputSpike) {
        let key = self.hasher.hash_one((spike.rule, spike.host));
        self.neurons.entry(key, || NeuronTrace::new(spike.rule, spike.host)).push(spike);
    }

    fn episode(&mut self, episode: &Episode) {
        let same = |known: &Episode| (known.class, known.role, known.host) == (episode.class, episode.role, episode.host);
        if episode.state != EpisodeState::Begin {
            let known = self.episodes.iter_mut().rev().find(|known| same(&known.episode));
            if let Some(known) = known.filter(|known| known.episode.state != EpisodeState::End) {
                known.episode = episode.clone();
            }
        } else if self.episodes.len() < MAX_EPISODES {
            self.episodes.push(TracedEpisode { fired: episode.time, episode: episode.clone() });
        } else {
            self.episodes_left_out += 1;
        }
    }

    fn finish(mut self) -> EpisodeTrace {
        let neurons_left_out = self.neurons.take_evicted();
        let mut neurons: Vec<_> = self.neurons.into_values().collect();
        neurons.sort_by(|a, b| b.fired.cmp(&a.fired).then(b.highest.total_cmp(&a.highest)));
        let (start, end) = self.span.unwrap_or_default();
        let Self { episodes, episodes_left_out, .. } = self;
        EpisodeTrace { start, end, neurons, neurons_left_out, episodes, episodes_left_out }
    }
}

impl Observer for Tracer {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.verdict(verdict),
            Output::Spike { spike, .. } => self.spike(&spike),
            Output::Episode(output) => self.episode(&output.episode),
            Output::Packet(_) | Output::Progress(_) => {}
        }
    }
}

/// Reads a source to its end through the engine, with its default limits.
///
/// # Errors
/// If the source cannot be read.
pub fn trace_episodes(model: &Arc<Model>, source: &mut dyn Source, intake: &Intake) -> Result<EpisodeTrace, CaptureError> {
    let settings = EngineSettings { intake: *intake, workers: 1, ..EngineSettings::new(vec![Arc::clone(model)]) };
    let mut tracer = Tracer {
        neurons: BoundedTable::new(MAX_NEURONS),
        hasher: RandomState::default(),
        span: None,
        episodes: Vec::new(),
        episodes_left_out: 0,
    };
    engine::run(&settings, source, &mut tracer)?;
    Ok(tracer.finish())
}
