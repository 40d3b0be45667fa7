//! Which metrics does the daemon's [`Status`] hold? They are read at each scrape, so that a series ends with what it told of: an
//! interface, a sink, a class of a model that was swapped.

use std::collections::BTreeMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::status::{Status, unix};

/// A metric family in the making.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    /// By label values, so that no series is there twice: that would cost the whole scrape.
    series: BTreeMap<Vec<String>, f64>,
}

impl Family {
    fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels, series: BTreeMap::new() }
    }

    fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { kind: MetricType::GAUGE, ..Self::counter(name, labels, help) }
    }

    /// Sets a series; counters of the same labels add up.
    fn put(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), self.labels.len());
        let series = self.series.entry(labels.iter().map(ToString::to_string).collect()).or_default();
        *series = if self.kind == MetricType::COUNTER { *series + value } else { value };
    }

    fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.into());
        family.set_help(self.help.into());
        family.set_field_type(self.kind);
        let metric = |(values, value): (Vec<String>, f64)| {
            let pair = |(name, value): (&&str, String)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_string());
                pair.set_value(value);
                pair
            };
            let mut metric = Metric::from_label(self.labels.iter().zip(values).map(pair).collect());
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        family.set_metric(self.series.into_iter().map(metric).collect());
        family
    }
}

/// The families of a status, those without series too.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number than f64")]
fn families(status: &Status) -> Vec<Family> {
    let flag = |yes: bool| f64::from(u8::from(yes));
    let mut build = Family::gauge("spiked_build_info", &["version"], "1; the labels tell which spiked this is.");
    build.put(&[status.version], 1.0);
    let mut sensor = Family::gauge("spiked_sensor_info", &["sensor"], "1; the label is the sensor's name from the settings.");
    sensor.put(&[&status.sensor], 1.0);
    let mut ready = Family::gauge("spiked_ready", &[], "1 where traffic is captured and judged, as /readyz says.");
    ready.put(&[], flag(status.not_ready.is_none()));

    let interface: &[&str] = &["interface"];
    let mut up = Family::gauge("spiked_interface_up", interface, "1 where frames are being captured from the interface.");
    let mut received = Family::counter(
        "spiked_interface_received_frames_total",
        interface,
        "Frames that capture handed to the workers, by interface.",
    );
    let mut dropped = Family::counter(
        "spiked_interface_dropped_frames_total",
        &["interface", "reason"],
        "Frames lost before they were judged: the kernel's ring was full, the interface lost them, no worker took them in time.",
    );
    let mut reopened = Family::counter(
        "spiked_interface_reopened_total",
        interface,
        "Times that the interface was opened again after it was lost.",
    );
    for i in &status.interfaces {
        up.put(&[&i.name], flag(i.up));
        received.put(&[&i.name], i.received as f64);
        reopened.put(&[&i.name], i.reopened as f64);
        for (reason, &count) in &i.dropped {
            dropped.put(&[&i.name, reason], count as f64);
        }
    }
    let mut depth = Family::gauge("spiked_queue_batches", &[], "Captured batches of frames that wait for a worker.");
    depth.put(&[], status.queue.depth as f64);
    let mut capacity =
        Family::gauge("spiked_queue_capacity_batches", &[], "Batches that may wait before frames are dropped for reason queue.");
    capacity.put(&[], status.queue.capacity as f64);

    let model: &[&str] = &["model"];
    let mut info = Family::gauge(
        "spiked_model_info",
        &["model", "streams", "checksum", "trained_with"],
        "1; which model file is loaded, what its streams are (flow or host) and the file's checksum.",
    );
    let mut loaded =
        Family::gauge("spiked_model_loaded_timestamp_seconds", model, "When the model was loaded, in seconds since the epoch.");
    let mut classes = Family::gauge("spiked_model_classes", model, "Classes that the model knows.");
    let mut threshold = Family::gauge(
        "spiked_threshold",
        &["model", "class"],
        "Homeostatic threshold of the class's (first) neuron, in units of its membrane potential.",
    );
    let mut accuracy = Family::gauge(
        "spiked_learning_accuracy_ratio",
        model,
        "Share of taught streams that the model named right before it was taught them; only where it goes on learning.",
    );
    for l in &status.models {
        let m = &l.model;
        let streams = match m.key {
            crate::packet::KeyKind::Flow => "flow",
            crate::packet::KeyKind::Host => "host",
        };
        info.put(&[&m.name, streams, &l.checksum, &m.provenance.trained_with], 1.0);
        loaded.put(&[&m.name], unix(l.loaded));
        classes.put(&[&m.name], m.classes.len() as f64);
        for (class, &theta) in m.classes.iter().zip(&m.decision.theta) {
            threshold.put(&[&m.name, class], f64::from(theta));
        }
        if let Some(share) = l.learning_accuracy {
            accuracy.put(&[&m.name], share);
        }
    }

    let [learned, tries, held_back, one_in, crowded, failing_to_keep] = learning(status);

    let sink: &[&str] = &["sink"];
    let mut written = Family::counter("spiked_sink_written_events_total", sink, "Events that the sink has taken whole.");
    let mut lost =
        Family::counter("spiked_sink_dropped_events_total", &["sink", "reason"], "Events that a sink lost, by reason.");
    let mut queued = Family::gauge("spiked_sink_queued_events", sink, "Events that wait for the sink.");
    let mut failing = Family::gauge("spiked_sink_failing", sink, "1 from a failed write until the next that succeeds.");
    for s in &status.sinks {
        written.put(&[&s.name], s.written as f64);
        queued.put(&[&s.name], s.queued as f64);
        failing.put(&[&s.name], flag(s.trouble.is_some()));
        for (reason, &count) in &s.dropped {
            lost.put(&[&s.name, reason], count as f64);
        }
    }

    let alert: &[&str] = &["model", "class"];
    let mut sent =
        Family::counter("spiked_alerts_total", alert, "Detections of classes whose policy is alert that were sent as alerts.");
    let mut suppressed =
        Family::counter("spiked_alerts_suppressed_total", alert, "Alerts that the rate limit of class and host kept back.");
    // From the start at 0, or the first alert would be no increase.
    for (m, class) in status.models.iter().flat_map(|l| l.model.classes.iter().map(|c| (&l.model, c))) {
        sent.put(&[&m.name, class], 0.0);
        suppressed.put(&[&m.name, class], 0.0);
    }
    let known = sent.series.clone();
    for a in status.alerts.iter().filter(|a| known.contains_key([a.model.clone(), a.class.clone()].as_slice())) {
        sent.put(&[&a.model, &a.class], a.sent as f64);
        suppressed.put(&[&a.model, &a.class], a.suppressed as f64);
    }

    let mut reloads = Family::counter("spiked_reloads_total", &["result"], "Reloads of settings and models, by result.");
    reloads.put(&["success"], status.reloads.succeeded as f64);
    reloads.put(&["failure"], status.reloads.failed as f64);
    let mut last =
        Family::gauge("spiked_last_reload_successful", &[], "0 where the last reload failed and the old state runs on.");
    last.put(&[], flag(status.reloads.trouble.is_none()));
    let mut when = Family::gauge(
        "spiked_last_successful_reload_timestamp_seconds",
        &[],
        "When settings and models were last read whole, at the start or by a reload, in seconds since the epoch.",
    );
    when.put(&[], status.reloads.last_success.map_or(0.0, unix));
    vec![
        build,
        sensor,
        ready,
        up,
        received,
        dropped,
        reopened,
        depth,
        capacity,
        info,
        loaded,
        classes,
        threshold,
        accuracy,
        learned,
        tries,
        held_back,
        one_in,
        crowded,
        failing_to_keep,
        written,
        lost,
        queued,
        failing,
        sent,
        suppressed,
        reloads,
        last,
        when,
    ]
}

/// Those of live teaching.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number than f64")]
fn learning(status: &Status) -> [Family; 6] {
    let told = &status.learning;
    let class: &[&str] = &["model", "class", "outcome"];
    let mut streams = Family::counter(
        "spiked_learning_streams_total",
        class,
        "Sampled streams that a teacher said are of the class: shown, held_back, full (others are remembered), rate, frozen.",
    );
    let mut attempts = Family::counter(
        "spiked_learning_attempts_total",
        class,
        "Neurons made for a taught class: taken_over, below_gate or worse than the one before.",
    );
    let mut held_back = Family::gauge(
        "spiked_learning_held_back_accuracy_ratio",
        &class[..2],
        "Share of streams held back that are right, the mean of the class's own and the others, when its neuron was last tried.",
    );
    for lesson in told.lessons.iter().filter(|lesson| status.models.iter().any(|l| l.model.name == lesson.model)) {
        let (model, class) = (&lesson.model, &lesson.class);
        for outcome in ["shown", "held_back", "full", "rate", "frozen"] {
            streams.put(&[model, class, outcome], lesson.streams.get(outcome).copied().unwrap_or(0) as f64);
        }
        for outcome in ["taken_over", "below_gate", "worse"] {
            attempts.put(&[model, class, outcome], lesson.attempts.get(outcome).copied().unwrap_or(0) as f64);
        }
        if let Some(share) = lesson.held_back {
            held_back.put(&[model, class], share);
        }
    }
    let mut one_in = Family::gauge(
        "spiked_learning_one_in_streams",
        &[],
        "One stream in so many is sampled for teaching; 0: there is no teacher.",
    );
    one_in.put(&[], f64::from(told.one_in));
    let mut crowded = Family::counter(
        "spiked_learning_crowded_streams_total",
        &[],
        "Sampled streams that there was no room for while their packets came.",
    );
    crowded.put(&[], told.crowded as f64);
    let mut failing = Family::gauge(
        "spiked_learning_checkpoint_failing",
        &[],
        "1 where what was learned last could not be written to its file.",
    );
    failing.put(&[], f64::from(u8::from(told.trouble.is_some())));
    [streams, attempts, held_back, one_in, crowded, failing]
}

/// Where a [`Status`] comes from, whenever one is wanted.
pub type StatusProvider = std::sync::Arc<dyn Fn() -> Status + Send + Sync>;

/// Reads the daemon's status at each scrape.
pub(super) struct StatusCollector(pub StatusProvider);

impl Collector for StatusCollector {
    /// None: the families are not known to collide with others by a test, and registering needs no more.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.0)()).into_iter().map(Family::finish).collect()
    }
}
