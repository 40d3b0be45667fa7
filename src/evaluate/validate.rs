//! What does a network say of streams it never saw? Scoring a corpus, and cross-validation.

use crate::encode::{Layout, MAX_ACTIVE, SILENT, Volley};
use crate::snn::Network;
use crate::stream::{Decision, Leader};
use crate::train::{self, Corpus, Fitted, Settings};

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
    let mut buffer = network.buffer();
    let mut active = [0u32; MAX_ACTIVE];
    let mut volley = Volley::default();
    which
        .map(|i| {
            let stream = &corpus.streams[i];
            let mut evidence = vec![0f32; classes.len()];
            let mut leader = None;
            for (scored, v) in (stream.first..stream.first + stream.kept).enumerate() {
                let slots = corpus.volley(v);
                volley.slots[..slots.len()].copy_from_slice(slots);
                for &slot in layout.silenced() {
                    volley.slots[slot as usize] = SILENT;
                }
                let n = layout.inputs(&volley, &mut active);
                network.potentials(&active[..n], &mut buffer);
                decision.add(network, &buffer, &mut evidence);
                leader = decision.leader(&evidence, scored as u32 + 1);
                if leader.is_some_and(|l| decision.settled(&l)) {
                    break;
                }
            }
            let label = corpus.classes[stream.class as usize].clone();
            Outcome {
                known: known(&label),
                label,
                class: leader.and_then(|l| decision.class(&l)).map(|c| classes[c as usize].clone()),
                best: leader.map(|l| classes[l.class as usize].clone()),
                confidence: leader.map_or(0.0, |l| decision.confidence(&l)),
                scored: leader.map_or(0, |l| l.packets),
                capture: stream.capture,
            }
        })
        .collect()
}

/// What calibration said of the streams that it held out.
pub fn held_out(corpus: &Corpus, fitted: &Fitted) -> Vec<Outcome> {
    let name = |class: u16| corpus.classes[class as usize].clone();
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

/// Trains on all folds but one and tests on that, for each fold.
///
/// `fold_of` gives each stream's fold. With `untaught`, fold k is also never taught the classes c with c mod K = k, and is
/// tested on all their streams in the fold.
pub fn cross_validate(
    corpus: &Corpus,
    settings: &Settings,
    layout: &Layout,
    fold_of: &[Option<usize>],
    folds: usize,
    untaught: bool,
    tick: &(dyn Fn() + Sync),
) -> Vec<Outcome> {
    let mut all = Vec::new();
    for fold in 0..folds {
        let class_out = |class: u16| untaught && class as usize % folds == fold;
        let taught = |i: usize| fold_of[i].is_some_and(|f| f != fold) && !class_out(corpus.streams[i].class);
        let Fitted { network, decision, .. } = train::fit(corpus, settings, &taught, tick);
        let mut known: Vec<bool> = vec![false; corpus.classes.len()];
        for (i, stream) in corpus.streams.iter().enumerate() {
            known[stream.class as usize] |= taught(i);
        }
        let is_known = |label: &str| corpus.classes.binary_search_by(|c| c.as_str().cmp(label)).is_ok_and(|c| known[c]);
        let tested = (0..corpus.streams.len()).filter(|&i| fold_of[i] == Some(fold));
        all.extend(outcomes(corpus, &network, &decision, &corpus.classes, layout, &is_known, tested));
    }
    all
}
