//! How does one thread leave word for another? The last letter alone counts, and who looks for one waits for nobody where there is none.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::state::lock;

pub(super) struct Mailbox<T> {
    any: AtomicBool,
    letter: Mutex<Option<T>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), letter: Mutex::new(None) }
    }
}

impl<T> Mailbox<T> {
    pub fn post(&self, letter: T) {
        *lock(&self.letter) = Some(letter);
        self.any.store(true, Relaxed);
    }

    pub fn take(&self) -> Option<T> {
        if self.any.swap(false, Relaxed) { lock(&self.letter).take() } else { None }
    }
}
