//! The response of `/status`: the daemon's status, totals since its start, and recent activity.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::metrics::Metrics;
use super::recent::{Detection, EpisodeSummary, Rates};
use super::status::{Status, unix};
use crate::stream::UnknownReason;

/// Number of classes that the page shows.
const TOP_CLASSES: usize = 20;

/// The response of `/status`, serialized as one JSON object.
#[derive(Debug, Serialize)]
pub struct Overview {
    #[serde(flatten)]
    status: Status,
    /// Time of the response, in seconds since the Unix epoch.
    now: f64,
    totals: Totals,
    streams_live: usize,
    rates: Rates,
    workers: Vec<WorkerStatus>,
    /// The classes with the most detections, in descending order.
    classes: Vec<ClassCount>,
    /// The last detections, newest first.
    detections: Vec<Detection>,
    /// The last episodes: those that last, then those that have ended, each newest first.
    episodes: Vec<EpisodeSummary>,
}

/// Totals since the start of the daemon.
#[derive(Debug, Serialize)]
struct Totals {
    frames: u64,
    bytes: u64,
    streams: u64,
    detections: u64,
    named: u64,
    unknown: u64,
    /// Unknown streams by the reason, as in events.
    unknown_reasons: BTreeMap<&'static str, u64>,
}

/// The state of one worker.
#[derive(Debug, Serialize)]
struct WorkerStatus {
    /// Share (0 to 1) of its time that it was busy over the last seconds.
    busy_ratio: f64,
    /// Seconds since it last finished a batch.
    since_progress: f64,
}

/// Detections of one class.
#[derive(Debug, Serialize)]
struct ClassCount {
    model: String,
    class: String,
    detections: u64,
}

impl Metrics {
    /// The response of `/status`.
    pub fn overview(&self) -> Overview {
        let mut recent = self.recent.lock();
        let (rates, detections, episodes) = (recent.rates(Instant::now()), recent.detections(), recent.episodes());
        drop(recent);
        let models = self.models.lock();
        let mut classes: Vec<ClassCount> = models
            .iter()
            .flat_map(|model| model.classes.iter().map(move |c| (model, c)))
            .map(|(model, c)| ClassCount {
                model: model.name.to_string(),
                class: c.name.to_string(),
                detections: c.detections.get(),
            })
            .filter(|c| c.detections > 0)
            .collect();
        classes.sort_by(|a, b| b.detections.cmp(&a.detections).then_with(|| (&a.class, &a.model).cmp(&(&b.class, &b.model))));
        classes.truncate(TOP_CLASSES);
        let totals = Totals {
            frames: self.instruments.frames.get(),
            bytes: self.instruments.bytes.get(),
            streams: self.instruments.created.get(),
            detections: models.iter().flat_map(|m| &m.classes).map(|c| c.detections.get()).sum(),
            named: models.iter().map(|m| m.named.get()).sum(),
            unknown: models.iter().map(|m| m.unknown.get()).sum(),
            unknown_reasons: UnknownReason::ALL.map(|r| (r.name(), self.unknown_reasons[r as usize].load(Relaxed))).into(),
        };
        drop(models);
        let workers = self.workers.lock();
        let streams_live = workers.iter().map(|w| w.live).sum();
        let now = unix(SystemTime::now());
        let worker_states = workers
            .iter()
            .map(|w| WorkerStatus { busy_ratio: w.busy_ratio.get(), since_progress: (now - w.series.progress.get()).max(0.0) })
            .collect();
        drop(workers);
        Overview {
            status: self.status(),
            now,
            totals,
            streams_live,
            rates,
            workers: worker_states,
            classes,
            detections,
            episodes,
        }
    }
}
