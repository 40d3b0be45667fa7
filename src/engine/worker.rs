//! A worker thread: it handles its shard of each batch, in order, and fills new batches from the source when it has little to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use crate::capture::{CaptureError, Source};

use super::affinity;
use super::batch::RoutedBatch;
use super::output::BatchOutput;
use super::shard::{Shard, WorkerReport};

/// The source, shared by the workers, and the numbers of what comes next from it.
pub(super) struct Feed<'a> {
    source: &'a mut dyn Source,
    next_batch: u64,
    next_packet: u64,
    error: Option<CaptureError>,
}

impl<'a> Feed<'a> {
    pub fn new(source: &'a mut dyn Source) -> Self {
        Self { source, next_batch: 0, next_packet: 0, error: None }
    }

    /// The error that ended the source, if any.
    pub fn into_error(self) -> Option<CaptureError> {
        self.error
    }

    /// Fills the batch. Returns its number and that of its first packet; `None` at the end of the source.
    fn next(&mut self, routed: &mut RoutedBatch) -> Option<(u64, u64)> {
        if self.error.is_some() {
            return None;
        }
        match routed.fill(self.source, self.next_packet) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                self.error = Some(error);
                return None;
            }
        }
        routed.clock = self.source.clock();
        let numbers = (self.next_batch, self.next_packet);
        self.next_batch += 1;
        self.next_packet += routed.len() as u64;
        Some(numbers)
    }
}

/// A message in a worker's inbox.
pub(super) enum Message {
    /// A batch, of which the worker handles its shard.
    Batch {
        /// Number of the batch.
        number: u64,
        /// Number of its first packet.
        first: u64,
        routed: Arc<RoutedBatch>,
    },
    /// The source has ended after this many batches.
    End { batches: u64 },
}

/// What a worker sends when it has handled its shard of a batch.
pub(super) struct WorkerOutput {
    /// Number of the batch.
    pub batch: u64,
    pub out: BatchOutput,
    pub report: WorkerReport,
}

/// A worker's shard and the ends of its channels.
pub(super) struct Worker<'a> {
    pub shard: Shard<'a>,
    /// Inboxes of all workers, this one included.
    pub inboxes: Vec<Sender<Message>>,
    pub inbox: Receiver<Message>,
    /// Batches for this worker to fill. Each worker fills its own, which stay in its core's cache.
    pub pool: Receiver<RoutedBatch>,
    /// Pools of all workers, to which batches return when all workers have handled them.
    pub pools: Vec<Sender<RoutedBatch>>,
    pub output: Sender<WorkerOutput>,
    /// Outputs that the observer has received, for reuse.
    pub empty_outputs: Receiver<BatchOutput>,
    /// Output for the streams that end with the source.
    pub final_output: Sender<BatchOutput>,
}

/// Batches of a capture that a worker has at hand before it handles the first. With fewer, workers often wait for the source at the
/// same time.
const READ_AHEAD: usize = 2;

/// Batches that a worker has received, and how many there are in all.
#[derive(Default)]
struct Inbox {
    /// By batch number: the number of the first packet, and the batch.
    ready: BTreeMap<u64, (u64, Arc<RoutedBatch>)>,
    /// Number of batches received, handled or not.
    received: u64,
    /// Known when the source has ended.
    batches: Option<u64>,
}

impl Inbox {
    fn receive(&mut self, message: Message) {
        match message {
            Message::Batch { number, first, routed } => {
                self.ready.insert(number, (first, routed));
                self.received += 1;
            }
            Message::End { batches } => self.batches = Some(batches),
        }
    }
}

impl<'a> Worker<'a> {
    /// Starts the worker's thread. `pin`: on a CPU of its own.
    ///
    /// # Panics
    /// If the system can't start a thread.
    pub fn spawn<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        feed: &'scope Mutex<Feed<'_>>,
        pin: bool,
    ) -> ScopedJoinHandle<'scope, WorkerReport>
    where
        'a: 'scope,
    {
        let number = self.shard.number();
        let thread = Builder::new().name(format!("spiked-worker-{number}")).spawn_scoped(scope, move || {
            if pin {
                affinity::pin(number);
            }
            self.run(feed)
        });
        thread.unwrap_or_else(|error| panic!("can't start worker {number}: {error}"))
    }

    /// Works until the source has ended and all batches are handled. Returns the last report.
    fn run(mut self, feed: &Mutex<Feed<'_>>) -> WorkerReport {
        let mut received = Inbox::default();
        let mut next = 0;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                received.receive(message);
            }
            if received.batches.is_none() && self.fill(feed, &received) {
                continue;
            }
            if let Some((first, routed)) = received.ready.remove(&next) {
                self.handle(next, first, routed, received.ready.len());
                next += 1;
                continue;
            }
            if received.batches == Some(next) {
                break;
            }
            let asleep = Instant::now();
            let message = self.inbox.recv();
            self.shard.add_idle(asleep.elapsed());
            match message {
                Ok(message) => received.receive(message),
                Err(_) => break,
            }
        }
        let Self { mut shard, output, final_output, .. } = self;
        // The receiver of the outputs stops when all workers have dropped their senders.
        drop(output);
        shard.finish(|out| {
            let _ = final_output.send(std::mem::take(out));
        });
        shard.report(0, None, None)
    }

    /// Fills one batch if fewer than enough are ready, a batch is free, and the source is available. Returns whether it did.
    fn fill(&mut self, feed: &Mutex<Feed<'_>>, inbox: &Inbox) -> bool {
        // Filling from a live source may wait for packets, so batches at hand are handled first.
        let enough = if self.shard.is_live() { 1 } else { READ_AHEAD };
        let ready = inbox.ready.len();
        if ready >= enough {
            return false;
        }
        let Ok(routed) = self.pool.try_recv() else { return false };
        // So are those that another worker has read and is about to send.
        let is_next = |feed: &MutexGuard<'_, Feed<'_>>| !self.shard.is_live() || feed.next_batch == inbox.received;
        match self.lock(feed, ready == 0).filter(is_next) {
            Some(feed) => {
                self.read(feed, routed);
                true
            }
            None => {
                self.return_to_pool(routed);
                false
            }
        }
    }

    /// Locks the source, unless that would be a useless wait. While another worker waits in a live source, this one waits at its
    /// inbox instead, to which the other will send the batch. A capture's batch is there at once, so a worker without work waits.
    fn lock<'f, 's>(&self, feed: &'f Mutex<Feed<'s>>, without_work: bool) -> Option<MutexGuard<'f, Feed<'s>>> {
        if without_work && !self.shard.is_live() { Some(feed.lock()) } else { feed.try_lock() }
    }

    /// Reads the next batch from the source, decodes it, and sends it to all workers.
    fn read(&mut self, mut feed: MutexGuard<'_, Feed<'_>>, mut routed: RoutedBatch) {
        let asleep = self.shard.is_live().then(Instant::now);
        let numbers = feed.next(&mut routed);
        self.shard.add_idle(asleep.map_or(Duration::ZERO, |asleep| asleep.elapsed()));
        let Some((number, first)) = numbers else {
            let batches = feed.next_batch;
            drop(feed);
            for inbox in &self.inboxes {
                let _ = inbox.send(Message::End { batches });
            }
            return;
        };
        drop(feed);
        self.shard.route(&mut routed, number);
        let routed = Arc::new(routed);
        for inbox in &self.inboxes {
            let _ = inbox.send(Message::Batch { number, first, routed: Arc::clone(&routed) });
        }
    }

    fn return_to_pool(&self, routed: RoutedBatch) {
        let _ = self.pools[routed.owner].try_send(routed);
    }

    /// Handles this worker's shard of a batch. `queue`: batches that wait for the worker.
    fn handle(&mut self, number: u64, first: u64, routed: Arc<RoutedBatch>, queue: usize) {
        let mut out = self.empty_outputs.try_recv().unwrap_or_default();
        self.shard.handle(&routed, first, &mut out);
        let clock = routed.clock;
        let lag = clock.zip(routed.last_timestamp());
        let lag = lag.map(|(now, last)| Duration::from_nanos(now.0.saturating_sub(last.0)));
        // The last worker to finish returns the batch.
        if let Some(routed) = Arc::into_inner(routed) {
            self.return_to_pool(routed);
        }
        let report = self.shard.report(queue, clock, lag);
        let _ = self.output.send(WorkerOutput { batch: number, out, report });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{FrameBatch, Nanos};
    use crate::engine::{EngineSettings, WorkerSet};
    use crate::model::Model;

    /// A live source that ends at once, and counts how often it is asked.
    struct Asked(u32);

    impl Source for Asked {
        fn fill(&mut self, _: &mut FrameBatch) -> Result<bool, CaptureError> {
            self.0 += 1;
            Ok(false)
        }

        fn clock(&self) -> Option<Nanos> {
            Some(Nanos(0))
        }
    }

    #[test]
    fn no_worker_waits_for_frames_while_it_has_a_batch_to_come() {
        let settings = EngineSettings { workers: 2, ..EngineSettings::new(vec![Arc::new(Model::built_in().unwrap())]) };
        let mut source = Asked(0);
        let feed = Mutex::new(Feed::new(&mut source));
        // Another worker has read a batch and not sent it yet.
        feed.lock().next_batch = 1;
        let mut worker = WorkerSet::new(&settings, true).workers.remove(0);
        let mut inbox = Inbox::default();
        assert!(!worker.fill(&feed, &inbox));
        inbox.receive(Message::Batch { number: 0, first: 0, routed: Arc::new(RoutedBatch::new(2, 1)) });
        assert!(!worker.fill(&feed, &inbox), "it is at hand");
        inbox.ready.clear();
        assert!(worker.fill(&feed, &inbox), "it was handled");
        drop(feed);
        assert_eq!(source.0, 1);
    }
}
