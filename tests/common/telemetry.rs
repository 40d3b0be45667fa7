//! What a daemon's metrics are fed with in tests: captures through the engine, and a status that has something of everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use spiked::capture::CaptureFile;
use spiked::engine::{self, Counters, EngineSettings, Observer, Progress, SpikeCounts, Verdict};
use spiked::export::Metrics;
use spiked::export::status::{Alerts, Interface, Learning, LearningTaskStatus, LoadedModel, Queue, Reloads, Sink, Status};
use spiked::model::Model;

/// Metrics, and the status behind them, to be changed by the test.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub status: Arc<Mutex<Status>>,
    pub models: Vec<Arc<Model>>,
}

/// A sensor with one interface that drops, one that is down, a sink that fails, alerts and a failed reload.
pub fn status(models: &[Arc<Model>]) -> Status {
    let mut status = Status::new("hall-3");
    status.not_ready = None;
    status.started = SystemTime::now() - Duration::from_secs(93_784);
    let up = Interface {
        name: "eth0".into(),
        up: true,
        filter: Some("not port 22".into()),
        received: 1_204_311,
        dropped: BTreeMap::from([("kernel", 17), ("interface", 0), ("queue", 3)]),
        ..Interface::default()
    };
    let down = Interface {
        name: "eth1".into(),
        trouble: Some("it was deleted; looking for it again".into()),
        reopened: 2,
        ..up.clone()
    };
    status.interfaces =
        vec![up, Interface { up: false, filter: None, received: 0, dropped: BTreeMap::from([("kernel", 0)]), ..down }];
    status.models = models.iter().map(|m| LoadedModel::now(Arc::clone(m))).collect();
    status.models[0].learning_accuracy = Some(0.97);
    status.queue = Queue { depth: 3, capacity: 64 };
    let file = Sink { name: "file".into(), written: 812, dropped: BTreeMap::from([("disk_full", 0)]), queued: 1, trouble: None };
    let socket = Sink {
        name: "socket".into(),
        dropped: BTreeMap::from([("disconnected", 41), ("slow", 0)]),
        trouble: Some("/run/spiked/events.sock: connection refused".into()),
        ..file.clone()
    };
    status.sinks = vec![file, socket];
    let (model, class) = (models[0].name.clone(), models[0].classes[0].clone());
    let lesson = LearningTaskStatus {
        model: model.clone(),
        class: "backup".into(),
        held_back: Some(0.96),
        ..LearningTaskStatus::default()
    };
    status.learning = Learning { lessons: vec![lesson], one_in: 1, ..Learning::default() };
    status.alerts = vec![Alerts { model, class, sent: 4, suppressed: 9 }];
    let trouble = Some("spiked.toml:12: unknown key 'interfcae'; did you mean 'interface'?".into());
    status.reloads = Reloads { succeeded: 1, failed: 1, trouble, last_success: Some(SystemTime::now()) };
    status.hardening = vec!["capabilities dropped".into(), "landlock to 3 folders".into()];
    status
}

/// Hands on what the engine tells.
struct Told<'a>(&'a Metrics);

impl Observer for Told<'_> {
    fn verdict(&mut self, verdict: &Verdict) {
        self.0.verdict(verdict);
    }

    fn progress(&mut self, progress: &Progress<'_>) {
        self.0.progress(progress);
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

    /// Puts a capture of the fixtures through the engine, then what a live source would tell more: spikes, queues, lag.
    pub fn replay(&self, capture: &str) {
        let mut source = CaptureFile::open(&super::fixture("captures").join(capture)).unwrap();
        let mut settings = EngineSettings::new(self.models.clone());
        settings.workers = 2;
        let counters = engine::run(&settings, &mut source, &mut Told(&self.metrics)).unwrap();
        {
            let mut status = self.status.lock().unwrap();
            status.interfaces[0].received += counters.frames;
            *status.interfaces[0].dropped.get_mut("kernel").unwrap() += 1;
        }
        let spikes = self.models.iter().map(|m| SpikeCounts { model: Arc::clone(m), counts: vec![1; m.classes.len()] }).collect();
        let (busy, idle, lag) = (Duration::from_millis(240), Duration::from_millis(760), Some(Duration::from_millis(12)));
        let counters = Counters { spikes, ..Counters::default() };
        self.metrics.progress(&Progress { worker: 0, counters: &counters, live: 41, queue: 2, busy, idle, lag });
        self.metrics.progress(&Progress { worker: 1, counters: &Counters::default(), live: 2, queue: 0, busy, idle, lag });
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.metrics.text()).unwrap()
    }

    /// The value of one series, as `name{label="value"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}
