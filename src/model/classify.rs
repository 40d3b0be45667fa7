//! What does a network say of a stream whose volleys are known?

use super::Model;
use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::{Decision, Leader};

/// Who leads when scoring stops, as in reading; the slots that `layout` silences are silent. `volleys`: slot values, `[slot]` each.
pub fn classify<'a>(
    network: &Network,
    decision: &Decision,
    layout: &Layout,
    volleys: impl Iterator<Item = &'a [u16]>,
) -> Option<Leader> {
    let (mut potentials, mut evidence) = (network.buffer(), vec![0f32; decision.accept.len()]);
    let (mut active, mut volley, mut leader) = ([0u32; MAX_ACTIVE], Volley::default(), None);
    for slots in volleys {
        volley.slots[..slots.len()].copy_from_slice(slots);
        layout.silence(&mut volley.slots);
        let n = layout.inputs(&volley, &mut active);
        network.potentials(&active[..n], &mut potentials);
        leader = decision.hear(network, &potentials, &mut evidence, leader.as_ref());
        if leader.is_some_and(|l| decision.settled(&l)) {
            break;
        }
    }
    leader
}

impl Model {
    /// Of a class's neurons the one that counts for a packet: the one with the largest margin.
    pub fn counted(&self, volley: &Volley, class: ClassId) -> NeuronId {
        let mut active = [0u32; MAX_ACTIVE];
        let n = self.layout.inputs(volley, &mut active);
        let margin = |neuron: NeuronId| {
            let potential: i32 = active[..n].iter().map(|&input| i32::from(self.network.weight(input as usize, neuron))).sum();
            potential as f32 * self.network.gain()[neuron.index()] - self.decision.theta[neuron.index()]
        };
        let larger = |a: NeuronId, b: NeuronId| if margin(b) > margin(a) { b } else { a };
        self.decision.assignments.neurons_of(class).reduce(larger).expect("every class has a neuron")
    }
}
