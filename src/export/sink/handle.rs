//! The queue and the thread of one sink.
//!
//! Input: lines offered by the daemon's observer, which never blocks. Output: the lines written to a [`Sink`] by the thread, and
//! counts of lines written and dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use super::{Delivery, DropReason, Line, Sink, SinkError, Target, WriteFailure};
use crate::export::status;

/// Interval at which the thread polls its queue: a line may wait this long before it is written.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum number of lines per call of [`Sink::write`].
const BATCH: usize = 1024;
/// Backoff after the first failed write, doubled with each further failure up to [`MAX_BACKOFF`].
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
/// Maximum backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A write that takes this long means that the reader is slow.
const STALL: Duration = Duration::from_millis(250);

/// A running sink: its queue's producer, its counts and its thread.
pub struct SinkHandle {
    name: String,
    queue: Sender<Arc<Line>>,
    shared: Arc<SinkShared>,
    delivery: Option<Arc<Delivery>>,
    thread: JoinHandle<()>,
}

/// State that [`SinkHandle`] and [`SinkWriter`] share.
struct SinkShared {
    started: Instant,
    written: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    /// Number of lines that the thread has taken from the queue and not yet written.
    pending: AtomicU64,
    /// Start of the current write, in milliseconds since `started`, plus one; 0 if no write is in progress.
    writing_since: AtomicU64,
    reopen: AtomicBool,
    /// Error of the last write; `None` after a write that succeeded.
    last_error: Mutex<Option<(DropReason, String)>>,
    /// While closing: when to drop the lines that are left.
    deadline: Mutex<Option<Instant>>,
}

impl SinkShared {
    fn drop_lines(&self, reason: DropReason, lines: u64) {
        self.dropped[reason as usize].fetch_add(lines, Relaxed);
    }

    fn last_error(&self) -> MutexGuard<'_, Option<(DropReason, String)>> {
        self.last_error.lock()
    }

    fn deadline(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadline.lock()
    }

    fn dropped(&self) -> u64 {
        self.dropped.iter().map(|d| d.load(Relaxed)).sum()
    }

    fn millis(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The reason to count for a line that finds the queue full.
    fn why_full(&self) -> DropReason {
        if let Some((reason, _)) = *self.last_error() {
            return reason;
        }
        let since = self.writing_since.load(Relaxed);
        let stalled = since > 0 && self.millis().saturating_sub(since - 1) >= STALL.as_millis() as u64;
        if stalled { DropReason::Slow } else { DropReason::QueueFull }
    }
}

impl SinkHandle {
    /// Starts a sink whose queue holds `capacity` lines.
    ///
    /// # Errors
    /// If a file can't be opened or the thread can't be started. A socket without a reader is not an error, since the reader may be
    /// started later.
    pub fn start(name: &str, target: &Target, capacity: usize) -> Result<Self, SinkError> {
        let sink = target.open()?;
        let delivery = sink.delivery();
        let (queue, lines) = crossbeam_channel::bounded(capacity.max(1));
        let shared = Arc::new(SinkShared {
            started: Instant::now(),
            written: AtomicU64::new(0),
            dropped: Default::default(),
            pending: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            last_error: Mutex::new(None),
            deadline: Mutex::new(None),
        });
        let writer = SinkWriter {
            name: name.into(),
            target: target.to_string(),
            sink,
            lines,
            shared: Arc::clone(&shared),
            pending: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name(format!("sink-{name}"))
            .spawn(move || writer.run())
            .map_err(|source| SinkError::Thread { name: name.into(), source })?;
        Ok(Self { name: name.into(), queue, shared, delivery, thread })
    }

    /// Queues a line, or drops and counts it if the queue is full. Never blocks.
    pub fn offer(&self, line: &Arc<Line>) {
        if self.queue.try_send(Arc::clone(line)).is_err() {
            self.shared.drop_lines(self.shared.why_full(), 1);
        }
    }

    /// Requests that the sink's thread reopen its file.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.thread.thread().unpark();
    }

    /// The sink's name, from the settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts of lines written and dropped since the start, and the present state.
    pub fn status(&self) -> status::SinkStatus {
        let dropped = |r: DropReason| (r.name(), self.shared.dropped[r as usize].load(Relaxed));
        let mut status = status::SinkStatus {
            name: self.name.clone(),
            written: self.shared.written.load(Relaxed),
            dropped: DropReason::ALL.into_iter().map(dropped).collect::<BTreeMap<_, _>>(),
            queued: self.queued(),
            last_error: self.shared.last_error().as_ref().map(|(_, message)| message.clone()),
        };
        if let Some(delivery) = &self.delivery {
            let [delivered, refused, backlog] = delivery.counts();
            status.written = delivered;
            status.queued += backlog;
            *status.dropped.entry(DropReason::Other.name()).or_default() += refused;
            status.last_error = status.last_error.or_else(|| delivery.last_error());
        }
        status
    }

    /// Number of lines that the sink has not taken.
    fn queued(&self) -> u64 {
        self.queue.len() as u64 + self.shared.pending.load(Relaxed)
    }

    /// Writes the queued lines until `deadline` at most, and counts the rest as dropped. Returns the final counts.
    pub fn close(self, deadline: Instant) -> status::SinkStatus {
        *self.shared.deadline() = Some(deadline);
        self.thread.thread().unpark();
        // The thread ends by itself unless it is stuck in a write. A stuck thread ends with the process.
        while !self.thread.is_finished() && Instant::now() < deadline + STALL {
            thread::sleep(Duration::from_millis(2));
        }
        let mut last = self.status();
        let left = self.queued();
        if !self.thread.is_finished() && left > 0 {
            let reason = self.shared.why_full();
            self.shared.drop_lines(reason, left);
            *last.dropped.entry(reason.name()).or_default() += left;
            last.queued -= left.min(last.queued);
        }
        last
    }
}

/// The consumer of a sink's queue, on the sink's thread.
struct SinkWriter {
    name: String,
    /// The path, for messages.
    target: String,
    sink: Box<dyn Sink>,
    lines: Receiver<Arc<Line>>,
    shared: Arc<SinkShared>,
    pending: Vec<Arc<Line>>,
}

impl SinkWriter {
    fn run(mut self) {
        let mut backoff = INITIAL_BACKOFF;
        let mut dropped_before = 0;
        loop {
            if self.shared.reopen.swap(false, Relaxed) {
                match self.sink.reopen() {
                    Ok(()) => tracing::info!(sink = self.name, "reopened"),
                    Err(error) => {
                        tracing::error!(
                            sink = self.name,
                            "{}: can't reopen, continuing with the open file: {error}",
                            self.target
                        );
                    }
                }
            }
            // Read the deadline before the queue, so that every line offered before `close` is seen.
            let deadline = *self.shared.deadline();
            self.pending.extend(self.lines.try_iter().take(BATCH - self.pending.len()));
            self.shared.pending.store(self.pending.len() as u64, Relaxed);
            if self.pending.is_empty() {
                if deadline.is_some() {
                    return;
                }
                thread::park_timeout(POLL_INTERVAL);
                continue;
            }
            let (written, error) = self.write();
            if written > 0 || error.is_none() {
                backoff = INITIAL_BACKOFF;
            }
            match error {
                None => self.recovered(dropped_before),
                Some(error) => {
                    if self.record_error(&error) {
                        dropped_before = self.shared.dropped();
                    }
                    if deadline.is_some_and(|d| Instant::now() + backoff >= d) {
                        self.drop_rest();
                        return;
                    }
                    self.back_off(backoff, deadline.is_some());
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                self.drop_rest();
                return;
            }
        }
    }

    /// Writes the pending lines; returns how many were written, and the error if not all were.
    fn write(&mut self) -> (usize, Option<std::io::Error>) {
        self.shared.writing_since.store(self.shared.millis() + 1, Relaxed);
        let result = self.sink.write(&self.pending);
        self.shared.writing_since.store(0, Relaxed);
        let (taken, error) = match result {
            Ok(()) => (self.pending.len(), None),
            Err(WriteFailure { taken, error, discard: false }) => (taken, Some(error)),
            Err(WriteFailure { taken, error, discard: true }) => {
                tracing::warn!(sink = self.name, "event dropped: {error}");
                self.pending.remove(taken);
                self.shared.drop_lines(DropReason::Other, 1);
                (taken, None)
            }
        };
        self.pending.drain(..taken);
        self.shared.pending.store(self.pending.len() as u64, Relaxed);
        self.shared.written.fetch_add(taken as u64, Relaxed);
        (taken, error)
    }

    /// Records why a write failed; returns whether the write before it succeeded.
    fn record_error(&self, error: &std::io::Error) -> bool {
        let reason = DropReason::from_error(error);
        let message = match reason {
            DropReason::Slow => format!("{}: the reader does not read, or reads too slowly", self.target),
            _ => format!("{}: {error}", self.target),
        };
        let before = self.shared.last_error().replace((reason, message.clone()));
        if before.as_ref().is_none_or(|(r, _)| *r != reason) {
            tracing::warn!(sink = self.name, reason = reason.name(), "can't write events, will retry: {message}");
        }
        before.is_none()
    }

    fn recovered(&self, dropped_before: u64) {
        if self.shared.last_error().take().is_some() {
            let dropped = self.shared.dropped() - dropped_before;
            tracing::info!(sink = self.name, dropped, "writing events again");
        }
    }

    /// Sleeps for `backoff`, or until the sink is to be reopened or closed.
    fn back_off(&self, backoff: Duration, closing: bool) {
        let end = Instant::now() + backoff;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
            if self.shared.reopen.load(Relaxed) || (!closing && self.shared.deadline().is_some()) {
                return;
            }
        }
    }

    /// Drops and counts all lines that are left.
    fn drop_rest(&mut self) {
        let reason = self.shared.why_full();
        let left = self.pending.len() + self.lines.try_iter().count();
        self.shared.drop_lines(reason, left as u64);
        self.shared.pending.store(0, Relaxed);
        tracing::warn!(sink = self.name, reason = reason.name(), "{left} events dropped at shutdown");
    }
}
