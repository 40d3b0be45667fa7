//! What does `/status` answer? The daemon's status, and what was seen since the start and lately.

use std::time::SystemTime;

use serde::Serialize;

use super::metrics::{Metrics, lock};
use super::recent::{Detection, Rates};
use super::status::{Status, unix};

/// Classes that the page shows.
const TOP_CLASSES: usize = 20;

/// The status, and what was seen.
#[derive(Debug, Serialize)]
pub struct Overview {
    #[serde(flatten)]
    status: Status,
    /// When this was made, in seconds since the epoch.
    now: f64,
    totals: Totals,
    streams_live: usize,
    rates: Rates,
    workers: Vec<WorkerStatus>,
    /// The classes with most detections, the most first.
    classes: Vec<Count>,
    /// The last detections, the newest first.
    detections: Vec<Detection>,
}

#[derive(Debug, Serialize)]
struct Totals {
    frames: u64,
    bytes: u64,
    streams: u64,
    named: u64,
    unknown: u64,
}

#[derive(Debug, Serialize)]
struct WorkerStatus {
    /// Over the last seconds.
    busy_ratio: f64,
    /// Seconds since it last finished a batch.
    since_progress: f64,
}

#[derive(Debug, Serialize)]
struct Count {
    model: String,
    class: String,
    detections: u64,
}

impl Metrics {
    /// What `/status` answers.
    pub fn overview(&self) -> Overview {
        let mut recent = lock(&self.recent);
        let (rates, detections) = (recent.rates(), recent.detections());
        drop(recent);
        let lanes = lock(&self.lanes);
        let mut classes: Vec<Count> = lanes
            .iter()
            .flat_map(|lane| lane.classes.iter().map(move |c| (lane, c)))
            .map(|(lane, c)| Count { model: lane.name.to_string(), class: c.name.to_string(), detections: c.detections.get() })
            .filter(|c| c.detections > 0)
            .collect();
        classes.sort_by(|a, b| b.detections.cmp(&a.detections).then_with(|| (&a.class, &a.model).cmp(&(&b.class, &b.model))));
        classes.truncate(TOP_CLASSES);
        let totals = Totals {
            frames: self.frames.get(),
            bytes: self.bytes.get(),
            streams: self.created.get(),
            named: lanes.iter().map(|l| l.named.get()).sum(),
            unknown: lanes.iter().map(|l| l.unknown.get()).sum(),
        };
        drop(lanes);
        let workers = lock(&self.workers);
        let streams_live = workers.iter().map(|w| w.live).sum();
        let now = unix(SystemTime::now());
        let told = workers
            .iter()
            .map(|w| WorkerStatus { busy_ratio: w.recently.get(), since_progress: (now - w.progress.get()).max(0.0) })
            .collect();
        drop(workers);
        Overview { status: self.status(), now, totals, streams_live, rates, workers: told, classes, detections }
    }
}
