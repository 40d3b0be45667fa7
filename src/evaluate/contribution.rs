//! Contributions of fields to a class: what each slot and coincidence adds to its neuron's potential, and to its lead over a rival.

use crate::encode::Volley;
use crate::model::Model;
use crate::snn::{ClassId, NeuronId};

/// Contribution of one slot or coincidence to a class, as the mean per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// Name of the slot, or of both slots of a coincidence, joined by ` & `.
    pub name: String,
    /// The first four distinct values that occurred.
    pub values: Vec<String>,
    /// Whether more values occurred.
    pub more: bool,
    /// What it added to the potential of the class's neuron.
    pub potential: f32,
    /// The same minus what it added to the rival's.
    pub lead: f32,
}

/// Largest number of values listed.
const VALUES: usize = 4;

/// The contributions to `class`, largest lead first. Slots that are silent in every volley are left out.
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
    // For each packet the neuron of the class that counted.
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
