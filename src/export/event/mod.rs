//! Verdicts as events: JSON in the style of Suricata's EVE, JSON with the names of the Elastic Common Schema, and CSV.
//!
//! Writing events is a considerable part of the cost of reading a capture, so the fields of EVE events are written one by one into a
//! reused buffer. A test compares the result with that of serde_json, byte for byte.

mod csv;
mod ecs;
mod episode;
mod fields;
mod names;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capture::Nanos;
use crate::engine::{EpisodeOutput, Event, OuterEnd, Verdict};
use crate::packet::{Direction, KeyKind, StreamKey};
use crate::snn::ClassId;
use crate::stream::{Basis, UnknownReason};

use super::json;
use super::sink::Severity;
pub(super) use fields::{Endpoint, endpoints};
use fields::{age, app_proto, event_type, severity_number};
use names::{JsonNames, ModelNames};

/// Format of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// JSON objects in the style of Suricata's EVE, with the program's own event types and fields.
    #[default]
    Jsonl,
    /// JSON objects that Suricata's schema allows: event types `alert` and `flow`, and all fields that Suricata lacks in `spiked`.
    Suricata,
    /// JSON objects with the field names of the Elastic Common Schema.
    Ecs,
    /// Rows of comma-separated values after a row of column names. Not for sinks, whose readers may miss the first row.
    #[serde(skip)]
    Csv,
}

/// What an event reports beside the verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventContext<'a> {
    /// Path of the capture, as given; `None` for live traffic.
    pub capture: Option<&'a str>,
    /// Name of the live interface of the stream; `None` for captures.
    pub interface: Option<&'a str>,
    /// The sensor's name; `None` outside the daemon.
    pub sensor: Option<&'a str>,
    /// Severity of the alert; `Some` makes a detection an event of type `alert`.
    pub alert: Option<Severity>,
}

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;
/// Seconds per day.
const DAY: u64 = 86_400;

/// Offset from UTC in Suricata's timestamps.
const EVE_ZONE: &[u8] = b"+0000";
/// Offset from UTC in RFC 3339.
const RFC_3339_ZONE: &[u8] = b"Z";

/// Formats times in UTC with microseconds. Caches the last date and the last time: an event's times are often the same, and those of the event
/// before.
#[derive(Debug, Default)]
struct TimeWriter {
    /// Days since 1970 of the cached date.
    day: Option<u64>,
    /// The date with the `T` after it.
    date: String,
    /// The last time, and its text without the offset from UTC.
    last: Option<Nanos>,
    text: Vec<u8>,
}

impl TimeWriter {
    fn write(&mut self, out: &mut Vec<u8>, time: Nanos, zone: &[u8]) {
        if self.last != Some(time) {
            self.format(time);
            self.last = Some(time);
        }
        out.extend_from_slice(&self.text);
        out.extend_from_slice(zone);
    }

    /// Sets the text to that of a time.
    fn format(&mut self, time: Nanos) {
        let (second, micros) = (time.0 / SECOND, time.0 % SECOND / 1000);
        let (day, second) = (second / DAY, second % DAY);
        if self.day != Some(day) {
            // A u64 of nanoseconds ends in the year 2554, which the calendar covers.
            let start = Timestamp::from_second((day * DAY) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            self.date = start.strftime("%Y-%m-%dT").to_string();
            self.day = Some(day);
        }
        let mut text = *b"00:00:00.000000";
        let parts = [(0, second / 3600), (3, second / 60 % 60), (6, second % 60)];
        let fraction = [(9, micros / 10_000), (11, micros / 100 % 100), (13, micros % 100)];
        for (at, pair) in parts.into_iter().chain(fraction) {
            text[at] += (pair / 10) as u8;
            text[at + 1] += (pair % 10) as u8;
        }
        self.text.clear();
        self.text.extend_from_slice(self.date.as_bytes());
        self.text.extend_from_slice(&text);
    }
}

/// The time in UTC with microseconds, for formats that are not written into the buffer directly.
fn time_text(nanos: u64, zone: &[u8]) -> String {
    let mut text = Vec::new();
    TimeWriter::default().write(&mut text, Nanos(nanos), zone);
    String::from_utf8_lossy(&text).into_owned()
}

/// The fields that follow from a stream's key and own direction, as JSON. Several models mostly report a stream one after the other, and one of
/// the fields, the Community ID, is a SHA-1.
#[derive(Debug, Default)]
struct StreamFields {
    stream: Option<(StreamKey, Direction)>,
    /// Addresses, ports, protocol and VLANs.
    ends: Vec<u8>,
    /// The Community ID.
    id: Vec<u8>,
}

impl StreamFields {
    /// The fields of the verdict's stream.
    fn of(&mut self, verdict: &Verdict, suricata: bool) -> &Self {
        let stream = Some((verdict.key, verdict.first_direction));
        if self.stream != stream {
            self.stream = stream;
            self.ends.clear();
            self.id.clear();
            write_endpoints(verdict, suricata, &mut self.ends);
            write_vlans(&verdict.key, &mut self.ends);
            if let Some(id) = verdict.key.community_id(0) {
                self.id.extend_from_slice(b",\"community_id\":\"");
                self.id.extend_from_slice(&id);
                self.id.push(b'"');
            }
        }
        self
    }
}

/// Writes events of one format. Caches the last date, stream and capture and all models as JSON, since consecutive events mostly share
/// them.
#[derive(Debug, Default)]
pub struct EventWriter {
    format: EventFormat,
    times: TimeWriter,
    stream: StreamFields,
    /// The last capture's name, plain and as JSON.
    capture: (String, Vec<u8>),
    names: JsonNames,
}

impl EventWriter {
    /// A writer of events in `format`.
    pub fn new(format: EventFormat) -> Self {
        Self { format, ..Self::default() }
    }

    /// Appends a time as a JSON string, after `name`, which opens the string.
    fn time(&mut self, out: &mut Vec<u8>, name: &[u8], time: Nanos) {
        out.extend_from_slice(name);
        self.times.write(out, time, EVE_ZONE);
        out.push(b'"');
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

    /// Appends the verdict as one line, without its line feed.
    pub fn write(&mut self, verdict: &Verdict, context: EventContext<'_>, out: &mut Vec<u8>) {
        match self.format {
            EventFormat::Jsonl | EventFormat::Suricata => self.eve(verdict, context, out),
            EventFormat::Ecs => ecs::write(verdict, context, |nanos| time_text(nanos, RFC_3339_ZONE), out),
            EventFormat::Csv => csv::write(verdict, context, |nanos| time_text(nanos, RFC_3339_ZONE), out),
        }
    }

    /// Appends an episode as one line, without its line feed; nothing with [`EventFormat::Csv`].
    pub fn write_episode(&self, episode: &EpisodeOutput, context: EventContext<'_>, out: &mut Vec<u8>) {
        episode::write(episode, self.format, context, out);
    }

    /// Appends an EVE event.
    fn eve(&mut self, verdict: &Verdict, context: EventContext<'_>, out: &mut Vec<u8>) {
        let suricata = self.format == EventFormat::Suricata;
        self.time(out, b"{\"timestamp\":\"", verdict.timestamp);
        text(out, b",\"event_type\":\"", eve_type(verdict, context, suricata));
        out.extend_from_slice(b",\"flow_id\":");
        json::number(out, verdict.key.flow_id(verdict.first.0));
        if let Some(interface) = context.interface {
            out.extend_from_slice(b",\"in_iface\":");
            json::string(out, interface);
        }
        let stream = self.stream.of(verdict, suricata);
        out.extend_from_slice(&stream.ends);
        if let Some((ends, proto)) = verdict.tunnel.as_ref().and_then(|tunnel| tunnel.ends()) {
            write_tunnel(&ends, &proto, verdict.tunnel.as_ref().map_or(0, |tunnel| tunnel.kinds().len()), out);
        }
        out.extend_from_slice(&stream.id);
        if let Some(capture) = context.capture {
            out.extend_from_slice(b",\"pcap_filename\":");
            self.capture(out, capture);
        }
        self.eve_flow(verdict, out);
        if let Some(sensor) = context.sensor {
            // Suricata calls its sensor `host`; the program's own events name the host of a stream so.
            out.extend_from_slice(if suricata { b",\"host\":" } else { b",\"sensor\":" });
            json::string(out, sensor);
        }
        let severity = context.alert.map(Severity::alert_name);
        if let (Some(severity), false) = (severity, suricata) {
            text(out, b",\"severity\":\"", severity);
        }
        let names = self.names.of(&verdict.model);
        if let (Some(class), Event::Detection) = (verdict.class, verdict.event) {
            out.extend_from_slice(b",\"alert\":");
            out.extend_from_slice(&names.alerts[class.index()]);
            json::number(out, severity_number(context.alert));
            out.push(b'}');
        }
        out.extend_from_slice(b",\"spiked\":{");
        if suricata {
            text(out, b"\"event\":\"", event_type(verdict, context));
            if let Some(severity) = severity {
                text(out, b",\"severity\":\"", severity);
            }
            out.push(b',');
        }
        write_spiked(verdict, names, out);
        out.extend_from_slice(b"}}");
    }

    /// Appends the application protocol and the object `flow`. What the source sends goes to the server.
    fn eve_flow(&mut self, verdict: &Verdict, out: &mut Vec<u8>) {
        if app_proto(verdict).is_some()
            && let Some(class) = verdict.class
        {
            out.extend_from_slice(b",\"app_proto\":");
            out.extend_from_slice(&self.names.of(&verdict.model).classes[class.index()]);
        }
        for (name, value) in [
            (&b",\"flow\":{\"pkts_toserver\":"[..], verdict.own_packets),
            (b",\"pkts_toclient\":", verdict.packets - verdict.own_packets),
            (b",\"bytes_toserver\":", verdict.own_bytes),
            (b",\"bytes_toclient\":", verdict.bytes - verdict.own_bytes),
        ] {
            out.extend_from_slice(name);
            json::number(out, value);
        }
        self.time(out, b",\"start\":\"", verdict.first);
        self.time(out, b",\"end\":\"", verdict.last);
        out.extend_from_slice(b",\"age\":");
        json::number(out, age(verdict));
        out.push(b'}');
    }
}

/// Appends a string that needs no escapes, after `name`, which opens it.
fn text(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// The value of `event_type`. Readers of Suricata's events know neither detections nor streams, but alerts and flows.
fn eve_type(verdict: &Verdict, context: EventContext<'_>, suricata: bool) -> &'static str {
    match verdict.event {
        Event::Detection if suricata => "alert",
        Event::Stream if suricata => "flow",
        Event::Detection | Event::Stream => event_type(verdict, context),
    }
}

/// Appends source, destination and protocol of the stream, or its host.
fn write_endpoints(verdict: &Verdict, suricata: bool, out: &mut Vec<u8>) {
    let key = &verdict.key;
    let ends = endpoints(verdict);
    if key.kind() == KeyKind::Host && !suricata {
        out.extend_from_slice(b",\"host\":\"");
        key.addr_a().write(out);
        out.push(b'"');
    }
    let names: [[&[u8]; 3]; 2] =
        [[b",\"src_ip\":\"", b"\"src_mac\":\"", b",\"src_port\":"], [b",\"dest_ip\":\"", b"\"dest_mac\":\"", b",\"dest_port\":"]];
    let mut ether = false;
    for ([ip, mac, port_name], end) in names.into_iter().zip(ends) {
        if let Some(address) = end.address {
            let open: &[u8] = if suricata && !ether { b",\"ether\":{" } else { b"," };
            match address.is_mac() {
                true => {
                    out.extend_from_slice(open);
                    out.extend_from_slice(mac);
                    ether = true;
                }
                false => out.extend_from_slice(ip),
            }
            address.write(out);
            out.push(b'"');
        }
        if let Some(port) = end.port {
            out.extend_from_slice(port_name);
            json::number(out, port);
        }
    }
    if ether && suricata {
        out.push(b'}');
    }
    if key.kind() == KeyKind::Flow {
        text(out, b",\"proto\":\"", &key.proto_name());
    }
    if let Some((kind, code)) = key.icmp(verdict.first_direction) {
        out.extend_from_slice(b",\"icmp_type\":");
        json::number(out, kind);
        out.extend_from_slice(b",\"icmp_code\":");
        json::number(out, code);
    }
}

/// Appends the VLANs of the stream, if it is in any.
fn write_vlans(key: &StreamKey, out: &mut Vec<u8>) {
    if key.vlans().is_empty() {
        return;
    }
    let mut before: &[u8] = b",\"vlan\":[";
    for vlan in key.vlans().ids() {
        out.extend_from_slice(before);
        json::number(out, vlan);
        before = b",";
    }
    out.push(b']');
}

/// Appends the outermost IP packet around those of the stream, as Suricata has it. `depth`: number of tunnels.
fn write_tunnel(ends: &[OuterEnd; 2], proto: &str, depth: usize, out: &mut Vec<u8>) {
    let names: [[&[u8]; 2]; 2] = [[b",\"tunnel\":{\"src_ip\":\"", b",\"src_port\":"], [b",\"dest_ip\":\"", b",\"dest_port\":"]];
    for ([ip, port_name], (address, port)) in names.into_iter().zip(ends) {
        out.extend_from_slice(ip);
        address.write(out);
        out.push(b'"');
        if let Some(port) = port {
            out.extend_from_slice(port_name);
            json::number(out, *port);
        }
    }
    text(out, b",\"proto\":\"", proto);
    out.extend_from_slice(b",\"depth\":");
    json::number(out, depth as u64);
    out.push(b'}');
}

/// Appends the fields of the object `spiked`: class, confidence, evidence and counts.
fn write_spiked(verdict: &Verdict, names: &ModelNames, out: &mut Vec<u8>) {
    let class = |name: &[u8], class: Option<ClassId>, out: &mut Vec<u8>| {
        out.extend_from_slice(name);
        match class {
            Some(class) => out.extend_from_slice(&names.classes[class.index()]),
            None => out.extend_from_slice(b"null"),
        }
    };
    class(b"\"class\":", verdict.class, out);
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
        (b",\"scored\":", verdict.leader.map_or(0, |l| u64::from(l.packets()))),
    ] {
        out.extend_from_slice(name);
        json::number(out, value);
    }
    let (basis, reason) = (verdict.basis().map(Basis::name), verdict.unknown_reason().map(UnknownReason::name));
    for (name, value) in [(&b",\"basis\":\""[..], basis), (b",\"reason\":\"", reason)] {
        if let Some(value) = value {
            text(out, name, value);
        }
    }
    if let Some(tunnel) = &verdict.tunnel {
        let mut before: &[u8] = b",\"tunnels\":[\"";
        for kind in tunnel.kinds() {
            text(out, before, kind.name());
            before = b",\"";
        }
        out.push(b']');
    }
    out.extend_from_slice(b",\"model\":");
    out.extend_from_slice(&names.model);
}

/// Column names of [`EventFormat::Csv`], without a line feed.
pub use csv::HEADER as CSV_HEADER;

/// Formats the verdict as one JSON object, without a line feed.
pub fn event(verdict: &Verdict, context: EventContext<'_>) -> String {
    let mut out = Vec::new();
    EventWriter::default().write(verdict, context, &mut out);
    String::from_utf8(out).expect("JSON of valid strings is valid UTF-8")
}

#[cfg(test)]
mod tests;
