//! Recent streams of a sensor, on which a model or a part is tried before it is used.
//!
//! Input: the slot values of sampled streams that the running model names. No neuron is trained on them and they never leave the process.
//! Output: at most `MAX_STREAMS` streams of each class, the newest, so that a frequent class does not outweigh the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::encode::Layout;
use crate::model::Model;
use crate::packet::KeyKind;

use super::{StreamSlots, named};

/// Maximum number of streams of a class.
const MAX_STREAMS: usize = 32;
/// Maximum number of slot values of a model's streams: 4 MiB.
const MAX_SLOTS: usize = 2 << 20;

/// The streams of one model.
struct ModelStreams {
    key: KeyKind,
    layout: Layout,
    /// Slot values of all streams.
    slots: usize,
    /// Streams by the class that the running model gave them, oldest first.
    classes: BTreeMap<String, VecDeque<Arc<StreamSlots>>>,
}

impl ModelStreams {
    fn new(model: &Model) -> Self {
        Self { key: model.key, layout: model.layout.clone(), slots: 0, classes: BTreeMap::new() }
    }

    fn fits(&self, model: &Model) -> bool {
        self.key == model.key && self.layout == model.layout
    }

    fn add(&mut self, class: &str, stream: StreamSlots) {
        if stream.len() > MAX_SLOTS {
            return;
        }
        self.slots += stream.len();
        let own = self.classes.entry(class.into()).or_default();
        own.push_back(Arc::new(stream));
        if own.len() > MAX_STREAMS {
            self.slots -= own.pop_front().map_or(0, |oldest| oldest.len());
        }
        while self.slots > MAX_SLOTS {
            let Some(largest) = self.classes.values_mut().max_by_key(|streams| streams.len()) else { return };
            self.slots -= largest.pop_front().map_or(0, |oldest| oldest.len());
        }
    }
}

/// Recent streams by model name.
#[derive(Default)]
pub struct RecentStreams(Mutex<BTreeMap<String, ModelStreams>>);

impl RecentStreams {
    /// Adds a stream if the model names it. Streams of a layout before are discarded.
    pub fn add(&self, model: &Model, slots: &[u16]) {
        let Some(class) = named(model, slots) else { return };
        let mut models = self.0.lock();
        let streams = models.entry(model.name.clone()).or_insert_with(|| ModelStreams::new(model));
        if !streams.fits(model) {
            *streams = ModelStreams::new(model);
        }
        streams.add(class, slots.to_vec());
    }

    /// The streams of a model's name, key and layout.
    pub fn of(&self, model: &Model) -> Vec<Arc<StreamSlots>> {
        let models = self.0.lock();
        let streams = models.get(&model.name).filter(|streams| streams.fits(model));
        streams.map_or_else(Vec::new, |streams| streams.classes.values().flatten().cloned().collect())
    }

    /// Number of streams of the model of a name.
    pub fn count(&self, name: &str) -> usize {
        self.0.lock().get(name).map_or(0, |streams| streams.classes.values().map(VecDeque::len).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequent_class_leaves_the_others_their_streams_and_the_newest_stay() {
        let mut streams = ModelStreams::new(&Model::built_in().unwrap());
        (0..3).for_each(|n| streams.add("rare", vec![n; 100]));
        (0..1000).for_each(|n| streams.add("frequent", vec![n; 100]));
        assert_eq!((streams.classes["rare"].len(), streams.classes["frequent"].len()), (3, MAX_STREAMS));
        assert_eq!(streams.classes["frequent"].back().unwrap()[0], 999);
        assert_eq!(streams.slots, (3 + MAX_STREAMS) * 100);
        (0..10).for_each(|_| streams.add("large", vec![0; MAX_SLOTS / 4]));
        let held: usize = streams.classes.values().flatten().map(|stream| stream.len()).sum();
        assert!(held == streams.slots && held <= MAX_SLOTS, "{held} {}", streams.slots);
    }
}
