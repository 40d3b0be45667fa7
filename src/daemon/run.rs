//! Start and end of the daemon. The order matters: first the steps that need privileges, then the privileges are dropped, and only
//! then threads are started, which inherit what is left.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::capture::InputCounters;
use crate::capture::live::{LiveSource, QueueDepth};
use crate::capture::replay::ReplaySource;
use crate::capture::watch::WatchSource;
use crate::capture::{CaptureError, Duplicates, InterfaceNames, Source};
use crate::config::{self, Config, ConfigError, Input, SinkKind};
use crate::engine::{self, Counters};
use crate::export::evidence::{self, Evidence};
use crate::export::http::{self, HttpError, Server};
use crate::export::sink::{self, SinkError, SinkHandle, Target};
use crate::export::{Metrics, StatusProvider};
use crate::packet::Decoder;
use crate::stream::StreamLimits;

use super::harden::{FolderReplaced, UserError, harden};
use super::observer::EventObserver;
use super::preflight::{Preflight, preflight};
use super::reload::Reloader;
use super::state::DaemonState;
use super::status_file::StatusFile;
use super::supervisor::{self, Signals};
use super::teaching::{self, LearningContext, SharedLearning};
use super::{ConfigSource, PendingUpdate, log, notify};

/// Timeout for flushing the sinks, once the engine has ended.
const CLOSE: Duration = Duration::from_secs(2);

/// Error of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The settings do not fit this system.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The source cannot be opened.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The HTTP server cannot start.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The user to run as cannot be found.
    #[error(transparent)]
    User(#[from] UserError),
    /// The journal cannot be opened.
    #[error("can't log to the journal: {0}; set log.format to text or json")]
    Log(#[source] io::Error),
    /// The evidence folder cannot be written to.
    #[error("{}: can't write evidence there: {source}", folder.display())]
    Evidence {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused something that the start needs.
    #[error("can't start: {0}")]
    Start(#[from] io::Error),
    /// A folder was replaced while the daemon ran.
    #[error(transparent)]
    FolderReplaced(#[from] FolderReplaced),
}

/// Outcome of a run.
#[derive(Clone, Debug)]
pub struct End {
    /// Counters of the engine.
    pub counters: Counters,
    /// Frames lost between the interfaces and the engine.
    pub dropped: u64,
    /// The input was a replay, which ends by itself.
    pub finite: bool,
}

/// Source of frames.
enum Frames {
    Live(LiveSource),
    Replay(ReplaySource),
    Watch(WatchSource),
}

impl Frames {
    fn open(config: &Config, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        Ok(match &config.input {
            Input::Interfaces(interfaces) => Self::Live(LiveSource::open(interfaces, &config.capture, stop)?),
            Input::Replay(replay) => Self::Replay(ReplaySource::open(replay, config.engine.idle, stop)?),
            Input::Watch(watch) => Self::Watch(WatchSource::open(watch, stop)?),
        })
    }

    fn counters(&self) -> Vec<Arc<InputCounters>> {
        match self {
            Self::Live(live) => live.counters().to_vec(),
            Self::Replay(replay) => vec![Arc::clone(replay.counters())],
            Self::Watch(watch) => vec![Arc::clone(watch.counters())],
        }
    }

    /// Names of the interfaces that frames come in by: those of the settings, or those that captures name.
    fn interfaces(&self) -> Arc<InterfaceNames> {
        match self {
            Self::Live(live) => Arc::new(InterfaceNames::of(live.counters().iter().map(|counters| counters.name.as_str()))),
            Self::Replay(replay) => Arc::clone(replay.interfaces()),
            Self::Watch(watch) => Arc::clone(watch.interfaces()),
        }
    }

    fn depth(&self) -> Option<QueueDepth> {
        match self {
            Self::Live(live) => Some(live.depth()),
            Self::Replay(_) | Self::Watch(_) => None,
        }
    }

    /// Frames lost between the interfaces and the engine.
    fn dropped(&self) -> u64 {
        let of =
            |c: &Arc<InputCounters>| c.kernel_drops.load(Relaxed) + c.interface_drops.load(Relaxed) + c.queue_drops.load(Relaxed);
        self.counters().iter().map(of).sum()
    }

    fn start(&mut self) -> io::Result<()> {
        match self {
            Self::Live(live) => live.start(),
            Self::Replay(_) | Self::Watch(_) => Ok(()),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Live(live) => live,
            Self::Replay(replay) => replay,
            Self::Watch(watch) => watch,
        }
    }
}

fn engine_settings(config: &Config, preflight: &Preflight) -> engine::EngineSettings {
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let mut settings = engine::EngineSettings::new(preflight.models.clone());
    let engine = &config.engine;
    settings.intake.decoder = Decoder::with_tunnels(config.tunnels);
    settings.limits = StreamLimits {
        streams: engine.streams,
        idle: nanos(engine.idle),
        active: engine.active.map_or(u64::MAX, nanos),
        closed: nanos(engine.closed),
    };
    settings.hosts = engine.hosts;
    if engine.workers > 0 {
        settings.workers = engine.workers;
    }
    settings.pin = engine.pin;
    settings.intake.vlan_in_key = engine.vlan_in_key;
    settings.intake.interface_in_key = engine.interface_in_key;
    settings.every_packet = engine.every_packet;
    settings.keep_packets = config.evidence.as_ref().map_or(0, |e| e.packets);
    settings
}

fn target(kind: &SinkKind, config: &Config) -> Result<Target, DaemonError> {
    Ok(match kind {
        SinkKind::File { path } => Target::File(path.clone()),
        SinkKind::Stdout => Target::Stdout,
        SinkKind::Unix { path } => Target::Socket(path.clone()),
        SinkKind::Syslog { socket, facility } => Target::Syslog { socket: socket.clone(), facility: *facility as u8 },
        SinkKind::Journald => Target::Journald(sink::JOURNALD.into()),
        SinkKind::Nats => nats_target(config)?,
    })
}

/// The target of a sink of type "nats"; validated settings have it only in programs with the feature.
fn nats_target(config: &Config) -> Result<Target, DaemonError> {
    #[cfg(feature = "fleet")]
    if let Some(fleet) = &config.fleet {
        return Ok(Target::Nats(Box::new(fleet.clone())));
    }
    let mistake = config.places.mistake("fleet.servers", "a sink of type \"nats\" needs fleet.servers; set it".into());
    Err(ConfigError::Mistakes { mistakes: vec![mistake], rest: None }.into())
}

fn evidence(config: &config::EvidenceConfig) -> Result<Evidence, DaemonError> {
    let options = evidence::Options { folder: config.folder.clone(), file_bytes: config.file_mib << 20, files: config.files };
    Evidence::start(options).map_err(|source| DaemonError::Evidence { folder: config.folder.clone(), source })
}

/// Waits until the learning thread has ended: for its last training run if the input has ended, and only briefly if a signal asked
/// for the end. Its files are complete at any time.
fn wait_for(learning: &JoinHandle<()>, state: &DaemonState) {
    let mut stopping = None;
    while !learning.is_finished() {
        if state.stop.load(Relaxed) && stopping.get_or_insert_with(Instant::now).elapsed() > CLOSE / 2 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Creates the metrics, which read the rest of their values from the daemon's state.
fn start_metrics(state: &Arc<DaemonState>) -> Arc<Metrics> {
    let state = Arc::clone(state);
    let status: StatusProvider = Arc::new(move || state.status());
    Arc::new(Metrics::new(status))
}

/// Starts the sinks and the evidence writer.
fn start_outputs(config: &Config, state: &DaemonState) -> Result<(), DaemonError> {
    let start = |s: &config::SinkConfig| Ok(SinkHandle::start(&s.name, &target(&s.kind, config)?, s.queue)?);
    let sinks: Result<Vec<SinkHandle>, DaemonError> = config.sinks.iter().map(start).collect();
    *state.sinks.lock() = sinks?;
    *state.evidence.lock() = config.evidence.as_ref().map(evidence).transpose()?;
    Ok(())
}

/// What the observer calls after the first batch: the daemon is ready.
fn on_ready(state: &Arc<DaemonState>, address: Option<SocketAddr>) -> Box<dyn FnOnce()> {
    let state = Arc::clone(state);
    Box::new(move || {
        state.ready.store(true, Relaxed);
        notify::ready(&state.summary());
        match address {
            Some(address) => info!("ready; http://{address}/"),
            None => info!("ready"),
        }
    })
}

/// Closes the sinks and the evidence writer, and logs what they wrote and lost.
fn close_outputs(state: &DaemonState) {
    let deadline = Instant::now() + CLOSE;
    let sinks = std::mem::take(&mut *state.sinks.lock());
    for last in sinks.into_iter().map(|sink| sink.close(deadline)) {
        let lost: u64 = last.dropped.values().sum();
        info!(sink = last.name, written = last.written, lost, "sink closed");
    }
    let evidence = state.evidence.lock().take();
    if let Some(last) = evidence.map(Evidence::close) {
        info!(written = last.written, lost = last.dropped + last.failed, "evidence closed");
    }
}

fn remove_status_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(file = %path.display(), %error, "can't remove the status file");
    }
}

/// Runs the daemon until its input ends or a signal stops it.
///
/// # Errors
/// The daemon can't start. Once it runs, errors are logged and counted, and it goes on; the exception is a replaced folder
/// ([`DaemonError::FolderReplaced`]) and an input that can't be read ([`DaemonError::Capture`]).
pub fn run(config: Config, source: ConfigSource) -> Result<End, DaemonError> {
    let level = log::start(config.log).map_err(DaemonError::Log)?;
    let mut preflight = preflight(&config, true)?;
    preflight.warnings.iter().for_each(|warning| warn!("{warning}"));
    let learning = Arc::new(SharedLearning::restore(&config.learning, &preflight.models));
    let loaded = learning.hold().apply(&mut preflight.models);
    let mut settings = engine_settings(&config, &preflight);
    let signals = Signals::catch()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut frames = Frames::open(&config, &stop)?;
    let listener = config.metrics.as_ref().map(|m| http::bind(m.address)).transpose()?;
    let (counters, depth) = (frames.counters(), frames.depth());
    let state = Arc::new(DaemonState::new(&config.sensor, settings.workers, counters, depth, stop, Arc::clone(&learning)));
    *state.loaded.lock() = loaded;

    let (steps, confined) = harden(&config, &source.path)?;
    steps.iter().for_each(|step| info!("hardening: {step}"));
    *state.hardening.lock() = steps;

    let metrics = start_metrics(&state);
    metrics.models(&preflight.models);
    let names = config.metrics.as_ref().map_or_else(Vec::new, |m| m.names.clone());
    let server = listener.map(|l| Server::serve(l, Arc::clone(&metrics), names)).transpose()?;
    start_outputs(&config, &state)?;
    frames.start()?;
    let new_policies = Arc::new(PendingUpdate::default());
    let reloader = Reloader {
        status_file: StatusFile::new(&source.path),
        source,
        config: config.clone(),
        state: Arc::clone(&state),
        metrics: Some(Arc::clone(&metrics)),
        models: Arc::clone(&settings.models),
        new_policies: Arc::clone(&new_policies),
        level,
    };
    reloader.write_status_file();
    #[cfg(feature = "fleet")]
    let (parts, on_accepted) = super::fleet::start_parts(&config)?.unzip();
    #[cfg(feature = "fleet")]
    let recent = super::fleet::recent_streams(&config);
    #[cfg(not(feature = "fleet"))]
    let (on_accepted, recent) = (None, None);
    #[cfg(feature = "fleet")]
    let trial_streams = recent.clone();
    let (tap, learning) = teaching::start(LearningContext {
        config: config.learning.clone(),
        teachers: config.teachers.clone(),
        models: Arc::clone(&settings.models),
        teaching: learning,
        state: Arc::clone(&state),
        metrics: Some(Arc::clone(&metrics)),
        on_accepted,
        recent,
    })?;
    settings.tap = Some(tap);
    let supervisor = supervisor::start(signals, reloader, confined)?;
    #[cfg(feature = "fleet")]
    let receiver = super::fleet::start(&config, &state, &settings.models, trial_streams.as_ref())?;

    let ready = on_ready(&state, server.as_ref().map(Server::address));
    let policies = (preflight.policies, config.alerts.clone());
    let interfaces = frames.interfaces();
    let mut observer =
        EventObserver::new(Arc::clone(&state), Some(metrics), new_policies, policies, &config.sinks, interfaces, ready);
    let inputs = frames.counters();
    let mut source = Duplicates::new(frames.source(), config.engine.drop_duplicates).counted_in(&inputs);
    let counters = engine::run(&settings, &mut source, &mut observer);

    // Dropping the settings drops the tap, which ends the learning thread.
    drop(settings);
    #[cfg(feature = "fleet")]
    drop(receiver);
    wait_for(&learning, &state);
    #[cfg(feature = "fleet")]
    drop(parts);
    let (summary, dropped) = (state.summary(), frames.dropped());
    drop(frames);
    close_outputs(&state);
    state.done.store(true, Relaxed);
    let replaced = supervisor.join().ok().flatten();
    drop(server);
    remove_status_file(&config.process.status_file);
    info!("ended: {summary}");
    if let Some(error) = replaced {
        return Err(error.into());
    }
    Ok(End { counters: counters?, dropped, finite: matches!(config.input, Input::Replay(_)) })
}
