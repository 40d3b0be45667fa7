//! Events with the field names of the Elastic Common Schema, version 8.11 (<https://www.elastic.co/guide/en/ecs/8.11/index.html>).

use serde::Serialize;

use crate::engine::{Event, Verdict};
use crate::packet::{Address, KeyKind};
use crate::snn::ClassId;
use crate::stream::{Basis, UnknownReason};

use super::EventContext;
use super::fields::{Endpoint, app_proto, endpoints, event_type, severity_number};
use super::names::{category, signature, signature_id};

#[derive(Serialize)]
struct Ecs<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    ecs: Version,
    event: EventFields,
    source: Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Side>,
    network: NetworkFields<'a>,
    observer: ObserverFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Log<'a>>,
    spiked: Spiked<'a>,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
struct EventFields {
    kind: &'static str,
    category: [&'static str; 1],
    r#type: &'static [&'static str],
    action: &'static str,
    module: &'static str,
    dataset: String,
    /// 1 (highest) to 3, for detections and alerts.
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    start: String,
    end: String,
    /// Nanoseconds.
    duration: u64,
}

#[derive(Serialize)]
struct Side {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// Packets and bytes that this side sent.
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct NetworkFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iana_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<VlanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<InnerFields>,
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct VlanId {
    id: String,
}

/// Fields of the inner one of two tags.
#[derive(Serialize)]
struct InnerFields {
    vlan: VlanId,
}

#[derive(Serialize)]
struct ObserverFields<'a> {
    product: &'static str,
    r#type: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Ingress<'a>>,
}

#[derive(Serialize)]
struct Ingress<'a> {
    interface: Interface<'a>,
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Rule<'a> {
    id: String,
    name: String,
    category: &'static str,
    ruleset: &'a str,
}

#[derive(Serialize)]
struct Log<'a> {
    file: LogFile<'a>,
}

/// The capture that the event came from.
#[derive(Serialize)]
struct LogFile<'a> {
    path: &'a str,
}

/// Fields that ECS has no name for; docs/USAGE.md describes them. Those of a class are null for unknown streams, others are absent where they do
/// not apply.
#[derive(Serialize)]
struct Spiked<'a> {
    flow_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<Icmp>,
    class: Option<&'a str>,
    /// The nearest class, also of streams that stay unknown.
    best: Option<&'a str>,
    /// Confidence in the nearest class, 0 to 1.
    confidence: f64,
    /// Evidence of the nearest class: the sum of its margins, in units of the threshold.
    evidence: f64,
    /// Packets that the evidence comes from.
    scored: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    basis: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What the stream is wrapped in, outermost first; all other fields are of the inner packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnels: Option<Vec<&'static str>>,
    model: &'a str,
}

#[derive(Serialize)]
struct Icmp {
    r#type: u8,
    code: u8,
}

/// A MAC address as the schema has it (RFC 7042): `00-00-5E-00-53-23`.
fn mac(address: &Address) -> String {
    address.to_string().to_ascii_uppercase().replace(':', "-")
}

fn side(end: Endpoint, packets: u64, bytes: u64) -> Side {
    let text = |address: &Address| if address.is_mac() { mac(address) } else { address.to_string() };
    Side {
        address: end.address.as_ref().map(text),
        ip: end.address.filter(|a| !a.is_mac()).map(|a| a.to_string()),
        mac: end.address.as_ref().filter(|a| a.is_mac()).map(mac),
        port: end.port,
        packets,
        bytes,
    }
}

fn event_fields(verdict: &Verdict, context: EventContext<'_>, time: &impl Fn(u64) -> String) -> EventFields {
    let action = event_type(verdict, context);
    EventFields {
        kind: if action == "alert" { "alert" } else { "event" },
        category: ["network"],
        r#type: match verdict.event {
            Event::Detection => &["connection", "info"],
            Event::Stream => &["connection", "end"],
        },
        action,
        module: "spiked",
        dataset: format!("spiked.{action}"),
        severity: (verdict.event == Event::Detection).then(|| severity_number(context.alert)),
        start: time(verdict.first.0),
        end: time(verdict.last.0),
        duration: verdict.last.0.saturating_sub(verdict.first.0),
    }
}

fn network_fields(verdict: &Verdict) -> NetworkFields<'_> {
    let key = &verdict.key;
    let mut vlans = key.vlans().ids();
    let id = |id: u16| VlanId { id: id.to_string() };
    NetworkFields {
        r#type: key.ip_version().map(|version| if version == 4 { "ipv4" } else { "ipv6" }),
        transport: (key.kind() == KeyKind::Flow).then(|| key.proto_name().to_ascii_lowercase()),
        iana_number: key.ip_number().filter(|_| key.kind() == KeyKind::Flow).map(|number| number.0.to_string()),
        protocol: app_proto(verdict),
        community_id: key.community_id(0).map(|id| String::from_utf8_lossy(&id).into_owned()),
        vlan: vlans.next().map(id),
        inner: vlans.next().map(|inner| InnerFields { vlan: id(inner) }),
        packets: verdict.packets,
        bytes: verdict.bytes,
    }
}

/// Appends the event as one JSON object, without a line feed. `time` formats nanoseconds since 1970.
pub(super) fn write(verdict: &Verdict, context: EventContext<'_>, time: impl Fn(u64) -> String, out: &mut Vec<u8>) {
    let (key, model) = (&verdict.key, &verdict.model);
    let [source, destination] = endpoints(verdict);
    let name = |class: Option<ClassId>| class.map(|class| model.classes[class.index()].as_str());
    let round = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
    let rule = |class: &'_ str| Rule {
        id: signature_id(&model.name, class).to_string(),
        name: signature(&model.name, class),
        category: category(model),
        ruleset: &model.name,
    };
    let event = Ecs {
        timestamp: time(verdict.timestamp.0),
        ecs: Version { version: "8.11.0" },
        event: event_fields(verdict, context, &time),
        source: side(source, verdict.own_packets, verdict.own_bytes),
        destination: (key.kind() == KeyKind::Flow)
            .then(|| side(destination, verdict.packets - verdict.own_packets, verdict.bytes - verdict.own_bytes)),
        network: network_fields(verdict),
        observer: ObserverFields {
            product: "spiked",
            r#type: "sensor",
            version: env!("CARGO_PKG_VERSION"),
            name: context.sensor,
            ingress: context.interface.map(|name| Ingress { interface: Interface { name } }),
        },
        rule: name(verdict.class).filter(|_| verdict.event == Event::Detection).map(rule),
        log: context.capture.map(|path| Log { file: LogFile { path } }),
        spiked: Spiked {
            flow_id: key.flow_id(verdict.first.0),
            icmp: key.icmp(verdict.first_direction).map(|(kind, code)| Icmp { r#type: kind, code }),
            class: name(verdict.class),
            best: name(verdict.leader.map(|l| l.class)),
            confidence: round(verdict.confidence),
            evidence: verdict.leader.map_or(0.0, |l| round(l.evidence)),
            scored: verdict.leader.map_or(0, |l| l.packets()),
            basis: verdict.basis().map(Basis::name),
            reason: verdict.unknown_reason().map(UnknownReason::name),
            tunnels: verdict.tunnel.as_ref().map(|tunnel| tunnel.kinds().iter().map(|kind| kind.name()).collect()),
            model: &model.name,
        },
    };
    serde_json::to_writer(out, &event).expect("writing to a vector does not fail");
}
