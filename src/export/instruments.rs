//! The metrics that the engine's output is added to: names, labels and help texts.
//!
//! Label values are classes, models, workers and fixed reasons. They come from settings, models and this file, so traffic cannot add a
//! series.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::model::Model;
use crate::snn::ClassId;

/// Histogram buckets: seconds from a stream's first packet to its detection.
const DECISION_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0];
/// Histogram buckets: packets scored until a stream's detection.
const DECISION_PACKETS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

/// Values of the label `reason`.
pub(super) mod reason {
    /// Frames of a link type without a decoder.
    pub const UNSUPPORTED_LINK: &str = "unsupported_link";
    /// Frames that end within the link header.
    pub const TRUNCATED: &str = "truncated";
    /// Frames of a link type with a decoder that carry no packet.
    pub const NO_PACKET: &str = "no_packet";
    /// Streams that were idle or active for too long, or whose addresses and ports a new connection uses.
    pub const TIMEOUT: &str = "timeout";
    /// Streams that made room in a full stream table.
    pub const EVICTED: &str = "evicted";
    /// Streams whose model was removed by a reload, or replaced by one with another kind of key.
    pub const MODEL_REMOVED: &str = "model_removed";
    /// Streams in the table of a worker that panicked.
    pub const LOST: &str = "lost";
    /// Packets for evidence captures that the evidence buffer had no room for.
    pub const EVIDENCE_BUFFER: &str = "evidence_buffer";
    /// Packets for live learning that found its queue full.
    pub const LEARNING_QUEUE: &str = "learning_queue";
    /// Packets that a worker was processing when it panicked.
    pub const WORKER_PANIC: &str = "worker_panic";
    /// Streams beyond the limit of streams that are undecided at the same time.
    pub const UNDECIDED_LIMIT: &str = "undecided_limit";
}

/// The series of one model.
pub(super) struct ModelMetrics {
    pub(super) name: Arc<str>,
    pub(super) classes: Vec<ClassMetrics>,
    pub(super) named: IntCounter,
    pub(super) unknown: IntCounter,
    pub(super) decision_seconds: Histogram,
    pub(super) decision_packets: Histogram,
}

/// The series of one class of a model.
pub(super) struct ClassMetrics {
    pub(super) name: Arc<str>,
    pub(super) detections: IntCounter,
    pub(super) spikes: IntCounter,
    /// Only of classes that have episodes.
    pub(super) episodes: Option<EpisodeMetrics>,
}

/// The series of a class's episodes.
pub(super) struct EpisodeMetrics {
    pub(super) total: IntCounter,
    pub(super) lasting: IntGauge,
}

impl ModelMetrics {
    /// The series of class number `class` of `model`, which may be a version of this model that was replaced.
    pub(super) fn class(&self, class: ClassId, model: &Model) -> Option<&ClassMetrics> {
        let name = model.classes.get(class.index())?.as_str();
        let same_place = self.classes.get(class.index()).filter(|c| &*c.name == name);
        same_place.or_else(|| self.classes.iter().find(|c| &*c.name == name))
    }
}

/// The series of one worker.
pub(super) struct WorkerSeries {
    pub(super) busy: Counter,
    pub(super) idle: Counter,
    pub(super) progress: Gauge,
    pub(super) queue: Gauge,
}

/// All metrics that the engine's output is added to.
pub(super) struct Instruments {
    pub(super) frames: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) undecodable: IntCounterVec,
    pub(super) packets_dropped: IntCounterVec,
    pub(super) scored: IntCounter,
    pub(super) created: IntCounter,
    pub(super) ended: IntCounterVec,
    pub(super) streams_dropped: IntCounterVec,
    pub(super) hosts_evicted: IntCounter,
    pub(super) tunnels_dropped: IntCounter,
    pub(super) lone_fragments: IntCounter,
    pub(super) live: IntGauge,
    pub(super) lag: Gauge,
    pub(super) replaced: IntCounter,
    by_model: ModelFamilies,
    by_worker: WorkerFamilies,
}

/// The families with a label `model`.
struct ModelFamilies {
    detections: IntCounterVec,
    episodes: IntCounterVec,
    lasting_episodes: IntGaugeVec,
    spikes: IntCounterVec,
    named: IntCounterVec,
    unknown: IntCounterVec,
    decision_seconds: HistogramVec,
    decision_packets: HistogramVec,
}

/// The families with a label `worker`.
struct WorkerFamilies {
    busy: CounterVec,
    idle: CounterVec,
    progress: GaugeVec,
    queue: GaugeVec,
}

/// Registers metrics. All names and labels are constants of this file, so an invalid one fails in every test.
struct MetricRegistrar<'a>(&'a Registry);

impl MetricRegistrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("the name and labels are valid");
        self.0.register(Box::new(metric.clone())).expect("no other metric has the name");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, labels: &[&str], help: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Counters by reason, which all exist from the start.
    fn by_reason(&self, name: &str, reasons: &[&str], help: &str) -> IntCounterVec {
        let counters = self.counters(name, &["reason"], help);
        for reason in reasons {
            counters.with_label_values(&[reason]);
        }
        counters
    }

    fn histograms(&self, name: &str, labels: &[&str], buckets: &[f64], help: &str) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

impl Instruments {
    pub(super) fn register(registry: &Registry) -> Self {
        let add = MetricRegistrar(registry);
        Self {
            frames: add.counter("spiked_frames_total", "Total number of frames processed by the workers, from all sources."),
            bytes: add.counter("spiked_frame_bytes_total", "Total length on the wire of the frames processed by the workers, in bytes."),
            undecodable: add.by_reason(
                "spiked_undecodable_frames_total",
                &[reason::UNSUPPORTED_LINK, reason::TRUNCATED, reason::NO_PACKET],
                "Total number of frames that could not be decoded, by reason.",
            ),
            packets_dropped: add.by_reason(
                "spiked_packets_dropped_total",
                &[reason::EVIDENCE_BUFFER, reason::LEARNING_QUEUE, reason::WORKER_PANIC],
                "Total number of packets dropped within spiked: evidence_buffer (not kept for evidence captures), learning_queue (not \
                 used for live learning), worker_panic (not classified).",
            ),
            scored: add.counter(
                "spiked_volleys_scored_total",
                "Total number of volleys scored: one per packet and model until the stream is decided.",
            ),
            created: add.counter("spiked_streams_created_total", "Total number of streams created, over all models."),
            ended: add.by_reason(
                "spiked_streams_ended_total",
                &[reason::TIMEOUT, reason::EVICTED, reason::MODEL_REMOVED, reason::LOST],
                "Total number of streams ended, over all models, by reason: timeout, evicted (from a full table), model_removed (by a reload), lost (their worker panicked).",
            ),
            streams_dropped: add.by_reason(
                "spiked_streams_dropped_total",
                &[reason::UNDECIDED_LIMIT],
                "Total number of streams no longer scored before they were decided: undecided_limit (too many were undecided at once).",
            ),
            hosts_evicted: add.counter(
                "spiked_hosts_evicted_total",
                "Total number of hosts whose traces were removed because the table of hosts was full.",
            ),
            tunnels_dropped: add.counter(
                "spiked_tunnels_dropped_total",
                "Total number of streams in tunnels whose events do not name the tunnel, since too many streams were in tunnels at once.",
            ),
            lone_fragments: add.counter(
                "spiked_lone_fragments_total",
                "Total number of later fragments of IP packets whose first fragment was not seen before them.",
            ),
            live: add.add(IntGauge::new("spiked_streams_live", "Number of streams in the stream tables, over all models.")),
            lag: add.add(Gauge::new(
                "spiked_packet_lag_seconds",
                "Time between capture and processing of the last packets, of the slowest worker, in seconds.",
            )),
            replaced: add.counter(
                "spiked_replaced_class_verdicts_total",
                "Total number of verdicts of a replaced model for a class that its replacement does not have.",
            ),
            by_model: ModelFamilies::register(&add),
            by_worker: WorkerFamilies::register(&add),
        }
    }

    /// The series of a model, which exist from then on.
    pub(super) fn model(&self, model: &Model) -> ModelMetrics {
        let families = &self.by_model;
        let label = [model.name.as_str()];
        let class = |id: ClassId| {
            let class = &model.classes[id.index()];
            let labels = [&model.name, class];
            let has_episodes = model.episodes.iter().any(|rule| rule.class == id);
            ClassMetrics {
                name: class.as_str().into(),
                detections: families.detections.with_label_values(&labels),
                spikes: families.spikes.with_label_values(&labels),
                episodes: has_episodes.then(|| EpisodeMetrics {
                    total: families.episodes.with_label_values(&labels),
                    lasting: families.lasting_episodes.with_label_values(&labels),
                }),
            }
        };
        ModelMetrics {
            name: model.name.as_str().into(),
            classes: ClassId::first(model.classes.len()).map(class).collect(),
            named: families.named.with_label_values(&label),
            unknown: families.unknown.with_label_values(&label),
            decision_seconds: families.decision_seconds.with_label_values(&label),
            decision_packets: families.decision_packets.with_label_values(&label),
        }
    }

    /// Removes the series of `old` that `new`, the model of the same name, does not have. Without `new` all are removed.
    pub(super) fn remove_stale(&self, old: &ModelMetrics, new: Option<&ModelMetrics>) {
        let families = &self.by_model;
        // Removing a series twice is an error of no consequence: a model may have two classes of the same name.
        for class in &old.classes {
            if !new.is_some_and(|m| m.classes.iter().any(|c| c.name == class.name)) {
                let labels = [&*old.name, &*class.name];
                let _ = families.detections.remove_label_values(&labels);
                let _ = families.spikes.remove_label_values(&labels);
                let _ = families.episodes.remove_label_values(&labels);
                let _ = families.lasting_episodes.remove_label_values(&labels);
            }
        }
        if new.is_none() {
            let label = [&*old.name];
            let _ = families.named.remove_label_values(&label);
            let _ = families.unknown.remove_label_values(&label);
            let _ = families.decision_seconds.remove_label_values(&label);
            let _ = families.decision_packets.remove_label_values(&label);
        }
    }

    /// The series of worker number `worker`.
    pub(super) fn worker(&self, worker: usize) -> WorkerSeries {
        let families = &self.by_worker;
        let label = [worker.to_string()];
        WorkerSeries {
            busy: families.busy.with_label_values(&label),
            idle: families.idle.with_label_values(&label),
            progress: families.progress.with_label_values(&label),
            queue: families.queue.with_label_values(&label),
        }
    }
}

impl ModelFamilies {
    fn register(add: &MetricRegistrar<'_>) -> Self {
        let class: &[&str] = &["model", "class"];
        let model: &[&str] = &["model"];
        Self {
            detections: add.counters("spiked_detections_total", class, "Total number of streams classified as the class."),
            episodes: add.counters("spiked_episodes_total", class, "Total number of episodes of the class that began."),
            lasting_episodes: add
                .add(IntGaugeVec::new(Opts::new("spiked_episodes", "Number of episodes of the class that last now."), class)),
            spikes: add.counters(
                "spiked_spikes_total",
                class,
                "Total number of spikes of the class's neuron: volleys that raised its potential over its threshold.",
            ),
            named: add.counters("spiked_streams_named_total", model, "Total number of streams that ended with a class."),
            unknown: add.counters("spiked_streams_unknown_total", model, "Total number of streams that ended without a class."),
            decision_seconds: add.histograms(
                "spiked_decision_seconds",
                model,
                DECISION_SECONDS,
                "Time from a stream's first packet to its detection, by the packets' timestamps, in seconds.",
            ),
            decision_packets: add.histograms(
                "spiked_decision_packets",
                model,
                DECISION_PACKETS,
                "Number of packets scored until a stream's detection.",
            ),
        }
    }
}

impl WorkerFamilies {
    fn register(add: &MetricRegistrar<'_>) -> Self {
        let worker: &[&str] = &["worker"];
        let counters = |name: &str, help: &str| add.add(CounterVec::new(Opts::new(name, help), worker));
        let gauges = |name: &str, help: &str| add.add(GaugeVec::new(Opts::new(name, help), worker));
        Self {
            busy: counters("spiked_worker_busy_seconds_total", "Total time the worker spent processing packets, in seconds."),
            idle: counters("spiked_worker_idle_seconds_total", "Total time the worker spent waiting for packets, in seconds."),
            progress: gauges(
                "spiked_worker_last_progress_timestamp_seconds",
                "Time at which the worker last finished a batch, even an empty one, in seconds since the Unix epoch.",
            ),
            queue: gauges("spiked_worker_queue_batches", "Number of decoded batches that wait for the worker."),
        }
    }
}
