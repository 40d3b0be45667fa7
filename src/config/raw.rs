//! Settings as written in the file: every key is optional, and each value carries its place (a byte range).
//!
//! Units, defaults and meanings are documented in `config/spiked.toml`; a test compares it with these types. [`super::Config`] holds the
//! validated settings. The fields are the keys of the file.
#![allow(missing_docs, reason = "config/spiked.toml documents each key")]

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use crate::capture::watch::Disposition;
use crate::export::EventFormat;

/// An optional value with its place.
pub type Maybe<T> = Option<Spanned<T>>;

/// The whole file.
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
    pub tunnels: RawTunnels,
    pub sinks: Vec<Spanned<RawSink>>,
    pub fleet: RawFleet,
    pub metrics: RawMetrics,
    pub policies: Vec<Spanned<RawPolicy>>,
    pub alerts: RawAlerts,
    pub evidence: RawEvidence,
    pub learning: RawLearning,
    pub teachers: Vec<Spanned<RawTeacher>>,
    pub log: RawLog,
    pub process: RawProcess,
}

/// One `[[interfaces]]`.
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

/// `[replay]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawReplay {
    pub captures: Maybe<Vec<Spanned<String>>>,
    pub speed: Maybe<f64>,
    pub repeat: Maybe<i64>,
    pub filter: Maybe<String>,
}

/// `[watch]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWatch {
    pub folder: Maybe<String>,
    pub on_success: Maybe<Disposition>,
    pub move_to: Maybe<String>,
    pub quarantine_folder: Maybe<String>,
    pub settle_secs: Maybe<i64>,
    pub filter: Maybe<String>,
}

/// `[capture]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCapture {
    pub queue: Maybe<i64>,
    pub batch_millis: Maybe<i64>,
    pub retry_max_secs: Maybe<i64>,
}

/// `[engine]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEngine {
    pub workers: Maybe<i64>,
    pub pin: Maybe<bool>,
    pub streams: Maybe<i64>,
    pub hosts: Maybe<i64>,
    pub idle_secs: Maybe<i64>,
    pub active_secs: Maybe<i64>,
    pub closed_secs: Maybe<i64>,
    pub vlan_in_key: Maybe<bool>,
    pub interface_in_key: Maybe<bool>,
    pub drop_duplicates: Maybe<bool>,
    pub every_packet: Maybe<bool>,
}

/// `[tunnels]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTunnels {
    pub depth: Maybe<i64>,
    pub exclude: Maybe<Vec<Spanned<String>>>,
    pub vxlan_ports: Maybe<Vec<Spanned<i64>>>,
    pub vxlan_gpe_ports: Maybe<Vec<Spanned<i64>>>,
    pub geneve_ports: Maybe<Vec<Spanned<i64>>>,
    pub lisp_ports: Maybe<Vec<Spanned<i64>>>,
    pub mpls_ports: Maybe<Vec<Spanned<i64>>>,
    pub tzsp_ports: Maybe<Vec<Spanned<i64>>>,
    pub gtp_ports: Maybe<Vec<Spanned<i64>>>,
    pub l2tp_ports: Maybe<Vec<Spanned<i64>>>,
    pub capwap_ports: Maybe<Vec<Spanned<i64>>>,
    pub teredo_ports: Maybe<Vec<Spanned<i64>>>,
}

/// One `[[sinks]]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSink {
    pub r#type: Maybe<SinkType>,
    pub name: Maybe<String>,
    pub path: Maybe<String>,
    pub facility: Maybe<Facility>,
    pub events: Maybe<Vec<Spanned<EventType>>>,
    pub format: Maybe<EventFormat>,
    pub queue: Maybe<i64>,
}

/// Type of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkType {
    File,
    Stdout,
    Unix,
    Syslog,
    Journald,
    Nats,
}

/// Types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A stream was classified.
    Detection,
    /// A detection for which a policy has the action `alert`, after the rate limit.
    Alert,
    /// A stream ended.
    Stream,
    /// An episode began, lasts, or ended.
    Episode,
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

/// `[fleet]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawFleet {
    pub servers: Maybe<Vec<Spanned<String>>>,
    pub sensor: Maybe<String>,
    pub credentials: Maybe<String>,
    pub ca_certificate: Maybe<String>,
    pub certificate: Maybe<String>,
    pub key: Maybe<String>,
    pub spool: Maybe<String>,
    pub spool_mib: Maybe<i64>,
    pub group: Maybe<String>,
    pub models: Maybe<Vec<Spanned<String>>>,
    pub model_folder: Maybe<String>,
    pub trusted_keys: Maybe<Vec<Spanned<String>>>,
    pub teaches: Maybe<Vec<Spanned<String>>>,
    pub metrics_address: Maybe<String>,
    pub canary_max_loss: Maybe<f64>,
    pub canary_min_streams: Maybe<i64>,
}

/// `[metrics]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    pub enabled: Maybe<bool>,
    pub address: Maybe<String>,
    pub names: Maybe<Vec<Spanned<String>>>,
}

/// One `[[policies]]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicy {
    pub class: Maybe<String>,
    pub model: Maybe<String>,
    pub action: Maybe<Action>,
    pub severity: Maybe<Severity>,
    pub include_filter: Maybe<String>,
    pub exclude_filter: Maybe<String>,
    pub basis: Maybe<OneOrMany>,
}

/// A string, or a list of strings.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<Spanned<String>>),
}

/// Accepts the two forms of [`OneOrMany`]. A derived implementation would lose the places of the strings.
struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, value: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(OneOrMany::Many(all))
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

/// Action of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Send a detection event and count the stream.
    #[default]
    Report,
    /// As [`Action::Report`], and send an alert event.
    Alert,
    /// Count the stream and send no event.
    Ignore,
}

/// Severity of an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    #[default]
    Medium,
    High,
    Critical,
}

/// `[alerts]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAlerts {
    pub per_minute: Maybe<i64>,
    pub hosts: Maybe<i64>,
}

/// `[evidence]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEvidence {
    pub folder: Maybe<String>,
    pub packets: Maybe<i64>,
    pub file_mib: Maybe<i64>,
    pub files: Maybe<i64>,
}

/// `[learning]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLearning {
    pub folder: Maybe<String>,
    pub every_secs: Maybe<f64>,
    pub volleys: Maybe<i64>,
    pub min_accuracy: Maybe<f64>,
}

/// One `[[teachers]]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTeacher {
    pub class: Maybe<String>,
    pub model: Maybe<String>,
    pub filter: Maybe<String>,
    pub mask: Maybe<Vec<Spanned<String>>>,
    pub rate: Maybe<f64>,
    pub learning_rate: Maybe<f64>,
    pub freeze: Maybe<bool>,
}

/// `[log]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub format: Maybe<LogFormat>,
    pub level: Maybe<LogLevel>,
}

/// Format and destination of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable lines on standard error.
    #[default]
    Text,
    /// One JSON object per line on standard error.
    Json,
    /// The systemd journal, with structured fields.
    Journald,
}

/// Level of log lines.
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

/// `[process]`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProcess {
    pub user: Maybe<String>,
    pub harden: Maybe<bool>,
    pub status_file: Maybe<String>,
}
