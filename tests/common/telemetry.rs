//! Input for the metrics of a daemon in tests: captures run through the engine, and a status with an example of every state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use spiked::capture::CaptureFile;
use spiked::engine::{self, Counters, EngineSettings, Observer, Output, Progress, SpikeCounts};
use spiked::export::Metrics;
use spiked::export::status::{
    AlertCounts, InterfaceStatus, LearningStatus, LearningTaskStatus, LoadedModel, QueueStatus, ReloadStatus, SinkStatus, Status,
};
use spiked::model::Model;

/// Metrics and the status that they read, which the test may change.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub status: Arc<Mutex<Status>>,
    pub models: Vec<Arc<Model>>,
}

/// The status of a sensor with an interface that drops frames, an interface that is down, a failing sink, alerts and a failed reload.
pub fn status(models: &[Arc<Model>]) -> Status {
    let mut status = Status::new("hall-3");
    status.not_ready = None;
    status.started = SystemTime::now() - Duration::from_secs(93_784);
    let up = InterfaceStatus {
        name: "eth0".into(),
        up: true,
        filter: Some("not port 22".into()),
        received: 1_204_311,
        dropped: BTreeMap::from([("kernel", 17), ("interface", 0), ("queue", 3)]),
        ..InterfaceStatus::default()
    };
    let down = InterfaceStatus {
        name: "eth1".into(),
        last_error: Some("it was deleted; looking for it again".into()),
        reopened: 2,
        ..up.clone()
    };
    status.interfaces =
        vec![up, InterfaceStatus { up: false, filter: None, received: 0, dropped: BTreeMap::from([("kernel", 0)]), ..down }];
    status.models = models.iter().map(|m| LoadedModel::now(Arc::clone(m))).collect();
    status.models[0].learning_accuracy = Some(0.97);
    status.queue = QueueStatus { depth: 3, capacity: 64 };
    let file = SinkStatus {
        name: "file".into(),
        written: 812,
        dropped: BTreeMap::from([("disk_full", 0)]),
        queued: 1,
        last_error: None,
    };
    let socket = SinkStatus {
        name: "socket".into(),
        dropped: BTreeMap::from([("disconnected", 41), ("slow", 0)]),
        last_error: Some("/run/spiked/events.sock: connection refused".into()),
        ..file.clone()
    };
    status.sinks = vec![file, socket];
    let (model, class) = (models[0].name.clone(), models[0].classes[0].clone());
    let task = LearningTaskStatus {
        model: model.clone(),
        class: "backup".into(),
        held_back: Some(0.96),
        ..LearningTaskStatus::default()
    };
    status.learning = LearningStatus { tasks: vec![task], one_in: 1, ..LearningStatus::default() };
    status.alerts = vec![AlertCounts { model, class, sent: 4, suppressed: 9 }];
    let last_error = Some("spiked.toml:12: unknown key 'interfcae'; did you mean 'interface'?".into());
    status.reloads = ReloadStatus { succeeded: 1, failed: 1, last_error, last_success: Some(SystemTime::now()) };
    status.hardening = vec!["capabilities dropped".into(), "landlock to 3 folders".into()];
    status
}

/// Passes the engine's output to the metrics.
struct MetricsObserver<'a>(&'a Metrics);

impl Observer for MetricsObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.0.verdict(verdict),
            Output::Progress(progress) => self.0.progress(progress),
            Output::Episode(episode) => self.0.episode(episode),
            Output::Packet(_) | Output::Spike { .. } => {}
        }
    }
}

impl Telemetry {
    pub fn new(models: Vec<Arc<Model>>) -> Self {
        let status = Arc::new(Mutex::new(status(&models)));
        let asked = Arc::clone(&status);
        let metrics = Arc::new(Metrics::new(Arc::new(move || asked.lock().unwrap().clone())));
        metrics.models(&models);
        Self { metrics, status, models }
    }

    pub fn built_in() -> Self {
        Self::new(vec![Arc::new(Model::built_in().unwrap())])
    }

    /// Runs a capture of the fixtures through the engine, then reports what only a live source does: spikes, queues, lag.
    pub fn replay(&self, capture: &str) {
        let mut source = CaptureFile::open(&super::fixture("captures").join(capture)).unwrap();
        let mut settings = EngineSettings::new(self.models.clone());
        settings.workers = 2;
        let counters = engine::run(&settings, &mut source, &mut MetricsObserver(&self.metrics)).unwrap();
        {
            let mut status = self.status.lock().unwrap();
            status.interfaces[0].received += counters.frames;
            *status.interfaces[0].dropped.get_mut("kernel").unwrap() += 1;
        }
        let spikes = self.models.iter().map(|m| SpikeCounts { model: Arc::clone(m), counts: vec![1; m.classes.len()] }).collect();
        let (busy, idle, lag) = (Duration::from_millis(240), Duration::from_millis(760), Some(Duration::from_millis(12)));
        let counters = Counters { spikes, ..Counters::default() };
        self.metrics.progress(&Progress { worker: 0, counters: &counters, live: 41, queue: 2, busy, idle, clock: None, lag });
        self.metrics.progress(&Progress {
            worker: 1,
            counters: &Counters::default(),
            live: 2,
            queue: 0,
            busy,
            idle,
            clock: None,
            lag,
        });
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.metrics.text()).unwrap()
    }

    /// The value of one series, as `name{label="value"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}
