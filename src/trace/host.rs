//! Traces of one host: a leaky count of each kind of event at each time constant.

use crate::capture::Nanos;

use super::bounded::Activity;

/// Time constants of the leaky counts, in seconds.
pub(super) const TAUS: [f32; 3] = [1.0, 10.0, 60.0];
/// Smaller steps of time are added up before the counts decay: 1 ms. A single-precision factor can't express the decay of less.
const STEP: u64 = 1_000_000;
/// Something is new to a host if it was not seen in this or the previous interval of this length: 30 s.
const GENERATION: u64 = 30_000_000_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Flows that the host began.
    Begun,
    /// Destination ports that it had not used lately.
    Ports,
    /// Destinations that it had not addressed lately.
    Peers,
    /// Flows that it began without payload.
    Empty,
    /// Flows that it began and that were answered.
    Answers,
    /// Flows that it began and that were reset by the other side.
    Resets,
    /// Flows that others began to the host.
    Received,
    /// Sources that had not addressed it lately.
    Sources,
    /// Flows that others began and that the host answered.
    Answered,
    /// Packets that it sent in flows that it began. Those of flows that are not due are counted later.
    Sent,
    /// Packets that it received in flows that others began; the same holds.
    Arrived,
}

pub(super) const COUNTS: usize = 11;

/// Coded leaky counts.
pub(super) struct Levels {
    /// `[count][tau]`.
    pub counts: [[u8; TAUS.len()]; COUNTS],
    /// Flows that others began and in which they sent payload, at the middle time constant.
    pub requested: u8,
}

/// Leaky counts, `[tau]`, which decay together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decay {
    last: Nanos,
}

impl Decay {
    /// Factors `[tau]` of the time since the last call; `None` if there is nothing to decay. A clock that was set back stops the decay.
    pub fn factors(&mut self, now: Nanos) -> Option<[f32; TAUS.len()]> {
        let passed = now.0.saturating_sub(self.last.0);
        if passed < STEP {
            return None;
        }
        self.last = now;
        // exp(-t) at tau = 60 s; its sixth power at 10 s; the tenth power of that at 1 s.
        let slow = (-(passed as f64 / 1e9) / f64::from(TAUS[2])).exp() as f32;
        let middle = slow.powi(6);
        Some([middle.powi(10), middle, slow])
    }

    /// The time of the last decay.
    pub fn last(&self) -> Nanos {
        self.last
    }
}

/// A [`RecentSet`] with fewer vacant bits, of 64, is emptied before an item is added.
const VACANT: u32 = 4;

/// A small set that forgets: 64 bits per generation.
#[derive(Clone, Copy, Debug, Default)]
struct RecentSet {
    now: u64,
    before: u64,
}

impl RecentSet {
    fn age(&mut self, generations: u64) {
        (self.now, self.before) = match generations {
            0 => return,
            1 => (0, self.now),
            _ => (0, 0),
        };
    }

    /// Adds an item. Returns its weight: 0 if it may have been in the set, else the inverse of the share of vacant bits, which
    /// makes the sum of weights an unbiased count of distinct items (Ting 2014, streamed approximate counting of distinct elements).
    ///
    /// A set with few vacant bits, after some 180 distinct items, is emptied first. A full one would count no item as new, and a long scan would look
    /// like one that has stopped.
    fn add(&mut self, item: u128) -> f32 {
        if (self.now | self.before).count_zeros() < VACANT {
            *self = Self::default();
        }
        let (bit, seen) = (1u64 << (spread(item) >> 58), self.now | self.before);
        self.now |= bit;
        if seen & bit != 0 { 0.0 } else { 64.0 / seen.count_zeros() as f32 }
    }
}

/// Spreads items over 64 bits, of which the upper ones are used. Without a secret, so that a capture gives the same traces whenever it is
/// read; whoever chooses items that fall together hides how many they are, and not how many flows.
fn spread(item: u128) -> u64 {
    let folded = (item as u64) ^ ((item >> 64) as u64).rotate_left(32);
    let mixed = (folded ^ folded >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Traces of one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    counts: [[f32; TAUS.len()]; COUNTS],
    /// Flows that others began and in which they sent payload, at the middle time constant: few of a flood, most of a busy server. One
    /// time constant, since there are many hosts.
    requested: f32,
    decay: Decay,
    /// Ports, peers and sources seen lately.
    recent: [RecentSet; 3],
}

impl Host {
    /// The host with its counts decayed to `now`.
    pub fn at(&mut self, now: Nanos) -> &Self {
        let last = self.decay.last();
        if let Some(factors) = self.decay.factors(now) {
            for counts in &mut self.counts {
                for (count, factor) in counts.iter_mut().zip(factors) {
                    *count *= factor;
                }
            }
            let [_, middle, _] = factors;
            self.requested *= middle;
            let generations = now.0 / GENERATION - last.0 / GENERATION;
            self.recent.iter_mut().for_each(|set| set.age(generations));
        }
        self
    }

    /// Adds `weight` to a count.
    pub fn add(&mut self, count: Count, now: Nanos, weight: f32) {
        self.add_weights(count, now, [weight; TAUS.len()]);
    }

    /// Adds to a count, `[tau]`.
    pub fn add_weights(&mut self, count: Count, now: Nanos, weights: [f32; TAUS.len()]) {
        self.at(now);
        self.counts[count as usize].iter_mut().zip(weights).for_each(|(v, weight)| *v += weight);
    }

    /// Adds to a count of distinct items if the item is new. `count`: [`Count::Ports`], [`Count::Peers`] or
    /// [`Count::Sources`].
    pub fn add_new(&mut self, count: Count, now: Nanos, item: u128) {
        self.at(now);
        let set = match count {
            Count::Ports => 0,
            Count::Peers => 1,
            _ => 2,
        };
        let weight = self.recent[set].add(item);
        if weight > 0.0 {
            self.add(count, now, weight);
        }
    }

    /// Counts a flow that another host began and in which it sent payload.
    pub fn request(&mut self, now: Nanos) {
        self.at(now);
        self.requested += 1.0;
    }

    /// The counts, coded.
    pub fn levels(&self) -> Levels {
        let mut counts = [[0; TAUS.len()]; COUNTS];
        // Flat, so that the compiler codes several at once.
        counts.as_flattened_mut().iter_mut().zip(self.counts.as_flattened()).for_each(|(coded, &count)| *coded = level(count));
        Levels { counts, requested: level(self.requested) }
    }
}

impl Activity for Host {
    fn activity(&self) -> (u32, Nanos) {
        let slowest = |count: Count| self.counts[count as usize][2];
        let flows = slowest(Count::Begun) + slowest(Count::Received);
        // The first packets of a flow are no more than the flow; a flow that is busy weighs as one flow in 16 packets.
        let packets = slowest(Count::Sent) + slowest(Count::Arrived);
        // Hosts of a flow or two are alike.
        (flows.max(packets / 16.0) as u32 / 4, self.decay.last())
    }
}

/// The level of 256 and more. Attacks that a model is trained on have some hundred flows: of levels that only longer ones reach it would know
/// nothing.
const HIGHEST: u8 = 18;

/// The level of a count: that of [`half_octaves`], at most 18.
#[inline]
pub(super) fn level(count: f32) -> u8 {
    half_octaves(count).min(HIGHEST)
}

/// Two levels per octave: 0 below 0.75, 1 from 0.75, 2 from 1, 3 from 1.5, 4 from 2 ...; at most 47.
#[inline]
pub(super) fn half_octaves(count: f32) -> u8 {
    // Exponent and the first bit of the mantissa; at most 0 for what is below 0.75.
    ((count.to_bits() >> 22) as u16).saturating_sub((0.5f32.to_bits() >> 22) as u16).min(47) as u8
}
