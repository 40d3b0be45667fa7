//! The layer of leaky neurons, one for each host, class and role, and the episodes of those that have fired.
//!
//! Each flow that is named a class is an input spike, weighted by its confidence. When that changes with the flow's next packets, another spike
//! replaces it; if the flow is no longer of the class, nothing is left of it. A neuron that reaches its threshold fires once: its episode
//! begins. Its potential is not reset then, and the episode lasts until no flow has come for the time constant.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::{EpisodeRule, Role};
use crate::capture::Nanos;
use crate::packet::Address;
use crate::snn::ClassId;
use crate::trace::{Activity, BoundedTable};

/// Neurons with a potential at once.
const MAX_NEURONS: usize = 1 << 16;
/// Episodes at once; further ones begin when others have ended.
const MAX_EPISODES: usize = 1024;
/// Episodes that have ended and are remembered, since streams end later than their last packet.
const MAX_ENDED: usize = 1024;
/// Peers of an episode that are counted at most, and ports.
const MAX_DISTINCT: usize = 4096;
/// Time between two updates of an episode: 60 s.
const UPDATE: u64 = 60_000_000_000;
/// Time between two searches for episodes that have ended: 1 s.
const SWEEP: u64 = 1_000_000_000;
/// Searches in a row in which the last flow of an episode lies ahead by more than its time constant, after which the clock was set back.
const SET_BACK: u8 = 60;
/// A neuron without an episode whose potential has decayed below this begins again, with its next flow as the first.
const RESTING: f32 = 0.25;

/// A flow that was named a class with a rule for episodes.
#[derive(Clone, Copy, Debug)]
pub struct NamedFlow {
    /// The host that began the flow.
    pub source: Address,
    /// The other host.
    pub target: Address,
    /// Destination port; 0 if the protocol has none.
    pub port: u16,
    /// Number of the packet at which it was named.
    pub packet: u64,
    /// Time of that packet.
    pub time: Nanos,
    /// Packets of the flow so far; if it was named before, those since the last spike.
    pub packets: u64,
    /// Bytes of the flow on the wire, of the same packets.
    pub bytes: u64,
    /// Confidence in the class, 0 to 1.
    pub confidence: f32,
    /// Whether the flow was named before: its packets go on.
    pub again: bool,
    /// What the last spike of the flow added if this one replaces it, 0 to 1; else 0. With a confidence of 0 the flow is no longer named, and
    /// `packets` and `bytes` are what it counted for.
    pub replaces: f32,
}

/// What a flow added to the potential of one neuron.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputSpike {
    /// Index of the neuron's rule in [`crate::model::Model::episodes`].
    pub rule: usize,
    /// The host of the neuron.
    pub host: Address,
    /// Time of the spike; that of the last one before if the clock was set back.
    pub time: Nanos,
    /// Potential just before the spike.
    pub before: f32,
    /// Potential with the spike.
    pub after: f32,
    /// Whether the neuron has an episode now.
    pub lasting: bool,
}

/// What happened to an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpisodeState {
    /// It has begun: the neuron has fired.
    Begin,
    /// It lasts: a flow has come, and the last event was a minute ago or more.
    Update,
    /// It has ended.
    End,
}

impl EpisodeState {
    /// The word for the state in events.
    pub fn name(self) -> &'static str {
        match self {
            EpisodeState::Begin => "begin",
            EpisodeState::Update => "update",
            EpisodeState::End => "end",
        }
    }
}

/// An episode at the time of an event about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// What happened.
    pub state: EpisodeState,
    /// The class of its flows.
    pub class: ClassId,
    /// The host it is about.
    pub host: Address,
    /// Whether the host begins the flows or receives them.
    pub role: Role,
    /// The other host, if there is only one.
    pub peer: Option<Address>,
    /// Time of the first flow.
    pub start: Nanos,
    /// Time of the last flow so far.
    pub end: Nanos,
    /// Time of the event; at its end that of the last flow.
    pub time: Nanos,
    /// Number of the packet at that time.
    pub packet: u64,
    /// Flows so far.
    pub flows: u64,
    /// Distinct other hosts so far, up to 4,096.
    pub peers: usize,
    /// Distinct destination ports so far, up to 4,096; 0 if the protocols of the flows have none.
    pub ports: usize,
    /// Packets of the flows up to the last that was scored of each.
    pub packets: u64,
    /// Bytes on the wire of the same packets; of those between the scored ones of a long flow, as many as its mean length gives.
    pub bytes: u64,
    /// Mean confidence of the spikes, 0 to 1.
    pub confidence: f32,
}

/// Distinct items of flows, up to a bound, with the number of flows of each.
#[derive(Debug, Default)]
struct Distinct(HashMap<u64, u32, RandomState>);

impl Distinct {
    fn insert(&mut self, item: u64) {
        if self.0.len() < MAX_DISTINCT || self.0.contains_key(&item) {
            *self.0.entry(item).or_default() += 1;
        }
    }

    fn remove(&mut self, item: u64) {
        if let Entry::Occupied(mut flows) = self.0.entry(item) {
            *flows.get_mut() -= 1;
            if *flows.get() == 0 {
                flows.remove();
            }
        }
    }
}

/// The neuron of one host, class and role.
#[derive(Debug)]
struct EpisodeNeuron {
    rule: usize,
    host: Address,
    potential: f32,
    start: Nanos,
    last: Nanos,
    /// Number of the packet at the time `last`.
    last_packet: u64,
    spikes: u64,
    flows: u64,
    packets: u64,
    bytes: u64,
    confidence: f64,
    /// The other host of the last flow that was counted, and its hash.
    peer: (Address, u64),
    peers: Distinct,
    ports: Distinct,
    /// Time of the last event of its episode; `None` without an episode.
    reported: Option<Nanos>,
    /// Searches for ended episodes since the last flow in which that lay ahead, up to [`SET_BACK`].
    ahead: u8,
}

impl Activity for EpisodeNeuron {
    fn activity(&self) -> (u32, Nanos) {
        (self.potential as u32, self.last)
    }

    fn is_evictable(&self) -> bool {
        self.reported.is_none()
    }
}

impl EpisodeNeuron {
    /// Counts another flow; `peer`: the other host and its hash.
    fn count(&mut self, flow: &NamedFlow, peer: (Address, u64)) {
        self.flows += 1;
        self.peer = peer;
        self.peers.insert(peer.1);
        if flow.port != 0 {
            self.ports.insert(u64::from(flow.port));
        }
    }

    fn new(rule: usize, host: Address, flow: &NamedFlow) -> Self {
        Self {
            rule,
            host,
            potential: 0.0,
            start: flow.time,
            last: flow.time,
            last_packet: flow.packet,
            spikes: 0,
            flows: 0,
            packets: 0,
            bytes: 0,
            confidence: 0.0,
            peer: (flow.source, 0),
            peers: Distinct::default(),
            ports: Distinct::default(),
            reported: None,
            ahead: 0,
        }
    }

    /// The episode with the last flow as what happened last.
    fn episode(&self, rule: &EpisodeRule, state: EpisodeState, time: Nanos) -> Episode {
        let peers = self.peers.0.len();
        Episode {
            state,
            class: rule.class,
            host: self.host,
            role: rule.role,
            peer: (peers == 1 && self.peers.0.contains_key(&self.peer.1)).then_some(self.peer.0),
            start: self.start,
            end: self.last,
            time,
            packet: self.last_packet,
            flows: self.flows,
            peers,
            ports: self.ports.0.len(),
            packets: self.packets,
            bytes: self.bytes,
            confidence: (self.confidence / self.spikes.max(1) as f64) as f32,
        }
    }
}

/// The leaky neurons of one model.
pub struct EpisodeLayer {
    rules: Vec<EpisodeRule>,
    hasher: RandomState,
    neurons: BoundedTable<EpisodeNeuron>,
    /// Keys of the neurons whose episodes last, in the order in which these began.
    lasting: Vec<u64>,
    /// The last episodes that have ended, the newest first: key of the neuron, time of the first and of the last flow.
    ended: VecDeque<(u64, Nanos, Nanos)>,
    swept: Nanos,
}

impl EpisodeLayer {
    /// A layer without potentials. Classes without a rule have no episodes; a class has at most one rule for each role.
    pub fn new(rules: &[EpisodeRule]) -> Self {
        Self {
            rules: rules.to_vec(),
            hasher: RandomState::default(),
            neurons: BoundedTable::new(MAX_NEURONS),
            lasting: Vec::new(),
            ended: VecDeque::new(),
            swept: Nanos(0),
        }
    }

    /// Whether flows of the class can be part of an episode.
    pub fn has_rule(&self, class: ClassId) -> bool {
        self.rules.iter().any(|rule| rule.class == class)
    }

    /// Number of episodes that last.
    pub fn lasting(&self) -> usize {
        self.lasting.len()
    }

    /// Adds the spike of a flow of `class`. Appends the episodes that it begins or updates to `out`, after those that ended before. Returns
    /// the spikes of the neurons that it excites.
    ///
    /// The flow excites the neurons of its source and of its target, as far as the class has rules for them. If one of the two has an
    /// episode, the flow belongs to that and does not excite the other, so that one attack is one episode.
    pub fn observe(&mut self, class: ClassId, flow: &NamedFlow, out: &mut Vec<Episode>) -> [Option<InputSpike>; 2] {
        self.advance(flow.time, out);
        let mut of_class = (0..self.rules.len()).filter(|&rule| self.rules[rule].class == class);
        let rules = [of_class.next(), of_class.next()];
        if let Some(rule) =
            rules.into_iter().flatten().find(|&rule| self.lasting_neuron(self.key(rule, flow.source, flow.target)).is_some())
        {
            return [Some(self.excite(rule, 1, flow, out)), None];
        }
        let both = rules[1].is_some();
        let mut spikes = [None; 2];
        for (spike, rule) in spikes.iter_mut().zip(rules.into_iter().flatten()) {
            let excited = self.excite(rule, self.rules[rule].role.least_sources(both), flow, out);
            *spike = Some(excited);
            if excited.lasting {
                break;
            }
        }
        spikes
    }

    /// Whether a flow from a source to a target, with its first and last packet at these times, is part of an episode of `class` that lasts, or
    /// of one of the last 1,024 that have ended.
    pub fn is_part(&self, class: ClassId, [source, target]: [Address; 2], [first, last]: [Nanos; 2]) -> bool {
        let overlaps = |start: Nanos, end: Nanos| first <= end && start <= last;
        (0..self.rules.len()).filter(|&rule| self.rules[rule].class == class).any(|rule| {
            let key = self.key(rule, source, target);
            self.lasting_neuron(key).is_some_and(|neuron| overlaps(neuron.start, neuron.last))
                || self.ended.iter().any(|&(of, start, end)| of == key && overlaps(start, end))
        })
    }

    /// The key of the neuron that a flow between two hosts excites by a rule.
    fn key(&self, rule: usize, source: Address, target: Address) -> u64 {
        self.hasher.hash_one((rule, self.rules[rule].role.of(source, target)))
    }

    /// The neuron of a key if its episode lasts.
    fn lasting_neuron(&self, key: u64) -> Option<&EpisodeNeuron> {
        self.neurons.get(key).filter(|neuron| neuron.reported.is_some())
    }

    /// Adds the spike of a flow to the neuron of one rule, which can fire if `least` peers or more have excited it.
    fn excite(&mut self, number: usize, least: usize, flow: &NamedFlow, out: &mut Vec<Episode>) -> InputSpike {
        let rule = &self.rules[number];
        let (host, peer) = (rule.role.of(flow.source, flow.target), rule.role.of(flow.target, flow.source));
        let (key, peer_hash) = (self.key(number, flow.source, flow.target), self.hasher.hash_one(peer));
        let neuron = self.neurons.entry(key, || EpisodeNeuron::new(number, host, flow));
        neuron.potential *= rule.decay(neuron.last, flow.time);
        if neuron.reported.is_none() && neuron.potential < RESTING {
            *neuron = EpisodeNeuron::new(number, host, flow);
        }
        let before = neuron.potential;
        neuron.potential = (neuron.potential + flow.confidence - flow.replaces).max(0.0);
        neuron.confidence = (neuron.confidence + f64::from(flow.confidence - flow.replaces)).max(0.0);
        if flow.time >= neuron.last {
            (neuron.last, neuron.last_packet) = (flow.time, flow.packet);
        }
        neuron.ahead = 0;
        if flow.confidence > 0.0 {
            neuron.spikes += u64::from(flow.replaces == 0.0);
            // The flow may have excited the neuron of another class before.
            if !flow.again || neuron.flows == 0 {
                neuron.count(flow, (peer, peer_hash));
            }
            neuron.packets += flow.packets;
            neuron.bytes += flow.bytes;
        } else {
            neuron.spikes = neuron.spikes.saturating_sub(1);
            neuron.flows = neuron.flows.saturating_sub(1);
            neuron.peers.remove(peer_hash);
            neuron.ports.remove(u64::from(flow.port));
            neuron.packets = neuron.packets.saturating_sub(flow.packets);
            neuron.bytes = neuron.bytes.saturating_sub(flow.bytes);
        }
        let fires = flow.confidence > 0.0 && neuron.potential >= rule.threshold && neuron.peers.0.len() >= least;
        let state = match neuron.reported {
            None if fires && self.lasting.len() < MAX_EPISODES => Some(EpisodeState::Begin),
            Some(reported) if flow.time.0.saturating_sub(reported.0) >= UPDATE => Some(EpisodeState::Update),
            _ => None,
        };
        if let Some(state) = state {
            neuron.reported = Some(flow.time);
            out.push(neuron.episode(rule, state, flow.time));
        }
        if state == Some(EpisodeState::Begin) {
            self.lasting.push(key);
        }
        let lasting = neuron.reported.is_some();
        InputSpike { rule: number, host, time: neuron.last, before, after: neuron.potential, lasting }
    }

    /// Ends the episodes whose last flow is more than their time constant before `now`; at most once a second. Those whose last flow stays
    /// ahead of `now` by more than that end too: the clock was set back, or a capture of an earlier time follows.
    pub fn advance(&mut self, now: Nanos, out: &mut Vec<Episode>) {
        if now.0.abs_diff(self.swept.0) < SWEEP {
            return;
        }
        self.swept = now;
        self.end(out, |neuron, rule| {
            let is_over = |nanos: u64| nanos as f64 / 1e9 > f64::from(rule.tau);
            neuron.ahead = if is_over(neuron.last.0.saturating_sub(now.0)) { neuron.ahead + 1 } else { 0 };
            is_over(now.0.saturating_sub(neuron.last.0)) || neuron.ahead == SET_BACK
        });
    }

    /// Ends all episodes, at the end of the source.
    pub fn finish(&mut self, out: &mut Vec<Episode>) {
        self.end(out, |_, _| true);
    }

    fn end(&mut self, out: &mut Vec<Episode>, over: impl Fn(&mut EpisodeNeuron, &EpisodeRule) -> bool) {
        let (neurons, rules, ended) = (&mut self.neurons, &self.rules, &mut self.ended);
        self.lasting.retain(|&key| {
            // Never `None`: there are more neurons than episodes, and those with an episode are not evicted.
            let Some(neuron) = neurons.get_mut(key) else { return false };
            let rule = &rules[neuron.rule];
            let ends = over(neuron, rule);
            if ends {
                out.push(neuron.episode(rule, EpisodeState::End, neuron.last));
                ended.truncate(MAX_ENDED - 1);
                ended.push_front((key, neuron.start, neuron.last));
                neuron.potential = 0.0;
                neuron.reported = None;
            }
            !ends
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn layer(role: Role) -> EpisodeLayer {
        EpisodeLayer::new(&[EpisodeRule { class: ClassId::new(1), role, tau: 30.0, threshold: 3.5 }])
    }

    fn flow(source: u8, target: u8, port: u16, seconds: f64) -> NamedFlow {
        NamedFlow {
            source: Address::from(std::net::IpAddr::from([10, 0, 0, source])),
            target: Address::from(std::net::IpAddr::from([10, 0, 1, target])),
            port,
            packet: 0,
            time: Nanos((seconds * SECOND as f64) as u64),
            packets: 2,
            bytes: 100,
            confidence: 1.0,
            again: false,
            replaces: 0.0,
        }
    }

    /// The episodes of flows of class 1.
    fn episodes(layer: &mut EpisodeLayer, flows: impl IntoIterator<Item = NamedFlow>) -> Vec<Episode> {
        let mut out = Vec::new();
        for flow in flows {
            layer.observe(ClassId::new(1), &flow, &mut out);
        }
        layer.finish(&mut out);
        out
    }

    #[test]
    fn a_scan_is_one_episode_of_its_source() {
        let found = episodes(&mut layer(Role::Source), (0..100).map(|i| flow(5, 1, 1000 + i, f64::from(i))));
        let states: Vec<_> = found.iter().map(|e| e.state).collect();
        assert_eq!(states, [EpisodeState::Begin, EpisodeState::Update, EpisodeState::End]);
        assert_eq!(found[0].flows, 4, "the fourth flow of a second each reaches 3.5");
        let end = &found[2];
        assert_eq!((end.flows, end.peers, end.ports, end.packets), (100, 1, 100, 200));
        assert_eq!((end.start, end.end), (Nanos(0), Nanos(99 * SECOND)));
        assert_eq!(end.host.to_string(), "10.0.0.5");
        assert_eq!(end.peer.map(|p| p.to_string()).as_deref(), Some("10.0.1.1"));
    }

    #[test]
    fn a_flood_is_one_episode_of_its_target() {
        let found = episodes(&mut layer(Role::Target), (0..200).map(|i| flow(i, 1, 80, f64::from(i) / 100.0)));
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].host.to_string().as_str(), found[1].peers, found[1].peer), ("10.0.1.1", 200, None));
    }

    #[test]
    fn episodes_outlast_any_number_of_other_hosts() {
        let mut layer = layer(Role::Source);
        let attackers = (0..32).flat_map(|source| (0..4).map(move |port| flow(source, 1, port, 0.0)));
        let others = (0..MAX_NEURONS as u32 + 1000).map(|number| {
            let source = Address::from(std::net::IpAddr::from((0x0b00_0000 + number).to_be_bytes()));
            NamedFlow { source, ..flow(0, 1, 80, 1.0) }
        });
        let found = episodes(&mut layer, attackers.chain(others));
        let count = |state| found.iter().filter(|episode| episode.state == state).count();
        assert_eq!((count(EpisodeState::Begin), count(EpisodeState::End)), (32, 32));
    }

    #[test]
    fn one_flow_whose_packets_go_on_is_an_episode_of_one_flow() {
        let spikes = (0..8).map(|i| NamedFlow { again: i > 0, packets: 32, ..flow(5, 1, 80, f64::from(i)) });
        let found = episodes(&mut layer(Role::Target), spikes);
        let end = found.last().expect("it ends");
        assert_eq!((found.len(), end.flows, end.packets, end.confidence), (2, 1, 256, 1.0));
    }

    /// A layer with rules for both roles.
    fn layer_of_both() -> EpisodeLayer {
        let rule = |role| EpisodeRule { class: ClassId::new(1), role, tau: 30.0, threshold: 3.5 };
        EpisodeLayer::new(&[rule(Role::Source), rule(Role::Target)])
    }

    #[test]
    fn with_rules_for_both_roles_an_attack_is_one_episode() {
        let time = |i: u8| f64::from(i) / 100.0;
        let about = |flows: Vec<NamedFlow>| {
            let found = episodes(&mut layer_of_both(), flows);
            assert_eq!(found.len(), 2, "begin and end of one");
            (found[1].role, found[1].host.to_string(), found[1].flows, found[1].peers)
        };
        let one = (0..200).map(|i| flow(5, 1, 80, time(i))).collect();
        assert_eq!(about(one), (Role::Source, "10.0.0.5".into(), 200, 1), "one source");
        let forged = (0..200).map(|i| flow(i, 1, 80, time(i))).collect();
        assert_eq!(about(forged), (Role::Target, "10.0.1.1".into(), 200, 200), "forged sources");
        let four = (0..200).map(|i| flow(i % 4, 1, 80, time(i))).collect();
        assert_eq!(about(four), (Role::Target, "10.0.1.1".into(), 200, 4), "four sources");
        let sweep = (0..200).map(|i| flow(5, i, 80, time(i))).collect();
        assert_eq!(about(sweep), (Role::Source, "10.0.0.5".into(), 200, 200), "one source and many targets");
    }

    #[test]
    fn flows_too_far_apart_are_no_episode() {
        assert_eq!(episodes(&mut layer(Role::Source), (0..50).map(|i| flow(5, 1, 80, f64::from(i) * 40.0))), []);
    }

    #[test]
    fn an_episode_ends_after_its_time_constant() {
        let mut layer = layer(Role::Source);
        let mut out = Vec::new();
        for i in 0..10 {
            layer.observe(ClassId::new(1), &flow(5, 1, i, f64::from(i)), &mut out);
        }
        assert_eq!(layer.lasting(), 1);
        layer.advance(Nanos(39 * SECOND), &mut out);
        assert_eq!(layer.lasting(), 1, "30 s after the last flow");
        layer.advance(Nanos(41 * SECOND), &mut out);
        assert_eq!((layer.lasting(), out.len()), (0, 2));
        // The next one begins from rest.
        for i in 0..3 {
            layer.observe(ClassId::new(1), &flow(5, 1, i, 50.0 + f64::from(i)), &mut out);
        }
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn what_a_flow_adds_follows_its_confidence() {
        let (mut layer, mut out) = (layer(Role::Source), Vec::new());
        let of_scan = |layer: &mut EpisodeLayer, port: u16, confidences: &[f32], out: &mut Vec<Episode>| {
            let mut replaces = 0.0;
            let mut after = 0.0;
            for &confidence in confidences {
                let again = replaces > 0.0;
                let flow = NamedFlow { confidence, replaces, again, packets: 1, bytes: 50, ..flow(5, 1, port, 0.0) };
                after = layer.observe(ClassId::new(1), &flow, out)[0].expect("the source has a rule").after;
                replaces = confidence;
            }
            after
        };
        // A busy server: the first packets of each connection resemble the class, the next ones don't.
        for port in 0..1000 {
            assert!(of_scan(&mut layer, port, &[0.9, 0.6, 0.0], &mut out) < 1e-3, "connection {port}");
        }
        assert!(out.is_empty());
        for port in 0..4 {
            let after = of_scan(&mut layer, port, &[0.5, 0.7, 0.9], &mut out);
            assert!((after - 0.9 * f32::from(port + 1)).abs() < 1e-3, "{after} after flow {port}");
        }
        let [begin] = &out[..] else { panic!("{} episodes", out.len()) };
        assert_eq!((begin.state, begin.flows, begin.packets, begin.bytes), (EpisodeState::Begin, 4, 12, 600));
        assert!((begin.confidence - 0.9).abs() < 1e-3, "{}", begin.confidence);
    }

    #[test]
    fn a_flow_that_is_taken_back_counts_for_nothing() {
        let (mut layer, mut out) = (layer(Role::Source), Vec::new());
        let of_scan = ClassId::new(1);
        for i in 0..10 {
            let named = NamedFlow { packet: u64::from(i) * 10, ..flow(5, i, 100 + u16::from(i), f64::from(i)) };
            layer.observe(of_scan, &named, &mut out);
            if i % 2 == 1 {
                let back = NamedFlow { confidence: 0.0, replaces: 1.0, again: true, packet: named.packet + 1, ..named };
                layer.observe(of_scan, &back, &mut out);
            }
        }
        layer.finish(&mut out);
        let end = out.last().expect("an episode");
        assert_eq!((end.flows, end.peers, end.ports, end.packets, end.bytes), (5, 5, 5, 10, 500));
        assert_eq!((end.time, end.packet), (Nanos(9 * SECOND), 91), "the last flow");
    }

    #[test]
    fn flows_without_ports_have_none() {
        let found = episodes(&mut layer(Role::Source), (0..9).map(|i| flow(5, i, 0, 0.0)));
        assert_eq!(found.last().map(|e| (e.flows, e.peers, e.ports)), Some((9, 9, 0)));
    }

    #[test]
    fn episodes_end_though_the_clock_was_set_back() {
        let (mut layer, mut out) = (layer(Role::Source), Vec::new());
        let scan = |layer: &mut EpisodeLayer, source: u8, seconds: f64, out: &mut Vec<Episode>| {
            for port in 0..5 {
                layer.observe(ClassId::new(1), &flow(source, 1, port, seconds), out);
            }
        };
        scan(&mut layer, 5, 7200.0, &mut out);
        scan(&mut layer, 6, 10.0, &mut out);
        assert_eq!(layer.lasting(), 2);
        (11..42).for_each(|second| layer.advance(Nanos(second * SECOND), &mut out));
        assert_eq!(layer.lasting(), 1, "30 s after its last flow");
        (42..90).for_each(|second| layer.advance(Nanos(second * SECOND), &mut out));
        assert_eq!(layer.lasting(), 0, "a minute without a flow as late as its last");
        // Two sensors whose clocks differ: the one that is behind does not end the episodes of the other.
        out.clear();
        for second in 0..200 {
            scan(&mut layer, 7, 100.0 + f64::from(second), &mut out);
            scan(&mut layer, 8, 3700.0 + f64::from(second), &mut out);
        }
        let of_later = |e: &&Episode| e.host.to_string() == "10.0.0.8" && e.state != EpisodeState::Update;
        assert_eq!(out.iter().filter(of_later).count(), 1, "it has begun, and lasts");
    }

    #[test]
    fn flows_are_part_of_the_episodes_that_they_overlap() {
        let (mut layer, mut out) = (layer(Role::Source), Vec::new());
        let part = |layer: &EpisodeLayer, class: u16, source: u8, seconds: [u64; 2]| {
            let NamedFlow { source, target, .. } = flow(source, 9, 80, 0.0);
            layer.is_part(ClassId::new(class), [source, target], seconds.map(|second| Nanos(second * SECOND)))
        };
        for i in 0..10 {
            assert_eq!(part(&layer, 1, 5, [0, 100]), i >= 4, "after {i} flows; the fourth begins the episode");
            layer.observe(ClassId::new(1), &flow(5, 1, i, 10.0 + f64::from(i)), &mut out);
        }
        for lasting in [1, 0] {
            assert_eq!(layer.lasting(), lasting);
            assert!(part(&layer, 1, 5, [3, 10]) && part(&layer, 1, 5, [12, 13]) && part(&layer, 1, 5, [19, 50]));
            assert!(!part(&layer, 1, 5, [3, 9]), "it ended before the episode began");
            assert!(!part(&layer, 1, 5, [20, 21]), "it began after the last flow of the episode");
            assert!(!part(&layer, 1, 6, [12, 13]), "another source");
            assert!(!part(&layer, 0, 5, [12, 13]), "another class");
            layer.advance(Nanos(60 * SECOND), &mut out);
        }
        // Many other episodes later it is forgotten.
        for number in 0..MAX_ENDED as u32 {
            let source = Address::from(std::net::IpAddr::from((0x0b00_0000 + number).to_be_bytes()));
            let time = f64::from(number + 2) * 60.0;
            for _ in 0..4 {
                layer.observe(ClassId::new(1), &NamedFlow { source, ..flow(0, 1, 80, time) }, &mut out);
            }
            assert!(part(&layer, 1, 5, [12, 13]), "after {number} others");
        }
        layer.finish(&mut out);
        assert!(!part(&layer, 1, 5, [12, 13]));
    }

    #[test]
    fn classes_without_a_rule_have_no_episodes() {
        let (mut layer, mut out) = (layer(Role::Source), Vec::new());
        for i in 0..100 {
            assert_eq!(layer.observe(ClassId::new(0), &flow(5, 1, i, 0.0), &mut out), [None; 2]);
        }
        assert!(out.is_empty() && !layer.has_rule(ClassId::new(0)));
    }

    #[test]
    fn spikes_tell_the_potential_and_whom_they_excite() {
        let (mut layer, mut out) = (layer_of_both(), Vec::new());
        let mut spikes = Vec::new();
        let mut excite = |source, seconds, confidence| {
            let flow = NamedFlow { confidence, ..flow(source, 1, 80, seconds) };
            let excited = layer.observe(ClassId::new(1), &flow, &mut out);
            spikes.extend(excited.into_iter().flatten());
            excited.map(|spike| spike.map(|spike| (spike.rule, spike.host.to_string(), spike.lasting)))
        };
        let source = |lasting| Some((0, "10.0.0.5".to_string(), lasting));
        let target = |lasting| Some((1, "10.0.1.1".to_string(), lasting));
        let flows = [(0.0, 1.0), (3.5, 0.6), (3.5, 0.9), (20.0, 1.0), (21.0, 1.0)];
        for (seconds, confidence) in flows {
            assert_eq!(excite(5, seconds, confidence), [source(false), target(false)]);
        }
        assert_eq!(excite(5, 21.5, 1.0), [source(true), None], "one source fires alone");
        assert_eq!(excite(5, 22.0, 1.0), [source(true), None], "its further flows are its own");
        let direct = |at: f64| flows.iter().map(|&(t, w)| f64::from(w) * (-(at - t) / 30.0).exp()).sum::<f64>();
        let last = spikes.iter().rev().find(|spike| spike.rule == 1).expect("the target was excited");
        assert!((f64::from(last.after) - direct(21.0)).abs() < 1e-5, "{last:?}");
        assert!((last.after - last.before - 1.0).abs() < 1e-6, "{last:?}");
    }

    #[test]
    fn neurons_and_episodes_are_bounded() {
        let (mut layer, mut out) = (layer(Role::Target), Vec::new());
        for host in 0..100_000u32 {
            let target = Address::from(std::net::IpAddr::from(host.to_be_bytes()));
            for _ in 0..5 {
                layer.observe(ClassId::new(1), &NamedFlow { target, ..flow(1, 1, 1, 1.0) }, &mut out);
            }
        }
        assert_eq!(layer.lasting(), MAX_EPISODES);
        assert!(layer.neurons.len() <= MAX_NEURONS);
    }
}
