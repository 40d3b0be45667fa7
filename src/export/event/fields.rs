//! The fields of an event that all formats have, taken from its verdict.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::{Event, Verdict};
use crate::export::sink::Severity;
use crate::packet::{Address, KeyKind};

use super::EventContext;

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::export) struct Endpoint {
    /// `None` if the frames show no address of this end.
    pub address: Option<Address>,
    /// `None` for protocols without ports.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    /// `address:port`, with brackets around an IPv6 address; only one of the two if the other is absent; `-` without both.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.map(|address| address.to_string());
        match (address, self.port) {
            (None, None) => f.write_str("-"),
            (None, Some(port)) => write!(f, "-:{port}"),
            (Some(address), None) => f.write_str(&address),
            (Some(address), Some(port)) if address.contains(':') => write!(f, "[{address}]:{port}"),
            (Some(address), Some(port)) => write!(f, "{address}:{port}"),
        }
    }
}

/// Source and destination of the stream. The source is the sender of a flow's first packet, or the host, which has no destination.
pub(in crate::export) fn endpoints(verdict: &Verdict) -> [Endpoint; 2] {
    let key = &verdict.key;
    let end = |address: Address, port: u16| Endpoint {
        address: Some(address).filter(|address| !address.is_absent()),
        port: key.has_ports().then_some(port),
    };
    match key.kind() {
        KeyKind::Host => [end(key.addr_a(), key.port_a()), Endpoint { address: None, port: None }],
        KeyKind::Flow => key.ends(verdict.first_direction).map(|(address, port)| end(address, port)),
    }
}

/// The event's type: `detection`, `alert` or `stream`.
pub(super) fn event_type(verdict: &Verdict, context: EventContext<'_>) -> &'static str {
    match (verdict.event, context.alert) {
        (Event::Detection, Some(_)) => "alert",
        (Event::Detection, None) => "detection",
        (Event::Stream, _) => "stream",
    }
}

/// Severity of an alert on Suricata's scale from 1 (highest) to 3. A detection without an alert has 3.
pub(super) fn severity_number(alert: Option<Severity>) -> u8 {
    match alert {
        Some(Severity::Critical | Severity::Error) => 1,
        Some(Severity::Warning) => 2,
        Some(Severity::Notice | Severity::Informational) | None => 3,
    }
}

/// Name of the class if it is that of an application protocol: a class of flows. Classes of hosts are kinds of devices, those of models with
/// traces are behaviours.
pub(super) fn app_proto(verdict: &Verdict) -> Option<&str> {
    let class = verdict.class.filter(|_| verdict.model.key == KeyKind::Flow && !verdict.model.layout.has_traces())?;
    Some(&verdict.model.classes[class.index()])
}

/// Age of the stream in whole seconds, from its first packet to its last, as Suricata counts it.
pub(super) fn age(verdict: &Verdict) -> u64 {
    verdict.last.0.saturating_sub(verdict.first.0) / super::SECOND
}
