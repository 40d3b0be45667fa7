//! Scoring of a corpus, and cross-validation of training.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::encode::Layout;
use crate::model::Classifier;
use crate::snn::{ClassId, Network};
use crate::stream::{Decision, Leader};
use crate::train::{self, Corpus, FitResult, TrainSettings};

use super::StreamOutcome;

/// Classifies the streams `which` of a corpus as inference would. `layout` may silence slots; `known` returns whether the model was trained
/// on a label.
pub fn outcomes(
    corpus: &Corpus,
    network: &Network,
    decision: &Decision,
    classes: &[String],
    layout: &Layout,
    known: &dyn Fn(&str) -> bool,
    which: impl Iterator<Item = usize>,
) -> Vec<StreamOutcome> {
    let mut classifier = Classifier::new(network, decision, layout);
    which
        .map(|i| {
            let stream = &corpus.streams[i];
            let leader = classifier.classify(corpus.volleys_of(stream));
            let label = corpus.classes[stream.class.index()].clone();
            StreamOutcome {
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

/// Outcomes of the held-out streams of training, from calibration.
pub fn held_out(corpus: &Corpus, fitted: &FitResult) -> Vec<StreamOutcome> {
    let name = |class: ClassId| corpus.classes[class.index()].clone();
    let outcome = |&(stream, known, leader): &(usize, bool, Leader)| StreamOutcome {
        label: name(corpus.streams[stream].class),
        known,
        class: fitted.decision.class(&leader).map(name),
        best: Some(name(leader.class)),
        confidence: fitted.decision.confidence(&leader),
        scored: leader.packets,
        capture: corpus.streams[stream].capture,
    };
    fitted.calibration.iter().map(outcome).collect()
}

/// Assignment of a corpus to folds for cross-validation.
#[derive(Clone, Debug)]
pub struct Split {
    /// Number of folds.
    pub folds: usize,
    /// The fold of each stream; `None` for streams that are not used.
    pub fold_of: Vec<Option<usize>>,
    /// Whether fold k of K is tested without training on the classes c with c mod K = k; all streams in the fold are tested.
    pub unseen_classes: bool,
    /// Largest number of training streams of each class, drawn at random.
    pub streams_per_class: Option<usize>,
}

impl Split {
    /// Whether each stream is trained on when `fold` is tested.
    fn trained(&self, corpus: &Corpus, fold: usize, seed: u64) -> Vec<bool> {
        let out = |class: ClassId| self.unseen_classes && class.index() % self.folds == fold;
        let admitted = |i: usize| self.fold_of[i].is_some_and(|f| f != fold) && !out(corpus.streams[i].class);
        let mut trained: Vec<bool> = (0..corpus.streams.len()).map(admitted).collect();
        if let Some(most) = self.streams_per_class {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(fold as u64);
            let mut order: Vec<(u32, usize)> = (0..trained.len()).map(|i| (random.next_u32(), i)).collect();
            order.sort_unstable();
            let mut count = vec![0; corpus.classes.len()];
            for (_, i) in order.into_iter().filter(|(_, i)| admitted(*i)) {
                let count = &mut count[corpus.streams[i].class.index()];
                trained[i] = *count < most;
                *count += 1;
            }
        }
        trained
    }
}

/// For each fold, trains on all other folds and classifies the streams of the fold.
pub fn cross_validate(
    corpus: &Corpus,
    settings: &TrainSettings,
    layout: &Layout,
    split: &Split,
    tick: &(dyn Fn() + Sync),
) -> Vec<StreamOutcome> {
    let mut all = Vec::new();
    for fold in 0..split.folds {
        let trained = split.trained(corpus, fold, settings.seed);
        let FitResult { network, decision, .. } = train::fit(corpus, settings, &|i| trained[i], tick);
        let mut known: Vec<bool> = vec![false; corpus.classes.len()];
        for (stream, _) in corpus.streams.iter().zip(&trained).filter(|(_, trained)| **trained) {
            known[stream.class.index()] = true;
        }
        let is_known = |label: &str| corpus.classes.binary_search_by(|c| c.as_str().cmp(label)).is_ok_and(|c| known[c]);
        let tested = (0..corpus.streams.len()).filter(|&i| split.fold_of[i] == Some(fold));
        all.extend(outcomes(corpus, &network, &decision, &corpus.classes, layout, &is_known, tested));
    }
    all
}
