//! Connects the receiver of the fleet's models to the daemon: its reload, its models and its counters.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::config::Config;
use crate::engine::Models;
use crate::export::status::{FleetStatus, Status};
use crate::fleet::models::SensorReport;
use crate::fleet::receiver::{Receiver, SensorHooks};

use super::state::DaemonState;

/// Time within which a reload must end.
const RELOAD: Duration = Duration::from_secs(30);

/// Starts the receiver if the settings name models of the fleet.
pub(super) fn start(config: &Config, state: &Arc<DaemonState>, models: &Arc<ArcSwap<Models>>) -> io::Result<Option<Receiver>> {
    let Some(fleet) = config.fleet.as_ref().filter(|fleet| !fleet.models.is_empty()) else { return Ok(None) };
    let status = Arc::new(Mutex::new(FleetStatus::default()));
    *state.fleet.lock() = Some(Arc::clone(&status));
    let (reloads, reports, models) = (Arc::clone(state), Arc::clone(state), Arc::clone(models));
    let metrics = config.metrics.as_ref().map(|metrics| metrics.address.to_string());
    let hooks = SensorHooks {
        reload: Box::new(move || reload(&reloads)),
        running: Box::new(move |name| models.load().iter().find(|model| model.name == name).cloned()),
        report: Box::new(move || report(&reports.status(), metrics.clone())),
    };
    Receiver::start(fleet, hooks, status).map(Some)
}

/// Requests a reload and waits for its end.
fn reload(state: &DaemonState) -> Result<(), String> {
    let count = || {
        let reloads = state.reloads.lock();
        (reloads.succeeded + reloads.failed, reloads.last_error.clone())
    };
    let (before, _) = count();
    state.reload_request.notify_one();
    let deadline = Instant::now() + RELOAD;
    while Instant::now() < deadline && !state.stop.load(Relaxed) {
        let (now, error) = count();
        if now > before {
            return error.map_or(Ok(()), Err);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the reload did not end in time".into())
}

fn report(status: &Status, metrics: Option<String>) -> SensorReport {
    let input_errors = status.interfaces.iter().map(|interface| &interface.last_error);
    let errors = input_errors.chain(status.sinks.iter().map(|sink| &sink.last_error)).chain([&status.reloads.last_error]);
    SensorReport {
        drops: status.interfaces.iter().flat_map(|interface| interface.dropped.values()).sum(),
        last_error: errors.flatten().next().cloned(),
        metrics,
        ..SensorReport::default()
    }
}
