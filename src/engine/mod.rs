//! Who does the work? Workers that pull batches, decode them, hand each packet to the worker that owns its stream, and score.
//!
//! Input: a [`Source`] and [`Model`]s. Output: [`Verdict`]s in packet order and a [`Tally`]. Every worker takes the next batch
//! from the source when it has nothing of its own to do, so no core waits; batches are numbered and each worker handles its
//! shard of them in that order, so results do not depend on the number of workers or on the batch size.

mod lane;
mod tally;
mod worker;

pub use lane::{Event, Verdict};
pub use tally::Tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::capture::{CaptureError, FrameBatch, Source};
use crate::model::Model;
use crate::packet::{Decoder, KeyKind};
use crate::stream::Limits;

use worker::{Feed, Message, Output, Routed, Worker};

/// What the engine is told.
#[derive(Clone)]
pub struct Settings {
    pub models: Vec<Arc<Model>>,
    pub decoder: Decoder,
    /// Streams of each model, shared out among the workers.
    pub limits: Limits,
    pub workers: usize,
    /// Score every packet, whether its stream is decided or not.
    pub every_packet: bool,
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

impl Settings {
    /// The defaults for reading captures: all cores, a million streams a model.
    pub fn new(models: Vec<Arc<Model>>) -> Self {
        Self {
            models,
            decoder: Decoder::default(),
            limits: Limits { streams: 1 << 20, idle: 600 * SECOND, active: u64::MAX, closed: 60 * SECOND },
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            every_packet: false,
        }
    }

    fn kinds(&self) -> Vec<KeyKind> {
        let mut kinds: Vec<KeyKind> = self.models.iter().map(|m| m.key).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// Batches under way at once, for each worker.
const IN_FLIGHT: usize = 4;

/// Reads a source to its end and hands every verdict to `tell`, in the order of the packets that brought them about.
///
/// # Errors
/// Where the source can't be read; what it gave before is told all the same.
pub fn run(settings: &Settings, source: &mut dyn Source, tell: &mut dyn FnMut(&Verdict)) -> Result<Tally, CaptureError> {
    let workers = settings.workers.max(1);
    let kinds = settings.kinds();
    let feed = Mutex::new(Feed { source, next_batch: 0, next_packet: 0, error: None });
    let (pool_in, pool_out) = crossbeam_channel::bounded(workers * IN_FLIGHT);
    for _ in 0..workers * IN_FLIGHT {
        let routed = Routed { batch: FrameBatch::new(), items: vec![vec![Vec::new(); kinds.len()]; workers] };
        pool_in.send(routed).expect("the pool has room for all its batches");
    }
    let inboxes: Vec<_> = (0..workers).map(|_| crossbeam_channel::unbounded::<Message>()).collect();
    let senders: Vec<_> = inboxes.iter().map(|(sender, _)| sender.clone()).collect();
    let (output, outputs) = crossbeam_channel::bounded::<Output>(workers * IN_FLIGHT * 4);
    let hasher = foldhash::fast::RandomState::default();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        for (number, (_, inbox)) in inboxes.into_iter().enumerate() {
            let (senders, output, pool) = (senders.clone(), output.clone(), (pool_in.clone(), pool_out.clone()));
            let (kinds, feed) = (&kinds, &feed);
            let builder = std::thread::Builder::new().name(format!("spiked-worker-{number}"));
            let worker = Worker::new(number, settings, kinds, hasher.clone(), senders, inbox, pool, output);
            if let Err(error) = builder.spawn_scoped(scope, move || worker.run(feed)) {
                panic!("can't start worker {number}: {error}");
            }
        }
        drop((senders, output, pool_in, pool_out));
        collect(workers, &outputs, &mut tally, tell);
    });
    let feed = feed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    feed.error.map_or(Ok(tally), Err)
}

/// Puts the workers' verdicts into packet order.
fn collect(workers: usize, outputs: &crossbeam_channel::Receiver<Output>, tally: &mut Tally, tell: &mut dyn FnMut(&Verdict)) {
    let mut waiting: BTreeMap<u64, (usize, Vec<Verdict>)> = BTreeMap::new();
    let mut next = 0;
    let mut told = |mut verdicts: Vec<Verdict>| {
        verdicts.sort_by_key(Verdict::order);
        verdicts.iter().for_each(&mut *tell);
    };
    let mut last = Vec::new();
    for output in outputs {
        match output {
            Output::Batch { number, mut verdicts } => {
                let entry = waiting.entry(number).or_default();
                entry.0 += 1;
                entry.1.append(&mut verdicts);
                while waiting.get(&next).is_some_and(|w| w.0 == workers) {
                    if let Some((_, verdicts)) = waiting.remove(&next) {
                        told(verdicts);
                    }
                    next += 1;
                }
            }
            Output::Ended { mut verdicts, tally: one } => {
                last.append(&mut verdicts);
                tally.add(&one);
            }
        }
    }
    told(last);
}
