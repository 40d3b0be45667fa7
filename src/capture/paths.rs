//! Expansion of paths to captures: a file is itself, a folder is every capture below it, on disk or in an S3 bucket.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::format::Format;
use super::{CaptureError, s3};

/// A path in messages: control characters, which would change a terminal's state, are escaped.
pub fn printable(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text }
}

/// The captures that paths expand to.
#[derive(Debug, Default)]
pub struct ExpandedPaths {
    /// The captures, in the order in which they are read.
    pub captures: Vec<PathBuf>,
    /// Files below the folders that are not captures.
    pub skipped: Vec<PathBuf>,
}

/// Expands paths: files and `-` (standard input) stay as they are, folders become the captures below them, sorted by name.
///
/// # Errors
/// If a folder can't be read or holds no capture, or the server of an `s3://` path can't be asked.
pub fn expand(paths: &[PathBuf]) -> Result<ExpandedPaths, CaptureError> {
    let mut expanded = ExpandedPaths::default();
    for path in paths {
        let before = expanded.captures.len();
        if s3::is_s3(path) {
            let objects = s3::expand(path).map_err(|source| CaptureError::Open { path: printable(path), source })?;
            expanded.captures.extend(objects.captures);
            expanded.skipped.extend(objects.skipped);
        } else if path.is_dir() {
            walk(path, &mut Vec::new(), &mut expanded)?;
        } else {
            expanded.captures.push(path.clone());
        }
        if expanded.captures.len() == before {
            return Err(CaptureError::EmptyFolder { path: printable(path) });
        }
    }
    Ok(expanded)
}

/// Adds what is below `folder`. Symbolic links are followed, but not one to a folder that the walk is in, `within`: its captures would be read
/// again and again.
fn walk(folder: &Path, within: &mut Vec<PathBuf>, expanded: &mut ExpandedPaths) -> Result<(), CaptureError> {
    let open_error = |source| CaptureError::Open { path: printable(folder), source };
    let itself = folder.canonicalize().map_err(open_error)?;
    if within.contains(&itself) {
        return Ok(());
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(open_error)?.map(|e| e.map(|e| e.path())).collect();
    let mut entries = entries.map_err(open_error)?;
    entries.sort();
    within.push(itself);
    for path in entries {
        if path.is_dir() {
            walk(&path, within, expanded)?;
        } else if path.is_file() && looks_like_a_capture(&path) {
            expanded.captures.push(path);
        } else {
            expanded.skipped.push(path);
        }
    }
    within.pop();
    Ok(())
}

/// Judges by the first bytes, or by the name if the file is compressed or empty.
fn looks_like_a_capture(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    if Format::is_capture(&start[..read]) {
        return true;
    }
    has_capture_name(path)
}

/// Whether the name is that of a capture, compressed or not.
pub(super) fn has_capture_name(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = [".gz", ".zst", ".xz", ".lz4"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    [".pcap", ".pcapng", ".cap", ".ntar", ".dmp", ".erf"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_a_folder_above_are_not_followed_and_depth_is_not_limited() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("top");
        let deep = (0..40).fold(top.clone(), |path, _| path.join("d"));
        fs::create_dir_all(&deep).expect("created");
        for capture in [top.join("a.pcap"), deep.join("b.pcap"), folder.path().join("c.pcap")] {
            fs::write(capture, "").expect("written");
        }
        for (link, target) in [("self", "."), ("again", "."), ("d/up", "../..")] {
            std::os::unix::fs::symlink(target, top.join(link)).expect("linked");
        }
        let captures = expand(std::slice::from_ref(&top)).expect("readable").captures;
        // Through `d/up` the folder above is reached, once, and `top` not again.
        assert_eq!(captures, [top.join("a.pcap"), deep.join("b.pcap"), top.join("d/up/c.pcap")]);
    }
}
