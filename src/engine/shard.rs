//! What does one shard of the streams know? Each model's streams of one hash range, and what was counted on the way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{FrameBatch, Nanos};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};
use crate::stream::Arrival;

use super::model_shard::{ModelShard, RoutedPacket};
use super::output::BatchOutput;
use super::{Counters, EngineSettings, Models, Observer, Progress, SpikeCounts, Writer, kinds};

/// A batch, decoded, with each packet filed under the shard that owns its stream.
pub(super) struct RoutedBatch {
    pub batch: FrameBatch,
    /// What time it was, for live sources.
    pub clock: Option<Nanos>,
    /// Of each frame; [`Headers::NONE`] of one that can't be decoded.
    pub headers: Vec<Headers>,
    /// For each shard and kind of key its packets.
    pub items: Vec<[Vec<RoutedPacket>; KeyKind::COUNT]>,
    /// The worker that fills it.
    pub owner: usize,
}

impl RoutedBatch {
    pub fn new(batch: FrameBatch, shards: usize, owner: usize) -> Self {
        Self { batch, clock: None, headers: Vec::new(), items: (0..shards).map(|_| Default::default()).collect(), owner }
    }

    fn forget(&mut self) {
        self.headers.clear();
        self.items.iter_mut().flatten().for_each(Vec::clear);
    }
}

/// What a worker did.
pub(super) struct WorkerReport {
    pub worker: usize,
    pub counters: Counters,
    pub live: usize,
    pub queue: usize,
    pub busy: Duration,
    pub idle: Duration,
    pub lag: Option<Duration>,
}

impl WorkerReport {
    pub fn tell(&self, observer: &mut dyn Observer) {
        observer.progress(&Progress {
            worker: self.worker,
            counters: &self.counters,
            live: self.live,
            queue: self.queue,
            busy: self.busy,
            idle: self.idle,
            lag: self.lag,
        });
    }
}

/// One shard.
pub(super) struct Shard<'a> {
    number: usize,
    settings: &'a EngineSettings,
    /// Whether the source has a clock.
    pub live: bool,
    hasher: foldhash::fast::RandomState,
    models: Arc<Models>,
    model_shards: Vec<ModelShard>,
    writer: Option<Writer>,
    counters: Counters,
    /// Since when the counters counts, and how long of that was waiting.
    since: Instant,
    pub idle: Duration,
}

impl<'a> Shard<'a> {
    pub fn new(number: usize, settings: &'a EngineSettings, live: bool, hasher: foldhash::fast::RandomState) -> Self {
        let models = settings.models.load_full();
        let (counters, since, idle) = (Counters::default(), Instant::now(), Duration::ZERO);
        let writer = settings.writer.as_ref().map(|new| new());
        let mut shard = Self { number, settings, live, hasher, models, model_shards: Vec::new(), writer, counters, since, idle };
        shard.model_shards = shard.new_model_shards();
        shard
    }

    fn new_model_shards(&self) -> Vec<ModelShard> {
        (0..self.models.len()).map(|number| self.new_model_shard(number)).collect()
    }

    fn new_model_shard(&self, number: usize) -> ModelShard {
        let model = Arc::clone(&self.models[number]);
        let mut limits = self.settings.limits;
        limits.streams = limits.streams.div_ceil(self.settings.workers.max(1));
        let limits = limits.for_key(model.key);
        ModelShard::new(model, number, limits, self.settings, self.live, self.hasher.clone())
    }

    /// Decodes a batch and files its packets; a panic costs the batch, which is counted.
    pub fn route(&mut self, routed: &mut RoutedBatch) {
        let kinds = kinds(&self.settings.models.load());
        if catch_unwind(AssertUnwindSafe(|| self.file(routed, kinds))).is_err() {
            self.counters.lost_packets += routed.batch.len() as u64;
            routed.forget();
        }
    }

    fn file(&mut self, routed: &mut RoutedBatch, kinds: [bool; KeyKind::COUNT]) {
        routed.forget();
        let (counters, decoder) = (&mut self.counters, &self.settings.decoder);
        let RoutedBatch { batch, headers: found, items, .. } = routed;
        let shards = items.len() as u64;
        for (number, frame) in (0u32..).zip(batch.iter()) {
            counters.frames += 1;
            counters.bytes += u64::from(frame.wire_len);
            let headers = match decoder.decode(frame.link.0, frame.bytes) {
                Ok(headers) => headers,
                Err(reason) => {
                    found.push(Headers::NONE);
                    *counters.undecodable.entry(reason).or_default() += 1;
                    continue;
                }
            };
            let mut file = |key: StreamKey, direction: Direction| {
                let packet = Arrival::new(key, &self.hasher, direction, &headers, &frame);
                // The high half of a 32 x 32 bit product shares the hash range out evenly.
                let shard = ((u64::from(packet.hash) * shards) >> 32) as usize;
                items[shard][key.kind() as usize].push(RoutedPacket { packet, frame: number });
            };
            if kinds[KeyKind::Flow as usize] {
                let (key, direction) = StreamKey::flow(&headers, frame.bytes);
                file(key, direction);
            }
            if kinds[KeyKind::Host as usize] {
                let hosts = StreamKey::of(KeyKind::Host, &headers, frame.bytes);
                hosts.into_iter().flatten().for_each(|(key, direction)| file(key, direction));
            }
            found.push(headers);
        }
    }

    /// Takes over the models that the settings hold now.
    fn adopt(&mut self, told: &mut BatchOutput) {
        let models = self.settings.models.load();
        if Arc::ptr_eq(&models, &self.models) {
            return;
        }
        self.models = Arc::clone(&models);
        for number in 0..self.models.len() {
            let model = &self.models[number];
            if let Some(model_shard) = self.model_shards.get_mut(number) {
                if !model_shard.adopt(model) {
                    model_shard.finish(told);
                    self.model_shards[number] = self.new_model_shard(number);
                }
            } else {
                self.model_shards.push(self.new_model_shard(number));
            }
        }
        self.model_shards.drain(self.models.len()..).for_each(|mut model_shard| model_shard.finish(told));
    }

    /// Handles this shard's packets of a batch, whose first has the number `first`. A panic costs the shard's streams, which are
    /// counted, and nothing else.
    pub fn handle(&mut self, routed: &RoutedBatch, first: u64, told: &mut BatchOutput) {
        self.adopt(told);
        let mine = &routed.items[self.number];
        let (shard, model_shards, counters) = (self.number, &mut self.model_shards, &mut self.counters);
        let handled = catch_unwind(AssertUnwindSafe(|| {
            for model_shard in model_shards.iter_mut() {
                model_shard.packets(routed, shard, first, counters, told);
                if let Some(now) = routed.clock {
                    model_shard.sweep(now, first, counters, told);
                }
            }
        }));
        if handled.is_err() {
            self.counters.lost_streams += self.model_shards.iter().map(|l| l.live() as u64).sum::<u64>();
            self.counters.lost_packets += mine.iter().map(|items| items.len() as u64).sum::<u64>();
            self.model_shards = self.new_model_shards();
        }
        told.sort();
        told.write(&mut self.writer);
    }

    /// Ends all streams, and tells of them in the order in which they began, some at a time: so the end of a capture takes no more
    /// memory than the middle.
    pub fn finish(&mut self, mut tell: impl FnMut(&mut BatchOutput)) {
        let mut left: Vec<_> =
            self.model_shards.iter_mut().map(|model_shard| model_shard.take().into_iter().peekable()).collect();
        let mut told = BatchOutput::default();
        loop {
            let firsts = left
                .iter_mut()
                .enumerate()
                .filter_map(|(model_shard, left)| Some((left.peek().map(|s| (s.number, s.key))?, model_shard)));
            let next = firsts.min().and_then(|(_, model_shard)| Some((model_shard, left[model_shard].next()?)));
            if told.is_full() || next.is_none() {
                told.sort();
                told.write(&mut self.writer);
                tell(&mut told);
            }
            let Some((model_shard, stream)) = next else { break };
            self.model_shards[model_shard].end(stream, u64::MAX, &mut told);
        }
    }

    /// What was done since the last report.
    pub fn report(&mut self, queue: usize, lag: Option<Duration>) -> WorkerReport {
        let mut counters = std::mem::take(&mut self.counters);
        counters.spikes = self.model_shards.iter_mut().filter_map(ModelShard::take_spikes).collect::<Vec<SpikeCounts>>();
        let (elapsed, idle) = (self.since.elapsed(), std::mem::take(&mut self.idle));
        self.since = Instant::now();
        let live = self.model_shards.iter().map(ModelShard::live).sum();
        WorkerReport { worker: self.number, counters, live, queue, busy: elapsed.saturating_sub(idle), idle, lag }
    }
}
