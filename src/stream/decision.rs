//! When is a stream decided, and how sure are we?
//!
//! Evidence is the sum of margins u - theta over a stream's packets (Dynamic Confidence, arXiv 2303.10276, carried from time
//! steps to packets). The confidence is a logistic function of the leader's lead, fitted on streams that were not trained on.

use serde::{Deserialize, Serialize};

use crate::snn::Network;

/// The calibrated part of a model: thresholds, confidence, stop rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Threshold of each neuron, subtracted from its potential: the one it learned with.
    pub theta: Vec<f32>,
    /// Smallest and largest margin that one packet may add: one odd packet must not outweigh a stream.
    pub clip: (f32, f32),
    /// Logistic weights of [`Leader::features`]; the first is the constant.
    pub confidence: Vec<f32>,
    /// For each class the confidence that its streams must earn to be named.
    pub accept: Vec<f32>,
    /// Confidence at which scoring stops before `give_up` packets, where the class's own threshold is not higher.
    pub stop: f32,
    /// Packets after which scoring stops.
    pub give_up: u32,
}

/// The class in front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leader {
    pub class: u16,
    pub evidence: f32,
    /// Lead over the second.
    pub lead: f32,
    pub packets: u32,
}

impl Leader {
    /// What confidence is made of: constant, lead, mean evidence, root of the packets.
    pub fn features(&self) -> [f32; FEATURES] {
        let n = self.packets.max(1) as f32;
        let lead = self.lead.max(0.0);
        [1.0, (lead).ln_1p(), lead / n, self.evidence / n, (self.evidence / n).min(0.0), n.ln(), (self.evidence.max(0.0)).ln_1p()]
    }
}

/// Length of [`Leader::features`].
pub const FEATURES: usize = 7;

impl Decision {
    /// Adds one packet's potentials to the evidence.
    #[inline]
    pub fn add(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) {
        let (low, high) = self.clip;
        for (((e, &u), gain), theta) in evidence.iter_mut().zip(potentials).zip(network.gain()).zip(&self.theta) {
            *e += (f32::from(u) * gain - theta).clamp(low, high);
        }
    }

    /// Who leads after `packets` packets; `None` without classes.
    pub fn leader(&self, evidence: &[f32], packets: u32) -> Option<Leader> {
        let (mut first, mut second, mut class) = (f32::NEG_INFINITY, f32::NEG_INFINITY, None);
        for (c, &e) in evidence.iter().enumerate() {
            if e > first {
                (second, first, class) = (first, e, Some(c as u16));
            } else if e > second {
                second = e;
            }
        }
        let lead = if second.is_finite() { first - second } else { first.max(0.0) };
        class.map(|class| Leader { class, evidence: first, lead, packets })
    }

    /// Probability that the leader is right, from 0 to 1.
    pub fn confidence(&self, leader: &Leader) -> f32 {
        let z: f32 = self.confidence.iter().zip(leader.features()).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-z).exp())
    }

    /// Whether the stream needs no further packet: it has earned its class beyond doubt, or has had its chance.
    pub fn settled(&self, leader: &Leader) -> bool {
        leader.packets >= self.give_up || self.confidence(leader) >= self.stop.max(self.accept[leader.class as usize])
    }

    /// The class, where it has earned its threshold.
    pub fn class(&self, leader: &Leader) -> Option<u16> {
        (self.confidence(leader) >= self.accept[leader.class as usize]).then_some(leader.class)
    }
}
