//! Tests of one-shot learning: a private protocol is learned from one packet and found in streams of other hosts.

use std::path::Path;

use crate::common::{json_lines, pcap, shared_data, spiked, udp};
use predicates::str::contains;

const SHIPPED: &str = "config/models/protocols.safetensors";

/// A message of a private protocol: a magic number, a version, a type, then bytes that differ between messages.
fn message(host: u8, port: u16, number: u8) -> Vec<u8> {
    let payload = [b'P', b'R', b'V', b'!', 3, 9, number, number.wrapping_mul(31), host, number];
    udp([192, 0, 2, host], 40_000 + u16::from(number), [198, 51, 100, 7], port, &payload)
}

fn learn(from: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    spiked()
        .args(["learn", "--class", "private", "--model", SHIPPED, "--from"])
        .arg(from)
        .arg("--out")
        .arg(out)
        .args(more)
        .assert()
}

/// The class of every stream of a capture.
fn classes(model: &Path, capture: &Path) -> Vec<String> {
    let output =
        spiked().args(["read", "--format", "jsonl", "--events", "streams", "--model"]).arg(model).arg(capture).assert().code(0);
    let events = json_lines(&output.get_output().stdout);
    events.iter().map(|e| e["spiked"]["class"].as_str().unwrap_or("unknown").to_string()).collect()
}

#[test]
fn one_packet_teaches_a_class_that_is_found_on_other_hosts_and_ports() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, later, model) = (folder.path().join("a.pcap"), folder.path().join("b.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &[message(1, 7777, 1)])).unwrap();
    let streams: Vec<Vec<u8>> = (10..30).map(|n| message(n, 9000 + u16::from(n), n)).collect();
    std::fs::write(&later, pcap(1, &streams)).unwrap();
    assert!(!classes(Path::new(SHIPPED), &later).contains(&"private".to_string()));
    learn(&shown, &model, &["--packet", "1"]).code(0).stdout(contains("99 classes"));
    let found = classes(&model, &later);
    assert_eq!(found.iter().filter(|c| *c == "private").count(), 20, "{found:?}");
    for other in ["fixtures/captures/mixed.pcapng", "fixtures/captures/dns-1.pcap", "fixtures/captures/snmp-1.pcap"] {
        let (before, after) = (classes(Path::new(SHIPPED), Path::new(other)), classes(&model, Path::new(other)));
        assert_eq!(before, after, "{other}: the other neurons do not change");
    }
    // At tolerance 1 only the packet that was learned fires the neuron.
    let strict = folder.path().join("strict.safetensors");
    learn(&shown, &strict, &["--filter", "udp port 7777", "--tolerance", "1"]).code(0);
    assert_eq!(classes(&strict, &shown), ["private"]);
    assert!(!classes(&strict, &later).contains(&"private".to_string()));
    learn(&shown, &strict, &["--stream", "192.0.2.1:40001", "--mask", "none"]).code(0);
    assert_eq!(classes(&strict, &shown), ["private"]);
}

#[test]
fn packets_that_can_not_be_learned_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (folder.path().join("a.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &[message(1, 7777, 1)])).unwrap();
    learn(&shown, &model, &["--packet", "2"]).code(2).stderr(contains("no packet with that number"));
    learn(&shown, &model, &["--stream", "nowhere"]).code(2).stderr(contains("no stream contains 'nowhere'"));
    learn(&shown, &model, &["--filter", "tcp"]).code(2).stderr(contains("matches the filter"));
    learn(&shown, &model, &["--packet", "1", "--tolerance", "0.5"]).code(2).stderr(contains("out of range (1 or more"));
    learn(&shown, &model, &[]).code(2);
    assert!(!model.exists());
    learn(&shown, &model, &["--packet", "1"]).code(0);
    let again = ["learn", "--class", "private", "--packet", "1", "--model"];
    spiked().args(again).arg(&model).arg("--from").arg(&shown).assert().code(2).stderr(contains("already has the class"));
}

#[test]
fn one_stream_per_class_classifies_six_in_ten_streams_of_other_captures() {
    let Some(data) = shared_data() else { return };
    let labels = ["protocol-train", "protocol-test"].map(|name| data.join(format!("tasks/{name}.csv")));
    let few = ["eval", "--quiet", "--json", "--cross-validate", "2", "--streams-per-class", "1", "--labels"];
    let output = spiked().args(few).args(labels).arg("--captures").arg(&data).assert();
    let report: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(report["accuracy"].as_f64().unwrap() >= 0.6, "{}", report["accuracy"]);
}
