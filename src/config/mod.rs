//! What was it told? The settings as typed ([`typed`]), then as they run ([`Config`]).
//!
//! Input: a TOML file, `SPIKED_...` variables, `--set key=value`, later ones winning. Output: a [`Config`], or every mistake at
//! once with its place and what to do. `config/spiked.toml` documents each key; a test holds it to the code.

pub mod raw;
mod text;
mod validate;

pub use raw::{Action, EventType, Facility, LogFormat, LogLevel, Severity};
pub use text::{Mistake, Override, keys};

pub use crate::capture::live::{InterfaceSettings, LiveSettings};
pub use crate::capture::replay::ReplaySettings;
pub use crate::capture::watch::{Disposition, WatchSettings};

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: can't read the settings: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", list(mistakes))]
    Mistakes { mistakes: Vec<Mistake> },
}

fn list(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(|m| m.to_string()).collect();
    format!("{} in the settings:\n{}", if lines.len() == 1 { "a mistake" } else { "mistakes" }, lines.join("\n"))
}

/// The settings, as they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What events and metrics call this sensor.
    pub sensor: String,
    pub models: Vec<ModelSource>,
    pub input: Input,
    pub capture: LiveSettings,
    pub engine: EngineConfig,
    pub sinks: Vec<SinkConfig>,
    /// Where metrics and the page are served; `None`: nowhere.
    pub metrics: Option<MetricsConfig>,
    /// In the order of the file: the first that fits counts.
    pub policies: Vec<PolicyConfig>,
    pub alerts: AlertsConfig,
    pub evidence: Option<EvidenceConfig>,
    pub learning: LearningConfig,
    pub teachers: Vec<TeacherConfig>,
    pub log: LogConfig,
    pub process: ProcessConfig,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The protocols model built into the program.
    BuiltIn,
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

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Interfaces(Vec<InterfaceSettings>),
    Replay(ReplaySettings),
    Watch(WatchSettings),
}

/// How much the engine may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Worker threads; 0: one for each CPU that is allowed.
    pub workers: usize,
    /// Each worker stays on one CPU.
    pub pin: bool,
    /// Streams remembered at once, for each model.
    pub streams: usize,
    pub idle: Duration,
    /// `None`: however long it lives.
    pub active: Option<Duration>,
    pub closed: Duration,
    /// Look into GRE, VXLAN and IP-in-IP.
    pub tunnels: bool,
    pub every_packet: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            pin: false,
            streams: 1 << 20,
            idle: Duration::from_secs(600),
            active: None,
            closed: Duration::from_secs(60),
            tunnels: true,
            every_packet: false,
        }
    }
}

/// Somebody who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// What metrics and log call it; unique.
    pub name: String,
    pub kind: SinkKind,
    pub events: Vec<EventType>,
    /// Events that may wait; beyond it they are dropped and counted.
    pub queue: usize,
}

/// How a sink is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// JSON lines appended to a file, which is reopened at SIGHUP.
    File { path: PathBuf },
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines to a Unix stream socket on which somebody listens.
    Unix { path: PathBuf },
    /// One RFC 5424 message an event, to the local syslog's datagram socket.
    Syslog { socket: PathBuf, facility: Facility },
    /// systemd's journal, with fields.
    Journald,
}

/// What is done about a class, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// A class's name, or `*` for all.
    pub class: String,
    /// Name of the model it is meant for; `None`: all models.
    pub model: Option<String>,
    pub action: Action,
    pub severity: Severity,
    /// BPF expression that a stream's first packet must fit.
    pub only: Option<String>,
    /// BPF expression that a stream's first packet must not fit.
    pub unless: Option<String>,
}

/// Bounds of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Alerts a minute for each class and host; 0: no limit.
    pub per_minute: u32,
    /// Pairs of class and host that are remembered at once.
    pub hosts: usize,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { per_minute: 10, hosts: 65_536 }
    }
}

/// Captures of streams that gave rise to alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceConfig {
    pub folder: PathBuf,
    /// First packets of each stream.
    pub packets: u32,
    /// A new file is begun beyond so many MiB.
    pub file_mib: u64,
    /// The oldest file is removed beyond so many.
    pub files: usize,
}

/// What holds for all teachers.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningConfig {
    /// Where what was learned is kept, a file for each model, and read again at the start; `None`: nowhere.
    pub folder: Option<PathBuf>,
    /// Least time from one try to make better neurons to the next.
    pub every: Duration,
    /// Volleys of each model that are remembered to learn from.
    pub volleys: usize,
    /// Accuracy on streams held back, the mean of the class's own and of others, below which no neuron is taken over.
    pub gate: f64,
}

impl Default for LearningConfig {
    fn default() -> Self {
        Self { folder: None, every: Duration::from_secs(10), volleys: 32_768, gate: 0.8 }
    }
}

/// Who teaches a class while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherConfig {
    pub class: String,
    /// Name of the model that learns; `None`: the first.
    pub model: Option<String>,
    /// BPF expression: the streams whose first packet fits are of the class.
    pub filter: String,
    /// Slots that the class's neuron does not look at.
    pub without: Vec<String>,
    /// Packets a second that are taught at most.
    pub rate: f64,
    /// Eta of the rule.
    pub learning_rate: f64,
    /// Learn nothing for the time being.
    pub freeze: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// What the process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// The user to become once sockets are open.
    pub user: Option<String>,
    /// Drop capabilities, confine the process to the folders of the settings, forbid new privileges.
    pub harden: bool,
    /// Where the daemon says who it is and how its last reload went; `spiked reload` reads it.
    pub status_file: PathBuf,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { user: None, harden: true, status_file: PathBuf::from("/run/spiked/status.json") }
    }
}

/// Where metrics and the page are served: to this machine alone by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    pub address: SocketAddr,
    /// Names by which browsers may ask for the page, besides addresses and localhost.
    pub names: Vec<String>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9184), names: Vec::new() }
    }
}

impl Config {
    /// Reads and validates settings.
    ///
    /// # Errors
    /// The file can't be read, or every mistake in it.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::from_text(path, &text, overrides)
    }

    /// As [`Config::load`], of a text; `path` is for messages.
    ///
    /// # Errors
    /// Every mistake.
    pub fn from_text(path: &Path, text: &str, overrides: &[Override]) -> Result<Self, ConfigError> {
        validate::config(path, text, overrides)
    }
}
