//! Potentials of held-out streams: the output of a network for the packets of streams that it was not trained on.
//!
//! Thresholds, acceptance and the stop rule are calibrated on them.

use crate::model::ForwardPass;
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::{Assignments, Contributions, Decision, Leader};

use super::Corpus;
use super::ports::PortPool;
use super::variant::Variant;

/// A stream's packets as a network that was not trained on it scored them.
pub(super) struct HeldOutPotentials {
    pub stream: usize,
    pub capture: u32,
    /// Potentials in units of theta, `[packet * width + neuron]`: one neuron of each class, then the others; those of unseen classes are
    /// at -infinity.
    pub potentials: Vec<f32>,
    pub width: usize,
    pub packets: usize,
    /// What the ports contribute to the potentials of the first neuron of each class, `[packet * classes + class]`.
    ports: Vec<f32>,
    /// The same of the payload bytes; 0 for a packet without any.
    payload: Vec<f32>,
    /// Whether each packet has payload bytes.
    has_payload: Vec<bool>,
    /// Whether each packet has content.
    content: Vec<bool>,
    /// How the stream differs from the captured one.
    pub variant: Variant,
    /// The stream's class, and whether the network was trained on that class.
    pub truth: ClassId,
    pub known: bool,
}

impl HeldOutPotentials {
    /// The evidence of each class after the last packet.
    pub fn evidence(&self, decision: &Decision, classes: usize) -> Vec<f32> {
        let content = !decision.content_first || self.content.contains(&true);
        let mut evidence = vec![0f32; classes];
        let counted = (0..self.packets).filter(|&p| !decision.content_first || self.content[p] == content);
        counted.for_each(|p| self.accumulate(p, decision, &mut evidence));
        evidence
    }

    /// Adds one packet to the evidence.
    fn accumulate(&self, packet: usize, decision: &Decision, evidence: &mut [f32]) {
        let row = &self.potentials[packet * self.width..][..self.width];
        for ((e, u), theta) in evidence.iter_mut().zip(row).zip(&decision.theta) {
            *e += if u.is_finite() { decision.bounded(u - theta) } else { f32::NEG_INFINITY };
        }
        for (neuron, class) in (evidence.len()..).zip(decision.assignments.extra()) {
            let class = class.index();
            let margin = |neuron: usize| row[neuron] - decision.theta[neuron];
            if row[neuron].is_finite() {
                evidence[class] += decision.extra_margin(margin(class), margin(neuron));
            }
        }
    }

    /// The leader after each packet that counts.
    pub fn trail(&self, decision: &Decision, classes: usize) -> Vec<Leader> {
        let mut evidence = vec![0f32; classes];
        let mut leaders: Vec<Leader> = Vec::new();
        for packet in 0..self.packets {
            let (before, content) = (leaders.last().copied(), self.content[packet]);
            let before = before.as_ref();
            if !decision.counts(before, content) {
                continue;
            }
            let leader = decision.add_packet(&mut evidence, before, content, |evidence, packets| {
                self.accumulate(packet, decision, evidence);
                decision.leader(evidence, packets)
            });
            leaders.extend(leader.map(|leader| {
                let class = leader.class.index();
                let (potential, at) = (self.potentials[packet * self.width + class], packet * classes + class);
                let parts = Contributions { ports: self.ports[at], payload: self.has_payload[packet].then(|| self.payload[at]) };
                decision.with_contributions(leader, before, potential, parts)
            }));
        }
        leaders
    }
}

/// A network and how it is applied to held-out streams.
pub(super) struct HeldOutPass<'a> {
    pub network: &'a Network,
    /// The network's classes are the first of the corpus'.
    pub assignments: &'a Assignments,
    /// Maximum number of packets scored of a stream.
    pub most: usize,
    pub pool: &'a PortPool,
    pub seed: u64,
}

/// The potentials of a stream's packets in a variant; `None` if the stream has no such variant. The neurons of `unseen` classes are left out.
pub(super) fn forward(
    corpus: &Corpus,
    by: &HeldOutPass<'_>,
    stream: usize,
    variant: Variant,
    unseen: &dyn Fn(ClassId) -> bool,
) -> Option<HeldOutPotentials> {
    let classes = corpus.classes.len();
    let (known, extra) = (by.assignments.classes(), by.assignments.extra());
    let volleys = variant.packets(corpus, stream, by.most, by.pool, by.seed)?;
    let packets = volleys.len();
    let width = classes + extra.len();
    let mut potentials = Vec::with_capacity(packets * width);
    let (mut ports, mut payload) = (Vec::with_capacity(packets * classes), Vec::with_capacity(packets * classes));
    let (mut has_payload, mut content) = (Vec::with_capacity(packets), Vec::with_capacity(packets));
    let (mut pass, mut of_part) = (ForwardPass::new(&corpus.layout, by.network), by.network.buffer());
    for volley in &volleys {
        content.push(corpus.layout.is_content(volley));
        pass.run(volley);
        let potential = |neuron: usize, class: ClassId| {
            if unseen(class) { f32::NEG_INFINITY } else { pass.potential(NeuronId::from_index(neuron)) }
        };
        potentials.extend(ClassId::first(known).map(|class| potential(class.index(), class)));
        potentials.extend((known..classes).map(|_| f32::NEG_INFINITY));
        potentials.extend((known..).zip(extra).map(|(neuron, &class)| potential(neuron, class)));
        let inputs = pass.inputs();
        has_payload.push(!inputs.payload().is_empty());
        for (part, inputs) in [(&mut ports, inputs.ports()), (&mut payload, inputs.payload())] {
            by.network.potentials(inputs, &mut of_part);
            let neurons = ClassId::first(known).map(|class| by.assignments.first_of(class).index());
            part.extend(neurons.map(|neuron| f32::from(of_part[neuron]) * by.network.scale()[neuron]));
            part.extend((known..classes).map(|_| 0.0));
        }
    }
    let truth = corpus.streams[stream].class;
    Some(HeldOutPotentials {
        stream,
        capture: corpus.streams[stream].capture,
        potentials,
        width,
        packets,
        ports,
        payload,
        has_payload,
        content,
        variant,
        truth,
        known: variant.shows_class() && !unseen(truth),
    })
}
