//! Addition of a class to a model from labelled streams: one neuron, trained against streams of other classes.
//!
//! Input: a model, streams of the new class and streams of others. Output: the model with the class. All other neurons stay bit for bit the
//! same; the threshold and the acceptance of the new class are set on held-out streams ([`super::retrain()`]). In a model with traces the class
//! has episodes, whose rules follow from its flows.

use crate::model::{ClassSources, Model, PartsError};
use crate::snn::{ClassId, Network};
use crate::stream::{Assignments, Decision};

use super::episodes::{flows_of, rules_of_flows};
use super::{Corpus, TrainSettings, retrain};

/// The model with a neuron for the new class `class`, trained on the streams of `corpus`, which hold the class and others. `corpus` is
/// renumbered. Calls `tick` once per pass over the corpus.
///
/// # Errors
/// If the model has the class already, or the largest number of classes.
pub fn add_class(
    model: &Model,
    corpus: &mut Corpus,
    class: &str,
    sources: ClassSources,
    settings: &TrainSettings,
    tick: &(dyn Fn() + Sync),
) -> Result<Model, PartsError> {
    if model.classes.iter().any(|c| c == class) {
        return Err(PartsError::ClassExists { model: model.name.clone(), class: class.into() });
    }
    let own = corpus.classes.iter().position(|c| c == class).map(ClassId::from_index);
    let flows = own.filter(|_| model.layout.has_traces()).map_or_else(Vec::new, |own| flows_of(corpus, own));
    let inputs = model.layout.input_count();
    let accept = model.decision.accept.iter().copied().fold(1.0, f32::min);
    let silent = Model {
        classes: vec![class.into()],
        network: Network::from_parts(inputs, 1, &vec![0; inputs], vec![1.0]),
        decision: Decision {
            theta: vec![settings.rule.theta],
            assignments: Assignments::one_each(1),
            accept: vec![accept],
            ..model.decision.clone()
        },
        episodes: rules_of_flows(&flows, ClassId::new(0)),
        ..model.clone()
    };
    let silent =
        Model { provenance: crate::model::Provenance { streams: vec![0], packets: vec![0], ..Default::default() }, ..silent };
    let with = model.with_part(&silent)?;
    let place = ClassId::from_index(with.classes.len() - 1);
    let (neurons, (theta, accept)) = retrain(&with, corpus, place, settings, tick);
    with.with_neurons(class, &neurons, (&theta, accept), sources)
}
