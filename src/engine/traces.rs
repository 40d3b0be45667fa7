//! The trace stage: counts the packets of every batch in the traces of their hosts, batch by batch in the order of the source.
//!
//! A host's flows lie in many shards, so the workers share one [`TraceTable`]. The worker that routed a batch waits until the batch
//! before has been traced; workers that fill batches in turn rarely wait. Traces therefore do not depend on the number of workers or
//! on the size of the batches.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};

use crate::trace::TraceTable;

use super::batch::RoutedBatch;
use super::{EngineSettings, Models};

pub(super) struct TraceStage {
    models: Arc<ArcSwap<Models>>,
    hosts: usize,
    turn: Mutex<Turn>,
    /// Signalled when a batch is done.
    done: Condvar,
}

struct Turn {
    table: TraceTable,
    /// Number of the batch whose turn it is.
    next: u64,
    /// Later batches that no model wanted traced.
    skipped: BTreeSet<u64>,
}

impl TraceStage {
    pub fn new(settings: &EngineSettings) -> Self {
        let turn = Turn { table: TraceTable::new(settings.hosts), next: 0, skipped: BTreeSet::new() };
        Self { models: Arc::clone(&settings.models), hosts: settings.hosts, turn: Mutex::new(turn), done: Condvar::new() }
    }

    /// Traces the routed batch with this number when its turn has come, if a model uses traces. If that panics, the traces of all
    /// hosts begin again and the batch has none. Returns the number of hosts that were evicted.
    pub fn run(&self, number: u64, routed: &mut RoutedBatch) -> u64 {
        let wanted = self.models.load().iter().any(|model| model.layout.has_traces());
        let mut turn = self.turn.lock();
        if wanted {
            self.done.wait_while(&mut turn, |turn| turn.next != number);
            let table = &mut turn.table;
            if catch_unwind(AssertUnwindSafe(|| routed.trace(table))).is_err() {
                routed.clear_traces();
                turn.table = TraceTable::new(self.hosts);
            }
        }
        let evicted = turn.table.take_evicted();
        turn.skipped.insert(number);
        while turn.skipped.pop_first().is_some_and(|first| turn.pass(first)) {}
        drop(turn);
        self.done.notify_all();
        evicted
    }
}

impl Turn {
    /// Passes the turn on if it is that of batch `number`; otherwise keeps the number for later.
    fn pass(&mut self, number: u64) -> bool {
        let mine = number == self.next;
        if mine {
            self.next += 1;
        } else {
            self.skipped.insert(number);
        }
        mine
    }
}
