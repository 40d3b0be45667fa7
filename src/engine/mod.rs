//! Who does the work? Workers that pull batches, decode them, hand each packet to the worker that owns its stream, and score.
//!
//! Input: a [`Source`] and [`Model`]s. Output: to an [`Observer`], [`Verdict`]s in packet order and what was counted. Every worker
//! takes the next batch from the source while it has little of its own to do, so no core waits; batches are numbered and each
//! worker handles its shard of them in that order, so results do not depend on the number of workers or on the batch size.

mod affinity;
mod counters;
mod evidence;
mod model_shard;
mod observer;
mod output;
mod scorer;
mod shard;
mod single;
mod worker;

pub use counters::{Counters, SpikeCounts};
pub use evidence::{Tap, TapSample};
pub use observer::{Event, EvidencePacket, Observer, Progress, Verdict};

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};

use crate::capture::{CaptureError, FrameBatch, Source};
use crate::model::Model;
use crate::packet::{Decoder, KeyKind};
use crate::stream::StreamLimits;

use output::BatchOutput;
use shard::{RoutedBatch, Shard, WorkerReport};
use worker::{Feed, Message, Worker, WorkerOutput};

/// Models side by side; each has its own streams.
pub type Models = Vec<Arc<Model>>;

/// Appends to the octets what is to be written of a verdict, nothing where it is not to be.
pub type Writer = Box<dyn FnMut(&Verdict, &mut Vec<u8>) + Send>;

/// What the engine is told.
#[derive(Clone)]
pub struct EngineSettings {
    /// May be swapped for others at any time: each worker looks once a batch. Where a model takes the place of one of the same key
    /// and classes, streams go on; else undecided streams begin anew.
    pub models: Arc<ArcSwap<Models>>,
    pub decoder: Decoder,
    /// Streams of each model, shared out among the workers.
    pub limits: StreamLimits,
    pub workers: usize,
    /// Pins each worker to a CPU of its own among those allowed, in turn where there are fewer.
    pub pin: bool,
    /// Score every packet, whether its stream is decided or not.
    pub every_packet: bool,
    /// Packets of each named stream, from its first, that the observer is given.
    pub keep_packets: u32,
    /// Where learning listens in.
    pub tap: Option<Tap>,
    /// Makes a writer for each worker, which hears all that the worker finds, so that writing is shared out as well. The observer
    /// hears only what a writer wrote something of: [`Observer::written`].
    pub writer: Option<Arc<dyn Fn() -> Writer + Send + Sync>>,
}

impl EngineSettings {
    /// The defaults for reading captures: all cores, a million streams a model.
    pub fn new(models: Models) -> Self {
        Self {
            models: Arc::new(ArcSwap::from_pointee(models)),
            decoder: Decoder::default(),
            limits: StreamLimits::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            every_packet: false,
            keep_packets: 0,
            tap: None,
            writer: None,
        }
    }
}

/// Which kinds of key the models ask for, as indices of [`KeyKind`].
fn kinds(models: &Models) -> [bool; KeyKind::COUNT] {
    let mut kinds = [false; KeyKind::COUNT];
    models.iter().for_each(|m| kinds[m.key as usize] = true);
    kinds
}

/// The next batch of a source that has given `after` packets; a panic in it ends it, as an error.
fn fill(source: &mut dyn Source, batch: &mut FrameBatch, after: u64) -> Result<bool, CaptureError> {
    catch_unwind(AssertUnwindSafe(|| source.fill(batch))).unwrap_or(Err(CaptureError::Panicked { after }))
}

/// Batches under way at once, for each worker.
const IN_FLIGHT: usize = 4;

/// Reads a source to its end and tells the observer.
///
/// # Errors
/// Where the source can't be read; what it gave before is told all the same.
pub fn run(settings: &EngineSettings, source: &mut dyn Source, observer: &mut dyn Observer) -> Result<Counters, CaptureError> {
    let workers = settings.workers.max(1);
    let live = source.clock().is_some();
    // What the observer waits for must not keep a live source waiting; and the caller's thread is not ours to pin.
    if workers == 1 && !live && !settings.pin {
        return single::run(settings, source, observer);
    }
    let feed = Mutex::new(Feed { source, next_batch: 0, next_packet: 0, error: None });
    // Each worker fills batches of its own, which lie in its core's cache.
    let (homes, pools): (Vec<_>, Vec<_>) = (0..workers).map(|_| crossbeam_channel::bounded(IN_FLIGHT)).unzip();
    for (owner, home) in homes.iter().enumerate() {
        for _ in 0..IN_FLIGHT {
            home.send(RoutedBatch::new(FrameBatch::new(), workers, owner)).expect("there is room for all batches");
        }
    }
    let (others, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| crossbeam_channel::unbounded::<Message>()).unzip();
    let (output, outputs) = crossbeam_channel::bounded::<WorkerOutput>(workers * IN_FLIGHT * 4);
    let (heard, blank) = crossbeam_channel::bounded(workers * IN_FLIGHT * 4);
    let hasher = foldhash::fast::RandomState::default();
    let mut counters = Counters::default();
    std::thread::scope(|scope| {
        let (mut threads, mut rests) = (Vec::new(), Vec::new());
        for (number, (inbox, pool)) in inboxes.into_iter().zip(pools).enumerate() {
            let shard = Shard::new(number, settings, live, hasher.clone());
            let (others, homes, output, blank) = (others.clone(), homes.clone(), output.clone(), blank.clone());
            let (rest, left) = crossbeam_channel::bounded(IN_FLIGHT);
            let (feed, worker) = (&feed, Worker { shard, others, inbox, pool, homes, output, blank, rest });
            let pin = settings.pin;
            let builder = std::thread::Builder::new().name(format!("spiked-worker-{number}"));
            let thread = builder.spawn_scoped(scope, move || {
                if pin {
                    affinity::pin(number);
                }
                worker.run(feed)
            });
            threads.push(thread.unwrap_or_else(|error| panic!("can't start worker {number}: {error}")));
            rests.push(left);
        }
        drop((others, homes, output));
        let mut hear = |report: &WorkerReport, observer: &mut dyn Observer| {
            counters.add(&report.counters);
            report.tell(observer);
        };
        collect(workers, &outputs, &heard, &mut hear, observer);
        output::merge_rest(rests, observer);
        for thread in threads {
            match thread.join() {
                Ok(report) => hear(&report, observer),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let feed = feed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    feed.error.map_or(Ok(counters), Err)
}

/// Puts what the workers tell of the batches into packet order.
fn collect(
    workers: usize,
    outputs: &Receiver<WorkerOutput>,
    heard: &Sender<BatchOutput>,
    hear: &mut dyn FnMut(&WorkerReport, &mut dyn Observer),
    observer: &mut dyn Observer,
) {
    let mut waiting: BTreeMap<u64, Vec<BatchOutput>> = BTreeMap::new();
    let mut next = 0;
    for WorkerOutput { batch, told, report } in outputs {
        hear(&report, observer);
        waiting.entry(batch).or_default().push(told);
        while waiting.get(&next).is_some_and(|all| all.len() == workers) {
            let mut all = waiting.remove(&next).unwrap_or_default();
            output::merge(&mut all, observer);
            for told in all {
                let _ = heard.try_send(told);
            }
            next += 1;
        }
    }
}
