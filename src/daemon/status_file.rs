//! How is the daemon found, and how does it say how its reload went? A small file: process, settings, reloads.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;

/// What the status file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    pub pid: u32,
    pub version: String,
    /// The settings' file.
    pub config: PathBuf,
    /// Reloads since the start, good and bad.
    pub reloads: u64,
    pub last_reload: Option<ReloadOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadOutcome {
    pub ok: bool,
    /// What was wrong, or what changed and what waits for a restart.
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

    /// Writes it whole or not at all.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(path, 0o644, &text)
    }

    /// Reads what the running daemon wrote.
    ///
    /// # Errors
    /// No daemon has written there, or what is there is not its.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
