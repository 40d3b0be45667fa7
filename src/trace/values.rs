//! Trace values of one packet, and their names.

use std::ops::Range;

use super::host::{self, COUNTS, Count, TAUS};
use super::rates::{self, RATE_TAUS};
use super::service;

/// Counts of the flow's source that are values.
const SOURCE: [Count; 7] =
    [Count::Begun, Count::Ports, Count::Peers, Count::Empty, Count::Answers, Count::Resets, Count::Received];
/// Counts of its destination that are values.
const DESTINATION: [Count; 4] = [Count::Received, Count::Sources, Count::Answered, Count::Begun];

/// Numbers of the values that are packet rates: those of the two directions of the flow, of the source and of the destination. Models without a
/// slot for any score the first packets of a flow only.
pub const RATES: Range<usize> = FIRST_RATE..FIRST_RATE + 4 * RATE_TAUS;
const FIRST_RATE: usize = (SOURCE.len() + DESTINATION.len()) * TAUS.len() + TAUS.len() + 2;

/// Number of trace values of a packet. New ones come last, since model files have the numbers of those that they use.
pub const TRACES: usize = RATES.end + TAUS.len() + 2;

/// The coded traces of the hosts of a packet's flow: levels of leaky counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceValues {
    levels: [u8; TRACES],
    /// Packets since the last values, of a packet that is scored again; else 0.
    since: u32,
}

impl TraceValues {
    /// No value, in place of a level.
    pub(crate) const NO_LEVEL: u8 = 255;

    /// A packet without traces.
    pub const NONE: Self = Self { levels: [Self::NO_LEVEL; TRACES], since: 0 };

    /// These levels, by their number.
    #[cfg(test)]
    pub(crate) fn of(levels: [u8; TRACES]) -> Self {
        Self { levels, since: 0 }
    }

    #[inline]
    pub(super) fn new(
        source: &host::Levels,
        destination: &host::Levels,
        service: &service::Levels,
        rates: &rates::Levels,
    ) -> Self {
        let (mut levels, mut count) = ([Self::NO_LEVEL; TRACES], 0);
        let mut add = |values: &[u8]| {
            levels[count..][..values.len()].copy_from_slice(values);
            count += values.len();
        };
        SOURCE.iter().for_each(|&count| add(&source.counts[count as usize]));
        DESTINATION.iter().for_each(|&count| add(&destination.counts[count as usize]));
        add(&service.flows);
        add(&[service.regular, service.gap]);
        add(rates.as_flattened());
        add(&source.counts[Count::Sent as usize][..RATE_TAUS]);
        add(&destination.counts[Count::Arrived as usize][..RATE_TAUS]);
        add(&service.replies);
        add(&[service.open, destination.requested]);
        Self { levels, since: 0 }
    }

    /// The values as those of a packet that is scored again.
    pub(super) fn of_later_packet(self, since: u32) -> Self {
        Self { since, ..self }
    }

    /// The packets of the flow since its last values, if this packet is scored again although its stream may be decided: one after the first
    /// of its flow, or the first (so that this is 1) of a flow within a stream: an ARP request, or a segment that opens a connection again.
    pub fn later(&self) -> Option<u32> {
        (self.since > 0).then_some(self.since)
    }

    /// The values by their number, [`TraceValues::NO_LEVEL`] for a packet without traces.
    pub(crate) fn levels(&self) -> &[u8; TRACES] {
        &self.levels
    }
}

/// Names of the values, in their order: `trace.source.ports.10s` is the leaky count of new ports of the source at 10 s.
pub fn trace_names() -> impl Iterator<Item = String> {
    let name = |count: Count| match count {
        Count::Begun => "begun",
        Count::Ports => "ports",
        Count::Peers => "peers",
        Count::Empty => "empty",
        Count::Answers => "answers",
        Count::Resets => "resets",
        Count::Received => "received",
        Count::Sources => "sources",
        Count::Answered => "answered",
        Count::Sent | Count::Arrived => "packets",
    };
    let timed = |prefix: String| TAUS.map(move |tau| format!("trace.{prefix}.{tau}s"));
    let source = SOURCE.into_iter().flat_map(move |count| timed(format!("source.{}", name(count))));
    let destination = DESTINATION.into_iter().flat_map(move |count| timed(format!("destination.{}", name(count))));
    let service = timed("service.flows".into()).into_iter().chain(["trace.service.regular".into(), "trace.service.gap".into()]);
    let rates = ["flow.forward", "flow.backward", "source.packets", "destination.packets"];
    let rates =
        rates.into_iter().flat_map(|rate| TAUS.into_iter().take(RATE_TAUS).map(move |tau| format!("trace.{rate}.{tau}s")));
    let later = timed("service.replies".into())
        .into_iter()
        .chain(["trace.service.open".into(), "trace.destination.requested.10s".into()]);
    source.chain(destination).chain(service).chain(rates).chain(later)
}

const _: () = assert!(SOURCE.len() <= COUNTS && DESTINATION.len() <= COUNTS);
