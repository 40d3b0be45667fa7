//! What does one worker do next? Its shard of the batches, in order; else the next batch from the source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::capture::{CaptureError, Source};

use super::output::BatchOutput;
use super::shard::{RoutedBatch, Shard, WorkerReport};

/// The source, and what is next from it.
pub(super) struct Feed<'a> {
    pub source: &'a mut dyn Source,
    pub next_batch: u64,
    pub next_packet: u64,
    pub error: Option<CaptureError>,
}

/// What a worker finds in its inbox.
pub(super) enum Message {
    Batch {
        number: u64,
        first: u64,
        routed: Arc<RoutedBatch>,
    },
    /// The source has ended after so many batches.
    End {
        batches: u64,
    },
}

/// What a worker tells when its shard of a batch is done.
pub(super) struct WorkerOutput {
    pub batch: u64,
    pub told: BatchOutput,
    pub report: WorkerReport,
}

pub(super) struct Worker<'a> {
    pub shard: Shard<'a>,
    pub others: Vec<Sender<Message>>,
    pub inbox: Receiver<Message>,
    /// Its batches to be filled, and where each worker's go when all have handled them.
    pub pool: Receiver<RoutedBatch>,
    pub homes: Vec<Sender<RoutedBatch>>,
    pub output: Sender<WorkerOutput>,
    /// What was told and heard, to be filled again.
    pub blank: Receiver<BatchOutput>,
    /// For what is told when all batches are done.
    pub rest: Sender<BatchOutput>,
}

/// Batches of a capture that a worker takes before it handles the first: so workers rarely meet at the source with nothing else to do.
const AHEAD: usize = 2;

impl Worker<'_> {
    /// Works until the source has ended; the report is the last.
    pub fn run(mut self, feed: &Mutex<Feed<'_>>) -> WorkerReport {
        let mut ready: BTreeMap<u64, (u64, Arc<RoutedBatch>)> = BTreeMap::new();
        let mut next = 0;
        let mut batches = None;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                receive(message, &mut ready, &mut batches);
            }
            // A live source is waited in, so it comes last.
            let ahead = if self.shard.live { 1 } else { AHEAD };
            if batches.is_none()
                && ready.len() < ahead
                && let Ok(routed) = self.pool.try_recv()
            {
                match self.turn(feed, ready.is_empty()) {
                    Some(feed) => {
                        self.pull(feed, routed);
                        continue;
                    }
                    None => self.home(routed),
                }
            }
            if let Some((first, routed)) = ready.remove(&next) {
                self.handle(next, first, routed, ready.len());
                next += 1;
                continue;
            }
            if batches == Some(next) {
                break;
            }
            let asleep = Instant::now();
            let message = self.inbox.recv();
            self.shard.idle += asleep.elapsed();
            match message {
                Ok(message) => receive(message, &mut ready, &mut batches),
                Err(_) => break,
            }
        }
        let Self { mut shard, output, rest, .. } = self;
        // The other ends learn by this that no batch is left.
        drop(output);
        shard.finish(|told| {
            let _ = rest.send(std::mem::take(told));
        });
        shard.report(0, None)
    }

    /// The source, when it is this worker's turn. A live source may keep another worker waiting in it: that one will send what
    /// comes to all, so this one waits at its inbox. A capture gives its batch at once, so who has nothing else to do waits for it.
    fn turn<'f, 's>(&self, feed: &'f Mutex<Feed<'s>>, idle: bool) -> Option<MutexGuard<'f, Feed<'s>>> {
        if idle && !self.shard.live {
            return Some(feed.lock().unwrap_or_else(PoisonError::into_inner));
        }
        match feed.try_lock() {
            Ok(feed) => Some(feed),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the next batch from the source, decodes it and hands it to all.
    fn pull(&mut self, mut feed: MutexGuard<'_, Feed<'_>>, mut routed: RoutedBatch) {
        let asleep = self.shard.live.then(Instant::now);
        let filled = feed.error.is_none() && {
            let after = feed.next_packet;
            super::fill(feed.source, &mut routed.batch, after).unwrap_or_else(|error| {
                feed.error = Some(error);
                false
            })
        };
        self.shard.idle += asleep.map_or(Duration::ZERO, |asleep| asleep.elapsed());
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
        self.shard.route(&mut routed);
        let routed = Arc::new(routed);
        for other in &self.others {
            let _ = other.send(Message::Batch { number, first, routed: Arc::clone(&routed) });
        }
    }

    /// Back to the worker that filled it.
    fn home(&self, routed: RoutedBatch) {
        let _ = self.homes[routed.owner].try_send(routed);
    }

    fn handle(&mut self, number: u64, first: u64, routed: Arc<RoutedBatch>, queue: usize) {
        let mut told = self.blank.try_recv().unwrap_or_default();
        self.shard.handle(&routed, first, &mut told);
        let last = routed.batch.len().checked_sub(1).map(|last| routed.batch.frame(last).timestamp);
        let lag = routed.clock.zip(last).map(|(now, last)| Duration::from_nanos(now.0.saturating_sub(last.0)));
        if let Some(routed) = Arc::into_inner(routed) {
            self.home(routed);
        }
        let report = self.shard.report(queue, lag);
        let _ = self.output.send(WorkerOutput { batch: number, told, report });
    }
}

fn receive(message: Message, ready: &mut BTreeMap<u64, (u64, Arc<RoutedBatch>)>, batches: &mut Option<u64>) {
    match message {
        Message::Batch { number, first, routed } => {
            ready.insert(number, (first, routed));
        }
        Message::End { batches: all } => *batches = Some(all),
    }
}
