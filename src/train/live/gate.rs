//! Does the model do worse with the new neuron? It is asked about streams that were held back.

use crate::model::Model;
use crate::stream::Leader;

use super::super::calibrate::{Claim, LEAST, SUREST, raised};
use super::{Reservoir, StreamSlots};

/// What a model says of a stream after its volleys, scored as in reading.
pub(super) fn classify(model: &Model, slots: &[u16]) -> Option<Leader> {
    let volleys = slots.chunks_exact(model.layout.slots().len());
    model.classifier().classify(volleys)
}

/// The class that a model gives a stream, of which the slot values of its packets are known, one after another.
pub fn named<'a>(model: &'a Model, slots: &[u16]) -> Option<&'a str> {
    classify(model, slots).and_then(|leader| model.decision.class(&leader)).map(|class| model.classes[class.index()].as_str())
}

/// How a model does on streams that were held back, for one class: the mean of two shares, so that neither kind of stream drowns
/// the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Of the class's own streams, those that are given it.
    pub own: f64,
    /// Of the other streams, those that are given their label; of those whose label the model does not have, those that are not
    /// given the class.
    pub foreign: f64,
    /// Of the other streams, those that are given the class.
    pub claimed: f64,
    /// The class's own streams.
    pub streams: u32,
}

impl Accuracy {
    pub fn mean(self) -> f64 {
        f64::midpoint(self.own, self.foreign)
    }
}

/// What a model says of every stream that was held back.
pub(super) struct GateAnswers<'a> {
    model: &'a Model,
    /// SampleLabel, leader.
    all: Vec<(&'a str, Option<Leader>)>,
}

impl<'a> GateAnswers<'a> {
    pub fn of(model: &'a Model, held: &'a Reservoir) -> Self {
        let all = held.iter().flat_map(|(label, streams)| streams.iter().map(move |s| (label, classify(model, s))));
        Self { model, all: all.collect() }
    }

    /// For one class, with the acceptance of `accept` where that is another than the model's.
    pub fn accuracy(&self, class: &str, accept: &[f32]) -> Accuracy {
        let (mut own, mut foreign, mut claimed) = ((0u32, 0u32), (0u32, 0u32), 0);
        for (label, leader) in &self.all {
            let known = self.model.classes.iter().any(|c| c == label);
            let earned = |l: &Leader| self.model.decision.confidence(l) >= accept[l.class.index()];
            let name = leader.filter(earned).map(|l| self.model.classes[l.class.index()].as_str());
            let right = if known { name == Some(label) } else { name != Some(class) && *label != class };
            let (hit, all) = if *label == class { &mut own } else { &mut foreign };
            *all += 1;
            *hit += u32::from(right);
            claimed += u32::from(*label != class && name == Some(class));
        }
        let share = |(hit, all): (u32, u32)| f64::from(hit) / f64::from(all.max(1));
        Accuracy { own: share(own), foreign: share(foreign), claimed: share((claimed, foreign.1)), streams: own.1 }
    }

    /// The confidence that a class's streams must earn. The model's confidence was fitted on what it was trained with, so the class
    /// may be asked for less than others: what all but a few of its own streams that were held back have earned. It is asked for
    /// more where it would claim too many of the other streams (as in calibration). `usual` is what others are asked for at least.
    pub fn acceptance(&self, class: &str, usual: f32) -> f32 {
        let claimed = self.all.iter().filter_map(|(label, leader)| {
            let leader = leader.filter(|l| self.model.classes[l.class.index()] == class)?;
            Some(Claim { confidence: self.model.decision.confidence(&leader), right: *label == class, share: 1.0 })
        });
        let claims: Vec<Claim> = claimed.collect();
        let mut own: Vec<f32> = claims.iter().filter(|c| c.right).map(|c| c.confidence).collect();
        own.sort_by(f32::total_cmp);
        let earned = own.get(own.len() / FEW).map_or(SUREST, |&confidence| {
            let logit = (confidence / (1.0 - confidence)).ln() - SLACK;
            1.0 / (1.0 + (-logit).exp())
        });
        // However few they are: nothing else bounds what a class that is taught while it runs may claim.
        raised(usual.min(earned).clamp(LEAST, SUREST), &claims, 0.0)
    }
}

/// How many of some streams the model gives the class.
pub(super) fn right(model: &Model, class: &str, streams: &[StreamSlots]) -> usize {
    streams.iter().filter(|stream| named(model, stream) == Some(class)).count()
}

/// One own stream in so many may earn less than what is asked for.
const FEW: usize = 20;
/// What a stream may fall short of those held back, in logits: they are few.
const SLACK: f32 = 0.5;
