//! Tests of one-shot learning: a private protocol is learned from one packet and found in streams of other hosts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::common::{frames_of, in_gtp, json_lines, pcap, shared_data, spiked, tcp, udp};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use spiked::model::Model;

const SHIPPED: &str = "config/models/protocols.safetensors";

/// A message of a private protocol: a magic number, a version, a type, then bytes that differ between messages.
fn message(host: u8, port: u16, number: u8) -> Vec<u8> {
    let payload = [b'P', b'R', b'V', b'!', 3, 9, number, number.wrapping_mul(31), host, number];
    udp([192, 0, 2, host], 40_000 + u16::from(number), [198, 51, 100, 7], port, &payload)
}

fn learn(from: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    learn_into(Path::new(SHIPPED), from, out, more)
}

fn learn_into(model: &Path, from: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    spiked()
        .args(["learn", "--class", "private", "--model"])
        .arg(model)
        .arg("--from")
        .arg(from)
        .arg("--out")
        .arg(out)
        .args(more)
        .assert()
}

/// Twenty connections of a private protocol over TCP to a port: a handshake, then two messages and their answers.
fn connections(port: u16, first_host: u8) -> Vec<Vec<u8>> {
    let connection = |n: u8| {
        let (client, server) = (([192, 0, 2, first_host + n], 40_000 + u16::from(n) * 7), ([198, 51, 100, 7], port));
        let request = |number: u8| [b'P', b'R', b'V', b'!', 3, 9, number, n.wrapping_mul(31), n, number];
        let answer = |number: u8| [b'P', b'R', b'V', b'=', 3, 200, number, 0, n, 77, number, n];
        vec![
            tcp(client, server, "S", 0, &[]),
            tcp(server, client, "SA", 0, &[]),
            tcp(client, server, "A", 1, &[]),
            tcp(client, server, "A", 1, &request(1)),
            tcp(server, client, "A", 1, &answer(1)),
            tcp(client, server, "A", 11, &request(2)),
            tcp(server, client, "A", 13, &answer(2)),
        ]
    };
    (0..20).flat_map(connection).collect()
}

/// Private connections to a port, then the streams of the fixtures `others`.
fn among_others(port: u16, first_host: u8, others: &[&str]) -> Vec<u8> {
    let others: Vec<_> = others.iter().flat_map(|name| frames_of(&format!("{name}.pcap"))).collect();
    pcap(1, &[connections(port, first_host), others].concat())
}

/// Streams of the private protocol that are named so, and others that are, of a capture by [`among_others`].
fn found_and_false(model: &Path, capture: &Path) -> (usize, usize, usize) {
    let output =
        spiked().args(["read", "--format", "jsonl", "--events", "streams", "--model"]).arg(model).arg(capture).assert().code(0);
    let (mut found, mut wrong, mut others) = (0, 0, 0);
    for event in json_lines(&output.get_output().stdout) {
        let (own, named) = (event["dest_ip"] == "198.51.100.7", event["spiked"]["class"] == "private");
        found += usize::from(own && named);
        wrong += usize::from(!own && named);
        others += usize::from(!own);
    }
    (found, wrong, others)
}

/// What `learn` prints of a built-in model with one more class.
fn one_more_class() -> String {
    format!("{} classes", Model::built_in().unwrap().classes.len() + 1)
}

#[test]
fn every_way_of_teaching_finds_the_class_elsewhere_or_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let [shown, later, model, labels] =
        ["shown.pcap", "later.pcap", "model.safetensors", "labels.csv"].map(|name| folder.path().join(name));
    std::fs::write(&shown, among_others(7777, 30, &["http-1", "dns-1", "ssh-1"])).unwrap();
    std::fs::write(&later, among_others(9100, 60, &["http-2", "dns-2", "ssh-2", "http-oddport", "ssh-oddport", "tls-2"]))
        .unwrap();
    // Packet 1 is a SYN.
    let refused = learn(&shown, &model, &["--packet", "1"]).code(2);
    refused.stderr(contains("packet 1 carries no payload").and(contains("take --packet 4")));
    assert!(!model.exists());
    let rows = |(label, port): (&str, u16)| {
        let row = |n: u16| format!("shown.pcap,TCP,192.0.2.{},{},198.51.100.7,{port},{label}\n", 30 + n, 40_000 + n * 7);
        (0..20).map(row).collect::<String>()
    };
    let table = format!("capture,proto,src_ip,src_port,dst_ip,dst_port,label\n{}", rows(("private", 7777)));
    std::fs::write(&labels, table).unwrap();
    let ways: [(&str, Vec<&str>); 5] = [
        ("packet 4", vec!["--packet", "4"]),
        ("packets of both directions", vec!["--packet", "4,5"]),
        ("stream", vec!["--stream", "198.51.100.7:7777"]),
        ("filter", vec!["--filter", "tcp port 7777"]),
        ("labels", vec!["--labels", labels.to_str().unwrap(), "--captures", folder.path().to_str().unwrap()]),
    ];
    for (way, options) in ways {
        let mut command = spiked();
        command.args(["learn", "--class", "private", "--out"]).arg(&model).args(&options);
        if way != "labels" {
            command.arg("--from").arg(&shown);
        }
        command.assert().code(0).stdout(contains("built-in reference: claims 0 of"));
        let (found, wrong, others) = found_and_false(&model, &later);
        println!("{way}: found {found} of 20, false {wrong} of {others}");
        assert!(found >= 19 && wrong == 0 && others >= 60, "{way}: found {found} of 20, false {wrong} of {others}");
    }
}

#[test]
fn a_class_that_claims_other_streams_is_not_written_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (Path::new("fixtures/captures/redis-1.pcap"), folder.path().join("m.safetensors"));
    // The model lacks Redis; the reference has streams of it.
    let lacking = folder.path().join("lacking.safetensors");
    Model::built_in().unwrap().without_classes(&["redis".into()]).unwrap().save(&lacking).unwrap();
    let refused = learn_into(&lacking, shown, &model, &["--packet", "4"]).code(2);
    refused
        .stderr(contains("streams of other classes: redis ").and(contains("--class redis")).and(contains("--force writes it")));
    assert!(!model.exists());
    learn_into(&lacking, shown, &model, &["--packet", "4", "--force"])
        .code(0)
        .stdout(contains("streams of other classes: redis "));
    // A SYN, and what it claims.
    std::fs::remove_file(&model).unwrap();
    learn(shown, &model, &["--packet", "1", "--force"]).code(0).stdout(contains("streams of other classes: "));
    // A class of everything takes the streams of many.
    let part = folder.path().join("part.safetensors");
    let train =
        ["train", "--quiet", "--class", "other=fixtures/captures/mixed.pcapng", "--class", "scan=fixtures/captures/scan-1.pcap"];
    spiked().args(train).arg("--out").arg(&part).assert().code(0);
    let join = || {
        let mut command = spiked();
        command.args(["model", "join", "protocols"]).arg(&part).arg("--out").arg(folder.path().join("joined.safetensors"));
        command
    };
    join().assert().code(2).stderr(contains("streams of other classes: ").and(contains("not written, --force writes it")));
    join().arg("--force").assert().code(0).stdout(contains("claims "));
}

#[test]
fn a_class_that_names_none_of_its_own_streams_gives_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.safetensors");
    let warning = "private names none of the streams that it was taught from (";
    // Without payload they stay unknown; those of DNS keep their class.
    let flood = Path::new("fixtures/captures/synflood-1.pcap");
    learn(flood, &model, &["--packet", "1", "--force"]).code(0).stderr(contains(warning).and(contains("(unknown 1): teach it")));
    let dns = Path::new("fixtures/captures/dns-1.pcap");
    learn(dns, &model, &["--packet", "1"]).code(0).stderr(contains(warning).and(contains("(dns 1): teach it")));
    let labels = folder.path().join("labels.csv");
    std::fs::write(
        &labels,
        "capture,proto,src_ip,src_port,dst_ip,dst_port,label\nsynflood-1.pcap,TCP,10.11.1.21,1325,10.11.1.1,9,private\n",
    )
    .unwrap();
    let mut command = spiked();
    command.args(["learn", "--class", "private", "--captures", "fixtures/captures", "--force", "--labels"]).arg(&labels);
    command.arg("--out").arg(&model).assert().code(0).stderr(contains(warning));
    let shown = folder.path().join("a.pcap");
    std::fs::write(&shown, pcap(1, &[message(1, 7777, 1)])).unwrap();
    learn(&shown, &model, &["--packet", "1"]).code(0).stderr("");
}

#[test]
fn a_stream_is_found_by_its_ends_as_the_list_of_unknown_streams_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (folder.path().join("a.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &connections(7777, 30))).unwrap();
    let listed = spiked().args(["read", "--unknown"]).arg(&shown).assert().code(0);
    let listed = String::from_utf8(listed.get_output().stdout.clone()).unwrap();
    let line = listed.lines().last().unwrap();
    let ends = &line[..line.find("TCP").unwrap() + 3];
    let port = ends.split_whitespace().next().unwrap();
    learn(&shown, &model, &["--stream", ends]).code(0).stdout(contains(port));
    spiked().args(["model", "explain", "protocols"]).arg(&shown).arg(ends).assert().code(0).stdout(contains(port));
}

#[test]
fn learn_replaces_its_model_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (folder.path().join("a.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &[message(1, 7777, 1)])).unwrap();
    std::fs::copy(SHIPPED, &model).unwrap();
    let learn = |options: &[&str]| {
        let mut command = spiked();
        command.args(["learn", "--packet", "1", "--from"]).arg(&shown).args(options);
        command
    };
    let path = model.to_str().unwrap();
    learn(&["--class", "one", "--model", path]).assert().code(2).stderr(contains("--out"));
    learn(&["--class", "one", "--model", path, "--out", path]).assert().code(2).stderr(contains("--in-place"));
    learn(&["--class", "one", "--in-place"]).assert().code(2).stderr(contains("protocols is built in"));
    learn(&["--class", "one", "--model", path, "--in-place"]).assert().code(0).stdout(contains(one_more_class()));
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
    learn(&shown, &model, &["--packet", "1"]).code(0).stdout(contains(one_more_class()));
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
fn a_packet_of_a_tunnel_teaches_what_the_tunnel_carries() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (folder.path().join("a.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &[in_gtp(&message(1, 7777, 1))])).unwrap();
    for selection in [["--packet", "1"], ["--filter", "udp port 2152"], ["--stream", "192.0.2.1:40001"]] {
        learn(&shown, &model, &selection).code(0);
        let found = classes(&model, &shown);
        assert_eq!((found.len(), found.iter().filter(|c| *c == "private").count()), (2, 1), "{selection:?}: {found:?}");
    }
}

#[test]
fn packets_that_can_not_be_learned_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (shown, model) = (folder.path().join("a.pcap"), folder.path().join("m.safetensors"));
    std::fs::write(&shown, pcap(1, &[message(1, 7777, 1)])).unwrap();
    learn(&shown, &model, &["--packet", "2"]).code(2).stderr(contains("no packet with that number"));
    learn(&shown, &model, &["--stream", "nowhere"]).code(2).stderr(contains("no stream contains 'nowhere'"));
    for empty in ["", " > "] {
        learn(&shown, &model, &["--stream", empty]).code(2).stderr(contains("give an address, a port or a protocol"));
    }
    learn(&shown, &model, &["--filter", "tcp"]).code(2).stderr(contains("matches the filter"));
    learn(&shown, &model, &["--packet", "1", "--tolerance", "0.5"]).code(2).stderr(contains("out of range (1 or more"));
    learn(&shown, &model, &[]).code(2);
    assert!(!model.exists());
    // A model without some of the slots that are masked by default.
    let scan = Path::new("fixtures/behaviours/train/scan.port-1.pcap.zst");
    let behaviours = Path::new("config/models/behaviours.safetensors");
    learn_into(behaviours, scan, &model, &["--packet", "1", "--mask", "ttl"])
        .code(2)
        .stderr(contains("there are link, network, ports, transport, length"));
    learn(&shown, &model, &["--packet", "1"]).code(0);
    let again = ["learn", "--class", "private", "--packet", "1", "--in-place", "--model"];
    spiked().args(again).arg(&model).arg("--from").arg(&shown).assert().code(2).stderr(contains("already has the class"));
}

/// The path of a recording of behaviours.
fn recording(name: &str) -> PathBuf {
    PathBuf::from(format!("fixtures/behaviours/train/{name}.pcap.zst"))
}

/// The shipped behaviours model without slow HTTP attacks.
fn without_slow_http(folder: &Path) -> PathBuf {
    let without = folder.join("without.safetensors");
    spiked()
        .args(["model", "remove", "config/models/behaviours.safetensors", "slow.http", "--out"])
        .arg(&without)
        .assert()
        .code(0);
    without
}

/// The hosts of the recording's episodes of the class `private`.
fn hosts(model: &Path, capture: &str) -> Vec<String> {
    let read = ["read", "--quiet", "--format", "jsonl", "--events", "episodes", "--model"];
    let output = spiked().args(read).arg(model).arg(recording(capture)).assert().code(0);
    let events = json_lines(&output.get_output().stdout).into_iter();
    let begun = events.filter(|e| e["spiked"]["state"] == "begin" && e["spiked"]["class"] == "private");
    begun.map(|e| e["spiked"]["host"].as_str().unwrap().to_owned()).collect()
}

/// Asserts that the slow HTTP attacks of other recordings are episodes of the class `private`, and that a recording without attacks has none.
fn finds_slow_http(model: &Path) {
    for (capture, attacker) in
        [("slow.http-2", "172.21.237.57"), ("slow.http-4", "10.76.244.47"), ("slow.http-8", "10.64.225.57")]
    {
        let hosts = hosts(model, capture);
        assert!(hosts.iter().any(|host| host == attacker), "{capture}: {hosts:?}");
    }
    assert_eq!(hosts(model, "normal-1"), [""; 0]);
}

#[test]
fn an_attack_of_one_capture_is_found_again_as_an_episode() {
    let folder = tempfile::tempdir().unwrap();
    let learned = folder.path().join("learned.safetensors");
    let shown = ["--filter", "host 10.73.230.52"];
    learn_into(&without_slow_http(folder.path()), &recording("slow.http-1"), &learned, &shown).code(0);
    finds_slow_http(&learned);
}

#[test]
fn a_labelled_attack_is_found_again_as_an_episode() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, learned) = (folder.path().join("labels.csv"), folder.path().join("learned.safetensors"));
    let mut text = String::new();
    let packed = std::fs::File::open("fixtures/behaviours/labels.csv.gz").unwrap();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let shown = |line: &&str| ["capture,", "train/slow.http-1.", "train/normal-1."].iter().any(|start| line.starts_with(start));
    let lines: Vec<String> = text.lines().filter(shown).map(|line| line.replace(",slow.http", ",private")).collect();
    std::fs::write(&labels, lines.join("\n")).unwrap();
    let add = ["learn", "--captures", "fixtures/behaviours", "--class", "private", "--labels"];
    let add =
        spiked().args(add).arg(&labels).arg("--model").arg(without_slow_http(folder.path())).arg("--out").arg(&learned).assert();
    add.code(0);
    finds_slow_http(&learned);
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
