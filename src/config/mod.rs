//! Daemon settings: the settings as written ([`raw`]), and as validated for running ([`Config`]).
//!
//! Input: a TOML file, `SPIKED_...` environment variables, `--set key=value`; later sources override earlier ones. Output: a
//! [`Config`], or all mistakes at once, each with its place and what to do. `config/spiked.toml` documents each key; a test compares
//! it with the code.

pub mod raw;
mod text;
mod validate;

pub use raw::{Action, EventType, Facility, LogFormat, LogLevel, Severity};
pub(crate) use text::Places;
pub use text::{Mistake, Override, keys};

pub use crate::capture::live::{InterfaceSettings, LiveSettings};
pub use crate::capture::replay::ReplaySettings;
pub use crate::capture::watch::{Disposition, WatchSettings};
pub use crate::export::EventFormat;
pub use crate::stream::Basis;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::packet::TunnelSettings;

/// Error of loading the settings.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields of the messages")]
pub enum ConfigError {
    /// The settings file can't be read.
    #[error("{path}: can't read the settings: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The settings have mistakes: all of them, in the order of their places.
    #[error("{}", list(mistakes))]
    Mistakes {
        mistakes: Vec<Mistake>,
        /// The settings without those that are wrong; `None` if they cannot be parsed.
        rest: Option<Box<Config>>,
    },
}

fn list(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(|m| m.to_string()).collect();
    format!("{} in the settings:\n{}", if lines.len() == 1 { "a mistake" } else { "mistakes" }, lines.join("\n"))
}

/// Validated settings of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of this sensor in events and metrics.
    pub sensor: String,
    /// Models that run; at least one.
    pub models: Vec<ModelSource>,
    /// Source of frames.
    pub input: Input,
    /// Queue between the capture threads and the workers.
    pub capture: LiveSettings,
    /// Worker threads and stream tables.
    pub engine: EngineConfig,
    /// Which tunnels are opened.
    pub tunnels: TunnelSettings,
    /// Destinations of events.
    pub sinks: Vec<SinkConfig>,
    /// Servers that this sensor shares with others; `None`: it works alone.
    pub fleet: Option<FleetConfig>,
    /// HTTP server for metrics and the status page; `None`: disabled.
    pub metrics: Option<MetricsConfig>,
    /// Policies in the order of the file: the first that matches applies.
    pub policies: Vec<PolicyConfig>,
    /// Rate limit of alerts.
    pub alerts: AlertsConfig,
    /// Packet captures of alerting streams; `None`: disabled.
    pub evidence: Option<EvidenceConfig>,
    /// Settings common to all teachers.
    pub learning: LearningConfig,
    /// Classes that are learned from live traffic.
    pub teachers: Vec<TeacherConfig>,
    /// Format and level of the log.
    pub log: LogConfig,
    /// User, hardening and status file of the process.
    pub process: ProcessConfig,
    /// Places of the settings, for messages.
    pub(crate) places: Places,
}

/// Source of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The protocols model built into the program.
    BuiltIn,
    /// A model file, or the name of a built-in model.
    File(PathBuf),
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("protocols"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Source of frames.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Live capture from network interfaces.
    Interfaces(Vec<InterfaceSettings>),
    /// Capture files replayed as if they were live traffic.
    Replay(ReplaySettings),
    /// A folder whose capture files are read as they are completed.
    Watch(WatchSettings),
}

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Worker threads; 0: one for each CPU that the process may use.
    pub workers: usize,
    /// Pins each worker to one CPU.
    pub pin: bool,
    /// Capacity of the stream table of each model, in streams.
    pub streams: usize,
    /// Capacity of the table of hosts with traces.
    pub hosts: usize,
    /// Idle timeout: a stream ends after this time without packets.
    pub idle: Duration,
    /// Active timeout: a stream ends at this age, even if it still has packets; `None`: no limit.
    pub active: Option<Duration>,
    /// Idle timeout of a TCP stream that both sides have closed.
    pub closed: Duration,
    /// Packets of different VLANs are of different streams.
    pub vlan_in_key: bool,
    /// Packets of different interfaces are of different flows.
    pub interface_in_key: bool,
    /// Copies of frames, as mirror ports make them, are left out; else they are counted in a sample of the frames.
    pub drop_duplicates: bool,
    /// Scores every packet, also of streams that are already decided.
    pub every_packet: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            pin: false,
            streams: 1 << 20,
            hosts: crate::trace::DEFAULT_HOSTS,
            idle: Duration::from_secs(600),
            active: None,
            closed: Duration::from_secs(60),
            vlan_in_key: true,
            interface_in_key: false,
            drop_duplicates: false,
            every_packet: false,
        }
    }
}

/// Destination of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Name in metrics and in the log; unique.
    pub name: String,
    /// Type of the destination and its address.
    pub kind: SinkKind,
    /// Types of events that are sent to it.
    pub events: Vec<EventType>,
    /// Format of the events.
    pub format: EventFormat,
    /// Capacity of its queue, in events; events that do not fit are dropped and counted.
    pub queue: usize,
}

/// Type of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields named as the settings are")]
pub enum SinkKind {
    /// JSON lines appended to a file, which is reopened on SIGHUP.
    File { path: PathBuf },
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines to a Unix stream socket on which the reader listens.
    Unix { path: PathBuf },
    /// One RFC 5424 message per event, to the datagram socket of the local syslog daemon.
    Syslog { socket: PathBuf, facility: Facility },
    /// The systemd journal, with structured fields.
    Journald,
    /// Messages to NATS JetStream, at the servers of [`FleetConfig`].
    Nats,
}

/// NATS servers that many sensors share, and the part of this sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetConfig {
    /// URLs of the servers: `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub servers: Vec<String>,
    /// Name of this sensor in subjects: letters, digits, `-` and `_`.
    pub sensor: String,
    /// NATS credentials file (a JWT and its seed).
    pub credentials: Option<PathBuf>,
    /// PEM file with the certificates of the authority that signed the servers' certificates; `None`: those of the system.
    pub ca_certificate: Option<PathBuf>,
    /// PEM files of the client's certificate and its key, for mutual TLS.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Folder of the events that no server has acknowledged; set if there is a sink of type `nats`.
    pub spool: Option<PathBuf>,
    /// Maximum size of the spool, in MiB.
    pub spool_mib: u64,
    /// Group of sensors whose models this sensor runs: letters, digits, `-` and `_`.
    pub group: String,
    /// Names of the models that it takes from the fleet; empty: none.
    pub models: Vec<String>,
    /// Folder of the last good copies of those models; set if there are any.
    pub model_folder: Option<PathBuf>,
    /// Public keys of minisign, in base64. One of them must have signed a model.
    pub trusted_keys: Vec<String>,
    /// Classes whose neurons this sensor publishes when live learning takes them over; empty: none.
    pub teaches: Vec<String>,
    /// Host and port at which Prometheus reaches the metrics of this sensor, as it reports them; `None`: they are for its own machine only.
    pub metrics_address: Option<String>,
    /// Trial of a model before it runs.
    pub canary: CanaryConfig,
}

/// Trial of a fleet's model on recent streams of the sensor before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryConfig {
    /// Largest share of the streams named by the running model that a new one may lose, 0 to 1.
    pub max_loss: f64,
    /// Fewest streams named by the running model with which a new one can be refused.
    pub min_streams: u64,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self { max_loss: 0.1, min_streams: 20 }
    }
}

/// Action for the streams of a class, optionally restricted to some addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Name of a class, or `*` for all classes.
    pub class: String,
    /// Name of the model that the policy applies to; `None`: all models.
    pub model: Option<String>,
    /// What to do with a matching stream.
    pub action: Action,
    /// Severity of the alert, for [`Action::Alert`].
    pub severity: Severity,
    /// BPF filter that the first packet of a stream must match.
    pub include_filter: Option<String>,
    /// BPF filter that the first packet of a stream must not match.
    pub exclude_filter: Option<String>,
    /// What the classification of a matching stream is based on; `None`: anything, except that ports without any payload raise no alert.
    pub basis: Option<Vec<Basis>>,
}

/// Rate limit of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Alerts per minute for each pair of class and host; 0: no limit.
    pub per_minute: u32,
    /// Capacity of the table of pairs of class and host.
    pub hosts: usize,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { per_minute: 10, hosts: 65_536 }
    }
}

/// Packet captures of the streams that raised alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// Folder of the pcapng files.
    pub folder: PathBuf,
    /// Packets kept of each stream, from its first on.
    pub packets: u32,
    /// Size in MiB at which a new file is started.
    pub file_mib: u64,
    /// Number of files kept; the oldest are removed.
    pub files: usize,
}

/// Settings common to all teachers.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningConfig {
    /// Folder of the learned neurons, one file per model, loaded at the start; `None`: they are not saved.
    pub folder: Option<PathBuf>,
    /// Minimum time between two training runs.
    pub every: Duration,
    /// Capacity of the training memory of each model, in volleys (the input spikes of one packet).
    pub volleys: usize,
    /// Minimum accuracy of a new neuron on held-out streams: the mean of the accuracy on streams of its class and of the accuracy
    /// on other streams, 0 to 1.
    pub min_accuracy: f64,
}

impl Default for LearningConfig {
    fn default() -> Self {
        Self { folder: None, every: Duration::from_secs(10), volleys: 32_768, min_accuracy: 0.8 }
    }
}

/// A class that is learned from live traffic, and the filter that labels its streams.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherConfig {
    /// Class to learn.
    pub class: String,
    /// Name of the model that learns; `None`: the first model.
    pub model: Option<String>,
    /// BPF filter: a stream whose first packet matches is of the class.
    pub filter: String,
    /// Slots that are masked in the input of the class's neuron.
    pub mask: Vec<String>,
    /// Maximum rate of training packets, per second.
    pub rate: f64,
    /// Learning rate (eta) of the learning rule.
    pub learning_rate: f64,
    /// Suspends learning.
    pub freeze: bool,
}

/// Format and level of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Format and destination of log lines.
    pub format: LogFormat,
    /// Least severe level that is logged.
    pub level: LogLevel,
}

/// Privileges and status file of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// User to switch to once sockets are open; `None`: the user that started the process.
    pub user: Option<String>,
    /// Drops capabilities, restricts file access to the folders of the settings (Landlock) and sets `no_new_privs`.
    pub harden: bool,
    /// File with the process id and the outcome of the last reload; `spiked reload` reads it.
    pub status_file: PathBuf,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { user: None, harden: true, status_file: PathBuf::from("/run/spiked/status.json") }
    }
}

/// HTTP server for metrics and the status page; it listens on the loopback address by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Address and port to listen on.
    pub address: SocketAddr,
    /// Host names that the page accepts in requests, in addition to IP addresses and `localhost`.
    pub names: Vec<String>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9184), names: Vec::new() }
    }
}

/// Whether a name can be one token of a subject of NATS.
pub(crate) fn is_token(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

impl Config {
    /// Reads and validates the settings in the file `path`, with `overrides` applied to it.
    ///
    /// # Errors
    /// The file can't be read, or the settings have mistakes: all of them are returned.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::from_text(path, &text, overrides)
    }

    /// Validates the settings in `text`, with `overrides` applied to it; `path` is used in messages only.
    ///
    /// # Errors
    /// The settings have mistakes: all of them are returned.
    pub fn from_text(path: &Path, text: &str, overrides: &[Override]) -> Result<Self, ConfigError> {
        validate::config(path, text, overrides)
    }
}
