//! Assembly of sampled packets into streams, until a stream has the wanted number of packets or times out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::engine::TapSample;
use crate::model::Model;
use crate::packet::{Direction, StreamKey};
use crate::train::live::StreamSlots;

/// Maximum number of streams under assembly.
const MOST: usize = 8192;
/// Timeout of a stream: after this time without samples it is passed on as it is.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The sampled packets of a stream.
pub(super) struct SampledStream {
    pub model: Arc<Model>,
    pub key: StreamKey,
    pub first_direction: Direction,
    pub slots: StreamSlots,
    last: Instant,
}

/// Streams under assembly.
#[derive(Default)]
pub(super) struct SampledStreams {
    open: HashMap<(usize, StreamKey, u64), SampledStream, foldhash::fast::RandomState>,
    /// Streams dropped because the table was full.
    pub crowded: u64,
}

impl SampledStreams {
    /// Adds a sample; returns its stream if it has `packets` packets now.
    pub fn add(&mut self, sample: TapSample, packets: usize) -> Option<SampledStream> {
        let name = (sample.model_index, sample.key, sample.stream);
        let width = sample.slots.len();
        let now = Instant::now();
        if sample.position == 0 {
            if self.open.len() >= MOST {
                self.crowded += 1;
                return None;
            }
            let TapSample { model, key, first_direction, slots, .. } = sample;
            self.open.insert(name, SampledStream { model, key, first_direction, slots, last: now });
        } else {
            // Unknown if its first packet was not sampled, or if the stream is already complete.
            let stream = self.open.get_mut(&name)?;
            // The model may have been replaced by one with another layout.
            if Arc::ptr_eq(&stream.model, &sample.model) || stream.model.layout == sample.model.layout {
                stream.slots.extend_from_slice(&sample.slots);
                stream.last = now;
            }
        }
        let complete = self.open.get(&name).is_some_and(|s| s.slots.len() >= packets * width);
        if complete { self.open.remove(&name) } else { None }
    }

    /// Removes the streams that timed out, or all if `end`.
    pub fn timed_out(&mut self, end: bool) -> Vec<SampledStream> {
        let now = Instant::now();
        self.open.extract_if(|_, s| end || now.duration_since(s.last) > TIMEOUT).map(|(_, stream)| stream).collect()
    }
}
