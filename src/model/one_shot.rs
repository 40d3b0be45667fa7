//! A class more from one packet: a one-shot neuron beside those that a model has.

use super::{MAX_CLASSES, Model, PartsError, Provenance};
use crate::snn::{ClassId, OneShot};
use crate::stream::{Assignments, Decision, Leader};

/// Potential that one slot in agreement is worth: a neuron that fires at all adds at least half of it to its stream's evidence, and one
/// that does not fire adds none, for the paper's neuron knows no more than these two.
const GAIN: f32 = 1.5;

impl Model {
    /// This model with a neuron for `class` that fires where the homeostatic factor is `tolerance` times the smallest one. A
    /// stream is named once the neuron has fired for one of its packets and no other class has more evidence. The other neurons
    /// say what they said. `source` goes into the provenance.
    ///
    /// # Errors
    /// A class that the model has, no room for another, or a neuron that nothing makes fire.
    pub fn with_one_shot(&self, class: &str, neuron: &OneShot, tolerance: f32, source: &str) -> Result<Self, PartsError> {
        if self.classes.iter().any(|c| c == class) {
            return Err(PartsError::Known { model: self.name.clone(), class: class.into() });
        }
        if self.classes.len() == MAX_CLASSES {
            return Err(PartsError::Full { model: self.name.clone() });
        }
        let lowest = neuron.lowest(tolerance).ok_or(PartsError::Mute)?;
        let part = Self {
            classes: vec![class.into()],
            network: neuron.network().clone().with_scale(GAIN),
            decision: Decision {
                // Between the smallest potential that fires and the next below it: no rounding decides.
                theta: vec![GAIN * (f32::from(lowest) - 0.5)],
                assignments: Assignments::one_each(1),
                accept: vec![once(&self.decision)],
                ..self.decision.clone()
            },
            provenance: Provenance { streams: vec![1], packets: vec![1], ..Provenance::default() },
            ..self.clone()
        };
        let mut model = self.with_part(&part)?;
        model.provenance.labels.push(format!("{class}={source}"));
        Ok(model)
    }
}

/// The least confidence of a stream that spiked once, at whichever of its packets, where no other neuron did.
fn once(decision: &Decision) -> f32 {
    let (silent, spike) = (decision.least(), (GAIN * 0.5).min(decision.clip.1));
    let after = |packets: u32| Leader::new(ClassId::new(0), spike + silent * (packets - 1) as f32, spike - silent, packets);
    (1..=decision.max_packets.max(1)).map(|packets| decision.confidence(&after(packets))).fold(1.0, f32::min)
}
