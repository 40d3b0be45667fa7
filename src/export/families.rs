//! Metric families derived from the daemon's [`Status`].
//!
//! They are computed at each scrape, so the series of an interface, a sink or a class end when it is gone.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::family::{Family, flag, value};
use super::status::{Status, unix};
use crate::packet::KeyKind;

/// Returns the daemon's present [`Status`].
pub type StatusProvider = std::sync::Arc<dyn Fn() -> Status + Send + Sync>;

/// Computes the families of the daemon's status at each scrape.
pub(super) struct StatusCollector(pub StatusProvider);

impl Collector for StatusCollector {
    /// Returns nothing: a registry uses descriptions only to detect name collisions, and a test covers those.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = (self.0)();
        let groups = [
            daemon(&status),
            interfaces(&status),
            queue(&status),
            models(&status),
            learning(&status),
            sinks(&status),
            alerts(&status),
            reloads(&status),
            fleet(&status),
        ];
        groups.into_iter().flatten().map(Family::into_proto).collect()
    }
}

fn daemon(status: &Status) -> Vec<Family> {
    let mut build = Family::gauge("spiked_build_info", &["version"], "Version of spiked, in a label; the value is always 1.");
    build.set(&[status.version], 1.0);
    let mut sensor = Family::gauge(
        "spiked_sensor_info",
        &["sensor"],
        "Name of the sensor from the settings, in a label; the value is always 1.",
    );
    sensor.set(&[&status.sensor], 1.0);
    let ready = Family::gauge("spiked_ready", &[], "Whether traffic is being captured and classified (1), as /readyz reports.")
        .with(flag(status.not_ready.is_none()));
    vec![build, sensor, ready]
}

fn interfaces(status: &Status) -> Vec<Family> {
    let labels: &[&str] = &["interface"];
    let mut up =
        Family::gauge("spiked_interface_up", labels, "Whether frames are being captured from the interface (1) or not (0).");
    let mut received = Family::counter(
        "spiked_interface_received_frames_total",
        labels,
        "Total number of frames captured from the interface and passed to the workers.",
    );
    let mut dropped = Family::counter(
        "spiked_interface_dropped_frames_total",
        &["interface", "reason"],
        "Total number of frames dropped before they were classified: kernel (the capture buffer was full), interface (by the network \
         card or its driver), queue (no worker was free).",
    );
    let mut reopened = Family::counter(
        "spiked_interface_reopens_total",
        labels,
        "Total number of times the interface was reopened after it had disappeared or been set down.",
    );
    let mut copies = Family::counter(
        "spiked_interface_duplicate_frames_total",
        labels,
        "Total number of compared frames that are identical to one of the few before them, from mirror ports or programs that repeat \
         themselves. They are left out if engine.drop_duplicates is set.",
    );
    let mut compared = Family::counter(
        "spiked_interface_compared_frames_total",
        labels,
        "Total number of frames that were compared with those before them to find copies: a sample, or all if copies are left out.",
    );
    for interface in &status.interfaces {
        let name = interface.name.as_str();
        copies.set(&[name], value(interface.copies));
        compared.set(&[name], value(interface.compared));
        up.set(&[name], flag(interface.up));
        received.set(&[name], value(interface.received));
        reopened.set(&[name], value(interface.reopened));
        for (reason, &count) in &interface.dropped {
            dropped.set(&[name, reason], value(count));
        }
    }
    vec![up, received, dropped, copies, compared, reopened]
}

fn queue(status: &Status) -> Vec<Family> {
    let depth = Family::gauge("spiked_queue_batches", &[], "Number of captured batches that wait for a worker.");
    let capacity = Family::gauge(
        "spiked_queue_capacity_batches",
        &[],
        "Maximum number of captured batches that may wait; frames beyond that are dropped with reason queue.",
    );
    vec![depth.with(value(status.queue.depth)), capacity.with(value(status.queue.capacity))]
}

fn models(status: &Status) -> Vec<Family> {
    let labels: &[&str] = &["model"];
    let mut info = Family::gauge(
        "spiked_model_info",
        &["model", "streams", "checksum", "trained_with"],
        "Loaded model: kind of streams (flow or host), checksum of the file and training data, in labels; the value is always 1.",
    );
    let mut loaded = Family::gauge(
        "spiked_model_loaded_timestamp_seconds",
        labels,
        "Time at which the model was loaded, in seconds since the Unix epoch.",
    );
    let mut classes = Family::gauge("spiked_model_classes", labels, "Number of classes of the model.");
    let mut threshold = Family::gauge(
        "spiked_threshold",
        &["model", "class"],
        "Homeostatic threshold of the class's first neuron, in units of its membrane potential.",
    );
    let mut accuracy = Family::gauge(
        "spiked_learning_accuracy_ratio",
        labels,
        "Share of recent labelled streams classified correctly before training on them, for models that learn live.",
    );
    for loaded_model in &status.models {
        let model = &loaded_model.model;
        let name = model.name.as_str();
        let streams = match model.key {
            KeyKind::Flow => "flow",
            KeyKind::Host => "host",
        };
        info.set(&[name, streams, &loaded_model.checksum, &model.provenance.trained_with], 1.0);
        loaded.set(&[name], unix(loaded_model.loaded));
        classes.set(&[name], value(model.classes.len() as u64));
        for (class, &theta) in model.classes.iter().zip(&model.decision.theta) {
            threshold.set(&[name, class], f64::from(theta));
        }
        if let Some(share) = loaded_model.learning_accuracy {
            accuracy.set(&[name], share);
        }
    }
    vec![info, loaded, classes, threshold, accuracy]
}

fn learning(status: &Status) -> Vec<Family> {
    let learning = &status.learning;
    let labels: &[&str] = &["model", "class", "outcome"];
    let mut streams = Family::counter(
        "spiked_learning_streams_total",
        labels,
        "Total number of sampled streams that a teacher labelled with the class: shown (used for training), held_back (held out for \
         testing), full (the replay buffer was full), rate (over the rate limit), frozen (learning is frozen).",
    );
    let mut attempts = Family::counter(
        "spiked_learning_attempts_total",
        labels,
        "Total number of neurons trained for the class: accepted, below_min_accuracy, worse (than the neuron in use).",
    );
    let mut held_back = Family::gauge(
        "spiked_learning_held_back_accuracy_ratio",
        &labels[..2],
        "Balanced accuracy on held-out streams, the mean over positive and negative ones, at the last training of the class's neuron.",
    );
    for task in learning.tasks.iter().filter(|task| status.models.iter().any(|m| m.model.name == task.model)) {
        let (model, class) = (&task.model, &task.class);
        for outcome in ["shown", "held_back", "full", "rate", "frozen"] {
            streams.set(&[model, class, outcome], value(task.streams.get(outcome).copied().unwrap_or(0)));
        }
        for outcome in ["accepted", "below_min_accuracy", "worse"] {
            attempts.set(&[model, class, outcome], value(task.attempts.get(outcome).copied().unwrap_or(0)));
        }
        if let Some(share) = task.held_back {
            held_back.set(&[model, class], share);
        }
    }
    let one_in = Family::gauge(
        "spiked_learning_one_in_streams",
        &[],
        "Sampling interval of live learning: one in this many streams is sampled; 0 without a teacher and without models of a fleet.",
    )
    .with(f64::from(learning.one_in));
    let mut dropped = Family::counter(
        "spiked_learning_streams_dropped_total",
        &["reason"],
        "Total number of sampled streams dropped before they were complete: buffer_full (no room for their packets).",
    );
    dropped.set(&["buffer_full"], value(learning.buffer_full));
    let failing = Family::gauge(
        "spiked_learning_checkpoint_failing",
        &[],
        "Whether the last checkpoint of what was learned could not be written (1).",
    )
    .with(flag(learning.last_error.is_some()));
    vec![streams, attempts, held_back, one_in, dropped, failing]
}

fn fleet(status: &Status) -> Vec<Family> {
    let Some(fleet) = &status.fleet else { return Vec::new() };
    let connected = Family::gauge("spiked_fleet_connected", &[], "Whether the fleet's servers answer (1).");
    let mut version = Family::gauge(
        "spiked_fleet_model_version",
        &["model"],
        "Version of the fleet's model that runs; 0: none of the fleet's.",
    );
    let mut failing = Family::gauge(
        "spiked_fleet_model_failing",
        &["model"],
        "Whether the version of the fleet's model that should run was refused (1).",
    );
    let mut refused = Family::counter(
        "spiked_fleet_model_refused_total",
        &["model", "reason"],
        "Total number of versions of the fleet's model that were refused, by reason.",
    );
    let mut streams = Family::gauge(
        "spiked_fleet_canary_streams",
        &["model"],
        "Number of recent streams, named by the running model, on which the last version of the fleet's model was tried.",
    );
    let mut lost = Family::gauge(
        "spiked_fleet_canary_lost_streams",
        &["model"],
        "Number of these streams to which the version gave another class or none.",
    );
    for model in &fleet.models {
        if let Some(canary) = &model.canary {
            streams.set(&[&model.name], value(canary.streams));
            lost.set(&[&model.name], value(canary.lost));
        }
        version.set(&[&model.name], value(model.version));
        failing.set(&[&model.name], flag(model.last_error.is_some()));
        for (reason, &count) in &model.refused {
            refused.set(&[&model.name, reason], value(count));
        }
    }
    vec![connected.with(flag(fleet.connected)), version, failing, refused, streams, lost]
}

fn sinks(status: &Status) -> Vec<Family> {
    let labels: &[&str] = &["sink"];
    let mut written = Family::counter("spiked_sink_written_events_total", labels, "Total number of events written by the sink.");
    let mut dropped = Family::counter(
        "spiked_sink_dropped_events_total",
        &["sink", "reason"],
        "Total number of events dropped by the sink, by reason.",
    );
    let mut queued = Family::gauge("spiked_sink_queued_events", labels, "Number of events that wait to be written.");
    let mut failing =
        Family::gauge("spiked_sink_failing", labels, "Whether the last write failed (1); 0 after a write that succeeded.");
    for sink in &status.sinks {
        let name = sink.name.as_str();
        written.set(&[name], value(sink.written));
        queued.set(&[name], value(sink.queued));
        failing.set(&[name], flag(sink.last_error.is_some()));
        for (reason, &count) in &sink.dropped {
            dropped.set(&[name, reason], value(count));
        }
    }
    vec![written, dropped, queued, failing]
}

fn alerts(status: &Status) -> Vec<Family> {
    let labels: &[&str] = &["model", "class"];
    let mut sent =
        Family::counter("spiked_alerts_total", labels, "Total number of alerts sent, for classes whose policy is alert.");
    let mut suppressed = Family::counter(
        "spiked_alerts_suppressed_total",
        labels,
        "Total number of alerts suppressed by the rate limit per class and host.",
    );
    // Every series exists from the start with the value 0: otherwise increase() would miss the first alert.
    for (model, class) in status.models.iter().flat_map(|m| m.model.classes.iter().map(|class| (&m.model.name, class))) {
        sent.set(&[model, class], 0.0);
        suppressed.set(&[model, class], 0.0);
    }
    // A class of a model that was replaced has no series any more.
    for alert in status.alerts.iter().filter(|a| sent.contains(&[a.model.clone(), a.class.clone()])).collect::<Vec<_>>() {
        sent.set(&[&alert.model, &alert.class], value(alert.sent));
        suppressed.set(&[&alert.model, &alert.class], value(alert.suppressed));
    }
    vec![sent, suppressed]
}

fn reloads(status: &Status) -> Vec<Family> {
    let reloads = &status.reloads;
    let mut total =
        Family::counter("spiked_reloads_total", &["result"], "Total number of reloads of settings and models, by result.");
    total.set(&["success"], value(reloads.succeeded));
    total.set(&["failure"], value(reloads.failed));
    let successful = Family::gauge(
        "spiked_last_reload_successful",
        &[],
        "Whether the last reload succeeded (1); after a failed one (0) the previous settings and models stay in use.",
    )
    .with(flag(reloads.last_error.is_none()));
    let time = Family::gauge(
        "spiked_last_successful_reload_timestamp_seconds",
        &[],
        "Time at which settings and models were last loaded successfully, at the start or by a reload, in seconds since the Unix epoch.",
    )
    .with(reloads.last_success.map_or(0.0, unix));
    vec![total, successful, time]
}
