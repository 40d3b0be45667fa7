//! How does one worker read a capture? Alone: nothing is handed over, so each batch is filed and scored while the cache holds it.

use crate::capture::{CaptureError, FrameBatch, Source};

use super::shard::{Routed, Shard};
use super::told::Told;
use super::{Observer, Settings, Tally};

/// Reads a source to its end in the caller's thread.
pub(super) fn run(settings: &Settings, source: &mut dyn Source, observer: &mut dyn Observer) -> Result<Tally, CaptureError> {
    let mut shard = Shard::new(0, settings, false, foldhash::fast::RandomState::default());
    let mut routed = Routed::new(FrameBatch::new(), 1, 0);
    let (mut tally, mut told, mut first) = (Tally::default(), Told::default(), 0);
    let mut report = |shard: &mut Shard<'_>, observer: &mut dyn Observer| {
        let report = shard.report(0, None);
        tally.add(&report.tally);
        report.tell(observer);
    };
    let ended = loop {
        match super::fill(source, &mut routed.batch, first) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        shard.route(&mut routed);
        shard.handle(&routed, first, &mut told);
        told.tell(observer);
        report(&mut shard, observer);
        first += routed.batch.len() as u64;
    };
    shard.finish(|told| told.tell(observer));
    report(&mut shard, observer);
    ended.map(|()| tally)
}
