//! What does SIGHUP do? Settings and models are read anew and examined whole; only then do they take the place of the old, under
//! way and without a packet lost. What is bad leaves all as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use crate::config::{AlertsConfig, Config};
use crate::engine::Models;
use crate::export::Metrics;

use super::log::Level;
use super::mailbox::Mailbox;
use super::policy::Policies;
use super::preflight::preflight;
use super::state::{DaemonState, lock};
use super::status_file::{ReloadOutcome, StatusFile};
use super::{ConfigSource, notify};

/// All that a reload touches.
pub(super) struct Reloader {
    pub origin: ConfigSource,
    /// The settings that run.
    pub config: Config,
    pub state: Arc<DaemonState>,
    pub metrics: Option<Arc<Metrics>>,
    pub models: Arc<ArcSwap<Models>>,
    pub mailbox: Arc<Mailbox<(Policies, AlertsConfig)>>,
    pub level: Level,
    pub announcement: StatusFile,
}

/// Settings whose change waits for a restart.
fn wants_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("sensor", old.sensor != new.sensor),
        ("interfaces, replay or watch", old.input != new.input),
        ("capture", old.capture != new.capture),
        ("engine", old.engine != new.engine),
        ("sinks", old.sinks != new.sinks),
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
    /// Reads all anew; files are opened anew in any case.
    pub fn reload(&mut self) {
        notify::reloading();
        lock(&self.state.sinks).iter().for_each(crate::export::sink::SinkHandle::reopen);
        let outcome = match self.attempt() {
            Ok(what) => {
                info!("reloaded: {what}");
                ReloadOutcome { ok: true, what }
            }
            Err(what) => {
                error!("reload failed, the old settings and models stay: {what}");
                ReloadOutcome { ok: false, what }
            }
        };
        {
            let mut reloads = lock(&self.state.reloads);
            if outcome.ok {
                reloads.succeeded += 1;
                reloads.last_error = None;
                reloads.last_success = Some(SystemTime::now());
            } else {
                reloads.failed += 1;
                reloads.last_error = Some(outcome.what.clone());
            }
        }
        self.announcement.reloads += 1;
        self.announcement.last_reload = Some(outcome);
        self.announce();
        notify::ready(&self.state.summary());
    }

    /// Writes the status file.
    pub fn announce(&self) {
        let path = &self.config.process.status_file;
        if let Err(error) = self.announcement.write(path) {
            warn!(file = %path.display(), %error, "can't write the status file; `spiked reload` will not find this daemon");
        }
    }

    fn attempt(&mut self) -> Result<String, String> {
        let new = self.origin.load().map_err(|error| error.to_string())?;
        let examined = preflight(&new).map_err(|wrong| {
            let hint = if self.config.process.harden && self.config.models != new.models {
                " (a hardened daemon sees only the folders that its settings named at the start)"
            } else {
                ""
            };
            wrong.join("; ") + hint
        })?;
        let restart = wants_restart(&self.config, &new);
        for name in &restart {
            warn!(setting = name, "the setting has changed, and waits for a restart");
        }
        let learned = self.state.teaching.hold();
        let mut models = examined.models;
        let loaded = learned.apply(&mut models);
        let names: Vec<String> = loaded.iter().map(|l| format!("{} ({})", l.model.name, l.checksum)).collect();
        if let Some(metrics) = &self.metrics {
            metrics.models(&models);
        }
        self.models.store(Arc::new(models));
        *lock(&self.state.loaded) = loaded;
        drop(learned);
        self.state.teaching.teachers.post(new.teachers.clone());
        self.mailbox.post((examined.policies, new.alerts.clone()));
        self.level.set(new.log.level);
        // What waits for a restart is still as it was: the next reload must name it again.
        self.config.models = new.models;
        self.config.policies = new.policies;
        self.config.alerts = new.alerts;
        self.config.teachers = new.teachers;
        self.config.log.level = new.log.level;
        let waits = if restart.is_empty() { String::new() } else { format!("; waits for a restart: {}", restart.join(", ")) };
        Ok(format!("models {}, {} policies{waits}", names.join(", "), self.config.policies.len()))
    }

    pub fn stopping(&self) -> bool {
        self.state.stop.load(Relaxed)
    }
}
