//! What does one shard of the streams know? Each model's streams of one hash range, and what was counted on the way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{FrameBatch, Nanos};
use crate::packet::{Direction, Headers, KeyKind, StreamKey};
use crate::stream::Arrival;

use super::lane::{Item, Lane};
use super::told::Told;
use super::{Models, Observer, Progress, Settings, Spikes, Tally, Writer, kinds};

/// A batch, decoded, with each packet filed under the shard that owns its stream.
pub(super) struct Routed {
    pub batch: FrameBatch,
    /// What time it was, for live sources.
    pub clock: Option<Nanos>,
    /// Of each frame; [`Headers::NONE`] of one that can't be decoded.
    pub headers: Vec<Headers>,
    /// For each shard and kind of key its packets.
    pub items: Vec<[Vec<Item>; KeyKind::COUNT]>,
    /// The worker that fills it.
    pub owner: usize,
}

impl Routed {
    pub fn new(batch: FrameBatch, shards: usize, owner: usize) -> Self {
        Self { batch, clock: None, headers: Vec::new(), items: (0..shards).map(|_| Default::default()).collect(), owner }
    }

    fn forget(&mut self) {
        self.headers.clear();
        self.items.iter_mut().flatten().for_each(Vec::clear);
    }
}

/// What a worker did.
pub(super) struct Report {
    pub worker: usize,
    pub tally: Tally,
    pub live: usize,
    pub queue: usize,
    pub busy: Duration,
    pub idle: Duration,
    pub lag: Option<Duration>,
}

impl Report {
    pub fn tell(&self, observer: &mut dyn Observer) {
        observer.progress(&Progress {
            worker: self.worker,
            tally: &self.tally,
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
    settings: &'a Settings,
    /// Whether the source has a clock.
    pub live: bool,
    hasher: foldhash::fast::RandomState,
    models: Arc<Models>,
    lanes: Vec<Lane>,
    writer: Option<Writer>,
    tally: Tally,
    /// Since when the tally counts, and how long of that was waiting.
    since: Instant,
    pub idle: Duration,
}

impl<'a> Shard<'a> {
    pub fn new(number: usize, settings: &'a Settings, live: bool, hasher: foldhash::fast::RandomState) -> Self {
        let models = settings.models.load_full();
        let (tally, since, idle) = (Tally::default(), Instant::now(), Duration::ZERO);
        let writer = settings.writer.as_ref().map(|new| new());
        let mut shard = Self { number, settings, live, hasher, models, lanes: Vec::new(), writer, tally, since, idle };
        shard.lanes = shard.new_lanes();
        shard
    }

    fn new_lanes(&self) -> Vec<Lane> {
        (0..self.models.len()).map(|number| self.new_lane(number)).collect()
    }

    fn new_lane(&self, number: usize) -> Lane {
        let model = Arc::clone(&self.models[number]);
        let mut limits = self.settings.limits;
        limits.streams = limits.streams.div_ceil(self.settings.workers.max(1));
        if model.key == KeyKind::Host {
            // A host stays what it is when one of its connections closes or is reset.
            limits.closed = u64::MAX;
        }
        Lane::new(model, number, limits, self.settings, self.live, self.hasher.clone())
    }

    /// Decodes a batch and files its packets; a panic costs the batch, which is counted.
    pub fn route(&mut self, routed: &mut Routed) {
        let kinds = kinds(&self.settings.models.load());
        if catch_unwind(AssertUnwindSafe(|| self.file(routed, kinds))).is_err() {
            self.tally.lost_packets += routed.batch.len() as u64;
            routed.forget();
        }
    }

    fn file(&mut self, routed: &mut Routed, kinds: [bool; KeyKind::COUNT]) {
        routed.forget();
        let (tally, decoder) = (&mut self.tally, &self.settings.decoder);
        let Routed { batch, headers: found, items, .. } = routed;
        let shards = items.len() as u64;
        for (number, frame) in (0u32..).zip(batch.iter()) {
            tally.frames += 1;
            tally.bytes += u64::from(frame.wire_len);
            let headers = match decoder.decode(frame.link.0, frame.bytes) {
                Ok(headers) => headers,
                Err(reason) => {
                    found.push(Headers::NONE);
                    *tally.undecodable.entry(reason).or_default() += 1;
                    continue;
                }
            };
            let mut file = |key: StreamKey, direction: Direction| {
                let packet = Arrival::new(key, &self.hasher, direction, &headers, &frame);
                // The high half of a 32 x 32 bit product shares the hash range out evenly.
                let shard = ((u64::from(packet.hash) * shards) >> 32) as usize;
                items[shard][key.kind() as usize].push(Item { packet, frame: number });
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
    fn adopt(&mut self, told: &mut Told) {
        let models = self.settings.models.load();
        if Arc::ptr_eq(&models, &self.models) {
            return;
        }
        self.models = Arc::clone(&models);
        for number in 0..self.models.len() {
            let model = &self.models[number];
            if let Some(lane) = self.lanes.get_mut(number) {
                if !lane.adopt(model) {
                    lane.finish(told);
                    self.lanes[number] = self.new_lane(number);
                }
            } else {
                self.lanes.push(self.new_lane(number));
            }
        }
        self.lanes.drain(self.models.len()..).for_each(|mut lane| lane.finish(told));
    }

    /// Handles this shard's packets of a batch, whose first has the number `first`. A panic costs the shard's streams, which are
    /// counted, and nothing else.
    pub fn handle(&mut self, routed: &Routed, first: u64, told: &mut Told) {
        self.adopt(told);
        let mine = &routed.items[self.number];
        let (shard, lanes, tally) = (self.number, &mut self.lanes, &mut self.tally);
        let handled = catch_unwind(AssertUnwindSafe(|| {
            for lane in lanes.iter_mut() {
                lane.packets(routed, shard, first, tally, told);
                if let Some(now) = routed.clock {
                    lane.sweep(now, first, tally, told);
                }
            }
        }));
        if handled.is_err() {
            self.tally.lost_streams += self.lanes.iter().map(|l| l.live() as u64).sum::<u64>();
            self.tally.lost_packets += mine.iter().map(|items| items.len() as u64).sum::<u64>();
            self.lanes = self.new_lanes();
        }
        told.sort();
        told.write(&mut self.writer);
    }

    /// Ends all streams, and tells of them in the order in which they began, some at a time: so the end of a capture takes no more
    /// memory than the middle.
    pub fn finish(&mut self, mut tell: impl FnMut(&mut Told)) {
        let mut left: Vec<_> = self.lanes.iter_mut().map(|lane| lane.take().into_iter().peekable()).collect();
        let mut told = Told::default();
        loop {
            let firsts =
                left.iter_mut().enumerate().filter_map(|(lane, left)| Some((left.peek().map(|s| (s.number, s.key))?, lane)));
            let next = firsts.min().and_then(|(_, lane)| Some((lane, left[lane].next()?)));
            if told.is_full() || next.is_none() {
                told.sort();
                told.write(&mut self.writer);
                tell(&mut told);
            }
            let Some((lane, stream)) = next else { break };
            self.lanes[lane].end(stream, u64::MAX, &mut told);
        }
    }

    /// What was done since the last report.
    pub fn report(&mut self, queue: usize, lag: Option<Duration>) -> Report {
        let mut tally = std::mem::take(&mut self.tally);
        tally.spikes = self.lanes.iter_mut().filter_map(Lane::take_spikes).collect::<Vec<Spikes>>();
        let (elapsed, idle) = (self.since.elapsed(), std::mem::take(&mut self.idle));
        self.since = Instant::now();
        let live = self.lanes.iter().map(Lane::live).sum();
        Report { worker: self.number, tally, live, queue, busy: elapsed.saturating_sub(idle), idle, lag }
    }
}
