//! Reload on SIGHUP: settings and models are loaded and checked completely; only then they replace the running ones, without loss of
//! packets. If the check fails, nothing changes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use crate::config::{AlertsConfig, Config};
use crate::engine::Models;
use crate::export::Metrics;

use super::log::Level;
use super::policy::Policies;
use super::preflight::preflight;
use super::state::DaemonState;
use super::status_file::{ReloadOutcome, StatusFile};
use super::{ConfigSource, PendingUpdate, notify};

/// State that a reload changes.
pub(super) struct Reloader {
    pub source: ConfigSource,
    /// The settings in use.
    pub config: Config,
    pub state: Arc<DaemonState>,
    pub metrics: Option<Arc<Metrics>>,
    pub models: Arc<ArcSwap<Models>>,
    /// Policies and alert limits for the observer, which takes them after its next batch.
    pub new_policies: Arc<PendingUpdate<(Policies, AlertsConfig)>>,
    pub level: Level,
    pub status_file: StatusFile,
}

/// Settings that differ and need a restart to take effect.
fn need_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("sensor", old.sensor != new.sensor),
        ("interfaces, replay or watch", old.input != new.input),
        ("capture", old.capture != new.capture),
        ("engine", old.engine != new.engine),
        ("sinks", old.sinks != new.sinks),
        ("fleet", old.fleet != new.fleet),
        ("metrics", old.metrics != new.metrics),
        ("learning", old.learning != new.learning),
        ("evidence", old.evidence != new.evidence),
        ("log.format", old.log.format != new.log.format),
        ("process", old.process != new.process),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

impl Reloader {
    /// Reloads settings and models, and reopens the files of the sinks, even if the reload fails.
    pub fn reload(&mut self) {
        notify::reloading();
        let answer = self.state.reload_answer.lock().take();
        self.state.sinks.lock().iter().for_each(crate::export::sink::SinkHandle::reopen);
        let outcome = match self.attempt() {
            Ok(what) => {
                info!("reloaded: {what}");
                ReloadOutcome { ok: true, what }
            }
            Err(what) => {
                error!("reload failed, keeping the old settings and models");
                // A line for each mistake: a line feed in a message is escaped.
                what.lines().for_each(|line| error!("{line}"));
                ReloadOutcome { ok: false, what }
            }
        };
        {
            let mut reloads = self.state.reloads.lock();
            if outcome.ok {
                reloads.succeeded += 1;
                reloads.last_error = None;
                reloads.last_success = Some(SystemTime::now());
            } else {
                reloads.failed += 1;
                reloads.last_error = Some(outcome.what.clone());
            }
        }
        if let Some(answer) = answer {
            // Nobody waits any more after a time-out.
            let _ = answer.try_send(if outcome.ok { Ok(()) } else { Err(outcome.what.clone()) });
        }
        self.status_file.reloads += 1;
        self.status_file.last_reload = Some(outcome);
        self.write_status_file();
        notify::ready(&self.state.summary());
    }

    /// Writes the status file.
    pub fn write_status_file(&self) {
        let path = &self.config.process.status_file;
        if let Err(error) = self.status_file.write(path) {
            warn!(file = %path.display(), %error, "can't write the status file; `spiked reload` will not find this daemon");
        }
    }

    /// Loads, checks and applies; returns a summary, or what is wrong.
    fn attempt(&mut self) -> Result<String, String> {
        let new = self.source.load().map_err(|error| error.to_string())?;
        let preflight = preflight(&new, false).map_err(|error| {
            let hint = if self.config.process.harden && self.config.models != new.models {
                " (a hardened daemon can only access the folders that its settings named at the start)"
            } else {
                ""
            };
            format!("{error}{hint}")
        })?;
        let restart = need_restart(&self.config, &new);
        for name in &restart {
            warn!(setting = name, "setting changed; restart to apply it");
        }
        let learned = self.state.teaching.hold();
        let mut models = preflight.models;
        let loaded = learned.apply(&mut models);
        let names: Vec<String> = loaded.iter().map(|l| format!("{} ({})", l.model.name, l.checksum)).collect();
        if let Some(metrics) = &self.metrics {
            metrics.models(&models);
        }
        self.models.store(Arc::new(models));
        *self.state.loaded.lock() = loaded;
        drop(learned);
        self.state.teaching.new_teachers.store(Some(Box::new(new.teachers.clone())));
        self.new_policies.store(Some(Box::new((preflight.policies, new.alerts.clone()))));
        self.level.set(new.log.level);
        // Settings that need a restart keep their old values here, so that the next reload reports them again.
        self.config.models = new.models;
        self.config.policies = new.policies;
        self.config.alerts = new.alerts;
        self.config.teachers = new.teachers;
        self.config.log.level = new.log.level;
        let pending = if restart.is_empty() { String::new() } else { format!("; restart to apply: {}", restart.join(", ")) };
        Ok(format!("models {}, {} policies{pending}", names.join(", "), self.config.policies.len()))
    }

    pub fn stopping(&self) -> bool {
        self.state.stop.load(Relaxed)
    }
}
