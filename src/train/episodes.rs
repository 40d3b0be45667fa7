//! Rules of episodes from a corpus: who is excited, for how long, and when the neuron fires.
//!
//! The role follows from the labelled flows: a class whose flows come from many more hosts than they go to is about its target. The time
//! constant follows from the gaps between the flows of a host. The threshold is homeostatic: on the streams of the other classes,
//! classified by networks that were not trained on them, no neuron fires.

use std::collections::HashMap;

use crate::capture::Nanos;
use crate::episode::{EpisodeRule, MIN_CONFIDENCE, Role};
use crate::packet::Address;
use crate::snn::ClassId;
use crate::stream::{Decision, Leader};

use super::Corpus;
use super::corpus::FlowStart;

/// Spikes of one host within a capture from which its neuron can fire.
const ENOUGH: usize = 5;
/// The smallest threshold, in flows of full confidence.
const LEAST: f32 = 3.0;
/// The largest. A host whose potential is beyond it behaves like the class, and no threshold cures that: it does not raise the threshold.
const MOST: f32 = 8.0;
/// How much higher than the highest potential on other classes a threshold is, as a factor.
const MARGIN: f32 = 1.25;
/// Time constant as a multiple of the gap that nine in ten are shorter than, and its bounds in seconds.
const GAPS: f32 = 10.0;
const TAU: (f32, f32) = (30.0, 600.0);

impl FlowStart {
    /// The host that the flow excites.
    fn host(&self, role: Role) -> Address {
        if role == Role::Source { self.source } else { self.target }
    }
}

/// The flows of a class by capture and host, each in the order of time.
fn by_host<'a>(starts: impl Iterator<Item = (u32, &'a FlowStart)>, role: Role) -> Vec<Vec<f64>> {
    let mut hosts: HashMap<(u32, Address), Vec<f64>> = HashMap::new();
    for (capture, start) in starts {
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
    classes.filter_map(|class| rule(corpus, class)).map(|rule| raise(corpus, decision, calibration, without, rule)).collect()
}

/// The rule of a class with the smallest threshold; `None` without flows.
fn rule(corpus: &Corpus, class: ClassId) -> Option<EpisodeRule> {
    let of_class = || corpus.streams.iter().filter(|s| s.class == class).filter_map(|s| Some((s.capture, s.start.as_ref()?)));
    let role = role(of_class());
    let mut gaps: Vec<f64> =
        by_host(of_class(), role).iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    gaps.sort_by(f64::total_cmp);
    let long = gaps.get(gaps.len() * 9 / 10).copied().unwrap_or(0.0) as f32;
    of_class().next()?;
    Some(EpisodeRule { class, role, tau: (GAPS * long).clamp(TAU.0, TAU.1), threshold: LEAST })
}

/// The source, unless there are more captures in which some target has enough spikes: attackers with forged addresses have one flow each.
fn role<'a>(starts: impl Iterator<Item = (u32, &'a FlowStart)> + Clone) -> Role {
    let captures = |role: Role| {
        let mut busiest: HashMap<u32, usize> = HashMap::new();
        let mut counts: HashMap<(u32, Address), usize> = HashMap::new();
        for (capture, start) in starts.clone() {
            let count = counts.entry((capture, start.host(role))).or_default();
            *count += 1;
            let most = busiest.entry(capture).or_default();
            *most = (*most).max(*count);
        }
        busiest.into_values().filter(|&most| most >= ENOUGH).count()
    };
    if captures(Role::Target) > captures(Role::Source) { Role::Target } else { Role::Source }
}

/// The rule with a threshold that streams of other classes, taken for the class, do not reach.
fn raise(
    corpus: &Corpus,
    decision: &Decision,
    calibration: &[(usize, bool, Leader)],
    without: &dyn Fn(&str) -> bool,
    rule: EpisodeRule,
) -> EpisodeRule {
    let mut spikes: Vec<(u32, Address, Nanos, f32)> = Vec::new();
    for (stream, _, leader) in calibration {
        let stream = &corpus.streams[*stream];
        let confidence = decision.confidence(leader);
        if leader.class == rule.class
            && without(&corpus.classes[stream.class.index()])
            && confidence >= MIN_CONFIDENCE
            && let Some(start) = &stream.start
        {
            spikes.push((stream.capture, start.host(rule.role), start.time, confidence));
        }
    }
    spikes.sort_by_key(|spike| spike.2);
    // Time of the last spike, the potential after it, and the highest potential of each host.
    let mut potentials: HashMap<(u32, Address), (Nanos, f32, f32)> = HashMap::new();
    for (capture, host, time, confidence) in spikes {
        let (last, potential, highest) = potentials.entry((capture, host)).or_insert((time, 0.0, 0.0));
        *potential = *potential * rule.decay(*last, time) + confidence;
        *last = time;
        *highest = highest.max(*potential);
    }
    let curable = potentials.into_values().map(|(.., highest)| highest).filter(|highest| highest * MARGIN <= MOST);
    let highest = curable.fold(0.0, f32::max);
    EpisodeRule { threshold: (highest * MARGIN).clamp(LEAST, MOST), ..rule }
}
