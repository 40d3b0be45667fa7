//! Decision of a stream: its class, the confidence in it, and when scoring stops.
//!
//! Input: the [`Leader`] that the evidence yields. The confidence is a logistic function of the leader's features, fitted on streams that
//! the network was not trained on.

use serde::{Deserialize, Serialize};

use super::approximate::exp_below;
use super::{AssignmentError, Assignments, Leader};
use crate::snn::ClassId;

/// The calibrated part of a model: thresholds, bounds of evidence, confidence, and stop rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DecisionData", into = "DecisionData")]
pub struct Decision {
    /// Threshold of each neuron, `[neuron]`, subtracted from its potential; the one that it learned with.
    pub theta: Vec<f32>,
    /// The class of each neuron.
    pub assignments: Assignments,
    /// Bounds of what one packet adds to the evidence of a class, so that one odd packet cannot outweigh a stream.
    pub clip: (f32, f32),
    /// Slope of the evidence below the lower bound, per unit of margin, 0 to 1: small, but enough to rank neurons that do not spike.
    pub slope: f32,
    /// Logistic weights of [`Leader::features`]; the first is the constant. Missing ones are zero.
    pub confidence: Vec<f32>,
    /// Confidence from which a stream is assigned each class, `[class]`.
    pub accept: Vec<f32>,
    /// Confidence at which scoring stops before `max_packets` packets, unless the class's own `accept` is higher.
    pub stop_confidence: f32,
    /// Packets after which scoring stops.
    pub max_packets: u32,
    /// Whether packets with content replace packets without: the evidence of a TCP stream's handshake is discarded when its first payload
    /// arrives, segments without payload add nothing after it, and a stream is not settled before it. A handshake shows how a stream is
    /// carried and its ports, not what it carries.
    pub content_first: bool,
}

/// A [`Decision`] as model files hold it, under the names that they use.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionData {
    theta: Vec<f32>,
    /// The classes of the extra neurons: those after the first of each class. Older files, and files without any, lack it.
    #[serde(rename = "more", default, skip_serializing_if = "Vec::is_empty")]
    extra: Vec<ClassId>,
    clip: (f32, f32),
    #[serde(default)]
    slope: f32,
    confidence: Vec<f32>,
    accept: Vec<f32>,
    #[serde(rename = "stop")]
    stop_confidence: f32,
    #[serde(rename = "give_up")]
    max_packets: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    content_first: bool,
}

impl TryFrom<DecisionData> for Decision {
    type Error = AssignmentError;

    fn try_from(data: DecisionData) -> Result<Self, AssignmentError> {
        let DecisionData { theta, extra, clip, slope, confidence, accept, stop_confidence, max_packets, content_first } = data;
        let assignments = Assignments::new(accept.len(), extra)?;
        Ok(Self { theta, assignments, clip, slope, confidence, accept, stop_confidence, max_packets, content_first })
    }
}

impl From<Decision> for DecisionData {
    fn from(decision: Decision) -> Self {
        let Decision { theta, assignments, clip, slope, confidence, accept, stop_confidence, max_packets, content_first } =
            decision;
        let extra = assignments.extra().to_vec();
        Self { theta, extra, clip, slope, confidence, accept, stop_confidence, max_packets, content_first }
    }
}

impl Decision {
    /// Raises the thresholds of a class's neurons.
    pub fn raise(&mut self, class: ClassId, by: f32) {
        for neuron in self.assignments.neurons_of(class) {
            self.theta[neuron.index()] += by;
        }
    }

    /// Confidence in the leader: the probability that its class is right, 0 to 1, for a stream of one of the classes.
    pub fn confidence(&self, leader: &Leader) -> f32 {
        logistic(leader.weighted_features(&self.confidence))
    }

    /// The confidence in the leader if it is at least `least`. Most leaders are far below the confidence that is asked for: a bound without
    /// an exponential shows it.
    #[inline]
    pub fn confidence_from(&self, leader: &Leader, least: f32) -> Option<f32> {
        // More than what rounding changes in `logistic`.
        const ROUNDING: f32 = 1e-6;
        let log_odds = leader.weighted_features(&self.confidence);
        if least * (1.0 + exp_below(-log_odds)) > 1.0 + ROUNDING {
            return None;
        }
        Some(logistic(log_odds)).filter(|&confidence| confidence >= least)
    }

    /// The confidence in the leader if scoring of the stream stops: the confidence is high enough, or the limit of packets is reached. Never
    /// before a packet with content was scored.
    #[inline]
    pub fn settled(&self, leader: &Leader) -> Option<f32> {
        if !leader.content() {
            return None;
        }
        if leader.packets() >= self.max_packets {
            return Some(self.confidence(leader));
        }
        self.confidence_from(leader, self.stop_confidence.max(self.accept[leader.class.index()]))
    }

    /// The class of the stream: the leader's, if the confidence reaches the threshold of that class and a packet had content. How a connection is
    /// opened, and at which port, does not tell what it would have carried.
    pub fn class(&self, leader: &Leader) -> Option<ClassId> {
        self.class_at(leader, self.confidence(leader))
    }

    /// [`Decision::class`] with the leader's confidence as an argument.
    pub fn class_at(&self, leader: &Leader, confidence: f32) -> Option<ClassId> {
        (confidence >= self.accept[leader.class.index()] && leader.content()).then_some(leader.class)
    }
}

/// The probability of what has these log odds.
fn logistic(log_odds: f32) -> f32 {
    1.0 / (1.0 + (-log_odds).exp())
}

#[cfg(test)]
mod tests {
    use super::{Assignments, Decision};
    use crate::snn::ClassId;
    use crate::stream::{FEATURES, Leader};
    use proptest::prelude::*;

    /// A decision in a model file: three classes; the last and the first have a second neuron.
    const IN_A_FILE: &str = r#"{"theta":[1.0,0.9,1.1,1.2,0.8],"more":[2,0],"clip":[-0.3,1.5],"slope":0.02,"confidence":[0.5],"accept":[0.5,0.6,0.7],"stop":0.95,"give_up":16}"#;

    #[test]
    fn a_decision_is_written_as_it_was_read() {
        let decision: Decision = serde_json::from_str(IN_A_FILE).unwrap();
        assert_eq!(decision.assignments, Assignments::new(3, [2, 0].map(ClassId::new)).unwrap());
        assert_eq!(serde_json::to_string(&decision).unwrap(), IN_A_FILE);
        let single = IN_A_FILE.replace(r#""more":[2,0],"#, "");
        let decision: Decision = serde_json::from_str(&single).unwrap();
        assert!(decision.assignments.is_one_each());
        assert_eq!(serde_json::to_string(&decision).unwrap(), single);
        let error = serde_json::from_str::<Decision>(&IN_A_FILE.replace("[2,0]", "[2,3]")).unwrap_err();
        assert!(error.to_string().contains("class 3, and there are 3 classes"), "{error}");
    }

    proptest! {
        #[test]
        fn a_confidence_is_left_out_only_where_it_is_below_the_least(
            weights in prop::collection::vec(-4f32..4.0, 0..=FEATURES),
            (evidence, lead, packets, content) in (-9f32..30.0, 0f32..30.0, 1u32..40, any::<bool>()),
            least in prop_oneof![0f32..1.01, 0.95f32..=1.0, Just(2.0)],
            near in -2i32..=2,
        ) {
            let decision = Decision { confidence: weights, ..serde_json::from_str(IN_A_FILE).unwrap() };
            let leader = Leader::new(ClassId::new(0), evidence, lead, packets).with_content(content);
            let confidence = decision.confidence(&leader);
            let beside = f32::from_bits(confidence.to_bits().saturating_add_signed(near));
            for least in [least, beside] {
                prop_assert_eq!(decision.confidence_from(&leader, least), (confidence >= least).then_some(confidence));
            }
        }
    }
}
