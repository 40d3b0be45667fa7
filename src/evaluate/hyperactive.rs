//! Which neurons fire for too much? Found on a labelled reference, given a higher threshold or silenced.
//!
//! A hyperactive neuron claims many streams that are not its own, and fewer that are (Hussaini, Milford, Fischer, *Ensembles of compact,
//! region-specific & regularized spiking neural networks for scalable place recognition*, arXiv 2209.08723). Its threshold is raised until
//! it no longer does; where it then claims no stream of its own either, it is better silent. A neuron claims a stream of a class that the
//! model knows by being the nearest, for then no other is; any other stream, which always has a nearest, by naming it.

use std::collections::BTreeMap;

use crate::model::Model;
use crate::snn::ClassId;
use crate::stream::Decision;
use crate::train::Corpus;

use super::{Outcome, outcomes};

/// Foreign streams that a neuron claims at least, before it is called hyperactive.
const FOREIGN: usize = 20;
/// Steps in which a threshold is raised, and how many.
const STEP: f32 = 0.05;
const STEPS: usize = 60;

/// The streams that a neuron claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub own: usize,
    pub foreign: usize,
}

impl Claims {
    pub fn streams(self) -> usize {
        self.own + self.foreign
    }

    fn add(&mut self, own: bool) {
        if own { self.own += 1 } else { self.foreign += 1 }
    }
}

/// A neuron that claims too much.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperactiveNeuron {
    /// Its class, and the class's number in the model.
    pub name: String,
    pub class: ClassId,
    pub before: Claims,
    /// By how much its threshold must rise to quiet it, and what it then claims; `None`: it is better silent.
    pub quiet: Option<(f32, Claims)>,
}

/// The hyperactive neurons of a model, those that claim most foreign streams first.
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
    let mut found: Vec<_> = claimed.into_iter().filter(|(_, (n, _))| n.foreign >= FOREIGN && n.foreign > n.own).collect();
    found.sort_by_key(|(_, (n, _))| std::cmp::Reverse(n.foreign));
    let told = |(name, (before, streams)): (String, (Claims, Vec<usize>))| {
        let class = model.place(&name).ok()?;
        let held = reference.streams.iter().any(|s| reference.classes[s.class.index()] == name);
        let (mut quiet, unraised) = (None, decision.clone());
        for step in 1..=STEPS {
            let by = step as f32 * STEP;
            decision.clone_from(&unraised);
            decision.raise(class, by);
            // A higher threshold changes nothing but what the neuron claimed.
            let mut after = Claims::default();
            let outcome = classified(model, reference, &decision, &streams);
            outcome.iter().filter(|s| claimant(s) == Some(&name)).for_each(|s| after.add(s.label == name));
            // Of a class that the reference does not hold, a few foreign streams are no proof.
            if after.foreign <= after.own || (!held && after.foreign < FOREIGN) {
                quiet = (after.own > 0 || !held).then_some((by, after));
                break;
            }
        }
        Some(HyperactiveNeuron { name, class, before, quiet })
    };
    found.into_iter().filter_map(told).collect()
}

fn claimant(outcome: &Outcome) -> Option<&String> {
    if outcome.known { outcome.best.as_ref() } else { outcome.class.as_ref() }
}

fn classified(model: &Model, reference: &Corpus, decision: &Decision, which: &[usize]) -> Vec<Outcome> {
    let known = |label: &str| model.classes.iter().any(|c| c == label);
    outcomes(reference, &model.network, decision, &model.classes, &model.layout, &known, which.iter().copied())
}
