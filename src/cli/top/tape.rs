//! The first packets of recent streams of a source that can't be read again, an interface or a pipe: they are kept for explanations and for
//! teaching.
//!
//! Input: the frames of a source. Output: a [`Source`] of those that were kept, oldest first.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::capture::{CaptureError, Frame, FrameBatch, InterfaceId, LinkType, Nanos, Source};
use crate::export::pcapng::{PcapngPacket, PcapngWriter};
use crate::packet::{KeyKind, StreamKey};
use crate::stream::Intake;

/// Bytes of all frames that are kept, with [`OVERHEAD`] for each.
const MAX_BYTES: usize = 64 << 20;
/// Bytes that a frame takes beside its own.
const OVERHEAD: usize = 64;
/// Packets of each stream that are kept, from its first.
const PACKETS: u8 = 32;
/// Counters of streams; streams whose hashes collide share one.
const COUNTERS: usize = 1 << 18;
/// Time after which streams are counted from 0 again, since their counters fill up.
const RECOUNT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct KeptFrame {
    timestamp: Nanos,
    link: LinkType,
    interface: Option<InterfaceId>,
    wire_len: u32,
    bytes: Arc<[u8]>,
}

/// Frames that are kept.
pub struct Tape {
    frames: VecDeque<KeptFrame>,
    bytes: usize,
    kind: KeyKind,
    intake: Intake,
    hasher: foldhash::fast::RandomState,
    counters: Vec<u8>,
    counted_since: Instant,
}

impl Tape {
    /// A tape without frames, for streams of `kind`.
    pub fn new(kind: KeyKind, intake: Intake) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            kind,
            intake,
            hasher: foldhash::fast::RandomState::default(),
            counters: vec![0; COUNTERS],
            counted_since: Instant::now(),
        }
    }

    /// Keeps the frames of `batch` that are among the first of their streams. The oldest frames are dropped when there are too many.
    fn record(&mut self, batch: &FrameBatch) {
        if self.counted_since.elapsed() > RECOUNT {
            self.counters.fill(0);
            self.counted_since = Instant::now();
        }
        for frame in batch.iter() {
            let mut wanted = false;
            for key in self.intake.keys(self.kind, &frame) {
                let count = &mut self.counters[self.hasher.hash_one(key) as usize % COUNTERS];
                wanted |= *count < PACKETS;
                *count = count.saturating_add(1);
            }
            if wanted {
                let Frame { timestamp, link, interface, wire_len, .. } = frame;
                self.frames.push_back(KeptFrame { timestamp, link, interface, wire_len, bytes: frame.bytes.into() });
                self.bytes += frame.bytes.len() + OVERHEAD;
            }
        }
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes.len() + OVERHEAD;
        }
    }

    /// A source of the frames that are kept now.
    pub fn reader(&self) -> TapeReader {
        TapeReader { frames: self.frames.clone() }
    }
}

/// A source of kept frames.
pub struct TapeReader {
    frames: VecDeque<KeptFrame>,
}

impl TapeReader {
    /// Writes the frames as a pcapng capture.
    ///
    /// # Errors
    /// If `out` can't be written to.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut writer = PcapngWriter::new(out)?;
        for frame in &self.frames {
            let KeptFrame { timestamp, link, wire_len, ref bytes, .. } = *frame;
            writer.packet(&PcapngPacket { timestamp, link, wire_len, bytes, comment: "" })?;
        }
        writer.get_mut().flush()
    }
}

impl Source for TapeReader {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        while !batch.is_full()
            && let Some(frame) = self.frames.pop_front()
        {
            batch.push(frame.timestamp, frame.link, frame.wire_len, &frame.bytes);
            batch.set_interface(frame.interface);
        }
        Ok(!batch.is_empty())
    }
}

/// A source whose frames are recorded on a tape.
pub struct Recorded<S> {
    pub source: S,
    pub tape: Arc<Mutex<Tape>>,
}

impl<S: Source> Source for Recorded<S> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        self.tape.lock().record(batch);
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

/// The first packets of one stream in a source. Later fragments of IP packets are left out.
pub struct OneStream<'a> {
    pub source: &'a mut dyn Source,
    pub intake: Intake,
    pub key: StreamKey,
    /// Time of the stream's first packet: an earlier stream of the same key is not meant.
    pub first: Nanos,
    /// Packets that are still to be read.
    pub left: u32,
}

impl Source for OneStream<'_> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        let mut all = FrameBatch::new();
        if self.left == 0 || !self.source.fill(&mut all)? {
            return Ok(false);
        }
        for frame in all.iter().filter(|frame| frame.timestamp >= self.first) {
            if self.left > 0 && self.intake.keys(self.key.kind(), &frame).any(|key| key == self.key) {
                batch.push(frame.timestamp, frame.link, frame.wire_len, frame.bytes);
                batch.set_interface(frame.interface);
                self.left -= 1;
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame of a UDP datagram from port `port`.
    fn datagram(port: u16) -> Vec<u8> {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        frame.extend_from_slice(&port.to_be_bytes());
        frame.extend_from_slice(&[0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn the_first_packets_of_each_stream_are_kept() {
        let mut tape = Tape::new(KeyKind::Flow, Intake::default());
        let mut batch = FrameBatch::new();
        for time in 0..100 {
            batch.push(Nanos(time), LinkType::ETHERNET, 46, &datagram(40_000));
        }
        batch.push(Nanos(100), LinkType::ETHERNET, 46, &datagram(40_001));
        tape.record(&batch);
        assert_eq!(tape.frames.len(), usize::from(PACKETS) + 1);
        let (mut reader, mut found) = (tape.reader(), FrameBatch::new());
        let headers = Intake::default().decoder.decode(LinkType::ETHERNET, &datagram(40_001)).unwrap();
        let (key, _) = StreamKey::flow(&headers, &datagram(40_001));
        let mut one = OneStream { source: &mut reader, intake: Intake::default(), key, first: Nanos(100), left: 9 };
        assert!(one.fill(&mut found).unwrap());
        assert_eq!((found.len(), found.frame(0).timestamp), (1, Nanos(100)));
        let mut capture = Vec::new();
        tape.reader().write(&mut capture).unwrap();
        assert!(capture.len() > 33 * 46);
    }

    #[test]
    fn the_oldest_frames_make_room() {
        let mut tape = Tape::new(KeyKind::Flow, Intake::default());
        let mut batch = FrameBatch::new();
        let mut large = datagram(1);
        large.resize(1 << 20, 0);
        for port in 0..100_u16 {
            large[34..36].copy_from_slice(&port.to_be_bytes());
            batch.push(Nanos(u64::from(port)), LinkType::ETHERNET, 46, &large);
        }
        tape.record(&batch);
        assert_eq!(tape.frames.back().unwrap().timestamp, Nanos(99));
        assert!(tape.bytes <= MAX_BYTES && tape.frames.len() >= 60);
    }
}
