//! Assignment of captures or streams to the folds of cross-validation.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Corpus;
use crate::snn::ClassId;

/// Assigns captures to folds so that the captures of each class are spread evenly. Unless `strict`, the streams of a class with a single
/// capture are spread over the folds, so that every fold has every class.
///
/// Returns the fold of each stream of the corpus; `None` for those that are not in `streams`.
pub fn folds(corpus: &Corpus, streams: &[usize], folds: usize, seed: u64, strict: bool) -> Vec<Option<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::MAX);
    let mut captures: Vec<u32> = streams.iter().map(|&i| corpus.streams[i].capture).collect();
    captures.sort_unstable();
    captures.dedup();
    let mut held: Vec<Vec<ClassId>> = vec![Vec::new(); corpus.captures.len().max(1)];
    let mut captures_of = vec![0u32; corpus.classes.len()];
    for &i in streams {
        let s = &corpus.streams[i];
        held[s.capture as usize].push(s.class);
    }
    for classes in &mut held {
        classes.sort_unstable();
        classes.dedup();
        for &mut class in classes {
            captures_of[class.index()] += 1;
        }
    }
    // Captures with rare classes come first; each goes to the fold that has the fewest captures of its rarest class.
    let mut order: Vec<(u32, u32, u32)> = captures
        .iter()
        .map(|&c| (held[c as usize].iter().map(|k| captures_of[k.index()]).min().unwrap_or(0), random.next_u32(), c))
        .collect();
    order.sort_unstable();
    let mut load = vec![vec![0u32; corpus.classes.len()]; folds];
    let mut size = vec![0u32; folds];
    let mut fold_of_capture = vec![0usize; corpus.captures.len().max(1)];
    for (_, _, capture) in order {
        let classes = &held[capture as usize];
        let rarest = classes.iter().min_by_key(|k| captures_of[k.index()]).copied().unwrap_or_default();
        let fold = (0..folds).min_by_key(|&f| (load[f][rarest.index()], size[f], f)).unwrap_or(0);
        for &k in classes {
            load[fold][k.index()] += 1;
        }
        size[fold] += 1;
        fold_of_capture[capture as usize] = fold;
    }
    let mut fold_of = vec![None; corpus.streams.len()];
    let mut within = vec![0usize; corpus.classes.len()];
    for &i in streams {
        let s = &corpus.streams[i];
        let class = s.class.index();
        fold_of[i] = Some(if captures_of[class] < 2 && !strict {
            within[class] += 1;
            within[class] % folds
        } else {
            fold_of_capture[s.capture as usize]
        });
    }
    fold_of
}

/// Assigns streams to folds so that the streams of each class are spread evenly. Returns the fold of each stream of the corpus.
pub fn folds_by_stream(corpus: &Corpus, folds: usize, seed: u64) -> Vec<Option<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::MAX);
    let mut order: Vec<(ClassId, u32, usize)> =
        corpus.streams.iter().enumerate().map(|(i, s)| (s.class, random.next_u32(), i)).collect();
    order.sort_unstable();
    let mut fold_of = vec![None; corpus.streams.len()];
    for (place, (_, _, stream)) in order.into_iter().enumerate() {
        fold_of[stream] = Some(place % folds);
    }
    fold_of
}
