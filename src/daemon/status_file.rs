//! Status file: process id, settings file and outcome of the last reload, for `spiked reload`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;

/// Contents of the status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Settings file.
    pub config: PathBuf,
    /// Reloads since the start, successful and failed.
    pub reloads: u64,
    /// Outcome of the last reload; `None`: none yet.
    pub last_reload: Option<ReloadOutcome>,
}

/// Outcome of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadOutcome {
    /// The reload succeeded.
    pub ok: bool,
    /// What is wrong; or what is loaded, and which settings need a restart.
    pub what: String,
}

impl StatusFile {
    pub(super) fn new(config: &Path) -> Self {
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            config: config.into(),
            reloads: 0,
            last_reload: None,
        }
    }

    /// Writes the file atomically.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(path, 0o644, &text)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The file can't be read, or is not a status file.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
