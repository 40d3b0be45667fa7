//! How sure is a model of two parts? What the parts say of a reference alone, without labels, says how often it is right.
//!
//! Each part's confidence is the chance that its own nearest class is a stream's, as if its classes were all that there are. A stream is
//! of one class at most, so beside each other the chances that it is of the first part's nearest class, of the second's, or of neither
//! are as o1 : o2 : 1, with o = p / (1 - p) the odds that each part gives. Confidence is fitted to a reference of which each stream
//! stands for all three, with these weights. Acceptance and the stop rule follow from the streams that a part names alone: they are
//! taken to be of that class, and those that neither names to be of none.

use crate::model::Model;
use crate::snn::ClassId;
use crate::stream::Decision;

use super::calibrate::{LeaderHistory, admit, confidence};
use super::held_out::{HeldOutPass, forward};
use super::ports::PortPool;
use super::variant::Variant;
use super::{Corpus, TrainSettings};

/// No part is taken to be surer than this, one way or the other.
const SURE: f32 = 0.999;
/// The class of a stream that is of none.
const NONE: ClassId = ClassId::new(u16::MAX);

/// What a part says of a stream: the nearest class as the joined model numbers it, its odds, and whether the part names it.
#[derive(Clone, Copy)]
struct PartOpinion {
    class: ClassId,
    odds: f32,
    named: bool,
}

fn word(model: &Model, part: &Model, corpus: &Corpus, stream: usize) -> Option<PartOpinion> {
    let leader = part.classifier().classify(corpus.volleys_of(&corpus.streams[stream]))?;
    let class = model.place(&part.classes[leader.class.index()]).ok()?;
    let p = part.decision.confidence(&leader);
    let sure = p.clamp(1.0 - SURE, SURE);
    Some(PartOpinion { class, odds: sure / (1.0 - sure), named: part.decision.class_at(&leader, p).is_some() })
}

/// Confidence, acceptance and stop rule of a model from what the parts that it was joined from say of a reference's streams. Its
/// neurons and their thresholds stay as they are.
pub fn agreed(model: &Model, parts: [&Model; 2], reference: &Corpus, settings: &TrainSettings) -> Decision {
    let (mut chances, mut named): (Vec<LeaderHistory>, Vec<LeaderHistory>) = (Vec::new(), Vec::new());
    let (most, seed, pool) = (settings.packets_per_stream, settings.seed, PortPool::new(reference, &[]));
    let by = HeldOutPass { network: &model.network, assignments: &model.decision.assignments, most, pool: &pool, seed };
    for stream in 0..reference.streams.len() {
        let leaders = forward(reference, &by, stream, Variant::AsIs, &|_| false)
            .map_or(Vec::new(), |p| p.trail(&model.decision, model.classes.len()));
        let trail = |truth: ClassId, weight: f32| LeaderHistory {
            stream,
            variant: Variant::AsIs,
            truth,
            taught: truth != NONE,
            weight,
            leaders: leaders.clone(),
        };
        let words: Vec<PartOpinion> = parts.iter().filter_map(|part| word(model, part, reference, stream)).collect();
        let all: f32 = 1.0 + words.iter().map(|w| w.odds).sum::<f32>();
        chances.extend(words.iter().map(|w| trail(w.class, w.odds / all)));
        chances.push(trail(NONE, 1.0 / all));
        let surest = words.iter().filter(|w| w.named).max_by(|a, b| a.odds.total_cmp(&b.odds));
        named.push(trail(surest.map_or(NONE, |w| w.class), 1.0));
    }
    let mut decision = model.decision.clone();
    decision.confidence = confidence(&chances);
    admit(model.key, settings, &named, &mut decision);
    decision
}
