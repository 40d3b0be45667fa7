//! How is a file replaced? Whole or not at all: whoever reads it, and whoever finds it after a crash, has the old or the new one.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How half-written files end, whose names begin with a dot and the file's own.
const HALF: &str = ".half";
/// What is older was left by a process that was killed.
const LEFT: Duration = Duration::from_secs(3600);

/// Puts `octets` in the place of what there is at `path`, with permissions `mode`: written beside it, synced, renamed.
///
/// # Errors
/// Where the folder can't be written; the old file is then as it was.
pub fn replace(path: &Path, mode: u32, octets: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut begin = std::ffi::OsString::from(".");
    begin.push(name);
    begin.push(".");
    let mut half = tempfile::Builder::new().prefix(&begin).suffix(HALF).tempfile_in(folder)?;
    half.write_all(octets)?;
    half.as_file().set_permissions(Permissions::from_mode(mode))?;
    half.as_file().sync_all()?;
    half.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()?;
    remove_left(folder, &begin.to_string_lossy());
    Ok(())
}

/// Removes what was left half written. What can't be removed does no harm.
fn remove_left(folder: &Path, begin: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().strip_prefix(begin).is_some_and(|rest| rest.ends_with(HALF)) {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > LEFT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_is_there_whole_and_what_a_killed_process_left_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let [left, young, other] = [".a.x1.half", ".a.x2.half", ".b.x3.half"].map(|name| folder.path().join(name));
        for file in [&left, &young, &other] {
            fs::write(file, "hal").expect("written");
        }
        for file in [&left, &other] {
            let old = std::time::SystemTime::now() - 2 * LEFT;
            File::options().write(true).open(file).and_then(|f| f.set_modified(old)).expect("dated");
        }
        for octets in [b"one".as_slice(), b"", b"two"] {
            replace(&path, 0o640, octets).expect("room");
            assert_eq!(fs::read(&path).expect("there"), octets);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!([left, young, other].map(|file| file.exists()), [false, true, true]);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 3, "nothing else is left");
    }

    #[test]
    fn a_folder_that_is_none_is_an_error_and_nothing_is_left() {
        assert!(replace(Path::new("/proc/none/a"), 0o644, b"x").is_err());
        assert!(replace(Path::new("/"), 0o644, b"x").is_err());
    }
}
