//! What was typed? The settings as the file has them, every key optional, each value with its place.
//!
//! Units, defaults and meanings are in `config/spiked.toml`, which a test holds to these types; [`super::Config`] is what runs.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::capture::watch::Disposition;

/// A value that may be missing, with its place.
pub type Maybe<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub sensor: Maybe<String>,
    pub models: Maybe<Vec<Spanned<String>>>,
    pub interfaces: Vec<Spanned<RawInterface>>,
    pub replay: RawReplay,
    pub watch: RawWatch,
    pub capture: RawCapture,
    pub engine: RawEngine,
    pub sinks: Vec<Spanned<RawSink>>,
    pub metrics: RawMetrics,
    pub policies: Vec<Spanned<RawPolicy>>,
    pub alerts: RawAlerts,
    pub evidence: RawEvidence,
    pub learning: RawLearning,
    pub teachers: Vec<Spanned<RawTeacher>>,
    pub log: RawLog,
    pub process: RawProcess,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawInterface {
    pub name: Maybe<String>,
    pub filter: Maybe<String>,
    pub promiscuous: Maybe<bool>,
    pub snap_length: Maybe<i64>,
    pub buffer_mib: Maybe<i64>,
    pub threads: Maybe<i64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawReplay {
    pub captures: Maybe<Vec<Spanned<String>>>,
    pub speed: Maybe<f64>,
    pub rounds: Maybe<i64>,
    pub filter: Maybe<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWatch {
    pub folder: Maybe<String>,
    pub then: Maybe<Disposition>,
    pub move_to: Maybe<String>,
    pub set_aside: Maybe<String>,
    pub settle_secs: Maybe<i64>,
    pub filter: Maybe<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCapture {
    pub queue: Maybe<i64>,
    pub batch_millis: Maybe<i64>,
    pub retry_max_secs: Maybe<i64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEngine {
    pub workers: Maybe<i64>,
    pub pin: Maybe<bool>,
    pub streams: Maybe<i64>,
    pub idle_secs: Maybe<i64>,
    pub active_secs: Maybe<i64>,
    pub closed_secs: Maybe<i64>,
    pub tunnels: Maybe<bool>,
    pub every_packet: Maybe<bool>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSink {
    pub r#type: Maybe<SinkType>,
    pub name: Maybe<String>,
    pub path: Maybe<String>,
    pub facility: Maybe<Facility>,
    pub events: Maybe<Vec<Spanned<EventType>>>,
    pub queue: Maybe<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkType {
    File,
    Stdout,
    Unix,
    Syslog,
    Journald,
}

/// Which events a sink is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A stream has been given a class.
    Detection,
    /// A detection that a policy calls an alert, after the rate limit.
    Alert,
    /// A stream has ended.
    Stream,
}

/// Syslog facility (RFC 5424, table 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    User = 1,
    #[default]
    Daemon = 3,
    Auth = 4,
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    pub enabled: Maybe<bool>,
    pub address: Maybe<String>,
    pub names: Maybe<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicy {
    pub class: Maybe<String>,
    pub model: Maybe<String>,
    pub action: Maybe<Action>,
    pub severity: Maybe<Severity>,
    pub only: Maybe<String>,
    pub unless: Maybe<String>,
}

/// What is done about a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Told and counted.
    #[default]
    Report,
    /// Told, counted, and told once more as an alert.
    Alert,
    /// Counted only.
    Ignore,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    #[default]
    Medium,
    High,
    Critical,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAlerts {
    pub per_minute: Maybe<i64>,
    pub hosts: Maybe<i64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEvidence {
    pub folder: Maybe<String>,
    pub packets: Maybe<i64>,
    pub file_mib: Maybe<i64>,
    pub files: Maybe<i64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLearning {
    pub folder: Maybe<String>,
    pub every_secs: Maybe<f64>,
    pub volleys: Maybe<i64>,
    pub gate: Maybe<f64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTeacher {
    pub class: Maybe<String>,
    pub model: Maybe<String>,
    pub filter: Maybe<String>,
    pub without: Maybe<Vec<Spanned<String>>>,
    pub rate: Maybe<f64>,
    pub learning_rate: Maybe<f64>,
    pub freeze: Maybe<bool>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub format: Maybe<LogFormat>,
    pub level: Maybe<LogLevel>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, on standard error.
    #[default]
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// With its fields to systemd's journal.
    Journald,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProcess {
    pub user: Maybe<String>,
    pub harden: Maybe<bool>,
    pub status_file: Maybe<String>,
}
