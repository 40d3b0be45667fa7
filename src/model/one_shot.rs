//! Addition of a class from one packet or a few: one-shot neurons beside the neurons of a model.

use super::{MAX_CLASSES, Model, PartsError, Provenance};
use crate::snn::{ClassId, Network, NeuronId, OneShot};
use crate::stream::{Assignments, Decision, Leader};

/// Potential of one agreeing slot. A neuron that fires adds at least half of it to the evidence of its stream, and one that does not fire adds
/// nothing: the paper's neuron has only these two results.
const SLOT_POTENTIAL: f32 = 1.5;

impl Model {
    /// This model with neurons for the new class `class`, which fire as with `tolerance` times the smallest homeostatic factor. A stream is
    /// assigned the class once one of them has fired for one of its packets and no other class has more evidence. The potentials of the
    /// other neurons are unchanged. `source` is recorded in the provenance.
    ///
    /// # Errors
    /// If the model has the class or [`MAX_CLASSES`] classes, if no packet fires a neuron, or if there is no neuron.
    pub fn with_one_shot(&self, class: &str, neurons: &[OneShot], tolerance: f32, source: &str) -> Result<Self, PartsError> {
        if self.classes.iter().any(|c| c == class) {
            return Err(PartsError::ClassExists { model: self.name.clone(), class: class.into() });
        }
        if self.classes.len() == MAX_CLASSES {
            return Err(PartsError::Full { model: self.name.clone() });
        }
        let lowest: Option<Vec<i16>> = neurons.iter().map(|neuron| neuron.lowest(tolerance)).collect();
        let lowest = lowest.filter(|lowest| !lowest.is_empty()).ok_or(PartsError::NeverFires)?;
        let networks = neurons.iter().map(|neuron| neuron.network().clone());
        let beside = |all: Network, next: Network| {
            let kept: Vec<NeuronId> = NeuronId::first(all.neurons()).collect();
            all.joined(&kept, Some(&next))
        };
        let network = networks.reduce(beside).ok_or(PartsError::NeverFires)?;
        let class_of_extra = vec![ClassId::new(0); neurons.len() - 1];
        let part = Self {
            classes: vec![class.into()],
            network: network.with_scale(SLOT_POTENTIAL),
            decision: Decision {
                // Half-way between the smallest potential that fires and the next below it, so that rounding does not matter.
                theta: lowest.into_iter().map(|lowest| SLOT_POTENTIAL * (f32::from(lowest) - 0.5)).collect(),
                assignments: Assignments::new(1, class_of_extra).expect("the class has a number below one"),
                accept: vec![least_confidence(&self.decision)],
                ..self.decision.clone()
            },
            episodes: Vec::new(),
            provenance: Provenance { streams: vec![1], packets: vec![neurons.len() as u64], ..Provenance::default() },
            ..self.clone()
        };
        let mut model = self.with_part(&part)?;
        model.provenance.labels.push(format!("{class}={source}"));
        Ok(model)
    }
}

/// The least confidence in a stream for which the neuron fired at one of its packets, whichever it is, and no other neuron did.
fn least_confidence(decision: &Decision) -> f32 {
    let (silent, spike) = (decision.least(), (SLOT_POTENTIAL * 0.5).min(decision.clip.1));
    let after = |packets: u32| Leader::new(ClassId::new(0), spike + silent * (packets - 1) as f32, spike - silent, packets);
    (1..=decision.max_packets.max(1)).map(|packets| decision.confidence(&after(packets))).fold(1.0, f32::min)
}
