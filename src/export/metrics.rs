//! What does Prometheus read? InputCounters that the engine's tallies and verdicts are added to, and the daemon's [`Status`].
//!
//! Input: a counters a batch and a verdict a stream, never a packet. Output: the text of `/metrics`. Labels are classes, models,
//! interfaces, sinks and workers, all of them from settings and models: traffic can't add a series.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::engine::{Event, Progress, SpikeCounts, Verdict};
use crate::model::Model;
use crate::packet::Undecodable;
use crate::snn::ClassId;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Opts, Registry, TextEncoder,
};

use super::families::{StatusCollector, StatusProvider};
use super::recent::{Recent, Share};
use super::status::{Status, unix};

/// Seconds from a stream's first packet to its detection.
const DECISION_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0];
/// Packets scored until a stream's detection.
const DECISION_PACKETS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 256.0, 1024.0];
/// A model's series.
pub(super) struct ModelMetrics {
    pub(super) name: Arc<str>,
    pub(super) classes: Vec<Class>,
    pub(super) named: IntCounter,
    pub(super) unknown: IntCounter,
    decision_seconds: Histogram,
    decision_packets: Histogram,
}

pub(super) struct Class {
    pub(super) name: Arc<str>,
    pub(super) detections: IntCounter,
    spikes: IntCounter,
}

impl ModelMetrics {
    /// The series of a class of `model`, which may be one that was replaced.
    fn class(&self, class: ClassId, model: &Model) -> Option<&Class> {
        let name = model.classes.get(class.index())?.as_str();
        let there = self.classes.get(class.index()).filter(|c| &*c.name == name);
        there.or_else(|| self.classes.iter().find(|c| &*c.name == name))
    }
}

/// A worker's series, and what is shown as a whole.
pub(super) struct Worker {
    busy: Counter,
    idle: Counter,
    pub(super) progress: Gauge,
    queue: Gauge,
    pub(super) live: usize,
    lag: Duration,
    pub(super) recently: Share,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    ask: StatusProvider,
    pub(super) frames: IntCounter,
    pub(super) bytes: IntCounter,
    undecodable: IntCounterVec,
    lost_packets: IntCounter,
    unkept: IntCounter,
    untapped: IntCounter,
    scored: IntCounter,
    pub(super) created: IntCounter,
    ended: IntCounterVec,
    hurried: IntCounter,
    live: IntGauge,
    lag: Gauge,
    replaced: IntCounter,
    detections: IntCounterVec,
    spikes: IntCounterVec,
    named: IntCounterVec,
    unknown: IntCounterVec,
    decision_seconds: HistogramVec,
    decision_packets: HistogramVec,
    busy: CounterVec,
    idle: CounterVec,
    progress: GaugeVec,
    queue: GaugeVec,
    pub(super) lanes: Mutex<Vec<ModelMetrics>>,
    pub(super) workers: Mutex<Vec<Worker>>,
    pub(super) recent: Mutex<Recent>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts stay counts whoever panicked while he held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes metrics in a registry. Names and labels are constants here, so that what can fail fails in every test.
struct MetricRegistrar<'a>(&'a Registry);

impl MetricRegistrar<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("the name and labels are valid");
        self.0.register(Box::new(metric.clone())).expect("no other metric has the name");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, labels: &[&str], help: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, labels: &[&str], buckets: &[f64], help: &str) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

impl Metrics {
    /// Metrics without traffic yet; `ask` gives the daemon's status at each scrape.
    pub fn new(ask: StatusProvider) -> Self {
        let registry = Registry::new();
        let make = MetricRegistrar(&registry);
        let class: &[&str] = &["model", "class"];
        let model: &[&str] = &["model"];
        let worker: &[&str] = &["worker"];
        let metrics = Self {
            frames: make.counter("spiked_frames_total", "Frames that workers took from all sources."),
            bytes: make.counter("spiked_frame_bytes_total", "Octets of these frames, as they were on the wire."),
            undecodable: make.counters("spiked_undecodable_frames_total", &["reason"], "Frames that are no packet, by reason."),
            lost_packets: make.counter("spiked_lost_packets_total", "Packets that a worker was handling when it failed."),
            unkept: make.counter(
                "spiked_unkept_packets_total",
                "Packets of named streams that there was no room to keep for evidence captures.",
            ),
            untapped: make
                .counter("spiked_untapped_packets_total", "Packets for live teaching that the teacher was too slow to take."),
            scored: make
                .counter("spiked_volleys_scored_total", "Volleys that were scored, one a packet and model until it is decided."),
            created: make.counter("spiked_streams_created_total", "Streams that began, over all models."),
            ended: make.counters("spiked_streams_ended_total", &["reason"], "Streams that ended, over all models, by reason."),
            hurried: make
                .counter("spiked_streams_hurried_total", "Streams given up undecided since too many were undecided at once."),
            live: make.add(IntGauge::new("spiked_streams_live", "Streams that are remembered now, over all models.")),
            lag: make.add(Gauge::new(
                "spiked_packet_lag_seconds",
                "How long ago the packets handled last were captured, the worst worker.",
            )),
            replaced: make.counter(
                "spiked_replaced_class_verdicts_total",
                "Detections of a class that the model that replaced its own does not have.",
            ),
            detections: make.counters("spiked_detections_total", class, "Streams that were given the class."),
            spikes: make.counters(
                "spiked_spikes_total",
                class,
                "SpikeCounts of the class's neuron: volleys that brought it over its threshold.",
            ),
            named: make.counters("spiked_streams_named_total", model, "Streams that ended with a class."),
            unknown: make.counters("spiked_streams_unknown_total", model, "Streams that ended without a class."),
            decision_seconds: make.histograms(
                "spiked_decision_seconds",
                model,
                DECISION_SECONDS,
                "Time from a stream's first packet to its detection, by the packets' clock.",
            ),
            decision_packets: make.histograms(
                "spiked_decision_packets",
                model,
                DECISION_PACKETS,
                "Packets that were scored until a stream's detection.",
            ),
            busy: make.add(CounterVec::new(
                Opts::new("spiked_worker_busy_seconds_total", "Time that the worker had something to do."),
                worker,
            )),
            idle: make.add(CounterVec::new(
                Opts::new("spiked_worker_idle_seconds_total", "Time that the worker waited for packets."),
                worker,
            )),
            progress: make.add(GaugeVec::new(
                Opts::new(
                    "spiked_worker_last_progress_timestamp_seconds",
                    "When the worker last finished a batch, an empty one too, in seconds since the epoch.",
                ),
                worker,
            )),
            queue: make.add(GaugeVec::new(
                Opts::new("spiked_worker_queue_batches", "Decoded batches that wait for the worker."),
                worker,
            )),
            lanes: Mutex::default(),
            workers: Mutex::default(),
            recent: Mutex::new(Recent::new()),
            ask: Arc::clone(&ask),
            registry: registry.clone(),
        };
        for reason in ["unsupported_link", "truncated"] {
            metrics.undecodable.with_label_values(&[reason]);
        }
        for reason in ["timeout", "evicted", "lost"] {
            metrics.ended.with_label_values(&[reason]);
        }
        let registered = registry
            .register(Box::new(StatusCollector(ask)))
            .and_then(|()| registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())));
        registered.expect("no other metric has the names");
        metrics
    }

    /// Tells which models are in use: at the start and at each swap. Series of classes that are gone end.
    pub fn models(&self, models: &[Arc<Model>]) {
        let mut lanes = lock(&self.lanes);
        let same = |(lane, model): (&ModelMetrics, &Arc<Model>)| {
            *lane.name == *model.name && lane.classes.iter().map(|c| &*c.name).eq(model.classes.iter().map(String::as_str))
        };
        if lanes.len() == models.len() && lanes.iter().zip(models).all(same) {
            return;
        }
        let new: Vec<ModelMetrics> = models.iter().map(|m| self.lane(m)).collect();
        for old in lanes.iter() {
            let lane = new.iter().find(|l| l.name == old.name);
            for class in &old.classes {
                if !lane.is_some_and(|l| l.classes.iter().any(|c| c.name == class.name)) {
                    let labels = [&*old.name, &*class.name];
                    // A class that the old model had twice is gone already.
                    let _ = self.detections.remove_label_values(&labels);
                    let _ = self.spikes.remove_label_values(&labels);
                }
            }
            if lane.is_none() {
                let label = [&*old.name];
                let _ = self.named.remove_label_values(&label);
                let _ = self.unknown.remove_label_values(&label);
                let _ = self.decision_seconds.remove_label_values(&label);
                let _ = self.decision_packets.remove_label_values(&label);
            }
        }
        *lanes = new;
    }

    fn lane(&self, model: &Model) -> ModelMetrics {
        let label = [model.name.as_str()];
        let class = |class: &String| Class {
            name: class.as_str().into(),
            detections: self.detections.with_label_values(&[&model.name, class]),
            spikes: self.spikes.with_label_values(&[&model.name, class]),
        };
        ModelMetrics {
            name: model.name.as_str().into(),
            classes: model.classes.iter().map(class).collect(),
            named: self.named.with_label_values(&label),
            unknown: self.unknown.with_label_values(&label),
            decision_seconds: self.decision_seconds.with_label_values(&label),
            decision_packets: self.decision_packets.with_label_values(&label),
        }
    }

    /// Counts a verdict.
    pub fn verdict(&self, verdict: &Verdict) {
        let named = &verdict.named;
        let lanes = lock(&self.lanes);
        let Some(lane) = lanes.get(verdict.model).filter(|l| *l.name == *named.name) else {
            self.replaced.inc();
            return;
        };
        match (verdict.event, verdict.class) {
            (Event::Stream, Some(_)) => lane.named.inc(),
            (Event::Stream, None) => lane.unknown.inc(),
            (Event::Detection, None) => {}
            (Event::Detection, Some(class)) => {
                lane.decision_seconds.observe(verdict.timestamp.0.saturating_sub(verdict.first.0) as f64 / 1e9);
                lane.decision_packets.observe(verdict.leader.map_or(0.0, |l| f64::from(l.packets)));
                match lane.class(class, named) {
                    Some(class) => {
                        class.detections.inc();
                        lock(&self.recent).detection(verdict, &lane.name, &class.name);
                    }
                    None => self.replaced.inc(),
                }
            }
        }
    }

    /// Counts what a worker did since it last told.
    pub fn progress(&self, progress: &Progress<'_>) {
        let counters = progress.counters;
        self.frames.inc_by(counters.frames);
        self.bytes.inc_by(counters.bytes);
        for (reason, &count) in &counters.undecodable {
            let reason = match reason {
                Undecodable::UnsupportedLink(_) => "unsupported_link",
                Undecodable::Truncated => "truncated",
            };
            self.undecodable.with_label_values(&[reason]).inc_by(count);
        }
        self.lost_packets.inc_by(counters.lost_packets);
        self.unkept.inc_by(counters.unkept);
        self.untapped.inc_by(counters.untapped);
        self.scored.inc_by(counters.scored);
        self.created.inc_by(counters.opened);
        for (reason, count) in [("timeout", counters.timed_out), ("evicted", counters.evicted), ("lost", counters.lost_streams)] {
            if count > 0 {
                self.ended.with_label_values(&[reason]).inc_by(count);
            }
        }
        self.hurried.inc_by(counters.hurried);
        let lanes = lock(&self.lanes);
        for SpikeCounts { model, counts } in &counters.spikes {
            let Some(lane) = lanes.iter().find(|l| *l.name == *model.name) else { continue };
            for (class, &count) in ClassId::first(counts.len()).zip(counts).filter(|(_, count)| **count > 0) {
                if let Some(class) = lane.class(class, model) {
                    class.spikes.inc_by(count);
                }
            }
        }
        drop(lanes);
        let mut workers = lock(&self.workers);
        while workers.len() <= progress.worker {
            let label = [workers.len().to_string()];
            workers.push(Worker {
                busy: self.busy.with_label_values(&label),
                idle: self.idle.with_label_values(&label),
                progress: self.progress.with_label_values(&label),
                queue: self.queue.with_label_values(&label),
                live: 0,
                lag: Duration::ZERO,
                recently: Share::default(),
            });
        }
        let worker = &mut workers[progress.worker];
        worker.busy.inc_by(progress.busy.as_secs_f64());
        worker.idle.inc_by(progress.idle.as_secs_f64());
        worker.recently.add(progress.busy, progress.idle);
        worker.progress.set(unix(SystemTime::now()));
        worker.queue.set(progress.queue as f64);
        worker.live = progress.live;
        worker.lag = progress.lag.unwrap_or_default();
        drop(workers);
        lock(&self.recent).count(counters.frames, counters.bytes);
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> Vec<u8> {
        let workers = lock(&self.workers);
        self.live.set(workers.iter().map(|w| w.live as i64).sum());
        self.lag.set(workers.iter().map(|w| w.lag).max().unwrap_or_default().as_secs_f64());
        drop(workers);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a vector takes all octets");
        text
    }

    /// The daemon's status.
    pub fn status(&self) -> Status {
        (self.ask)()
    }
}
