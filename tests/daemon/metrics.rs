//! Tests of the metrics: they are those documented in deploy/README.md, traffic adds no series, and series of removed objects end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::telemetry::Telemetry;
use spiked::engine::{Counters, Progress};
use spiked::model::Model;
use spiked::packet::Undecodable;

/// Name, type, labels and help of every family, as a row of the table in deploy/README.md.
fn contract(text: &str) -> Vec<String> {
    let mut families: BTreeMap<&str, (&str, &str, BTreeSet<&str>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            families.entry(name).or_default().0 = kind;
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let labels = rest.rsplit_once('}').unwrap().0;
            // No label value of this test contains a comma or an equals sign.
            families
                .get_mut(name)
                .unwrap()
                .2
                .extend(labels.split(',').filter_map(|l| Some(l.split_once('=')?.0)).filter(|l| *l != "le"));
        }
    }
    let row = |(name, (kind, help, labels)): (&str, (&str, &str, BTreeSet<&str>))| {
        format!("| `{name}` | {kind} | {} | {help} |", labels.into_iter().collect::<Vec<_>>().join(" "))
    };
    families.into_iter().map(row).collect()
}

#[test]
fn metrics_are_those_in_the_documentation() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("dns-1.pcap");
    let now = contract(&telemetry.text());
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/README.md")).unwrap();
    // Those of `spiked fleet exporter` are in a table of their own.
    let is_metric =
        |l: &&str| l.starts_with("| `process_") || (l.starts_with("| `spiked_") && !l.starts_with("| `spiked_fleet_"));
    let written: Vec<&str> = document.lines().filter(is_metric).collect();
    assert!(written == now, "the metrics differ from deploy/README.md; its table must be:\n{}", now.join("\n"));
}

#[test]
fn promtool_reports_no_problems() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("mixed.pcapng");
    let Ok(mut promtool) =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        common::skip("promtool (Debian package prometheus)");
        return;
    };
    promtool.stdin.take().unwrap().write_all(telemetry.text().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn counts_are_those_of_the_engine_counters_and_the_verdicts() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("dns-1.pcap");
    let value = |series: &str| telemetry.value(series).unwrap_or_else(|| panic!("no series {series} in\n{}", telemetry.text()));
    let output =
        common::spiked().args(["read", "--format", "jsonl", "--events", "streams", "fixtures/captures/dns-1.pcap"]).output();
    let events = common::json_lines(&output.unwrap().stdout);
    let named = events.iter().filter(|e| e["spiked"]["class"] == "dns").count() as f64;
    assert!(named > 0.0);
    assert_eq!(value(r#"spiked_detections_total{class="dns",model="protocols"}"#), named);
    assert_eq!(value("spiked_streams_created_total"), events.len() as f64);
    assert_eq!(
        value(r#"spiked_streams_named_total{model="protocols"}"#) + value(r#"spiked_streams_unknown_total{model="protocols"}"#),
        events.len() as f64
    );
    assert_eq!(
        value(r#"spiked_decision_packets_count{model="protocols"}"#),
        value(r#"spiked_decision_seconds_count{model="protocols"}"#)
    );
    let bytes: u64 = events.iter().map(|e| e["spiked"]["bytes"].as_u64().unwrap()).sum();
    assert_eq!(value("spiked_frame_bytes_total"), bytes as f64);
    assert_eq!(value("spiked_streams_live"), 43.0);
    assert_eq!(value("spiked_packet_lag_seconds"), 0.012);
    assert_eq!(value(r#"spiked_interface_dropped_frames_total{interface="eth0",reason="kernel"}"#), 18.0);
    let theta = telemetry.models[0].decision.theta[0];
    let class = &telemetry.models[0].classes[0];
    assert_eq!(value(&format!(r#"spiked_threshold{{model="protocols",class="{class}"}}"#)), f64::from(theta));
}

#[test]
fn traffic_adds_no_series() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("dns-1.pcap");
    let series = |text: String| {
        text.lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| Some(l.rsplit_once(' ')?.0.to_string()))
            .collect::<BTreeSet<_>>()
    };
    let before = series(telemetry.text());
    for capture in ["mixed.pcapng", "scan-1.pcap", "synflood-1.pcap", "http-oddport.pcap"] {
        telemetry.replay(capture);
    }
    let mut counters = Counters::default();
    counters.undecodable.extend((0..=u16::MAX).map(|link| (Undecodable::UnsupportedLink(spiked::capture::LinkType(link)), 1)));
    counters.undecodable.insert(Undecodable::Truncated, 1);
    let (busy, idle) = (Duration::ZERO, Duration::ZERO);
    telemetry.metrics.progress(&Progress {
        worker: 1,
        counters: &counters,
        live: 0,
        queue: 0,
        busy,
        idle,
        clock: None,
        lag: None,
    });
    assert_eq!(series(telemetry.text()), before);
    assert_eq!(telemetry.value(r#"spiked_undecodable_frames_total{reason="unsupported_link"}"#), Some(65536.0));
}

/// The model with classes renamed by `rename`.
fn renamed(model: &Model, rename: impl Fn(usize, &str) -> String) -> Arc<Model> {
    let mut model = model.clone();
    model.classes = model.classes.iter().enumerate().map(|(i, c)| rename(i, c)).collect();
    Arc::new(model)
}

#[test]
fn series_of_removed_classes_end_and_the_others_keep_their_counts() {
    let mut telemetry = Telemetry::built_in();
    telemetry.replay("dns-1.pcap");
    let dns = r#"spiked_detections_total{class="dns",model="protocols"}"#;
    let counted = telemetry.value(dns).unwrap();
    let old = telemetry.models.clone();

    // All classes but dns are gone. A verdict of the old model for a removed class is counted without a series of its own.
    let new = vec![renamed(&old[0], |i, c| if c == "dns" { c.into() } else { format!("new-{i}") })];
    telemetry.metrics.models(&new);
    telemetry.status.lock().unwrap().models = vec![spiked::export::status::LoadedModel::now(Arc::clone(&new[0]))];
    telemetry.replay("ssh-1.pcap");
    assert_eq!(telemetry.value(dns), Some(counted));
    for class in old[0].classes.iter().filter(|c| *c != "dns") {
        assert!(!telemetry.text().contains(&format!(r#"class="{class}""#)), "{class} is still there");
    }
    assert!(telemetry.value("spiked_replaced_class_verdicts_total").unwrap() > 0.0);
    telemetry.models = new;
    telemetry.replay("ssh-1.pcap");
    telemetry.replay("dns-1.pcap");
    assert_eq!(telemetry.value(dns), Some(2.0 * counted));

    // A different model: no series of the old one is left.
    let mut other = (*old[0]).clone();
    other.name = "other".into();
    let other = Arc::new(other);
    telemetry.metrics.models(&[Arc::clone(&other)]);
    telemetry.status.lock().unwrap().models = vec![spiked::export::status::LoadedModel::now(other)];
    assert!(!telemetry.text().contains(r#"model="protocols""#));
}

#[test]
fn hostile_names_stay_within_their_label() {
    let hostile = "\"} 1\nspiked_fake_total 7\n# \\ \u{202e}<script>";
    let model = renamed(&Model::built_in().unwrap(), |i, c| if i < 2 { hostile.into() } else { c.into() });
    let telemetry = Telemetry::new(vec![model]);
    telemetry.status.lock().unwrap().interfaces[0].name = hostile.into();
    telemetry.replay("dns-1.pcap");
    let text = telemetry.text();
    assert!(!text.lines().any(|l| l.starts_with("spiked_fake_total")));
    // Two classes of the same name must not give a duplicate series, for which Prometheus rejects the whole scrape.
    let series: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| Some(l.rsplit_once(' ')?.0)).collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
}
