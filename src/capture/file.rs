//! Capture files as a source: plain files are memory-mapped; compressed files, objects of S3 buckets, standard input and the daemon's
//! captures are read through a growing window.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memmap2::Mmap;

use super::decompress::decompress;
use super::format::{Format, HEADER_LEN, NO_TIME, Step};
use super::paths::printable;
use super::pipe::PipeReader;
use super::{CaptureError, FrameBatch, InterfaceNames, Nanos, Source, s3};
use crate::prefetch::prefetch_span;

/// Bytes that the window of a stream grows by.
const CHUNK: usize = 256 << 10;
/// Bytes of a map that are prefetched beyond the current record. The record's length is in its own header, so without prefetching
/// every record waits for memory. Measured on 2 million packets: a bare scan takes half the time, the same from 1 to 8 KiB.
const PREFETCH: usize = 2 << 10;
/// Bytes of a map that stay resident behind the read position, for the batches in flight, before as many again are released.
/// Without releasing pages, the whole capture would count as this process's memory.
const RETAINED: usize = 8 << 20;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// [`Truncation::reason`] of a file that ends within a record.
const ENDS_WITHIN_RECORD: &str = "the file ends in the middle of the next packet";

/// Where and why a capture ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Number of frames before it, all of which were read.
    pub after: u64,
    /// What is missing or wrong.
    pub reason: String,
}

impl std::fmt::Display for Truncation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "truncated after packet {}: {}", self.after, self.reason)
    }
}

/// Whether the input goes on after a batch, or has ended, with the reason if it ended early.
type Progress = ControlFlow<Option<String>>;

/// A memory-mapped file.
struct MappedInput {
    map: Arc<Mmap>,
    at: usize,
    /// End of the part that was prefetched.
    prefetched: usize,
    /// End of the part whose pages were released.
    released: usize,
}

/// A stream, with the part of it that was read and not yet parsed.
struct StreamInput {
    reader: Box<dyn Read + Send>,
    window: Vec<u8>,
    at: usize,
    ended: bool,
    /// Whether the stream is a pipe that is still written to: what was read is not kept until more comes.
    live: bool,
}

enum Input {
    Mapped(MappedInput),
    Stream(StreamInput),
}

/// A capture file as a source of frames.
pub struct CaptureFile {
    name: String,
    input: Input,
    format: Format,
    frames: u64,
    /// Time of the last frame that has one; [`NO_TIME`] before it.
    last: Nanos,
    /// When the file was last written.
    modified: Option<SystemTime>,
    truncation: Option<Truncation>,
    done: bool,
    /// The file of a compressed capture: its offset is that of the compressed bytes read.
    file: Option<File>,
    /// Set when the server of an object fails.
    failure: s3::ReadFailure,
}

impl CaptureFile {
    /// Opens a capture; `-` is standard input, `s3://BUCKET/KEY` an object.
    ///
    /// A plain file is memory-mapped. If another process truncates it while it is read, this process ends with SIGBUS; use
    /// [`CaptureFile::open_unmapped`] where that must not happen.
    ///
    /// # Errors
    /// If the file can't be opened, is empty or is not a capture.
    #[expect(unsafe_code, reason = "maps the file")]
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = printable(path);
        if name == "-" {
            return Self::from_reader(io::stdin(), name);
        }
        if s3::is_s3(path) {
            return Self::open_object(path, || false);
        }
        let open_error = |source| CaptureError::Open { path: name.clone(), source };
        let (file, metadata) = open(path).map_err(open_error)?;
        let modified = metadata.modified().ok();
        if metadata.is_file() && metadata.len() > 0 {
            // SAFETY: the map is read-only, and this process does not write to the file. That no other process does can't be
            // enforced, only required (see above): captures that others may still write to are read with `open_unmapped`.
            let map = unsafe { Mmap::map(&file) }.map_err(open_error)?;
            if let Some((format, at)) = Format::detect(&map) {
                let input = Input::Mapped(MappedInput { map: Arc::new(map), at, prefetched: at, released: 0 });
                return Ok(Self { modified, ..Self::new(name, input, format) });
            }
        }
        let same = file.try_clone().ok().filter(|_| metadata.is_file());
        Ok(Self { file: same, modified, ..Self::from_reader(file, name)? })
    }

    /// Opens a capture as [`CaptureFile::open`] does; standard input and pipes are live sources, which end early, without a truncation, once
    /// `stopped` returns `true`; so do objects, which are not live. It is called ten times a second while nothing comes.
    ///
    /// # Errors
    /// As [`CaptureFile::open`].
    pub fn open_live(path: &Path, stopped: impl Fn() -> bool + Send + 'static) -> Result<Self, CaptureError> {
        if s3::is_s3(path) {
            return Self::open_object(path, stopped);
        }
        let name = printable(path);
        let pipe: OwnedFd = if path.as_os_str() == "-" {
            let open_error = |source| CaptureError::Open { path: name.clone(), source };
            let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(open_error)?);
            if input.metadata().map_err(open_error)?.is_file() {
                return Self::from_reader(input, name);
            }
            input.into()
        } else {
            match std::fs::metadata(path) {
                Ok(metadata) if metadata.file_type().is_fifo() || metadata.file_type().is_char_device() => {
                    File::open(path).map_err(|source| CaptureError::Open { path: name.clone(), source })?.into()
                }
                _ => return Self::open(path),
            }
        };
        let mut file = Self::from_reader(PipeReader::new(pipe, Box::new(stopped)), name)?;
        if let Input::Stream(input) = &mut file.input {
            input.live = true;
        }
        Ok(file)
    }

    /// Opens an object of an S3 bucket. Dropped connections go on where they broke; see [`CaptureFile::failure`].
    fn open_object(path: &Path, stopped: impl Fn() -> bool + Send + 'static) -> Result<Self, CaptureError> {
        let name = printable(path);
        let s3::OpenObject { reader, state, failure } =
            s3::open(path, stopped).map_err(|source| CaptureError::Open { path: name.clone(), source })?;
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(state.modified));
        Ok(Self { modified, failure, ..Self::from_reader(reader, name)? })
    }

    /// Opens a capture without mapping it: if another process truncates it while it is read, it only ends early.
    ///
    /// # Errors
    /// As [`CaptureFile::open`].
    pub fn open_unmapped(path: &Path) -> Result<Self, CaptureError> {
        let name = printable(path);
        let (file, metadata) = open(path).map_err(|source| CaptureError::Open { path: name.clone(), source })?;
        Ok(Self { modified: metadata.modified().ok(), ..Self::from_reader(file, name)? })
    }

    /// Reads a capture from a stream; `name` is for messages.
    ///
    /// # Errors
    /// If the stream can't be read, is empty or is not a capture.
    pub fn from_reader(mut reader: impl Read + Send + 'static, name: String) -> Result<Self, CaptureError> {
        let read_error = |source| CaptureError::Read { path: name.clone(), source };
        let mut start = Vec::new();
        reader.by_ref().take(HEADER_LEN as u64).read_to_end(&mut start).map_err(read_error)?;
        if start.is_empty() {
            return Err(CaptureError::Empty { path: name });
        }
        let whole = io::Cursor::new(start.clone()).chain(reader);
        let mut reader = decompress(&start, whole).map_err(read_error)?;
        let mut window = Vec::new();
        reader.by_ref().take(HEADER_LEN as u64).read_to_end(&mut window).map_err(read_error)?;
        let Some((format, at)) = Format::detect(&window) else {
            if Format::is_cut(&window) {
                return Err(CaptureError::CutHeader { path: name, bytes: window.len() });
            }
            let begins = window.iter().take(8).map(|b| format!("{b:02x}")).collect();
            return Err(CaptureError::NotACapture { path: name, begins });
        };
        Ok(Self::new(name, Input::Stream(StreamInput { reader, window, at, ended: false, live: false }), format))
    }

    fn new(name: String, input: Input, format: Format) -> Self {
        Self {
            name,
            input,
            format,
            frames: 0,
            last: NO_TIME,
            modified: None,
            truncation: None,
            done: false,
            file: None,
            failure: s3::ReadFailure::default(),
        }
    }

    /// The file with the interfaces of its packets, which are numbered in `names`. Only pcapng names interfaces.
    #[must_use]
    pub fn with_interfaces(mut self, names: &Arc<InterfaceNames>) -> Self {
        if let Format::PcapNg { section, .. } = &mut self.format {
            section.table = Some(Arc::clone(names));
        }
        self
    }

    /// Whether the format says which interface a packet came in by.
    pub fn has_interfaces(&self) -> bool {
        matches!(self.format, Format::PcapNg { .. })
    }

    /// The path as given, for messages: control characters are escaped.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of frames read so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes of the file read so far, compressed ones if it is; `None` for pipes.
    pub fn position(&self) -> Option<u64> {
        match (&self.input, &self.file) {
            (Input::Mapped(input), _) => Some(input.at as u64),
            (Input::Stream(_), file) => file.as_ref().and_then(|mut file| file.stream_position().ok()),
        }
    }

    /// Where the capture ended early; `None` until then.
    pub fn truncation(&self) -> Option<&Truncation> {
        self.truncation.as_ref()
    }

    /// Why the rest of an object could not be read, although it may be complete: the server, or the way to it, failed.
    pub fn failure(&self) -> Option<CaptureError> {
        let source = io::Error::other(self.failure.get()?.clone());
        Some(CaptureError::Read { path: self.name.clone(), source })
    }
}

impl CaptureFile {
    /// Dates the frames before the first that has a time: they take its time. If the batch has none, the capture is taken to be
    /// as old as its file.
    fn date_first(&mut self, batch: &mut FrameBatch) {
        if self.last == NO_TIME {
            let written = self.modified.unwrap_or_else(SystemTime::now).duration_since(SystemTime::UNIX_EPOCH);
            self.last = Nanos(written.map_or(0, |time| time.as_nanos() as u64));
        }
        let first = batch.iter().map(|frame| frame.timestamp).find(|&time| time != NO_TIME);
        batch.replace_time(NO_TIME, first.unwrap_or(self.last));
    }
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok((file, metadata)) }
}

/// The time of a frame, which is that of the frame before it if it has none: writers of pcap give 0 then.
#[inline]
fn dated(timestamp: Nanos, last: &mut Nanos) -> Nanos {
    if timestamp != NO_TIME && (timestamp.0 != 0 || *last == NO_TIME) {
        *last = timestamp;
    }
    *last
}

/// Releases the pages of [`RETAINED`] bytes of the map.
#[cfg_attr(unix, expect(unsafe_code, reason = "advises the kernel about a map's own pages"))]
fn release(map: &Mmap, from: usize) {
    #[cfg(unix)]
    // SAFETY: `Mmap::map` maps the file shared and read-only, so the map has no pages of its own that MADV_DONTNEED could discard.
    // For shared file mappings, later accesses read the file's current content again (madvise(2)), which is what the map would have
    // shown without the advice. Slices of this range that batches in flight hold therefore stay valid and keep their content.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, RETAINED) };
    #[cfg(not(unix))]
    let _ = (map, from);
}

impl MappedInput {
    fn fill(&mut self, format: &mut Format, last: &mut Nanos, batch: &mut FrameBatch) -> Progress {
        batch.set_map(&self.map);
        if self.at - self.released >= 2 * RETAINED {
            release(&self.map, self.released);
            self.released += RETAINED;
        }
        while !batch.is_full() {
            let window = &self.map[self.at..];
            if window.is_empty() {
                return ControlFlow::Break(None);
            }
            match format.next(window) {
                Step::Frame { consumed, timestamp, link, interface, wire_len, at, len } => {
                    batch.push_mapped(dated(timestamp, last), link, wire_len, self.at + at, len);
                    batch.set_interface(interface);
                    self.at += consumed;
                    let ahead = (self.at + PREFETCH).min(self.map.len());
                    if ahead > self.prefetched {
                        prefetch_span(&self.map[self.prefetched..ahead]);
                        self.prefetched = ahead.next_multiple_of(CACHE_LINE);
                    }
                }
                Step::Skip(consumed) => self.at += consumed,
                Step::NeedMore(_) => return ControlFlow::Break(Some(ENDS_WITHIN_RECORD.into())),
                Step::Damaged(reason) => return ControlFlow::Break(Some(reason)),
            }
        }
        ControlFlow::Continue(())
    }
}

impl StreamInput {
    fn fill(&mut self, format: &mut Format, last: &mut Nanos, batch: &mut FrameBatch) -> Progress {
        while !batch.is_full() {
            let window = &self.window[self.at..];
            let need = if window.is_empty() {
                1
            } else {
                match format.next(window) {
                    Step::Frame { consumed, timestamp, link, interface, wire_len, at, len } => {
                        batch.push(dated(timestamp, last), link, wire_len, &window[at..at + len as usize]);
                        batch.set_interface(interface);
                        self.at += consumed;
                        continue;
                    }
                    Step::Skip(consumed) => {
                        self.at += consumed;
                        continue;
                    }
                    Step::NeedMore(bytes) => bytes,
                    Step::Damaged(reason) => return ControlFlow::Break(Some(reason)),
                }
            };
            if self.ended {
                return ControlFlow::Break((!window.is_empty()).then(|| ENDS_WITHIN_RECORD.into()));
            }
            if self.live && !batch.is_empty() {
                break;
            }
            self.read_more(need)?;
        }
        ControlFlow::Continue(())
    }

    /// Drops the parsed part of the window and reads on until it has `need` bytes, at least [`CHUNK`] more, or the stream ends.
    fn read_more(&mut self, need: usize) -> Progress {
        self.window.drain(..self.at);
        self.at = 0;
        let before = self.window.len();
        if self.live {
            return self.read_available();
        }
        let want = CHUNK.max(need.saturating_sub(before)) as u64;
        match self.reader.by_ref().take(want).read_to_end(&mut self.window) {
            Ok(read) => self.ended = (read as u64) < want,
            // What was read before the error is still good.
            Err(_) if self.window.len() > before => {}
            Err(error) => {
                return ControlFlow::Break(Some(format!("the file can't be read or decompressed any further: {error}")));
            }
        }
        ControlFlow::Continue(())
    }
}

impl StreamInput {
    /// Reads what has come, and waits only if nothing has.
    fn read_available(&mut self) -> Progress {
        let before = self.window.len();
        self.window.resize(before + CHUNK, 0);
        let read = self.reader.read(&mut self.window[before..]);
        self.window.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(read) => self.ended = read == 0,
            Err(error) => {
                return ControlFlow::Break(Some(format!("the file can't be read or decompressed any further: {error}")));
            }
        }
        ControlFlow::Continue(())
    }
}

impl Source for CaptureFile {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if !self.done {
            let progress = match &mut self.input {
                Input::Mapped(input) => input.fill(&mut self.format, &mut self.last, batch),
                Input::Stream(input) => input.fill(&mut self.format, &mut self.last, batch),
            };
            if !batch.is_empty() && batch.frame(0).timestamp == NO_TIME {
                self.date_first(batch);
            }
            self.frames += batch.len() as u64;
            if let ControlFlow::Break(reason) = progress {
                self.done = true;
                self.truncation = reason.map(|reason| Truncation { after: self.frames, reason });
            }
        }
        Ok(!batch.is_empty())
    }

    fn is_live(&self) -> bool {
        matches!(&self.input, Input::Stream(input) if input.live)
    }
}
