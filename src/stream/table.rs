//! Which streams live? A bounded hash table of records, made for look-ups that are prefetched a batch ahead.
//!
//! Records lie in one vector; an open-addressed index of (hash, record) pairs finds them, eight to a cache line. Hashing
//! is seeded by the process, so chosen addresses can't be made to collide.

use crate::capture::{Frame, Nanos};
use crate::encode::Context;
use crate::packet::{Direction, Headers, KeyKind, StreamKey};
use crate::prefetch::{prefetch, prefetch_whole};
use crate::typed_index::typed_index;

use super::{Arrival, Stream, hash};

/// Bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Most streams at once.
    pub streams: usize,
    /// Nanoseconds without a packet after which a stream has ended; so it has where the clock was set back by more.
    pub idle: u64,
    /// Nanoseconds after which a stream has ended however lively it is.
    pub active: u64,
    /// Nanoseconds without a packet after which a TCP stream that both sides have closed has ended; a SYN ends it at once. With
    /// `u64::MAX` closing ends nothing.
    pub closed: u64,
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

impl Default for StreamLimits {
    /// The limits of the engine unless settings say otherwise, and of all that shows what the engine would see: a million streams,
    /// 600 s without a packet, 60 s for a closed TCP connection.
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

    fn over<T>(&self, stream: &Stream<T>, now: Nanos) -> bool {
        let quiet = now.0.saturating_sub(stream.last.0);
        now.0.abs_diff(stream.last.0) > self.idle
            || now.0.saturating_sub(stream.first.0) > self.active
            || (stream.closed == CLOSED && quiet > self.closed)
    }
}

typed_index! {
    /// The record of a live stream, by its place in its [`StreamTable`].
    StreamIndex(u32)
}

/// What a packet found.
#[derive(Debug)]
pub struct PacketPlace<T> {
    /// Record of its stream, good until another packet of another stream is filed.
    pub at: StreamIndex,
    pub context: Context,
    /// The stream that had to make room: ended by a timeout or closed (same key), or evicted.
    pub ended: Option<(Stream<T>, EndReason)>,
}

/// A stream that left the table by itself.
#[derive(Debug)]
pub struct SweptStream<T> {
    pub stream: Stream<T>,
    /// Where its record lay.
    pub at: StreamIndex,
    /// Where the record lay that lies there now.
    pub moved: Option<StreamIndex>,
}

/// Why a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Timeout,
    Evicted,
}

const EMPTY: u32 = u32::MAX;
/// [`Stream::closed`] of a TCP connection that both sides have closed.
const CLOSED: u8 = 3;
/// Records looked at to find one to evict.
const SAMPLE: usize = 24;

/// The home of an entry follows from its hash, so entries are moved without a look at their records.
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
    /// Where the search for a record to evict goes on, and that for one that is over.
    hand: usize,
    sweeper: usize,
}

impl<T> StreamTable<T> {
    /// An empty table. Tables that share `hasher` agree on [`Arrival::hash`].
    pub fn new(limits: StreamLimits, hasher: foldhash::fast::RandomState) -> Self {
        let index = vec![VACANT; 1024];
        Self { limits, hasher, index, records: Vec::new(), hand: 0, sweeper: 0 }
    }

    /// A packet of the stream `key` as this table files it.
    pub fn arrival(&self, key: StreamKey, direction: Direction, headers: &Headers, frame: &Frame<'_>) -> Arrival {
        Arrival::new(key, &self.hasher, direction, headers, frame)
    }

    /// Live streams.
    pub fn live(&self) -> usize {
        self.records.len()
    }

    /// Whether a new stream takes the place of another.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.records.len() >= self.limits.streams.max(1)
    }

    /// Octets that one stream costs, its share of the index included.
    pub const fn bytes_per_stream() -> usize {
        size_of::<Stream<T>>() + 2 * size_of::<Entry>()
    }

    pub fn get(&self, at: StreamIndex) -> &Stream<T> {
        &self.records[at.index()]
    }

    /// Every live stream.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream<T>> {
        self.records.iter_mut()
    }

    pub fn get_mut(&mut self, at: StreamIndex) -> &mut Stream<T> {
        &mut self.records[at.index()]
    }

    /// Asks the cache for the index entry of `hash`.
    #[inline]
    pub fn prefetch_index(&self, hash: u32) {
        prefetch(&self.index[self.home(hash)]);
    }

    /// Asks the cache for the record that `hash` most likely has.
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

    /// The index slot of the key, or the empty slot where it belongs.
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

    /// Files a packet under its stream, which it opens where it is new.
    ///
    /// Where the table is full a stream makes room: of some records looked at in turn one of a single packet, else one that
    /// `keep` does not hold to be worth keeping, else the one that has been quiet longest.
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
                let anew = stream.closed == CLOSED && self.limits.closed < u64::MAX && packet.opens();
                if anew || self.limits.over(stream, packet.timestamp) {
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
                    // Unlinking may have moved entries: look for the place anew.
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

    /// Takes a record out of the index; later entries of the run move up, so that no tombstone is needed.
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
            // The entry may fill the hole where its home does not lie behind the hole.
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                self.index[hole] = entry;
                hole = slot;
            }
        }
        self.index[hole] = VACANT;
        taken
    }

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

    /// Looks at some records in turn for one that is over at `now`; where there is one it leaves the table. Returns it with its
    /// old place and, where another record took that place, where that one lay.
    pub fn sweep(&mut self, now: Nanos, looks: usize) -> Option<SweptStream<T>> {
        for _ in 0..looks.min(self.records.len()) {
            self.sweeper = self.sweeper.checked_sub(1).unwrap_or(self.records.len() - 1).min(self.records.len() - 1);
            let at = self.sweeper;
            if self.limits.over(&self.records[at], now) {
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
