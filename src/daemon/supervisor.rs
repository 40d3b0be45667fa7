//! Who looks after the daemon? One thread that takes signals, reloads, tells systemd that all workers move, and sees to the end.

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

/// How often the state is looked at where nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// How often systemd is told how all is.
const STATUS: Duration = Duration::from_secs(10);
/// From the signal to the end, at the latest.
pub(super) const END: Duration = Duration::from_millis(4500);
/// The exit code where the end came so: a part was not written.
const CUT_SHORT: i32 = 1;

/// Signals, caught from now on; taken by [`start`].
pub(super) struct Signals {
    runtime: Runtime,
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals. Starts no thread.
    pub fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (hangup, user) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { runtime, hangup, user, terminate, interrupt })
    }
}

enum CaughtSignal {
    Reload,
    Summary,
    Stop,
    Tick,
}

/// Starts the thread; it ends when the state says that all is done, and tells of the folder that was made anew, where that was
/// the end.
pub(super) fn start(
    signals: Signals,
    reloader: Reloader,
    confined: Confinement,
) -> io::Result<JoinHandle<Option<FolderReplaced>>> {
    std::thread::Builder::new().name("spiked-keeper".into()).spawn(move || keep(signals, reloader, &confined))
}

fn keep(signals: Signals, mut reloader: Reloader, confined: &Confinement) -> Option<FolderReplaced> {
    let Signals { runtime, mut hangup, mut user, mut terminate, mut interrupt } = signals;
    let state = Arc::clone(&reloader.state);
    let watchdog = notify::watchdog_interval();
    let (mut next_ping, mut next_status) = (Instant::now(), Instant::now() + STATUS);
    let mut end = None;
    let mut made_anew = None;
    let mut stuck = false;
    while !state.done.load(Relaxed) {
        let what = runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => CaughtSignal::Reload,
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
                error!("a second signal to stop: ending at once, what was not written is lost");
                std::process::exit(CUT_SHORT);
            }
            CaughtSignal::Tick if end.is_none() => {
                if let Err(error) = confined.check() {
                    error!("{error}");
                    made_anew = Some(error);
                    end = Some(stop(&state));
                }
            }
            CaughtSignal::Reload | CaughtSignal::Tick => {}
        }
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            error!("could not end in time: ending at once, what was not written is lost");
            std::process::exit(CUT_SHORT);
        }
        let trouble = state.unhealthy();
        if trouble.is_some() != stuck {
            stuck = trouble.is_some();
            match &trouble {
                Some(trouble) => error!("{trouble}; the watchdog is told nothing until it moves"),
                None => warn!("all workers move again"),
            }
        }
        if let Some(interval) = watchdog
            && trouble.is_none()
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
    made_anew
}

/// Asks all to end; returns when they must have.
fn stop(state: &DaemonState) -> Instant {
    info!("stopping: taking what was captured, writing what is known");
    notify::stopping();
    state.stop.store(true, Relaxed);
    Instant::now() + END
}

/// What SIGUSR1 asks for.
fn summary(reloader: &Reloader) {
    let status = reloader.state.status();
    info!("state: {}", reloader.state.summary());
    for interface in &status.interfaces {
        let (up, dropped) = (interface.up, &interface.dropped);
        let trouble = interface.last_error.as_deref().unwrap_or("none");
        info!(interface = interface.name, up, received = interface.received, ?dropped, trouble, "state of an input");
    }
    for sink in &status.sinks {
        let trouble = sink.last_error.as_deref().unwrap_or("none");
        info!(sink = sink.name, written = sink.written, dropped = ?sink.dropped, queued = sink.queued, trouble, "state of a sink");
    }
    for model in &status.models {
        info!(model = model.model.name, checksum = model.checksum, classes = model.model.classes.len(), "state of a model");
    }
}
