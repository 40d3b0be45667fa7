//! Single-worker run of a capture: batches are decoded and scored in the caller's thread, while the cache holds them.

use std::sync::Arc;

use crate::capture::{CaptureError, Source};

use super::batch::RoutedBatch;
use super::episodes::EpisodeObserver;
use super::output::BatchOutput;
use super::shard::{Shard, SharedTables};
use super::{Counters, EngineSettings};

/// Reads a source to its end in the caller's thread.
pub(super) fn run(
    settings: &EngineSettings,
    source: &mut dyn Source,
    observer: &mut EpisodeObserver<'_>,
) -> Result<Counters, CaptureError> {
    let mut shard = Shard::new(0, settings, false, foldhash::fast::RandomState::default(), Arc::new(SharedTables::new(settings)));
    let mut routed = RoutedBatch::new(1, 0);
    let (mut counters, mut out, mut first) = (Counters::default(), BatchOutput::default(), 0);
    let mut number = 0;
    let mut report = |shard: &mut Shard<'_>, observer: &mut EpisodeObserver<'_>| {
        let report = shard.report(0, None, None);
        counters.add(&report.counters);
        report.emit(observer);
    };
    let ended = loop {
        match routed.fill(source, first) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        shard.route(&mut routed, number);
        number += 1;
        shard.handle(&routed, first, &mut out);
        out.emit(observer);
        report(&mut shard, observer);
        first += routed.len() as u64;
    };
    shard.finish(|out| out.emit(observer));
    report(&mut shard, observer);
    ended.map(|()| counters)
}
