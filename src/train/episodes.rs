//! Rules of episodes from a corpus: who is excited, for how long, and when the neuron fires.
//!
//! The roles follow from the labelled flows: a class has a rule for sources if in some capture one source has enough of its flows, and one
//! for targets if of many flows only the target has, as when sources are forged. The time constant of each follows from the gaps between the
//! flows of a host in that role. The threshold is homeostatic: on the streams of the other classes, classified by networks that were not
//! trained on them, no neuron fires.

use std::collections::{HashMap, HashSet};

use crate::capture::Nanos;
use crate::episode::{EpisodeRule, MIN_CONFIDENCE, Role};
use crate::packet::Address;
use crate::snn::ClassId;
use crate::stream::{Decision, Leader};

use super::Corpus;
use super::corpus::{FlowStart, STRETCHES};

/// Spikes of one host within a capture from which its neuron can fire.
const ENOUGH: usize = 5;
/// A class has a rule for targets if at least one of so many of its flows needs it. Flows are counted and not captures, since answers need a
/// rule for targets in each capture of an ARP scan, but are few, and floods with forged sources are many flows, but a few of the captures.
const NEED_TARGET: usize = 4;
/// The smallest threshold, in flows of full confidence.
const LEAST: f32 = 4.0;
/// The same for a class whose flows are far apart, since waiting for more takes long.
const LEAST_SLOW: f32 = 2.0;
/// Flows are far apart if one in ten comes so many seconds after the one before, or later.
const SLOW_GAP: f32 = 10.0;
/// The largest. A host whose potential is beyond it behaves like the class, and no threshold cures that: it does not raise the threshold.
const MOST: f32 = 8.0;
/// How much higher than the highest potential on other classes a threshold is, as a factor.
const MARGIN: f32 = 1.25;
/// Time constant as a multiple of the gap that nine in ten are shorter than: ten gaps, at the slowest pace that training shows.
const GAPS: f32 = 10.0 * STRETCHES[0] as f32;
/// Bounds of the time constant, seconds.
const TAU: (f32, f32) = (30.0, 1200.0);

/// A host that streams of other classes excited.
struct Excited {
    /// Time of the last spike, and the potential after it.
    last: Nanos,
    potential: f32,
    highest: f32,
    sources: HashSet<Address>,
}

impl Excited {
    fn new(time: Nanos) -> Self {
        Self { last: time, potential: 0.0, highest: 0.0, sources: HashSet::new() }
    }
}

impl FlowStart {
    /// The host that the flow excites.
    fn host(&self, role: Role) -> Address {
        role.of(self.source, self.target)
    }
}

/// The flows of a class by capture and host, each in the order of time.
fn by_host(flows: &[(u32, &FlowStart)], role: Role) -> Vec<Vec<f64>> {
    let mut hosts: HashMap<(u32, Address), Vec<f64>> = HashMap::new();
    for &(capture, start) in flows {
        hosts.entry((capture, start.host(role))).or_default().push(start.time.0 as f64 / 1e9);
    }
    let mut all: Vec<Vec<f64>> = hosts.into_values().collect();
    all.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    all
}

/// Rules for all classes except `without`. `calibration`: streams by number, whether the network knew the class, and their leaders.
pub(super) fn rules(
    corpus: &Corpus,
    decision: &Decision,
    calibration: &[(usize, bool, Leader)],
    without: &dyn Fn(&str) -> bool,
) -> Vec<EpisodeRule> {
    let classes = ClassId::first(corpus.classes.len()).filter(|class| !without(&corpus.classes[class.index()]));
    let rules = classes.flat_map(|class| {
        let rules = rules_of_flows(&flows_of(corpus, class), class);
        let both = rules.len() > 1;
        rules.into_iter().map(move |rule| (rule, both))
    });
    rules.map(|(rule, both)| raise(corpus, decision, calibration, without, rule, both)).collect()
}

/// Episode rules of a class, derived from its flows: pairs of a capture's number and the begin of a flow in it. Each rule has the smallest
/// threshold: 4 flows of full confidence, or 2 if the flows are 10 s or more apart.
pub fn rules_of_flows(flows: &[(u32, &FlowStart)], class: ClassId) -> Vec<EpisodeRule> {
    roles(flows).into_iter().map(|role| rule(flows, class, role)).collect()
}

/// The capture of each flow of a class, and where it began.
pub(super) fn flows_of(corpus: &Corpus, class: ClassId) -> Vec<(u32, &FlowStart)> {
    corpus.streams.iter().filter(|s| s.class == class).filter_map(|s| Some((s.capture, s.start.as_ref()?))).collect()
}

/// The rule of a class and role with the smallest threshold.
fn rule(flows: &[(u32, &FlowStart)], class: ClassId, role: Role) -> EpisodeRule {
    let hosts = by_host(flows, role);
    let mut gaps: Vec<f64> = hosts.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    gaps.sort_by(f64::total_cmp);
    let long = gaps.get(gaps.len() * 9 / 10).copied().unwrap_or(0.0) as f32;
    let threshold = if long >= SLOW_GAP { LEAST_SLOW } else { LEAST };
    EpisodeRule { class, role, tau: (GAPS * long).clamp(TAU.0, TAU.1), threshold }
}

/// The roles for which a class has rules; none without flows. Attackers with forged addresses have one flow each, so that only their target
/// has enough spikes.
fn roles(flows: &[(u32, &FlowStart)]) -> Vec<Role> {
    let hosts = |role: Role| -> HashSet<(u32, Address)> {
        let mut counts: HashMap<(u32, Address), usize> = HashMap::new();
        flows.iter().for_each(|(capture, start)| *counts.entry((*capture, start.host(role))).or_default() += 1);
        counts.into_iter().filter(|&(_, count)| count >= ENOUGH).map(|(host, _)| host).collect()
    };
    let (sources, targets) = (hosts(Role::Source), hosts(Role::Target));
    let (mut by_source, mut need_target) = (0, 0);
    for &(capture, start) in flows {
        if sources.contains(&(capture, start.source)) {
            by_source += 1;
        } else if targets.contains(&(capture, start.target)) {
            need_target += 1;
        }
    }
    let for_target = need_target > 0 && need_target * NEED_TARGET >= by_source + need_target;
    let for_source = !sources.is_empty() || (!for_target && !flows.is_empty());
    [(for_source, Role::Source), (for_target, Role::Target)].into_iter().filter(|(has, _)| *has).map(|(_, role)| role).collect()
}

/// The rule with a threshold that streams of other classes, taken for the class, do not reach. `both`: whether the class has rules for both
/// roles, so that only targets of many sources fire.
fn raise(
    corpus: &Corpus,
    decision: &Decision,
    calibration: &[(usize, bool, Leader)],
    without: &dyn Fn(&str) -> bool,
    rule: EpisodeRule,
    both: bool,
) -> EpisodeRule {
    let mut spikes: Vec<(u32, &FlowStart, f32)> = Vec::new();
    for (stream, _, leader) in calibration {
        let stream = &corpus.streams[*stream];
        let confidence = decision.confidence(leader);
        if leader.class == rule.class
            && without(&corpus.classes[stream.class.index()])
            && confidence >= MIN_CONFIDENCE
            && let Some(start) = &stream.start
        {
            spikes.push((stream.capture, start, confidence));
        }
    }
    spikes.sort_by_key(|(_, start, _)| start.time);
    let mut hosts: HashMap<(u32, Address), Excited> = HashMap::new();
    for (capture, start, confidence) in spikes {
        let host = hosts.entry((capture, start.host(rule.role))).or_insert_with(|| Excited::new(start.time));
        host.potential = host.potential * rule.decay(host.last, start.time) + confidence;
        host.last = start.time;
        host.highest = host.highest.max(host.potential);
        host.sources.insert(start.source);
    }
    let least = rule.role.least_sources(both);
    let can_fire = hosts.into_values().filter(|host| host.sources.len() >= least);
    let curable = can_fire.map(|host| host.highest).filter(|highest| highest * MARGIN <= MOST);
    let highest = curable.fold(0.0, f32::max);
    EpisodeRule { threshold: (highest * MARGIN).clamp(rule.threshold, MOST), ..rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Layout, LayoutOptions};
    use crate::packet::KeyKind;

    /// The begin of a flow between two hosts, which are given by the last bytes of their addresses.
    fn flow(source: u8, target: u8, time: u64) -> FlowStart {
        let [source, target] = [source, target].map(|last| Address::from(std::net::IpAddr::from([10, 0, 0, last])));
        FlowStart { source, target, time: Nanos(time) }
    }

    /// The roles for which a class has rules whose flows begin like this: capture, source, target.
    fn roles_of(flows: &[(u32, u8, u8)]) -> Vec<Role> {
        let layout = Layout::headers(&LayoutOptions { coincidence_bits: 0, traces: true, ..LayoutOptions::default() });
        let mut corpus = Corpus::new(KeyKind::Flow, layout, vec!["flood".into()]);
        let slots = vec![0; corpus.layout.slots().len()];
        for (i, &(capture, source, target)) in flows.iter().enumerate() {
            corpus.push(ClassId::new(0), &slots);
            let stream = corpus.streams.last_mut().unwrap();
            stream.capture = capture;
            stream.start = Some(flow(source, target, i as u64));
        }
        roles(&flows_of(&corpus, ClassId::new(0)))
    }

    #[test]
    fn time_constant_and_threshold_follow_the_gaps_between_flows() {
        let rule = |gap: u64| {
            let flows: Vec<FlowStart> = (0..10).map(|i| flow(1, 2, i * gap * 1_000_000)).collect();
            let rules = rules_of_flows(&flows.iter().map(|flow| (0, flow)).collect::<Vec<_>>(), ClassId::new(0));
            assert_eq!(rules.len(), 1);
            (rules[0].tau, rules[0].threshold)
        };
        let rules = [(30.0, 4.0), (100.0, 4.0), (500.0, 4.0), (1_000.0, 2.0), (1_200.0, 2.0)];
        assert_eq!([1, 1_000, 5_000, 10_000, 60_000].map(rule), rules, "by milliseconds between flows");
    }

    #[test]
    fn a_class_has_rules_for_the_roles_that_its_captures_need() {
        let scan: Vec<_> = (0..20).map(|i| (0, 1, i)).collect();
        let forged: Vec<_> = (0..20).map(|i| (1, i, 1)).collect();
        assert_eq!(roles_of(&scan), [Role::Source]);
        assert_eq!(roles_of(&forged), [Role::Target]);
        assert_eq!(roles_of(&[scan.clone(), forged.clone()].concat()), [Role::Source, Role::Target]);
        let scans = (2..6).flat_map(|capture| scan.iter().map(move |&(_, source, target)| (capture, source, target)));
        assert_eq!(roles_of(&scans.chain(forged).collect::<Vec<_>>()), [Role::Source], "one flow in six");
        let one_each = (1..9).flat_map(|capture| (0..7).map(move |i| (capture, 1, i)));
        let floods = one_each.chain((0..40).map(|i| (9, i, 1)));
        assert_eq!(roles_of(&floods.collect::<Vec<_>>()), [Role::Source, Role::Target], "many flows of one capture in nine");
        assert_eq!(roles_of(&[(0, 1, 2)]), [Role::Source], "too few flows for either");
        assert_eq!(roles_of(&[]), []);
    }
}
