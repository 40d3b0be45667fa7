//! Disposal of captures after reading: left, moved or deleted if they were read, quarantined if not.

use std::path::{Path, PathBuf};
use std::{fs, io};

use tracing::warn;

use crate::capture::CaptureError;

/// Most names that are tried for a file whose own name is taken in the destination folder.
const MAX_NAMES: u32 = 10_000;

/// Moves a capture that can't be read into the quarantine folder, and writes the reason to a file beside it.
pub(super) fn quarantine(path: &Path, folder: &Path, error: &CaptureError) {
    match move_into(path, folder) {
        Ok(to) => {
            warn!(capture = %path.display(), %error, to = %to.display(), "capture can't be read; moved to the quarantine folder");
            let reason = PathBuf::from(format!("{}.reason", to.display()));
            if let Err(error) = fs::write(&reason, format!("{error}\n")) {
                warn!(file = %reason.display(), %error, "can't write why the capture is in the quarantine folder");
            }
        }
        // It stays where it is, and is not tried again until it changes.
        Err(move_error) => {
            warn!(capture = %path.display(), %error, folder = %folder.display(), %move_error, "capture can't be read, and can't be moved to the quarantine folder");
        }
    }
}

/// Moves a file into a folder, which is created if needed. If its name is taken there, a number is put in front.
///
/// # Errors
/// If the folder can't be created or the file can't be moved.
pub(super) fn move_into(path: &Path, folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut to = folder.join(&name);
    for number in 1..MAX_NAMES {
        if !to.exists() {
            break;
        }
        to = folder.join(format!("{number}-{name}"));
    }
    match fs::rename(path, &to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(path, &to)?;
            fs::remove_file(path)?;
        }
        other => other?,
    }
    Ok(to)
}
