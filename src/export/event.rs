//! Verdicts as JSON objects in the style of Suricata's EVE events.
//!
//! Writing events is a considerable part of the cost of reading a capture, so the fields are written one by one into a reused buffer. A
//! test compares the result with that of serde_json, byte for byte.

use std::sync::{Arc, Weak};

use jiff::Timestamp;

use crate::capture::Nanos;
use crate::engine::{Event, Verdict};
use crate::model::Model;
use crate::packet::{Direction, KeyKind};
use crate::snn::ClassId;
use crate::stream::{Basis, UnknownReason};

use super::json;

/// What an event reports beside the verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventContext<'a> {
    /// Path of the capture, as given; `None` for live traffic.
    pub capture: Option<&'a str>,
    /// The sensor's name; `None` outside the daemon.
    pub sensor: Option<&'a str>,
    /// Severity of the alert; `Some` makes a detection an event of type `alert`.
    pub alert: Option<&'a str>,
}

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;
/// Seconds per day.
const DAY: u64 = 86_400;

/// Writes events. Caches the last date, capture and model as JSON, since consecutive events mostly share them.
#[derive(Debug, Default)]
pub struct EventWriter {
    /// Days since 1970 of the cached date.
    day: Option<u64>,
    /// The date with its opening quote and the `T` after it.
    date: String,
    /// The last capture's name, plain and as JSON.
    capture: (String, Vec<u8>),
    names: JsonNames,
}

/// The names of a model and its classes as JSON strings.
#[derive(Debug, Default)]
struct JsonNames {
    /// The model of the cached names.
    cached: Weak<Model>,
    classes: Vec<Vec<u8>>,
    model: Vec<u8>,
}

impl JsonNames {
    /// The names of `model`, from the cache if it is the same as before.
    fn of(&mut self, model: &Arc<Model>) -> &Self {
        if self.cached.as_ptr() != Arc::as_ptr(model) {
            let json = |name: &String| {
                let mut out = Vec::new();
                json::string(&mut out, name);
                out
            };
            *self = Self {
                cached: Arc::downgrade(model),
                classes: model.classes.iter().map(json).collect(),
                model: json(&model.name),
            };
        }
        self
    }
}

impl EventWriter {
    /// Appends a timestamp in UTC with microseconds, in Suricata's format.
    fn time(&mut self, out: &mut Vec<u8>, time: Nanos) {
        let (second, micros) = (time.0 / SECOND, time.0 % SECOND / 1000);
        let (day, second) = (second / DAY, second % DAY);
        if self.day != Some(day) {
            // A u64 of nanoseconds ends in the year 2554, which the calendar covers.
            let start = Timestamp::from_second((day * DAY) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            self.date = start.strftime("\"%Y-%m-%dT").to_string();
            self.day = Some(day);
        }
        out.extend_from_slice(self.date.as_bytes());
        let mut text = *b"00:00:00.000000+0000\"";
        let parts = [(0, second / 3600), (3, second / 60 % 60), (6, second % 60)];
        let fraction = [(9, micros / 10_000), (11, micros / 100 % 100), (13, micros % 100)];
        for (at, pair) in parts.into_iter().chain(fraction) {
            text[at] += (pair / 10) as u8;
            text[at + 1] += (pair % 10) as u8;
        }
        out.extend_from_slice(&text);
    }

    /// Appends a capture's name as a JSON string.
    fn capture(&mut self, out: &mut Vec<u8>, name: &str) {
        if self.capture.0 != name {
            self.capture = (name.to_string(), Vec::new());
        }
        // Not yet converted: a JSON string has at least its quotes.
        if self.capture.1.is_empty() {
            json::string(&mut self.capture.1, name);
        }
        out.extend_from_slice(&self.capture.1);
    }

    /// Appends the verdict as one JSON object, without a line feed.
    pub fn write(&mut self, verdict: &Verdict, context: EventContext<'_>, out: &mut Vec<u8>) {
        let key = &verdict.key;
        out.extend_from_slice(b"{\"timestamp\":");
        self.time(out, verdict.timestamp);
        out.extend_from_slice(match verdict.event {
            Event::Detection if context.alert.is_some() => b",\"event_type\":\"alert\",\"flow_id\":",
            Event::Detection => b",\"event_type\":\"detection\",\"flow_id\":",
            Event::Stream => b",\"event_type\":\"stream\",\"flow_id\":",
        });
        json::number(out, key.flow_id(verdict.first.0));
        write_endpoints(verdict, out);
        if let Some(vlan) = key.vlan() {
            out.extend_from_slice(b",\"vlan\":[");
            json::number(out, vlan);
            out.push(b']');
        }
        if let Some(id) = key.community_id(0) {
            out.extend_from_slice(b",\"community_id\":\"");
            out.extend_from_slice(&id);
            out.push(b'"');
        }
        if let Some(capture) = context.capture {
            out.extend_from_slice(b",\"pcap_filename\":");
            self.capture(out, capture);
        }
        for (name, value) in [(&b",\"sensor\":"[..], context.sensor), (b",\"severity\":", context.alert)] {
            if let Some(value) = value {
                out.extend_from_slice(name);
                json::string(out, value);
            }
        }
        out.extend_from_slice(b",\"spiked\":");
        write_spiked(verdict, self.names.of(&verdict.model), out);
        out.push(b'}');
    }
}

/// Appends the host, or source, destination and protocol of the stream. The source is the sender of its first packet.
fn write_endpoints(verdict: &Verdict, out: &mut Vec<u8>) {
    let key = &verdict.key;
    if key.kind() == KeyKind::Host {
        out.extend_from_slice(b",\"host\":\"");
        key.addr_a().write(out);
        out.push(b'"');
        return;
    }
    let ends = [(key.addr_a(), key.port_a()), (key.addr_b(), key.port_b())];
    let [source, destination] = match verdict.first_direction {
        Direction::Forward => ends,
        Direction::Backward => [ends[1], ends[0]],
    };
    let names: [(&[u8], &[u8]); 2] = [(b",\"src_ip\":\"", b"\",\"src_port\":"), (b",\"dest_ip\":\"", b"\",\"dest_port\":")];
    for ((name, port_name), (address, port)) in names.into_iter().zip([source, destination]) {
        out.extend_from_slice(name);
        address.write(out);
        if key.has_ports() {
            out.extend_from_slice(port_name);
            json::number(out, port);
        } else {
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"proto\":\"");
    out.extend_from_slice(key.proto_name().as_bytes());
    out.push(b'"');
}

/// Appends the object `spiked`: class, confidence, evidence and counts.
fn write_spiked(verdict: &Verdict, names: &JsonNames, out: &mut Vec<u8>) {
    let class = |name: &[u8], class: Option<ClassId>, out: &mut Vec<u8>| {
        out.extend_from_slice(name);
        match class {
            Some(class) => out.extend_from_slice(&names.classes[class.index()]),
            None => out.extend_from_slice(b"null"),
        }
    };
    class(b"{\"class\":", verdict.class, out);
    class(b",\"best\":", verdict.leader.map(|l| l.class), out);
    for (name, value) in
        [(&b",\"confidence\":"[..], verdict.confidence), (b",\"evidence\":", verdict.leader.map_or(0.0, |l| l.evidence))]
    {
        out.extend_from_slice(name);
        json::decimals(out, value);
    }
    for (name, value) in [
        (&b",\"packets\":"[..], verdict.packets),
        (b",\"bytes\":", verdict.bytes),
        (b",\"scored\":", verdict.leader.map_or(0, |l| u64::from(l.packets))),
    ] {
        out.extend_from_slice(name);
        json::number(out, value);
    }
    let (basis, reason) = (verdict.basis().map(Basis::name), verdict.unknown_reason().map(UnknownReason::name));
    for (name, value) in [(&b",\"basis\":\""[..], basis), (b",\"reason\":\"", reason)] {
        if let Some(value) = value {
            out.extend_from_slice(name);
            out.extend_from_slice(value.as_bytes());
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"model\":");
    out.extend_from_slice(&names.model);
    out.push(b'}');
}

/// Formats the verdict as one JSON object, without a line feed.
pub fn event(verdict: &Verdict, context: EventContext<'_>) -> String {
    let mut out = Vec::new();
    EventWriter::default().write(verdict, context, &mut out);
    String::from_utf8(out).expect("JSON of valid strings is valid UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Decoder, KeyKind, StreamKey};
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
        #[serde(skip_serializing_if = "Option::is_none")]
        basis: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        model: &'a str,
    }

    fn by_serde(verdict: &Verdict, context: EventContext<'_>) -> String {
        let key = &verdict.key;
        let round = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
        let name = |class: Option<ClassId>| class.map(|c| verdict.model.classes[c.index()].as_str());
        let a_sent = verdict.first_direction == Direction::Forward;
        let (a, b) = ((key.addr_a().to_string(), key.port_a()), (key.addr_b().to_string(), key.port_b()));
        let (source, destination) = if a_sent { (a, b) } else { (b, a) };
        let (flow, ports) = (key.host().is_none(), key.has_ports());
        let time = Timestamp::from_nanosecond(i128::from(verdict.timestamp.0)).unwrap();
        let eve = Eve {
            timestamp: time.strftime("%Y-%m-%dT%H:%M:%S.%6f+0000").to_string(),
            event_type: if verdict.event == Event::Detection { "detection" } else { "stream" },
            flow_id: key.flow_id(verdict.first.0),
            host: key.host(),
            src_ip: flow.then_some(source.0),
            src_port: (flow && ports).then_some(source.1),
            dest_ip: flow.then_some(destination.0),
            dest_port: (flow && ports).then_some(destination.1),
            proto: flow.then(|| key.proto_name().into_owned()),
            vlan: key.vlan().map(|v| [v]),
            community_id: key.community_id(0).map(|id| String::from_utf8(id.to_vec()).unwrap()),
            pcap_filename: context.capture,
            spiked: Spiked {
                class: name(verdict.class),
                best: name(verdict.leader.map(|l| l.class)),
                confidence: round(verdict.confidence),
                evidence: verdict.leader.map_or(0.0, |l| round(l.evidence)),
                packets: verdict.packets,
                bytes: verdict.bytes,
                scored: verdict.leader.map_or(0, |l| l.packets),
                basis: verdict.basis().map(Basis::name),
                reason: verdict.unknown_reason().map(UnknownReason::name),
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
            provenance: crate::model::Provenance::default(),
        }
    }

    const ETHER_TYPES: [u16; 5] = [0x0800, 0x86dd, 0x8100, 0x0806, 0x88cc];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn events_equal_those_of_serde_json_byte_for_byte(
            mut frame in prop::collection::vec(any::<u8>(), 60..100), ether in 0..ETHER_TYPES.len(), protocol in 0usize..4, host: bool,
            times: (u64, u64), counts: (u64, u64), class in prop::option::of(0u16..3), leader in prop::option::of((0u16..3, any::<f32>(), any::<u32>())),
            confidence in 0f32..1.0, capture in prop::option::of(any::<String>()), name: String, detection: bool,
        ) {
            frame[12..14].copy_from_slice(&ETHER_TYPES[ether].to_be_bytes());
            let at = if ether == 2 { 18 } else { 14 };
            if ether == 2 {
                frame[16..18].copy_from_slice(&[8, 0]);
            }
            frame[at] = if ether == 1 { 0x60 } else { 0x45 };
            frame[at + if ether == 1 { 6 } else { 9 }] = [6, 17, 1, 200][protocol];
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
                    first_direction: direction,
                    leader: leader.map(|(class, evidence, packets)| Leader::new(ClassId::new(class), evidence, 0.0, packets)),
                    class: class.map(ClassId::new),
                    confidence,
                };
                let context = EventContext { capture: capture.as_deref(), ..EventContext::default() };
                let want = by_serde(&verdict, context);
                prop_assert_eq!(&event(&verdict, context), &want);
                // What a writer caches must not leak into the next event.
                let (mut writer, mut out) = (EventWriter::default(), Vec::new());
                let other = Arc::new(Model { classes: vec!["ssh".into(); 3], ..small() });
                writer.write(&Verdict { timestamp: verdict.first, model: other, ..verdict.clone() }, EventContext { capture: Some("x"), ..context }, &mut out);
                out.clear();
                writer.write(&verdict, context, &mut out);
                prop_assert_eq!(out, want.into_bytes());
            }
        }
    }
}
