//! Forward pass of one packet: from slot values to active inputs to the potentials of the neurons.

use crate::encode::{ActiveInputs, Layout, Volley};
use crate::snn::{Network, NeuronId, Potentials};

/// A network and its layout, with buffers that are reused for each packet. They hold the result of the last packet.
pub struct ForwardPass<'a> {
    layout: &'a Layout,
    network: &'a Network,
    volley: Volley,
    active: ActiveInputs,
    potentials: Potentials,
}

impl<'a> ForwardPass<'a> {
    /// A pass through `network`, whose inputs are those of `layout`.
    pub fn new(layout: &'a Layout, network: &'a Network) -> Self {
        let potentials = network.buffer();
        Self { layout, network, volley: Volley::default(), active: ActiveInputs::default(), potentials }
    }

    /// Computes the potentials of one packet from its slot values, `[slot]`. Slots that the layout masks count as silent.
    ///
    /// # Panics
    /// If there are more values than a [`Volley`] has slots.
    pub fn run(&mut self, slots: &[u16]) {
        self.volley.slots[..slots.len()].copy_from_slice(slots);
        self.layout.apply_mask(&mut self.volley.slots);
        self.layout.inputs_by_part(&self.volley, &mut self.active);
        self.network.potentials(self.active.all(), &mut self.potentials);
    }

    /// The active inputs of the last packet.
    pub fn inputs(&self) -> &ActiveInputs {
        &self.active
    }

    /// The potentials of the last packet in units of the weights, `[neuron]`; the buffer may be longer than there are neurons.
    pub fn raw_potentials(&self) -> &[i16] {
        &self.potentials
    }

    /// The potential of a neuron after the last packet, in units of its threshold theta.
    pub fn potential(&self, neuron: NeuronId) -> f32 {
        f32::from(self.potentials[neuron.index()]) * self.network.scale()[neuron.index()]
    }
}
