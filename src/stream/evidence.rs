//! Accumulation of evidence: the margins of a stream's packets to the leading class.
//!
//! The evidence of a class is the sum of its margins, potential minus threshold theta, over the packets of a stream (Dynamic Confidence,
//! arXiv 2303.10276, with packets in place of time steps).

use super::{Decision, Leader};
use crate::encode::ActiveInputs;
use crate::snn::{ClassId, Network};

/// Classes that are compared side by side; the compiler turns them into vectors.
const WIDE: usize = 16;

/// Margins below this count as this one. Neurons trained on one packet (`spiked learn`) have no bound of their own.
const MIN_MARGIN: f32 = -4.0;

/// The larger of two numbers, neither of which is NaN: one instruction, where [`f32::max`] also tests for NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers, neither of which is NaN.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The class with the largest evidence (the first if several are equal), that evidence, and the second largest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LargestTwo {
    class: ClassId,
    first: f32,
    second: f32,
}

impl LargestTwo {
    /// After the evidence of a class was raised to `evidence`.
    #[inline(always)]
    fn raised(self, class: ClassId, evidence: f32) -> Self {
        if class == self.class {
            Self { first: evidence, ..self }
        } else if evidence > self.first || (evidence == self.first && class < self.class) {
            Self { class, first: evidence, second: self.first }
        } else {
            Self { second: larger(self.second, evidence), ..self }
        }
    }

    #[inline(always)]
    fn leader(self, packets: u32) -> Leader {
        Leader::ahead_of(self.second, self.class, self.first, packets)
    }
}

/// Of each lane of a vector: the largest evidence, its class, and the second largest evidence.
struct Lanes<const N: usize> {
    class: [u32; N],
    first: [f32; N],
    second: [f32; N],
}

impl<const N: usize> Lanes<N> {
    /// The first half of the lanes compared with the second half, side by side: lane after lane, each would wait for the one before.
    #[inline(always)]
    fn halved<const HALF: usize>(&self) -> Lanes<HALF> {
        let mut half = Lanes { class: [0; HALF], first: [0.0; HALF], second: [0.0; HALF] };
        for i in 0..HALF {
            let (a, b) = (self.first[i], self.first[i + HALF]);
            let (class_of_a, class_of_b) = (self.class[i], self.class[i + HALF]);
            let of_equal = class_of_a.min(class_of_b);
            half.class[i] = if a > b { class_of_a } else { class_of_b };
            half.class[i] = if a == b { of_equal } else { half.class[i] };
            half.first[i] = larger(a, b);
            half.second[i] = larger(smaller(a, b), larger(self.second[i], self.second[i + HALF]));
        }
        half
    }
}

/// The largest two of the evidence, `[class]`; `None` without classes.
#[inline(always)]
fn largest_two(evidence: &[f32]) -> Option<LargestTwo> {
    // Of each lane: the largest evidence, the class in the first lane of its chunk, and the second largest.
    let (mut first, mut second) = ([f32::NEG_INFINITY; WIDE], [f32::NEG_INFINITY; WIDE]);
    let mut chunk_of = [0u32; WIDE];
    let mut compare = |start: usize, chunk: &[f32; WIDE], skipped: usize| {
        for i in 0..WIDE {
            let e = if i < skipped { f32::NEG_INFINITY } else { chunk[i] };
            second[i] = larger(second[i], smaller(first[i], e));
            chunk_of[i] = if e > first[i] { start as u32 } else { chunk_of[i] };
            first[i] = larger(e, first[i]);
        }
    };
    let (whole, rest) = evidence.as_chunks::<WIDE>();
    whole.iter().enumerate().for_each(|(number, chunk)| compare(number * WIDE, chunk, 0));
    // What remains is read with what is before it, so that it is a chunk too.
    if let Some(last) = evidence.last_chunk() {
        compare(evidence.len() - WIDE, last, WIDE - rest.len());
    } else {
        let mut few = [f32::NEG_INFINITY; WIDE];
        few[..rest.len()].copy_from_slice(rest);
        compare(0, &few, 0);
    }
    let lanes = Lanes { class: std::array::from_fn(|i| chunk_of[i] + i as u32), first, second };
    let Lanes { class: [class], first: [first], second: [second] } =
        lanes.halved::<8>().halved::<4>().halved::<2>().halved::<1>();
    let class = class as usize;
    (class < evidence.len()).then(|| LargestTwo { class: ClassId::from_index(class), first, second })
}

/// What parts of a packet contribute to the potential of a neuron, in units of its threshold theta.
#[derive(Clone, Copy, Debug)]
pub struct Contributions {
    /// The ports.
    pub ports: f32,
    /// The payload bytes; `None` if the packet has none.
    pub payload: Option<f32>,
}

impl Decision {
    /// What a margin adds to the evidence: the margin within [`Decision::clip`], with [`Decision::slope`] below the lower bound.
    #[inline(always)]
    pub fn bounded(&self, margin: f32) -> f32 {
        let (low, high) = self.clip;
        // Below the lower bound the line is flatter, so it lies above the margin itself.
        let flat = low + self.slope * (larger(margin, MIN_MARGIN) - low);
        let most = larger(margin, flat);
        if most < high { most } else { high }
    }

    /// What an extra neuron of a class adds to the evidence from the class's first neuron: the difference if its bounded margin is larger,
    /// else 0. So the largest margin of a class's neurons counts.
    #[inline(always)]
    pub fn extra_margin(&self, first: f32, extra: f32) -> f32 {
        (self.bounded(extra) - self.bounded(first)).max(0.0)
    }

    /// The least that one packet can add to the evidence of a class.
    pub fn least(&self) -> f32 {
        self.bounded(f32::NEG_INFINITY)
    }

    /// Adds one packet's margins, `potentials[neuron]`, to the evidence, `[class]`, and returns the leader after `packets` packets; `None`
    /// without classes.
    #[inline(always)]
    fn add_margins(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        for (((e, &u), scale), theta) in evidence.iter_mut().zip(potentials).zip(network.scale()).zip(&self.theta) {
            *e += self.bounded(f32::from(u) * scale - theta);
        }
        // Extra neurons only raise the evidence, so they come last: what is written one by one is slow to be read again as a vector.
        let mut largest = largest_two(evidence)?;
        for (neuron, &class) in (evidence.len()..).zip(self.assignments.extra()) {
            let margin = |neuron: usize| f32::from(potentials[neuron]) * network.scale()[neuron] - self.theta[neuron];
            let sum = &mut evidence[class.index()];
            *sum += self.extra_margin(margin(class.index()), margin(neuron));
            largest = largest.raised(class, *sum);
        }
        Some(largest.leader(packets))
    }

    /// Adds 1 to `counts[neuron]` of each neuron that spikes at one packet: whose potential reaches its threshold.
    pub fn count_spikes(&self, network: &Network, potentials: &[i16], counts: &mut [u64]) {
        for (((n, &u), scale), theta) in counts.iter_mut().zip(potentials).zip(network.scale()).zip(&self.theta) {
            *n += u64::from(f32::from(u) * scale >= *theta);
        }
    }

    /// The leader after `packets` packets; `None` without classes.
    #[inline(always)]
    pub fn leader(&self, evidence: &[f32], packets: u32) -> Option<Leader> {
        largest_two(evidence).map(|largest| largest.leader(packets))
    }

    /// The leader with what parts of the last packet contribute to `potential`, which is the potential of the first neuron of the leader's
    /// class; all in units of theta. `before` is the leader before that packet. Unchanged if the model does not set
    /// [`Decision::content_first`]: the packets of a host have many ports.
    #[must_use]
    pub fn with_contributions(&self, leader: Leader, before: Option<&Leader>, potential: f32, parts: Contributions) -> Leader {
        if !self.content_first {
            return leader;
        }
        let theta = self.theta[self.assignments.first_of(leader.class).index()];
        leader.with_ports(parts.ports, potential - parts.ports < theta).with_payload(before, parts.payload)
    }

    /// [`Decision::with_contributions`] for the inputs of the last packet.
    #[must_use]
    pub fn with_parts(
        &self,
        leader: Leader,
        before: Option<&Leader>,
        network: &Network,
        potential: f32,
        inputs: &ActiveInputs,
    ) -> Leader {
        let neuron = self.assignments.first_of(leader.class);
        let contribution = |inputs: &[u32]| network.weight_sum(inputs, neuron);
        let payload = (!inputs.payload().is_empty()).then(|| contribution(inputs.payload()));
        self.with_contributions(leader, before, potential, Contributions { ports: contribution(inputs.ports()), payload })
    }

    /// Whether a packet, with or without content, adds to the evidence of a stream whose leader so far is `before`.
    #[inline]
    pub fn counts(&self, before: Option<&Leader>, content: bool) -> bool {
        content || !self.content_first || before.is_none_or(|leader| !leader.content() && leader.packets() < self.max_packets)
    }

    /// Adds one packet that [counts](Decision::counts) to the evidence of its stream, `[class]`, and returns the leader; `before` is the
    /// leader so far. Evidence of packets without content is discarded first if the packet has content.
    ///
    /// `add` adds the packet's margins to the evidence and returns the leader after the given number of packets.
    #[inline(always)]
    pub fn add_packet(
        &self,
        evidence: &mut [f32],
        before: Option<&Leader>,
        content: bool,
        add: impl FnOnce(&mut [f32], u32) -> Option<Leader>,
    ) -> Option<Leader> {
        let content = content || !self.content_first;
        let before = before.filter(|leader| leader.content() == content);
        if before.is_none() {
            evidence.fill(0.0);
        }
        let leader = add(evidence, before.map_or(0, |b| b.packets()) + 1)?;
        Some(leader.with_content(content))
    }

    /// [`Decision::add_packet`] for the potentials of a network, `[neuron]`. Uses the CPU's widest vectors; no operation is fused, so the
    /// result is the same on every CPU.
    #[inline]
    pub fn accumulate(
        &self,
        network: &Network,
        potentials: &[i16],
        evidence: &mut [f32],
        before: Option<&Leader>,
        content: bool,
    ) -> Option<Leader> {
        let add = |evidence: &mut [f32], packets| self.accumulate_widest(network, potentials, evidence, packets);
        self.add_packet(evidence, before, content, add)
    }

    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls functions compiled for features that the CPU was found to have")
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
        self.add_margins(network, potentials, evidence, packets)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn accumulate_avx512(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.add_margins(network, potentials, evidence, packets)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn accumulate_avx2(&self, network: &Network, potentials: &[i16], evidence: &mut [f32], packets: u32) -> Option<Leader> {
        self.add_margins(network, potentials, evidence, packets)
    }
}

#[cfg(test)]
mod tests {
    use super::{LargestTwo, MIN_MARGIN, largest_two};
    use crate::snn::{ClassId, Network, NeuronId};
    use crate::stream::{Assignments, Decision, Leader};
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

    fn plain(evidence: &[f32]) -> Option<LargestTwo> {
        let (mut first, mut second, mut class) = (f32::NEG_INFINITY, f32::NEG_INFINITY, None);
        for (c, &e) in (0u16..).zip(evidence) {
            if e > first {
                (second, first, class) = (first, e, Some(ClassId::new(c)));
            } else if e > second {
                second = e;
            }
        }
        class.map(|class| LargestTwo { class, first, second })
    }

    proptest! {
        #[test]
        fn the_largest_is_found_side_by_side_as_one_by_one(evidence in prop::collection::vec((-6i8..6).prop_map(|e| f32::from(e) / 3.0), 0..130)) {
            prop_assert_eq!(largest_two(&evidence), plain(&evidence));
        }

        #[test]
        fn the_largest_follow_what_is_raised(
            mut evidence in prop::collection::vec((-6i8..6).prop_map(|e| f32::from(e) / 3.0), 1..20),
            raised in prop::collection::vec((0usize..20, (0u8..9).prop_map(|e| f32::from(e) / 3.0)), 1..5),
        ) {
            let mut largest = largest_two(&evidence).unwrap();
            for (class, by) in raised {
                let class = class % evidence.len();
                evidence[class] += by;
                largest = largest.raised(ClassId::from_index(class), evidence[class]);
                prop_assert_eq!(largest, plain(&evidence).unwrap());
            }
        }

        #[test]
        fn the_neuron_with_the_largest_margin_counts_for_its_class(potentials in prop::collection::vec(-300i16..300, 5), theta in prop::collection::vec(-1f32..2.0, 5)) {
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
            prop_assert!(decision.least() >= -0.3 + slope * MIN_MARGIN);
            if (-0.3..1.5).contains(&a) {
                prop_assert_eq!(decision.bounded(a), a);
            }
            prop_assert_eq!(bounded(0.0).bounded(a), a.clamp(-0.3, 1.5));
            if slope > 0.001 && a.max(b) < -0.3 && a.min(b) > MIN_MARGIN && (a - b).abs() > 0.01 {
                prop_assert!(low < high, "the nearer neuron adds more than the farther one");
            }
        }
    }
}
