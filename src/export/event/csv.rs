//! Events as rows of CSV (RFC 4180), with the names of the JSON fields as column names: `flow.age` is the field `age` of the object `flow`.

use serde::Serialize;

use crate::engine::{Event, Verdict};
use crate::packet::{Address, KeyKind};
use crate::snn::ClassId;
use crate::stream::{Basis, UnknownReason};

use super::EventContext;
use super::fields::{age, app_proto, endpoints, event_type, severity_number};
use super::names::{category, signature, signature_id};

/// One row. Fields that an event does not have are empty.
#[derive(Serialize)]
struct Row<'a> {
    timestamp: String,
    event_type: &'static str,
    flow_id: u64,
    in_iface: Option<&'a str>,
    host: Option<String>,
    src_ip: Option<String>,
    src_mac: Option<String>,
    src_port: Option<u16>,
    dest_ip: Option<String>,
    dest_mac: Option<String>,
    dest_port: Option<u16>,
    proto: Option<String>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    vlan: Option<String>,
    community_id: Option<String>,
    pcap_filename: Option<&'a str>,
    app_proto: Option<&'a str>,
    #[serde(rename = "flow.pkts_toserver")]
    pkts_toserver: u64,
    #[serde(rename = "flow.pkts_toclient")]
    pkts_toclient: u64,
    #[serde(rename = "flow.bytes_toserver")]
    bytes_toserver: u64,
    #[serde(rename = "flow.bytes_toclient")]
    bytes_toclient: u64,
    #[serde(rename = "flow.start")]
    start: String,
    #[serde(rename = "flow.end")]
    end: String,
    #[serde(rename = "flow.age")]
    age: u64,
    #[serde(rename = "alert.signature_id")]
    signature_id: Option<u64>,
    #[serde(rename = "alert.signature")]
    signature: Option<String>,
    #[serde(rename = "alert.category")]
    category: Option<&'static str>,
    #[serde(rename = "alert.severity")]
    severity: Option<u8>,
    #[serde(rename = "spiked.class")]
    class: Option<&'a str>,
    #[serde(rename = "spiked.best")]
    best: Option<&'a str>,
    #[serde(rename = "spiked.confidence")]
    confidence: f64,
    #[serde(rename = "spiked.evidence")]
    evidence: f64,
    #[serde(rename = "spiked.packets")]
    packets: u64,
    #[serde(rename = "spiked.bytes")]
    bytes: u64,
    #[serde(rename = "spiked.scored")]
    scored: u32,
    #[serde(rename = "spiked.basis")]
    basis: Option<&'static str>,
    #[serde(rename = "spiked.reason")]
    reason: Option<&'static str>,
    #[serde(rename = "spiked.tunnels")]
    tunnels: Option<String>,
    #[serde(rename = "spiked.model")]
    model: &'a str,
}

/// Column names, in the order of the fields of a row; a test compares them.
pub const HEADER: &str = "timestamp,event_type,flow_id,in_iface,host,src_ip,src_mac,src_port,dest_ip,dest_mac,dest_port,proto,icmp_type,icmp_code,\
vlan,community_id,pcap_filename,app_proto,flow.pkts_toserver,flow.pkts_toclient,flow.bytes_toserver,flow.bytes_toclient,flow.start,\
flow.end,flow.age,alert.signature_id,alert.signature,alert.category,alert.severity,spiked.class,spiked.best,spiked.confidence,\
spiked.evidence,spiked.packets,spiked.bytes,spiked.scored,spiked.basis,spiked.reason,spiked.tunnels,spiked.model";

/// Appends a row without its line feed. `time` formats nanoseconds since 1970.
pub(super) fn write(verdict: &Verdict, context: EventContext<'_>, time: impl Fn(u64) -> String, out: &mut Vec<u8>) {
    let (key, model) = (&verdict.key, &verdict.model);
    let [source, destination] = endpoints(verdict);
    let address = |address: Option<Address>, mac: bool| address.filter(|a| a.is_mac() == mac).map(|a| a.to_string());
    let name = |class: Option<ClassId>| class.map(|class| model.classes[class.index()].as_str());
    let round = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
    let class = name(verdict.class);
    let alert = class.filter(|_| verdict.event == Event::Detection);
    let icmp = key.icmp(verdict.first_direction);
    let row = Row {
        timestamp: time(verdict.timestamp.0),
        event_type: event_type(verdict, context),
        flow_id: key.flow_id(verdict.first.0),
        in_iface: context.interface,
        host: key.host(),
        src_ip: address(source.address, false),
        src_mac: address(source.address, true),
        src_port: source.port,
        dest_ip: address(destination.address, false),
        dest_mac: address(destination.address, true),
        dest_port: destination.port,
        proto: (key.kind() == KeyKind::Flow).then(|| key.proto_name().into_owned()),
        icmp_type: icmp.map(|(kind, _)| kind),
        icmp_code: icmp.map(|(_, code)| code),
        vlan: Some(key.vlans().ids().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")).filter(|ids| !ids.is_empty()),
        community_id: key.community_id(0).map(|id| String::from_utf8_lossy(&id).into_owned()),
        pcap_filename: context.capture,
        app_proto: app_proto(verdict),
        pkts_toserver: verdict.own_packets,
        pkts_toclient: verdict.packets - verdict.own_packets,
        bytes_toserver: verdict.own_bytes,
        bytes_toclient: verdict.bytes - verdict.own_bytes,
        start: time(verdict.first.0),
        end: time(verdict.last.0),
        age: age(verdict),
        signature_id: alert.map(|class| signature_id(&model.name, class)),
        signature: alert.map(|class| signature(&model.name, class)),
        category: alert.map(|_| category(model)),
        severity: alert.map(|_| severity_number(context.alert)),
        class,
        best: name(verdict.leader.map(|l| l.class)),
        confidence: round(verdict.confidence),
        evidence: verdict.leader.map_or(0.0, |l| round(l.evidence)),
        packets: verdict.packets,
        bytes: verdict.bytes,
        scored: verdict.leader.map_or(0, |l| l.packets()),
        basis: verdict.basis().map(Basis::name),
        reason: verdict.unknown_reason().map(UnknownReason::name),
        tunnels: verdict
            .tunnel
            .as_ref()
            .map(|tunnel| tunnel.kinds().iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" ")),
        model: &model.name,
    };
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(&mut *out);
    writer.serialize(row).and_then(|()| Ok(writer.flush()?)).expect("writing to a vector does not fail");
    drop(writer);
    out.pop_if(|last| *last == b'\n');
}
