//! Evidence of many classes: of each packet, only the margins of classes that may lead are computed.
//!
//! The neurons of a network of many are in [groups](NeuronGroups) with an upper bound of their potentials. If the bound leaves all classes of
//! a group behind the two with the most evidence, it is added to their evidence in place of their margins; of the other groups the margin
//! of each class is added, as [`Decision::accumulate`] does. So the two largest of one packet are exact. Of several packets, the evidence of a
//! class that was behind at an earlier one is too large, by how far the bound was above its margin.

use super::evidence::larger;
use super::{Decision, Leader};
use crate::encode::ActiveInputs;
use crate::snn::{ClassId, LANES, Network, NeuronGroups, NeuronId};

/// Groups of a stream whose classes have an evidence of their own.
const DETAILED_GROUPS: usize = 8;
/// Numbers of such a group: the number of the group and 1, or 0 if there is none, and the evidence of the class in each lane.
const DETAILS: usize = 1 + LANES;

/// A place in a group that holds the first neuron of a class.
#[derive(Clone, Copy, Debug)]
struct ClassPlace {
    lane: usize,
    class: ClassId,
    /// Places of the class's extra neurons: a part of [`CandidateScorer::extra`].
    extra: (u32, u32),
}

/// Adds packets to the evidence of the streams of a model of many classes, with buffers that are reused for each packet.
///
/// The evidence of a stream is a slice of [`CandidateScorer::width`] numbers: of each group the largest evidence of a class, and of
/// eight groups that might have led last, the evidence of each class. In other groups, all classes count as having the largest.
#[derive(Debug)]
pub struct CandidateScorer {
    groups: usize,
    /// The neuron in each place, `[group * LANES + lane]`.
    neurons: Vec<Option<NeuronId>>,
    /// Threshold and unit of potential of the neuron in each place.
    theta: Vec<f32>,
    scale: Vec<f32>,
    /// The classes whose first neuron is in each group, `[group]`.
    classes: Vec<Vec<ClassPlace>>,
    /// Places of the extra neurons, those of a class together.
    extra: Vec<usize>,
    /// Groups, and the groups of the extra neurons of their classes, which are others; in order.
    extra_groups: Vec<(usize, usize)>,
    /// Groups of extra neurons alone: no class of theirs could lead.
    without_class: Vec<usize>,
    /// What the bounds of each group must exceed for a neuron to spike, `[group]`.
    least_theta: Vec<f32>,
    /// Upper bounds of the potentials, in units of their weights, `[group]`.
    bounds: Vec<i16>,
    /// Upper bounds of the margins, `[group]`.
    margins: Vec<f32>,
    /// Upper bounds of what the packet adds to the evidence of a class, `[group]`.
    added: Vec<f32>,
    /// Upper bounds of the evidence of a class after the packet, `[group]`.
    reach: Vec<f32>,
    /// The potentials of the neurons of those groups that were computed for this packet, `[group]`, and the number of the packet for which they
    /// were computed last.
    potentials: Vec<[f32; LANES]>,
    computed: Vec<u64>,
    packet: u64,
    /// Groups whose classes' evidence after this packet is known, and that evidence, `[lane]`.
    exact: Vec<(usize, [f32; LANES])>,
}

/// A packet as it is added to the evidence of its stream, whose leader before it was `before`.
struct Packet<'a> {
    groups: &'a NeuronGroups,
    decision: &'a Decision,
    active: &'a ActiveInputs,
    before: Option<&'a Leader>,
    /// Spikes of each neuron so far, if they are counted.
    spikes: Option<&'a mut Vec<u64>>,
}

/// The largest two evidences, and the class and the place of the largest.
struct LargestTwo {
    first: f32,
    second: f32,
    class: ClassId,
    place: usize,
}

impl LargestTwo {
    fn new() -> Self {
        Self { first: f32::NEG_INFINITY, second: f32::NEG_INFINITY, class: ClassId::new(u16::MAX), place: 0 }
    }

    /// The class with the smaller number leads if two are equal.
    fn compare(&mut self, evidence: f32, class: ClassId, place: usize) {
        if evidence > self.first || (evidence == self.first && class < self.class) {
            *self = Self { first: evidence, second: self.first, class, place };
        } else if evidence > self.second {
            self.second = evidence;
        }
    }
}

impl CandidateScorer {
    /// For a network and its decision; `None` if the neurons are not in groups.
    pub fn new(network: &Network, decision: &Decision) -> Option<Self> {
        let places = network.groups()?;
        let groups = places.count();
        let mut neurons = vec![None; groups * LANES];
        let (mut theta, mut scale) = (vec![0.0; groups * LANES], vec![0.0; groups * LANES]);
        let mut classes = vec![Vec::new(); groups];
        let mut least_theta = vec![f32::INFINITY; groups];
        for neuron in NeuronId::first(network.neurons()) {
            let (group, lane) = places.place(neuron);
            let place = group * LANES + lane;
            neurons[place] = Some(neuron);
            theta[place] = decision.theta[neuron.index()];
            scale[place] = network.scale()[neuron.index()];
            least_theta[group] = least_theta[group].min(theta[place] - places.slack(group));
        }
        let (mut extra, mut extra_groups) = (Vec::new(), Vec::new());
        for class in ClassId::first(decision.assignments.classes()) {
            let (group, lane) = places.place(decision.assignments.first_of(class));
            classes[group].push(ClassPlace { lane, class, extra: (0, 0) });
        }
        let mut extra_of = vec![Vec::new(); decision.assignments.classes()];
        for (neuron, &class) in (decision.assignments.classes()..).zip(decision.assignments.extra()) {
            extra_of[class.index()].push(places.place(NeuronId::from_index(neuron)));
        }
        for (group, of_group) in classes.iter_mut().enumerate() {
            for class in of_group {
                let (of_class, first) = (&extra_of[class.class.index()], extra.len() as u32);
                extra.extend(of_class.iter().map(|(group, lane)| group * LANES + lane));
                extra_groups.extend(of_class.iter().filter(|(other, _)| *other != group).map(|(other, _)| (group, *other)));
                class.extra = (first, extra.len() as u32);
            }
        }
        extra_groups.sort_unstable();
        extra_groups.dedup();
        let without_class = (0..groups).filter(|&group| classes[group].is_empty()).collect();
        let bounds = places.bounds().buffer();
        let [margins, added, reach] = [(); 3].map(|()| vec![0.0; groups]);
        Some(Self {
            groups,
            neurons,
            theta,
            scale,
            classes,
            extra,
            extra_groups,
            without_class,
            least_theta,
            bounds,
            margins,
            added,
            reach,
            potentials: vec![[0.0; LANES]; groups],
            computed: vec![0; groups],
            packet: 0,
            exact: Vec::new(),
        })
    }

    /// Length of the evidence of a stream.
    pub fn width(&self) -> usize {
        self.groups + DETAILED_GROUPS * DETAILS
    }

    /// Adds a packet to the evidence of its stream and counts the neurons that spike, `[neuron]`, if that is wanted. Returns the leader,
    /// `before` being the one so far, and the potential of the first neuron of its class.
    ///
    /// # Panics
    /// If the network has no groups, or others than the one that this scorer was made for.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls functions compiled for features that the CPU was found to have")
    )]
    pub fn accumulate(
        &mut self,
        network: &Network,
        decision: &Decision,
        active: &ActiveInputs,
        spikes: Option<&mut Vec<u64>>,
        evidence: &mut [f32],
        before: Option<&Leader>,
    ) -> Option<(Leader, f32)> {
        let groups = network.groups().expect("the network has groups");
        groups.bounds().potentials(active.all(), &mut self.bounds);
        let packet = Packet { groups, decision, active, before, spikes };
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has AVX-512F.
                return unsafe { self.accumulate_avx512(packet, evidence) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has AVX2.
                return unsafe { self.accumulate_avx2(packet, evidence) };
            }
        }
        self.accumulate_bounded(packet, evidence)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn accumulate_avx512(&mut self, packet: Packet<'_>, evidence: &mut [f32]) -> Option<(Leader, f32)> {
        self.accumulate_bounded(packet, evidence)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn accumulate_avx2(&mut self, packet: Packet<'_>, evidence: &mut [f32]) -> Option<(Leader, f32)> {
        self.accumulate_bounded(packet, evidence)
    }

    /// [`CandidateScorer::accumulate`] of a packet whose potentials are bounded by [`CandidateScorer::bounds`].
    #[inline(always)]
    fn accumulate_bounded(&mut self, packet: Packet<'_>, evidence: &mut [f32]) -> Option<(Leader, f32)> {
        let Packet { groups, decision, active, before, spikes } = packet;
        self.bound_margins(groups, decision);
        if let Some(spikes) = spikes {
            self.count_spikes(groups, active.all(), spikes);
        }
        let mut place = 0;
        let leader = decision.add_packet(evidence, before, active.has_content(), |evidence, packets| {
            let largest = self.add_margins(groups, decision, active.all(), evidence);
            place = largest.place;
            largest.first.is_finite().then(|| Leader::ahead_of(largest.second, largest.class, largest.first, packets))
        })?;
        Some((leader, self.potential(place)))
    }

    /// The bounds of a packet's margins, from those of its potentials.
    #[inline(always)]
    fn bound_margins(&mut self, groups: &NeuronGroups, decision: &Decision) {
        let bounds = self.bounds.iter().zip(groups.bounds().scale()).zip(&self.least_theta);
        self.margins.iter_mut().zip(bounds).for_each(|(margin, ((&u, scale), theta))| *margin = f32::from(u) * scale - theta);
        self.added.iter_mut().zip(&self.margins).for_each(|(added, &margin)| *added = decision.bounded(margin));
        for &(group, other) in &self.extra_groups {
            let of_other = decision.bounded(self.margins[other]);
            self.added[group] = self.added[group].max(of_other);
        }
        self.without_class.iter().for_each(|&group| self.added[group] = f32::NEG_INFINITY);
        self.packet += 1;
    }

    /// Computes the potentials of the neurons of a group, if that was not done for this packet.
    fn compute(&mut self, groups: &NeuronGroups, active: &[u32], group: usize) {
        if self.computed[group] == self.packet {
            return;
        }
        self.computed[group] = self.packet;
        let sums = groups.potentials(active, group);
        let scale = &self.scale[group * LANES..];
        for ((potential, sum), scale) in self.potentials[group].iter_mut().zip(sums).zip(scale) {
            *potential = f32::from(sum) * scale;
        }
    }

    /// The potential of the neuron in a place of a group that was computed.
    fn potential(&self, place: usize) -> f32 {
        self.potentials[place / LANES][place % LANES]
    }

    /// Its margin.
    fn margin(&self, place: usize) -> f32 {
        self.potential(place) - self.theta[place]
    }

    fn count_spikes(&mut self, groups: &NeuronGroups, active: &[u32], counts: &mut [u64]) {
        for group in 0..self.groups {
            if self.margins[group] < 0.0 {
                continue;
            }
            self.compute(groups, active, group);
            for place in group * LANES..(group + 1) * LANES {
                if let Some(neuron) = self.neurons[place].filter(|_| self.margin(place) >= 0.0) {
                    counts[neuron.index()] += 1;
                }
            }
        }
    }

    /// Adds the margins of all classes that may be among the first two, and to the others what bounds theirs.
    #[inline(always)]
    fn add_margins(&mut self, groups: &NeuronGroups, decision: &Decision, active: &[u32], evidence: &mut [f32]) -> LargestTwo {
        let (most, details) = evidence.split_at_mut(self.groups);
        self.reach.iter_mut().zip(&*most).zip(&self.added).for_each(|((reach, most), added)| *reach = most + added);
        let mut largest = LargestTwo::new();
        self.exact.clear();
        loop {
            let farthest = largest_of(&self.reach);
            if farthest < largest.second || farthest == f32::NEG_INFINITY {
                break;
            }
            let Some(group) = self.reach.iter().position(|&reach| reach == farthest) else { break };
            self.reach[group] = f32::NEG_INFINITY;
            self.compute(groups, active, group);
            let mut sums = [most[group]; LANES];
            if let Some(known) = details.chunks_exact(DETAILS).find(|details| details[0] == group_mark(group)) {
                sums.copy_from_slice(&known[1..]);
            }
            let mut of_group = f32::NEG_INFINITY;
            for at in 0..self.classes[group].len() {
                let class = self.classes[group][at];
                let place = group * LANES + class.lane;
                let (first, sum) = (self.margin(place), &mut sums[class.lane]);
                *sum += decision.bounded(first);
                for at in class.extra.0 as usize..class.extra.1 as usize {
                    let extra = self.extra[at];
                    // An extra neuron adds nothing unless its margin is larger.
                    if self.margins[extra / LANES] > first {
                        self.compute(groups, active, extra / LANES);
                        *sum += decision.extra_margin(first, self.margin(extra));
                    }
                }
                of_group = of_group.max(*sum);
                largest.compare(*sum, class.class, place);
            }
            most[group] = of_group;
            self.exact.push((group, sums));
        }
        for (most, &reach) in most.iter_mut().zip(&self.reach).filter(|(_, reach)| **reach > f32::NEG_INFINITY) {
            *most = reach;
        }
        self.store_details(most, details);
        largest
    }

    /// Stores the evidence of the classes of the groups that were computed, in place of the groups that are farthest behind.
    fn store_details(&mut self, most: &[f32], details: &mut [f32]) {
        for details in details.chunks_exact_mut(DETAILS).filter(|details| details[0] != 0.0) {
            let group = details[0] as usize - 1;
            if let Some(at) = self.exact.iter().position(|(exact, _)| *exact == group) {
                details[1..].copy_from_slice(&self.exact.swap_remove(at).1);
            } else {
                details[1..].iter_mut().for_each(|sum| *sum += self.added[group]);
            }
        }
        let evidence = |mark: f32| if mark == 0.0 { f32::NEG_INFINITY } else { most[mark as usize - 1] };
        self.exact.sort_unstable_by(|a, b| most[b.0].total_cmp(&most[a.0]).then(a.0.cmp(&b.0)));
        for (group, sums) in self.exact.drain(..) {
            let least = |a: &&mut [f32], b: &&mut [f32]| evidence(a[0]).total_cmp(&evidence(b[0]));
            let Some(details) = details.chunks_exact_mut(DETAILS).min_by(least) else { break };
            if evidence(details[0]) >= most[group] {
                break;
            }
            details[0] = group_mark(group);
            details[1..].copy_from_slice(&sums);
        }
    }
}

/// The maximum of a slice without NaN; negative infinity if it is empty.
#[inline(always)]
fn largest_of(numbers: &[f32]) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        most.iter_mut().zip(chunk).for_each(|(most, &number)| *most = larger(*most, number));
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// What marks the details of a group.
fn group_mark(group: usize) -> f32 {
    (group + 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Assignments;
    use proptest::prelude::*;

    const INPUTS: usize = 30;
    const CLASSES: usize = 560;
    const NEURONS: usize = 600;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_leader_of_one_packet_is_that_of_all_classes_and_evidence_of_more_is_no_less(
            kinds in prop::collection::vec(prop::collection::vec(-20i8..=20, INPUTS), 20),
            noise in prop::collection::vec(-3i8..=3, 37),
            thetas in prop::collection::vec(0.2f32..0.9, 41),
            packets in prop::collection::vec(prop::collection::vec(0..INPUTS as u32, 1..25), 1..6),
        ) {
            let weights: Vec<i8> = (0..INPUTS * NEURONS).map(|at| {
                let (input, neuron) = (at / NEURONS, at % NEURONS);
                kinds[neuron % kinds.len()][input] + noise[(input * 5 + neuron * 7) % noise.len()]
            }).collect();
            let network = Network::from_parts(INPUTS, NEURONS, &weights, vec![0.01; NEURONS]);
            let extra = (CLASSES..NEURONS).map(|neuron| ClassId::from_index(neuron * 11 % CLASSES));
            let decision = Decision {
                theta: (0..NEURONS).map(|neuron| thetas[neuron % thetas.len()]).collect(),
                assignments: Assignments::new(CLASSES, extra).unwrap(),
                clip: (-0.3, 1.5),
                slope: 0.02,
                confidence: vec![],
                accept: vec![0.5; CLASSES],
                stop_confidence: 1.0,
                max_packets: 20,
                content_first: false,
            };
            let mut candidates = CandidateScorer::new(&network, &decision).expect("the network has groups");
            let mut evidence = vec![0.0; candidates.width()];
            let mut all = vec![0.0; CLASSES];
            let (mut leader, mut leader_of_all) = (None::<Leader>, None::<Leader>);
            let [mut spikes, mut spikes_of_all] = [(); 2].map(|()| vec![0u64; NEURONS]);
            let mut potentials = network.buffer();
            for (number, packet) in packets.iter().enumerate() {
                let inputs = ActiveInputs::of(packet);
                let (now, potential) = candidates.accumulate(&network, &decision, &inputs, Some(&mut spikes), &mut evidence, leader.as_ref()).unwrap();
                network.potentials(packet, &mut potentials);
                decision.count_spikes(&network, &potentials, &mut spikes_of_all);
                let now_of_all = decision.accumulate(&network, &potentials, &mut all, leader_of_all.as_ref(), false).unwrap();
                prop_assert_eq!(&spikes, &spikes_of_all);
                prop_assert_eq!(potential, f32::from(potentials[now.class.index()]) * 0.01);
                if number == 0 {
                    prop_assert_eq!(now, now_of_all);
                }
                prop_assert!(now.evidence >= now_of_all.evidence - 1e-4);
                (leader, leader_of_all) = (Some(now), Some(now_of_all));
            }
        }
    }
}
