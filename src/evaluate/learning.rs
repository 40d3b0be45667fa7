//! Learning curve: accuracy on other captures against the number of training streams per class.

use crate::train::{self, Corpus, TrainSettings};

use super::{Split, cross_validate};

/// Numbers of streams per class.
const STREAMS: [usize; 6] = [1, 2, 5, 10, 20, 50];
/// Number of parts of the captures: one is trained on while the other is tested.
const HALVES: usize = 2;

/// Result of training on a number of streams of each class.
#[derive(Clone, Copy, Debug)]
pub struct LearningPoint {
    /// Largest number of training streams of each class.
    pub streams: usize,
    /// Number of tested streams whose nearest class was right.
    pub right: usize,
    /// Number of tested streams.
    pub tested: usize,
}

/// The numbers of [`STREAMS`] up to the first that covers all streams of every class.
fn sizes(corpus: &Corpus) -> impl Iterator<Item = usize> {
    let mut count = vec![0; corpus.classes.len()];
    corpus.streams.iter().for_each(|s| count[s.class.index()] += 1);
    let largest = count.into_iter().max().unwrap_or(0) / HALVES;
    STREAMS.into_iter().enumerate().filter(move |&(i, _)| i == 0 || STREAMS[i - 1] < largest).map(|(_, n)| n)
}

/// Number of calls of `tick` in [`learning_curve`].
pub fn learning_passes(corpus: &Corpus, settings: &TrainSettings) -> u64 {
    (sizes(corpus).count() * HALVES) as u64 * train::passes(corpus, settings)
}

/// Measures the learning curve. The captures are split into two halves; training streams are drawn from one half, and the streams of the other
/// half whose class was trained are tested; then the halves change places. No stream is tested that was trained on.
pub fn learning_curve(corpus: &Corpus, settings: &TrainSettings, tick: &(dyn Fn() + Sync)) -> Vec<LearningPoint> {
    let all: Vec<usize> = (0..corpus.streams.len()).collect();
    let fold_of = train::folds(corpus, &all, HALVES, settings.seed, true);
    let one = |streams: usize| {
        let split = Split { folds: HALVES, fold_of: fold_of.clone(), unseen_classes: false, streams_per_class: Some(streams) };
        let mut outcomes = cross_validate(corpus, settings, &corpus.layout, &split, tick);
        outcomes.retain(|o| o.known);
        LearningPoint { streams, right: outcomes.iter().filter(|o| o.right()).count(), tested: outcomes.len() }
    };
    sizes(corpus).map(one).filter(|l| l.tested > 0).collect()
}
