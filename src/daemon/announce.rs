//! How is the daemon found, and how does it say how its reload went? A small file: process, settings, reloads.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the status file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
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

impl Announcement {
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
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        writeln!(file)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    }

    /// Reads what the running daemon wrote.
    ///
    /// # Errors
    /// No daemon has written there, or what is there is not its.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
