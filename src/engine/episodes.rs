//! The episode stage: feeds spikes of flows to the leaky neurons of their model, in the order of the packets, and passes episodes on.
//!
//! A flow that ends without a class, and that excited a neuron whose episode it is part of, is assigned the class of the episode: what many flows of
//! a host do together says more about each than the flow alone.

use std::collections::HashSet;
use std::sync::Arc;

use crate::capture::Nanos;
use crate::episode::{Episode, EpisodeLayer, EpisodeRule, EpisodeState, MIN_CONFIDENCE, NamedFlow};
use crate::model::Model;
use crate::packet::{Direction, KeyKind, StreamKey};
use crate::snn::ClassId;
use crate::stream::Leader;

use super::output::Spike;
use super::{EpisodeOutput, Event, EvidencePacket, Observer, Output, Verdict, VerdictWriter};

/// The confidence in the leader of a flow if that excites a neuron of the model's episodes.
pub(super) fn exciting(model: &Model, leader: &Leader) -> Option<f32> {
    let has_episodes = model.key == KeyKind::Flow && model.episodes.iter().any(|rule| rule.class == leader.class);
    has_episodes.then(|| model.decision.confidence_from(leader, MIN_CONFIDENCE)).flatten()
}

/// Whether a verdict may change: the stream has ended without a class, but excites a neuron of its leading class.
pub(super) fn is_open(verdict: &Verdict) -> bool {
    verdict.event == Event::Stream
        && verdict.class.is_none()
        && verdict.leader.is_some_and(|leader| exciting(&verdict.model, &leader).is_some())
}

/// An observer that passes everything on to another, and episodes in addition.
pub(super) struct EpisodeObserver<'a> {
    inner: &'a mut dyn Observer,
    /// Formats the verdicts that workers leave [open](is_open).
    writer: Option<Box<dyn VerdictWriter>>,
    /// The neurons of each model, by the model's index.
    layers: Vec<Option<(Arc<Model>, EpisodeLayer)>>,
    found: Vec<Episode>,
    /// Index of the model, number and key of the streams that were named by an episode since the last packets.
    named: HashSet<(usize, u64, StreamKey)>,
}

impl<'a> EpisodeObserver<'a> {
    /// An observer without episodes so far.
    pub fn new(inner: &'a mut dyn Observer, writer: Option<Box<dyn VerdictWriter>>) -> Self {
        Self { inner, writer, layers: Vec::new(), found: Vec::new(), named: HashSet::new() }
    }

    /// Ends all episodes, at the end of the source.
    pub fn finish(&mut self) {
        for number in 0..self.layers.len() {
            self.emit(number, None, EpisodeLayer::finish);
        }
    }

    /// Passes on a verdict with its text. An open one is completed first.
    pub fn verdict(&mut self, verdict: &Verdict, text: &[u8]) {
        if !is_open(verdict) {
            return self.inner.observe(Output::Verdict { verdict, text });
        }
        let Some(leader) = verdict.leader.filter(|leader| self.is_part(leader.class, verdict)) else {
            return self.write(verdict);
        };
        self.named.insert((verdict.model_index, verdict.number, verdict.key));
        let named = Verdict { class: Some(leader.class), by_episode: true, ..verdict.clone() };
        self.write(&Verdict { event: Event::Detection, ..named.clone() });
        self.write(&named);
    }

    /// Passes on packets of streams whose verdicts came before; those of streams that were [open](is_open) only if an episode named them.
    pub fn packets(&mut self, packets: &[EvidencePacket]) {
        for packet in packets {
            if !packet.is_open || self.named.contains(&(packet.model_index, packet.stream, packet.key)) {
                self.inner.observe(Output::Packet(packet));
            }
        }
        self.named.clear();
    }

    /// Whether the flow of a verdict is part of an episode of the class.
    fn is_part(&self, class: ClassId, verdict: &Verdict) -> bool {
        let layer = self.layers.get(verdict.model_index).and_then(Option::as_ref);
        let [(source, _), (target, _)] = verdict.key.ends(verdict.first_direction);
        layer.is_some_and(|(model, layer)| {
            have_same_episodes(model, &verdict.model) && layer.is_part(class, [source, target], [verdict.first, verdict.last])
        })
    }

    /// Passes on a verdict. With a writer, one without text is left out.
    fn write(&mut self, verdict: &Verdict) {
        let mut text = Vec::new();
        if let Some(writer) = &mut self.writer {
            writer.write(verdict, &mut text);
            if text.is_empty() {
                return;
            }
        }
        self.inner.observe(Output::Verdict { verdict, text: &text });
    }

    /// Excites the neuron of a flow whose leading class has episodes.
    pub fn spike(&mut self, spike: &Spike) {
        let verdict = &spike.verdict;
        let Some(class) = verdict.leader.map(|leader| leader.class) else { return };
        let number = verdict.model_index;
        if self.layers.len() <= number {
            self.layers.resize_with(number + 1, || None);
        }
        self.follow_model(number, &verdict.model);
        let flow = named_flow(spike);
        let mut spikes = [None; 2];
        let stream = Some((verdict.key, verdict.first_direction));
        self.emit(number, stream, |layer, found| spikes = layer.observe(class, &flow, found));
        for spike in spikes.into_iter().flatten() {
            self.inner.observe(Output::Spike { spike, model_index: number });
        }
    }

    /// Has the neurons of the model that is in use. Those of another are kept if they [are the same](have_same_episodes), else its episodes end.
    /// The neurons of a model move with it if its index has changed.
    fn follow_model(&mut self, number: usize, model: &Arc<Model>) {
        if self.layers[number].as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, model)) {
            return;
        }
        let named = |layer: &Option<(Arc<Model>, _)>| layer.as_ref().is_some_and(|(current, _)| current.name == model.name);
        if !named(&self.layers[number])
            && let Some(before) = self.layers.iter().position(named)
        {
            self.layers.swap(number, before);
        }
        match &mut self.layers[number] {
            Some((current, _)) if have_same_episodes(current, model) => *current = Arc::clone(model),
            _ => {
                self.emit(number, None, EpisodeLayer::finish);
                self.layers[number] = Some((Arc::clone(model), EpisodeLayer::new(&model.episodes)));
            }
        }
    }

    /// Lets `step` work on the neurons of a model, and passes on the episodes that it finds. `stream`: the stream that may begin one.
    fn emit(
        &mut self,
        number: usize,
        stream: Option<(StreamKey, Direction)>,
        step: impl FnOnce(&mut EpisodeLayer, &mut Vec<Episode>),
    ) {
        let Some((model, layer)) = self.layers.get_mut(number).and_then(Option::as_mut) else { return };
        step(layer, &mut self.found);
        for episode in self.found.drain(..) {
            self.inner.observe(Output::Episode(&EpisodeOutput {
                stream: stream.filter(|_| episode.state == EpisodeState::Begin),
                episode,
                model_index: number,
                model: Arc::clone(model),
            }));
        }
    }

    fn advance(&mut self, now: Nanos) {
        for number in 0..self.layers.len() {
            self.emit(number, None, |layer, found| layer.advance(now, found));
        }
    }
}

/// Whether the potentials of one model's neurons of episodes are those of the other's too: the same rules for classes of the same names, as after
/// a reload of an unchanged file.
fn have_same_episodes(a: &Arc<Model>, b: &Arc<Model>) -> bool {
    let same_class = |rule: &EpisodeRule| a.classes[rule.class.index()] == b.classes[rule.class.index()];
    Arc::ptr_eq(a, b) || (a.name == b.name && a.episodes == b.episodes && a.episodes.iter().all(same_class))
}

/// The flow of a spike.
fn named_flow(spike: &Spike) -> NamedFlow {
    let &Spike { ref verdict, arp_hosts, again, replaces } = spike;
    let [(source, _), (target, port)] = verdict.key.ends(verdict.first_direction);
    let port = if verdict.key.has_ports() { port } else { 0 };
    let [source, target] = arp_hosts.unwrap_or([source, target]);
    NamedFlow {
        source,
        target,
        port,
        packet: verdict.packet,
        time: verdict.timestamp,
        packets: verdict.packets,
        bytes: verdict.bytes,
        confidence: verdict.confidence,
        again,
        replaces,
    }
}

impl Observer for EpisodeObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Progress(progress) => {
                self.inner.observe(output);
                if let Some(now) = progress.clock {
                    self.advance(now);
                }
            }
            Output::Verdict { .. } | Output::Packet(_) | Output::Episode(_) | Output::Spike { .. } => self.inner.observe(output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_loaded_again_has_the_same_episodes() {
        let open = |name: &str| Arc::new(Model::open(std::path::Path::new(name)).expect("it is built in"));
        let [one, again] = ["behaviours"; 2].map(open);
        assert!(!Arc::ptr_eq(&one, &again) && have_same_episodes(&one, &again));
        let without = Arc::new(one.without_classes(&["beacon".into()]).expect("it has the class"));
        assert!(!have_same_episodes(&one, &without));
        assert!(!have_same_episodes(&one, &open("protocols")));
    }
}
