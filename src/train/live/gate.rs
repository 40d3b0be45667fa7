//! Gate for new neurons: the accuracy of a model, with and without the neuron, on streams that were held back from training.

use crate::model::Model;
use crate::stream::Leader;

use super::super::calibrate::{Claim, MAX_ACCEPTANCE, MIN_ACCEPTANCE, raise_acceptance};
use super::{Reservoir, StreamSlots};

/// The leader of a stream after its last volley, scored as in inference; `slots` is `[volley][slot]`.
pub(super) fn classify(model: &Model, slots: &[u16]) -> Option<Leader> {
    let volleys = slots.chunks_exact(model.layout.slots().len());
    model.classifier().classify(volleys)
}

/// The class that a model gives a stream, given its slot values, `[volley][slot]`; `None` for an unknown stream.
pub fn named<'a>(model: &'a Model, slots: &[u16]) -> Option<&'a str> {
    classify(model, slots).and_then(|leader| model.decision.class(&leader)).map(|class| model.classes[class.index()].as_str())
}

/// Accuracy of a model on held-back streams for one class. The positive streams are those of the class, the negative ones all others; the
/// two shares are kept apart so that neither kind outweighs the other by number. Shares are 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Share of the positive streams that are given the class.
    pub positive: f64,
    /// Share of the negative streams that are given their own label; where the model lacks the label, that are not given the class.
    pub negative: f64,
    /// Share of the negative streams that are given the class.
    pub claimed: f64,
    /// Number of positive streams.
    pub streams: u32,
}

impl Accuracy {
    /// Mean of the shares of positive and negative streams that are right.
    pub fn mean(self) -> f64 {
        f64::midpoint(self.positive, self.negative)
    }
}

/// The leaders that a model gives to all held-back streams.
pub(super) struct GateAnswers<'a> {
    model: &'a Model,
    /// Label and leader of each stream.
    all: Vec<(&'a str, Option<Leader>)>,
}

impl<'a> GateAnswers<'a> {
    pub fn of(model: &'a Model, held: &'a Reservoir) -> Self {
        let all = held.iter().flat_map(|(label, streams)| streams.iter().map(move |s| (label, classify(model, s))));
        Self { model, all: all.collect() }
    }

    /// The accuracy for one class, with the acceptance thresholds `accept`, one per class, in place of the model's.
    pub fn accuracy(&self, class: &str, accept: &[f32]) -> Accuracy {
        let (mut positive, mut negative, mut claimed) = ((0u32, 0u32), (0u32, 0u32), 0);
        for (label, leader) in &self.all {
            let known = self.model.classes.iter().any(|c| c == label);
            let accepted = |l: &Leader| self.model.decision.confidence(l) >= accept[l.class.index()];
            let name = leader.filter(accepted).map(|l| self.model.classes[l.class.index()].as_str());
            let right = if known { name == Some(label) } else { name != Some(class) && *label != class };
            let (hit, all) = if *label == class { &mut positive } else { &mut negative };
            *all += 1;
            *hit += u32::from(right);
            claimed += u32::from(*label != class && name == Some(class));
        }
        let share = |(hit, all): (u32, u32)| f64::from(hit) / f64::from(all.max(1));
        Accuracy {
            positive: share(positive),
            negative: share(negative),
            claimed: share((claimed, negative.1)),
            streams: positive.1,
        }
    }

    /// The acceptance threshold of a class. The model's confidence was fitted without this neuron, so its threshold may be lower than that
    /// of the other classes: the confidence that all but a few of its held-back positive streams reach. It is raised while the class would
    /// claim too many of the negative streams, as in calibration. `usual` is the lowest threshold of the other classes.
    pub fn acceptance(&self, class: &str, usual: f32) -> f32 {
        let led = self.all.iter().filter_map(|(label, leader)| {
            let leader = leader.filter(|l| self.model.classes[l.class.index()] == class)?;
            Some(Claim { confidence: self.model.decision.confidence(&leader), right: *label == class, share: 1.0 })
        });
        let claims: Vec<Claim> = led.collect();
        let mut positive: Vec<f32> = claims.iter().filter(|c| c.right).map(|c| c.confidence).collect();
        positive.sort_by(f32::total_cmp);
        let reached = positive.get(positive.len() / ONE_BELOW_IN).map_or(MAX_ACCEPTANCE, |&confidence| {
            let logit = (confidence / (1.0 - confidence)).ln() - SLACK;
            1.0 / (1.0 + (-logit).exp())
        });
        // However few the claims are: nothing else bounds what a class that is learned from traffic may claim.
        raise_acceptance(usual.min(reached).clamp(MIN_ACCEPTANCE, MAX_ACCEPTANCE), &claims, 0.0)
    }
}

/// Number of the streams that the model gives the class.
pub(super) fn count_named(model: &Model, class: &str, streams: &[StreamSlots]) -> usize {
    streams.iter().filter(|stream| named(model, stream) == Some(class)).count()
}

/// One positive stream in this many may stay below the acceptance threshold.
const ONE_BELOW_IN: usize = 20;
/// Margin below the confidence of the held-back streams, in logits: the streams are few.
const SLACK: f32 = 0.5;
