//! Connects the thread that takes the fleet's models and reports to it to the daemon (its reload, its models and its counters), and the publisher of
//! parts to live learning.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::warn;

use crate::config::{Config, FleetConfig, SinkKind, is_token};
use crate::engine::Models;
use crate::export::status::{FleetStatus, Status};
use crate::fleet::connection::PERMISSION_DENIED;
use crate::fleet::models::{SensorReport, SpoolReport};
use crate::fleet::part_publisher::PartPublisher;
use crate::fleet::parts::{PartFigures, PartName, pack};
use crate::fleet::receiver::{Receiver, SensorHooks};
use crate::fleet::verify::{copy_path, good_copy};
use crate::model::Model;
use crate::train::live::{Attempt, RecentStreams};

use super::state::DaemonState;
use super::teaching::OnAccepted;

/// Time within which a reload must end.
const RELOAD: Duration = Duration::from_secs(30);
/// Interval at which the wait for a reload looks whether the daemon stops.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Starts the receiver if the settings name servers of a fleet. Without models of the fleet it only reports.
pub(super) fn start(
    config: &Config,
    state: &Arc<DaemonState>,
    models: &Arc<ArcSwap<Models>>,
    recent: Option<&Arc<RecentStreams>>,
) -> io::Result<Option<Receiver>> {
    let Some(fleet) = config.fleet.as_ref() else { return Ok(None) };
    let status = Arc::new(Mutex::new(FleetStatus::default()));
    *state.fleet.lock() = Some(Arc::clone(&status));
    let (reloads, reports, models) = (Arc::clone(state), Arc::clone(state), Arc::clone(models));
    let sink = config.sinks.iter().find(|sink| sink.kind == SinkKind::Nats).map(|sink| sink.name.clone());
    let settings = fleet.clone();
    *state.recent.lock() = recent.cloned();
    let (teaching, recent) = (Arc::clone(&state.teaching), recent.cloned());
    let hooks = SensorHooks {
        reload: Box::new(move || reload(&reloads)),
        running: Box::new(move |name| models.load().iter().find(|model| model.name == name).cloned()),
        with_learned: Box::new(move |model| teaching.with_learned(model)),
        streams: Box::new(move |model| recent.as_ref().map_or_else(Vec::new, |recent| recent.of(model))),
        report: Box::new(move || report(&reports.status(), &settings, sink.as_deref())),
    };
    Receiver::start(fleet, hooks, status).map(Some)
}

/// Starts the publisher of learned neurons if the settings name classes; also returns what the learning thread calls.
pub(super) fn start_parts(config: &Config) -> io::Result<Option<(PartPublisher, OnAccepted)>> {
    let Some(fleet) = config.fleet.clone().filter(|fleet| !fleet.teaches.is_empty()) else { return Ok(None) };
    let (publisher, queue) = PartPublisher::start(&fleet)?;
    let on_accepted = move |model: &Model, attempt: &Attempt, neuron: &Model| {
        if !fleet.teaches.contains(&attempt.class) {
            return;
        }
        if !is_token(&model.name) {
            warn!(model = model.name, "the name of the model can't be part of a subject; its neurons are not published");
            return;
        }
        let name = PartName { sensor: fleet.sensor.clone(), model: model.name.clone(), class: attempt.class.clone() };
        let figures = PartFigures {
            group: fleet.group.clone(),
            model_checksum: model.checksum(),
            streams: neuron.provenance.streams.iter().sum(),
            held_back: attempt.with.streams.into(),
            accuracy: attempt.with.mean(),
        };
        match pack(&neuron.to_bytes()) {
            Ok(message) => queue.offer(name, figures, message),
            Err(error) => warn!(class = attempt.class, %error, "the neurons can't be published"),
        }
    };
    Ok(Some((publisher, Box::new(on_accepted))))
}

/// The recent streams, if the sensor takes models of a fleet.
pub(super) fn recent_streams(config: &Config) -> Option<Arc<RecentStreams>> {
    config.fleet.as_ref().filter(|fleet| !fleet.models.is_empty()).map(|_| Arc::default())
}

/// Requests a reload and waits for its end. One that had begun before does not answer, since it may not have read the new file.
fn reload(state: &DaemonState) -> Result<(), String> {
    let (answer, result) = mpsc::sync_channel(1);
    *state.reload_answer.lock() = Some(answer);
    state.reload_request.notify_one();
    let deadline = Instant::now() + RELOAD;
    while Instant::now() < deadline && !state.stop.load(Relaxed) {
        if let Ok(result) = result.recv_timeout(STOP_CHECK) {
            return result;
        }
    }
    Err("the reload did not end in time".into())
}

/// Replaces models by the fleet's last good copies, and adds those that the settings do not have. A copy that does not pass the checks is
/// left out.
pub(super) fn with_good_copies(fleet: &FleetConfig, mut models: Models, warnings: &mut Vec<String>) -> Models {
    for name in &fleet.models {
        let path = copy_path(fleet, name, "safetensors");
        let copy = match good_copy(fleet, name) {
            Ok(None) => continue,
            Ok(Some((_, bytes))) => Model::from_bytes(&bytes, &path).map_err(|error| error.to_string()),
            Err(refusal) => Err(format!("{}: {} ({})", path.display(), refusal.details, refusal.reason)),
        };
        match copy {
            Ok(model) => match models.iter_mut().find(|m| m.name == *name) {
                Some(present) => *present = Arc::new(model),
                None => models.push(Arc::new(model)),
            },
            Err(error) => warnings.push(format!("the fleet's last good copy is not used: {error}")),
        }
    }
    models
}

/// The daemon's part of its report; `sink` is the name of the sink that sends events to the fleet.
fn report(status: &Status, config: &FleetConfig, sink: Option<&str>) -> SensorReport {
    let input_errors = status.interfaces.iter().map(|interface| &interface.last_error);
    let errors = input_errors.chain(status.sinks.iter().map(|sink| &sink.last_error)).chain([&status.reloads.last_error]);
    let sink = status.sinks.iter().find(|candidate| Some(candidate.name.as_str()) == sink);
    SensorReport {
        drops: status.interfaces.iter().flat_map(|interface| interface.dropped.values()).sum(),
        last_error: errors.flatten().next().cloned(),
        metrics: config.metrics_address.clone(),
        permission_denied: sink.and_then(|sink| sink.last_error.as_ref()).is_some_and(|error| error.contains(PERMISSION_DENIED)),
        spool: sink.map(|sink| SpoolReport {
            events: sink.queued,
            bytes: config.spool.as_deref().map_or(0, size),
            limit: config.spool_mib << 20,
            written: sink.written,
            dropped: sink.dropped.values().sum(),
        }),
        ..SensorReport::default()
    }
}

/// Size of the files in a folder in bytes; 0 if it can't be read.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
