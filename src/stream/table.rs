//! Table of the live streams: a bounded hash table whose look-ups are prefetched a batch ahead.
//!
//! Records are in one vector; an open-addressed index of (hash, record) pairs, eight to a cache line, finds them. The hash is seeded per
//! process, so that nobody can choose addresses that collide.

use crate::capture::{Frame, Nanos};
use crate::encode::Context;
use crate::packet::{Direction, Headers, KeyKind, StreamKey};
use crate::prefetch::{prefetch, prefetch_whole};
use crate::typed_index::typed_index;

use super::{Arrival, Stream, hash};

/// Limits of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Largest number of live streams.
    pub streams: usize,
    /// Idle timeout: nanoseconds without a packet after which a stream ends. It also ends if the clock was set back by more.
    pub idle: u64,
    /// Active timeout: nanoseconds from its first packet after which a stream ends.
    pub active: u64,
    /// Nanoseconds without a packet after which a TCP stream that both sides have closed ends; the SYN of another connection ends it at once. With
    /// `u64::MAX` neither closing nor a SYN has an effect.
    pub closed: u64,
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

impl Default for StreamLimits {
    /// The engine's default limits, also used wherever captures are read as the engine would read them: 2^20 streams, idle timeout 600 s, 60 s
    /// for a closed TCP connection.
    fn default() -> Self {
        Self { streams: 1 << 20, idle: 600 * SECOND, active: u64::MAX, closed: 60 * SECOND }
    }
}

impl StreamLimits {
    /// No limits: one stream per key, from its first packet in a capture to its last.
    pub const NONE: Self = Self { streams: EMPTY as usize, idle: u64::MAX, active: u64::MAX, closed: u64::MAX };

    /// The limits as they apply to streams of the kind `key`: a host remains when one of its connections closes or is reset.
    #[must_use]
    pub fn for_key(self, key: KeyKind) -> Self {
        if key == KeyKind::Host { Self { closed: u64::MAX, ..self } } else { self }
    }

    /// Whether a stream has ended at `now`.
    fn has_ended<T>(&self, stream: &Stream<T>, now: Nanos) -> bool {
        let quiet = now.0.saturating_sub(stream.last.0);
        now.0.abs_diff(stream.last.0) > self.idle
            || now.0.saturating_sub(stream.first.0) > self.active
            || (stream.is_closed() && quiet > self.closed)
    }
}

typed_index! {
    /// The record of a live stream, by its position in its [`StreamTable`].
    StreamIndex(u32)
}

/// The stream of a packet, found or opened.
#[derive(Debug)]
pub struct PacketPlace<T> {
    /// Record of the stream, valid until a packet of another stream is added.
    pub at: StreamIndex,
    /// What the stream knew before the packet.
    pub context: Context,
    /// The stream whose record it took: an ended one with the same key, or an evicted one.
    pub ended: Option<(Stream<T>, EndReason)>,
}

/// A stream that was removed from the table because it has ended.
#[derive(Debug)]
pub struct SweptStream<T> {
    /// The stream.
    pub stream: Stream<T>,
    /// Position that its record had.
    pub at: StreamIndex,
    /// Former position of the record that is there now; `None` if there is none.
    pub moved: Option<StreamIndex>,
}

/// Why a stream left the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A timeout, or its connection was closed.
    Timeout,
    /// It made room for another stream.
    Evicted,
}

/// [`Entry::record`] of a vacant entry.
const EMPTY: u32 = u32::MAX;
/// Records compared to find one to evict.
const SAMPLE: usize = 24;

/// One entry of the index. Its home follows from its hash, so entries are moved without reading their records.
#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    record: u32,
}

const VACANT: Entry = Entry { hash: 0, record: EMPTY };

/// The streams of one model within one shard.
pub struct StreamTable<T> {
    limits: StreamLimits,
    hasher: foldhash::fast::RandomState,
    index: Vec<Entry>,
    records: Vec<Stream<T>>,
    /// Where the next search for a record to evict begins.
    hand: usize,
    /// Where the next search for a stream that has ended begins.
    sweeper: usize,
}

impl<T> StreamTable<T> {
    /// An empty table. Tables with the same `hasher` have the same [`Arrival::hash`] for a key.
    pub fn new(limits: StreamLimits, hasher: foldhash::fast::RandomState) -> Self {
        let index = vec![VACANT; 1024];
        Self { limits, hasher, index, records: Vec::new(), hand: 0, sweeper: 0 }
    }

    /// A packet of the stream `key` for this table.
    pub fn arrival(&self, key: StreamKey, direction: Direction, headers: &Headers, frame: &Frame<'_>) -> Arrival {
        Arrival::new(key, &self.hasher, direction, headers, frame)
    }

    /// Number of live streams.
    pub fn live(&self) -> usize {
        self.records.len()
    }

    /// Whether a new stream replaces another.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.records.len() >= self.limits.streams.max(1)
    }

    /// Bytes of memory per stream, with its share of the index.
    pub const fn bytes_per_stream() -> usize {
        size_of::<Stream<T>>() + 2 * size_of::<Entry>()
    }

    /// The stream with a record.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn get(&self, at: StreamIndex) -> &Stream<T> {
        &self.records[at.index()]
    }

    /// All live streams.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream<T>> {
        self.records.iter_mut()
    }

    /// The stream with a record.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn get_mut(&mut self, at: StreamIndex) -> &mut Stream<T> {
        &mut self.records[at.index()]
    }

    /// Prefetches the index entry of `hash`.
    #[inline]
    pub fn prefetch_index(&self, hash: u32) {
        prefetch(&self.index[self.home(hash)]);
    }

    /// Prefetches the record that `hash` most likely has.
    #[inline]
    pub fn prefetch_record(&self, hash: u32) {
        let entry = self.index[self.home(hash)];
        if let Some(record) = self.records.get(entry.record as usize) {
            prefetch_whole(record);
        }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.index.len() - 1)
    }

    /// The index entry of the key, or as an error the vacant entry where it belongs.
    #[inline]
    fn find(&self, key: &StreamKey, hash: u32) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut slot = self.home(hash);
        loop {
            let entry = self.index[slot];
            if entry.record == EMPTY {
                return Err(slot);
            }
            if entry.hash == hash && self.records[entry.record as usize].key == *key {
                return Ok(slot);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Counts a packet for its stream, and opens the stream if it is new: `number` is the number of the packet, `open` creates the state.
    ///
    /// If the table is full, a stream is evicted. Of the next few records it is one with a single packet, else one whose state `keep` rejects,
    /// else the one whose last packet is oldest.
    #[inline]
    pub fn packet(
        &mut self,
        packet: &Arrival,
        number: u64,
        keep: impl Fn(&T) -> bool,
        open: impl FnOnce() -> T,
    ) -> PacketPlace<T> {
        let (key, hash) = (&packet.key, packet.hash);
        let mut ended = None;
        let at = match self.find(key, hash) {
            Ok(slot) => {
                let at = self.index[slot].record as usize;
                let stream = &self.records[at];
                let reopened = self.limits.closed < u64::MAX && stream.is_followed_by(packet);
                if reopened || self.limits.has_ended(stream, packet.timestamp) {
                    let new = Stream::open(packet, number, open());
                    ended = Some((std::mem::replace(&mut self.records[at], new), EndReason::Timeout));
                }
                at
            }
            Err(slot) => {
                let new = Stream::open(packet, number, open());
                if !self.is_full() {
                    self.records.push(new);
                    let at = self.records.len() - 1;
                    self.index[slot] = Entry { hash, record: at as u32 };
                    if self.records.len() * 4 > self.index.len() * 3 {
                        self.grow();
                    }
                    at
                } else {
                    let at = self.victim(keep);
                    self.unlink(at);
                    let old = std::mem::replace(&mut self.records[at], new);
                    ended = Some((old, EndReason::Evicted));
                    // Unlinking may have moved entries, so find the position again.
                    let slot = self.find(key, hash).unwrap_or_else(|slot| slot);
                    self.index[slot] = Entry { hash, record: at as u32 };
                    at
                }
            }
        };
        let context = self.records[at].step(packet);
        PacketPlace { at: StreamIndex::from_index(at), context, ended }
    }

    fn grow(&mut self) {
        let size = self.index.len() * 2;
        let old = std::mem::replace(&mut self.index, vec![VACANT; size]);
        old.into_iter().filter(|e| e.record != EMPTY).for_each(|e| self.link(e));
    }

    fn link(&mut self, entry: Entry) {
        let mask = self.index.len() - 1;
        let mut slot = self.home(entry.hash);
        while self.index[slot].record != EMPTY {
            slot = (slot + 1) & mask;
        }
        self.index[slot] = entry;
    }

    /// Removes a record from the index. Later entries of the run move up, so that no tombstone is needed.
    fn unlink(&mut self, at: usize) -> Entry {
        let mask = self.index.len() - 1;
        let mut hole = self.home(hash(&self.hasher, &self.records[at].key));
        while self.index[hole].record != at as u32 {
            hole = (hole + 1) & mask;
        }
        let taken = self.index[hole];
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let entry = self.index[slot];
            if entry.record == EMPTY {
                break;
            }
            let home = self.home(entry.hash);
            // The entry may move into the hole unless its home is after the hole.
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                self.index[hole] = entry;
                hole = slot;
            }
        }
        self.index[hole] = VACANT;
        taken
    }

    /// The record to evict.
    fn victim(&mut self, keep: impl Fn(&T) -> bool) -> usize {
        let worth = |s: &Stream<T>| (s.packets > 1, keep(&s.state), s.last);
        let mut best = self.hand % self.records.len();
        for step in 0..SAMPLE.min(self.records.len()) {
            let at = (self.hand + step) % self.records.len();
            if worth(&self.records[at]) < worth(&self.records[best]) {
                best = at;
            }
        }
        self.hand = (self.hand + SAMPLE) % self.records.len();
        best
    }

    /// Checks the next `looks` records for a stream that has ended at `now`, and removes the first one from the table.
    pub fn sweep(&mut self, now: Nanos, looks: usize) -> Option<SweptStream<T>> {
        for _ in 0..looks.min(self.records.len()) {
            self.sweeper = self.sweeper.checked_sub(1).unwrap_or(self.records.len() - 1).min(self.records.len() - 1);
            let at = self.sweeper;
            if self.limits.has_ended(&self.records[at], now) {
                return Some(self.remove(at));
            }
        }
        None
    }

    fn remove(&mut self, at: usize) -> SweptStream<T> {
        self.unlink(at);
        let last = self.records.len() - 1;
        let moved = (at != last).then(|| self.unlink(last));
        let stream = self.records.swap_remove(at);
        if let Some(entry) = moved {
            self.link(Entry { record: at as u32, ..entry });
        }
        SweptStream { stream, at: StreamIndex::from_index(at), moved: moved.map(|_| StreamIndex::from_index(last)) }
    }

    /// Ends all streams; the table is empty afterwards.
    pub fn take(&mut self) -> Vec<Stream<T>> {
        self.index.fill(VACANT);
        self.hand = 0;
        std::mem::take(&mut self.records)
    }
}
