//! Copies of frames in front of any source: mirror ports that see a frame where it enters and where it leaves hand it on twice. Frames that a
//! program sends again and again, as in a flood, cannot be distinguished from them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::warn;

use super::{CaptureError, Frame, FrameBatch, InputCounters, InterfaceId, LinkType, Nanos, Source};

/// Frames before a frame that it may be a copy of, as editcap -d.
const WINDOW: usize = 5;
/// Longest time between a frame and its copy. Hosts that send the same frame again (spanning tree, ARP, repeated queries) wait longer.
const MAX_DELAY_NANOS: u64 = 50_000_000;
/// Bytes of both MAC addresses, and of a VLAN tag (IEEE 802.1Q).
const MACS_LEN: usize = 12;
const TAG_LEN: usize = 4;
/// Frames that are looked at to count copies, and of how many.
const EXAMINED: u64 = 1 << 14;
const PERIOD: u64 = 1 << 18;
/// Number of copies from which on the log warns: a quarter of the frames that are examined in one period.
const MANY: u64 = EXAMINED / 4;
/// Offset in an untagged Ethernet frame of the bytes that a [`signature`] holds.
const SIGNATURE_AT: usize = 18;

/// A source that counts frames that are copies of one of the few before them, and may leave them out. Copies that differ in VLAN tags
/// alone are copies too. The memory is bounded by the few frames.
///
/// To only count them, it looks at the first 16,384 frames of each 262,144: mirror ports copy all the time, and to look at every
/// frame is a tenth of the cost of classifying it.
pub struct Duplicates<S> {
    source: S,
    /// Whether copies are left out.
    drop: bool,
    /// The last frames before the batch, at most [`WINDOW`].
    recent: VecDeque<RecentFrame>,
    /// The interface of the recent frames: those of others are not compared.
    interface: Option<InterfaceId>,
    /// Signatures of the [`WINDOW`] frames before the batch, 0 where there is none, and of the frames of the batch.
    signatures: Vec<u64>,
    /// Numbers of the frames of a batch that are copies, in order.
    copies: Vec<usize>,
    /// Where copies are counted too, by the index of the interface that a batch is from.
    inputs: Vec<Arc<InputCounters>>,
    /// Whether a warning was logged.
    warned: bool,
    /// Frames so far; those that were looked at; the copies among these.
    frames: u64,
    examined: u64,
    found: u64,
}

/// A frame that later ones are compared with.
struct RecentFrame {
    timestamp: Nanos,
    link: LinkType,
    wire_len: u32,
    bytes: Vec<u8>,
}

impl RecentFrame {
    fn frame(&self) -> Frame<'_> {
        Frame { timestamp: self.timestamp, link: self.link, interface: None, wire_len: self.wire_len, bytes: &self.bytes }
    }
}

impl<S> Duplicates<S> {
    /// Counts the copies among the frames of `source`, and leaves them out if `drop`.
    pub fn new(source: S, drop: bool) -> Self {
        let signatures = vec![0; WINDOW];
        Self {
            source,
            drop,
            recent: VecDeque::new(),
            interface: None,
            signatures,
            copies: Vec::new(),
            inputs: Vec::new(),
            warned: false,
            frames: 0,
            examined: 0,
            found: 0,
        }
    }

    /// The same source, which adds what it finds to the counters of the inputs, one for each interface or the only one, and logs a warning if there
    /// are many copies.
    #[must_use]
    pub fn counted_in(self, inputs: &[Arc<InputCounters>]) -> Self {
        Self { inputs: inputs.to_vec(), ..self }
    }

    /// Number of copies so far, and of frames among which they were found: all frames if copies are left out.
    pub fn found(&self) -> (u64, u64) {
        (self.found, self.examined)
    }

    /// The source behind.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Finds the copies of a batch and remembers its last frames.
    fn mark(&mut self, batch: &FrameBatch) {
        let look = self.drop || self.frames % PERIOD < EXAMINED;
        self.frames += batch.len() as u64;
        if batch.interface != self.interface || !look {
            self.recent.clear();
            self.signatures.clear();
            self.signatures.resize(WINDOW, 0);
            self.interface = batch.interface;
        }
        if !look {
            return;
        }
        self.examined += batch.len() as u64;
        self.signatures.drain(..self.signatures.len() - WINDOW);
        self.signatures.extend(batch.iter().map(|frame| signature(&frame)));
        self.copies.clear();
        for (number, window) in self.signatures.windows(WINDOW + 1).enumerate() {
            // Without a branch for each of the frames before.
            let equal = window[..WINDOW].iter().fold(false, |equal, before| equal | (*before == window[WINDOW]));
            if equal && self.is_copy_in_window(batch, number) {
                self.copies.push(number);
            }
        }
        self.found += self.copies.len() as u64;
        if let Some(input) = self.inputs.get(batch.interface.map_or(0, InterfaceId::index)) {
            input.compared.fetch_add(batch.len() as u64, Relaxed);
            let copies = input.copies.fetch_add(self.copies.len() as u64, Relaxed) + self.copies.len() as u64;
            if !self.drop && !self.warned && copies >= MANY {
                self.warned = true;
                let compared = input.compared.load(Relaxed);
                warn!(
                    interface = input.name,
                    copies,
                    compared,
                    "duplicates: frames are identical to one shortly before (a mirror port, or a program that repeats itself); \
                     engine.drop_duplicates = true leaves duplicates out"
                );
            }
        }
        for number in batch.len().saturating_sub(WINDOW)..batch.len() {
            // The oldest frame's allocation is used again.
            let oldest = if self.recent.len() < WINDOW { None } else { self.recent.pop_front() };
            let mut copied = oldest.map(|oldest| oldest.bytes).unwrap_or_default();
            let Frame { timestamp, link, wire_len, bytes, .. } = batch.frame(number);
            copied.clear();
            copied.extend_from_slice(bytes);
            self.recent.push_back(RecentFrame { timestamp, link, wire_len, bytes: copied });
        }
    }

    /// Whether the frame `number` of a batch is a copy of one of the [`WINDOW`] frames before it.
    fn is_copy_in_window(&self, batch: &FrameBatch, number: usize) -> bool {
        let frame = batch.frame(number);
        let in_batch = (number.saturating_sub(WINDOW)..number).map(|before| batch.frame(before));
        let earlier = self.recent.iter().skip((self.recent.len() + number).saturating_sub(WINDOW)).map(RecentFrame::frame);
        in_batch.chain(earlier).any(|before| is_copy(&before, &frame))
    }
}

/// A number that is the same for copies and mostly differs between other frames: the length and eight bytes of the header, behind VLAN
/// tags. In an IPv4 packet over Ethernet, these are the bytes from the identification to the checksum.
#[inline]
fn signature(frame: &Frame<'_>) -> u64 {
    let tags = tags_len(frame);
    let word =
        frame.bytes.get(SIGNATURE_AT + tags..).and_then(|rest| rest.first_chunk()).map_or(1, |word| u64::from_ne_bytes(*word));
    word ^ u64::from(frame.wire_len.saturating_sub(tags as u32)) << 16
}

/// Whether `frame` is a copy of the frame `before`. Most pairs differ in length or in the first bytes of the IP header.
fn is_copy(before: &Frame<'_>, frame: &Frame<'_>) -> bool {
    let tags = [before, frame].map(|frame| tags_len(frame));
    let lengths = [(before, tags[0]), (frame, tags[1])].map(|(frame, tags)| (frame.wire_len as usize).saturating_sub(tags));
    before.link == frame.link
        && lengths[0] == lengths[1]
        && before.timestamp.0.abs_diff(frame.timestamp.0) <= MAX_DELAY_NANOS
        && without_tags(before, tags[0]) == without_tags(frame, tags[1])
}

/// Bytes of the VLAN tags of an Ethernet frame.
#[inline]
fn tags_len(frame: &Frame<'_>) -> usize {
    if frame.link != LinkType::ETHERNET {
        return 0;
    }
    let tags = frame.bytes.get(MACS_LEN..).unwrap_or_default().chunks_exact(TAG_LEN);
    TAG_LEN * tags.take_while(|tag| matches!(tag[..2], [0x81, 0] | [0x88, 0xa8] | [0x91..=0x93, 0])).count()
}

/// The bytes before and after the VLAN tags.
fn without_tags<'a>(frame: &Frame<'a>, tags: usize) -> (&'a [u8], &'a [u8]) {
    let (macs, rest) = frame.bytes.split_at(frame.bytes.len().min(MACS_LEN));
    (macs, &rest[tags..])
}

impl<S: Source> Source for Duplicates<S> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        self.mark(batch);
        if self.drop {
            let (mut copies, mut number) = (self.copies.iter().peekable(), 0);
            batch.retain(|_| {
                number += 1;
                copies.next_if(|&&copy| copy == number - 1).is_none()
            });
        }
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of frames: microsecond and bytes.
    struct Batches(VecDeque<Vec<(u64, Vec<u8>)>>);

    impl Source for Batches {
        fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
            batch.clear();
            let Some(frames) = self.0.pop_front() else { return Ok(false) };
            for (micros, bytes) in frames {
                batch.push(Nanos(micros * 1000), LinkType::ETHERNET, bytes.len() as u32, &bytes);
            }
            Ok(true)
        }
    }

    fn frame(vlans: &[u8], last: u8) -> Vec<u8> {
        let tags = vlans.iter().flat_map(|&vlan| [0x81, 0, 0, vlan]);
        [2; 6].into_iter().chain([4; 6]).chain(tags).chain([8, 0]).chain([0x45; 40]).chain([last]).collect()
    }

    /// Numbers of copies and of frames that are left when copies are left out.
    fn copies(batches: &[&[(u64, Vec<u8>)]]) -> (u64, usize) {
        let source = Batches(batches.iter().map(|frames| frames.to_vec()).collect());
        let mut source = Duplicates::new(source, true);
        let (mut batch, mut left) = (FrameBatch::new(), 0);
        while source.fill(&mut batch).unwrap() {
            left += batch.len();
        }
        (source.found().0, left)
    }

    #[test]
    fn copies_are_found_within_and_across_batches() {
        let [a, b] = [frame(&[], 1), frame(&[], 2)];
        assert_eq!(copies(&[&[(0, a.clone()), (5, a.clone()), (9, b.clone()), (14, b.clone())]]), (2, 2));
        assert_eq!(copies(&[&[(0, a.clone())], &[], &[(5, a.clone()), (9, b.clone())], &[(14, b)]]), (2, 2));
        assert_eq!(copies(&[&[(0, a.clone()), (60_000, a)]]), (0, 2), "sent again");
    }

    #[test]
    fn the_window_is_five_frames() {
        for (between, found) in [(4, 1), (5, 0)] {
            let others = (0..between).map(|n| (u64::from(n), frame(&[], 10 + n)));
            let frames: Vec<_> = [(0, frame(&[], 1))].into_iter().chain(others).chain([(9, frame(&[], 1))]).collect();
            assert_eq!(copies(&[&frames]).0, found, "{between}");
            let single: Vec<_> = frames.iter().map(std::slice::from_ref).collect();
            assert_eq!(copies(&single).0, found, "{between}, one a batch");
        }
    }

    #[test]
    fn vlan_tags_do_not_matter() {
        assert_eq!(copies(&[&[(0, frame(&[], 1)), (3, frame(&[7], 1)), (6, frame(&[7, 8], 1)), (9, frame(&[7], 2))]]), (2, 2));
        assert_eq!(copies(&[&[(0, vec![2; 9]), (1, vec![2; 9]), (2, vec![2; 13])]]), (1, 2), "shorter than an Ethernet header");
    }

    #[test]
    fn copies_are_counted_in_a_part_of_many_frames() {
        let batch: Vec<_> = (0..64).map(|n| (n / 2 * 100, frame(&[], (n / 2) as u8))).collect();
        for (batches, examined) in [(16, 16), (10_000, 768)] {
            let source = Batches(vec![batch.clone(); batches].into());
            let input = Arc::new(InputCounters::default());
            let mut source = Duplicates::new(source, false).counted_in(&[Arc::clone(&input)]);
            let (mut filled, mut left) = (FrameBatch::new(), 0);
            while source.fill(&mut filled).unwrap() {
                left += filled.len();
            }
            assert_eq!((source.found(), left), ((examined * 32, examined * 64), batches * 64));
            assert_eq!((input.copies.load(Relaxed), input.compared.load(Relaxed)), source.found());
        }
    }
}
