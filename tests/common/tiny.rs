//! A small file system that a test fills up. Needs root; without it the test reports a skip.

use std::path::Path;
use std::process::Command;

/// A file system of the given size in bytes, removed when dropped; `None` after reporting a skip.
pub struct Tiny(tempfile::TempDir);

impl Tiny {
    pub fn mount(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                super::skip(&format!("a small file system: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                super::skip(&format!("a small file system: mount: {error}"));
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
