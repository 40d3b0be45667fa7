//! Scan of the watched folder for captures that are complete and were not read yet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use tracing::warn;

use super::read_list::{FileVersion, ReadList};
use super::writers::{WriterState, Writers};

/// Endings that uploads give to the names of files that are not complete yet.
const INCOMPLETE: [&str; 4] = [".tmp", ".part", ".partial", ".filepart"];

/// A version of a file, and since when the file has it.
#[derive(Debug)]
struct ObservedVersion {
    version: FileVersion,
    since: Instant,
}

/// The files of a folder, and how far each has got.
pub(super) struct FolderScan {
    folder: PathBuf,
    settle: Duration,
    /// `None` if the folder can't be observed.
    writers: Option<Writers>,
    observed: BTreeMap<OsString, ObservedVersion>,
    read: ReadList,
}

impl FolderScan {
    /// Starts to observe a folder. A file counts as complete after `settle` without a change, unless its writer was seen; the captures
    /// of `read` are not found again.
    pub(super) fn new(folder: &Path, settle: Duration, read: ReadList) -> Self {
        let writers = Writers::observe(folder).inspect_err(|error| {
            warn!(folder = %folder.display(), %error, "can't observe the folder (inotify); captures count as complete when they have not changed for settle_secs");
        });
        Self { folder: folder.into(), settle, writers: writers.ok(), observed: BTreeMap::new(), read }
    }

    /// Reads what happened in the folder; returns whether anything did.
    pub(super) fn update(&mut self) -> bool {
        self.writers.as_mut().is_some_and(Writers::update)
    }

    /// Lists the folder, and returns the oldest capture that is complete and was not read.
    ///
    /// # Errors
    /// If the folder can't be listed.
    pub(super) fn next_complete(&mut self, now: Instant) -> io::Result<Option<PathBuf>> {
        let present = list(&self.folder)?;
        if let Some(writers) = &mut self.writers {
            writers.retain(|name| present.contains_key(name));
        }
        self.observed.retain(|name, _| present.contains_key(name));
        self.read.retain(|name| present.contains_key(name));
        let mut complete = Vec::new();
        for (name, version) in present {
            if self.read.contains(&name, version) {
                continue;
            }
            let observed = self.observed.entry(name.clone()).or_insert_with(|| {
                let age = version.modified.elapsed().unwrap_or_default();
                ObservedVersion { version, since: now.checked_sub(age).unwrap_or(now) }
            });
            if observed.version != version {
                *observed = ObservedVersion { version, since: now };
            }
            let settled = version.size > 0 && now.saturating_duration_since(observed.since) >= self.settle;
            match self.writers.as_ref().and_then(|writers| writers.state(&name)) {
                Some(WriterState::Finished) => complete.push((version.modified, name)),
                None if settled => complete.push((version.modified, name)),
                Some(WriterState::Writing) | None => {}
            }
        }
        Ok(complete.into_iter().min().map(|(_, name)| self.folder.join(name)))
    }

    /// Notes that a capture was read, or can't be read: it is not found again unless it changes.
    pub(super) fn mark_read(&mut self, path: &Path) {
        let Some(name) = path.file_name() else { return };
        if let Some(writers) = &mut self.writers {
            writers.retain(|other| other != name);
        }
        if let Some(observed) = self.observed.remove(name) {
            self.read.insert(name.to_os_string(), observed.version);
        }
    }

    /// Saves the list of captures that were read.
    ///
    /// # Errors
    /// If its file can't be written.
    pub(super) fn save_read_list(&self) -> io::Result<()> {
        self.read.save(&self.folder)
    }

    /// Stops to observe writers, as on a folder that inotify does not support.
    #[cfg(test)]
    pub(super) fn ignore_writers(&mut self) {
        self.writers = None;
    }
}

/// The files of a folder, without hidden ones and those whose names say that they are incomplete.
fn list(folder: &Path) -> io::Result<BTreeMap<OsString, FileVersion>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || INCOMPLETE.iter().any(|ending| text.ends_with(ending)) {
            continue;
        }
        // The file may have been removed since the folder was read.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            files.insert(name, FileVersion { size: metadata.len(), modified: metadata.modified()? });
        }
    }
    Ok(files)
}
