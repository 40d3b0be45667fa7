//! The sensor's part of the fleet's models: fetches the version that it is to run, checks it, installs it, and reports.
//!
//! ```text
//! record (key-value) ──> file (object store) ──> SHA-256, signature, load, layout ──> canary ──> folder ──> reload ──> report
//! ```
//! A version that fails a check is refused and the model that runs stays. The canary is a trial on recent streams of the sensor, for versions
//! that are newer than the one that runs: a rollback must not need the consent of the model that it replaces. What the canary has refused is
//! recorded in the folder, since the streams are gone after a restart. The file in the folder is the last good copy, which serves
//! while no server can be reached, also at the start. If the reload fails, the file before is restored.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_nats::{Message, jetstream};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::atomic_write::replace;
use crate::config::FleetConfig;
use crate::export::status::{FleetModelStatus, FleetStatus, SpoolStatus};
use crate::model::Model;
use crate::train::live::StreamSlots;

use super::canary::canary;
use super::connection::{Connection, FleetError, PERMISSION_DENIED, hosts, runtime};
use super::models::{Buckets, FLEET_BUCKET, ModelReport, ModelVersion, STATUS_BUCKET, SensorReport};
use super::verify::{CanaryRefusal, Refusal, TrustedKeys, copy_path, good_copy};
use super::votes::{self, TRIALS_SUBJECT};

/// Interval at which the records are read again and the report is repeated. The servers remove a report after a minute.
const INTERVAL: Duration = Duration::from_secs(15);
/// Time from the notice of a change until it can be read, since a notice is sent before the change is stored.
const SETTLE: Duration = Duration::from_millis(50);
/// Time after the first reading of a change until the second: a copy of the bucket may lag behind.
const LAG: Duration = Duration::from_secs(1);
/// Time until another attempt to connect.
const RETRY: Duration = Duration::from_secs(2);

/// Finds a running model by its name.
pub type FindModel = Box<dyn Fn(&str) -> Option<Arc<Model>> + Send>;
/// Makes another model of one; `None`: it can't be made.
pub type ChangeModel = Box<dyn Fn(&Model) -> Option<Model> + Send>;
/// Finds the recent streams of a model.
pub type FindStreams = Box<dyn Fn(&Model) -> Vec<Arc<StreamSlots>> + Send>;

/// What the receiver needs of the daemon.
pub struct SensorHooks {
    /// Replaces the running models by those in the folder; the error is why it failed.
    pub reload: Box<dyn Fn() -> Result<(), String> + Send>,
    /// The running model of a name.
    pub running: FindModel,
    /// A model with the neurons that were learned for it, as a reload makes it; `None`: they do not fit it.
    pub with_learned: ChangeModel,
    /// Recent streams on which a model is tried.
    pub streams: FindStreams,
    /// The daemon's part of the report: drops and the last error.
    pub report: Box<dyn Fn() -> SensorReport + Send>,
}

/// The receiver's thread; it ends when this is dropped.
pub struct Receiver {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts the thread, which keeps `status` up to date. A server that can't be reached is not an error.
    ///
    /// # Errors
    /// A key of the settings is not a valid one, or the system has no more threads.
    pub fn start(config: &FleetConfig, hooks: SensorHooks, status: Arc<Mutex<FleetStatus>>) -> io::Result<Self> {
        let keys = TrustedKeys::new(config)?;
        let stop = Arc::new(Notify::new());
        let mut session = Session { config: config.clone(), keys, hooks, status, refused: HashMap::new(), may_vote: true };
        session.restore();
        let (runtime, stopped) = (runtime()?, Arc::clone(&stop));
        let thread = thread::Builder::new().name("fleet-models".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = session.run() => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Messages of curators.
type Requests = BoxStream<'static, Message>;

struct Session {
    config: FleetConfig,
    keys: TrustedKeys,
    hooks: SensorHooks,
    status: Arc<Mutex<FleetStatus>>,
    /// Versions that were refused for good, by model: they are not fetched again.
    refused: HashMap<String, ModelVersion>,
    /// Whether the server allows to read requests for votes, as far as known.
    may_vote: bool,
}

impl Session {
    /// Reads which versions are in the folder.
    fn restore(&mut self) {
        let mut models = Vec::new();
        for name in &self.config.models {
            // One that does not pass the checks does not run either: the start has reported it.
            let version = good_copy(&self.config, name).ok().flatten().map(|(version, _)| version);
            let state = if version.is_some() { "installed" } else { "waiting" };
            let (version, sha256) = version.map_or((0, String::new()), |version| (version.version, version.sha256));
            let mut status = FleetModelStatus { name: name.clone(), version, sha256, state, ..FleetModelStatus::default() };
            if let Some(refusal) = CanaryRefusal::read(&self.config, name) {
                status.state = "refused";
                status.refused_version = Some(refusal.version.version);
                status.last_error = Some(refusal.error);
                status.canary = Some(refusal.canary);
                self.refused.insert(name.clone(), refusal.version);
            }
            models.push(status);
        }
        let mut status = self.status.lock();
        status.group.clone_from(&self.config.group);
        status.servers = hosts(&self.config);
        status.models = models;
    }

    async fn run(&mut self) {
        loop {
            let Err(error) = self.session().await;
            let error = error.to_string();
            if self.may_vote && error.contains(PERMISSION_DENIED) && error.contains(TRIALS_SUBJECT) {
                self.may_vote = false;
                warn!(%error, "this sensor does not vote; write the servers' settings again with `spiked fleet server-config`");
                continue;
            }
            let spool = spool_status(&(self.hooks.report)());
            let new = {
                let mut status = self.status.lock();
                status.spool = spool;
                (status.connected, status.server) = (false, None);
                status.last_error.replace(error.clone()).is_none_or(|last| last != error)
            };
            if new {
                warn!(%error, "no connection to the fleet: it gets no report; the last good copies of its models serve");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Works until the connection fails.
    async fn session(&mut self) -> Result<std::convert::Infallible, FleetError> {
        let connection = Connection::open(&self.config, &self.config.sensor).await?;
        let subject = format!("$KV.{FLEET_BUCKET}.model.{}.*", self.config.group);
        let mut changes = connection.client.subscribe(subject).await.map_err(|error| connection.explain(error))?;
        // A sensor that takes no models reports only.
        let buckets = if self.config.models.is_empty() { None } else { Some(Buckets::open(&connection).await?) };
        let mut trials = self.trials(&connection).await?;
        let mut again = INTERVAL;
        loop {
            if let Some(buckets) = &buckets {
                for name in self.config.models.clone() {
                    self.update(buckets, &name).await?;
                }
            }
            {
                let mut status = self.status.lock();
                status.connected = true;
                status.server = Some(connection.client.server_info().server_name);
                status.last_error = None;
            }
            self.report(&connection).await?;
            tokio::select! {
                change = changes.next() => {
                    if change.is_none() {
                        return Err(FleetError::Connection("the connection was closed".into()));
                    }
                    tokio::time::sleep(SETTLE).await;
                    again = LAG;
                }
                () = tokio::time::sleep(again) => again = INTERVAL,
                // Without a subscription there is nothing to wait for.
                Some(request) = trials.next() => self.vote(&connection, &request).await?,
                violation = connection.errors.violation() => return Err(violation),
            }
        }
    }

    /// Requests for votes.
    async fn trials(&self, connection: &Connection) -> Result<Requests, FleetError> {
        if self.config.models.is_empty() || !self.may_vote {
            return Ok(futures_util::stream::empty().boxed());
        }
        let trials = connection.client.subscribe(format!("{TRIALS_SUBJECT}.{}", self.config.group)).await;
        Ok(trials.map_err(|error| connection.explain(error))?.boxed())
    }

    /// Tries a part on recent streams and sends what it found.
    async fn vote(&self, connection: &Connection, request: &Message) -> Result<(), FleetError> {
        let Some((subject, vote)) = votes::answer(&self.config.sensor, request, &self.hooks.running, &self.hooks.streams) else {
            warn!("a request for a vote is not valid");
            return Ok(());
        };
        info!(subject, vote = %String::from_utf8_lossy(&vote), "part tried for the curator");
        connection.client.publish(subject, vote.into()).await.map_err(|error| connection.explain(error))
    }

    /// Installs the version of a model that this sensor is to run, if it is another than the one that it has.
    async fn update(&mut self, buckets: &Buckets, name: &str) -> Result<(), FleetError> {
        let record = match buckets.record(&self.config.group, name).await {
            Ok(Some((record, _))) => record,
            Ok(None) => return Ok(()),
            Err(FleetError::Record(error)) => {
                self.refuse(name, "record", error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(wanted) = record.for_sensor(&self.config.sensor).cloned() else { return Ok(()) };
        let installed = self.status.lock().models.iter().find(|m| m.name == name).map(|m| m.sha256.clone()).unwrap_or_default();
        if self.refused.get(name) == Some(&wanted) {
            return Ok(());
        }
        let result = if installed == wanted.sha256 {
            self.keep(name, &wanted)
        } else {
            match buckets.file(&wanted.sha256).await {
                Ok(Some(bytes)) => self.accept(name, &wanted, &bytes),
                Ok(None) => Err(Refusal::new("missing", format!("no complete file has the SHA-256 {}", wanted.sha256))),
                Err(error) => return Err(error),
            }
        };
        self.record_result(name, &wanted, result);
        Ok(())
    }

    /// Records that the installed file has another number of version.
    fn keep(&self, name: &str, wanted: &ModelVersion) -> Result<(), Refusal> {
        let known = self.status.lock().models.iter().any(|m| m.name == name && m.version == wanted.version);
        if known { Ok(()) } else { self.write_record(name, wanted) }
    }

    fn write_record(&self, name: &str, version: &ModelVersion) -> Result<(), Refusal> {
        let folder = |error: io::Error| Refusal::new("folder", error.to_string());
        let text = serde_json::to_vec_pretty(version).map_err(|error| folder(error.into()))?;
        replace(&copy_path(&self.config, name, "json"), 0o644, &text).map_err(folder)
    }

    /// Checks a file and installs it.
    fn accept(&self, name: &str, version: &ModelVersion, bytes: &[u8]) -> Result<(), Refusal> {
        self.keys.verify(name, version, bytes)?;
        let path = copy_path(&self.config, name, "safetensors");
        let model = Model::from_bytes(bytes, &path).map_err(|error| Refusal::new("unreadable", error.to_string()))?;
        let layout = |model: &Model| serde_json::to_value(&model.layout).ok();
        if (self.hooks.running)(name).is_some_and(|running| layout(&running) != layout(&model)) {
            return Err(Refusal::new("layout", "its inputs are not those of the running model"));
        }
        self.try_newer(name, version, &model)?;
        let files = [path.clone(), copy_path(&self.config, name, "json")];
        let before = files.each_ref().map(|file| fs::read(file).ok());
        let folder = |error: io::Error| Refusal::new("folder", error.to_string());
        // The reload checks the file by its record.
        self.write_record(name, version)?;
        replace(&path, 0o644, bytes).map_err(folder)?;
        let Err(error) = (self.hooks.reload)() else { return Ok(()) };
        for (file, before) in files.iter().zip(before) {
            let restored = before.map_or_else(|| fs::remove_file(file), |before| replace(file, 0o644, &before));
            restored.map_err(folder)?;
        }
        Err(Refusal::new("reload", error))
    }

    /// Tries a model on recent streams of the sensor if its version is newer than the one that runs.
    fn try_newer(&self, name: &str, version: &ModelVersion, model: &Model) -> Result<(), Refusal> {
        let is_newer = self.status.lock().models.iter().any(|m| m.name == name && m.version < version.version);
        let Some(running) = (self.hooks.running)(name).filter(|_| is_newer) else { return Ok(()) };
        let new = (self.hooks.with_learned)(model);
        let result = canary(
            &self.config.canary,
            version.version,
            (&running, new.as_ref().unwrap_or(model)),
            &(self.hooks.streams)(&running),
        );
        info!(model = name, result = %result.status, "model of the fleet tried");
        if let Some(m) = self.status.lock().models.iter_mut().find(|m| m.name == name) {
            m.canary = Some(result.status);
        }
        result.refusal.map_or(Ok(()), |reason| Err(Refusal::new("canary", reason)))
    }

    fn record_result(&mut self, name: &str, version: &ModelVersion, result: Result<(), Refusal>) {
        match result {
            Ok(()) => {
                let mut status = self.status.lock();
                let Some(model) = status.models.iter_mut().find(|m| m.name == name) else { return };
                if model.version != version.version {
                    info!(model = name, version = version.version, "model of the fleet installed");
                }
                model.version = version.version;
                model.sha256.clone_from(&version.sha256);
                model.state = "installed";
                model.last_error = None;
                model.refused_version = None;
                self.refused.remove(name);
                drop(status);
                CanaryRefusal::remove(&self.config, name);
            }
            Err(refusal) => {
                let error = format!("version {} refused ({}): {}", version.version, refusal.reason, refusal.details);
                self.refuse(name, refusal.reason, error.clone());
                let mut status = self.status.lock();
                let Some(model) = status.models.iter_mut().find(|m| m.name == name) else { return };
                model.refused_version = Some(version.version);
                if let Some(canary) = model.canary.clone().filter(|_| refusal.reason == "canary") {
                    let record = CanaryRefusal { version: version.clone(), error, canary };
                    if let Err(error) = record.write(&self.config, name) {
                        warn!(model = name, %error, "the refusal is lost at the next start");
                    }
                }
                if !refusal.is_temporary() {
                    self.refused.insert(name.into(), version.clone());
                }
            }
        }
    }

    /// Records why a model is not the one that it should be; a repetition is neither logged nor counted.
    fn refuse(&self, name: &str, reason: &'static str, error: String) {
        let mut status = self.status.lock();
        let Some(model) = status.models.iter_mut().find(|m| m.name == name) else { return };
        if model.last_error.as_ref() != Some(&error) {
            warn!(model = name, %error, "model of the fleet refused");
            *model.refused.entry(reason).or_default() += 1;
        }
        model.state = "refused";
        model.last_error = Some(error);
        model.refused_version = None;
    }

    async fn report(&self, connection: &Connection) -> Result<(), FleetError> {
        let mut report = (self.hooks.report)();
        report.version = env!("CARGO_PKG_VERSION").into();
        report.group.clone_from(&self.config.group);
        let model = |m: &FleetModelStatus| ModelReport {
            name: m.name.clone(),
            version: m.version,
            sha256: m.sha256.clone(),
            state: m.state.into(),
            last_error: m.last_error.clone(),
            refused_version: m.refused_version,
            canary: m.canary.clone(),
            refused: m.refused.iter().map(|(reason, &count)| (reason.to_string(), count)).collect(),
        };
        {
            let mut status = self.status.lock();
            report.models = status.models.iter().map(model).collect();
            status.spool = spool_status(&report);
        }
        let text = serde_json::to_vec(&report).map_err(|error| FleetError::Server(error.to_string()))?;
        let context = jetstream::new(connection.client.clone());
        let subject = format!("$KV.{STATUS_BUCKET}.{}", self.config.sensor);
        let sent = context.publish(subject, text.into()).await.map_err(|error| connection.explain(error))?;
        connection.answer(sent).await?.map(drop).map_err(|error| connection.explain(error))
    }
}

fn spool_status(report: &SensorReport) -> Option<SpoolStatus> {
    report.spool.as_ref().map(|spool| SpoolStatus { events: spool.events, bytes: spool.bytes, limit: spool.limit })
}
