//! How are lines written to a file so that it holds only whole ones?
//!
//! - All lines that are ready go in few writes, at most some 50 ms after they came; what was written outlives this process, however it dies.
//!   (It outlives the machine once the system has written it back, after some 30 s: no fsync, as with other logs.)
//! - Linux looks for a deadly signal between two pages of a write, where it also lets others run: a write across the border of a page may
//!   be cut there. So where lines follow one another closely, those that end a page are filled up with spaces, which JSON allows, and each
//!   page is a write of its own. Only the first line of what is ready at once may still lie across a border.
//! - A write that the disk had no room for is taken back to the end of the last whole line, and the rest is tried again.
//! - A file that somebody has removed is made anew: what is written to one without a name is lost to all.
//! - A file that is opened with half a line at its end, as a kill in the middle of a write could leave it, is mended.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stream::Pipe;
use super::{Failure, Line, Sink};

/// Octets of a page of the page cache, the smallest that it has.
const PAGE: usize = 4096;
/// Half lines longer than this are not ours.
const LONGEST_LINE: u64 = 64 << 10;

/// A regular file.
pub(super) struct LineFile {
    /// Where it is opened anew; `None`: standard output, which is not.
    path: Option<PathBuf>,
    file: File,
    buffer: Vec<u8>,
}

/// Standard output: a file or a pipe.
pub(super) fn stdout() -> io::Result<Box<dyn Sink>> {
    let mut file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if file.metadata()?.is_file() {
        mend(&mut file)?;
        return Ok(Box::new(LineFile { path: None, file, buffer: Vec::new() }));
    }
    Ok(Box::new(Pipe::new(file)))
}

/// Opens for appending; mode 0640, since events tell who talks with whom.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file; type = \"stdout\" or \"unix\" may be what you want",
        ));
    }
    mend(&mut file)?;
    Ok(file)
}

/// Ends a file in a whole line: half an event is cut off, anything else without a line's end is given one.
fn mend(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let mut tail = vec![0; (length - start) as usize];
    if file.read_exact_at(&mut tail, start).is_err() || tail.last().is_none_or(|&b| b == b'\n') {
        // Empty, whole, or not readable, as standard output may be.
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

    /// Cuts the last octets off: half a line.
    fn take_back(&mut self, octets: usize) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        self.file.set_len(end.saturating_sub(octets as u64))?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

impl Sink for LineFile {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure> {
        let mut taken = 0;
        // Where it ends now, and not where we think it does: logrotate's copytruncate may have emptied it.
        let mut now = self.file.metadata().map_err(|error| Failure::after(0, error))?;
        if now.nlink() == 0 && self.path.is_some() {
            now = self.reopen().and_then(|()| self.file.metadata()).map_err(|error| {
                Failure::after(0, io::Error::new(error.kind(), format!("the file was removed and can't be made anew: {error}")))
            })?;
        }
        let mut end = now.len() as usize;
        while taken < lines.len() {
            let border = (end + lines[taken].text.len()) / PAGE * PAGE + PAGE;
            let lines_here = chunk(&lines[taken..], border - end, &mut self.buffer);
            if taken + lines_here < lines.len() {
                fill_up(&mut self.buffer, border - end);
            }
            let written = loop {
                match self.file.write(&self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    written => break written,
                }
            };
            let written = written.map_err(|error| Failure::after(taken, error))?;
            if written == self.buffer.len() {
                taken += lines_here;
                end += written;
                continue;
            }
            let (whole_lines, whole) = whole(&self.buffer[..written]);
            taken += whole_lines;
            end += whole;
            self.take_back(written - whole).map_err(|error| Failure::after(taken, error))?;
            if whole_lines == 0 {
                return Err(Failure::after(taken, io::Error::from_raw_os_error(libc::ENOSPC)));
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

/// Fills `buffer` with the first lines, whole, up to `most` octets but one line at least; returns how many they are.
pub(super) fn chunk(lines: &[Arc<Line>], most: usize, buffer: &mut Vec<u8>) -> usize {
    buffer.clear();
    let mut count = 0;
    for line in lines {
        if count > 0 && buffer.len() + line.text.len() + 1 > most {
            break;
        }
        buffer.extend_from_slice(line.text.as_bytes());
        buffer.push(b'\n');
        count += 1;
    }
    count
}

/// Fills the last line up with spaces.
fn fill_up(buffer: &mut Vec<u8>, length: usize) {
    buffer.pop();
    buffer.resize(length - 1, b' ');
    buffer.push(b'\n');
}

/// How many whole lines are in these octets, and how many octets they are.
pub(super) fn whole(octets: &[u8]) -> (usize, usize) {
    let lines = octets.iter().filter(|&&b| b == b'\n').count();
    (lines, octets.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1))
}
