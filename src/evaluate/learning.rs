//! How many streams of a class are enough? Training on a few of each, testing on other captures.

use crate::train::{self, Corpus, TrainSettings};

use super::{Split, cross_validate};

/// Streams a class that are tried.
const STREAMS: [usize; 6] = [1, 2, 5, 10, 20, 50];
/// Halves of the captures: each is taught from while the other is tested.
const HALVES: usize = 2;

/// What came of teaching so many streams of each class.
#[derive(Clone, Copy, Debug)]
pub struct LearningPoint {
    /// Streams taught of each class, where it has as many.
    pub streams: usize,
    pub right: usize,
    pub tested: usize,
}

/// The numbers of streams that are worth trying: up to the first that takes all of every class.
fn sizes(corpus: &Corpus) -> impl Iterator<Item = usize> {
    let mut count = vec![0; corpus.classes.len()];
    corpus.streams.iter().for_each(|s| count[s.class.index()] += 1);
    let largest = count.into_iter().max().unwrap_or(0) / HALVES;
    STREAMS.into_iter().enumerate().filter(move |&(i, _)| i == 0 || STREAMS[i - 1] < largest).map(|(_, n)| n)
}

/// Passes that [`learning_curve`] makes, as its `tick` counts them.
pub fn learning_passes(corpus: &Corpus, settings: &TrainSettings) -> u64 {
    (sizes(corpus).count() * HALVES) as u64 * train::passes(corpus, settings)
}

/// Streams right against streams taught: captures are dealt into two halves, streams are drawn from one, and the streams of the
/// other whose class was taught are tested, and the other way round. Nothing is tested that was trained on.
pub fn learning_curve(corpus: &Corpus, settings: &TrainSettings, tick: &(dyn Fn() + Sync)) -> Vec<LearningPoint> {
    let all: Vec<usize> = (0..corpus.streams.len()).collect();
    let fold_of = train::folds(corpus, &all, HALVES, settings.seed, true);
    let one = |streams: usize| {
        let split = Split { folds: HALVES, fold_of: fold_of.clone(), untaught: false, streams_per_class: Some(streams) };
        let mut said = cross_validate(corpus, settings, &corpus.layout, &split, tick);
        said.retain(|o| o.known);
        LearningPoint { streams, right: said.iter().filter(|o| o.right()).count(), tested: said.len() }
    };
    sizes(corpus).map(one).filter(|l| l.tested > 0).collect()
}
