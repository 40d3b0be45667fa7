//! When is a stream decided, and how sure are we?
//!
//! Evidence is the sum of margins u - theta over a stream's packets (Dynamic Confidence, arXiv 2303.10276, carried from time
//! steps to packets). The confidence is a logistic function of the leader's lead, fitted on streams that were not trained on.

use serde::{Deserialize, Serialize};

use super::{AssignmentError, Assignments};
use crate::snn::{ClassId, Network};

/// The calibrated part of a model: thresholds, confidence, stop rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DecisionData", into = "DecisionData")]
pub struct Decision {
    /// Threshold of each neuron, subtracted from its potential: the one it learned with. In the order of the network.
    pub theta: Vec<f32>,
    /// The class of each neuron.
    pub assignments: Assignments,
    /// Bounds of the margin that one packet adds: one odd packet must not outweigh a stream.
    pub clip: (f32, f32),
    /// What a margin counts below the lower bound, a unit: little, so that of many neurons that do not fire the nearest is
    /// still told from the others.
    pub slope: f32,
    /// Logistic weights of [`Leader::features`]; the first is the constant.
    pub confidence: Vec<f32>,
    /// For each class the confidence that its streams must earn to be named.
    pub accept: Vec<f32>,
    /// Confidence at which scoring stops before `give_up` packets, where the class's own threshold is not higher.
    pub stop_confidence: f32,
    /// Packets after which scoring stops.
    pub max_packets: u32,
    /// Whether packets with content take the place of those without: the evidence of a TCP stream's handshake is discarded when its first
    /// payload arrives, segments without payload add nothing after it, and a stream is not settled before. A handshake shows how a
    /// stream is carried and its ports, not what it carries.
    pub content_first: bool,
}

/// [`Decision`] in a model file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionData {
    theta: Vec<f32>,
    /// The classes of the neurons after the first of each class; absent where there are none, as before there were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<ClassId>,
    clip: (f32, f32),
    #[serde(default)]
    slope: f32,
    confidence: Vec<f32>,
    accept: Vec<f32>,
    stop: f32,
    give_up: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    content_first: bool,
}

impl TryFrom<DecisionData> for Decision {
    type Error = AssignmentError;

    fn try_from(data: DecisionData) -> Result<Self, AssignmentError> {
        let DecisionData { theta, more, clip, slope, confidence, accept, stop, give_up, content_first } = data;
        let assignments = Assignments::new(accept.len(), more)?;
        Ok(Self {
            theta,
            assignments,
            clip,
            slope,
            confidence,
            accept,
            stop_confidence: stop,
            max_packets: give_up,
            content_first,
        })
    }
}

impl From<Decision> for DecisionData {
    fn from(decision: Decision) -> Self {
        Self {
            theta: decision.theta,
            more: decision.assignments.extra().to_vec(),
            clip: decision.clip,
            slope: decision.slope,
            confidence: decision.confidence,
            accept: decision.accept,
            stop: decision.stop_confidence,
            give_up: decision.max_packets,
            content_first: decision.content_first,
        }
    }
}

/// Of [`Leader`]'s flags: the evidence comes from content.
const CONTENT: u8 = 1;
/// Of [`Leader`]'s flags: the ports decide.
const BY_PORTS: u8 = 2;

/// The class in front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leader {
    pub class: ClassId,
    pub evidence: f32,
    /// Lead over the second.
    pub lead: f32,
    pub packets: u32,
    /// [`CONTENT`] and [`BY_PORTS`]; one byte, as streams are many.
    flags: u8,
    /// What the ports of the last packet contribute to the potential of the class's first neuron.
    ports: PortContribution,
}

/// A contribution to a potential from -2 to 2, in one byte: steps of 1/64.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PortContribution(i8);

impl PortContribution {
    const STEPS: f32 = 64.0;

    fn new(value: f32) -> Self {
        Self((value * Self::STEPS).round() as i8)
    }

    fn get(self) -> f32 {
        f32::from(self.0) / Self::STEPS
    }
}

impl Leader {
    /// The leader of a stream without packets.
    pub const NONE: Self =
        Self { class: ClassId::new(0), evidence: 0.0, lead: 0.0, packets: 0, flags: 0, ports: PortContribution(0) };

    /// A leader whose evidence comes from content, to which the ports contribute nothing.
    pub fn new(class: ClassId, evidence: f32, lead: f32, packets: u32) -> Self {
        Self { class, evidence, lead, packets, flags: CONTENT, ..Self::NONE }
    }

    /// Whether the evidence comes from packets with content ([`Decision::content_first`]).
    pub fn content(&self) -> bool {
        self.flags & CONTENT != 0
    }

    /// Whether the class's first neuron would not have reached its threshold at the last packet without the packet's ports.
    pub fn by_ports(&self) -> bool {
        self.flags & BY_PORTS != 0
    }

    /// The same leader, its evidence coming from packets with content or from others.
    #[must_use]
    pub fn with_content(self, content: bool) -> Self {
        Self { flags: if content { self.flags | CONTENT } else { self.flags & !CONTENT }, ..self }
    }

    fn with_ports(self, contribution: f32, by_ports: bool) -> Self {
        let flags = if by_ports { self.flags | BY_PORTS } else { self.flags & !BY_PORTS };
        Self { ports: PortContribution::new(contribution), flags, ..self }
    }

    /// What confidence is computed from: constant, lead, mean evidence, packets, evidence, contribution of the ports. Streams without
    /// content have weights of their own, so either half is zero.
    pub fn features(&self) -> [f32; FEATURES] {
        let n = self.packets.max(1) as f32;
        let (lead, mean, ports) = (self.lead.max(0.0), self.evidence / n, self.ports.get());
        let features: [f32; FEATURES / 2] = [
            1.0,
            lead.ln_1p(),
            lead / n,
            mean,
            mean.min(0.0),
            n.ln(),
            self.evidence.max(0.0).ln_1p(),
            ports.max(0.0),
            ports.min(0.0),
        ];
        let mut all = [0.0; FEATURES];
        let (content, handshake) = all.split_at_mut(FEATURES / 2);
        if self.content() { content } else { handshake }.copy_from_slice(&features);
        all
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
fn foremost(evidence: &[f32]) -> Option<(ClassId, f32, f32)> {
    let first = largest(evidence);
    // Whole chunks are compared side by side, and only the one that holds it one by one.
    let (whole, _) = evidence.as_chunks::<WIDE>();
    let holds = |chunk: &[f32; WIDE]| chunk.map(|e| u32::from(e == first)).iter().sum::<u32>() > 0;
    let start = whole.iter().position(holds).unwrap_or(whole.len()) * WIDE;
    let class = start + evidence[start..].iter().position(|&e| e == first)?;
    let second = largest(&evidence[..class]).max(largest(&evidence[class + 1..]));
    Some((ClassId::from_index(class), evidence[class], second))
}

/// Length of [`Leader::features`].
pub const FEATURES: usize = 18;

/// No margin counts as lower than this: a neuron that was shown one packet (`spiked learn`) has no bound of its own.
const FAR: f32 = -4.0;

impl Decision {
    /// Raises the thresholds of a class's neurons.
    pub fn raise(&mut self, class: ClassId, by: f32) {
        for neuron in self.assignments.neurons_of(class) {
            self.theta[neuron.index()] += by;
        }
    }

    /// Adds one packet's margins. Of a class's neurons the one with the largest margin counts.
    #[inline(always)]
    fn add(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) {
        for (((e, &u), gain), theta) in evidence.iter_mut().zip(potentials).zip(network.scale()).zip(&self.theta) {
            *e += self.bounded(f32::from(u) * gain - theta);
        }
        let classes = evidence.len();
        for (neuron, class) in (classes..).zip(self.assignments.extra()) {
            let class = class.index();
            let margin = |neuron: usize| f32::from(potentials[neuron]) * network.scale()[neuron] - self.theta[neuron];
            evidence[class] += self.extra_margin(margin(class), margin(neuron));
        }
    }

    /// What a class's second neuron adds to the first one's bounded margin: what its own is larger.
    #[inline(always)]
    pub fn extra_margin(&self, first: f32, other: f32) -> f32 {
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
        for (((n, &u), gain), theta) in counts.iter_mut().zip(potentials).zip(network.scale()).zip(&self.theta) {
            *n += u64::from(f32::from(u) * gain >= *theta);
        }
    }

    /// Who leads after `packets` packets; `None` without classes.
    #[inline(always)]
    pub fn leader(&self, evidence: &[f32], packets: u32) -> Option<Leader> {
        let (class, first, second) = foremost(evidence)?;
        let lead = if second.is_finite() { first - second } else { first.max(0.0) };
        Some(Leader::new(class, first, lead, packets))
    }

    /// The leader with what the last packet's ports contribute to `potential`, that of the first neuron of its class, where confidence uses
    /// it: a host's packets have many ports.
    #[must_use]
    pub fn with_ports(&self, leader: Leader, potential: f32, contribution: f32) -> Leader {
        if !self.content_first {
            return leader;
        }
        let theta = self.theta[self.assignments.first_of(leader.class).index()];
        leader.with_ports(contribution, potential - contribution < theta)
    }

    /// Whether a packet, which has content or not, would add to the evidence of a stream whose leader so far is `before`.
    #[inline]
    pub fn counts(&self, before: Option<&Leader>, content: bool) -> bool {
        content || !self.content_first || before.is_none_or(|leader| !leader.content() && leader.packets < self.max_packets)
    }

    /// Adds one packet's potentials to the evidence of its stream and returns the leader; `before` is the leader so far. Evidence of
    /// packets without content is discarded first if the packet has content. Uses the CPU's widest vectors; no operation is fused, so
    /// the result is the same on every CPU.
    #[inline]
    pub fn accumulate(
        &self,
        network: &Network,
        potentials: &[i16],
        evidence: &mut [f32],
        before: Option<&Leader>,
        content: bool,
    ) -> Option<Leader> {
        let content = content || !self.content_first;
        let before = before.filter(|leader| leader.content() == content);
        if before.is_none() {
            evidence.fill(0.0);
        }
        let leader = self.accumulate_widest(network, potentials, evidence, before.map_or(0, |b| b.packets) + 1)?;
        Some(leader.with_content(content))
    }

    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls of functions that are compiled for what the CPU was found to have")
    )]
    #[inline]
    fn accumulate_widest(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has AVX-512F.
                return unsafe { self.accumulate_avx512(network, potentials, evidence, packets) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has AVX2.
                return unsafe { self.accumulate_avx2(network, potentials, evidence, packets) };
            }
        }
        self.accumulate_with(network, potentials, evidence, packets)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn accumulate_avx512(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.accumulate_with(network, potentials, evidence, packets)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn accumulate_avx2(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.accumulate_with(network, potentials, evidence, packets)
    }

    #[inline(always)]
    fn accumulate_with(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.add(network, potentials, evidence);
        self.leader(evidence, packets)
    }

    /// Probability that the leader is right, from 0 to 1.
    pub fn confidence(&self, leader: &Leader) -> f32 {
        let z: f32 = self.confidence.iter().zip(leader.features()).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-z).exp())
    }

    /// Whether the stream needs no further packet: its class is sure enough, or the packet limit is reached. Never before a packet with
    /// content was scored.
    pub fn settled(&self, leader: &Leader) -> bool {
        self.enough(leader, self.confidence(leader))
    }

    /// [`Decision::settled`] where the leader's confidence is known.
    pub fn enough(&self, leader: &Leader, confidence: f32) -> bool {
        leader.content()
            && (leader.packets >= self.max_packets || confidence >= self.stop_confidence.max(self.accept[leader.class.index()]))
    }

    /// The class, where it has earned its threshold.
    pub fn class(&self, leader: &Leader) -> Option<ClassId> {
        self.earned(leader, self.confidence(leader))
    }

    /// [`Decision::class`] where the leader's confidence is known.
    pub fn earned(&self, leader: &Leader, confidence: f32) -> Option<ClassId> {
        (confidence >= self.accept[leader.class.index()]).then_some(leader.class)
    }
}

#[cfg(test)]
mod tests {
    use super::{Assignments, Decision, FAR, Leader, foremost};
    use crate::snn::{ClassId, Network, NeuronId};
    use proptest::prelude::*;

    fn bounded(slope: f32) -> Decision {
        Decision {
            theta: vec![1.0],
            assignments: Assignments::one_each(1),
            clip: (-0.3, 1.5),
            slope,
            confidence: vec![],
            accept: vec![],
            stop_confidence: 1.0,
            max_packets: 1,
            content_first: false,
        }
    }

    fn plain(evidence: &[f32]) -> Option<(ClassId, f32, f32)> {
        let (mut first, mut second, mut class) = (f32::NEG_INFINITY, f32::NEG_INFINITY, None);
        for (c, &e) in (0u16..).zip(evidence) {
            if e > first {
                (second, first, class) = (first, e, Some(ClassId::new(c)));
            } else if e > second {
                second = e;
            }
        }
        class.map(|class| (class, first, second))
    }

    /// As model files hold it, for three classes of which the last and the first have a second neuron.
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
        fn the_foremost_is_found_side_by_side_as_one_by_one(evidence in prop::collection::vec((-6i8..6).prop_map(|e| f32::from(e) / 3.0), 0..130)) {
            prop_assert_eq!(foremost(&evidence), plain(&evidence));
        }

        #[test]
        fn of_a_classs_neurons_the_one_with_the_larger_margin_counts(potentials in prop::collection::vec(-300i16..300, 5), theta in prop::collection::vec(-1f32..2.0, 5)) {
            let network = Network::from_parts(1, 5, &[0; 5], vec![0.01; 5]);
            let decision = Decision { theta: theta.clone(), assignments: Assignments::new(3, [2, 0].map(ClassId::new)).unwrap(), accept: vec![0.5; 3], ..bounded(0.02) };
            let mut evidence = vec![1f32; 3];
            let before = Leader::new(ClassId::new(0), 1.0, 0.0, 1);
            decision.accumulate(&network, &potentials, &mut evidence, Some(&before), true);
            for (class, got) in ClassId::first(3).zip(&evidence) {
                let neurons = decision.assignments.neurons_of(class).map(NeuronId::index);
                let want = neurons.map(|n| decision.bounded(f32::from(potentials[n]) * 0.01 - theta[n])).fold(f32::MIN, f32::max);
                prop_assert!((got - 1.0 - want).abs() < 1e-5);
                prop_assert!(decision.assignments.neurons_of(class).all(|n| decision.assignments.class_of(n) == class));
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
