//! How is the daemon? A snapshot, made when somebody asks: `/status` and the page show it, the gauges of `/metrics` read it.
//!
//! Input: what the daemon knows of itself. Everything here is plain data, so that who asks never waits for who works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::model::Model;

/// The daemon at one moment. InputCounters count from its start.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The sensor's name, from the settings.
    pub sensor: String,
    pub version: &'static str,
    #[serde(serialize_with = "seconds")]
    pub started: SystemTime,
    /// Why no traffic is judged yet, or no longer; `None`: ready.
    pub not_ready: Option<String>,
    /// What is broken and only a restart mends (a stuck worker); `None`: healthy.
    pub unhealthy: Option<String>,
    pub interfaces: Vec<Interface>,
    pub models: Vec<LoadedModel>,
    /// Batches that were captured and wait for a worker, and the most that may.
    pub queue: Queue,
    pub sinks: Vec<Sink>,
    pub alerts: Vec<Alerts>,
    pub reloads: Reloads,
    pub learning: Learning,
    /// What in-process hardening did, a line each: "capabilities: all dropped".
    pub hardening: Vec<String>,
}

impl Status {
    /// The status of a daemon that has just been started and has nothing yet.
    pub fn new(sensor: &str) -> Self {
        Self {
            sensor: sensor.into(),
            version: env!("CARGO_PKG_VERSION"),
            started: SystemTime::now(),
            not_ready: Some("starting".into()),
            unhealthy: None,
            interfaces: Vec::new(),
            models: Vec::new(),
            queue: Queue::default(),
            sinks: Vec::new(),
            alerts: Vec::new(),
            reloads: Reloads::default(),
            learning: Learning::default(),
            hardening: Vec::new(),
        }
    }
}

/// Where frames come from: an interface, a replayed capture, a watched folder.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Interface {
    pub name: String,
    /// Frames are being captured from it.
    pub up: bool,
    /// Why not, where it is not.
    pub trouble: Option<String>,
    /// The BPF expression, where one was set.
    pub filter: Option<String>,
    /// Frames that capture has handed to the workers.
    pub received: u64,
    /// Frames lost, by reason: "kernel" (the ring was full), "interface" (the card or its driver), "queue" (no worker was free).
    pub dropped: BTreeMap<&'static str, u64>,
    /// Times that it was opened again after it had vanished.
    pub reopened: u64,
    /// Captures of a replay or a watched folder that were read; of a watched folder, those set aside since they could not be.
    pub captures_read: u64,
    pub captures_refused: u64,
}

/// A model in use.
#[derive(Clone, Debug, Serialize)]
pub struct LoadedModel {
    #[serde(flatten, serialize_with = "identity")]
    pub model: Arc<Model>,
    /// Of the file's content, as the file itself has it in its metadata.
    pub checksum: String,
    #[serde(serialize_with = "seconds")]
    pub loaded: SystemTime,
    /// Share of the labelled streams that the teacher held back which the model names right, where it goes on learning.
    pub learning_accuracy: Option<f64>,
}

impl LoadedModel {
    /// A model that was loaded now.
    pub fn now(model: Arc<Model>) -> Self {
        Self { checksum: model.checksum(), model, loaded: SystemTime::now(), learning_accuracy: None }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Queue {
    pub depth: u64,
    pub capacity: u64,
}

/// Where events go.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sink {
    pub name: String,
    pub written: u64,
    /// Events lost, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    pub queued: u64,
    /// Why the last write failed, until one succeeds.
    pub trouble: Option<String>,
}

/// Alerts of one class.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Alerts {
    /// The model's name.
    pub model: String,
    pub class: String,
    pub sent: u64,
    /// Kept back by the rate limit.
    pub suppressed: u64,
}

/// Live teaching.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Learning {
    pub lessons: Vec<LearningTaskStatus>,
    /// One stream in so many is sampled; 0: there is no teacher.
    pub one_in: u32,
    /// Sampled streams that there was no room for while their packets came.
    pub crowded: u64,
    /// Why what was learned was not written to its file, until it is.
    pub trouble: Option<String>,
}

/// A class that is taught.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LearningTaskStatus {
    /// The model's name.
    pub model: String,
    pub class: String,
    /// Share of the last hundred streams or so that the model named right before they were taught.
    pub accuracy: Option<f64>,
    /// Streams remembered to learn from, and held back.
    pub shown: usize,
    pub held: usize,
    /// Mean of own and foreign streams right among those held back, with the model that runs.
    pub held_back: Option<f64>,
    /// What became of the streams that were heard: "shown", "held_back", "full" (there was no room), "rate", "frozen".
    pub streams: BTreeMap<&'static str, u64>,
    /// Tries to make a better neuron: "taken_over", "below_gate", "worse".
    pub attempts: BTreeMap<&'static str, u64>,
}

/// Reloads of settings and models since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloads {
    pub succeeded: u64,
    pub failed: u64,
    /// Why the last one failed, where it did.
    pub trouble: Option<String>,
    /// When settings and models were last read whole: at the start or by a reload.
    #[serde(serialize_with = "maybe_seconds")]
    pub last_success: Option<SystemTime>,
}

/// Seconds since the Unix epoch.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn seconds<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(unix(*time))
}

fn maybe_seconds<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    time.map(unix).serialize(to)
}

fn identity<S: Serializer>(model: &Arc<Model>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Identity<'a> {
        name: &'a str,
        key: crate::packet::KeyKind,
        classes: usize,
        trained_with: &'a str,
    }
    let (name, trained_with) = (&model.name, &model.provenance.trained_with);
    Identity { name, key: model.key, classes: model.classes.len(), trained_with }.serialize(to)
}
