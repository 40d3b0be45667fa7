//! Who does the work? Workers that pull batches, decode them, hand each packet to the worker that owns its stream, and score.
//!
//! Input: a [`Source`] and [`Model`]s. Output: to an [`Observer`], [`Verdict`]s in packet order and what was counted. Every worker
//! takes the next batch from the source when it has nothing of its own to do, so no core waits; batches are numbered and each
//! worker handles its shard of them in that order, so results do not depend on the number of workers or on the batch size.

mod keep;
mod lane;
mod observer;
mod tally;
mod worker;

pub use keep::{Sample, Tap};
pub use observer::{Event, KeptPacket, Observer, Progress, Verdict};
pub use tally::{Spikes, Tally};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::capture::{CaptureError, FrameBatch, Source};
use crate::model::Model;
use crate::packet::{Decoder, KeyKind};
use crate::stream::Limits;

use worker::{Feed, Message, Output, Report, Routed, Told, Worker};

/// Models side by side; each has its own streams.
pub type Models = Vec<Arc<Model>>;

/// What the engine is told.
#[derive(Clone)]
pub struct Settings {
    /// May be swapped for others at any time: each worker looks once a batch. Where a model takes the place of one of the same key
    /// and classes, streams go on; else undecided streams begin anew.
    pub models: Arc<ArcSwap<Models>>,
    pub decoder: Decoder,
    /// Streams of each model, shared out among the workers.
    pub limits: Limits,
    pub workers: usize,
    /// Score every packet, whether its stream is decided or not.
    pub every_packet: bool,
    /// Packets of each named stream, from its first, that the observer is given.
    pub keep_packets: u32,
    /// Where learning listens in.
    pub tap: Option<Tap>,
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

impl Settings {
    /// The defaults for reading captures: all cores, a million streams a model.
    pub fn new(models: Models) -> Self {
        Self {
            models: Arc::new(ArcSwap::from_pointee(models)),
            decoder: Decoder::default(),
            limits: Limits { streams: 1 << 20, idle: 600 * SECOND, active: u64::MAX, closed: 60 * SECOND },
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            every_packet: false,
            keep_packets: 0,
            tap: None,
        }
    }
}

/// Which kinds of key the models ask for, as indices of [`KeyKind`].
fn kinds(models: &Models) -> [bool; KeyKind::COUNT] {
    let mut kinds = [false; KeyKind::COUNT];
    models.iter().for_each(|m| kinds[m.key as usize] = true);
    kinds
}

/// Batches under way at once, for each worker.
const IN_FLIGHT: usize = 4;

/// Reads a source to its end and tells the observer.
///
/// # Errors
/// Where the source can't be read; what it gave before is told all the same.
pub fn run(settings: &Settings, source: &mut dyn Source, observer: &mut dyn Observer) -> Result<Tally, CaptureError> {
    let workers = settings.workers.max(1);
    let live = source.clock().is_some();
    let feed = Mutex::new(Feed { source, next_batch: 0, next_packet: 0, error: None });
    let (pool_in, pool_out) = crossbeam_channel::bounded(workers * IN_FLIGHT);
    for _ in 0..workers * IN_FLIGHT {
        pool_in.send(Routed::new(FrameBatch::new(), workers)).expect("the pool has room for all its batches");
    }
    let inboxes: Vec<_> = (0..workers).map(|_| crossbeam_channel::unbounded::<Message>()).collect();
    let senders: Vec<_> = inboxes.iter().map(|(sender, _)| sender.clone()).collect();
    let (output, outputs) = crossbeam_channel::bounded::<Output>(workers * IN_FLIGHT * 4);
    let hasher = foldhash::fast::RandomState::default();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        for (number, (_, inbox)) in inboxes.into_iter().enumerate() {
            let (senders, output, pool) = (senders.clone(), output.clone(), (pool_in.clone(), pool_out.clone()));
            let feed = &feed;
            let builder = std::thread::Builder::new().name(format!("spiked-worker-{number}"));
            let worker = Worker::new(number, settings, live, hasher.clone(), senders, inbox, pool, output);
            if let Err(error) = builder.spawn_scoped(scope, move || worker.run(feed)) {
                panic!("can't start worker {number}: {error}");
            }
        }
        drop((senders, output, pool_in, pool_out));
        collect(workers, &outputs, &mut tally, observer);
    });
    let feed = feed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    feed.error.map_or(Ok(tally), Err)
}

/// Puts what the workers tell into packet order.
fn collect(workers: usize, outputs: &crossbeam_channel::Receiver<Output>, tally: &mut Tally, observer: &mut dyn Observer) {
    let mut waiting: BTreeMap<u64, (usize, Told)> = BTreeMap::new();
    let mut next = 0;
    let mut last = Told::default();
    for Output { batch, mut told, report } in outputs {
        tally.add(&report.tally);
        report.tell(observer);
        let Some(number) = batch else {
            last.append(&mut told);
            continue;
        };
        let entry = waiting.entry(number).or_default();
        entry.0 += 1;
        entry.1.append(&mut told);
        while waiting.get(&next).is_some_and(|w| w.0 == workers) {
            if let Some((_, told)) = waiting.remove(&next) {
                told.tell(observer);
            }
            next += 1;
        }
    }
    last.tell(observer);
}

impl Told {
    fn append(&mut self, other: &mut Self) {
        self.verdicts.append(&mut other.verdicts);
        self.packets.append(&mut other.packets);
    }

    fn tell(mut self, observer: &mut dyn Observer) {
        self.verdicts.sort_by_key(Verdict::order);
        self.verdicts.iter().for_each(|v| observer.verdict(v));
        self.packets.sort_by_key(|p| (p.packet, p.model));
        self.packets.iter().for_each(|p| observer.packet(p));
    }
}

impl Report {
    fn tell(&self, observer: &mut dyn Observer) {
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
