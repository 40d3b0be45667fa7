//! What became of lines that a sink has taken and delivers later: counts, and the last error.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Counts of lines that a sink has taken, shared with the thread that delivers them.
#[derive(Debug, Default)]
pub struct Delivery {
    delivered: AtomicU64,
    refused: AtomicU64,
    backlog: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Delivery {
    /// Counts a line as delivered; returns whether the attempt before it failed.
    pub fn delivered(&self) -> bool {
        self.delivered.fetch_add(1, Relaxed);
        self.last_error.lock().take().is_some()
    }

    /// Counts a line as dropped, since the receiver will never accept it.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Sets the number of lines that are taken and not delivered.
    pub fn backlog(&self, lines: u64) {
        self.backlog.store(lines, Relaxed);
    }

    /// Records why lines can't be delivered; returns whether the error is another than the last one.
    pub fn failed(&self, error: &str) -> bool {
        self.last_error.lock().replace(error.into()).as_deref() != Some(error)
    }

    /// Why lines can't be delivered; `None` after a line that was.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Numbers of lines: delivered, refused, and taken but not delivered.
    pub(super) fn counts(&self) -> [u64; 3] {
        [&self.delivered, &self.refused, &self.backlog].map(|count| count.load(Relaxed))
    }
}
