//! Shared state of the daemon: facts and counters updated while it runs, and the [`Status`] built from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::capture::InputCounters;
use crate::capture::live::QueueDepth;
use crate::export::evidence::Evidence;
use crate::export::sink::SinkHandle;
use crate::export::status::{FleetStatus, InterfaceStatus, LoadedModel, QueueStatus, ReloadStatus, Status};
use crate::train::live::RecentStreams;

use super::alerts::AlertCounts;
use super::teaching::SharedLearning;

/// A worker without progress for this time is stuck: a batch takes milliseconds, and one comes at least every 50 ms.
pub(super) const STUCK: Duration = Duration::from_secs(10);

/// Time at which each worker last finished a batch.
#[derive(Debug)]
pub(super) struct Heartbeat {
    begun: Instant,
    /// Milliseconds since `begun`.
    beats: Vec<AtomicU64>,
}

impl Heartbeat {
    fn new(workers: usize) -> Self {
        Self { begun: Instant::now(), beats: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn beat(&self, worker: usize) {
        if let Some(beat) = self.beats.get(worker) {
            beat.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The worker that has been without progress for longest, and for how long.
    pub fn slowest(&self) -> (usize, Duration) {
        let oldest = self.beats.iter().map(|b| b.load(Relaxed)).enumerate().min_by_key(|&(_, beat)| beat).unwrap_or((0, 0));
        (oldest.0, self.begun.elapsed().saturating_sub(Duration::from_millis(oldest.1)))
    }
}

/// Shared state; one per process.
pub(super) struct DaemonState {
    pub sensor: String,
    pub started: SystemTime,
    pub counters: Vec<Arc<InputCounters>>,
    pub depth: Option<QueueDepth>,
    pub loaded: Mutex<Vec<LoadedModel>>,
    pub sinks: Mutex<Vec<SinkHandle>>,
    pub evidence: Mutex<Option<Evidence>>,
    pub alerts: AlertCounts,
    pub teaching: Arc<SharedLearning>,
    pub reloads: Mutex<ReloadStatus>,
    pub hardening: Mutex<Vec<String>>,
    /// The workers run.
    pub ready: AtomicBool,
    pub stop: Arc<AtomicBool>,
    /// The engine has ended and all events are written.
    pub done: AtomicBool,
    pub heartbeat: Heartbeat,
    pub detections: AtomicU64,
    /// Models of the fleet; `None`: the sensor takes none.
    pub fleet: Mutex<Option<Arc<Mutex<FleetStatus>>>>,
    /// Streams on which models of the fleet are tried; `None`: the sensor takes none.
    pub recent: Mutex<Option<Arc<RecentStreams>>>,
    /// Wakes the supervisor for a reload, as SIGHUP does.
    pub reload_request: Notify,
    /// Where the next reload that begins sends its result.
    pub reload_answer: Mutex<Option<SyncSender<Result<(), String>>>>,
}

impl DaemonState {
    pub fn new(
        sensor: &str,
        workers: usize,
        counters: Vec<Arc<InputCounters>>,
        depth: Option<QueueDepth>,
        stop: Arc<AtomicBool>,
        teaching: Arc<SharedLearning>,
    ) -> Self {
        Self {
            sensor: sensor.into(),
            started: SystemTime::now(),
            counters,
            depth,
            loaded: Mutex::default(),
            sinks: Mutex::default(),
            evidence: Mutex::default(),
            alerts: AlertCounts::default(),
            teaching,
            reloads: Mutex::new(ReloadStatus { last_success: Some(SystemTime::now()), ..ReloadStatus::default() }),
            hardening: Mutex::default(),
            ready: AtomicBool::new(false),
            stop,
            done: AtomicBool::new(false),
            heartbeat: Heartbeat::new(workers),
            detections: AtomicU64::new(0),
            fleet: Mutex::default(),
            recent: Mutex::default(),
            reload_request: Notify::new(),
            reload_answer: Mutex::default(),
        }
    }

    /// Why the daemon is unhealthy; `None`: it is healthy.
    pub fn unhealthy(&self) -> Option<String> {
        let (worker, stalled) = self.heartbeat.slowest();
        let stuck = self.ready.load(Relaxed) && !self.done.load(Relaxed) && stalled > STUCK;
        stuck.then(|| format!("worker {worker} has made no progress for {} s", stalled.as_secs()))
    }

    /// Why no input is up; `None` if one is.
    fn all_down(&self) -> Option<String> {
        let why = |c: &Arc<InputCounters>| c.last_error().map(|error| format!("{}: {error}", c.name));
        let reasons: Option<Vec<String>> = self.counters.iter().map(why).collect();
        reasons.filter(|reasons| !reasons.is_empty()).map(|reasons| reasons.join("; "))
    }

    pub fn status(&self) -> Status {
        let interface = |c: &Arc<InputCounters>| InterfaceStatus {
            name: c.name.clone(),
            up: c.up.load(Relaxed),
            last_error: c.last_error(),
            filter: c.filter.clone(),
            received: c.frames.load(Relaxed),
            dropped: [
                ("kernel", c.kernel_drops.load(Relaxed)),
                ("interface", c.interface_drops.load(Relaxed)),
                ("queue", c.queue_drops.load(Relaxed)),
            ]
            .into(),
            copies: c.copies.load(Relaxed),
            compared: c.compared.load(Relaxed),
            reopened: c.reopened.load(Relaxed),
            captures_read: c.captures_read.load(Relaxed),
            captures_refused: c.captures_refused.load(Relaxed),
        };
        let unhealthy = self.unhealthy();
        let not_ready = if self.stop.load(Relaxed) {
            Some("stopping".to_string())
        } else if self.ready.load(Relaxed) {
            unhealthy.clone().or_else(|| self.all_down())
        } else {
            Some("starting".to_string())
        };
        Status {
            started: self.started,
            not_ready,
            unhealthy,
            interfaces: self.counters.iter().map(interface).collect(),
            models: self.loaded.lock().clone(),
            queue: self
                .depth
                .as_ref()
                .map_or(QueueStatus::default(), |d| QueueStatus { depth: d.waiting() as u64, capacity: d.capacity() as u64 }),
            sinks: self
                .sinks
                .lock()
                .iter()
                .map(SinkHandle::status)
                .chain(self.evidence.lock().as_ref().map(Evidence::status))
                .collect(),
            alerts: self.alerts.status(),
            reloads: self.reloads.lock().clone(),
            learning: self.teaching.status(),
            fleet: self.fleet_status(),
            hardening: self.hardening.lock().clone(),
            ..Status::new(&self.sensor)
        }
    }

    fn fleet_status(&self) -> Option<FleetStatus> {
        let mut status = self.fleet.lock().as_ref()?.lock().clone();
        let recent = self.recent.lock().clone();
        for model in &mut status.models {
            model.recent_streams = recent.as_ref().map_or(0, |recent| recent.count(&model.name) as u64);
        }
        Some(status)
    }

    /// One line for the log and for systemd's status.
    pub fn summary(&self) -> String {
        let sum = |of: fn(&InputCounters) -> &std::sync::atomic::AtomicU64| -> u64 {
            self.counters.iter().map(|c| of(c).load(Relaxed)).sum()
        };
        let up = self.counters.iter().filter(|c| c.up.load(Relaxed)).count();
        format!(
            "{up} of {} inputs up, {} frames, dropped {} by the kernel, {} by interfaces, {} at the queue; {} detections",
            self.counters.len(),
            sum(|c| &c.frames),
            sum(|c| &c.kernel_drops),
            sum(|c| &c.interface_drops),
            sum(|c| &c.queue_drops),
            self.detections.load(Relaxed),
        )
    }
}
