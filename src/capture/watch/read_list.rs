//! List of the captures that were read, kept in the watched folder over restarts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::SystemTime;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;

/// Name of the list's file: one JSON array of name and version a line.
const FILE: &str = ".spiked-read";

/// Size and modification time of a file: if they are the same, the file counts as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct FileVersion {
    pub size: u64,
    pub modified: SystemTime,
}

/// The captures that were read, in the version that was read.
#[derive(Default)]
pub(super) struct ReadList(BTreeMap<OsString, FileVersion>);

impl ReadList {
    /// Loads the list of a folder; empty if there is none. Lines that can't be parsed are ignored: these captures are read again.
    pub(super) fn load(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        Self(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Replaces the list of a folder.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        let lines: io::Result<Vec<String>> = self.0.iter().map(|entry| Ok(serde_json::to_string(&entry)? + "\n")).collect();
        replace(&folder.join(FILE), 0o644, lines?.concat().as_bytes())
    }

    pub(super) fn contains(&self, name: &OsStr, version: FileVersion) -> bool {
        self.0.get(name) == Some(&version)
    }

    pub(super) fn insert(&mut self, name: OsString, version: FileVersion) {
        self.0.insert(name, version);
    }

    /// Forgets the captures that `keep` returns `false` for.
    pub(super) fn retain(&mut self, keep: impl Fn(&OsStr) -> bool) {
        self.0.retain(|name, _| keep(name));
    }
}
