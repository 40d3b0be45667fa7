//! Calibration of a model joined from two parts, on an unlabelled reference: from the answers of the parts alone.
//!
//! The confidence of a part is the probability that its nearest class is the stream's class, if no classes but its own existed. A stream
//! belongs to at most one class. The probabilities of the first part's nearest class, the second's, and neither are therefore in the
//! ratio o1 : o2 : 1, where o = p / (1 - p) are the odds of each part. Confidence is fitted with each reference stream counted as all
//! three, with these weights. For acceptance and the stop rule, a stream is taken to be of the class that a part names, and of no class
//! if neither part names one.

use crate::model::Model;
use crate::snn::ClassId;
use crate::stream::Decision;

use super::calibrate::{LeaderHistory, confidence, set_acceptance};
use super::held_out::{HeldOutPass, forward};
use super::ports::PortPool;
use super::variant::Variant;
use super::{Corpus, TrainSettings};

/// Bound of the confidence of a part; confidences below 1 minus this value are raised to it.
const SURE: f32 = 0.999;
/// The class of a stream that belongs to no class.
const NONE: ClassId = ClassId::new(u16::MAX);

/// Answer of a part for a stream.
#[derive(Clone, Copy)]
struct PartOpinion {
    /// The nearest class, as the joined model numbers it.
    class: ClassId,
    /// Odds of that class, p / (1 - p).
    odds: f32,
    /// Whether the part names the stream.
    named: bool,
}

fn opinion(model: &Model, part: &Model, corpus: &Corpus, stream: usize) -> Option<PartOpinion> {
    let leader = part.classifier().classify(corpus.volleys_of(&corpus.streams[stream]))?;
    let class = model.place(&part.classes[leader.class.index()]).ok()?;
    let p = part.decision.confidence(&leader);
    let sure = p.clamp(1.0 - SURE, SURE);
    Some(PartOpinion { class, odds: sure / (1.0 - sure), named: part.decision.class_at(&leader, p).is_some() })
}

/// Confidence, acceptance and stop rule of a model from the answers of the parts that it was joined from, on the streams of a reference.
/// Neurons and thresholds do not change.
pub fn calibrate_joined(model: &Model, parts: [&Model; 2], reference: &Corpus, settings: &TrainSettings) -> Decision {
    let (mut chances, mut named): (Vec<LeaderHistory>, Vec<LeaderHistory>) = (Vec::new(), Vec::new());
    let (most, seed, pool) = (settings.packets_per_stream, settings.seed, PortPool::new(reference, &[]));
    let by = HeldOutPass { network: &model.network, assignments: &model.decision.assignments, most, pool: &pool, seed };
    for stream in 0..reference.streams.len() {
        let leaders = forward(reference, &by, stream, Variant::AsIs, &|_| false)
            .map_or(Vec::new(), |p| p.trail(&model.decision, model.classes.len()));
        let trail = |truth: ClassId, weight: f32| LeaderHistory {
            stream,
            capture: reference.streams[stream].capture,
            variant: Variant::AsIs,
            truth,
            known: truth != NONE,
            weight,
            leaders: leaders.clone(),
        };
        let opinions: Vec<PartOpinion> = parts.iter().filter_map(|part| opinion(model, part, reference, stream)).collect();
        let all: f32 = 1.0 + opinions.iter().map(|w| w.odds).sum::<f32>();
        chances.extend(opinions.iter().map(|w| trail(w.class, w.odds / all)));
        chances.push(trail(NONE, 1.0 / all));
        let surest = opinions.iter().filter(|w| w.named).max_by(|a, b| a.odds.total_cmp(&b.odds));
        named.push(trail(surest.map_or(NONE, |w| w.class), 1.0));
    }
    let mut decision = model.decision.clone();
    decision.confidence = confidence(&chances);
    set_acceptance(model.key, settings, &named, &mut decision);
    decision
}
