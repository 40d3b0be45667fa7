//! Atomic replacement of a file: readers, and processes that start after a crash, see the old file or the new one, never a part.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

/// Suffix of the temporary files. Their names begin with a dot and the name of the file.
const HALF: &str = ".half";
/// Temporary files older than this were left by a process that was killed.
const STALE: Duration = Duration::from_secs(3600);

/// Replaces the file at `path` by one with the content `bytes` and the permissions `mode`: writes a temporary file in the same folder, syncs
/// it to disk and renames it. Also removes stale temporary files of `path`. A symbolic link stays, and the file that it names is replaced.
///
/// # Errors
/// If the folder cannot be written to, or `path` is a folder, a device, a pipe or a socket, which a rename would remove; what is there is then
/// unchanged.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let Temporary { target, folder, prefix, mut half } = Temporary::beside(path)?;
    half.write_all(bytes)?;
    half.as_file().set_permissions(Permissions::from_mode(mode))?;
    half.as_file().sync_all()?;
    half.persist(target).map_err(|error| error.error)?;
    File::open(&folder)?.sync_all()?;
    remove_stale(&folder, &prefix.to_string_lossy());
    Ok(())
}

/// Checks that [`replace`] can write to `path`, by a temporary file that is removed at once.
///
/// # Errors
/// As [`replace`].
pub fn check(path: &Path) -> io::Result<()> {
    Temporary::beside(path).map(drop)
}

/// A temporary file in the folder of the file that it is to replace.
struct Temporary {
    target: PathBuf,
    folder: PathBuf,
    /// What the names of all temporary files of `target` begin with.
    prefix: OsString,
    half: NamedTempFile,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let target = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                return Err(io::Error::other("not a regular file, which replacing would remove; give the name of a file"));
            }
            Ok(_) => path.canonicalize()?,
            Err(_) => path.to_path_buf(),
        };
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        // Its own error does not name a temporary file.
        fs::metadata(&folder)?;
        let half = tempfile::Builder::new().prefix(&prefix).suffix(HALF).tempfile_in(&folder)?;
        Ok(Self { target, folder, prefix, half })
    }
}

/// Removes stale temporary files. One that cannot be removed does no harm.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().strip_prefix(prefix).is_some_and(|rest| rest.ends_with(HALF)) {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_and_stale_temporary_files_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let [left, young, other] = [".a.x1.half", ".a.x2.half", ".b.x3.half"].map(|name| folder.path().join(name));
        for file in [&left, &young, &other] {
            fs::write(file, "hal").expect("written");
        }
        for file in [&left, &other] {
            let old = std::time::SystemTime::now() - 2 * STALE;
            File::options().write(true).open(file).and_then(|f| f.set_modified(old)).expect("dated");
        }
        for bytes in [b"one".as_slice(), b"", b"two"] {
            replace(&path, 0o640, bytes).expect("room");
            assert_eq!(fs::read(&path).expect("there"), bytes);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!([left, young, other].map(|file| file.exists()), [false, true, true]);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 3, "nothing else is left");
    }

    #[test]
    fn a_link_stays_and_what_is_not_a_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, link, socket] = ["file", "link", "socket"].map(|name| folder.path().join(name));
        fs::write(&file, "old").expect("written");
        std::os::unix::fs::symlink("file", &link).expect("linked");
        replace(&link, 0o644, b"new").expect("room");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read(&file).expect("there"), b"new");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let error = replace(&socket, 0o644, b"new").expect_err("refused");
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert!(!fs::metadata(&socket).expect("still there").is_file());
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(replace(Path::new("/proc/none/a"), 0o644, b"x").is_err());
        assert!(replace(Path::new("/"), 0o644, b"x").is_err());
    }

    #[test]
    fn a_check_fails_as_writing_does_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        check(&folder.path().join("a")).expect("can be written");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
        for path in [folder.path(), &folder.path().join("none/a"), Path::new("/")] {
            let [checked, written] = [check(path), replace(path, 0o644, b"x")].map(|done| done.expect_err("refused").kind());
            assert_eq!(checked, written, "{}", path.display());
        }
    }
}
