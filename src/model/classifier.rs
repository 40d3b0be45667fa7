//! Classification of streams: from the slot values of a stream's packets to the leading class.

use super::{ForwardPass, Model};
use crate::encode::Layout;
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::{Decision, Leader};

/// The evidence of one stream so far.
#[derive(Clone, Debug)]
pub struct StreamEvidence {
    /// Sum of margins, `[class]`.
    pub sums: Vec<f32>,
    /// The leading class; `None` before the first packet.
    pub leader: Option<Leader>,
}

/// Classifies streams, one packet or a whole stream at a time, with buffers that are reused for each packet.
///
/// The engine's scorer computes the same in batches, with its evidence in a bounded pool.
pub struct Classifier<'a> {
    decision: &'a Decision,
    network: &'a Network,
    layout: &'a Layout,
    forward: ForwardPass<'a>,
}

impl<'a> Classifier<'a> {
    /// A classifier of the network's classes. Slots that `layout` masks count as silent.
    pub fn new(network: &'a Network, decision: &'a Decision, layout: &'a Layout) -> Self {
        Self { decision, network, layout, forward: ForwardPass::new(layout, network) }
    }

    /// The evidence of a stream before its first packet.
    pub fn new_stream(&self) -> StreamEvidence {
        StreamEvidence { sums: vec![0.0; self.decision.accept.len()], leader: None }
    }

    /// Adds one packet (slot values, `[slot]`, and whether it has content: [`Volley::content`](crate::encode::Volley::content)) to the
    /// evidence of its stream, unless the stream is settled or the packet adds nothing to it. Returns whether it was added.
    pub fn observe(&mut self, slots: &[u16], content: bool, stream: &mut StreamEvidence) -> bool {
        let before = stream.leader.as_ref();
        if before.is_some_and(|leader| self.decision.settled(leader).is_some()) || !self.decision.counts(before, content) {
            return false;
        }
        self.forward.run(slots);
        let potentials = self.forward.raw_potentials();
        let leader = self.decision.accumulate(self.network, potentials, &mut stream.sums, before, content);
        stream.leader = leader.map(|leader| {
            let potential = self.forward.potential(self.decision.assignments.first_of(leader.class));
            self.decision.with_parts(leader, before, self.network, potential, self.forward.inputs())
        });
        true
    }

    /// The leader of a stream when scoring stops; `None` without packets or classes. `volleys` are the slot values of each packet, none of
    /// them masked.
    pub fn classify<'v>(&mut self, volleys: impl IntoIterator<Item = &'v [u16]>) -> Option<Leader> {
        let mut stream = self.new_stream();
        for slots in volleys {
            self.observe(slots, self.layout.is_content(slots), &mut stream);
        }
        stream.leader
    }

    /// The forward pass of one packet, without evidence.
    pub fn forward(&mut self, slots: &[u16]) -> &ForwardPass<'a> {
        self.forward.run(slots);
        &self.forward
    }

    /// The neurons that spike at one packet: those whose potential reaches their threshold.
    pub fn spikes(&mut self, slots: &[u16]) -> Vec<NeuronId> {
        self.forward.run(slots);
        let mut counts = vec![0; self.network.neurons()];
        self.decision.count_spikes(self.network, self.forward.raw_potentials(), &mut counts);
        NeuronId::first(counts.len()).filter(|neuron| counts[neuron.index()] > 0).collect()
    }

    /// The active inputs of the last packet.
    pub fn inputs(&self) -> &[u32] {
        self.forward.inputs().all()
    }

    /// The neuron that counts for `class` in the last packet: the one with the largest margin of the class's neurons; the first if several are
    /// equal.
    ///
    /// # Panics
    /// If the class has no neuron, which no valid model allows.
    pub fn strongest_neuron(&self, class: ClassId) -> NeuronId {
        let margin = |neuron: NeuronId| self.forward.potential(neuron) - self.decision.theta[neuron.index()];
        let larger = |a: NeuronId, b: NeuronId| if margin(b) > margin(a) { b } else { a };
        self.decision.assignments.neurons_of(class).reduce(larger).expect("every class has a neuron")
    }
}

impl Model {
    /// A classifier that uses this model.
    pub fn classifier(&self) -> Classifier<'_> {
        Classifier::new(&self.network, &self.decision, &self.layout)
    }
}
