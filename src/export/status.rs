//! A snapshot of the daemon's state, made on request: `/status` and the page show it, and most gauges of `/metrics` read it.
//!
//! Input: the state that the daemon keeps about itself. Everything here is plain data, so a slow HTTP client never holds a lock that a
//! worker needs. The names of the fields in JSON are part of the interface; see deploy/README.md.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize, Serializer};

use crate::model::Model;

/// The daemon's state at one moment. All counters start at 0 when the daemon starts.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The sensor's name, from the settings.
    pub sensor: String,
    /// Version of spiked.
    pub version: &'static str,
    /// When the daemon started.
    #[serde(serialize_with = "seconds")]
    pub started: SystemTime,
    /// Why no traffic is being classified; `None` if it is.
    pub not_ready: Option<String>,
    /// A fault that only a restart repairs, for instance a stuck worker; `None` if healthy.
    pub unhealthy: Option<String>,
    /// Sources of frames.
    pub interfaces: Vec<InterfaceStatus>,
    /// Models in use.
    pub models: Vec<LoadedModel>,
    /// The queue of captured batches.
    pub queue: QueueStatus,
    /// Event sinks, and the evidence captures.
    pub sinks: Vec<SinkStatus>,
    /// Alerts by model and class.
    pub alerts: Vec<AlertCounts>,
    /// Reloads of settings and models.
    pub reloads: ReloadStatus,
    /// Live learning.
    pub learning: LearningStatus,
    /// Models of the fleet; `None`: the sensor takes none.
    pub fleet: Option<FleetStatus>,
    /// Steps of in-process hardening, one line each: "capabilities: all dropped".
    pub hardening: Vec<String>,
}

impl Status {
    /// The status of a daemon that is starting and has no sources yet.
    pub fn new(sensor: &str) -> Self {
        Self {
            sensor: sensor.into(),
            version: env!("CARGO_PKG_VERSION"),
            started: SystemTime::now(),
            not_ready: Some("starting".into()),
            unhealthy: None,
            interfaces: Vec::new(),
            models: Vec::new(),
            queue: QueueStatus::default(),
            sinks: Vec::new(),
            alerts: Vec::new(),
            reloads: ReloadStatus::default(),
            learning: LearningStatus::default(),
            fleet: None,
            hardening: Vec::new(),
        }
    }
}

/// The models that a sensor takes from the fleet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FleetStatus {
    /// The sensor's group.
    pub group: String,
    /// Whether the servers answer.
    pub connected: bool,
    /// Why they do not; `None` if they do.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
    /// Hosts and ports of the servers in the settings.
    pub servers: String,
    /// Name of the server that answers; `None`: none does.
    pub server: Option<String>,
    /// The models.
    pub models: Vec<FleetModelStatus>,
    /// Events that no server has acknowledged; `None`: the sensor sends none.
    pub spool: Option<SpoolStatus>,
}

/// The events of a sensor that no server of the fleet has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// Number of events.
    pub events: u64,
    /// Size of the spool in bytes.
    pub bytes: u64,
    /// Maximum size in bytes.
    pub limit: u64,
}

/// A model that a sensor takes from the fleet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FleetModelStatus {
    /// The model's name.
    pub name: String,
    /// Version that runs; 0: none of the fleet's.
    pub version: u64,
    /// SHA-256 of its file; empty with version 0.
    pub sha256: String,
    /// "waiting" (no version was installed yet), "installed", or "refused" (the version that should run was refused, and the one before
    /// runs).
    pub state: &'static str,
    /// Why a version was refused; `None` if the one that should run does.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
    /// Version that was refused and that should run; `None`: the one that should run does, or it can't be read.
    pub refused_version: Option<u64>,
    /// Versions that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The last trial of a version on recent streams; `None`: there was none since the start.
    pub canary: Option<CanaryStatus>,
    /// Recent streams on which the next version will be tried.
    pub recent_streams: u64,
}

/// Trial of a version of a model on recent streams of the sensor before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// The version.
    pub version: u64,
    /// Result of the trial.
    pub outcome: CanaryOutcome,
    /// Streams that the running model named.
    pub streams: u64,
    /// Of these, those that the version gives another class or none.
    pub lost: u64,
}

/// Result of the trial of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryOutcome {
    /// It runs.
    Passed,
    /// It runs: there were too few streams to refuse it.
    NotEnoughStreams,
    /// It lost too many streams.
    Refused,
}

impl fmt::Display for CanaryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, outcome, streams, lost } = self;
        let outcome = match outcome {
            CanaryOutcome::Passed => "passed",
            CanaryOutcome::NotEnoughStreams => "not enough streams",
            CanaryOutcome::Refused => "refused",
        };
        write!(f, "canary of version {version}: {outcome}, {lost} of {streams} streams lost")
    }
}

/// A source of frames: an interface, a replayed capture or a watched folder.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InterfaceStatus {
    /// Name of the interface, or path of the capture or folder.
    pub name: String,
    /// Whether frames are being captured from it.
    pub up: bool,
    /// Why it is down; `None` while it is up.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
    /// The BPF filter, if one is set.
    pub filter: Option<String>,
    /// Frames that capture has passed to the workers.
    pub received: u64,
    /// Frames dropped, by reason: "kernel" (the capture buffer was full), "interface" (by the network card or its driver), "queue" (no
    /// worker was free).
    pub dropped: BTreeMap<&'static str, u64>,
    /// Frames that were found to be identical to one shortly before, from mirror ports or programs that repeat themselves.
    pub copies: u64,
    /// Frames among which copies were looked for: all if copies are left out, else a sample.
    pub compared: u64,
    /// Number of times that it was reopened after it had disappeared or been set down.
    pub reopened: u64,
    /// Captures of a replay or a watched folder that were read.
    pub captures_read: u64,
    /// Captures of a replay or a watched folder that could not be read; a watched folder moves them to the quarantine folder.
    pub captures_refused: u64,
}

/// A model in use.
#[derive(Clone, Debug, Serialize)]
pub struct LoadedModel {
    /// The model; serialized as its name, key, number of classes and `trained_with`.
    #[serde(flatten, serialize_with = "identity")]
    pub model: Arc<Model>,
    /// Checksum of the file's content, as in the file's metadata.
    pub checksum: String,
    /// When it was loaded.
    #[serde(serialize_with = "seconds")]
    pub loaded: SystemTime,
    /// Prequential accuracy (0 to 1): share of recent labelled streams that the model classified correctly before it was trained on
    /// them; `None` unless it learns live.
    pub learning_accuracy: Option<f64>,
}

impl LoadedModel {
    /// A model that was loaded now.
    pub fn now(model: Arc<Model>) -> Self {
        Self { checksum: model.checksum(), model, loaded: SystemTime::now(), learning_accuracy: None }
    }
}

/// The queue between capture and the workers, in batches of frames.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueueStatus {
    /// Captured batches that wait for a worker.
    pub depth: u64,
    /// Maximum number of batches that may wait.
    pub capacity: u64,
}

/// An event sink.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SinkStatus {
    /// The sink's name, from the settings.
    pub name: String,
    /// Events written.
    pub written: u64,
    /// Events dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Events that wait to be written.
    pub queued: u64,
    /// Why the last write failed; `None` after a write that succeeded.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
}

/// Counts of alerts of one class.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AlertCounts {
    /// The model's name.
    pub model: String,
    /// The class's name.
    pub class: String,
    /// Alerts sent.
    pub sent: u64,
    /// Alerts suppressed by the rate limit.
    pub suppressed: u64,
}

/// Live learning.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LearningStatus {
    /// The classes that are being learned.
    #[serde(rename = "lessons")]
    pub tasks: Vec<LearningTaskStatus>,
    /// One stream in `one_in` is sampled; 0 if there is no teacher and no model of the fleet.
    pub one_in: u32,
    /// Sampled streams that were dropped since the buffer for their packets was full.
    #[serde(rename = "crowded")]
    pub buffer_full: u64,
    /// Why the last checkpoint could not be written; `None` once one is.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
}

/// A class that is being learned from labelled streams.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LearningTaskStatus {
    /// The model's name.
    pub model: String,
    /// The class's name.
    pub class: String,
    /// Share (0 to 1) of about the last hundred labelled streams that the model classified correctly before it was trained on them
    /// (prequential accuracy).
    pub accuracy: Option<f64>,
    /// Streams in the replay buffer for training.
    pub shown: usize,
    /// Streams in the replay buffer that are held out for testing.
    pub held: usize,
    /// Balanced accuracy (0 to 1) of the running model on the held-out streams: the mean of the accuracies on positive and on negative
    /// streams.
    pub held_back: Option<f64>,
    /// Labelled streams by what was done with them: "shown" (used for training), "held_back" (held out), "full" (the replay buffer was
    /// full), "rate" (over the rate limit), "frozen" (learning is frozen).
    pub streams: BTreeMap<&'static str, u64>,
    /// Newly trained neurons by outcome: "accepted", "below_min_accuracy", "worse" (worse than the neuron in use).
    pub attempts: BTreeMap<&'static str, u64>,
}

/// Reloads of settings and models since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReloadStatus {
    /// Reloads that succeeded.
    pub succeeded: u64,
    /// Reloads that failed.
    pub failed: u64,
    /// Why the last reload failed; `None` if it succeeded.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
    /// When settings and models were last loaded successfully, at the start or by a reload.
    #[serde(serialize_with = "maybe_seconds")]
    pub last_success: Option<SystemTime>,
}

/// Seconds since the Unix epoch.
pub(crate) fn unix(time: SystemTime) -> f64 {
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
