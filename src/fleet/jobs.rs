//! The queue of captures to read: what a job is, how jobs are queued, and how far the queue is.
//!
//! Each job has a subject of its own in the work queue [`JOBS_STREAM`], and the servers keep one message for each subject: a job that waits or
//! is in work is not queued twice, however long ago it was queued. A job that has ended is not queued again either, as long as [`RESULTS_STREAM`] has its
//! end. The id of a job is a hash of all that its result depends on.

use std::collections::HashMap;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use serde::{Deserialize, Serialize};

use crate::export::SummaryTotals;

use super::connection::{Connection, FleetError, answer, publish_error};
use super::models::sha256;

/// Work queue of the captures to read.
pub const JOBS_STREAM: &str = "SPIKED_JOBS";
/// Subjects of jobs begin with it; the id of the job follows.
pub const JOBS_SUBJECT: &str = "spiked.jobs.read";
/// Consumer of [`JOBS_STREAM`] that all workers share.
pub const WORKERS: &str = "workers";
/// Stream of what workers have read.
pub const RESULTS_STREAM: &str = "SPIKED_RESULTS";
/// Subjects of results begin with it; the id of the job and [`EVENTS`], [`TABLE`] or [`END`] follow.
pub const RESULTS_SUBJECT: &str = "spiked.results";
/// Blocks of lines, each a number of whole events, compressed with zstd.
pub const EVENTS: &str = "events";
/// Blocks of the summary of a capture: JSON, compressed with zstd.
pub const TABLE: &str = "table";
/// The last message of an attempt to do a job: a [`JobEnd`].
pub const END: &str = "end";

/// Subject of a job.
pub fn job_subject(id: &str) -> String {
    format!("{JOBS_SUBJECT}.{id}")
}

/// Subject of a part of a job's result.
pub fn result_subject(id: &str, part: &str) -> String {
    format!("{RESULTS_SUBJECT}.{id}.{part}")
}

/// A model of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobModel {
    /// Its name in events.
    pub name: String,
    /// SHA-256 of its file, in hexadecimal digits: the name in the object store.
    pub sha256: String,
}

/// A capture to read, and all that the result depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Absolute path, the same on all workers, or `s3://BUCKET/KEY`.
    pub capture: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: u64,
    /// Entity tag of an object; `None` for files. Left out of the id then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The models.
    pub models: Vec<JobModel>,
    /// Options of `spiked read`.
    pub options: Vec<String>,
}

/// Digits of ids: 128 bits of a SHA-256.
const ID_DIGITS: usize = 32;
/// Digits of the ids of batches.
const BATCH_DIGITS: usize = 8;

/// The first digits of the hash of a value.
fn hash(value: &impl Serialize, digits: usize) -> String {
    let mut text = sha256(&serde_json::to_vec(value).unwrap_or_default());
    text.truncate(digits);
    text
}

impl Job {
    /// The id: the same for the same capture, models and options.
    pub fn id(&self) -> String {
        hash(self, ID_DIGITS)
    }

    /// The id of all jobs with the same models and options, whose results belong together.
    pub fn batch(&self) -> String {
        hash(&(&self.models, &self.options), BATCH_DIGITS)
    }
}

/// How an attempt to do a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The capture was read, and all of the result is stored.
    Done,
    /// The capture can't be read; the job was set aside.
    Failed,
}

/// The end of an attempt to do a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEnd {
    /// How it has ended.
    pub state: JobState,
    /// Why it failed.
    pub reason: Option<String>,
    /// The job.
    pub job: Job,
    /// Name of the worker.
    pub worker: String,
    /// Version of the worker's program.
    pub version: String,
    /// Id of the attempt: ids of its messages are `JOB-ATTEMPT-PART-NUMBER`. Results of other attempts are to be left out.
    pub attempt: String,
    /// Number of times that the job was given to a worker.
    pub deliveries: u64,
    /// Exit code that `spiked read` would have ended with.
    pub exit: u8,
    /// Number of blocks of events, numbered from 0.
    pub event_blocks: u64,
    /// Number of blocks of the table, numbered from 0.
    pub table_blocks: u64,
    /// Seconds that reading took.
    pub seconds: f64,
    /// Streams, packets, classes and drops.
    pub totals: SummaryTotals,
}

/// What became of a job that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It was queued.
    New,
    /// It waits or is in work.
    Waiting,
    /// It has ended: its result is there.
    Ended(JobState),
}

/// Queues jobs.
pub struct JobQueue {
    connection: Connection,
    context: jetstream::Context,
    results: jetstream::stream::Stream<()>,
}

impl JobQueue {
    /// Opens the queue.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn open(connection: &Connection) -> Result<Self, FleetError> {
        let context = jetstream::new(connection.client.clone());
        let results = context.get_stream_no_info(RESULTS_STREAM).await.map_err(|error| connection.explain(error))?;
        Ok(Self { connection: connection.clone(), context, results })
    }

    /// The last end of a job, and when it was stored, in nanoseconds since 1970; `None`: there is none, or it is not valid.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn end(&self, id: &str) -> Result<Option<(JobEnd, i128)>, FleetError> {
        match self.connection.answer(self.results.direct_get_last_for_subject(result_subject(id, END))).await? {
            Ok(message) => {
                let end = serde_json::from_slice(&message.payload).ok();
                Ok(end.map(|end| (end, message.time.unix_timestamp_nanos())))
            }
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
            Err(error) => Err(self.connection.explain(error)),
        }
    }

    /// Queues a job unless it waits, is in work or has ended; with `again`, also if it has ended.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn enqueue(&self, job: &Job, again: bool) -> Result<Enqueued, FleetError> {
        let id = job.id();
        if !again && let Some((end, _)) = self.end(&id).await? {
            return Ok(Enqueued::Ended(end.state));
        }
        let payload = serde_json::to_vec(job).map_err(|error| FleetError::Server(error.to_string()))?;
        let message = PublishMessage::build().payload(payload.into());
        let sent = self.context.send_publish(job_subject(&id), message).await.map_err(|error| self.connection.explain(error))?;
        match self.connection.answer(sent).await? {
            Ok(_) => Ok(Enqueued::New),
            Err(error) if answer(&error).is_some_and(is_present) => Ok(Enqueued::Waiting),
            Err(error) => Err(publish_error(&error)),
        }
    }

    /// Numbers of jobs that wait and that are in work.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn backlog(&self) -> Result<(u64, u64), FleetError> {
        let consumer = workers(&self.connection, &self.context).await?;
        let info = consumer.cached_info();
        Ok((info.num_pending, info.num_ack_pending as u64))
    }
}

/// Whether the server refused a message because its subject has one.
fn is_present(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::STREAM_STORE_FAILED && error.to_string().contains("per subject")
}

/// The consumer that the workers share.
///
/// # Errors
/// It does not exist, or the server can't be reached or does not allow it.
pub async fn workers(connection: &Connection, context: &jetstream::Context) -> Result<PullConsumer, FleetError> {
    connection.answer(context.get_consumer_from_stream(WORKERS, JOBS_STREAM)).await?.map_err(|error| {
        let text = super::connection::chain(&error);
        connection.errors.take().unwrap_or_else(|| FleetError::Server(format!("{JOBS_STREAM}: {text}; run `spiked fleet init`")))
    })
}

/// Ends of jobs, of those of the same capture and batch the one that counts: of the latest state of the file, the latest.
pub fn latest(ends: impl IntoIterator<Item = JobEnd>) -> Vec<JobEnd> {
    let mut latest: HashMap<(String, String), JobEnd> = HashMap::new();
    for end in ends {
        let key = (end.job.batch(), end.job.capture.clone());
        let older = latest.get(&key).is_some_and(|known| known.job.modified > end.job.modified);
        if !older {
            latest.insert(key, end);
        }
    }
    let mut latest: Vec<JobEnd> = latest.into_values().collect();
    latest.sort_by(|a, b| a.job.capture.cmp(&b.job.capture));
    latest
}
