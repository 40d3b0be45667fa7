//! Potentials of held-out streams: a network's answer to the packets of streams that it was not trained on.
//!
//! Thresholds, acceptance and the stop rule are calibrated on them.

use crate::model::ForwardPass;
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::{Assignments, Decision, Leader};

use super::Corpus;

/// A stream's packets as a network that was not trained on it scored them.
pub(super) struct HeldOutPotentials {
    pub stream: usize,
    /// Potentials in units of theta, `[packet * width + neuron]`: one neuron of each class, then the others; those of unseen classes are
    /// at -infinity.
    pub potentials: Vec<f32>,
    pub width: usize,
    pub packets: usize,
    /// The stream's class, and whether the network was trained on that class.
    pub truth: ClassId,
    pub taught: bool,
}

impl HeldOutPotentials {
    /// The evidence of each class after the last packet.
    pub fn evidence(&self, decision: &Decision, classes: usize) -> Vec<f32> {
        let mut evidence = vec![0f32; classes];
        (0..self.packets).for_each(|p| self.accumulate(p, decision, &mut evidence));
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
                evidence[class] += decision.gained(margin(class), margin(neuron));
            }
        }
    }

    /// The leader after each packet.
    pub fn trail(&self, decision: &Decision, classes: usize) -> Vec<Leader> {
        let mut evidence = vec![0f32; classes];
        (0..self.packets)
            .filter_map(|p| {
                self.accumulate(p, decision, &mut evidence);
                decision.leader(&evidence, p as u32 + 1)
            })
            .collect()
    }
}

/// The potentials that `network` gives the first `most` packets of a stream. Its classes are the first of the corpus'; the neurons of
/// `unseen` classes are left out.
pub(super) fn forward(
    corpus: &Corpus,
    network: &Network,
    assignments: &Assignments,
    stream: usize,
    most: usize,
    unseen: &dyn Fn(ClassId) -> bool,
) -> HeldOutPotentials {
    let classes = corpus.classes.len();
    let (known, extra) = (assignments.classes(), assignments.extra());
    let s = &corpus.streams[stream];
    let packets = s.kept.min(most);
    let width = classes + extra.len();
    let mut potentials = Vec::with_capacity(packets * width);
    let mut pass = ForwardPass::new(&corpus.layout, network);
    for volley in corpus.volleys_of(s).take(packets) {
        pass.run(volley);
        let potential = |neuron: usize, class: ClassId| {
            if unseen(class) { f32::NEG_INFINITY } else { pass.potential(NeuronId::from_index(neuron)) }
        };
        potentials.extend(ClassId::first(known).map(|class| potential(class.index(), class)));
        potentials.extend((known..classes).map(|_| f32::NEG_INFINITY));
        potentials.extend((known..).zip(extra).map(|(neuron, &class)| potential(neuron, class)));
    }
    HeldOutPotentials { stream, potentials, width, packets, truth: s.class, taught: !unseen(s.class) }
}
