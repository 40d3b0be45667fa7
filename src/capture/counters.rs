//! Counters and state of one input: an interface, a replay, or a watched folder.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::CaptureIndex;

/// Counters of one interface, of a replay, or of a watched folder. They only grow.
///
/// Every frame that arrives is either handed on (`frames`) or counted in one of the drop counters.
#[derive(Debug, Default)]
pub struct InputCounters {
    /// Name of the input.
    pub name: String,
    /// BPF filter.
    pub filter: Option<String>,
    /// Whether frames are being captured.
    pub up: AtomicBool,
    /// Frames handed to the workers.
    pub frames: AtomicU64,
    /// Frames dropped because the kernel's buffer was full.
    pub kernel_drops: AtomicU64,
    /// Frames dropped by the network card or its driver.
    pub interface_drops: AtomicU64,
    /// Frames dropped because no batch of the queue was free.
    pub queue_drops: AtomicU64,
    /// How often the interface was lost.
    pub lost: AtomicU64,
    /// How often the interface was reopened after it was lost.
    pub reopened: AtomicU64,
    /// Copies of frames before them that were found ([`Duplicates`](super::Duplicates)).
    pub copies: AtomicU64,
    /// Frames among which copies were looked for.
    pub compared: AtomicU64,
    /// Captures read to their end, or to where they are truncated.
    pub captures_read: AtomicU64,
    /// Captures that could not be read.
    pub captures_refused: AtomicU64,
    /// The captures that frames come from.
    pub capture_index: CaptureIndex,
    last_error: Mutex<Option<String>>,
}

impl InputCounters {
    /// Counters of an input, all zero.
    pub fn new(name: &str, filter: Option<&str>) -> Self {
        Self { name: name.into(), filter: filter.map(Into::into), ..Self::default() }
    }

    /// Why the input is down; `None` while it is up.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Marks the input as up (`None`) or down for a reason. Returns whether that is a change.
    pub fn set_last_error(&self, error: Option<String>) -> bool {
        self.up.store(error.is_none(), Relaxed);
        let mut last = self.last_error.lock();
        let changed = *last != error;
        *last = error;
        changed
    }
}
