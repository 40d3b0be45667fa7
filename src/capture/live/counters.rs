//! What was counted at one interface: every frame that came by is handed on or dropped for a reason.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::capture::CaptureIndex;

/// Counters of one interface, of a replay, or of a watched folder. They only grow.
#[derive(Debug, Default)]
pub struct InputCounters {
    pub name: String,
    pub filter: Option<String>,
    /// Frames are being captured.
    pub up: AtomicBool,
    /// Frames handed to the workers.
    pub frames: AtomicU64,
    /// Frames dropped: the kernel's buffer was full.
    pub kernel_drops: AtomicU64,
    /// Frames dropped by the card or its driver.
    pub interface_drops: AtomicU64,
    /// Frames dropped here: no batch was free.
    pub queue_drops: AtomicU64,
    /// How often it has gone.
    pub lost: AtomicU64,
    /// How often it was opened anew after it had gone.
    pub reopened: AtomicU64,
    /// Captures that frames came from: read to their end or cut, and such as could not be read.
    pub captures_read: AtomicU64,
    pub captures_refused: AtomicU64,
    /// The captures that frames come from.
    pub capture_index: CaptureIndex,
    trouble: Mutex<Option<String>>,
}

impl InputCounters {
    pub fn new(name: &str, filter: Option<&str>) -> Self {
        Self { name: name.into(), filter: filter.map(Into::into), ..Self::default() }
    }

    /// Why it is down.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Notes that it is up, or why not. Returns whether that is news.
    pub fn set_trouble(&self, trouble: Option<String>) -> bool {
        self.up.store(trouble.is_none(), Relaxed);
        let mut mine = self.trouble.lock();
        let news = *mine != trouble;
        *mine = trouble;
        news
    }
}
