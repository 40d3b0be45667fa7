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
pub(super) fn larger(a: f32, b: f32) -> f32 {
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

/// Of each lane of a vector: the largest evidence, the class in the first lane of its chunk, and the second largest evidence.
#[derive(Clone, Copy)]
struct Lanes {
    chunk: [u32; WIDE],
    first: [f32; WIDE],
    second: [f32; WIDE],
}

impl Lanes {
    const EMPTY: Self = Self { chunk: [0; WIDE], first: [f32::NEG_INFINITY; WIDE], second: [f32::NEG_INFINITY; WIDE] };

    /// Compares a chunk of evidence, whose first lane is class `start`, without its first `skipped` lanes.
    #[inline(always)]
    fn compare(self, start: usize, chunk: [f32; WIDE], skipped: usize) -> Self {
        let Self { chunk: mut of, mut first, mut second } = self;
        for i in 0..WIDE {
            let e = if i < skipped { f32::NEG_INFINITY } else { chunk[i] };
            second[i] = larger(second[i], smaller(first[i], e));
            of[i] = if e > first[i] { start as u32 } else { of[i] };
            first[i] = larger(e, first[i]);
        }
        Self { chunk: of, first, second }
    }

    /// The largest two of all lanes.
    #[inline(always)]
    fn largest_two(self) -> LargestTwo {
        // Evidence above, and below it the class, so that the first of equal classes is the largest. Loops become vectors, which
        // `array::from_fn` does not.
        let mut keys = [0u64; WIDE];
        for (i, key) in keys.iter_mut().enumerate() {
            *key = u64::from(ordered(self.first[i])) << 32 | u64::from(!(self.chunk[i] + i as u32));
        }
        let largest = reduce(keys, u64::max);
        let mut others = [0u32; WIDE];
        for i in 0..WIDE {
            others[i] = ordered(if keys[i] == largest { self.second[i] } else { self.first[i] });
        }
        let class = ClassId::from_index(!(largest as u32) as usize);
        LargestTwo { class, first: number((largest >> 32) as u32), second: number(reduce(others, u32::max)) }
    }
}

/// The bit of the sign.
const SIGN: u32 = 1 << 31;

/// An integer that is larger for a larger number, which is not NaN; the same for both zeros.
#[inline(always)]
fn ordered(number: f32) -> u32 {
    let bits = (number + 0.0).to_bits();
    bits ^ ((bits as i32 >> 31) as u32 | SIGN)
}

/// The number with this [`ordered`].
#[inline(always)]
fn number(ordered: u32) -> f32 {
    f32::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered ^ SIGN })
}

/// Reduces the lanes to one by halves: lane after lane, each would wait for the one before.
#[inline(always)]
fn reduce<T: Copy>(lanes: [T; WIDE], choose: impl Fn(T, T) -> T) -> T {
    let half: [T; 8] = std::array::from_fn(|i| choose(lanes[i], lanes[i + 8]));
    let quarter: [T; 4] = std::array::from_fn(|i| choose(half[i], half[i + 4]));
    choose(choose(quarter[0], quarter[2]), choose(quarter[1], quarter[3]))
}

/// The largest two of the evidence, `[class]`; `None` without classes.
#[inline(always)]
fn largest_two(evidence: &[f32]) -> Option<LargestTwo> {
    let mut lanes = Lanes::EMPTY;
    let (whole, rest) = evidence.as_chunks::<WIDE>();
    for (number, &chunk) in whole.iter().enumerate() {
        lanes = lanes.compare(number * WIDE, chunk, 0);
    }
    if !rest.is_empty() {
        let mut last = [f32::NEG_INFINITY; WIDE];
        last[..rest.len()].copy_from_slice(rest);
        lanes = lanes.compare(whole.len() * WIDE, last, 0);
    }
    (!evidence.is_empty()).then(|| lanes.largest_two())
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

    /// Adds one packet's margins, `potentials[neuron]`, to the evidence, `[class]`, and returns the largest two; `None` without classes.
    #[inline(always)]
    fn add_margins(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) -> Option<LargestTwo> {
        let mut largest = self.add_first_margins(potentials, network.scale(), evidence)?;
        // Extra neurons only raise the evidence, so they come last: what is written one by one is slow to be read again as a vector.
        for (neuron, &class) in (evidence.len()..).zip(self.assignments.extra()) {
            let margin = |neuron: usize| f32::from(potentials[neuron]) * network.scale()[neuron] - self.theta[neuron];
            let sum = &mut evidence[class.index()];
            *sum += self.extra_margin(margin(class.index()), margin(neuron));
            largest = largest.raised(class, *sum);
        }
        Some(largest)
    }

    /// Adds the margins of the first neuron of each class to the evidence, `[class]`, and returns the largest two.
    #[inline(always)]
    fn add_first_margins(&self, potentials: &[i16], scale: &[f32], evidence: &mut [f32]) -> Option<LargestTwo> {
        let classes = evidence.len();
        let (potentials, scale, theta) = (&potentials[..classes], &scale[..classes], &self.theta[..classes]);
        let added = |e: f32, u: i16, scale: f32, theta: f32| e + self.bounded(f32::from(u) * scale - theta);
        let added_to = |e: [f32; WIDE], u: [i16; WIDE], scale: [f32; WIDE], theta: [f32; WIDE]| {
            let mut sums = [0.0; WIDE];
            for i in 0..WIDE {
                sums[i] = added(e[i], u[i], scale[i], theta[i]);
            }
            sums
        };
        let last = (evidence.last_chunk(), potentials.last_chunk(), scale.last_chunk(), theta.last_chunk());
        let (Some(&last), Some(&last_potentials), Some(&last_scale), Some(&last_theta)) = last else {
            for (((e, &u), &scale), &theta) in evidence.iter_mut().zip(potentials).zip(scale).zip(theta) {
                *e = added(*e, u, scale, theta);
            }
            return largest_two(evidence);
        };
        // The last chunk overlaps the one before it, so that it is whole. It is read before that one is written, and written after it.
        let last = added_to(last, last_potentials, last_scale, last_theta);
        let mut lanes = Lanes::EMPTY;
        let (whole, rest) = evidence.as_chunks_mut();
        let neurons = potentials.as_chunks().0.iter().zip(scale.as_chunks().0).zip(theta.as_chunks().0);
        for (number, (chunk, ((&potentials, &scale), &theta))) in whole.iter_mut().zip(neurons).enumerate() {
            *chunk = added_to(*chunk, potentials, scale, theta);
            lanes = lanes.compare(number * WIDE, *chunk, 0);
        }
        lanes = lanes.compare(classes - WIDE, last, WIDE - rest.len());
        evidence[classes - WIDE..].copy_from_slice(&last);
        Some(lanes.largest_two())
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
        // The largest two are returned in registers: a leader would be stored in parts and read as a whole, for which the CPU waits.
        let add = |evidence: &mut [f32], packets| Some(self.add_margins_widest(network, potentials, evidence)?.leader(packets));
        self.add_packet(evidence, before, content, add)
    }

    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls functions compiled for features that the CPU was found to have")
    )]
    #[inline]
    fn add_margins_widest(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) -> Option<LargestTwo> {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has AVX-512F.
                return unsafe { self.add_margins_avx512(network, potentials, evidence) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has AVX2.
                return unsafe { self.add_margins_avx2(network, potentials, evidence) };
            }
        }
        self.add_margins(network, potentials, evidence)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn add_margins_avx512(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) -> Option<LargestTwo> {
        self.add_margins(network, potentials, evidence)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_margins_avx2(&self, network: &Network, potentials: &[i16], evidence: &mut [f32]) -> Option<LargestTwo> {
        self.add_margins(network, potentials, evidence)
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
        fn margins_are_added_side_by_side_as_one_by_one(
            neurons in prop::collection::vec((-300i16..300, 0.001f32..0.02, -1f32..2.0), 1..140),
            packets in 1u32..4,
        ) {
            let (scale, theta): (Vec<_>, Vec<_>) = neurons.iter().map(|&(_, scale, theta)| (scale, theta)).unzip();
            let classes = neurons.len();
            let decision = Decision { theta, assignments: Assignments::one_each(classes), accept: vec![0.5; classes], ..bounded(0.02) };
            let network = Network::from_parts(1, classes, &vec![0; classes], scale);
            let (mut evidence, mut want, mut leader) = (vec![9f32; classes], vec![0f32; classes], None);
            for packet in 0..packets {
                let potentials: Vec<i16> = neurons.iter().cycle().skip(packet as usize).take(classes).map(|n| n.0).collect();
                leader = decision.accumulate(&network, &potentials, &mut evidence, leader.as_ref(), true);
                for (class, sum) in want.iter_mut().enumerate() {
                    *sum += decision.bounded(f32::from(potentials[class]) * neurons[class].1 - neurons[class].2);
                }
            }
            prop_assert_eq!(leader, plain(&want).map(|largest| largest.leader(packets)));
            prop_assert_eq!(evidence, want);
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
