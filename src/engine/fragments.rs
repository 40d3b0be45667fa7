//! Fragments in the order of the batches, although workers route batches at the same time.
//!
//! A worker whose batch has a fragment waits until all batches before it are routed. Batches without fragments wait for nothing.

use std::collections::BTreeSet;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::stream::FragmentTable;

#[derive(Default)]
struct State {
    table: FragmentTable,
    /// Number of the first batch that is not routed yet.
    next: u64,
    /// Batches after `next` that are routed.
    routed: BTreeSet<u64>,
}

/// The first fragments of all workers.
#[derive(Default)]
pub(super) struct SharedFragments {
    state: Mutex<State>,
    turn: Condvar,
}

/// One batch while it is routed; dropping it lets the batches after it have their turn.
pub(super) struct FragmentTurn<'a> {
    shared: &'a SharedFragments,
    batch: u64,
    guard: Option<MutexGuard<'a, State>>,
}

impl SharedFragments {
    /// Begins the batch of this number.
    pub fn begin(&self, batch: u64) -> FragmentTurn<'_> {
        FragmentTurn { shared: self, batch, guard: None }
    }
}

impl FragmentTurn<'_> {
    /// The first fragments of all batches before this one. The first call waits until these batches are routed.
    pub fn table(&mut self) -> &mut FragmentTable {
        let (shared, batch) = (self.shared, self.batch);
        let guard = self.guard.get_or_insert_with(|| {
            let mut state = shared.state.lock();
            shared.turn.wait_while(&mut state, |state| state.next < batch);
            state
        });
        &mut guard.table
    }
}

impl Drop for FragmentTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.guard.take().unwrap_or_else(|| self.shared.state.lock());
        state.routed.insert(self.batch);
        while state.routed.first() == Some(&state.next) {
            state.routed.pop_first();
            state.next += 1;
        }
        drop(state);
        self.shared.turn.notify_all();
    }
}
