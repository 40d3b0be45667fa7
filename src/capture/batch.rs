//! Batches of frames, which are recycled. The bytes are in the batch's own buffer or in a shared memory map.

use std::num::NonZeroU8;
use std::sync::Arc;

use memmap2::Mmap;

use super::LinkType;

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The time in UTC, cut to the second.
    pub fn to_second(self) -> jiff::Timestamp {
        // A u64 of nanoseconds ends in the year 2554, which the calendar covers.
        jiff::Timestamp::from_second((self.0 / 1_000_000_000) as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// One captured frame, borrowed from a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Time of capture.
    pub timestamp: Nanos,
    /// Link type of the frame.
    pub link: LinkType,
    /// The interface that it came in by; `None` if that is not known.
    pub interface: Option<InterfaceId>,
    /// Length on the wire, in bytes; `bytes` may be shorter (snap length).
    pub wire_len: u32,
    /// The captured bytes.
    pub bytes: &'a [u8],
}

/// A frame's place in the buffer or the map.
#[derive(Clone, Copy, Debug)]
struct Record {
    timestamp: Nanos,
    at: usize,
    len: u32,
    wire_len: u32,
    link: LinkType,
    /// The interface, if a file has packets of several.
    interface: Option<InterfaceId>,
}

impl Record {
    /// The frame; `interface` is that of the batch.
    #[inline]
    fn frame<'a>(&self, bytes: &'a [u8], interface: Option<InterfaceId>) -> Frame<'a> {
        let bytes = &bytes[self.at..self.at + self.len as usize];
        let interface = self.interface.or(interface);
        Frame { timestamp: self.timestamp, link: self.link, interface, wire_len: self.wire_len, bytes }
    }
}

/// Index of an interface in the settings, or among those of capture files. One more is stored, so that an `Option` of it takes one byte:
/// every stream has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId(NonZeroU8);

impl InterfaceId {
    /// The interface of this index; `None` from the 256th on.
    pub fn from_index(index: usize) -> Option<Self> {
        u8::try_from(index + 1).ok().and_then(NonZeroU8::new).map(Self)
    }

    /// Index of the interface.
    pub fn index(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

/// A batch of frames.
#[derive(Debug, Default)]
pub struct FrameBatch {
    /// The live interface that all frames of the batch come from; `None` for captures.
    pub interface: Option<InterfaceId>,
    records: Vec<Record>,
    bytes: Vec<u8>,
    map: Option<Arc<Mmap>>,
}

impl FrameBatch {
    /// Frames per batch: enough to amortize a hand-over, few enough to stay in the second-level cache.
    pub const CAPACITY: usize = 1024;
    /// Bytes after which a batch is full, whatever its number of frames.
    const MAX_BYTES: usize = 1 << 20;

    /// An empty batch.
    pub fn new() -> Self {
        Self { records: Vec::with_capacity(Self::CAPACITY), ..Self::default() }
    }

    /// Empties the batch. It keeps its allocations, except for the excess that a record of many megabytes leaves.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
        self.bytes.shrink_to(2 * Self::MAX_BYTES);
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no frames.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it has no room for another frame.
    pub fn is_full(&self) -> bool {
        self.records.len() >= Self::CAPACITY || self.bytes.len() >= Self::MAX_BYTES
    }

    /// Copies a frame into the batch.
    pub fn push(&mut self, timestamp: Nanos, link: LinkType, wire_len: u32, bytes: &[u8]) {
        self.map = None;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.records.push(Record { timestamp, at, len: bytes.len() as u32, wire_len, link, interface: None });
    }

    /// From now on, frames are pushed by their place in `map`.
    pub(super) fn set_map(&mut self, map: &Arc<Mmap>) {
        self.map = Some(Arc::clone(map));
    }

    /// Appends the frame at `at..at + len` of the map.
    pub(super) fn push_mapped(&mut self, timestamp: Nanos, link: LinkType, wire_len: u32, at: usize, len: u32) {
        self.records.push(Record { timestamp, at, len, wire_len, link, interface: None });
    }

    /// Sets the interface of the last frame.
    #[inline]
    pub(crate) fn set_interface(&mut self, interface: Option<InterfaceId>) {
        if let Some(last) = self.records.last_mut() {
            last.interface = interface;
        }
    }

    /// Adds `nanos` to the timestamp of every frame.
    pub(super) fn delay(&mut self, nanos: u64) {
        if nanos > 0 {
            self.records.iter_mut().for_each(|r| r.timestamp.0 = r.timestamp.0.saturating_add(nanos));
        }
    }

    /// Gives the frames of the time `from` the time `to`.
    pub(super) fn replace_time(&mut self, from: Nanos, to: Nanos) {
        self.records.iter_mut().filter(|r| r.timestamp == from).for_each(|r| r.timestamp = to);
    }

    /// Keeps the first `frames` frames.
    pub(crate) fn truncate(&mut self, frames: usize) {
        self.records.truncate(frames);
    }

    /// Keeps the frames that `admit` returns `true` for; returns the number of frames removed.
    pub(super) fn retain(&mut self, mut admit: impl FnMut(Frame<'_>) -> bool) -> u64 {
        let before = self.len();
        let bytes: &[u8] = self.map.as_ref().map_or(&self.bytes, |map| map);
        self.records.retain(|r| admit(r.frame(bytes, self.interface)));
        (before - self.len()) as u64
    }

    /// The frame at `number`.
    ///
    /// # Panics
    /// If the batch has no frame `number`.
    #[inline]
    pub fn frame(&self, number: usize) -> Frame<'_> {
        let bytes: &[u8] = self.map.as_ref().map_or(&self.bytes, |map| map);
        self.records[number].frame(bytes, self.interface)
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        (0..self.len()).map(|number| self.frame(number))
    }
}
