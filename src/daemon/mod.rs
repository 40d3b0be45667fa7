//! The daemon: signals, reload, policies, watchdog, privileges, logging and status.
//!
//! Input: a [`crate::config::Config`]. The main thread opens files and sockets, drops privileges, and then runs the engine, whose
//! results go to the `observer`. The `supervisor` thread handles signals, reloads and systemd's watchdog.

mod alerts;
#[cfg(feature = "fleet")]
mod fleet;
mod harden;
mod log;
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
pub use preflight::{Preflight, check, preflight};
pub use run::{DaemonError, End, run};
pub use status_file::{ReloadOutcome, StatusFile};

/// Slot for one pending update from one thread to another: a newer update replaces an older one, and taking it never blocks.
/// The box keeps the value at the size of a pointer, so that the cell is lock-free.
type PendingUpdate<T> = crossbeam_utils::atomic::AtomicCell<Option<Box<T>>>;

/// Sources of the settings, for reloading: the file and the overrides.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// Settings file.
    pub path: std::path::PathBuf,
    /// Overrides of the environment and the command line.
    pub overrides: Vec<crate::config::Override>,
}

impl ConfigSource {
    /// Reads and validates the settings.
    ///
    /// # Errors
    /// As [`crate::config::Config::load`].
    pub fn load(&self) -> Result<crate::config::Config, crate::config::ConfigError> {
        crate::config::Config::load(&self.path, &self.overrides)
    }
}
