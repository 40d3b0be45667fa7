//! Which samples make a stream? They are put together until it has all that are wanted, or nothing more comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::engine::TapSample;
use crate::model::Model;
use crate::packet::{Direction, StreamKey};
use crate::train::live::StreamSlots;

/// SampledStreams that are put together at once.
const MOST: usize = 8192;
/// A stream of which nothing comes for so long has said what it will say.
const QUIET: Duration = Duration::from_secs(2);

/// A stream of samples.
pub(super) struct SampledStream {
    pub model: usize,
    pub named: Arc<Model>,
    pub key: StreamKey,
    pub first_direction: Direction,
    pub slots: StreamSlots,
    last: Instant,
}

/// SampledStreams that are being put together.
#[derive(Default)]
pub(super) struct SampledStreams {
    open: HashMap<(usize, StreamKey, u64), SampledStream, foldhash::fast::RandomState>,
    /// SampledStreams that there was no room for.
    pub crowded: u64,
}

impl SampledStreams {
    /// Takes a sample; returns its stream where that has `packets` now.
    pub fn add(&mut self, sample: TapSample, packets: usize) -> Option<SampledStream> {
        let name = (sample.model, sample.key, sample.stream);
        let width = sample.slots.len();
        let now = Instant::now();
        if sample.position == 0 {
            if self.open.len() >= MOST {
                self.crowded += 1;
                return None;
            }
            let TapSample { model, named, key, first_direction, slots, .. } = sample;
            self.open.insert(name, SampledStream { model, named, key, first_direction, slots, last: now });
        } else {
            // Its first packet was not sampled, or it has all that are wanted.
            let stream = self.open.get_mut(&name)?;
            // A model that was swapped meanwhile may have another layout.
            if Arc::ptr_eq(&stream.named, &sample.named) || stream.named.layout == sample.named.layout {
                stream.slots.extend_from_slice(&sample.slots);
                stream.last = now;
            }
        }
        let complete = self.open.get(&name).is_some_and(|s| s.slots.len() >= packets * width);
        if complete { self.open.remove(&name) } else { None }
    }

    /// SampledStreams of which nothing has come for a while; all of them where it is the end.
    pub fn quiet(&mut self, end: bool) -> Vec<SampledStream> {
        let now = Instant::now();
        self.open.extract_if(|_, s| end || now.duration_since(s.last) > QUIET).map(|(_, stream)| stream).collect()
    }
}
