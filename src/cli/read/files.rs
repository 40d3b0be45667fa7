//! Capture files of `spiked read`, one after the other as one source: files that follow each other in time are one capture.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::capture::{
    CaptureError, CaptureFile, Duplicates, Filtered, FrameBatch, InTimeRange, LinkType, Nanos, Source, Truncation, printable, s3,
};

use super::progress::ReadProgress;

/// Part of a file's duration that the next one may begin before its end and still follow it, and the most in nanoseconds: what is captured on
/// several processors is not quite in order. Copies of a file do not follow it.
const OVERLAP_SHARE: u64 = 100;
const MAX_OVERLAP: u64 = 1_000_000_000;

/// A capture file behind the options that choose its packets.
pub type ChosenPackets = Duplicates<InTimeRange<Filtered<CaptureFile>>>;

/// Opens a file.
pub type OpenFile<'a> = Box<dyn Fn(&Path) -> Result<ChosenPackets, CaptureError> + Send + 'a>;

/// A capture to read, with the time of its first packet; `None` for pipes, and files without packets.
#[derive(Clone)]
pub struct DatedPath {
    pub path: PathBuf,
    first: Option<Nanos>,
}

impl DatedPath {
    /// Looks up the time of the first packet of each file, and puts the files in its order. Pipes and files without a time keep their place.
    /// A single path is not opened.
    pub fn in_order(paths: &[PathBuf]) -> Vec<Self> {
        if paths.len() < 2 {
            return Self::each(paths);
        }
        let mut paths: Vec<Self> = paths.iter().map(|path| Self { path: path.clone(), first: first_time(path) }).collect();
        let mut sorted: Vec<Self> = paths.iter().filter(|path| path.first.is_some()).cloned().collect();
        sorted.sort_by_key(|path| path.first);
        paths.iter_mut().filter(|path| path.first.is_some()).zip(sorted).for_each(|(place, path)| *place = path);
        paths
    }

    /// Files in the order given, each a capture of its own.
    pub fn each(paths: &[PathBuf]) -> Vec<Self> {
        paths.iter().map(|path| Self { path: path.clone(), first: None }).collect()
    }
}

/// Time of a file's first packet.
fn first_time(path: &Path) -> Option<Nanos> {
    if !s3::is_s3(path) {
        std::fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    }
    let (mut file, mut batch) = (CaptureFile::open(path).ok()?, FrameBatch::new());
    file.fill(&mut batch).ok()?;
    (!batch.is_empty()).then(|| batch.frame(0).timestamp)
}

/// Names of the files that a source reads, each with the number of its first packet.
#[derive(Default)]
pub struct FileNames(RwLock<Vec<(u64, Arc<str>)>>);

impl FileNames {
    /// The file of a packet.
    pub fn of(&self, packet: u64) -> Option<Arc<str>> {
        let names = self.0.read();
        let after = names.partition_point(|(first, _)| *first <= packet);
        names.get(after.checked_sub(1)?).map(|(_, name)| Arc::clone(name))
    }
}

/// Packets of a source by link type: number of the first, from 1, and how many.
#[derive(Default)]
pub struct LinkCounts {
    links: BTreeMap<LinkType, (u64, u64)>,
    frames: u64,
}

impl LinkCounts {
    /// Counts the frames of a batch.
    pub fn add(&mut self, batch: &FrameBatch) {
        let mut frames = batch.iter().map(|frame| frame.link).peekable();
        while let Some(link) = frames.next() {
            let mut same = 1;
            while frames.next_if_eq(&link).is_some() {
                same += 1;
            }
            self.links.entry(link).or_insert((self.frames + 1, 0)).1 += same;
            self.frames += same;
        }
    }

    /// Number of the first packet of a link type, and of packets.
    pub fn of(&self, link: LinkType) -> Option<(u64, u64)> {
        self.links.get(&link).copied()
    }
}

/// A file that was read to its end, or to a limit.
pub struct FileEnd {
    pub name: String,
    pub links: LinkCounts,
    /// Copies of mirror ports, and the packets among which they were found.
    pub copies: (u64, u64),
    pub frames: u64,
    /// Packets outside the time range, and those that the filter refused.
    pub outside: u64,
    pub refused: u64,
    /// Whether its format says which interface a packet came in by.
    pub has_interfaces: bool,
    pub truncation: Option<Truncation>,
    /// Why the server of an object gave no more of it.
    pub failure: Option<CaptureError>,
}

/// Capture files one after the other. The source ends with the last file that follows the one before it in time.
pub struct FileChain<'a> {
    open: OpenFile<'a>,
    current: Option<(ChosenPackets, String, LinkCounts)>,
    rest: VecDeque<DatedPath>,
    /// Longest pause between files that follow each other, in nanoseconds; after it no stream goes on.
    pause: u64,
    /// Time of the present file's first packet, as far as it is known.
    first: Option<Nanos>,
    /// Time of the last packet so far, and number of packets, of the present source.
    last: Nanos,
    frames: u64,
    names: Arc<FileNames>,
    pub progress: ReadProgress,
    /// Files that were read, and those that could not be opened, since they were last taken.
    pub ends: Vec<FileEnd>,
    pub errors: Vec<CaptureError>,
}

impl<'a> FileChain<'a> {
    /// The files `paths`. Files that follow each other within `pause` nanoseconds are one source.
    pub fn new(paths: Vec<DatedPath>, pause: u64, progress: ReadProgress, open: OpenFile<'a>) -> Self {
        Self {
            open,
            current: None,
            rest: paths.into(),
            pause,
            first: None,
            last: Nanos::default(),
            frames: 0,
            names: Arc::default(),
            progress,
            ends: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Opens the next file that can be opened as the begin of a source, and returns the names of its files; `None` at the end.
    pub fn begin(&mut self) -> Option<Arc<FileNames>> {
        (self.frames, self.last) = (0, Nanos::default());
        self.names = Arc::default();
        while let Some(next) = self.rest.pop_front() {
            if self.next(&next) {
                return Some(Arc::clone(&self.names));
            }
        }
        None
    }

    /// Opens a file; returns whether that worked.
    fn next(&mut self, DatedPath { path, first }: &DatedPath) -> bool {
        match (self.open)(path) {
            Ok(file) => {
                self.names.0.write().push((self.frames, path.display().to_string().into()));
                self.current = Some((file, printable(path), LinkCounts::default()));
                self.first = *first;
                true
            }
            Err(error) => {
                self.errors.push(error);
                false
            }
        }
    }

    /// Ends the present file.
    pub fn finish(&mut self) {
        let Some((copies, name, links)) = self.current.take() else { return };
        let in_range = copies.source();
        let file = in_range.source();
        self.progress.next(file.frames());
        self.ends.push(FileEnd {
            name,
            links,
            copies: copies.found(),
            frames: file.frames(),
            outside: in_range.outside(),
            refused: file.refused(),
            has_interfaces: file.has_interfaces(),
            truncation: file.truncation().cloned(),
            failure: file.failure(),
        });
    }

    /// Whether a file follows what was read in time.
    fn follows(&self, next: &DatedPath) -> bool {
        let (Some(begin), Some(next)) = (self.first, next.first) else { return false };
        let overlap = (self.last.0.saturating_sub(begin.0) / OVERLAP_SHARE).min(MAX_OVERLAP);
        self.frames > 0 && (self.last.0 - overlap..=self.last.0.saturating_add(self.pause)).contains(&next.0)
    }
}

impl Source for FileChain<'_> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        while let Some((file, _, links)) = &mut self.current {
            if file.fill(batch)? {
                links.add(batch);
                self.frames += batch.len() as u64;
                self.last = batch.len().checked_sub(1).map_or(self.last, |last| self.last.max(batch.frame(last).timestamp));
                let read = file.source().source();
                self.progress.update(read.frames(), read.position());
                return Ok(true);
            }
            self.finish();
            while self.rest.front().is_some_and(|next| self.follows(next))
                && let Some(next) = self.rest.pop_front()
                && !self.next(&next)
            {}
        }
        Ok(false)
    }

    fn is_live(&self) -> bool {
        self.current.as_ref().is_some_and(|(file, ..)| file.is_live())
    }
}
