//! The engine: workers that read batches of frames, decode them, and score each packet in the shard that owns its stream.
//!
//! Input: a [`Source`] and [`Model`]s. Output: to an [`Observer`], [`Verdict`]s in the order of the packets, and [`Counters`].
//!
//! There is one shard of the streams for each worker. A worker without enough work reads the next batch from the source and sends
//! it to all workers; each handles its own shard's packets of every batch, in the order of the batches. Results therefore do not
//! depend on the number of workers or on the size of the batches.

mod affinity;
mod batch;
mod counters;
mod deferred;
mod episodes;
mod evidence;
mod evidence_rows;
mod evidence_scorer;
mod in_order;
mod model_shard;
mod observer;
mod output;
mod scorer;
mod shard;
mod single;
mod stream_state;
mod tap;
mod tunnels;
mod worker;

pub use counters::{Counters, SpikeCounts};
pub use observer::{EpisodeOutput, Event, EvidencePacket, Observer, Output, Progress, Verdict, VerdictWriter};
pub use tap::{Tap, TapSample};
pub use tunnels::{OuterEnd, OuterHeaders};

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::capture::{CaptureError, Source};
use crate::model::Model;
use crate::stream::{Intake, StreamLimits};

use batch::RoutedBatch;
use episodes::EpisodeObserver;
use output::BatchOutput;
use shard::{Shard, SharedTables, WorkerReport};
use worker::{Feed, Message, Worker, WorkerOutput};

/// Models that classify the same packets, each with its own streams.
pub type Models = Vec<Arc<Model>>;

/// Creates the [`VerdictWriter`] of a worker.
pub type NewVerdictWriter = Arc<dyn Fn() -> Box<dyn VerdictWriter> + Send + Sync>;

/// Settings of the engine.
#[derive(Clone)]
pub struct EngineSettings {
    /// The models, which may be replaced at any time: each worker checks once a batch. A model that replaces one of the same kind of
    /// key keeps its streams; if the classes differ, the evidence of undecided streams is reset.
    pub models: Arc<ArcSwap<Models>>,
    /// How packets become streams. Copies of frames are left out in front of the engine.
    pub intake: Intake,
    /// Limits of each model's streams, over all workers.
    pub limits: StreamLimits,
    /// Hosts with traces, for models that use them.
    pub hosts: usize,
    /// Number of workers; 0 counts as 1.
    pub workers: usize,
    /// Pins each worker to a CPU of its own among the allowed ones, starting over where there are fewer.
    pub pin: bool,
    /// Score every packet, whether its stream is decided or not.
    pub every_packet: bool,
    /// Packets of each stream with a class that the observer receives, from the stream's first; 0 for none.
    pub keep_packets: u32,
    /// Sends samples of slot values to the learning thread.
    pub tap: Option<Tap>,
    /// Creates each worker's [`VerdictWriter`], and one for the caller's thread. With one, the observer receives only the verdicts that the
    /// writer wrote text for.
    pub writer: Option<NewVerdictWriter>,
}

impl EngineSettings {
    /// The defaults for reading captures: one worker for each available CPU, a million streams for each model.
    pub fn new(models: Models) -> Self {
        Self {
            models: Arc::new(ArcSwap::from_pointee(models)),
            intake: Intake::default(),
            limits: StreamLimits::default(),
            hosts: crate::trace::DEFAULT_HOSTS,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            every_packet: false,
            keep_packets: 0,
            tap: None,
            writer: None,
        }
    }
}

/// Batches in use at once, for each worker.
const BATCHES_PER_WORKER: usize = 4;

/// Reads a source to its end and passes the output to the observer. Returns the counters of the whole run.
///
/// # Errors
/// If the source can't be read to its end. The observer has received the output for everything before the error.
///
/// # Panics
/// If the system can't start a thread, or if the observer panics.
pub fn run(settings: &EngineSettings, source: &mut dyn Source, observer: &mut dyn Observer) -> Result<Counters, CaptureError> {
    let mut observer = EpisodeObserver::new(observer, settings.writer.as_ref().map(|new_writer| new_writer()));
    let counters = run_workers(settings, source, &mut observer);
    observer.finish();
    counters
}

fn run_workers(
    settings: &EngineSettings,
    source: &mut dyn Source,
    observer: &mut EpisodeObserver<'_>,
) -> Result<Counters, CaptureError> {
    let live = source.is_live();
    // A live source must not wait for the observer, and pinning must not change the caller's thread.
    if settings.workers <= 1 && !live && !settings.pin {
        return single::run(settings, source, observer);
    }
    let feed = Mutex::new(Feed::new(source));
    let WorkerSet { workers, outputs, empty_outputs, final_outputs } = WorkerSet::new(settings, live);
    let mut counters = Counters::default();
    let mut add = |report: &WorkerReport, observer: &mut EpisodeObserver<'_>| {
        counters.add(&report.counters);
        report.emit(observer);
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|worker| worker.spawn(scope, &feed, settings.pin)).collect();
        collect(threads.len(), &outputs, &empty_outputs, &mut add, observer);
        output::merge_final(final_outputs, observer);
        for thread in threads {
            match thread.join() {
                Ok(report) => add(&report, observer),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    feed.into_inner().into_error().map_or(Ok(counters), Err)
}

/// The workers of one run, and the caller's ends of their channels.
struct WorkerSet<'a> {
    workers: Vec<Worker<'a>>,
    /// Output of each worker for each batch.
    outputs: Receiver<WorkerOutput>,
    /// Takes outputs back for reuse.
    empty_outputs: Sender<BatchOutput>,
    /// Output of each worker for the streams that end with the source.
    final_outputs: Vec<Receiver<BatchOutput>>,
}

impl<'a> WorkerSet<'a> {
    fn new(settings: &'a EngineSettings, live: bool) -> Self {
        let workers = settings.workers.max(1);
        let (pool_senders, pools): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| crossbeam_channel::bounded(BATCHES_PER_WORKER)).unzip();
        for (owner, pool) in pool_senders.iter().enumerate() {
            for _ in 0..BATCHES_PER_WORKER {
                pool.send(RoutedBatch::new(workers, owner)).expect("the pool has room for all batches");
            }
        }
        let (inbox_senders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| crossbeam_channel::unbounded::<Message>()).unzip();
        let (output, outputs) = crossbeam_channel::bounded(workers * BATCHES_PER_WORKER * 4);
        let (empty_outputs, reused_outputs) = crossbeam_channel::bounded(workers * BATCHES_PER_WORKER * 4);
        let hasher = foldhash::fast::RandomState::default();
        let shared = Arc::new(SharedTables::new(settings));
        let (workers, final_outputs) = (inboxes.into_iter().zip(pools).enumerate())
            .map(|(number, (inbox, pool))| {
                let (final_output, final_outputs) = crossbeam_channel::bounded(BATCHES_PER_WORKER);
                let worker = Worker {
                    shard: Shard::new(number, settings, live, hasher.clone(), Arc::clone(&shared)),
                    inboxes: inbox_senders.clone(),
                    inbox,
                    pool,
                    pools: pool_senders.clone(),
                    output: output.clone(),
                    empty_outputs: reused_outputs.clone(),
                    final_output,
                };
                (worker, final_outputs)
            })
            .unzip();
        Self { workers, outputs, empty_outputs, final_outputs }
    }
}

/// Passes the outputs of the workers to the observer, batch by batch, until all workers have handled all batches.
fn collect(
    workers: usize,
    outputs: &Receiver<WorkerOutput>,
    empty_outputs: &Sender<BatchOutput>,
    add: &mut dyn FnMut(&WorkerReport, &mut EpisodeObserver<'_>),
    observer: &mut EpisodeObserver<'_>,
) {
    let mut incomplete: BTreeMap<u64, Vec<BatchOutput>> = BTreeMap::new();
    let mut next = 0;
    for WorkerOutput { batch, out, report } in outputs {
        add(&report, observer);
        incomplete.entry(batch).or_default().push(out);
        while incomplete.get(&next).is_some_and(|outputs| outputs.len() == workers) {
            let mut outputs = incomplete.remove(&next).unwrap_or_default();
            output::merge(&mut outputs, observer);
            for out in outputs {
                let _ = empty_outputs.try_send(out);
            }
            next += 1;
        }
    }
}
