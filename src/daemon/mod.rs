//! How does it run all day? Signals, reload, policies, watchdog, privileges, logging, and what it says of itself.
//!
//! Input: a [`crate::config::Config`]. The main thread opens what must be opened, gives up privileges, and then runs the engine and
//! hears what it finds (`observer`); one more thread, the `keeper`, takes signals, reloads and feeds systemd's watchdog.

mod alerts;
mod harden;
mod log;
mod mailbox;
mod notify;
mod observer;
mod policy;
mod preflight;
mod reload;
mod run;
mod state;
mod status_file;
mod supervisor;
mod teaching;

pub use policy::{Judgement, Policies};
pub use preflight::{Preflight, preflight};
pub use run::{DaemonError, End, run};
pub use status_file::{ReloadOutcome, StatusFile};

/// How settings are found again: the file and what lies over it.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    pub path: std::path::PathBuf,
    pub overrides: Vec<crate::config::Override>,
}

impl ConfigSource {
    /// Reads the settings.
    ///
    /// # Errors
    /// As [`crate::config::Config::load`].
    pub fn load(&self) -> Result<crate::config::Config, crate::config::ConfigError> {
        crate::config::Config::load(&self.path, &self.overrides)
    }
}
