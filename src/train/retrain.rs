//! Retraining of a part of a model: the neurons of one class, or the calibration of all classes on a reference.

use crate::model::Model;
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::Decision;

use super::calibrate::{Claim, MIN_CLAIMS, calibrate, raise_acceptance};
use super::folds::folds;
use super::held_out::{HeldOutPass, HeldOutPotentials, forward};
use super::homeostasis::threshold;
use super::ports::PortPool;
use super::variant::Variant;
use super::{Corpus, TeachingSchedule, TrainSettings, split_by_direction};

/// One known stream in this many is also scored as a stream of an unseen class, in models of more classes than this.
const ONE_UNSEEN_IN: usize = 5;

/// Confidence, acceptance and stop rule of a model from the streams of a reference that it was not trained on. The reference may lack
/// classes of the model and may have other classes, whose streams count as unseen. Neurons and thresholds do not change.
pub fn recalibrate(model: &Model, reference: &mut Corpus, settings: &TrainSettings) -> Decision {
    reference.arrange(&model.classes);
    let (known, all) = (model.classes.len(), reference.classes.len());
    let mut held_out: Vec<HeldOutPotentials> = Vec::new();
    let packets: Vec<(u32, ClassId)> = (0..reference.streams.len()).flat_map(|i| reference.packets_of(i)).collect();
    let pool = PortPool::new(reference, &packets);
    let (most, seed) = (settings.packets_per_stream, settings.seed);
    let by = HeldOutPass { network: &model.network, assignments: &model.decision.assignments, most, pool: &pool, seed };
    for (number, stream) in reference.streams.iter().enumerate() {
        let class = stream.class;
        let mut add = |open: bool| {
            let unseen = |c: ClassId| c.index() >= known || (open && c == class);
            held_out.extend(Variant::all(reference).iter().filter_map(|&v| forward(reference, &by, number, v, &unseen)));
        };
        let negative = class.index() >= known;
        if !negative {
            add(false);
        }
        // Some known streams are also scored without the neurons of their class: an example of an unseen class.
        if negative || (known > ONE_UNSEEN_IN && (class.index() + number).is_multiple_of(ONE_UNSEEN_IN)) {
            add(true);
        }
    }
    let given = widened(&model.decision, all, settings.rule.theta);
    let (mut decision, _) = calibrate(reference.key, all, settings, &held_out, given);
    decision.theta.drain(known..all);
    decision.accept.truncate(known);
    decision.assignments = model.decision.assignments.clone();
    decision
}

/// A copy of the decision with one neuron more for each class that the model lacks, `classes` classes in total.
fn widened(decision: &Decision, classes: usize, theta: f32) -> Decision {
    let mut wide = decision.clone();
    let known = decision.accept.len();
    wide.theta.splice(known..known, std::iter::repeat_n(theta, classes - known));
    wide.accept.resize(classes, 1.0);
    wide.assignments = decision.assignments.widened(classes);
    wide
}

/// Trains the neurons of one class, as many as the model has for it. The weights are bit for bit those that [`super::fit()`] gives them.
///
/// Returns the neurons, their thresholds and the acceptance of the class: the lowest of the other classes, raised while the class claims
/// too many held-out streams of other classes. Confidence does not change: the other neurons may have been trained on these streams, which
/// would make it too high.
pub fn retrain(
    model: &Model,
    corpus: &mut Corpus,
    class: ClassId,
    settings: &TrainSettings,
    tick: &(dyn Fn() + Sync),
) -> (Network, (Vec<f32>, f32)) {
    let settings = &TrainSettings { ports_alone: model.provenance.ports_alone, ..settings.clone() };
    let all: Vec<usize> = (0..corpus.streams.len()).collect();
    let fold_of = folds(corpus, &all, settings.folds, settings.seed, false);
    let own = corpus.classes.iter().position(|c| *c == model.classes[class.index()]).unwrap_or(corpus.classes.len());
    let own = ClassId::from_index(own);
    let places: Vec<NeuronId> = model.decision.assignments.neurons_of(class).collect();
    let specs = |class: ClassId| split_by_direction::specs_of(class, places.len() > 1);
    let neurons = |seed: u64, left_out: Option<usize>| {
        let shown = |i: usize| (fold_of[i] != left_out).then(|| corpus.streams[i].class);
        let teacher = TeachingSchedule::new(corpus, settings, seed, shown);
        Network::quantise(&teacher.train(settings.rule, &specs(own), 1, tick), places.len())
    };
    let whole = neurons(settings.seed, None);
    let parts: Vec<Network> =
        (0..settings.folds).map(|fold| model.network.replaced(&places, &neurons(settings.seed ^ 1, Some(fold)))).collect();
    corpus.arrange(&model.classes);
    // A class of one stream is unseen in the fold that leaves that stream out.
    let trained = |fold| (0..fold_of.len()).any(|i| fold_of[i] != fold && corpus.streams[i].class == class);
    let missing: Vec<bool> = (0..settings.folds).map(|fold| !trained(Some(fold))).collect();
    let (most, seed, pool) = (settings.packets_per_stream, settings.seed, PortPool::new(corpus, &[]));
    let held_out: Vec<HeldOutPotentials> = all
        .into_iter()
        .filter_map(|i| {
            let fold = fold_of[i].unwrap_or(0);
            let by = HeldOutPass { network: &parts[fold], assignments: &model.decision.assignments, most, pool: &pool, seed };
            forward(corpus, &by, i, Variant::AsIs, &|c| c == class && missing[fold])
        })
        .collect();
    let mut decision = widened(&model.decision, corpus.classes.len(), settings.rule.theta);
    let wide: Vec<NeuronId> = decision.assignments.neurons_of(class).collect();
    let thresholds: Vec<f32> =
        wide.iter().zip(specs(class)).map(|(&neuron, spec)| threshold(corpus, settings, &held_out, neuron, spec)).collect();
    wide.iter().zip(&thresholds).for_each(|(neuron, &theta)| decision.theta[neuron.index()] = theta);
    let claims: Vec<Claim> = held_out
        .iter()
        .filter_map(|f| {
            let leader = *f.trail(&decision, corpus.classes.len()).last()?;
            let right = f.truth == leader.class;
            (leader.class == class).then(|| Claim { confidence: decision.confidence(&leader), right, share: 1.0 })
        })
        .collect();
    let others = model.decision.accept.iter().enumerate().filter(|&(c, _)| c != class.index()).map(|(_, &a)| a);
    let least = others.min_by(f32::total_cmp).unwrap_or(model.decision.accept[class.index()]);
    (whole, (thresholds, raise_acceptance(least, &claims, MIN_CLAIMS)))
}
