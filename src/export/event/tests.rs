use super::*;
use std::sync::Arc;

use crate::engine::OuterHeaders;
use crate::model::Model;
use crate::packet::Decoder;
use crate::stream::Leader;
use proptest::prelude::*;
use serde::Serialize;

/// The same event, to be serialized by serde.
#[derive(Serialize)]
struct Eve<'a> {
    timestamp: String,
    event_type: &'static str,
    flow_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<&'a str>,
    #[serde(rename = "host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ether: Option<Ether>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<TunnelFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcap_filename: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_proto: Option<&'a str>,
    flow: Flow,
    #[serde(rename = "host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sensor_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Alert>,
    spiked: Spiked<'a>,
}

#[derive(Serialize)]
struct Ether {
    #[serde(skip_serializing_if = "Option::is_none")]
    src_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_mac: Option<String>,
}

#[derive(Serialize)]
struct TunnelFields {
    src_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    dest_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    proto: String,
    depth: usize,
}

#[derive(Serialize)]
struct Flow {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    start: String,
    end: String,
    age: u64,
}

#[derive(Serialize)]
struct Alert {
    action: &'static str,
    gid: u8,
    signature_id: u64,
    rev: u8,
    signature: String,
    category: &'static str,
    severity: u8,
}

#[derive(Serialize)]
struct Spiked<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    class: Option<&'a str>,
    best: Option<&'a str>,
    confidence: f64,
    evidence: f64,
    packets: u64,
    bytes: u64,
    scored: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    basis: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnels: Option<Vec<&'static str>>,
    model: &'a str,
}

fn by_serde(verdict: &Verdict, context: EventContext<'_>, suricata: bool) -> String {
    let key = &verdict.key;
    let round = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
    let name = |class: Option<ClassId>| class.map(|c| verdict.model.classes[c.index()].as_str());
    let a_sent = verdict.first_direction == Direction::Forward;
    let (a, b) = ((key.addr_a().to_string(), key.port_a()), (key.addr_b().to_string(), key.port_b()));
    let (flow, ports) = (key.host().is_none(), key.has_ports());
    let (source, destination) = if a_sent || !flow { (a, b) } else { (b, a) };
    let time = |nanos: u64| {
        let time = Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
        time.strftime("%Y-%m-%dT%H:%M:%S.%6f+0000").to_string()
    };
    let ip = |text: &str| text.parse::<std::net::IpAddr>().ok().map(|_| text.to_string());
    let mac = |text: &str| (ip(text).is_none() && !text.is_empty() && text != "00:00:00:00:00:00").then(|| text.to_string());
    let macs = (mac(&source.0), mac(&destination.0).filter(|_| flow));
    let own = if verdict.event == Event::Stream {
        "stream"
    } else if context.alert.is_some() {
        "alert"
    } else {
        "detection"
    };
    let severity = context.alert.map(|alert| match alert {
        Severity::Critical => ("critical", 1),
        Severity::Error => ("high", 1),
        Severity::Warning => ("medium", 2),
        Severity::Notice | Severity::Informational => ("low", 3),
    });
    let word = severity.map(|s| s.0);
    let alert = |class| Alert {
        action: "allowed",
        gid: 1,
        signature_id: names::signature_id(&verdict.model.name, class),
        rev: 1,
        signature: format!("spiked {}: {class}", verdict.model.name),
        category: names::category(&verdict.model),
        severity: severity.map_or(3, |s| s.1),
    };
    let eve = Eve {
        timestamp: time(verdict.timestamp.0),
        event_type: match own {
            "stream" if suricata => "flow",
            _ if suricata => "alert",
            own => own,
        },
        flow_id: key.flow_id(verdict.first.0),
        in_iface: context.interface,
        stream_host: key.host().filter(|_| !suricata),
        src_ip: ip(&source.0),
        src_mac: macs.0.clone().filter(|_| !suricata),
        ether: (suricata && macs != (None, None)).then(|| Ether { src_mac: macs.0, dest_mac: macs.1.clone() }),
        src_port: (flow && ports).then_some(source.1),
        dest_ip: ip(&destination.0).filter(|_| flow),
        dest_mac: macs.1.filter(|_| !suricata),
        dest_port: (flow && ports).then_some(destination.1),
        proto: flow.then(|| key.proto_name().into_owned()),
        icmp_type: key.icmp(verdict.first_direction).map(|i| i.0),
        icmp_code: key.icmp(verdict.first_direction).map(|i| i.1),
        vlan: Some(key.vlans().ids().collect()).filter(|ids: &Vec<u16>| !ids.is_empty()),
        tunnel: verdict.tunnel.as_ref().and_then(|tunnel| tunnel.ends().map(|(ends, proto)| (tunnel, ends, proto))).map(
            |(tunnel, [source, destination], proto)| TunnelFields {
                src_ip: source.0.to_string(),
                src_port: source.1,
                dest_ip: destination.0.to_string(),
                dest_port: destination.1,
                proto,
                depth: tunnel.kinds().len(),
            },
        ),
        community_id: key.community_id(0).map(|id| String::from_utf8(id.to_vec()).unwrap()),
        pcap_filename: context.capture,
        app_proto: name(verdict.class).filter(|_| verdict.model.key == KeyKind::Flow),
        flow: Flow {
            pkts_toserver: verdict.own_packets,
            pkts_toclient: verdict.packets - verdict.own_packets,
            bytes_toserver: verdict.own_bytes,
            bytes_toclient: verdict.bytes - verdict.own_bytes,
            start: time(verdict.first.0),
            end: time(verdict.last.0),
            age: verdict.last.0.saturating_sub(verdict.first.0) / 1_000_000_000,
        },
        sensor_host: context.sensor.filter(|_| suricata),
        sensor: context.sensor.filter(|_| !suricata),
        severity: word.filter(|_| !suricata),
        alert: name(verdict.class).filter(|_| verdict.event == Event::Detection).map(alert),
        spiked: Spiked {
            event: suricata.then_some(own),
            severity: word.filter(|_| suricata),
            class: name(verdict.class),
            best: name(verdict.leader.map(|l| l.class)),
            confidence: round(verdict.confidence),
            evidence: verdict.leader.map_or(0.0, |l| round(l.evidence)),
            packets: verdict.packets,
            bytes: verdict.bytes,
            scored: verdict.leader.map_or(0, |l| l.packets()),
            basis: verdict.basis().map(Basis::name),
            reason: verdict.unknown_reason().map(UnknownReason::name),
            tunnels: verdict.tunnel.as_ref().map(|tunnel| tunnel.kinds().iter().map(|kind| kind.name()).collect()),
            model: &verdict.model.name,
        },
    };
    serde_json::to_string(&eve).unwrap()
}

/// A model without weights: the writer reads only its names.
fn small() -> Model {
    let layout = crate::encode::Layout::paper_word(8);
    Model {
        name: "protocols".into(),
        key: KeyKind::Flow,
        classes: Vec::new(),
        network: crate::snn::Network::from_parts(layout.input_count(), 0, &[], Vec::new()),
        layout,
        decision: crate::stream::Decision {
            theta: Vec::new(),
            assignments: crate::stream::Assignments::one_each(0),
            clip: (0.0, 0.0),
            slope: 0.0,
            confidence: Vec::new(),
            accept: Vec::new(),
            stop_confidence: 0.0,
            max_packets: 0,
            content_first: false,
        },
        episodes: Vec::new(),
        provenance: crate::model::Provenance::default(),
    }
}

/// VXLAN, or an IP packet, in an IP packet.
fn tunnel_around(vxlan: bool) -> Box<OuterHeaders> {
    let mut inner = Vec::new();
    let ip = || etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    ip().udp(1000, 53).write(&mut inner, b"a query").unwrap();
    let (mut frame, vni) = (Vec::new(), [8, 0, 0, 0, 0, 0, 1, 0]);
    match vxlan {
        true => ip().udp(50_000, 4789).write(&mut frame, &[&vni, &inner[..]].concat()).unwrap(),
        false => ip().write(&mut frame, etherparse::IpNumber::IPV4, &inner[14..]).unwrap(),
    }
    let link = crate::capture::LinkType::ETHERNET;
    let headers = Decoder::default().decode(link, &frame).unwrap();
    let frame = crate::capture::Frame { timestamp: Nanos(0), link, interface: None, wire_len: 0, bytes: &frame };
    Box::new(OuterHeaders::of(&Decoder::default(), &headers, &frame, vxlan).expect("a tunnel"))
}

const SEVERITIES: [Severity; 4] = [Severity::Critical, Severity::Error, Severity::Warning, Severity::Notice];
const ETHER_TYPES: [u16; 5] = [0x0800, 0x86dd, 0x8100, 0x0806, 0x88cc];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn events_equal_those_of_serde_json_byte_for_byte(
        mut frame in prop::collection::vec(any::<u8>(), 60..100), ether in 0..ETHER_TYPES.len(), protocol in 0usize..4, host: bool,
        times: (u64, u64), counts: (u64, u64), class in prop::option::of(0u16..3), leader in prop::option::of((0u16..3, any::<f32>(), any::<u32>())),
        confidence in 0f32..1.0, capture in prop::option::of(any::<String>()), name: String, detection: bool,
        alert in prop::option::of(0..SEVERITIES.len()), live: bool, suricata: bool, tunnel in prop::option::of(any::<bool>()),
    ) {
        frame[12..14].copy_from_slice(&ETHER_TYPES[ether].to_be_bytes());
        let at = if ether == 2 { 18 } else { 14 };
        if ether == 2 {
            frame[16..18].copy_from_slice(&[8, 0]);
        }
        frame[at] = if ether == 1 { 0x60 } else { 0x45 };
        frame[at + if ether == 1 { 6 } else { 9 }] = [6, 17, if ether == 1 { 58 } else { 1 }, 200][protocol];
        let headers = Decoder::default().decode(crate::capture::LinkType::ETHERNET, &frame).unwrap();
        let kind = if host { KeyKind::Host } else { KeyKind::Flow };
        let named = Arc::new(Model { classes: vec!["dns".into(), "a \"class\"".into(), name], ..small() });
        for (key, direction) in StreamKey::of(kind, &headers, &frame).into_iter().flatten() {
            let verdict = Verdict {
                event: if detection { Event::Detection } else { Event::Stream },
                model_index: 0,
                model: Arc::clone(&named),
                key,
                number: 0,
                packet: 0,
                timestamp: Nanos(times.0),
                first: Nanos(times.1),
                last: Nanos(times.0),
                packets: counts.0,
                bytes: counts.1,
                own_packets: counts.0 / 3,
                own_bytes: counts.1 / 4,
                interface: None,
                tunnel: tunnel.map(tunnel_around),
                first_direction: direction,
                leader: leader.map(|(class, evidence, packets)| Leader::new(ClassId::new(class), evidence, 0.0, packets)),
                class: class.map(ClassId::new),
                by_episode: class.is_some() && counts.1 % 4 == 0,
                confidence,
            };
            let context = EventContext {
                capture: capture.as_deref(),
                interface: live.then_some("eth\"0\""),
                sensor: live.then_some("a sensor"),
                alert: alert.filter(|_| detection && class.is_some()).map(|alert| SEVERITIES[alert]),
            };
            let format = if suricata { EventFormat::Suricata } else { EventFormat::Jsonl };
            let want = by_serde(&verdict, context, suricata);
            if !suricata {
                prop_assert_eq!(&event(&verdict, context), &want);
            }
            // What a writer caches, of the same stream or of another, must not leak into the next event.
            let other = Arc::new(Model { classes: vec!["ssh".into(); 3], ..small() });
            for first_direction in [Direction::Forward, Direction::Backward] {
                let (mut writer, mut out) = (EventWriter::new(format), Vec::new());
                let before = Verdict { timestamp: verdict.first, model: Arc::clone(&other), first_direction, ..verdict.clone() };
                writer.write(&before, EventContext { capture: Some("x"), ..context }, &mut out);
                out.clear();
                writer.write(&verdict, context, &mut out);
                prop_assert_eq!(out, want.as_bytes());
            }
        }
    }
}

/// The verdicts of a fixture's streams, by the built-in model.
fn verdicts(capture: &str) -> Vec<Verdict> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures").join(capture);
    let mut source = crate::capture::CaptureFile::open(&path).expect("a fixture");
    let settings = crate::engine::EngineSettings::new(vec![Arc::new(Model::built_in().expect("it is built in"))]);
    let mut verdicts = Vec::new();
    crate::engine::run(&settings, &mut source, &mut |v: &Verdict| verdicts.push(v.clone())).expect("a fixture");
    verdicts
}

fn line(format: EventFormat, verdict: &Verdict, context: EventContext<'_>) -> String {
    let mut out = Vec::new();
    EventWriter::new(format).write(verdict, context, &mut out);
    String::from_utf8(out).expect("events are text")
}

/// The value at a path of names with dots; an empty text if there is none.
fn at(event: &serde_json::Value, path: &str) -> String {
    match path.split('.').fold(event, |value, name| &value[name]) {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(list) => list[0].to_string(),
        other => other.to_string(),
    }
}

#[test]
fn csv_has_the_fields_of_jsonl_under_the_names_of_its_header() {
    let context = EventContext { capture: Some("a, \"b\".pcap"), ..EventContext::default() };
    for verdict in verdicts("mixed.pcapng") {
        let event: serde_json::Value = serde_json::from_str(&event(&verdict, context)).expect("JSON");
        let row = line(EventFormat::Csv, &verdict, context);
        let text = format!("{CSV_HEADER}\n{row}\n");
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().expect("a header").clone();
        let row = reader.records().next().expect("a row").expect("as many fields as the header");
        for (name, value) in header.iter().zip(&row) {
            let want = at(&event, name);
            let want = if want.ends_with("+0000") { want.replace("+0000", "Z") } else { want };
            assert_eq!(value, want, "{name} of {event}");
        }
    }
}

#[test]
fn ecs_has_the_names_of_the_schema() {
    let context =
        EventContext { capture: Some("x.pcap"), interface: Some("eth0"), sensor: Some("tap"), alert: Some(Severity::Error) };
    let verdicts = verdicts("dns-1.pcap");
    let detection = verdicts.iter().find(|v| v.event == Event::Detection && v.key.has_ports()).expect("one is named");
    let ecs: serde_json::Value = serde_json::from_str(&line(EventFormat::Ecs, detection, context)).expect("JSON");
    let eve: serde_json::Value = serde_json::from_str(&event(detection, context)).expect("JSON");
    for (name, eve_name) in [
        ("source.ip", "src_ip"),
        ("source.port", "src_port"),
        ("source.packets", "flow.pkts_toserver"),
        ("source.bytes", "flow.bytes_toserver"),
        ("destination.ip", "dest_ip"),
        ("destination.port", "dest_port"),
        ("destination.packets", "flow.pkts_toclient"),
        ("destination.bytes", "flow.bytes_toclient"),
        ("network.protocol", "app_proto"),
        ("network.community_id", "community_id"),
        ("network.packets", "spiked.packets"),
        ("network.bytes", "spiked.bytes"),
        ("observer.ingress.interface.name", "in_iface"),
        ("observer.name", "sensor"),
        ("rule.id", "alert.signature_id"),
        ("rule.name", "alert.signature"),
        ("rule.category", "alert.category"),
        ("event.severity", "alert.severity"),
        ("event.action", "event_type"),
        ("log.file.path", "pcap_filename"),
        ("spiked.class", "spiked.class"),
    ] {
        assert!(!at(&ecs, name).is_empty(), "{name} is missing in {ecs}");
        assert_eq!(at(&ecs, name), at(&eve, eve_name), "{name}");
    }
    for (name, eve_name) in [("@timestamp", "timestamp"), ("event.start", "flow.start"), ("event.end", "flow.end")] {
        assert_eq!(at(&ecs, name), at(&eve, eve_name).replace("+0000", "Z"), "{name}");
    }
    assert_eq!([at(&ecs, "event.kind"), at(&ecs, "ecs.version"), at(&ecs, "network.type")], ["alert", "8.11.0", "ipv4"]);
    assert_eq!(at(&ecs, "network.transport"), at(&eve, "proto").to_lowercase());
}

#[test]
fn frames_without_ip_have_mac_addresses_and_no_ip_fields() {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x0a, 0x88, 0xcc]);
    frame.resize(60, 0);
    let headers = Decoder::default().decode(crate::capture::LinkType::ETHERNET, &frame).expect("a whole frame");
    let model = Arc::new(Model { classes: vec!["lldp".into()], ..small() });
    let (key, first_direction) = StreamKey::flow(&headers, &frame);
    let like = verdicts("dns-1.pcap").into_iter().next().expect("a verdict");
    let verdict = Verdict { key, first_direction, model, leader: None, class: None, ..like };
    let parsed =
        |format| -> serde_json::Value { serde_json::from_str(&line(format, &verdict, EventContext::default())).expect("JSON") };
    let (eve, suricata, ecs) = (parsed(EventFormat::Jsonl), parsed(EventFormat::Suricata), parsed(EventFormat::Ecs));
    let macs = ["02:00:00:00:00:0a".to_string(), "ff:ff:ff:ff:ff:ff".to_string()];
    assert_eq!([at(&eve, "src_mac"), at(&eve, "dest_mac")], macs);
    assert_eq!([at(&suricata, "ether.src_mac"), at(&suricata, "ether.dest_mac")], macs);
    assert_eq!([at(&ecs, "source.mac"), at(&ecs, "destination.mac")], ["02-00-00-00-00-0A", "FF-FF-FF-FF-FF-FF"]);
    for event in [&eve, &suricata] {
        assert!(event.get("src_ip").is_none() && event.get("dest_ip").is_none(), "{event}");
    }
    assert!(ecs["source"].get("ip").is_none() && ecs["destination"].get("ip").is_none(), "{ecs}");
}

/// Suricata's schema allows no other fields at the top and within these objects (etc/schema.json).
#[test]
fn suricata_events_have_only_fields_of_its_schema_outside_of_spiked() {
    let allowed = |object: &str| -> &[&str] {
        match object {
            "" => &[
                "timestamp",
                "event_type",
                "flow_id",
                "in_iface",
                "src_ip",
                "src_port",
                "dest_ip",
                "dest_port",
                "proto",
                "icmp_type",
                "icmp_code",
                "vlan",
                "tunnel",
                "community_id",
                "pcap_filename",
                "app_proto",
                "host",
                "ether",
                "flow",
                "alert",
                "spiked",
            ],
            "ether" => &["src_mac", "dest_mac"],
            "flow" => &["pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient", "start", "end", "age"],
            "tunnel" => &["src_ip", "src_port", "dest_ip", "dest_port", "proto", "depth"],
            "alert" => &["action", "gid", "signature_id", "rev", "signature", "category", "severity"],
            other => panic!("{other} is not an object of the schema"),
        }
    };
    let context = |v: &Verdict| EventContext {
        capture: Some("x.pcap"),
        interface: Some("eth0"),
        sensor: Some("tap"),
        alert: Some(Severity::Critical).filter(|_| v.class.is_some() && v.event == Event::Detection),
    };
    let mut seen = std::collections::BTreeSet::new();
    for verdict in verdicts("mixed.pcapng") {
        let event: serde_json::Value =
            serde_json::from_str(&line(EventFormat::Suricata, &verdict, context(&verdict))).expect("JSON");
        seen.insert(at(&event, "event_type"));
        for (name, value) in event.as_object().expect("an object") {
            assert!(allowed("").contains(&name.as_str()), "{name} in {event}");
            if name != "spiked"
                && let Some(object) = value.as_object()
            {
                assert!(object.keys().all(|field| allowed(name).contains(&field.as_str())), "{name} in {event}");
            }
        }
        assert!(!event["alert"].is_object() || (1..=3).contains(&event["alert"]["severity"].as_u64().expect("a number")));
        assert_eq!(event["alert"].is_object(), event["event_type"] == "alert");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["alert", "flow"]);
}
