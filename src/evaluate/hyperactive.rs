//! Hyperactive neurons: found on a labelled reference, and given a higher threshold or silenced.
//!
//! A hyperactive neuron claims many streams of other classes and fewer of its own (Hussaini, Milford, Fischer, *Ensembles of compact,
//! region-specific & regularized spiking neural networks for scalable place recognition*, arXiv 2209.08723). Its threshold is raised until
//! it no longer does; if it then claims no stream of its own class either, it is silenced. A neuron claims a stream of a class that the model
//! knows if it is the nearest. It claims a stream of an unseen class, which has a nearest class too, if it names the stream.

use std::collections::BTreeMap;

use crate::model::Model;
use crate::snn::ClassId;
use crate::stream::Decision;
use crate::train::Corpus;

use super::{StreamOutcome, outcomes};

/// Smallest number of streams of other classes that a hyperactive neuron claims.
const MIN_NEGATIVE: usize = 20;
/// Step by which a threshold is raised, in units of potential, and number of steps.
const STEP: f32 = 0.05;
const STEPS: usize = 60;

/// Numbers of streams that a neuron claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Streams of its own class.
    pub positive: usize,
    /// Streams of other classes.
    pub negative: usize,
}

impl Claims {
    /// All streams claimed.
    pub fn streams(self) -> usize {
        self.positive + self.negative
    }

    fn add(&mut self, positive: bool) {
        if positive { self.positive += 1 } else { self.negative += 1 }
    }
}

/// A neuron that claims too much.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperactiveNeuron {
    /// Name of its class.
    pub name: String,
    /// Class of the neuron.
    pub class: ClassId,
    /// Its claims with the present threshold.
    pub before: Claims,
    /// Increase of the threshold, in units of potential, that stops it, and its claims then; `None` if it is better silenced.
    pub quiet: Option<(f32, Claims)>,
}

/// The hyperactive neurons of a model, those with most negative claims first.
pub fn hyperactive(model: &Model, reference: &Corpus) -> Vec<HyperactiveNeuron> {
    let mut decision = model.decision.clone();
    let all: Vec<usize> = (0..reference.streams.len()).collect();
    let mut claimed: BTreeMap<String, (Claims, Vec<usize>)> = BTreeMap::new();
    for (stream, outcome) in all.iter().zip(classified(model, reference, &decision, &all)) {
        if let Some(class) = claimant(&outcome) {
            let (count, streams) = claimed.entry(class.clone()).or_default();
            count.add(outcome.label == *class);
            streams.push(*stream);
        }
    }
    let mut found: Vec<_> =
        claimed.into_iter().filter(|(_, (n, _))| n.negative >= MIN_NEGATIVE && n.negative > n.positive).collect();
    found.sort_by_key(|(_, (n, _))| std::cmp::Reverse(n.negative));
    let examine = |(name, (before, streams)): (String, (Claims, Vec<usize>))| {
        let class = model.place(&name).ok()?;
        let held = reference.streams.iter().any(|s| reference.classes[s.class.index()] == name);
        let (mut quiet, unraised) = (None, decision.clone());
        for step in 1..=STEPS {
            let by = step as f32 * STEP;
            decision.clone_from(&unraised);
            decision.raise(class, by);
            // A higher threshold changes only the streams that the neuron claimed.
            let mut after = Claims::default();
            let outcome = classified(model, reference, &decision, &streams);
            outcome.iter().filter(|s| claimant(s) == Some(&name)).for_each(|s| after.add(s.label == name));
            // If the reference has no stream of the class, a few negative claims are not sufficient evidence.
            if after.negative <= after.positive || (!held && after.negative < MIN_NEGATIVE) {
                quiet = (after.positive > 0 || !held).then_some((by, after));
                break;
            }
        }
        Some(HyperactiveNeuron { name, class, before, quiet })
    };
    found.into_iter().filter_map(examine).collect()
}

fn claimant(outcome: &StreamOutcome) -> Option<&String> {
    if outcome.known { outcome.best.as_ref() } else { outcome.class.as_ref() }
}

fn classified(model: &Model, reference: &Corpus, decision: &Decision, which: &[usize]) -> Vec<StreamOutcome> {
    let known = |label: &str| model.classes.iter().any(|c| c == label);
    outcomes(reference, &model.network, decision, &model.classes, &model.layout, &known, which.iter().copied())
}
