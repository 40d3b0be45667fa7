//! `spiked fleet exporter`: metrics of the fleet for Prometheus, and the list of its sensors as HTTP service discovery.
//!
//! Input: the reports and records of the buckets, the state of the streams and of the queue, read every [`INTERVAL`]. Output: `/metrics`
//! and `/sd`. Scrapes do not reach the servers. A reader's permissions suffice.
//!
//! The servers remove a report after a minute, so the exporter remembers the sensors. What it can't know at its start, the sensors that
//! ended before, it takes from the last events of each sensor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::{self, stream};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::{Encoder as _, TextEncoder};
use serde_json::{Value, json};

use crate::config::FleetConfig;
use crate::export::family::{Family, flag, value};
use crate::export::http::TEXT;
use crate::export::status::unix;

use super::connection::{Connection, FleetError};
use super::jobs::{JobQueue, RESULTS_STREAM};
use super::models::{FleetOverview, SensorReport, overview, seconds};
use super::tail::{StreamPart, read};
use super::{EVENTS_STREAM, EVENTS_SUBJECT};

/// Interval at which the servers are asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time until another attempt to connect.
const RETRY: Duration = Duration::from_secs(2);
/// Time that one reading may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Interval at which the loop looks whether a signal has ended it.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// A sensor that reports, or did.
#[derive(Clone, Debug, Default)]
struct KnownSensor {
    /// Its group; empty: it has not reported since the start of the exporter.
    group: String,
    /// Host and port of its metrics.
    metrics: Option<String>,
    /// Time of its last report, in seconds since 1970; `None`: it has not reported since the start of the exporter.
    reported: Option<f64>,
    /// Time of its last report or event.
    seen: f64,
}

/// A stream of the servers.
#[derive(Clone, Debug)]
struct StreamUsage {
    name: &'static str,
    messages: u64,
    bytes: u64,
    /// Size in bytes at which it is full; `None`: no limit.
    limit: Option<u64>,
    /// Time of the oldest message, in seconds since 1970; `None`: it has none.
    oldest: Option<f64>,
    /// Copies that it should have, and those that are complete.
    replicas: (u64, u64),
}

/// What was read from the servers.
#[derive(Debug, Default)]
struct FleetView {
    /// Whether the last reading succeeded.
    up: bool,
    /// Why the last reading failed.
    last_error: Option<String>,
    /// Time of the last reading that succeeded, in seconds since 1970.
    read: f64,
    overview: FleetOverview,
    streams: Vec<StreamUsage>,
    /// Jobs that wait and that are in work.
    jobs: (u64, u64),
    known: BTreeMap<String, KnownSensor>,
}

/// The exporter.
pub struct Exporter {
    view: Arc<Mutex<FleetView>>,
    /// Time without a report after which a sensor is left out.
    forget: Duration,
}

impl Exporter {
    /// An exporter that has read nothing yet, and that leaves sensors out which have not reported for `forget`.
    pub fn new(forget: Duration) -> Self {
        Self { view: Arc::default(), forget }
    }

    /// The paths that it serves.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/metrics", get(async |State(view): State<Arc<Mutex<FleetView>>>| metrics(&view.lock())))
            .route("/sd", get(async |State(view): State<Arc<Mutex<FleetView>>>| targets(&view.lock())))
            .route("/readyz", get(async |State(view): State<Arc<Mutex<FleetView>>>| ready(&view.lock())))
            .fallback(async || (StatusCode::NOT_FOUND, "not found; available paths: /metrics, /sd, /readyz\n"))
            .with_state(Arc::clone(&self.view))
    }

    /// Reads from the servers until `stop` is set. `report` is called with each new reason why they can't be read.
    pub async fn run(&self, config: &FleetConfig, stop: &AtomicBool, mut report: impl FnMut(&str)) {
        let stopped = async {
            while !stop.load(Relaxed) {
                tokio::time::sleep(STOP_CHECK).await;
            }
        };
        let reading = async {
            loop {
                let Err(error) = self.session(config).await;
                let error = error.to_string();
                let new = {
                    let mut view = self.view.lock();
                    view.up = false;
                    view.last_error.replace(error.clone()).is_none_or(|last| last != error)
                };
                if new {
                    report(&error);
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = stopped => {}
            () = reading => {}
        }
    }

    /// Reads until the connection fails.
    async fn session(&self, config: &FleetConfig) -> Result<std::convert::Infallible, FleetError> {
        let connection = Connection::open(config, &config.sensor).await?;
        if self.view.lock().read == 0.0 {
            let senders = senders(&connection).await?;
            let known = |seen| KnownSensor { seen, ..KnownSensor::default() };
            self.view.lock().known = senders.into_iter().map(|(name, seen)| (name, known(seen))).collect();
        }
        loop {
            let reading = async {
                let overview = overview(&connection).await?;
                let streams = [usage(&connection, EVENTS_STREAM).await?, usage(&connection, RESULTS_STREAM).await?].into();
                Ok::<_, FleetError>((overview, streams, JobQueue::open(&connection).await?.backlog().await?))
            };
            // A list of keys waits for ever if the server dies while it sends it.
            let Ok(read) = tokio::time::timeout(PATIENCE, reading).await else {
                return Err(FleetError::Connection("no server answers".into()));
            };
            let (overview, streams, jobs) = read?;
            self.update(overview, streams, jobs);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                violation = connection.errors.violation() => return Err(violation),
            }
        }
    }

    fn update(&self, overview: FleetOverview, streams: Vec<StreamUsage>, jobs: (u64, u64)) {
        let now = unix(SystemTime::now());
        let mut view = self.view.lock();
        for (name, sensor) in &overview.sensors {
            let seen = overview.reported.get(name).copied().unwrap_or(now);
            let (group, metrics) = (sensor.group.clone(), sensor.metrics.clone());
            view.known.insert(name.clone(), KnownSensor { group, metrics, reported: Some(seen), seen });
        }
        let forget = self.forget.as_secs_f64();
        view.known.retain(|_, sensor| sensor.seen > now - forget);
        *view =
            FleetView { up: true, last_error: None, read: now, overview, streams, jobs, known: std::mem::take(&mut view.known) };
    }
}

/// The sensors that have events in the stream, and the time of the last one of each, in seconds since 1970.
async fn senders(connection: &Connection) -> Result<BTreeMap<String, f64>, FleetError> {
    let part = StreamPart {
        stream: EVENTS_STREAM,
        subject: format!("{EVENTS_SUBJECT}.*.*"),
        deliver: DeliverPolicy::LastPerSubject,
        until_now: true,
    };
    let mut senders = BTreeMap::new();
    read(connection, &part, |message| {
        let sensor = message.subject.strip_prefix(EVENTS_SUBJECT).and_then(|rest| rest.split('.').nth(1));
        if let (Some(sensor), Ok(info)) = (sensor, message.info()) {
            let last = senders.entry(sensor.to_string()).or_insert(0.0_f64);
            *last = last.max(seconds(info.published.unix_timestamp_nanos()));
        }
        true
    })
    .await?;
    Ok(senders)
}

/// The state of a stream.
async fn usage(connection: &Connection, name: &'static str) -> Result<StreamUsage, FleetError> {
    let context = jetstream::new(connection.client.clone());
    let stream = context.get_stream(name).await.map_err(|error| {
        let error = connection.explain(error);
        FleetError::Server(format!("{name}: {error}; run `spiked fleet init`"))
    })?;
    let stream::Info { config, state, cluster, .. } = stream.cached_info();
    let complete = match cluster {
        Some(cluster) => {
            let others = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count();
            others as u64 + u64::from(cluster.leader.is_some())
        }
        None => 1,
    };
    Ok(StreamUsage {
        name,
        messages: state.messages,
        bytes: state.bytes,
        limit: u64::try_from(config.max_bytes).ok().filter(|&limit| limit > 0),
        oldest: (state.messages > 0).then(|| seconds(state.first_timestamp.unix_timestamp_nanos())),
        replicas: (config.num_replicas as u64, complete),
    })
}

/// Targets as Prometheus' HTTP service discovery reads them: one for each sensor that has reported an address.
fn targets(view: &FleetView) -> axum::Json<Value> {
    let target = |(name, sensor): (&String, &KnownSensor)| {
        let address = sensor.metrics.as_ref()?;
        Some(json!({ "targets": [address], "labels": { "sensor": name, "group": sensor.group } }))
    };
    axum::Json(view.known.iter().filter_map(target).collect())
}

fn ready(view: &FleetView) -> Response {
    if view.up {
        return "ok\n".into_response();
    }
    let why = view.last_error.as_deref().unwrap_or("the servers have not answered yet");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn metrics(view: &FleetView) -> Response {
    let up = Family::gauge("spiked_fleet_up", &[], "Whether the last reading from the fleet's servers succeeded (1).");
    let time = Family::gauge(
        "spiked_fleet_last_read_timestamp_seconds",
        &[],
        "Time of the last successful reading from the fleet's servers, in seconds since the Unix epoch.",
    );
    let mut families = vec![up.with(flag(view.up)), time.with(view.read)];
    families.extend(known(view));
    // What the servers had before they were away is not what they have now.
    if view.up {
        families.extend(sensors(&view.overview));
        families.extend(spools(&view.overview));
        families.extend(models(&view.overview));
        families.extend(streams(view));
    }
    let families: Vec<_> = families.into_iter().filter(|family| !family.is_empty()).map(Family::into_proto).collect();
    let mut text = Vec::new();
    match TextEncoder::new().encode(&families, &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Labels of the families about a sensor.
const SENSOR: &[&str] = &["sensor", "group"];

/// The families about all sensors that report, or did.
fn known(view: &FleetView) -> [Family; 2] {
    let mut up = Family::gauge("spiked_fleet_sensor_up", SENSOR, "Whether the sensor has reported in the last minute (1).");
    let mut time = Family::gauge(
        "spiked_fleet_sensor_last_report_timestamp_seconds",
        SENSOR,
        "Time of the sensor's last report, in seconds since the Unix epoch.",
    );
    for (name, sensor) in &view.known {
        if view.up {
            up.set(&[name, &sensor.group], flag(view.overview.sensors.contains_key(name)));
        }
        if let Some(reported) = sensor.reported {
            time.set(&[name, &sensor.group], reported);
        }
    }
    [up, time]
}

/// The families about sensors that report.
fn sensors(overview: &FleetOverview) -> [Family; 4] {
    let mut info = Family::gauge(
        "spiked_fleet_sensor_info",
        &["sensor", "group", "version"],
        "Version of spiked that the sensor runs, in a label; the value is always 1.",
    );
    let mut dropped = Family::counter(
        "spiked_fleet_sensor_dropped_frames_total",
        SENSOR,
        "Total number of frames that the sensor dropped before they were classified.",
    );
    let mut failing = Family::gauge(
        "spiked_fleet_sensor_failing",
        SENSOR,
        "Whether an input, a sink or the last reload of the sensor fails (1); `spiked fleet status` shows the reason.",
    );
    let mut denied = Family::gauge(
        "spiked_fleet_sensor_permission_denied",
        SENSOR,
        "Whether the servers do not permit the sensor to publish its events (1).",
    );
    for (name, sensor) in &overview.sensors {
        let labels: &[&str] = &[name, &sensor.group];
        info.set(&[name, &sensor.group, &sensor.version], 1.0);
        dropped.set(labels, value(sensor.drops));
        failing.set(labels, flag(sensor.last_error.is_some()));
        denied.set(labels, flag(sensor.permission_denied));
    }
    [info, dropped, failing, denied]
}

/// The families about the events of sensors that send them.
fn spools(overview: &FleetOverview) -> [Family; 5] {
    let mut events = Family::gauge(
        "spiked_fleet_sensor_spool_events",
        SENSOR,
        "Number of events of the sensor that no server has acknowledged.",
    );
    let mut bytes = Family::gauge("spiked_fleet_sensor_spool_bytes", SENSOR, "Size of the sensor's spool in bytes.");
    let mut limit =
        Family::gauge("spiked_fleet_sensor_spool_limit_bytes", SENSOR, "Maximum size of the sensor's spool in bytes.");
    let mut written = Family::counter(
        "spiked_fleet_sensor_written_events_total",
        SENSOR,
        "Total number of events of the sensor that the servers have acknowledged.",
    );
    let mut dropped = Family::counter(
        "spiked_fleet_sensor_dropped_events_total",
        SENSOR,
        "Total number of events that the sensor dropped, since its spool was full for example.",
    );
    for (name, sensor) in &overview.sensors {
        let Some(spool) = &sensor.spool else { continue };
        let labels: &[&str] = &[name, &sensor.group];
        events.set(labels, value(spool.events));
        bytes.set(labels, value(spool.bytes));
        limit.set(labels, value(spool.limit));
        written.set(labels, value(spool.written));
        dropped.set(labels, value(spool.dropped));
    }
    [events, bytes, limit, written, dropped]
}

/// The families about models: what was published, and what sensors run.
fn models(overview: &FleetOverview) -> [Family; 6] {
    let labels: &[&str] = &["sensor", "group", "model"];
    let mut published =
        Family::gauge("spiked_fleet_published_version", &["group", "model"], "Version of the model that was published last.");
    let mut percent = Family::gauge(
        "spiked_fleet_published_percent",
        &["group", "model"],
        "Share of the sensors of the group that should run the version that was published last, in percent.",
    );
    let mut version = Family::gauge(
        "spiked_fleet_sensor_model_version",
        labels,
        "Version of the fleet's model that the sensor runs; 0: none of the fleet's.",
    );
    let mut wanted =
        Family::gauge("spiked_fleet_sensor_model_wanted_version", labels, "Version of the model that the sensor should run.");
    let mut behind = Family::gauge(
        "spiked_fleet_sensor_model_behind",
        labels,
        "Whether the sensor runs another version of the model than it should (1).",
    );
    let mut refused = Family::counter(
        "spiked_fleet_sensor_model_refused_total",
        &["sensor", "group", "model", "reason"],
        "Total number of versions of the model that the sensor refused, by reason.",
    );
    for (key, record) in &overview.models {
        let Some((group, model)) = key.split_once('.') else { continue };
        published.set(&[group, model], value(record.current.version));
        percent.set(&[group, model], f64::from(record.percent));
    }
    let of_sensor = |(name, sensor): (&String, &SensorReport)| {
        for model in &sensor.models {
            let labels: &[&str] = &[name, &sensor.group, &model.name];
            version.set(labels, value(model.version));
            let target = overview.wanted(name, sensor, &model.name).map_or(model.version, |wanted| wanted.version);
            wanted.set(labels, value(target));
            behind.set(labels, flag(target != model.version));
            for (reason, &count) in &model.refused {
                refused.set(&[name, &sensor.group, &model.name, reason], value(count));
            }
        }
    };
    overview.sensors.iter().for_each(of_sensor);
    [published, percent, version, wanted, behind, refused]
}

/// The families about the servers' streams and the queue.
fn streams(view: &FleetView) -> Vec<Family> {
    let labels: &[&str] = &["stream"];
    let mut messages = Family::gauge("spiked_fleet_stream_messages", labels, "Number of messages of the stream.");
    let mut bytes = Family::gauge("spiked_fleet_stream_bytes", labels, "Size of the stream in bytes.");
    let mut limit = Family::gauge(
        "spiked_fleet_stream_limit_bytes",
        labels,
        "Size in bytes at which SPIKED_EVENTS loses its oldest events, and SPIKED_RESULTS takes no more results.",
    );
    let mut oldest = Family::gauge(
        "spiked_fleet_stream_oldest_timestamp_seconds",
        labels,
        "Time of the oldest message of the stream, in seconds since the Unix epoch.",
    );
    let mut replicas = Family::gauge("spiked_fleet_stream_replicas", labels, "Number of copies that the stream should have.");
    let mut complete =
        Family::gauge("spiked_fleet_stream_current_replicas", labels, "Number of copies of the stream that are up to date.");
    for stream in &view.streams {
        let labels: &[&str] = &[stream.name];
        messages.set(labels, value(stream.messages));
        bytes.set(labels, value(stream.bytes));
        stream.limit.into_iter().for_each(|bytes| limit.set(labels, value(bytes)));
        stream.oldest.into_iter().for_each(|time| oldest.set(labels, time));
        replicas.set(labels, value(stream.replicas.0));
        complete.set(labels, value(stream.replicas.1));
    }
    let mut jobs = Family::gauge("spiked_fleet_jobs", &["state"], "Number of captures in the queue: waiting, in_work.");
    jobs.set(&["waiting"], value(view.jobs.0));
    jobs.set(&["in_work"], value(view.jobs.1));
    let invalid = Family::gauge(
        "spiked_fleet_invalid_entries",
        &[],
        "Number of records of models and reports of sensors that are not valid; `spiked fleet status` lists them.",
    );
    vec![messages, bytes, limit, oldest, replicas, complete, jobs, invalid.with(value(view.overview.invalid.len() as u64))]
}
