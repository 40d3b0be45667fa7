//! Scoring of a corpus, and cross-validation of training.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::encode::Layout;
use crate::model::Model;
use crate::snn::{ClassId, Network};
use crate::stream::{Decision, Leader, UnknownReason};
use crate::train::{self, Corpus, FitResult, PortVariants, TrainSettings};

use super::{EvaluatedNetwork, Evaluation, StreamOutcome};

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
    EvaluatedNetwork { corpus, network, decision, classes, layout, known }.outcomes(which)
}

/// The classes whose training streams all carry no payload, so that the model names none of them ([`UnknownReason::NoPayload`]).
pub fn silent_classes(corpus: &Corpus, model: &Model) -> Vec<String> {
    let trained = (0..corpus.streams.len()).filter(|&i| !corpus.streams[i].reference);
    let Model { network, decision, classes, layout, .. } = model;
    if !decision.content_first {
        return Vec::new();
    }
    let mut silent: BTreeMap<String, bool> = BTreeMap::new();
    for outcome in outcomes(corpus, network, decision, classes, layout, &|_| true, trained) {
        *silent.entry(outcome.label).or_insert(true) &= outcome.reason == Some(UnknownReason::NoPayload);
    }
    silent.into_iter().filter_map(|(class, silent)| silent.then_some(class)).collect()
}

/// Outcomes of the held-out streams of training, from calibration.
pub fn held_out(corpus: &Corpus, fitted: &FitResult) -> Vec<StreamOutcome> {
    let known = |_: &str| true;
    let (network, decision) = (&fitted.network, &fitted.decision);
    let by = EvaluatedNetwork { corpus, network, decision, classes: &corpus.classes, layout: &corpus.layout, known: &known };
    let outcome = |&(stream, known, leader): &(usize, bool, Leader)| StreamOutcome { known, ..by.outcome(stream, Some(leader)) };
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
    cross_validate_on_ports(corpus, settings, layout, split, None, tick).outcomes
}

/// [`cross_validate`], and the same streams on other ports if there are `variants`.
pub fn cross_validate_on_ports(
    corpus: &Corpus,
    settings: &TrainSettings,
    layout: &Layout,
    split: &Split,
    variants: Option<&PortVariants>,
    tick: &(dyn Fn() + Sync),
) -> Evaluation {
    let mut all = Evaluation::default();
    for fold in 0..split.folds {
        let trained = split.trained(corpus, fold, settings.seed);
        let FitResult { network, decision, .. } = train::fit(corpus, settings, &|i| trained[i], tick);
        let mut known: Vec<bool> = vec![false; corpus.classes.len()];
        for (stream, _) in corpus.streams.iter().zip(&trained).filter(|(_, trained)| **trained) {
            known[stream.class.index()] = true;
        }
        let is_known = |label: &str| corpus.classes.binary_search_by(|c| c.as_str().cmp(label)).is_ok_and(|c| known[c]);
        let tested: Vec<usize> = (0..corpus.streams.len()).filter(|&i| split.fold_of[i] == Some(fold)).collect();
        let by = EvaluatedNetwork {
            corpus,
            network: &network,
            decision: &decision,
            classes: &corpus.classes,
            layout,
            known: &is_known,
        };
        all.extend(by.evaluate(&tested, variants));
    }
    all
}
