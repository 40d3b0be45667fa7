//! Which streams go into which fold?

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Corpus;
use crate::snn::ClassId;

/// Deals captures into folds, each class's captures spread evenly. Unless `strict`, a class that has one capture only is dealt
/// by streams, so that every class is in every part.
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
    // Rarest classes choose first: their captures go to the fold that has fewest of the class.
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

/// Deals streams into folds, each class's streams spread evenly.
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
