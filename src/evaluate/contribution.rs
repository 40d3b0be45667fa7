//! Which fields carry a class? What each slot and coincidence adds to its neuron's potential, and to its lead over a rival.

use crate::encode::Volley;
use crate::model::Model;
use crate::snn::{ClassId, NeuronId};

/// One slot's or coincidence's part in a class's potential, a packet on average.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    pub name: String,
    /// The values that it had, in the order in which they came: at most four, with `more` where there were others.
    pub values: Vec<String>,
    pub more: bool,
    pub potential: f32,
    /// What it added to the class less what it added to the rival.
    pub lead: f32,
}

/// Values that are named.
const VALUES: usize = 4;

/// The contributions to `class`, those that decide most first. Those that were silent in every volley are left out.
pub fn contributions<'a>(
    model: &Model,
    volleys: impl Iterator<Item = &'a Volley> + Clone,
    class: ClassId,
    rival: Option<ClassId>,
) -> Vec<Contribution> {
    let layout = &model.layout;
    let packets = volleys.clone().count().max(1) as f32;
    let weight = |input: u32, neuron: NeuronId| {
        f32::from(model.network.weight(input as usize, neuron)) * model.network.scale()[neuron.index()]
    };
    let (mut classifier, width) = (model.classifier(), layout.slots().len());
    // Of a class's neurons the one that counted for the packet.
    let neurons: Vec<(NeuronId, Option<NeuronId>)> = volleys
        .clone()
        .map(|volley| {
            classifier.forward(&volley.slots[..width]);
            (classifier.strongest_neuron(class), rival.map(|rival| classifier.strongest_neuron(rival)))
        })
        .collect();
    let mut all = Vec::new();
    for (name, at) in layout.contributors() {
        let mut of = Contribution { name, values: Vec::new(), more: false, potential: 0.0, lead: 0.0 };
        for (volley, &(neuron, rival)) in volleys.clone().zip(&neurons) {
            for input in layout.inputs_of(volley, at) {
                let w = weight(input, neuron);
                of.potential += w / packets;
                of.lead += (w - rival.map_or(0.0, |r| weight(input, r))) / packets;
            }
            if of.more {
                continue;
            }
            if let Some(value) = layout.value_of(volley, at)
                && !of.values.contains(&value)
            {
                if of.values.len() < VALUES { of.values.push(value) } else { of.more = true }
            }
        }
        if !of.values.is_empty() {
            all.push(of);
        }
    }
    all.sort_by(|a, b| b.lead.abs().total_cmp(&a.lead.abs()));
    all
}
