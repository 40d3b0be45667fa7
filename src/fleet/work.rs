//! A worker: takes jobs from the queue, reads their captures and publishes the results.
//!
//! A job is acknowledged after all of its result is. A worker that dies leaves a job that the servers give to another one, which reads the
//! capture from its begin. Each attempt has an id, which is part of the ids of its messages, and ends with a [`JobEnd`]: readers take the
//! messages of that attempt, each number once, and leave out those of others. So neither the order in which several threads write events nor
//! the version of the program needs to be the same in two attempts.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind, Message};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::capture::{CaptureError, s3};
use crate::export::Summary;
use crate::model::Model;

use super::connection::{Connection, FleetError, TIMEOUT};
use super::jobs::{END, EVENTS, JOBS_SUBJECT, Job, JobEnd, JobModel, JobQueue, JobState, TABLE, result_subject, workers};
use super::models::{Buckets, sha256};

/// Time without a sign of life after which the servers give a job to another worker.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// Interval of signs of life.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Interval at which a worker looks whether it is to stop.
const TICK: Duration = Duration::from_millis(200);
/// Times that a job is tried. Workers may have died of it.
pub const MAX_ATTEMPTS: i64 = 5;
/// Pause before a job is tried again that failed for a reason outside the file, such as a share that is not mounted.
const RETRY: Duration = Duration::from_secs(2);
/// Time for which servers may be away before the worker ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// Size of a block in bytes, half of what servers accept by default: of a table after compression, of events before it, exceeded by at most one
/// event.
const BLOCK: usize = 512 << 10;
/// Blocks that are sent and not acknowledged, at most.
const WINDOW: usize = 32;
/// Blocks between the thread that reads and the connection.
const QUEUE: usize = 8;
/// Times that a block is sent.
const TRIES: u32 = 5;
/// Exit code of a job that failed: the capture is unreadable.
const FAILED_EXIT: u8 = 4;
/// Level of compression of tables.
const TABLE_LEVEL: i32 = 3;
/// Level of compression of events: a tenth of the size, for a tenth of the time that reading takes.
const EVENTS_LEVEL: i32 = 1;

/// What a capture held.
pub struct CaptureResult {
    /// Exit code of `spiked read`.
    pub exit: u8,
    /// Why the capture could not be read.
    pub failure: Option<CaptureError>,
    /// Whether reading was stopped before the end.
    pub stopped: bool,
    /// The summary.
    pub summary: Summary,
}

/// Reads captures for a worker, on any thread.
pub trait JobReader: Send + Sync {
    /// Reads a capture; writes its events to `out`, which may fail, and ends early when `stop` is set.
    ///
    /// # Errors
    /// Why the options of the job are not valid, or the events could not be written.
    fn read(&self, job: &Job, models: Vec<Arc<Model>>, out: BlockWriter, stop: Arc<AtomicBool>) -> Result<CaptureResult, String>;

    /// Prints a line about the work.
    fn report(&self, line: &str);
}

/// How to work.
#[derive(Clone)]
pub struct WorkSettings {
    /// Name of the worker.
    pub name: String,
    /// Ends when no job waits and none is in work, here or elsewhere.
    pub until_empty: bool,
    /// Captures that are read at once.
    pub jobs: usize,
    /// Ends when it is set; jobs in work go back to the queue.
    pub stop: Arc<AtomicBool>,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkTotals {
    /// Captures that were read.
    pub done: u64,
    /// Captures that were read in part, or held nothing.
    pub partly: u64,
    /// Jobs that were set aside.
    pub failed: u64,
}

/// Works until the queue is empty or a stop.
///
/// # Errors
/// The server can't be reached for two minutes, or does not allow it.
pub async fn work(
    connection: &Connection,
    settings: &WorkSettings,
    reader: Arc<dyn JobReader>,
) -> Result<WorkTotals, FleetError> {
    let context = jetstream::new(connection.client.clone());
    let consumer = workers(connection, &context).await?;
    let worker = Worker {
        connection: connection.clone(),
        queue: JobQueue::open(connection).await?,
        context,
        consumer,
        reader,
        settings: settings.clone(),
        models: Mutex::default(),
        attempts: AtomicU64::new(0),
    };
    let slots = try_join_all((0..settings.jobs.max(1)).map(|_| worker.slot())).await?;
    Ok(slots.into_iter().fold(WorkTotals::default(), |all, slot| WorkTotals {
        done: all.done + slot.done,
        partly: all.partly + slot.partly,
        failed: all.failed + slot.failed,
    }))
}

struct Worker {
    connection: Connection,
    context: jetstream::Context,
    queue: JobQueue,
    consumer: PullConsumer,
    reader: Arc<dyn JobReader>,
    settings: WorkSettings,
    /// Models by SHA-256.
    models: Mutex<HashMap<String, Arc<Model>>>,
    attempts: AtomicU64,
}

/// How an attempt went.
enum Outcome {
    Done(Box<CaptureResult>),
    /// The capture can't be read, here or elsewhere.
    Failed(String),
    /// It may be readable later or elsewhere.
    Later(String),
    Stopped,
}

impl Worker {
    fn is_stopped(&self) -> bool {
        self.settings.stop.load(Relaxed)
    }

    /// Does one job after the other.
    async fn slot(&self) -> Result<WorkTotals, FleetError> {
        let mut totals = WorkTotals::default();
        let mut failing: Option<Instant> = None;
        // A job whose result could not be stored is kept: given back, it would be set aside after some attempts.
        let mut kept: Option<Message> = None;
        while !self.is_stopped() {
            let next = match kept.take() {
                Some(message) => Ok(Some(message)),
                None => self.next().await,
            };
            let result = match next {
                Ok(Some(message)) => {
                    let result = self.job(&message).await;
                    if result.is_err() {
                        // If this fails too, another worker gets the job.
                        let _ = message.ack_with(AckKind::Progress).await;
                        kept = Some(message);
                    }
                    result
                }
                Ok(None) if self.settings.until_empty => match self.queue.backlog().await {
                    Ok((0, 0)) => return Ok(totals),
                    Ok(_) => {
                        tokio::time::sleep(TICK).await;
                        Ok(None)
                    }
                    Err(error) => Err(error),
                },
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match result {
                Ok(end) => {
                    failing = None;
                    end.iter().for_each(|end| self.count(end, &mut totals));
                }
                Err(error @ FleetError::Permission(_)) => return Err(error),
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    self.reader.report(&format!("{error}; trying again"));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        Ok(totals)
    }

    fn count(&self, end: &JobEnd, totals: &mut WorkTotals) {
        match end.state {
            JobState::Failed => {
                totals.failed += 1;
                let reason = end.reason.as_deref().unwrap_or_default();
                self.reader.report(&format!("set aside: {reason}"));
            }
            JobState::Done if end.exit == 0 => totals.done += 1,
            JobState::Done => totals.partly += 1,
        }
    }

    /// The next job, if there is one; a worker that does not end with the queue waits a second for it.
    async fn next(&self) -> Result<Option<Message>, FleetError> {
        let request = if self.settings.until_empty {
            // Without a time to wait the server answers at once, also that there is none.
            self.consumer.fetch().max_messages(1).messages().await
        } else {
            self.consumer.batch().max_messages(1).expires(Duration::from_secs(1)).messages().await
        };
        let mut messages = request.map_err(|error| self.connection.explain(error))?;
        let answer = tokio::time::timeout(TIMEOUT, self.connection.answer(messages.next())).await;
        let message = answer.map_err(|_| FleetError::Connection("no server answers".into()))??;
        message.transpose().map_err(|error| FleetError::Server(error.to_string()))
    }

    /// Does a job; returns how it ended, unless it goes back to the queue or had ended before.
    async fn job(&self, message: &Message) -> Result<Option<JobEnd>, FleetError> {
        let info = message.info().map_err(|error| FleetError::Server(error.to_string()))?;
        let id = message.subject.strip_prefix(JOBS_SUBJECT).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
        let job = serde_json::from_slice::<Job>(&message.payload).ok().filter(|job| job.id() == id);
        let Some(job) = job else {
            self.reader.report(&format!("{}: not a valid job; removed from the queue", message.subject));
            self.acknowledge(message, AckKind::Term).await?;
            return Ok(None);
        };
        if info.delivered > 1 && self.has_ended(id, info.published.unix_timestamp_nanos()).await? {
            self.acknowledge(message, AckKind::Ack).await?;
            return Ok(None);
        }
        let (mut outbox, begin) = (Outbox::new(self, id), Instant::now());
        let outcome = if info.delivered > MAX_ATTEMPTS {
            let capture = &job.capture;
            Outcome::Failed(format!("{capture}: given up: {MAX_ATTEMPTS} workers began to read it and did not end"))
        } else {
            self.read(&job, message, &mut outbox).await?
        };
        let (state, reason, result) = match outcome {
            Outcome::Done(result) => (JobState::Done, None, Some(result)),
            Outcome::Failed(reason) => (JobState::Failed, Some(reason), None),
            Outcome::Later(reason) if info.delivered >= MAX_ATTEMPTS => (JobState::Failed, Some(reason), None),
            Outcome::Later(_) => {
                self.acknowledge(message, AckKind::Nak(Some(RETRY))).await?;
                return Ok(None);
            }
            Outcome::Stopped => {
                self.acknowledge(message, AckKind::Nak(None)).await?;
                return Ok(None);
            }
        };
        if let Some(result) = &result {
            outbox.table(&result.summary).await?;
        }
        let end = JobEnd {
            state,
            reason,
            job,
            worker: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            attempt: outbox.attempt.clone(),
            deliveries: u64::try_from(info.delivered).unwrap_or(0),
            exit: result.as_ref().map_or(FAILED_EXIT, |result| result.exit),
            event_blocks: outbox.blocks(EVENTS),
            table_blocks: outbox.blocks(TABLE),
            seconds: begin.elapsed().as_secs_f64(),
            totals: result.map(|result| result.summary.totals()).unwrap_or_default(),
        };
        outbox.end(&end).await?;
        self.acknowledge(message, AckKind::Ack).await?;
        Ok(Some(end))
    }

    /// Whether a worker has done a job since it was queued, and then died or could not acknowledge it.
    async fn has_ended(&self, id: &str, queued: i128) -> Result<bool, FleetError> {
        Ok(self.queue.end(id).await?.is_some_and(|(_, stored)| stored > queued))
    }

    async fn acknowledge(&self, message: &Message, kind: AckKind) -> Result<(), FleetError> {
        let sent = message.double_ack_with(kind).await;
        sent.map_err(|error| self.connection.errors.take().unwrap_or_else(|| FleetError::Server(error.to_string())))
    }

    /// Reads the capture of a job on a thread, and sends its events.
    async fn read(&self, job: &Job, message: &Message, outbox: &mut Outbox<'_>) -> Result<Outcome, FleetError> {
        let mut models = Vec::new();
        for model in &job.models {
            match self.model(model).await? {
                Ok(model) => models.push(model),
                Err(reason) => return Ok(Outcome::Later(reason)),
            }
        }
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let stop = StopOnDrop::default();
        let thread = {
            let (reader, job, stop) = (Arc::clone(&self.reader), job.clone(), Arc::clone(&stop.0));
            tokio::task::spawn_blocking(move || match changed(&job) {
                Some(outcome) => Err(outcome),
                None => {
                    let out = BlockWriter::new(sender).map_err(|error| error.to_string());
                    Ok(out.and_then(|out| reader.read(&job, models, out, stop)))
                }
            })
        };
        let (mut ticks, mut alive) = (tokio::time::interval(TICK), Instant::now());
        loop {
            tokio::select! {
                block = receiver.recv() => match block {
                    Some(block) => outbox.send(EVENTS, block).await?,
                    None => break,
                },
                _ = ticks.tick() => {
                    stop.0.fetch_or(self.is_stopped(), Relaxed);
                    if alive.elapsed() >= HEARTBEAT {
                        alive = Instant::now();
                        message.ack_with(AckKind::Progress).await.map_err(|error| FleetError::Server(error.to_string()))?;
                    }
                }
            }
        }
        Ok(match thread.await {
            Ok(Err(outcome)) => outcome,
            Ok(Ok(Ok(result))) if result.stopped => Outcome::Stopped,
            Ok(Ok(Ok(result))) => match &result.failure {
                None => Outcome::Done(Box::new(result)),
                Some(error) if is_of_the_machine(error) => Outcome::Later(error.to_string()),
                Some(error) => Outcome::Failed(error.to_string()),
            },
            Ok(Ok(Err(error))) => Outcome::Failed(format!("{}: {error}", job.capture)),
            Err(error) => Outcome::Failed(format!("{}: {error}; this is a bug in spiked: please report it", job.capture)),
        })
    }

    /// A model of a job: one that is built in, or from the object store; or why there is none.
    async fn model(&self, wanted: &JobModel) -> Result<Result<Arc<Model>, String>, FleetError> {
        if let Some(model) = self.models.lock().get(&wanted.sha256) {
            return Ok(Ok(Arc::clone(model)));
        }
        let path = Path::new(&wanted.name).with_extension("safetensors");
        let built_in = Model::open(Path::new(&wanted.name)).ok().filter(|_| Model::is_built_in(Path::new(&wanted.name)));
        let model = match built_in.filter(|model| sha256(&model.to_bytes()) == wanted.sha256) {
            Some(model) => model,
            None => {
                let bytes = Buckets::open(&self.connection).await?.file(&wanted.sha256).await?;
                let Some(bytes) = bytes.filter(|bytes| sha256(bytes) == wanted.sha256) else {
                    return Ok(Err(format!("model {}: no complete file has the SHA-256 {}", wanted.name, wanted.sha256)));
                };
                match Model::from_bytes(&bytes, &path) {
                    Ok(model) => model,
                    Err(error) => return Ok(Err(error.to_string())),
                }
            }
        };
        let model = Arc::new(model);
        self.models.lock().insert(wanted.sha256.clone(), Arc::clone(&model));
        Ok(Ok(model))
    }
}

/// Sets a flag when it is dropped, so that the thread that reads ends with the job.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Nanoseconds since 1970 of a file's last change; 0 if the system does not know it.
pub fn modified(metadata: &std::fs::Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Why a job can't be done: its file or object is not the one that was queued. Waits for the server of an object.
fn changed(job: &Job) -> Option<Outcome> {
    let Job { capture, size, modified: time, .. } = job;
    let has_changed = || Some(Outcome::Failed(format!("{capture}: has changed since it was queued; queue it again")));
    let unreachable = |error| Some(Outcome::Later(format!("{capture}: can't open the capture: {error}")));
    if s3::is_s3(Path::new(capture)) {
        return match s3::state(Path::new(capture)) {
            Err(error) => unreachable(error),
            // An object without an entity tag is compared by its time.
            Ok(now) if now.etag.is_none() && now.modified != *time => has_changed(),
            Ok(now) if (now.size, &now.etag) != (*size, &job.etag) => has_changed(),
            Ok(_) => None,
        };
    }
    match std::fs::metadata(capture) {
        Err(error) => unreachable(error),
        Ok(metadata) if !metadata.is_file() => Some(Outcome::Failed(format!("{capture}: not a file"))),
        Ok(metadata) if (metadata.len(), modified(&metadata)) != (*size, *time) => has_changed(),
        Ok(_) => None,
    }
}

/// Whether another machine, or this one later, may be able to read the capture.
fn is_of_the_machine(error: &CaptureError) -> bool {
    match error {
        CaptureError::Open { path, source } | CaptureError::Read { path, source } => {
            source.raw_os_error().is_some() || s3::is_s3(Path::new(path))
        }
        _ => false,
    }
}

/// Collects lines into compressed blocks for the connection; waits if that is slow. Each flush ends a block.
pub struct BlockWriter {
    sender: mpsc::Sender<Bytes>,
    compressor: zstd::bulk::Compressor<'static>,
    text: Vec<u8>,
    compressed: Vec<u8>,
}

impl BlockWriter {
    fn new(sender: mpsc::Sender<Bytes>) -> io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(EVENTS_LEVEL)?;
        Ok(Self { sender, compressor, text: Vec::with_capacity(2 * BLOCK), compressed: Vec::new() })
    }

    /// Sends the first `length` bytes.
    fn send(&mut self, length: usize) -> io::Result<()> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(length));
        self.compressor.compress_to_buffer(&self.text[..length], &mut self.compressed)?;
        self.text.drain(..length);
        let sent = self.sender.blocking_send(Bytes::copy_from_slice(&self.compressed));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the result can't be sent"))
    }
}

impl Write for BlockWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        if self.text.len() >= BLOCK
            && let Some(end) = self.text.iter().rposition(|&byte| byte == b'\n')
        {
            self.send(end + 1)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.text.is_empty() { Ok(()) } else { self.send(self.text.len()) }
    }
}

/// A message that is to be acknowledged.
struct InFlight {
    acknowledgement: PublishAckFuture,
    subject: String,
    id: String,
    payload: Bytes,
}

/// Sends the messages of one attempt, and sends those again that are not acknowledged.
struct Outbox<'a> {
    worker: &'a Worker,
    job: &'a str,
    attempt: String,
    window: VecDeque<InFlight>,
    /// Number of messages of each part.
    sent: HashMap<&'static str, u64>,
}

impl<'a> Outbox<'a> {
    fn new(worker: &'a Worker, job: &'a str) -> Self {
        let number = worker.attempts.fetch_add(1, Relaxed);
        let unique = format!("{} {} {number} {:?}", worker.settings.name, std::process::id(), SystemTime::now());
        let mut attempt = sha256(unique.as_bytes());
        attempt.truncate(16);
        Self { worker, job, attempt, window: VecDeque::new(), sent: HashMap::new() }
    }

    fn blocks(&self, part: &str) -> u64 {
        self.sent.get(part).copied().unwrap_or(0)
    }

    async fn table(&mut self, summary: &Summary) -> Result<(), FleetError> {
        let failed = |error: io::Error| FleetError::Server(error.to_string());
        let text = serde_json::to_vec(summary).map_err(|error| failed(error.into()))?;
        let bytes = Bytes::from(zstd::bulk::compress(&text, TABLE_LEVEL).map_err(failed)?);
        for at in (0..bytes.len()).step_by(BLOCK) {
            self.send(TABLE, bytes.slice(at..bytes.len().min(at + BLOCK))).await?;
        }
        Ok(())
    }

    /// Sends a message, and waits while [`WINDOW`] are not acknowledged.
    async fn send(&mut self, part: &'static str, payload: Bytes) -> Result<(), FleetError> {
        while self.window.len() >= WINDOW {
            self.settle().await?;
        }
        let number = self.sent.entry(part).or_default();
        let id = format!("{}-{}-{part}-{number}", self.job, self.attempt);
        *number += 1;
        let subject = result_subject(self.job, part);
        let acknowledgement = self.publish(&subject, &id, &payload).await?;
        self.window.push_back(InFlight { acknowledgement, subject, id, payload });
        Ok(())
    }

    /// Sends the end, after everything else is stored, and waits until it is stored too.
    async fn end(&mut self, end: &JobEnd) -> Result<(), FleetError> {
        self.settle_all().await?;
        let text = serde_json::to_vec(end).map_err(|error| FleetError::Server(error.to_string()))?;
        self.send(END, text.into()).await?;
        self.settle_all().await
    }

    async fn publish(&self, subject: &str, id: &str, payload: &Bytes) -> Result<PublishAckFuture, FleetError> {
        let message = PublishMessage::build().message_id(id).payload(payload.clone());
        let sent = tokio::time::timeout(TIMEOUT, self.worker.context.send_publish(subject.to_string(), message)).await;
        match sent {
            Ok(sent) => sent.map_err(|error| self.worker.connection.explain(error)),
            Err(_) => Err(FleetError::Connection("no server answers".into())),
        }
    }

    /// Waits for the acknowledgement of the oldest message, which is sent again if it does not come.
    async fn settle(&mut self) -> Result<(), FleetError> {
        let Some(InFlight { mut acknowledgement, subject, id, payload }) = self.window.pop_front() else { return Ok(()) };
        let connection = &self.worker.connection;
        let mut tries = 1;
        loop {
            let Err(error) = connection.answer(acknowledgement).await? else { return Ok(()) };
            if tries >= TRIES {
                return Err(connection.explain(error));
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
            acknowledgement = self.publish(&subject, &id, &payload).await?;
        }
    }

    async fn settle_all(&mut self) -> Result<(), FleetError> {
        while !self.window.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_whole_events() {
        let (sender, mut receiver) = mpsc::channel(16);
        let mut out = BlockWriter::new(sender).expect("memory");
        let lines: Vec<String> = (0..100_000).map(|number| format!("{{\"flow_id\":{number}}}\n")).collect();
        lines.iter().for_each(|line| out.write_all(line.as_bytes()).expect("written"));
        out.flush().expect("written");
        drop(out);
        let mut all = Vec::new();
        let mut blocks = 0;
        while let Some(block) = receiver.blocking_recv() {
            let text = zstd::bulk::decompress(&block, BLOCK + lines[99_999].len()).expect("a valid block");
            assert!(text.ends_with(b"\n"));
            all.extend(text);
            blocks += 1;
        }
        assert_eq!((String::from_utf8(all).as_deref(), blocks), (Ok(lines.concat().as_str()), lines.concat().len() / BLOCK + 1));
    }
}
