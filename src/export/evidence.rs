//! What did the alert rest on? The first packets of streams of alerting classes, in pcapng files that rotate.
//!
//! Input: packets with what to say of them, over a bounded queue that never makes the giver wait. Output: `evidence-NUMBER-TIME.pcapng`
//! files in a folder, at most so many of at most so many octets: the oldest makes room. A packet is whole in a file or not there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::pcapng::{Packet, PcapngWriter};
use super::{sink, status};
use crate::capture::{LinkType, Nanos};
use crate::engine::EvidencePacket;

/// What status and metrics call it among the sinks.
pub const NAME: &str = "evidence";
/// Packets that may wait for the disk.
const QUEUE: usize = 4096;

/// Where evidence goes, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub folder: PathBuf,
    /// Octets of a file, and files, at most.
    pub file_octets: u64,
    pub files: usize,
}

/// A packet on its way to the disk.
#[derive(Clone, Debug)]
pub struct CommentedPacket {
    pub timestamp: Nanos,
    pub link: LinkType,
    pub wire_len: u32,
    pub bytes: Vec<u8>,
    /// Shown by Wireshark at the packet.
    pub comment: String,
}

/// What is said of a packet: "ssh, confidence 0.987, model protocols".
pub fn comment(packet: &EvidencePacket) -> String {
    let class = packet.named.classes.get(packet.class.index()).map_or("?", String::as_str);
    format!("{class}, confidence {:.3}, model {}", packet.confidence, packet.named.name)
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

/// What became of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidenceCounts {
    pub written: u64,
    /// Lost since the queue was full.
    pub dropped: u64,
    /// Lost since they could not be written.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct AtomicCounts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl AtomicCounts {
    fn counts(&self) -> EvidenceCounts {
        let read = |count: &AtomicU64| count.load(Relaxed);
        EvidenceCounts { written: read(&self.written), dropped: read(&self.dropped), failed: read(&self.failed) }
    }
}

/// The end that packets are given to.
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
    /// Where the folder can't be read or no thread be started.
    pub fn start(options: Options) -> io::Result<Self> {
        let (queue, packets) = crossbeam_channel::bounded(QUEUE);
        let shared = Arc::new(AtomicCounts::default());
        let mut files = Files { next: 0, names: existing(&options.folder)?, options, open: None };
        files.next = files.names.last().and_then(|p| number(p)).map_or(0, |n| n + 1);
        let counts = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("evidence".into()).spawn(move || write(&packets, &mut files, &counts))?;
        Ok(Self { queue, shared, thread })
    }

    /// Puts a packet into the queue, or drops and counts it where the queue is full. Never waits.
    pub fn offer(&self, packet: CommentedPacket) {
        if self.queue.try_send(packet).is_err() {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }

    pub fn counts(&self) -> EvidenceCounts {
        self.shared.counts()
    }

    /// What became of the packets, in the words that sinks have: metrics and the page show it beside them.
    pub fn status(&self) -> status::Sink {
        let EvidenceCounts { written, dropped, failed } = self.counts();
        let mut by_reason: BTreeMap<&'static str, u64> = sink::Reason::ALL.iter().map(|r| (r.name(), 0)).collect();
        by_reason.insert(sink::Reason::QueueFull.name(), dropped);
        by_reason.insert(sink::Reason::Other.name(), failed);
        status::Sink { name: NAME.into(), written, dropped: by_reason, queued: self.queue.len() as u64, trouble: None }
    }

    /// Writes what is queued.
    pub fn close(self) -> EvidenceCounts {
        let Self { queue, shared, thread } = self;
        drop(queue);
        let _ = thread.join();
        shared.counts()
    }
}

fn write(packets: &Receiver<CommentedPacket>, files: &mut Files, shared: &AtomicCounts) {
    let mut trouble = false;
    for packet in packets {
        match files.packet(&packet) {
            Ok(()) => {
                shared.written.fetch_add(1, Relaxed);
                trouble = false;
            }
            Err(error) => {
                shared.failed.fetch_add(1, Relaxed);
                if !trouble {
                    tracing::warn!("can't write evidence into {}: {error}", files.options.folder.display());
                }
                trouble = true;
            }
        }
    }
}

/// The files of a folder.
struct Files {
    options: Options,
    /// Oldest first.
    names: Vec<PathBuf>,
    next: u64,
    open: Option<PcapngWriter<File>>,
}

impl Files {
    fn packet(&mut self, kept: &CommentedPacket) -> io::Result<()> {
        // What a packet adds, with a new interface's block, at most.
        let size = (kept.bytes.len() + kept.comment.len() + 128) as u64;
        if self.open.as_ref().is_none_or(|w| w.written() + size > self.options.file_octets) {
            self.open = None;
            self.open = Some(self.rotate(kept.timestamp)?);
        }
        let Some(writer) = &mut self.open else { return Ok(()) };
        let CommentedPacket { timestamp, link, wire_len, bytes, comment } = kept;
        let packet = Packet { timestamp: *timestamp, link: *link, wire_len: *wire_len, bytes, comment };
        let written = writer.packet(&packet);
        if written.is_err() {
            let good = writer.written();
            let file = writer.get_mut();
            if file.set_len(good).and_then(|()| file.seek(SeekFrom::End(0))).is_err() {
                self.open = None;
            }
        }
        written
    }

    /// Begins the next file, after the oldest have made room.
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
            // A disk without room even for the header: leave no empty file.
            if fs::remove_file(&path).is_ok() {
                self.names.pop();
            }
        })
    }
}

/// The number in the name of one of our files.
fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix("evidence-")?;
    name.strip_suffix(".pcapng")?.split('-').next()?.parse().ok()
}

/// Our files in a folder, oldest first.
fn existing(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect();
    let mut ours: Vec<PathBuf> = paths?.into_iter().filter(|p| number(p).is_some()).collect();
    ours.sort_by_key(|p| number(p));
    Ok(ours)
}
