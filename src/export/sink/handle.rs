//! How do events leave without anyone waiting? A bounded queue, a thread that empties it into a [`Sink`], counts of what became
//! of each line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::{Failure, Line, Reason, Sink, SinkError, Target};
use crate::export::status;

/// The thread looks into its queue so often; a fifth of what may pass until a line is written.
const TICK: Duration = Duration::from_millis(50);
/// Lines handed to the sink at once.
const BATCH: usize = 1024;
/// Pause after a first failure, doubled with each to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// A write that has taken so long has a slow reader.
const STALL: Duration = Duration::from_millis(250);

/// The end of a sink that events are given to.
pub struct SinkHandle {
    name: String,
    queue: Sender<Arc<Line>>,
    shared: Arc<SinkShared>,
    thread: JoinHandle<()>,
}

/// What both ends know.
struct SinkShared {
    started: Instant,
    written: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    /// Lines that the thread has taken from the queue and not yet written.
    in_hand: AtomicU64,
    /// When the present write began, in milliseconds since `started`, plus one; 0: none is under way.
    writing_since: AtomicU64,
    reopen: AtomicBool,
    /// Why writing fails at present.
    trouble: Mutex<Option<(Reason, String)>>,
    /// When to give up what is left, once closing.
    deadline: Mutex<Option<Instant>>,
}

impl SinkShared {
    fn drop_lines(&self, reason: Reason, lines: u64) {
        self.dropped[reason as usize].fetch_add(lines, Relaxed);
    }

    fn trouble(&self) -> MutexGuard<'_, Option<(Reason, String)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self) -> u64 {
        self.dropped.iter().map(|d| d.load(Relaxed)).sum()
    }

    fn millis(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Why the queue is full.
    fn why_full(&self) -> Reason {
        if let Some((reason, _)) = *self.trouble() {
            return reason;
        }
        let since = self.writing_since.load(Relaxed);
        let stalled = since > 0 && self.millis().saturating_sub(since - 1) >= STALL.as_millis() as u64;
        if stalled { Reason::Slow } else { Reason::QueueFull }
    }
}

impl SinkHandle {
    /// Starts a sink whose queue holds so many lines.
    ///
    /// # Errors
    /// Where a file can't be opened or a thread not be started. A socket without a reader is no error: the reader may come later.
    pub fn start(name: &str, target: &Target, capacity: usize) -> Result<Self, SinkError> {
        let sink = target.open()?;
        let (queue, lines) = crossbeam_channel::bounded(capacity.max(1));
        let shared = Arc::new(SinkShared {
            started: Instant::now(),
            written: AtomicU64::new(0),
            dropped: Default::default(),
            in_hand: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            trouble: Mutex::new(None),
            deadline: Mutex::new(None),
        });
        let writer = SinkWriter { name: name.into(), sink, lines, shared: Arc::clone(&shared), in_hand: Vec::new() };
        let thread = thread::Builder::new()
            .name(format!("sink-{name}"))
            .spawn(move || writer.run())
            .map_err(|source| SinkError::Thread { name: name.into(), source })?;
        Ok(Self { name: name.into(), queue, shared, thread })
    }

    /// Puts a line into the queue, or drops and counts it where the queue is full. Never waits.
    pub fn offer(&self, line: &Arc<Line>) {
        if self.queue.try_send(Arc::clone(line)).is_err() {
            self.shared.drop_lines(self.shared.why_full(), 1);
        }
    }

    /// Has the file opened anew, soon.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.thread.thread().unpark();
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What became of the lines so far, and how it is now.
    pub fn status(&self) -> status::Sink {
        let dropped = |r: Reason| (r.name(), self.shared.dropped[r as usize].load(Relaxed));
        status::Sink {
            name: self.name.clone(),
            written: self.shared.written.load(Relaxed),
            dropped: Reason::ALL.into_iter().map(dropped).collect::<BTreeMap<_, _>>(),
            queued: self.queue.len() as u64 + self.shared.in_hand.load(Relaxed),
            trouble: self.shared.trouble().as_ref().map(|(_, said)| said.clone()),
        }
    }

    /// Writes what is queued, until `deadline` at most, and counts the rest as dropped.
    pub fn close(self, deadline: Instant) -> status::Sink {
        *self.shared.deadline() = Some(deadline);
        self.thread.thread().unpark();
        // The thread ends by itself, unless it is stuck in a write: then it is left to the end of the process.
        while !self.thread.is_finished() && Instant::now() < deadline + STALL {
            thread::sleep(Duration::from_millis(2));
        }
        let mut last = self.status();
        if !self.thread.is_finished() && last.queued > 0 {
            let reason = self.shared.why_full();
            self.shared.drop_lines(reason, last.queued);
            *last.dropped.entry(reason.name()).or_default() += last.queued;
            last.queued = 0;
        }
        last
    }
}

/// The other end.
struct SinkWriter {
    name: String,
    sink: Box<dyn Sink>,
    lines: Receiver<Arc<Line>>,
    shared: Arc<SinkShared>,
    in_hand: Vec<Arc<Line>>,
}

impl SinkWriter {
    fn run(mut self) {
        let mut pause = FIRST;
        let mut dropped_before = 0;
        loop {
            if self.shared.reopen.swap(false, Relaxed) {
                match self.sink.reopen() {
                    Ok(()) => tracing::info!(sink = self.name, "reopened"),
                    Err(error) => tracing::error!(sink = self.name, "can't reopen, goes on with what is open: {error}"),
                }
            }
            // Read before the queue is looked into: what was offered before closing is seen.
            let deadline = *self.shared.deadline();
            self.in_hand.extend(self.lines.try_iter().take(BATCH - self.in_hand.len()));
            self.shared.in_hand.store(self.in_hand.len() as u64, Relaxed);
            if self.in_hand.is_empty() {
                if deadline.is_some() {
                    return;
                }
                thread::park_timeout(TICK);
                continue;
            }
            let (written, failed) = self.write();
            if written > 0 || failed.is_none() {
                pause = FIRST;
            }
            match failed {
                None => self.recovered(dropped_before),
                Some(error) => {
                    if self.in_trouble(&error) {
                        dropped_before = self.shared.dropped();
                    }
                    if deadline.is_some_and(|d| Instant::now() + pause >= d) {
                        self.give_up();
                        return;
                    }
                    self.wait(pause, deadline.is_some());
                    pause = (pause * 2).min(LONGEST);
                }
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                self.give_up();
                return;
            }
        }
    }

    /// Hands over what is in hand; returns how many lines went, and why not all.
    fn write(&mut self) -> (usize, Option<std::io::Error>) {
        self.shared.writing_since.store(self.shared.millis() + 1, Relaxed);
        let result = self.sink.write(&self.in_hand);
        self.shared.writing_since.store(0, Relaxed);
        let (taken, failed) = match result {
            Ok(()) => (self.in_hand.len(), None),
            Err(Failure { taken, error, discard: false }) => (taken, Some(error)),
            Err(Failure { taken, error, discard: true }) => {
                tracing::warn!(sink = self.name, "an event was dropped: {error}");
                self.in_hand.remove(taken);
                self.shared.drop_lines(Reason::Other, 1);
                (taken, None)
            }
        };
        self.in_hand.drain(..taken);
        self.shared.in_hand.store(self.in_hand.len() as u64, Relaxed);
        self.shared.written.fetch_add(taken as u64, Relaxed);
        (taken, failed)
    }

    /// Notes why writing fails; whether it went well before.
    fn in_trouble(&self, error: &std::io::Error) -> bool {
        let reason = Reason::of(error);
        let before = self.shared.trouble().replace((reason, error.to_string()));
        if before.as_ref().is_none_or(|(r, _)| *r != reason) {
            tracing::warn!(sink = self.name, reason = reason.name(), "can't write events, trying again: {error}");
        }
        before.is_none()
    }

    fn recovered(&self, dropped_before: u64) {
        if self.shared.trouble().take().is_some() {
            let dropped = self.shared.dropped() - dropped_before;
            tracing::info!(sink = self.name, dropped, "writes events again");
        }
    }

    /// Waits, unless it is called to reopen or to close.
    fn wait(&self, pause: Duration, closing: bool) {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
            if self.shared.reopen.load(Relaxed) || (!closing && self.shared.deadline().is_some()) {
                return;
            }
        }
    }

    /// Drops what is left.
    fn give_up(&mut self) {
        let reason = self.shared.why_full();
        let left = self.in_hand.len() + self.lines.try_iter().count();
        self.shared.drop_lines(reason, left as u64);
        self.shared.in_hand.store(0, Relaxed);
        tracing::warn!(sink = self.name, reason = reason.name(), "{left} events dropped at the end");
    }
}
