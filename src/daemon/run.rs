//! From settings to a running daemon, and to its end. The order matters: what needs privileges first, then they are given up, and
//! only then do threads start, which inherit what is left.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::capture::live::{InputCounters, LiveSource, QueueDepth};
use crate::capture::replay::ReplaySource;
use crate::capture::watch::WatchSource;
use crate::capture::{CaptureError, Source};
use crate::config::{self, Config, Input, SinkKind};
use crate::engine::{self, Counters};
use crate::export::evidence::{self, Evidence};
use crate::export::http::{self, HttpError, Server};
use crate::export::sink::{self, SinkError, SinkHandle, Target};
use crate::export::{Metrics, StatusProvider};
use crate::packet::Decoder;
use crate::stream::StreamLimits;

use super::harden::{FolderReplaced, UserError, harden};
use super::mailbox::Mailbox;
use super::observer::EventObserver;
use super::preflight::{Preflight, preflight};
use super::reload::Reloader;
use super::state::{DaemonState, lock};
use super::status_file::StatusFile;
use super::supervisor::{self, Signals};
use super::teaching::{self, LearningContext, SharedLearning};
use super::{ConfigSource, log, notify};

/// How long sinks may write what is left, once the engine has ended.
const CLOSE: Duration = Duration::from_secs(2);

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("can't log to the journal: {0}; set log.format to text or json")]
    Log(#[source] io::Error),
    #[error("{}: can't keep evidence there: {source}", folder.display())]
    Evidence { folder: PathBuf, source: io::Error },
    #[error("can't start: {0}")]
    Start(#[from] io::Error),
    #[error(transparent)]
    FolderReplaced(#[from] FolderReplaced),
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct End {
    pub counters: Counters,
    /// Frames lost on the way to the engine.
    pub dropped: u64,
    /// The input was one that ends of itself.
    pub finite: bool,
}

/// Any of the sources.
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

    fn depth(&self) -> Option<QueueDepth> {
        match self {
            Self::Live(live) => Some(live.depth()),
            Self::Replay(_) | Self::Watch(_) => None,
        }
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

fn engine_settings(config: &Config, examined: &Preflight) -> engine::EngineSettings {
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let mut settings = engine::EngineSettings::new(examined.models.clone());
    let engine = &config.engine;
    settings.decoder = Decoder { open_tunnels: engine.tunnels };
    settings.limits = StreamLimits {
        streams: engine.streams,
        idle: nanos(engine.idle),
        active: engine.active.map_or(u64::MAX, nanos),
        closed: nanos(engine.closed),
    };
    if engine.workers > 0 {
        settings.workers = engine.workers;
    }
    settings.pin = engine.pin;
    settings.every_packet = engine.every_packet;
    settings.keep_packets = config.evidence.as_ref().map_or(0, |e| e.packets);
    settings
}

fn target(kind: &SinkKind) -> Target {
    match kind {
        SinkKind::File { path } => Target::File(path.clone()),
        SinkKind::Stdout => Target::Stdout,
        SinkKind::Unix { path } => Target::Socket(path.clone()),
        SinkKind::Syslog { socket, facility } => Target::Syslog { socket: socket.clone(), facility: *facility as u8 },
        SinkKind::Journald => Target::Journald(sink::JOURNALD.into()),
    }
}

fn evidence(config: &config::EvidenceConfig) -> Result<Evidence, DaemonError> {
    let options = evidence::Options { folder: config.folder.clone(), file_bytes: config.file_mib << 20, files: config.files };
    Evidence::start(options).map_err(|source| DaemonError::Evidence { folder: config.folder.clone(), source })
}

/// Waits until the teaching thread has ended: for a last lesson where the input has ended, and not for long where a signal asks for
/// the end. Whenever it goes, its files are whole.
fn wait_for(spec: &JoinHandle<()>, state: &DaemonState) {
    let mut stopping = None;
    while !spec.is_finished() {
        if state.stop.load(Relaxed) && stopping.get_or_insert_with(Instant::now).elapsed() > CLOSE / 2 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs until its input ends or a signal ends it.
///
/// # Errors
/// Where it can't start. Once it runs, troubles are logged, counted and survived.
pub fn run(config: Config, origin: ConfigSource) -> Result<End, DaemonError> {
    let level = log::start(config.log).map_err(DaemonError::Log)?;
    let mut examined = preflight(&config).map_err(DaemonError::Settings)?;
    examined.warnings.iter().for_each(|warning| warn!("{warning}"));
    let teaching = Arc::new(SharedLearning::restore(&config.learning, &examined.models));
    let loaded = teaching.hold().apply(&mut examined.models);
    let mut settings = engine_settings(&config, &examined);
    let signals = Signals::catch()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut frames = Frames::open(&config, &stop)?;
    let listener = config.metrics.as_ref().map(|m| http::bind(m.address)).transpose()?;
    let (counters, depth) = (frames.counters(), frames.depth());
    let state = Arc::new(DaemonState::new(&config.sensor, settings.workers, counters, depth, stop, Arc::clone(&teaching)));
    *lock(&state.loaded) = loaded;

    let (steps, confined) = harden(&config, &origin.path)?;
    steps.iter().for_each(|step| info!("hardening: {step}"));
    *lock(&state.hardening) = steps;

    let metrics = Arc::new(Metrics::new({
        let state = Arc::clone(&state);
        let ask: StatusProvider = Arc::new(move || state.status());
        ask
    }));
    metrics.models(&examined.models);
    let names = config.metrics.as_ref().map_or_else(Vec::new, |m| m.names.clone());
    let server = listener.map(|l| Server::serve(l, Arc::clone(&metrics), names)).transpose()?;
    let sinks: Result<Vec<SinkHandle>, SinkError> =
        config.sinks.iter().map(|s| SinkHandle::start(&s.name, &target(&s.kind), s.queue)).collect();
    *lock(&state.sinks) = sinks?;
    *lock(&state.evidence) = config.evidence.as_ref().map(evidence).transpose()?;
    frames.start()?;
    let mailbox = Arc::new(Mailbox::default());
    let reloader = Reloader {
        announcement: StatusFile::new(&origin.path),
        origin,
        config: config.clone(),
        state: Arc::clone(&state),
        metrics: Some(Arc::clone(&metrics)),
        models: Arc::clone(&settings.models),
        mailbox: Arc::clone(&mailbox),
        level,
    };
    reloader.announce();
    let desk = LearningContext {
        config: config.learning.clone(),
        teachers: config.teachers.clone(),
        models: Arc::clone(&settings.models),
        teaching,
        state: Arc::clone(&state),
        metrics: Some(Arc::clone(&metrics)),
    };
    let (tap, spec) = teaching::start(desk)?;
    settings.tap = Some(tap);
    let keeper = supervisor::start(signals, reloader, confined)?;

    let ready = {
        let (state, address) = (Arc::clone(&state), server.as_ref().map(Server::address));
        Box::new(move || {
            state.ready.store(true, Relaxed);
            notify::ready(&state.summary());
            match address {
                Some(address) => info!("ready; http://{address}/"),
                None => info!("ready"),
            }
        })
    };
    let policies = (examined.policies, config.alerts.clone());
    let mut teller = EventObserver::new(Arc::clone(&state), Some(metrics), mailbox, policies, &config.sinks, ready);
    let counters = engine::run(&settings, frames.source(), &mut teller);

    drop(settings);
    wait_for(&spec, &state);

    let summary = state.summary();
    let dropped = frames
        .counters()
        .iter()
        .map(|c| c.kernel_drops.load(Relaxed) + c.interface_drops.load(Relaxed) + c.queue_drops.load(Relaxed))
        .sum();
    drop(frames);
    let deadline = Instant::now() + CLOSE;
    let sinks = std::mem::take(&mut *lock(&state.sinks));
    for last in sinks.into_iter().map(|sink| sink.close(deadline)) {
        let lost: u64 = last.dropped.values().sum();
        info!(sink = last.name, written = last.written, lost, "sink closed");
    }
    let kept = lock(&state.evidence).take();
    if let Some(last) = kept.map(Evidence::close) {
        info!(written = last.written, lost = last.dropped + last.failed, "evidence closed");
    }
    state.done.store(true, Relaxed);
    let made_anew = keeper.join().ok().flatten();
    drop(server);
    if let Err(error) = std::fs::remove_file(&config.process.status_file)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(file = %config.process.status_file.display(), %error, "can't remove the status file");
    }
    info!("ended: {summary}");
    if let Some(error) = made_anew {
        return Err(error.into());
    }
    Ok(End { counters: counters?, dropped, finite: matches!(config.input, Input::Replay(_)) })
}
