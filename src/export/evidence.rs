//! Evidence captures: the first packets of streams of alerting classes, in rotating pcapng files.
//!
//! Input: packets and their comments, over a bounded queue that never blocks the sender; the engine chooses them. Output: files named
//! `evidence-NUMBER-TIME.pcapng` in a folder, TIME that of capture of the first packet in UTC. Their number and size are limited, and that with the
//! lowest number is deleted first. A packet is written whole or not at all: after an error the file is cut to its whole blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::pcapng::{PcapngPacket, PcapngWriter};
use super::sink::DropReason;
use super::status;
use crate::capture::{LinkType, Nanos};
use crate::engine::EvidencePacket;

/// The name of the evidence captures among the sinks of status and metrics.
pub const NAME: &str = "evidence";
/// Maximum number of packets that wait to be written.
const QUEUE_PACKETS: usize = 4096;

/// Folder and limits of the evidence captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder of the files; it must exist.
    pub folder: PathBuf,
    /// Maximum size of a file, in bytes. A file holds at least one packet, even a larger one.
    pub file_bytes: u64,
    /// Maximum number of files in the folder, those of earlier runs included; 0 counts as 1.
    pub files: usize,
}

/// A packet to be written, with its comment.
#[derive(Clone, Debug)]
pub struct CommentedPacket {
    /// Time of capture.
    pub timestamp: Nanos,
    /// Link type of the interface it was captured on.
    pub link: LinkType,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// The captured bytes, `wire_len` at most.
    pub bytes: Vec<u8>,
    /// Comment that Wireshark shows with the packet.
    pub comment: String,
}

/// The comment on a packet: "ssh, confidence 0.987, model protocols".
pub fn comment(packet: &EvidencePacket) -> String {
    let class = packet.model.classes.get(packet.class.index()).map_or("?", String::as_str);
    format!("{class}, confidence {:.3}, model {}", packet.confidence, packet.model.name)
}

impl From<&EvidencePacket> for CommentedPacket {
    fn from(packet: &EvidencePacket) -> Self {
        Self {
            timestamp: packet.timestamp,
            link: packet.link,
            wire_len: packet.wire_len,
            bytes: packet.bytes.clone(),
            comment: comment(packet),
        }
    }
}

/// Counts of packets by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidenceCounts {
    /// Written.
    pub written: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Dropped because the write failed.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct AtomicCounts {
    written: AtomicU64,
    /// By [`DropReason`].
    dropped: [AtomicU64; DropReason::ALL.len()],
    /// Why the last packet could not be written; `None` if it was.
    last_error: Mutex<Option<String>>,
}

impl AtomicCounts {
    fn counts(&self) -> EvidenceCounts {
        let dropped = self.dropped(DropReason::QueueFull);
        let all: u64 = DropReason::ALL.into_iter().map(|reason| self.dropped(reason)).sum();
        EvidenceCounts { written: self.written.load(Relaxed), dropped, failed: all - dropped }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Relaxed)
    }

    fn drop_packet(&self, reason: DropReason) {
        self.dropped[reason as usize].fetch_add(1, Relaxed);
    }
}

/// The producer of the queue, and the thread that writes.
#[derive(Debug)]
pub struct Evidence {
    queue: Sender<CommentedPacket>,
    shared: Arc<AtomicCounts>,
    thread: JoinHandle<()>,
}

impl Evidence {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// If the folder can't be read or the thread can't be started. Whether the folder can be written to shows with the first packet.
    pub fn start(options: Options) -> io::Result<Self> {
        let (queue, packets) = crossbeam_channel::bounded(QUEUE_PACKETS);
        let shared = Arc::new(AtomicCounts::default());
        let mut files = EvidenceFiles { next: 0, names: existing(&options.folder)?, options, open: None };
        files.next = files.names.last().and_then(|p| number(p)).map_or(0, |n| n + 1);
        let counts = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("evidence".into()).spawn(move || write(&packets, &mut files, &counts))?;
        Ok(Self { queue, shared, thread })
    }

    /// Queues a packet, or drops and counts it if the queue is full. Never blocks.
    pub fn offer(&self, packet: CommentedPacket) {
        if self.queue.try_send(packet).is_err() {
            self.shared.drop_packet(DropReason::QueueFull);
        }
    }

    /// Counts of packets by outcome so far.
    pub fn counts(&self) -> EvidenceCounts {
        self.shared.counts()
    }

    /// The state of the evidence captures as that of a sink: metrics and the page list it among the sinks.
    pub fn status(&self) -> status::SinkStatus {
        let dropped = |reason: DropReason| (reason.name(), self.shared.dropped(reason));
        status::SinkStatus {
            name: NAME.into(),
            written: self.shared.written.load(Relaxed),
            dropped: DropReason::ALL.into_iter().map(dropped).collect(),
            queued: self.queue.len() as u64,
            last_error: self.shared.last_error.lock().clone(),
        }
    }

    /// Writes the queued packets and stops the thread. Returns the final counts.
    pub fn close(self) -> EvidenceCounts {
        let Self { queue, shared, thread } = self;
        drop(queue);
        let _ = thread.join();
        shared.counts()
    }
}

fn write(packets: &Receiver<CommentedPacket>, files: &mut EvidenceFiles, shared: &AtomicCounts) {
    for packet in packets {
        match files.packet(&packet) {
            Ok(()) => {
                shared.written.fetch_add(1, Relaxed);
                *shared.last_error.lock() = None;
            }
            Err(error) => {
                shared.drop_packet(DropReason::from_error(&error));
                let error = format!("can't write evidence into {}: {error}", files.options.folder.display());
                let before = shared.last_error.lock().replace(error.clone());
                if before.as_ref() != Some(&error) {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

/// The evidence captures of a folder.
struct EvidenceFiles {
    options: Options,
    /// Paths of the files, that with the lowest number first.
    names: Vec<PathBuf>,
    /// Number of the next file.
    next: u64,
    open: Option<PcapngWriter<File>>,
}

impl EvidenceFiles {
    fn packet(&mut self, commented: &CommentedPacket) -> io::Result<()> {
        if let Some(writer) = &mut self.open
            && writer.get_mut().metadata()?.nlink() == 0
        {
            // It was removed: nobody could find packets in a file without a name.
            self.open = None;
            self.names.retain(|path| path.exists());
        }
        // Upper limit of what a packet adds: 128 bytes hold the fixed parts of its block and of an interface block for its link type.
        let size = (commented.bytes.len() + commented.comment.len() + 128) as u64;
        if self.open.as_ref().is_none_or(|w| w.written() + size > self.options.file_bytes) {
            self.open = None;
            self.open = Some(self.rotate(commented.timestamp)?);
        }
        let Some(writer) = &mut self.open else { return Ok(()) };
        let CommentedPacket { timestamp, link, wire_len, bytes, comment } = commented;
        let packet = PcapngPacket { timestamp: *timestamp, link: *link, wire_len: *wire_len, bytes, comment };
        let written = writer.packet(&packet);
        if written.is_err() {
            let whole_blocks = writer.written();
            let file = writer.get_mut();
            if file.set_len(whole_blocks).and_then(|()| file.seek(SeekFrom::End(0))).is_err() {
                self.open = None;
            }
        }
        written
    }

    /// Deletes the oldest files as needed and creates the next.
    fn rotate(&mut self, time: Nanos) -> io::Result<PcapngWriter<File>> {
        while self.names.len() >= self.options.files.max(1) {
            let oldest = self.names.remove(0);
            match fs::remove_file(&oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.names.insert(0, oldest);
                    return Err(error);
                }
                _ => {}
            }
        }
        let time = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
        let path = self.options.folder.join(format!("evidence-{:010}-{}.pcapng", self.next, time.strftime("%Y%m%dT%H%M%SZ")));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
        self.next += 1;
        self.names.push(path.clone());
        PcapngWriter::new(file).inspect_err(|_| {
            // The disk is too full even for the header. Leave no empty file behind.
            if fs::remove_file(&path).is_ok() {
                self.names.pop();
            }
        })
    }
}

/// The number in the name of an evidence capture; `None` for other files.
fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix("evidence-")?;
    name.strip_suffix(".pcapng")?.split('-').next()?.parse().ok()
}

/// The evidence captures in a folder, oldest first.
fn existing(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect();
    let mut captures: Vec<PathBuf> = paths?.into_iter().filter(|p| number(p).is_some()).collect();
    captures.sort_by_key(|p| number(p));
    Ok(captures)
}
