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
    /// Threshold of each neuron, subtracted from its potential: the one it learned with. First one neuron a class, in the order of
    /// the classes, then those of `more`.
    pub theta: Vec<f32>,
    /// The classes of the neurons beyond the first of each class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<u16>,
    /// Bounds of the margin that one packet adds: one odd packet must not outweigh a stream.
    pub clip: (f32, f32),
    /// What a margin counts below the lower bound, a unit: little, so that of many neurons that do not fire the nearest is
    /// still told from the others.
    #[serde(default)]
    pub slope: f32,
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
        let (lead, mean) = (self.lead.max(0.0), self.evidence / n);
        [1.0, lead.ln_1p(), lead / n, mean, mean.min(0.0), n.ln(), self.evidence.max(0.0).ln_1p()]
    }
}

/// Columns looked at side by side: the compiler makes vectors of them.
const WIDE: usize = 8;

/// Of two numbers, neither of which is none, the larger: one instruction, where [`f32::max`] would look for such as well.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest of all.
#[inline(always)]
fn largest(evidence: &[f32]) -> f32 {
    let (whole, rest) = evidence.as_chunks::<WIDE>();
    let mut most = [f32::NEG_INFINITY; WIDE];
    for chunk in whole {
        for (most, &e) in most.iter_mut().zip(chunk) {
            *most = larger(e, *most);
        }
    }
    let fours: [f32; 4] = std::array::from_fn(|i| larger(most[i], most[i + 4]));
    let most = larger(larger(fours[0], fours[1]), larger(fours[2], fours[3]));
    rest.iter().fold(most, |most, &e| larger(e, most))
}

/// The class of the largest evidence (the first of equals), that evidence and the second largest.
#[inline(always)]
fn foremost(evidence: &[f32]) -> Option<(u16, f32, f32)> {
    let first = largest(evidence);
    // Whole chunks are compared side by side, and only the one that holds it one by one.
    let (whole, _) = evidence.as_chunks::<WIDE>();
    let holds = |chunk: &[f32; WIDE]| chunk.map(|e| u32::from(e == first)).iter().sum::<u32>() > 0;
    let start = whole.iter().position(holds).unwrap_or(whole.len()) * WIDE;
    let class = start + evidence[start..].iter().position(|&e| e == first)?;
    let second = largest(&evidence[..class]).max(largest(&evidence[class + 1..]));
    Some((class as u16, evidence[class], second))
}

/// Length of [`Leader::features`].
pub const FEATURES: usize = 7;

/// No margin counts as lower than this: a neuron that was shown one packet (`spiked learn`) has no bound of its own.
const FAR: f32 = -4.0;

impl Decision {
    /// The neurons of a class, by their place in the network.
    pub fn neurons_of(&self, class: usize) -> impl Iterator<Item = usize> {
        let more = (self.accept.len()..).zip(&self.more).filter(move |(_, c)| usize::from(**c) == class);
        std::iter::once(class).chain(more.map(|(neuron, _)| neuron))
    }

    /// The class of a neuron.
    pub fn class_of(&self, neuron: usize) -> usize {
        neuron.checked_sub(self.accept.len()).map_or(neuron, |at| usize::from(self.more[at]))
    }

    /// Raises the thresholds of a class's neurons.
    pub fn raise(&mut self, class: usize, by: f32) {
        for neuron in self.neurons_of(class).collect::<Vec<_>>() {
            self.theta[neuron] += by;
        }
    }

    /// Adds one packet's margins. Of a class's neurons the one with the largest margin counts.
    #[inline(always)]
    fn add(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) {
        for (((e, &u), gain), theta) in evidence.iter_mut().zip(potentials).zip(network.gain()).zip(&self.theta) {
            *e += self.bounded(f32::from(u) * gain - theta);
        }
        let classes = evidence.len();
        for (neuron, &class) in (classes..).zip(&self.more) {
            let margin = |neuron: usize| f32::from(potentials[neuron]) * network.gain()[neuron] - self.theta[neuron];
            evidence[class as usize] += self.gained(margin(class as usize), margin(neuron));
        }
    }

    /// What a class's second neuron adds to the first one's bounded margin: what its own is larger.
    #[inline(always)]
    pub fn gained(&self, first: f32, other: f32) -> f32 {
        (self.bounded(other) - self.bounded(first)).max(0.0)
    }

    /// What one packet's margin adds to the evidence.
    #[inline(always)]
    pub fn bounded(&self, margin: f32) -> f32 {
        let (low, high) = self.clip;
        // Below the lower bound the line is flatter, and lies above the margin itself.
        let flat = low + self.slope * (larger(margin, FAR) - low);
        let most = larger(margin, flat);
        if most < high { most } else { high }
    }

    /// The least that one packet can add.
    pub fn least(&self) -> f32 {
        self.bounded(f32::NEG_INFINITY)
    }

    /// Counts the spikes of one packet, a neuron each.
    pub fn count_spikes(&self, network: &Network, potentials: &[i16], counts: &mut [u64]) {
        for (((n, &u), gain), theta) in counts.iter_mut().zip(potentials).zip(network.gain()).zip(&self.theta) {
            *n += u64::from(f32::from(u) * gain >= *theta);
        }
    }

    /// Who leads after `packets` packets; `None` without classes.
    #[inline(always)]
    pub fn leader(&self, evidence: &[f32], packets: u32) -> Option<Leader> {
        let (class, first, second) = foremost(evidence)?;
        let lead = if second.is_finite() { first - second } else { first.max(0.0) };
        Some(Leader { class, evidence: first, lead, packets })
    }

    /// Adds one packet's potentials to the evidence of its stream and says who leads now; `before` led before it. As wide as the CPU's
    /// vectors are; nothing is fused, so it says the same on all.
    #[inline]
    pub fn hear(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], before: Option<&Leader>) -> Option<Leader> {
        let packets = before.map_or(0, |b| b.packets) + 1;
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has what the function is compiled for.
                return unsafe { self.hear_avx512(network, potentials, evidence, packets) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { self.hear_avx2(network, potentials, evidence, packets) };
            }
        }
        self.hear_with(network, potentials, evidence, packets)
    }

    /// # Safety
    /// The CPU has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn hear_avx512(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.hear_with(network, potentials, evidence, packets)
    }

    /// # Safety
    /// The CPU has AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn hear_avx2(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.hear_with(network, potentials, evidence, packets)
    }

    #[inline(always)]
    fn hear_with(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.add(network, potentials, evidence);
        self.leader(evidence, packets)
    }

    /// Probability that the leader is right, from 0 to 1.
    pub fn confidence(&self, leader: &Leader) -> f32 {
        let z: f32 = self.confidence.iter().zip(leader.features()).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-z).exp())
    }

    /// Whether the stream needs no further packet: it has earned its class beyond doubt, or has had its chance.
    pub fn settled(&self, leader: &Leader) -> bool {
        self.enough(leader, self.confidence(leader))
    }

    /// [`Decision::settled`] where the leader's confidence is known.
    pub fn enough(&self, leader: &Leader, confidence: f32) -> bool {
        leader.packets >= self.give_up || confidence >= self.stop.max(self.accept[leader.class as usize])
    }

    /// The class, where it has earned its threshold.
    pub fn class(&self, leader: &Leader) -> Option<u16> {
        self.earned(leader, self.confidence(leader))
    }

    /// [`Decision::class`] where the leader's confidence is known.
    pub fn earned(&self, leader: &Leader, confidence: f32) -> Option<u16> {
        (confidence >= self.accept[leader.class as usize]).then_some(leader.class)
    }
}

#[cfg(test)]
mod tests {
    use super::{Decision, FAR, foremost};
    use crate::snn::Network;
    use proptest::prelude::*;

    fn bounded(slope: f32) -> Decision {
        Decision {
            theta: vec![1.0],
            more: vec![],
            clip: (-0.3, 1.5),
            slope,
            confidence: vec![],
            accept: vec![],
            stop: 1.0,
            give_up: 1,
        }
    }

    fn plain(evidence: &[f32]) -> Option<(u16, f32, f32)> {
        let (mut first, mut second, mut class) = (f32::NEG_INFINITY, f32::NEG_INFINITY, None);
        for (c, &e) in (0u16..).zip(evidence) {
            if e > first {
                (second, first, class) = (first, e, Some(c));
            } else if e > second {
                second = e;
            }
        }
        class.map(|class| (class, first, second))
    }

    proptest! {
        #[test]
        fn the_foremost_is_found_side_by_side_as_one_by_one(evidence in prop::collection::vec((-6i8..6).prop_map(|e| f32::from(e) / 3.0), 0..130)) {
            prop_assert_eq!(foremost(&evidence), plain(&evidence));
        }

        #[test]
        fn of_a_classs_neurons_the_one_with_the_larger_margin_counts(potentials in prop::collection::vec(-300i16..300, 5), theta in prop::collection::vec(-1f32..2.0, 5)) {
            let network = Network::from_parts(1, 5, &[0; 5], vec![0.01; 5]);
            let decision = Decision { theta: theta.clone(), more: vec![2, 0], accept: vec![0.5; 3], ..bounded(0.02) };
            let mut evidence = vec![1f32; 3];
            decision.hear(&network, &potentials, &mut evidence, None);
            for (class, got) in evidence.iter().enumerate() {
                let neurons = decision.neurons_of(class);
                let want = neurons.map(|n| decision.bounded(f32::from(potentials[n]) * 0.01 - theta[n])).fold(f32::MIN, f32::max);
                prop_assert!((got - 1.0 - want).abs() < 1e-5);
                prop_assert!(decision.neurons_of(class).all(|n| decision.class_of(n) == class));
            }
        }

        #[test]
        fn a_margin_adds_more_the_larger_it_is_and_never_beyond_its_bounds(a in -99f32..9.0, b in -99f32..9.0, slope in 0f32..0.1) {
            let decision = bounded(slope);
            let (low, high) = (decision.bounded(a.min(b)), decision.bounded(a.max(b)));
            prop_assert!(decision.least() <= low && low <= high && high <= 1.5);
            prop_assert!(decision.least() >= -0.3 + slope * FAR);
            if (-0.3..1.5).contains(&a) {
                prop_assert_eq!(decision.bounded(a), a);
            }
            prop_assert_eq!(bounded(0.0).bounded(a), a.clamp(-0.3, 1.5));
            if slope > 0.001 && a.max(b) < -0.3 && a.min(b) > FAR && (a - b).abs() > 0.01 {
                prop_assert!(low < high, "the nearer neuron is told from the farther one");
            }
        }
    }
}
