//! The daemon's metrics: the engine's counts and verdicts, and the daemon's [`Status`], as the text of `/metrics`.
//!
//! Input: the engine's counters once per batch and its verdicts once per stream, never single packets. Output: Prometheus' text format.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Registry, TextEncoder};

use super::families::{StatusCollector, StatusProvider};
use super::instruments::{Instruments, ModelMetrics, WorkerSeries, reason};
use super::recent::{BusyRatio, Recent};
use super::status::{Status, unix};
use crate::engine::{Counters, EpisodeOutput, Event, Progress, SpikeCounts, Verdict};
use crate::episode::EpisodeState;
use crate::model::Model;
use crate::packet::Undecodable;
use crate::snn::ClassId;
use crate::stream::UnknownReason;

/// A worker's series, and its last reported state.
pub(super) struct WorkerMetrics {
    pub(super) series: WorkerSeries,
    /// Streams in the worker's tables.
    pub(super) live: usize,
    /// Time between capture and processing of the last packets.
    lag: Duration,
    pub(super) busy_ratio: BusyRatio,
}

/// The metrics of a daemon. All methods may be called from any thread.
pub struct Metrics {
    registry: Registry,
    status: StatusProvider,
    pub(super) instruments: Instruments,
    pub(super) models: Mutex<Vec<ModelMetrics>>,
    pub(super) workers: Mutex<Vec<WorkerMetrics>>,
    pub(super) recent: Mutex<Recent>,
    /// Streams that ended without a class, by [`UnknownReason`].
    pub(super) unknown_reasons: [AtomicU64; UnknownReason::ALL.len()],
}

impl Metrics {
    /// Metrics without models and traffic; `status` returns the daemon's status and is called at each scrape.
    pub fn new(status: StatusProvider) -> Self {
        let registry = Registry::new();
        let instruments = Instruments::register(&registry);
        registry
            .register(Box::new(StatusCollector(Arc::clone(&status))))
            .and_then(|()| registry.register(Box::new(ProcessCollector::for_self())))
            .expect("no other metric has the names");
        let (models, workers, recent) = (Mutex::default(), Mutex::default(), Mutex::new(Recent::new()));
        Self { registry, status, instruments, models, workers, recent, unknown_reasons: Default::default() }
    }

    /// Sets the models in use, at the start and after each reload. Series of classes that are gone are removed.
    pub fn models(&self, models: &[Arc<Model>]) {
        let mut present = self.models.lock();
        let same = |(metrics, model): (&ModelMetrics, &Arc<Model>)| {
            *metrics.name == *model.name && metrics.classes.iter().map(|c| &*c.name).eq(model.classes.iter().map(String::as_str))
        };
        if present.len() == models.len() && present.iter().zip(models).all(same) {
            return;
        }
        let new: Vec<ModelMetrics> = models.iter().map(|m| self.instruments.model(m)).collect();
        for old in present.iter() {
            self.instruments.remove_stale(old, new.iter().find(|m| m.name == old.name));
        }
        *present = new;
    }

    /// Counts a verdict.
    pub fn verdict(&self, verdict: &Verdict) {
        let named = &verdict.model;
        let models = self.models.lock();
        let Some(model) = models.get(verdict.model_index).filter(|m| *m.name == *named.name) else {
            self.instruments.replaced.inc();
            return;
        };
        match (verdict.event, verdict.class) {
            (Event::Stream, Some(_)) => model.named.inc(),
            (Event::Stream, None) => {
                model.unknown.inc();
                if let Some(reason) = verdict.unknown_reason() {
                    self.unknown_reasons[reason as usize].fetch_add(1, Relaxed);
                }
            }
            (Event::Detection, None) => {}
            (Event::Detection, Some(class)) => {
                model.decision_seconds.observe(verdict.timestamp.0.saturating_sub(verdict.first.0) as f64 / 1e9);
                model.decision_packets.observe(verdict.leader.map_or(0.0, |l| f64::from(l.packets())));
                match model.class(class, named) {
                    Some(class) => {
                        class.detections.inc();
                        self.recent.lock().detection(verdict, &model.name, &class.name);
                    }
                    None => self.instruments.replaced.inc(),
                }
            }
        }
    }

    /// Counts an episode when it begins, and the episodes that last, and stores it for the page.
    pub fn episode(&self, output: &EpisodeOutput) {
        let models = self.models.lock();
        let model = models.get(output.model_index).filter(|m| *m.name == *output.model.name);
        let Some((model, class)) = model.and_then(|m| Some((m, m.class(output.episode.class, &output.model)?))) else {
            self.instruments.replaced.inc();
            return;
        };
        self.recent.lock().episode(&output.episode, &model.name, &class.name);
        let Some(episodes) = &class.episodes else { return };
        match output.episode.state {
            EpisodeState::Begin => {
                episodes.total.inc();
                episodes.lasting.inc();
            }
            EpisodeState::Update => {}
            // The series may be newer than the episode, after models were reloaded.
            EpisodeState::End => episodes.lasting.set((episodes.lasting.get() - 1).max(0)),
        }
    }

    /// Counts what a worker did since its last report.
    pub fn progress(&self, progress: &Progress<'_>) {
        self.count(progress.counters);
        self.count_spikes(&progress.counters.spikes);
        let mut workers = self.workers.lock();
        while workers.len() <= progress.worker {
            let series = self.instruments.worker(workers.len());
            workers.push(WorkerMetrics { series, live: 0, lag: Duration::ZERO, busy_ratio: BusyRatio::default() });
        }
        let worker = &mut workers[progress.worker];
        worker.series.busy.inc_by(progress.busy.as_secs_f64());
        worker.series.idle.inc_by(progress.idle.as_secs_f64());
        worker.series.progress.set(unix(SystemTime::now()));
        worker.series.queue.set(progress.queue as f64);
        worker.busy_ratio.add(progress.busy, progress.idle);
        worker.live = progress.live;
        worker.lag = progress.lag.unwrap_or_default();
        drop(workers);
        self.recent.lock().count(Instant::now(), progress.counters.frames, progress.counters.bytes);
    }

    fn count(&self, counters: &Counters) {
        let instruments = &self.instruments;
        instruments.frames.inc_by(counters.frames);
        instruments.bytes.inc_by(counters.bytes);
        instruments.scored.inc_by(counters.scored);
        instruments.created.inc_by(counters.opened);
        for (undecodable, &count) in &counters.undecodable {
            let reason = match undecodable {
                Undecodable::UnsupportedLink(_) => reason::UNSUPPORTED_LINK,
                Undecodable::Truncated => reason::TRUNCATED,
                Undecodable::NoPacket(_) => reason::NO_PACKET,
            };
            instruments.undecodable.with_label_values(&[reason]).inc_by(count);
        }
        instruments.hosts_evicted.inc_by(counters.evicted_hosts);
        instruments.tunnels_dropped.inc_by(counters.dropped_tunnels);
        instruments.lone_fragments.inc_by(counters.lone_fragments);
        for (family, reason, count) in [
            (&instruments.packets_dropped, reason::EVIDENCE_BUFFER, counters.dropped_evidence),
            (&instruments.packets_dropped, reason::LEARNING_QUEUE, counters.dropped_samples),
            (&instruments.packets_dropped, reason::WORKER_PANIC, counters.panic_lost_packets),
            (&instruments.ended, reason::TIMEOUT, counters.timed_out),
            (&instruments.ended, reason::EVICTED, counters.evicted),
            (&instruments.ended, reason::MODEL_REMOVED, counters.model_removed),
            (&instruments.ended, reason::LOST, counters.panic_lost_streams),
            (&instruments.streams_dropped, reason::UNDECIDED_LIMIT, counters.dropped_undecided),
        ] {
            if count > 0 {
                family.with_label_values(&[reason]).inc_by(count);
            }
        }
    }

    fn count_spikes(&self, spikes: &[SpikeCounts]) {
        let models = self.models.lock();
        for SpikeCounts { model, counts } in spikes {
            let Some(metrics) = models.iter().find(|m| *m.name == *model.name) else { continue };
            for (class, &count) in ClassId::first(counts.len()).zip(counts).filter(|(_, count)| **count > 0) {
                if let Some(class) = metrics.class(class, model) {
                    class.spikes.inc_by(count);
                }
            }
        }
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> Vec<u8> {
        let workers = self.workers.lock();
        self.instruments.live.set(workers.iter().map(|w| w.live as i64).sum());
        self.instruments.lag.set(workers.iter().map(|w| w.lag).max().unwrap_or_default().as_secs_f64());
        drop(workers);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to a vector does not fail");
        text
    }

    /// The daemon's present status.
    pub fn status(&self) -> Status {
        (self.status)()
    }
}
