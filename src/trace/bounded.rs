//! A bounded hash table of entries by 64-bit key. When it is full, the quietest of a few entries makes room for a new one.

use hashbrown::HashTable;

use crate::capture::Nanos;
use crate::prefetch::prefetch_whole;

/// Entries that are compared to find one to evict.
const SAMPLE: usize = 16;

/// What the choice of an entry to evict depends on.
pub(crate) trait Activity {
    /// How active the entry was: of two entries the smaller one is evicted.
    fn activity(&self) -> (u32, Nanos);

    /// Whether the entry may be evicted while there are others that may.
    fn is_evictable(&self) -> bool {
        true
    }
}

/// The key of an entry and where the entry was last, so that it is found again without a search unless it was evicted. Packed, since a flow has three
/// and there are many flows.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(4))]
pub(crate) struct Handle {
    key: u64,
    place: u32,
}

impl Handle {
    /// The handle of an entry that was not looked up yet.
    pub fn new(key: u64) -> Self {
        Self { key, place: u32::MAX }
    }
}

pub(crate) struct BoundedTable<V> {
    capacity: usize,
    /// Where in `entries` each key is. Keys are hashes already.
    places: HashTable<u32>,
    entries: Vec<(u64, V)>,
    /// Where the next search for an entry to evict begins.
    hand: usize,
    evicted: u64,
}

impl<V: Activity> BoundedTable<V> {
    /// An empty table for at most `capacity` entries. Memory is allocated as it fills.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), places: HashTable::new(), entries: Vec::new(), hand: 0, evicted: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries, in no particular order.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.entries.into_iter().map(|(_, value)| value)
    }

    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    pub fn get(&self, key: u64) -> Option<&V> {
        self.place(key).map(|place| &self.entries[place].1)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let place = self.place(key)?;
        Some(self.at(place))
    }

    /// Where the entry of `key` lies, until another is added.
    pub fn place(&self, key: u64) -> Option<usize> {
        self.places.find(key, |&place| self.entries[place as usize].0 == key).map(|&place| place as usize)
    }

    /// The entry that lies there.
    pub fn at(&mut self, place: usize) -> &mut V {
        &mut self.entries[place].1
    }

    /// The entry of `key`, made by `new` if there is none.
    pub fn entry(&mut self, key: u64, new: impl FnOnce() -> V) -> &mut V {
        self.entry_of(&mut Handle::new(key), new)
    }

    /// The entry of a handle, made by `new` if there is none.
    pub fn entry_of(&mut self, handle: &mut Handle, new: impl FnOnce() -> V) -> &mut V {
        let Handle { key, ref mut place } = *handle;
        if self.entries.get(*place as usize).is_none_or(|&(known, _)| known != key) {
            *place = self.place(key).unwrap_or_else(|| self.add(key, new())) as u32;
        }
        self.at(*place as usize)
    }

    /// Prefetches the entry of a handle.
    pub fn prefetch(&self, handle: Handle) {
        self.entries.get(handle.place as usize).into_iter().for_each(prefetch_whole);
    }

    /// Sets the entry of `key`. Returns where it lies.
    pub fn insert(&mut self, key: u64, value: V) -> usize {
        match self.place(key) {
            Some(place) => {
                *self.at(place) = value;
                place
            }
            None => self.add(key, value),
        }
    }

    fn add(&mut self, key: u64, value: V) -> usize {
        let place = if self.entries.len() < self.capacity {
            self.entries.push((key, value));
            self.entries.len() - 1
        } else {
            let place = self.quietest();
            let old = std::mem::replace(&mut self.entries[place], (key, value)).0;
            let known = self.places.find_entry(old, |&other| other as usize == place);
            known.expect("every entry has its place").remove();
            self.evicted += 1;
            place
        };
        self.places.insert_unique(key, place as u32, |&place| self.entries[place as usize].0);
        place
    }

    fn quietest(&mut self) -> usize {
        let count = self.entries.len();
        for _ in 0..count.div_ceil(SAMPLE) {
            let sample = (0..SAMPLE.min(count)).map(|step| (self.hand + step) % count);
            let evictable = sample.filter(|&place| self.entries[place].1.is_evictable());
            let quietest = evictable.min_by_key(|&place| self.entries[place].1.activity());
            self.hand = (self.hand + SAMPLE) % count;
            if let Some(quietest) = quietest {
                return quietest;
            }
        }
        self.hand
    }
}
