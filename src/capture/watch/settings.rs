//! Settings of a watched folder.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens to a capture after it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    /// It stays where it is; a file in the folder records that it was read.
    #[default]
    Leave,
    /// It is moved to [`WatchSettings::move_to`].
    Move,
    /// Delete the capture.
    Delete,
}

/// A folder whose captures are read as they are completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// The folder to watch.
    pub folder: PathBuf,
    /// What to do with a capture after it was read.
    pub on_success: Disposition,
    /// Destination of captures that were read, for [`Disposition::Move`].
    pub move_to: Option<PathBuf>,
    /// Destination of captures that can't be read, each with a file that gives the reason.
    pub quarantine_folder: PathBuf,
    /// How long a capture must stay unchanged to count as complete, unless its writer was seen to close it.
    pub settle: Duration,
    /// BPF filter.
    pub filter: Option<String>,
}
