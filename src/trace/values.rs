//! Trace values of one packet, and their names.

use super::host::{self, COUNTS, Count, TAUS};
use super::service;

/// Counts of the flow's source that are values.
const SOURCE: [Count; 7] =
    [Count::Begun, Count::Ports, Count::Peers, Count::Empty, Count::Answers, Count::Resets, Count::Received];
/// Counts of its destination that are values.
const DESTINATION: [Count; 4] = [Count::Received, Count::Sources, Count::Answered, Count::Begun];

/// Number of trace values of a packet.
pub const TRACES: usize = (SOURCE.len() + DESTINATION.len()) * TAUS.len() + TAUS.len() + 2;

/// No value.
const NONE: u8 = 255;

/// The coded traces of the hosts of a packet's flow: levels of leaky counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceValues([u8; TRACES]);

impl TraceValues {
    /// A packet without traces.
    pub const NONE: Self = Self([NONE; TRACES]);

    pub(super) fn new(source: &host::Levels, destination: &host::Levels, service: &service::Levels) -> Self {
        let source = SOURCE.into_iter().flat_map(|count| source[count as usize]);
        let destination = DESTINATION.into_iter().flat_map(|count| destination[count as usize]);
        let mut values = Self::NONE;
        let all = source.chain(destination).chain(*service);
        values.0.iter_mut().zip(all).for_each(|(value, level)| *value = level);
        values
    }

    /// The value with this number; `None` for a packet without traces.
    pub fn get(&self, number: usize) -> Option<u8> {
        self.0.get(number).copied().filter(|&value| value != NONE)
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
    };
    let timed = |prefix: String| TAUS.map(move |tau| format!("trace.{prefix}.{tau}s"));
    let source = SOURCE.into_iter().flat_map(move |count| timed(format!("source.{}", name(count))));
    let destination = DESTINATION.into_iter().flat_map(move |count| timed(format!("destination.{}", name(count))));
    let service = timed("service.flows".into()).into_iter().chain(["trace.service.regular".into(), "trace.service.gap".into()]);
    source.chain(destination).chain(service)
}

const _: () = assert!(SOURCE.len() <= COUNTS && DESTINATION.len() <= COUNTS);
