//! Forward pass of one packet: from slot values to active inputs to the potentials of the neurons.

use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::snn::{Network, NeuronId, Potentials};
use crate::stream::PartInputs;

/// A network and its layout, with buffers that are reused for each packet. They hold the result of the last packet.
pub struct ForwardPass<'a> {
    layout: &'a Layout,
    network: &'a Network,
    volley: Volley,
    active: [u32; MAX_ACTIVE],
    ports: [u32; MAX_ACTIVE],
    payload: [u32; MAX_ACTIVE],
    count: usize,
    potentials: Potentials,
}

impl<'a> ForwardPass<'a> {
    /// A pass through `network`, whose inputs are those of `layout`.
    pub fn new(layout: &'a Layout, network: &'a Network) -> Self {
        let potentials = network.buffer();
        Self {
            layout,
            network,
            volley: Volley::default(),
            active: [0; MAX_ACTIVE],
            ports: [0; MAX_ACTIVE],
            payload: [0; MAX_ACTIVE],
            count: 0,
            potentials,
        }
    }

    /// Computes the potentials of one packet from its slot values, `[slot]`. Slots that the layout masks count as silent.
    ///
    /// # Panics
    /// If there are more values than a [`Volley`] has slots.
    pub fn run(&mut self, slots: &[u16]) {
        self.volley.slots[..slots.len()].copy_from_slice(slots);
        self.layout.apply_mask(&mut self.volley.slots);
        self.count = self.layout.inputs(&self.volley, &mut self.active);
        self.network.potentials(&self.active[..self.count], &mut self.potentials);
    }

    /// The active inputs of the last packet.
    pub fn inputs(&self) -> &[u32] {
        &self.active[..self.count]
    }

    /// The potentials of the last packet in units of the weights, `[neuron]`; the buffer may be longer than there are neurons.
    pub fn raw_potentials(&self) -> &[i16] {
        &self.potentials
    }

    /// The active inputs of the last packet that depend on its ports, and those that depend on its payload bytes.
    pub fn part_inputs(&mut self) -> PartInputs<'_> {
        let ports = self.layout.port_inputs(&self.volley, &mut self.ports);
        let payload = self.layout.payload_inputs(&self.volley, &mut self.payload);
        PartInputs { ports: &self.ports[..ports], payload: &self.payload[..payload] }
    }

    /// The potential of a neuron after the last packet, in units of its threshold theta.
    pub fn potential(&self, neuron: NeuronId) -> f32 {
        f32::from(self.potentials[neuron.index()]) * self.network.scale()[neuron.index()]
    }
}
