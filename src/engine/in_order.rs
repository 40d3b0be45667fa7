//! A value that all workers share and use in the order of the batches, although they route batches at the same time.
//!
//! A worker that needs the value for its batch waits until all batches before it are done. A batch that does not need it waits for nothing.
//! What is done with the value therefore does not depend on the number of workers or on the size of the batches.

use std::collections::BTreeSet;

use parking_lot::{Condvar, Mutex, MutexGuard};

#[derive(Default)]
struct State<T> {
    value: T,
    /// Number of the first batch that is not done.
    next: u64,
    /// Batches after `next` that are done.
    done: BTreeSet<u64>,
}

/// The shared value.
#[derive(Default)]
pub(super) struct InOrder<T> {
    state: Mutex<State<T>>,
    /// Signalled when a batch is done.
    done: Condvar,
}

/// One batch; dropping it lets the batches after it have their turn.
pub(super) struct Turn<'a, T> {
    shared: &'a InOrder<T>,
    batch: u64,
    guard: Option<MutexGuard<'a, State<T>>>,
}

impl<T> InOrder<T> {
    /// The value before the first batch, which has the number 0.
    pub fn new(value: T) -> Self {
        Self { state: Mutex::new(State { value, next: 0, done: BTreeSet::new() }), done: Condvar::new() }
    }

    /// Begins the batch of this number.
    pub fn begin(&self, batch: u64) -> Turn<'_, T> {
        Turn { shared: self, batch, guard: None }
    }
}

impl<T> Turn<'_, T> {
    /// The value as all batches before this one left it. The first call waits until these are done.
    pub fn value(&mut self) -> &mut T {
        let (shared, batch) = (self.shared, self.batch);
        let guard = self.guard.get_or_insert_with(|| {
            let mut state = shared.state.lock();
            shared.done.wait_while(&mut state, |state| state.next < batch);
            state
        });
        &mut guard.value
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let mut state = self.guard.take().unwrap_or_else(|| self.shared.state.lock());
        state.done.insert(self.batch);
        while state.done.first() == Some(&state.next) {
            state.done.pop_first();
            state.next += 1;
        }
        drop(state);
        self.shared.done.notify_all();
    }
}
