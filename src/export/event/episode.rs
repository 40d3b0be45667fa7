//! Episodes as events: the same JSON objects in all formats of JSON, with the names of the Elastic Common Schema for those that want them.

use serde::Serialize;

use crate::engine::EpisodeOutput;
use crate::episode::Role;

use super::names::{category, signature, signature_id};
use super::{EVE_ZONE, EventContext, EventFormat, RFC_3339_ZONE, severity_number, time_text};

/// An episode in the style of Suricata's EVE.
#[derive(Serialize)]
struct EveEpisode<'a> {
    timestamp: String,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcap_filename: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensor: Option<&'a str>,
    /// The name of the sensor in Suricata's own events.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Alert>,
    spiked: Details<'a>,
}

/// What readers of Suricata's alerts expect.
#[derive(Serialize)]
struct Alert {
    action: &'static str,
    gid: u32,
    signature_id: u64,
    rev: u32,
    signature: String,
    category: &'static str,
    severity: u8,
}

/// An episode with the names of the Elastic Common Schema.
#[derive(Serialize)]
struct EcsEpisode<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    event: EcsEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<EcsHost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<EcsHost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observer: Option<EcsObserver<'a>>,
    rule: EcsRule<'a>,
    spiked: Details<'a>,
}

#[derive(Serialize)]
struct EcsEvent {
    kind: &'static str,
    category: [&'static str; 2],
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    dataset: &'static str,
    start: String,
    end: String,
    duration: u64,
}

#[derive(Serialize)]
struct EcsHost {
    ip: String,
}

#[derive(Serialize)]
struct EcsObserver<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct EcsRule<'a> {
    name: &'a str,
    ruleset: &'a str,
}

/// The object `spiked`.
#[derive(Serialize)]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    class: &'a str,
    host: String,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    state: &'static str,
    start: String,
    end: String,
    flows: u64,
    peers: usize,
    ports: usize,
    packets: u64,
    bytes: u64,
    confidence: f64,
    model: &'a str,
}

/// Appends the event as one line, without its line feed. Rows of comma-separated values have no columns for episodes.
pub(super) fn write(output: &EpisodeOutput, format: EventFormat, context: EventContext<'_>, out: &mut Vec<u8>) {
    let (episode, model) = (&output.episode, &output.model);
    let zone = if format == EventFormat::Ecs { RFC_3339_ZONE } else { EVE_ZONE };
    let time = |nanos: u64| time_text(nanos, zone);
    let class = model.classes[episode.class.index()].as_str();
    let ends = [Some(episode.host.to_string()), episode.peer.map(|peer| peer.to_string())];
    let [source, target] = match (episode.role, ends) {
        (Role::Source, ends) => ends,
        (Role::Target, [host, peer]) => [peer, host],
    };
    let suricata = format == EventFormat::Suricata;
    let is_alert = context.alert.is_some();
    let severity = context.alert.map(super::Severity::alert_name);
    let spiked = Details {
        severity: severity.filter(|_| suricata),
        class,
        host: episode.host.to_string(),
        role: episode.role.name(),
        peer: episode.peer.map(|peer| peer.to_string()),
        state: episode.state.name(),
        start: time(episode.start.0),
        end: time(episode.end.0),
        flows: episode.flows,
        peers: episode.peers,
        ports: episode.ports,
        packets: episode.packets,
        bytes: episode.bytes,
        confidence: (f64::from(episode.confidence) * 1e4).round() / 1e4,
        model: &model.name,
    };
    let written = match format {
        EventFormat::Csv => return,
        EventFormat::Ecs => serde_json::to_writer(
            out,
            &EcsEpisode {
                timestamp: time(episode.time.0),
                event: EcsEvent {
                    kind: "alert",
                    category: ["network", "intrusion_detection"],
                    action: if is_alert { "alert" } else { "episode" },
                    severity: is_alert.then(|| severity_number(context.alert)),
                    dataset: "spiked.episode",
                    start: time(episode.start.0),
                    end: time(episode.end.0),
                    duration: episode.end.0.saturating_sub(episode.start.0),
                },
                source: source.map(|ip| EcsHost { ip }),
                destination: target.map(|ip| EcsHost { ip }),
                observer: context.sensor.map(|name| EcsObserver { name }),
                rule: EcsRule { name: class, ruleset: &model.name },
                spiked,
            },
        ),
        EventFormat::Jsonl | EventFormat::Suricata => serde_json::to_writer(
            out,
            &EveEpisode {
                timestamp: time(episode.time.0),
                event_type: if suricata || is_alert { "alert" } else { "episode" },
                src_ip: source,
                dest_ip: target,
                pcap_filename: context.capture,
                sensor: context.sensor.filter(|_| !suricata),
                host: context.sensor.filter(|_| suricata),
                severity: severity.filter(|_| !suricata),
                alert: (suricata || is_alert).then(|| Alert {
                    action: "allowed",
                    gid: 1,
                    signature_id: signature_id(&model.name, class),
                    rev: 1,
                    signature: format!("{}, episode", signature(&model.name, class)),
                    category: category(model),
                    severity: severity_number(context.alert),
                }),
                spiked,
            },
        ),
    };
    written.expect("writing to a vector does not fail");
}
