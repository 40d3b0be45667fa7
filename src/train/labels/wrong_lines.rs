//! Lines of a label file that cannot be used, collected so that one error names all of them.

use std::fmt;
use std::path::{Path, PathBuf};

/// Most lines that an error lists; the rest is a number.
const LISTED: usize = 20;

/// The lines of label files that cannot be used, with what is wrong with each.
#[derive(Debug, Default)]
pub struct WrongLines {
    listed: Vec<(PathBuf, u64, String)>,
    /// Number of wrong lines that are not listed.
    more: usize,
}

impl WrongLines {
    /// Adds a line of `path`, counted from 1.
    pub(super) fn push(&mut self, path: &Path, line: u64, what: String) {
        if self.listed.len() < LISTED {
            self.listed.push((path.to_path_buf(), line, what));
        } else {
            self.more += 1;
        }
    }

    /// Whether no line is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }
}

impl fmt::Display for WrongLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(path, line, what)] = &self.listed[..] {
            return write!(f, "{}, line {line}: {what}", path.display());
        }
        write!(f, "{} wrong lines:", self.listed.len() + self.more)?;
        for (path, line, what) in &self.listed {
            write!(f, "\n  {}, line {line}: {what}", path.display())?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}
