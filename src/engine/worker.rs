//! What does one worker do next? Its shard of the batches, in order; else the next batch from the source.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::capture::{CaptureError, FrameBatch, Nanos, Source};
use crate::packet::{Decoder, KeyKind, StreamKey};

use super::lane::{Item, Lane};
use super::{KeptPacket, Models, Settings, Spikes, Tally, Verdict, kinds};

/// The source, and what is next from it.
pub(super) struct Feed<'a> {
    pub source: &'a mut dyn Source,
    pub next_batch: u64,
    pub next_packet: u64,
    pub error: Option<CaptureError>,
}

/// A batch, decoded, with each packet filed under the worker that owns its stream.
pub(super) struct Routed {
    pub batch: FrameBatch,
    /// What time it was, for live sources.
    pub clock: Option<Nanos>,
    /// For each worker and kind of key its packets.
    pub items: Vec<[Vec<Item>; KeyKind::COUNT]>,
}

impl Routed {
    pub fn new(batch: FrameBatch, workers: usize) -> Self {
        Self { batch, clock: None, items: (0..workers).map(|_| Default::default()).collect() }
    }

    fn forget(&mut self) {
        self.items.iter_mut().flatten().for_each(Vec::clear);
    }
}

/// What a worker finds in its inbox.
pub(super) enum Message {
    Batch {
        number: u64,
        first: u64,
        routed: Arc<Routed>,
    },
    /// The source has ended after so many batches.
    End {
        batches: u64,
    },
}

/// What a worker found.
#[derive(Default)]
pub(super) struct Told {
    pub verdicts: Vec<Verdict>,
    pub packets: Vec<KeptPacket>,
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

/// What a worker tells after a batch, and at its end.
pub(super) struct Output {
    /// `None`: after the last one.
    pub batch: Option<u64>,
    pub told: Told,
    pub report: Report,
}

pub(super) struct Worker<'a> {
    number: usize,
    settings: &'a Settings,
    /// Whether the source has a clock.
    live: bool,
    hasher: foldhash::fast::RandomState,
    models: Arc<Models>,
    lanes: Vec<Lane>,
    others: Vec<Sender<Message>>,
    inbox: Receiver<Message>,
    pool: (Sender<Routed>, Receiver<Routed>),
    output: Sender<Output>,
    tally: Tally,
    /// Since when the tally counts, and how long of that was waiting.
    since: Instant,
    idle: Duration,
}

impl<'a> Worker<'a> {
    #[expect(clippy::too_many_arguments, reason = "made in one place")]
    pub fn new(
        number: usize,
        settings: &'a Settings,
        live: bool,
        hasher: foldhash::fast::RandomState,
        others: Vec<Sender<Message>>,
        inbox: Receiver<Message>,
        pool: (Sender<Routed>, Receiver<Routed>),
        output: Sender<Output>,
    ) -> Self {
        let models = settings.models.load_full();
        let (tally, since, idle) = (Tally::default(), Instant::now(), Duration::ZERO);
        let mut worker =
            Self { number, settings, live, hasher, models, lanes: Vec::new(), others, inbox, pool, output, tally, since, idle };
        worker.lanes = worker.new_lanes();
        worker
    }

    fn new_lanes(&self) -> Vec<Lane> {
        (0..self.models.len()).map(|number| self.new_lane(number)).collect()
    }

    fn new_lane(&self, number: usize) -> Lane {
        let mut limits = self.settings.limits;
        limits.streams = limits.streams.div_ceil(self.settings.workers.max(1));
        Lane::new(Arc::clone(&self.models[number]), number, limits, self.settings, self.live, self.hasher.clone())
    }

    pub fn run(mut self, feed: &Mutex<Feed<'_>>) {
        let mut ready: BTreeMap<u64, (u64, Arc<Routed>)> = BTreeMap::new();
        let mut next = 0;
        let mut batches = None;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                receive(message, &mut ready, &mut batches);
            }
            if let Some((first, routed)) = ready.remove(&next) {
                self.handle(next, first, routed, ready.len());
                next += 1;
                continue;
            }
            if batches == Some(next) {
                break;
            }
            if batches.is_none()
                && let Ok(routed) = self.pool.1.try_recv()
            {
                match self.turn(feed) {
                    Some(feed) => {
                        self.pull(feed, routed);
                        continue;
                    }
                    None => {
                        let _ = self.pool.0.try_send(routed);
                    }
                }
            }
            let asleep = Instant::now();
            let message = self.inbox.recv();
            self.idle += asleep.elapsed();
            match message {
                Ok(message) => receive(message, &mut ready, &mut batches),
                Err(_) => break,
            }
        }
        let mut told = Told::default();
        for lane in &mut self.lanes {
            lane.finish(&mut told);
        }
        let report = self.report(0, None);
        let _ = self.output.send(Output { batch: None, told, report });
    }

    /// The source, when it is this worker's turn. A live source may keep another worker waiting in it: that one will send what
    /// comes to all, so this one waits at its inbox. A capture gives its batch at once.
    fn turn<'f, 's>(&self, feed: &'f Mutex<Feed<'s>>) -> Option<MutexGuard<'f, Feed<'s>>> {
        if !self.live {
            return Some(feed.lock().unwrap_or_else(PoisonError::into_inner));
        }
        match feed.try_lock() {
            Ok(feed) => Some(feed),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the next batch from the source, decodes it and hands it to all.
    fn pull(&mut self, mut feed: MutexGuard<'_, Feed<'_>>, mut routed: Routed) {
        let asleep = self.live.then(Instant::now);
        let filled = feed.error.is_none() && {
            feed.source.fill(&mut routed.batch).unwrap_or_else(|error| {
                feed.error = Some(error);
                false
            })
        };
        self.idle += asleep.map_or(Duration::ZERO, |asleep| asleep.elapsed());
        if !filled {
            let batches = feed.next_batch;
            drop(feed);
            for other in &self.others {
                let _ = other.send(Message::End { batches });
            }
            return;
        }
        routed.clock = feed.source.clock();
        let (number, first) = (feed.next_batch, feed.next_packet);
        feed.next_batch += 1;
        feed.next_packet += routed.batch.len() as u64;
        drop(feed);
        let (hasher, decoder, kinds) = (&self.hasher, &self.settings.decoder, kinds(&self.settings.models.load()));
        let tally = &mut self.tally;
        let decoded = catch_unwind(AssertUnwindSafe(|| route(&mut routed, decoder, kinds, hasher, tally)));
        if decoded.is_err() {
            self.tally.lost_packets += routed.batch.len() as u64;
            routed.forget();
        }
        let routed = Arc::new(routed);
        for other in &self.others {
            let _ = other.send(Message::Batch { number, first, routed: Arc::clone(&routed) });
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

    /// Handles this worker's shard of a batch. A panic costs the shard's streams, which are counted, and nothing else.
    fn handle(&mut self, number: u64, first: u64, routed: Arc<Routed>, queue: usize) {
        let mut told = Told::default();
        self.adopt(&mut told);
        let mine = &routed.items[self.number];
        let (lanes, tally) = (&mut self.lanes, &mut self.tally);
        let handled = catch_unwind(AssertUnwindSafe(|| {
            for lane in lanes.iter_mut() {
                lane.packets(&routed.batch, first, &mine[lane.key() as usize], tally, &mut told);
                if let Some(now) = routed.clock {
                    lane.sweep(now, first, tally, &mut told);
                }
            }
        }));
        if handled.is_err() {
            self.tally.lost_streams += self.lanes.iter().map(|l| l.live() as u64).sum::<u64>();
            self.tally.lost_packets += mine.iter().map(|items| items.len() as u64).sum::<u64>();
            self.lanes = self.new_lanes();
        }
        let last = routed.batch.len().checked_sub(1).map(|last| routed.batch.frame(last).timestamp);
        let lag = routed.clock.zip(last).map(|(now, last)| Duration::from_nanos(now.0.saturating_sub(last.0)));
        if let Some(routed) = Arc::into_inner(routed) {
            let _ = self.pool.0.try_send(routed);
        }
        let report = self.report(queue, lag);
        let _ = self.output.send(Output { batch: Some(number), told, report });
    }

    fn report(&mut self, queue: usize, lag: Option<Duration>) -> Report {
        let mut tally = std::mem::take(&mut self.tally);
        tally.spikes = self.lanes.iter_mut().filter_map(Lane::take_spikes).collect::<Vec<Spikes>>();
        let (elapsed, idle) = (self.since.elapsed(), std::mem::take(&mut self.idle));
        self.since = Instant::now();
        let live = self.lanes.iter().map(Lane::live).sum();
        Report { worker: self.number, tally, live, queue, busy: elapsed.saturating_sub(idle), idle, lag }
    }
}
fn receive(message: Message, ready: &mut BTreeMap<u64, (u64, Arc<Routed>)>, batches: &mut Option<u64>) {
    match message {
        Message::Batch { number, first, routed } => {
            ready.insert(number, (first, routed));
        }
        Message::End { batches: all } => *batches = Some(all),
    }
}

/// Decodes a batch and files its packets.
fn route(
    routed: &mut Routed,
    decoder: &Decoder,
    kinds: [bool; KeyKind::COUNT],
    hasher: &foldhash::fast::RandomState,
    tally: &mut Tally,
) {
    use std::hash::BuildHasher;
    routed.forget();
    let Routed { batch, items, .. } = routed;
    let workers = items.len() as u64;
    for (number, frame) in (0u32..).zip(batch.iter()) {
        tally.frames += 1;
        tally.bytes += u64::from(frame.wire_len);
        let headers = match decoder.decode(frame.link.0, frame.bytes) {
            Ok(headers) => headers,
            Err(reason) => {
                *tally.undecodable.entry(reason).or_default() += 1;
                continue;
            }
        };
        for kind in [KeyKind::Flow, KeyKind::Host].into_iter().filter(|&kind| kinds[kind as usize]) {
            for (key, direction) in StreamKey::of(kind, &headers, frame.bytes).into_iter().flatten() {
                let hash = hasher.hash_one(key);
                // The high half of a 32 x 32 bit product shares the hash range out evenly.
                let shard = (((hash >> 32) * workers) >> 32) as usize;
                items[shard][kind as usize].push(Item { key, hash, headers, frame: number, direction });
            }
        }
    }
}
