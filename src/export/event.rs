//! How does a verdict look as JSON? One object a line, in the manner of Suricata's EVE.

use jiff::Timestamp;
use serde::Serialize;

use crate::capture::Nanos;
use crate::engine::{Event, Verdict};
use crate::model::Model;
use crate::packet::Direction;

/// Where a verdict's packets came from.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub model: &'a Model,
    /// The capture as named, for captures.
    pub capture: Option<&'a str>,
}

#[derive(Serialize)]
struct Eve<'a> {
    timestamp: String,
    event_type: &'static str,
    flow_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<[u16; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcap_filename: Option<&'a str>,
    spiked: Spiked<'a>,
}

#[derive(Serialize)]
struct Spiked<'a> {
    class: Option<&'a str>,
    best: Option<&'a str>,
    confidence: f64,
    evidence: f64,
    packets: u64,
    bytes: u64,
    scored: u32,
    model: &'a str,
}

/// RFC 3339 with microseconds, in UTC, as Suricata writes it.
fn time(nanos: Nanos) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos.0)) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S.%6f+0000").to_string(),
        Err(_) => "1970-01-01T00:00:00.000000+0000".into(),
    }
}

fn round(x: f32) -> f64 {
    (f64::from(x) * 1e4).round() / 1e4
}

/// The verdict as one JSON line, without the line's end.
pub fn event(verdict: &Verdict, context: Context<'_>) -> String {
    let key = &verdict.key;
    let name = |class: Option<u16>| class.map(|c| context.model.classes[c as usize].as_str());
    let ends = [(key.addr_a(), key.port_a()), (key.addr_b(), key.port_b())];
    let [source, destination] = match verdict.first_direction {
        Direction::Forward => ends,
        Direction::Backward => {
            let [a, b] = ends;
            [b, a]
        }
    };
    let host = key.host();
    let flow = host.is_none();
    let ports = key.has_ports();
    let eve = Eve {
        timestamp: time(verdict.timestamp),
        event_type: match verdict.event {
            Event::Detection => "detection",
            Event::Stream => "stream",
        },
        flow_id: key.flow_id(verdict.first.0),
        host,
        src_ip: flow.then_some(source.0),
        src_port: (flow && ports).then_some(source.1),
        dest_ip: flow.then_some(destination.0),
        dest_port: (flow && ports).then_some(destination.1),
        proto: flow.then(|| key.proto_name()),
        vlan: key.vlan().map(|v| [v]),
        community_id: key.community_id(0),
        pcap_filename: context.capture,
        spiked: Spiked {
            class: name(verdict.class),
            best: name(verdict.leader.map(|l| l.class)),
            confidence: round(verdict.confidence),
            evidence: verdict.leader.map_or(0.0, |l| round(l.evidence)),
            packets: verdict.packets,
            bytes: verdict.bytes,
            scored: verdict.leader.map_or(0, |l| l.packets),
            model: &context.model.name,
        },
    };
    serde_json::to_string(&eve).expect("an event has only string keys")
}
