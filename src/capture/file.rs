//! How is a capture file read? Plain files are memory-mapped; gzip, zstd, standard input and the
//! daemon's captures are streamed through a window.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::decompress::unpack;
use super::format::{Format, Step};
use super::{CaptureError, FrameBatch, Source};
use crate::prefetch::prefetch_span;

/// Octets a stream's window grows by.
const CHUNK: usize = 256 << 10;
/// Octets of a map that the cache is asked for ahead of the next record: where it begins stands in the record before it, so without
/// that every record waits for memory. Measured on 2 million packets: a bare scan takes half the time, the same from 1 to 8 KiB.
const AHEAD: usize = 2 << 10;

/// Octets of a map that are kept behind what was read, for the batches under way, before as many again are given back: else a capture
/// counts as this program's memory to its last octet.
const BEHIND: usize = 8 << 20;

/// Where and why a capture ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Frames before it, all read.
    pub after: u64,
    pub reason: String,
}

impl std::fmt::Display for Truncation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cut after packet {}: {}", self.after, self.reason)
    }
}

enum Input {
    /// `asked`: up to where the cache has been asked for the map; `given_back`: up to where its pages were given back.
    Map {
        map: Arc<Mmap>,
        at: usize,
        asked: usize,
        given_back: usize,
    },
    Stream {
        reader: Box<dyn Read + Send>,
        window: Vec<u8>,
        at: usize,
        ended: bool,
    },
}

/// A capture file as a source of frames.
pub struct CaptureFile {
    name: String,
    input: Input,
    format: Format,
    frames: u64,
    cut: Option<Truncation>,
    done: bool,
}

impl CaptureFile {
    /// Opens a capture; `-` is standard input.
    ///
    /// # Errors
    /// Where the file can't be opened, is empty or is no capture.
    #[expect(unsafe_code, reason = "maps the file")]
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        if name == "-" {
            return Self::from_reader(io::stdin(), "-".into());
        }
        let broken = |source| CaptureError::Open { path: name.clone(), source };
        let (file, metadata) = open(path).map_err(broken)?;
        if metadata.is_file() && metadata.len() > 0 {
            // SAFETY: the map is only read. A file that another process cuts meanwhile ends this one with SIGBUS, as it does
            // every program that maps files; whoever may not be ended so takes `open_unmapped`.
            let map = unsafe { Mmap::map(&file) }.map_err(broken)?;
            if let Some((format, at)) = Format::detect(&map) {
                let input = Input::Map { map: Arc::new(map), at, asked: at, given_back: 0 };
                return Ok(Self { name, input, format, frames: 0, cut: None, done: false });
            }
        }
        Self::from_reader(file, name)
    }

    /// Opens a capture that somebody else may cut while it is read, which then ends it early and nothing else.
    ///
    /// # Errors
    /// As [`CaptureFile::open`].
    pub fn open_unmapped(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let (file, _) = open(path).map_err(|source| CaptureError::Open { path: name.clone(), source })?;
        Self::from_reader(file, name)
    }

    /// Reads a capture from a stream.
    ///
    /// # Errors
    /// Where the stream is empty or is no capture.
    pub fn from_reader(mut reader: impl Read + Send + 'static, name: String) -> Result<Self, CaptureError> {
        let broken = |source| CaptureError::Read { path: name.clone(), source };
        let mut start = Vec::new();
        reader.by_ref().take(24).read_to_end(&mut start).map_err(broken)?;
        if start.is_empty() {
            return Err(CaptureError::Empty { path: name });
        }
        let not_a_capture = |start: &[u8]| CaptureError::NotACapture {
            path: name.clone(),
            begins: start.iter().take(8).map(|b| format!("{b:02x}")).collect(),
        };
        let whole = io::Cursor::new(start.clone()).chain(reader);
        let mut reader = unpack(&start, whole).map_err(broken)?;
        let mut window = Vec::new();
        reader.by_ref().take(24).read_to_end(&mut window).map_err(broken)?;
        let (format, at) = Format::detect(&window).ok_or_else(|| not_a_capture(&window))?;
        let input = Input::Stream { reader, window, at, ended: false };
        Ok(Self { name, input, format, frames: 0, cut: None, done: false })
    }

    /// The path as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Frames read so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Where reading ended early, once it has.
    pub fn cut(&self) -> Option<&Truncation> {
        self.cut.as_ref()
    }

    fn end(&mut self, reason: Option<String>) {
        self.done = true;
        self.cut = reason.map(|reason| Truncation { after: self.frames, reason });
    }
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok((file, metadata)) }
}

/// Gives back the pages of `BEHIND` octets of the map.
#[cfg_attr(unix, expect(unsafe_code, reason = "advises about a map's own pages"))]
fn give_back(map: &Mmap, from: usize) {
    #[cfg(unix)]
    // SAFETY: a private map of a file that nobody writes to: whoever looks at such a page again is given what the file holds.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, BEHIND) };
    #[cfg(not(unix))]
    let _ = (map, from);
}

impl Source for CaptureFile {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        while !self.done && !batch.is_full() {
            match &mut self.input {
                Input::Map { map, at, asked, given_back } => {
                    batch.set_map(map);
                    if *at - *given_back >= 2 * BEHIND {
                        give_back(map, *given_back);
                        *given_back += BEHIND;
                    }
                    let mut reason = None;
                    while !batch.is_full() {
                        let window = &map[*at..];
                        if window.is_empty() {
                            self.done = true;
                            break;
                        }
                        match self.format.next(window) {
                            Step::Frame { consumed, timestamp, link, wire_len, at: place, len } => {
                                batch.push_mapped(timestamp, link, wire_len, *at + place, len);
                                *at += consumed;
                                self.frames += 1;
                                let ahead = (*at + AHEAD).min(map.len());
                                if ahead > *asked {
                                    prefetch_span(&map[*asked..ahead]);
                                    // On to the next whole line.
                                    *asked = ahead.next_multiple_of(64);
                                }
                            }
                            Step::Skip(consumed) => *at += consumed,
                            Step::NeedMore(_) => {
                                reason = Some("the file ends in the middle of the next".to_string());
                                break;
                            }
                            Step::Damaged(why) => {
                                reason = Some(why);
                                break;
                            }
                        }
                    }
                    if reason.is_some() {
                        self.end(reason);
                    }
                }
                Input::Stream { reader, window, at, ended } => {
                    let need = match window.len() - *at {
                        0 => 1,
                        _ => match self.format.next(&window[*at..]) {
                            Step::Frame { consumed, timestamp, link, wire_len, at: place, len } => {
                                let start = *at + place;
                                batch.push(timestamp, link, wire_len, &window[start..start + len as usize]);
                                *at += consumed;
                                self.frames += 1;
                                continue;
                            }
                            Step::Skip(consumed) => {
                                *at += consumed;
                                continue;
                            }
                            Step::NeedMore(octets) => octets,
                            Step::Damaged(why) => {
                                self.end(Some(why));
                                continue;
                            }
                        },
                    };
                    if *ended {
                        let cut = window.len() > *at;
                        self.end(cut.then(|| "the file ends in the middle of the next".to_string()));
                        continue;
                    }
                    window.drain(..*at);
                    *at = 0;
                    let before = window.len();
                    let want = CHUNK.max(need.saturating_sub(before)) as u64;
                    match reader.by_ref().take(want).read_to_end(window) {
                        Ok(read) => *ended = (read as u64) < want,
                        Err(error) => {
                            // What was read before the error is still good.
                            if window.len() == before {
                                self.end(Some(format!("the file can't be read or unpacked any further: {error}")));
                            }
                        }
                    }
                }
            }
        }
        Ok(!batch.is_empty())
    }
}
