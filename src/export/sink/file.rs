//! A sink that appends lines to a regular file and keeps every line whole.
//!
//! - Queued lines are written in few writes, about 50 ms after they arrived at the latest. Written lines survive this process however it
//!   ends. They survive a crash of the machine once the system has written them back, after about 30 s: there is no fsync, as with other
//!   logs.
//! - Linux checks for fatal signals between two pages of a write, so a write across a page boundary may be cut there. When several lines
//!   are ready, the line that ends a page is therefore padded with spaces, which JSON allows, and each page is a write of its own. Only
//!   the first of the lines that are ready at once may still cross a page boundary.
//! - If the disk is full in the middle of a line, the file is cut back to the end of the last whole line, and the rest is retried.
//! - A file that was removed is created again: nobody could find lines in a file without a name.
//! - If the file ends with a partial line when it is opened, as after a kill in the middle of a write, that line is removed or ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::{chunk, pad_last_line, whole};
use super::stream::Pipe;
use super::{Line, Sink, WriteFailure};

/// Smallest page size of the page cache, in bytes.
const PAGE: usize = 4096;
/// Maximum length in bytes of a line that this program writes; a longer partial line comes from another program.
const LONGEST_LINE: u64 = 64 << 10;

/// A regular file.
pub(super) struct LineFile {
    /// Path by which the file is reopened; `None` for standard output, which is never reopened.
    path: Option<PathBuf>,
    file: File,
    buffer: Vec<u8>,
}

/// Opens standard output, a regular file or a pipe.
pub(super) fn stdout() -> io::Result<Box<dyn Sink>> {
    let mut file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if file.metadata()?.is_file() {
        repair_end(&mut file)?;
        return Ok(Box::new(LineFile { path: None, file, buffer: Vec::new() }));
    }
    Ok(Box::new(Pipe::new(file)))
}

/// Opens a file for appending. Creates it with mode 0640, since events show which hosts communicate.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file; did you mean type = \"stdout\" or \"unix\"?",
        ));
    }
    repair_end(&mut file)?;
    Ok(file)
}

/// Makes the file end with a whole line: removes a partial event, and ends any other last line with a line feed.
fn repair_end(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let mut tail = vec![0; (length - start) as usize];
    if file.read_exact_at(&mut tail, start).is_err() || tail.last().is_none_or(|&b| b == b'\n') {
        // Empty, complete, or not readable, as standard output may be.
        return Ok(());
    }
    let half = tail.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let line = &tail[half..];
    let ours = line[0] == b'{' && (start == 0 || half > 0);
    if ours && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
        file.set_len(start + half as u64)?;
        file.seek(SeekFrom::End(0))?;
        return Ok(());
    }
    file.write_all(b"\n")
}

impl LineFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Some(path.into()), file: open(path)?, buffer: Vec::new() })
    }

    /// Removes a partial line of `bytes` bytes from the end of the file.
    fn truncate_end(&mut self, bytes: usize) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        self.file.set_len(end.saturating_sub(bytes as u64))?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

impl Sink for LineFile {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        let mut taken = 0;
        // Ask for the present length rather than remember it: logrotate's copytruncate may have emptied the file.
        let mut now = self.file.metadata().map_err(|error| WriteFailure::after(0, error))?;
        if now.nlink() == 0 && self.path.is_some() {
            now = self.reopen().and_then(|()| self.file.metadata()).map_err(|error| {
                WriteFailure::after(
                    0,
                    io::Error::new(error.kind(), format!("the file was removed and can't be created again: {error}")),
                )
            })?;
        }
        let mut end = now.len() as usize;
        while taken < lines.len() {
            let boundary = (end + lines[taken].text.len()) / PAGE * PAGE + PAGE;
            let lines_here = chunk(&lines[taken..], boundary - end, &mut self.buffer);
            if taken + lines_here < lines.len() {
                pad_last_line(&mut self.buffer, boundary - end);
            }
            let written = loop {
                match self.file.write(&self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    written => break written,
                }
            };
            let written = written.map_err(|error| WriteFailure::after(taken, error))?;
            if written == self.buffer.len() {
                taken += lines_here;
                end += written;
                continue;
            }
            let (whole_lines, whole) = whole(&self.buffer[..written]);
            taken += whole_lines;
            end += whole;
            self.truncate_end(written - whole).map_err(|error| WriteFailure::after(taken, error))?;
            if whole_lines == 0 {
                return Err(WriteFailure::after(taken, io::Error::from_raw_os_error(libc::ENOSPC)));
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = open(path)?;
        }
        Ok(())
    }
}
