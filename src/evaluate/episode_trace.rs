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
    fn new() -> Self {
        let (neurons, hasher) = (BoundedTable::new(MAX_NEURONS), RandomState::default());
        Self { neurons, hasher, span: None, episodes: Vec::new(), episodes_left_out: 0 }
    }

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
    let mut tracer = Tracer::new();
    engine::run(&settings, source, &mut tracer)?;
    Ok(tracer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::{EpisodeLayer, EpisodeRule, NamedFlow, Role};
    use crate::snn::ClassId;

    const TAU: f32 = 30.0;

    fn flow(source: u32, millis: u64, confidence: f32) -> NamedFlow {
        let address = |number: u32| Address::from(std::net::IpAddr::from(number.to_be_bytes()));
        NamedFlow {
            packet: 0,
            source: address(source),
            target: address(0x0a00_0001),
            port: 80,
            time: Nanos(millis * 1_000_000),
            packets: 1,
            bytes: 60,
            confidence,
            again: false,
            replaces: 0.0,
        }
    }

    /// The trace of flows through a layer with one rule.
    fn trace(flows: impl IntoIterator<Item = NamedFlow>) -> EpisodeTrace {
        let class = ClassId::new(1);
        let mut layer = EpisodeLayer::new(&[EpisodeRule { class, role: Role::Source, tau: TAU, threshold: 3.5 }]);
        let (mut tracer, mut episodes) = (Tracer::new(), Vec::new());
        for flow in flows {
            let spikes = layer.observe(class, &flow, &mut episodes);
            episodes.drain(..).for_each(|episode| tracer.episode(&episode));
            spikes.iter().flatten().for_each(|spike| tracer.spike(spike));
        }
        layer.finish(&mut episodes);
        episodes.iter().for_each(|episode| tracer.episode(episode));
        tracer.finish()
    }

    proptest::proptest! {
        #[test]
        fn potentials_equal_a_direct_simulation(
            flows in proptest::collection::vec((1u64..2000, 0.5f32..1.0), 1..3 * MAX_GROUPS),
        ) {
            let mut millis = 0;
            let spikes: Vec<(u64, f32)> = flows.iter().map(|&(pause, confidence)| { millis += pause; (millis, confidence) }).collect();
            let traced = trace(spikes.iter().map(|&(millis, confidence)| flow(1, millis, confidence)));
            let neuron = &traced.neurons[0];
            let decay = |from: u64, to: u64| (-((to - from) as f64) / 1e3 / f64::from(TAU)).exp();
            let (mut potential, mut last, mut spikes) = (0.0, 0, spikes.into_iter());
            for group in &neuron.groups {
                let mut highest: f64 = 0.0;
                for (number, (millis, confidence)) in spikes.by_ref().take(group.spikes as usize).enumerate() {
                    potential *= decay(last, millis);
                    if number == 0 {
                        proptest::prop_assert!((potential - f64::from(group.before)).abs() < 1e-3, "{} {:?}", potential, group);
                        proptest::prop_assert_eq!(group.first, Nanos(millis * 1_000_000));
                    }
                    potential += f64::from(confidence);
                    highest = highest.max(potential);
                    last = millis;
                }
                proptest::prop_assert!((potential - f64::from(group.after)).abs() < 1e-3, "{} {:?}", potential, group);
                proptest::prop_assert!((highest - f64::from(group.highest)).abs() < 1e-3, "{} {:?}", highest, group);
                proptest::prop_assert_eq!(group.last, Nanos(last * 1_000_000));
            }
            proptest::prop_assert!(spikes.next().is_none() && neuron.spikes == flows.len() as u64);
            proptest::prop_assert!(neuron.groups.len() <= MAX_GROUPS);
            proptest::prop_assert!(flows.len() > MAX_GROUPS || neuron.groups.len() == flows.len());
        }
    }

    #[test]
    fn neurons_with_an_episode_stay_among_many_others() {
        let attack = (0..5).map(|i| flow(7, i, 1.0));
        let others = (0..4 * MAX_NEURONS as u32).map(|host| flow(0x0b00_0000 + host, 1000, 1.0));
        let traced = trace(attack.chain(others).chain([flow(7, 2000, 1.0)]));
        assert_eq!((traced.neurons.len(), traced.neurons_left_out), (MAX_NEURONS, 3 * MAX_NEURONS as u64 + 1));
        let first = &traced.neurons[0];
        assert_eq!((first.host.to_string().as_str(), first.fired, first.spikes), ("0.0.0.7", true, 6));
        assert!(traced.neurons[1..].iter().all(|neuron| !neuron.fired));
    }

    #[test]
    fn episodes_have_the_time_at_which_they_fired_and_their_end() {
        let hosts = MAX_EPISODES as u32 + 3;
        let traced = trace((0..5).flat_map(|i| (0..hosts).map(move |host| flow(host, i * 100, 1.0))));
        assert_eq!((traced.episodes.len(), traced.episodes_left_out), (MAX_EPISODES, 3));
        for TracedEpisode { fired, episode } in &traced.episodes {
            assert_eq!((episode.state, *fired, episode.end), (EpisodeState::End, Nanos(300_000_000), Nanos(400_000_000)));
        }
    }
}
