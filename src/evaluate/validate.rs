//! What does a network say of streams it never saw? Scoring a corpus, and cross-validation.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::encode::Layout;
use crate::model::Classifier;
use crate::snn::{ClassId, Network};
use crate::stream::{Decision, Leader};
use crate::train::{self, Corpus, Fitted, TrainSettings};

use super::Outcome;

/// Scores the streams `which` of a corpus as reading would, with the slots silent that `without` names.
pub fn outcomes(
    corpus: &Corpus,
    network: &Network,
    decision: &Decision,
    classes: &[String],
    layout: &Layout,
    known: &dyn Fn(&str) -> bool,
    which: impl Iterator<Item = usize>,
) -> Vec<Outcome> {
    let mut classifier = Classifier::new(network, decision, layout);
    which
        .map(|i| {
            let stream = &corpus.streams[i];
            let leader = classifier.classify(corpus.volleys_of(stream));
            let label = corpus.classes[stream.class.index()].clone();
            Outcome {
                known: known(&label),
                label,
                class: leader.and_then(|l| decision.class(&l)).map(|c| classes[c.index()].clone()),
                best: leader.map(|l| classes[l.class.index()].clone()),
                confidence: leader.map_or(0.0, |l| decision.confidence(&l)),
                scored: leader.map_or(0, |l| l.packets),
                capture: stream.capture,
            }
        })
        .collect()
}

/// What calibration said of the streams that it held out.
pub fn held_out(corpus: &Corpus, fitted: &Fitted) -> Vec<Outcome> {
    let name = |class: ClassId| corpus.classes[class.index()].clone();
    let outcome = |&(stream, taught, leader): &(usize, bool, Leader)| Outcome {
        label: name(corpus.streams[stream].class),
        known: taught,
        class: fitted.decision.class(&leader).map(name),
        best: Some(name(leader.class)),
        confidence: fitted.decision.confidence(&leader),
        scored: leader.packets,
        capture: corpus.streams[stream].capture,
    };
    fitted.calibration.iter().map(outcome).collect()
}

/// How a corpus is dealt for cross-validation.
#[derive(Clone, Debug)]
pub struct Split {
    pub folds: usize,
    /// Each stream's fold.
    pub fold_of: Vec<Option<usize>>,
    /// Fold k is also never taught the classes c with c mod K = k, and is tested on all their streams in the fold.
    pub untaught: bool,
    /// Streams taught of each class at most, drawn by the seed: what a handful of examples does.
    pub streams_per_class: Option<usize>,
}

impl Split {
    /// Whether each stream is taught when `fold` is tested.
    fn taught(&self, corpus: &Corpus, fold: usize, seed: u64) -> Vec<bool> {
        let out = |class: ClassId| self.untaught && class.index() % self.folds == fold;
        let dealt = |i: usize| self.fold_of[i].is_some_and(|f| f != fold) && !out(corpus.streams[i].class);
        let mut taught: Vec<bool> = (0..corpus.streams.len()).map(dealt).collect();
        if let Some(most) = self.streams_per_class {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(fold as u64);
            let mut order: Vec<(u32, usize)> = (0..taught.len()).map(|i| (random.next_u32(), i)).collect();
            order.sort_unstable();
            let mut count = vec![0; corpus.classes.len()];
            for (_, i) in order.into_iter().filter(|(_, i)| dealt(*i)) {
                let count = &mut count[corpus.streams[i].class.index()];
                taught[i] = *count < most;
                *count += 1;
            }
        }
        taught
    }
}

/// Trains on all folds but one and tests on that, for each fold.
pub fn cross_validate(
    corpus: &Corpus,
    settings: &TrainSettings,
    layout: &Layout,
    split: &Split,
    tick: &(dyn Fn() + Sync),
) -> Vec<Outcome> {
    let mut all = Vec::new();
    for fold in 0..split.folds {
        let taught = split.taught(corpus, fold, settings.seed);
        let Fitted { network, decision, .. } = train::fit(corpus, settings, &|i| taught[i], tick);
        let mut known: Vec<bool> = vec![false; corpus.classes.len()];
        for (stream, _) in corpus.streams.iter().zip(&taught).filter(|(_, taught)| **taught) {
            known[stream.class.index()] = true;
        }
        let is_known = |label: &str| corpus.classes.binary_search_by(|c| c.as_str().cmp(label)).is_ok_and(|c| known[c]);
        let tested = (0..corpus.streams.len()).filter(|&i| split.fold_of[i] == Some(fold));
        all.extend(outcomes(corpus, &network, &decision, &corpus.classes, layout, &is_known, tested));
    }
    all
}
