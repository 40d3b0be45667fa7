//! Class-balanced reservoir: a bounded random sample of streams that keeps the labels as even as possible.
//!
//! Class-balancing reservoir sampling (Chrysakis and Moens, *Online Continual Learning from Imbalanced Data*, ICML 2020): when
//! the reservoir is full, a new stream replaces a random stream of the largest label. If its own label is or was the largest, it replaces
//! a stream of its own label instead, with the probability that makes all streams of the label equally likely to be kept.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::train::random::below;

/// A sampled stream: the slot values of its packets, `[volley][slot]`.
pub type StreamSlots = Vec<u16>;

/// The streams of one label.
#[derive(Default)]
struct SampleLabel {
    /// Number of streams offered.
    offered: u64,
    /// Whether the label was the largest when the reservoir was full.
    full: bool,
    slots: usize,
    streams: Vec<StreamSlots>,
}

/// Streams by label, bounded in slot values.
pub struct Reservoir {
    /// Capacity in slot values.
    room: usize,
    slots: usize,
    labels: BTreeMap<String, SampleLabel>,
    random: ChaCha8Rng,
}

impl Reservoir {
    /// An empty reservoir for `room` slot values.
    pub fn new(room: usize, seed: u64) -> Self {
        Self { room, slots: 0, labels: BTreeMap::new(), random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Each label with its streams.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[StreamSlots])> {
        self.labels().map(|(name, _, _, streams)| (name, streams))
    }

    /// Each label with the number of streams offered, whether it was the largest when the reservoir was full, and its streams.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, u64, bool, &[StreamSlots])> {
        self.labels.iter().map(|(name, label)| (name.as_str(), label.offered, label.full, label.streams.as_slice()))
    }

    /// Restores a label as [`Reservoir::labels`] returned it, as far as there is room.
    pub(super) fn restore(&mut self, name: &str, offered: u64, mut full: bool, streams: impl Iterator<Item = StreamSlots>) {
        for stream in streams {
            if self.slots + stream.len() > self.room {
                full = true;
                continue;
            }
            self.put(name, stream);
        }
        let label = self.labels.entry(name.into()).or_default();
        (label.offered, label.full) = (offered, full);
    }

    fn put(&mut self, name: &str, stream: StreamSlots) {
        let label = self.labels.entry(name.into()).or_default();
        self.slots += stream.len();
        label.slots += stream.len();
        label.streams.push(stream);
    }

    /// The streams of a label.
    pub fn of(&self, label: &str) -> &[StreamSlots] {
        self.labels.get(label).map_or(&[], |l| &l.streams)
    }

    /// Offers a stream; returns whether it was stored.
    pub fn offer(&mut self, label: &str, stream: StreamSlots) -> bool {
        let wanted = stream.len();
        if wanted > self.room {
            return false;
        }
        let mine = self.labels.entry(label.into()).or_default();
        mine.offered += 1;
        if self.slots + wanted > self.room {
            let largest = self.largest();
            let mine = self.labels.get_mut(label).expect("it was entered above");
            mine.full |= largest.as_deref() == Some(label);
            if mine.full && !mine.streams.is_empty() {
                let chance = (u128::from(self.random.next_u64()) * u128::from(mine.offered)) >> 64;
                if chance >= mine.streams.len() as u128 {
                    return false;
                }
                self.remove_one(label);
            }
            while self.slots + wanted > self.room {
                let Some(largest) = self.largest() else { return false };
                self.remove_one(&largest);
            }
        }
        self.put(label, stream);
        true
    }

    fn largest(&self) -> Option<String> {
        let by_size = self.labels.iter().filter(|(_, l)| !l.streams.is_empty()).max_by_key(|(_, l)| l.slots);
        by_size.map(|(name, _)| name.clone())
    }

    fn remove_one(&mut self, label: &str) {
        let Some(mine) = self.labels.get_mut(label).filter(|mine| !mine.streams.is_empty()) else { return };
        mine.full = true;
        let gone = mine.streams.swap_remove(below(mine.streams.len(), &mut self.random));
        mine.slots -= gone.len();
        self.slots -= gone.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbered(number: usize, length: usize) -> StreamSlots {
        vec![number as u16; length]
    }

    #[test]
    fn a_flood_of_one_label_leaves_the_others_their_streams() {
        let mut reservoir = Reservoir::new(100, 1);
        (0..10).for_each(|n| assert!(reservoir.offer("rare", numbered(n, 1))));
        (0..10_000).for_each(|n| _ = reservoir.offer("flood", numbered(n, 1)));
        assert_eq!((reservoir.of("rare").len(), reservoir.of("flood").len()), (10, 90));
        // All streams of the flood are equally likely to be kept: the mean of their numbers is near that of all.
        let numbers = reservoir.of("flood").iter().map(|s| f64::from(s[0]));
        let mean = numbers.sum::<f64>() / 90.0;
        assert!((4000.0..6000.0).contains(&mean), "{mean}");
        (0..1000).for_each(|n| _ = reservoir.offer("late", numbered(n, 1)));
        assert_eq!(reservoir.of("rare").len(), 10);
        assert!((40..=50).contains(&reservoir.of("late").len()), "{}", reservoir.of("late").len());
    }

    proptest! {
        #[test]
        fn its_size_never_exceeds_its_capacity(offers in prop::collection::vec((0usize..4, 1usize..40), 1..300)) {
            let mut reservoir = Reservoir::new(64, 7);
            for (number, (label, length)) in offers.into_iter().enumerate() {
                reservoir.offer(["a", "b", "c", "d"][label], numbered(number, length));
                let held: usize = reservoir.iter().flat_map(|(_, streams)| streams).map(|s| s.len()).sum();
                prop_assert!(held <= 64 && held == reservoir.slots);
            }
        }
    }
}
