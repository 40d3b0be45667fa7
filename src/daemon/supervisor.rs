//! Supervisor thread: handles signals and reloads, feeds systemd's watchdog while all workers make progress, and bounds the shutdown.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::harden::{Confinement, FolderReplaced};
use super::notify;
use super::reload::Reloader;
use super::state::DaemonState;

/// Interval of checks without signals.
const TICK: Duration = Duration::from_millis(250);
/// Interval of status notifications to systemd.
const STATUS: Duration = Duration::from_secs(10);
/// Timeout of the shutdown, from the signal on.
pub(super) const END: Duration = Duration::from_millis(4500);
/// Exit code if the shutdown was cut short: some events were not written.
const CUT_SHORT: i32 = 1;

/// Signal handlers, installed by [`Signals::catch`] and consumed by [`start`].
pub(super) struct Signals {
    runtime: Runtime,
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the signal handlers. Starts no thread.
    pub fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (hangup, user) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { runtime, hangup, user, terminate, interrupt })
    }
}

/// Event that wakes the supervisor.
enum CaughtSignal {
    Reload,
    Summary,
    Stop,
    Tick,
}

/// Starts the thread. It ends when the state is done, and returns the replaced folder if that was the reason for the shutdown.
pub(super) fn start(
    signals: Signals,
    reloader: Reloader,
    confined: Confinement,
) -> io::Result<JoinHandle<Option<FolderReplaced>>> {
    std::thread::Builder::new().name("spiked-control".into()).spawn(move || supervise(signals, reloader, &confined))
}

fn supervise(signals: Signals, mut reloader: Reloader, confined: &Confinement) -> Option<FolderReplaced> {
    let Signals { runtime, mut hangup, mut user, mut terminate, mut interrupt } = signals;
    let state = Arc::clone(&reloader.state);
    let watchdog = notify::watchdog_interval();
    let (mut next_ping, mut next_status) = (Instant::now(), Instant::now() + STATUS);
    let mut end = None;
    let mut replaced = None;
    let mut stuck = false;
    while !state.done.load(Relaxed) {
        let what = runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => CaughtSignal::Reload,
                () = state.reload_request.notified() => CaughtSignal::Reload,
                _ = user.recv() => CaughtSignal::Summary,
                _ = terminate.recv() => CaughtSignal::Stop,
                _ = interrupt.recv() => CaughtSignal::Stop,
                () = tokio::time::sleep(TICK) => CaughtSignal::Tick,
            }
        });
        match what {
            CaughtSignal::Reload if !reloader.stopping() => reloader.reload(),
            CaughtSignal::Summary => summary(&reloader),
            CaughtSignal::Stop if end.is_none() => end = Some(stop(&state)),
            CaughtSignal::Stop => {
                error!("second signal: exiting at once, unwritten events are lost");
                std::process::exit(CUT_SHORT);
            }
            CaughtSignal::Tick if end.is_none() => {
                if let Err(error) = confined.check() {
                    error!("{error}");
                    replaced = Some(error);
                    end = Some(stop(&state));
                }
            }
            CaughtSignal::Reload | CaughtSignal::Tick => {}
        }
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            error!("shutdown timed out: exiting at once, unwritten events are lost");
            std::process::exit(CUT_SHORT);
        }
        let problem = state.unhealthy();
        if problem.is_some() != stuck {
            stuck = problem.is_some();
            match &problem {
                Some(problem) => error!("{problem}; watchdog notifications are suspended"),
                None => warn!("all workers are making progress again"),
            }
        }
        if let Some(interval) = watchdog
            && problem.is_none()
            && now >= next_ping
        {
            notify::watchdog();
            next_ping = now + interval / 3;
        }
        if now >= next_status {
            notify::status(&state.summary());
            next_status = now + STATUS;
        }
    }
    replaced
}

/// Requests the shutdown; returns its deadline.
fn stop(state: &DaemonState) -> Instant {
    info!("shutting down: draining queues, flushing events");
    notify::stopping();
    state.stop.store(true, Relaxed);
    Instant::now() + END
}

/// Logs the state, on SIGUSR1.
fn summary(reloader: &Reloader) {
    let status = reloader.state.status();
    info!("state: {}", reloader.state.summary());
    for interface in &status.interfaces {
        let (up, dropped) = (interface.up, &interface.dropped);
        let last_error = interface.last_error.as_deref().unwrap_or("none");
        info!(interface = interface.name, up, received = interface.received, ?dropped, last_error, "state of an input");
    }
    for sink in &status.sinks {
        let last_error = sink.last_error.as_deref().unwrap_or("none");
        info!(sink = sink.name, written = sink.written, dropped = ?sink.dropped, queued = sink.queued, last_error, "state of a sink");
    }
    for model in &status.models {
        info!(model = model.model.name, checksum = model.checksum, classes = model.model.classes.len(), "state of a model");
    }
}
