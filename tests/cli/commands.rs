//! Tests of the commands as a user runs them: output, errors and exit codes.

use std::path::{Path, PathBuf};

use crate::common::skip::VARIABLES;
use crate::common::{fixture, installed, json_lines, pcap, shared_data, spiked, udp};
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

/// A folder of one test, and a model trained on the first round of fixtures, made once.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Labels of the fixtures for whose capture name `chosen` returns true.
fn labels(folder: &Path, name: &str, chosen: impl Fn(&str) -> bool) -> PathBuf {
    let all = std::fs::read_to_string(fixture("labels.csv")).unwrap();
    let kept: Vec<&str> =
        all.lines().filter(|line| line.starts_with("capture,") || chosen(line.split(',').next().unwrap())).collect();
    let path = folder.join(name);
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    path
}

fn train(labels: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    spiked().args(["train", "--captures", "fixtures", "--labels"]).arg(labels).arg("--out").arg(out).args(more).assert()
}

#[test]
fn the_built_in_model_names_the_streams_of_a_capture() {
    let output = spiked().args(["read", "fixtures/captures/mixed.pcapng"]).assert().code(0);
    let table = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    for class in ["class", "dns", "snmp", "ssh", "http", "mqtt", "ntp", "unknown:"] {
        assert!(table.lines().any(|line| line.split_whitespace().next() == Some(class)), "no line {class} in\n{table}");
    }
}

/// Of this CPU with its widest vectors, of one with AVX2 and without AVX-512, and of one with neither.
#[cfg(target_arch = "x86_64")]
#[test]
fn events_are_the_same_byte_for_byte_whatever_vectors_the_cpu_has() {
    if !installed("qemu-x86_64", "qemu-user") {
        return;
    }
    let models = ["-m", "protocols", "-m", "behaviours", "-m", "config/models/devices.safetensors"];
    for (capture, events) in [
        ("fixtures/captures/mixed.pcapng", "streams"),
        ("fixtures/behaviours/train/scan.port-1.pcap.zst", "streams"),
        ("fixtures/behaviours/train/scan.port-1.pcap.zst", "episodes"),
    ] {
        let options = ["--format", "jsonl", "--events", events, "--workers", "1", "--quiet", capture];
        let output = |command: &mut Command| {
            let output = command.args(models).args(options).assert().code(0).get_output().stdout.clone();
            String::from_utf8(output).unwrap()
        };
        let here = output(spiked().arg("read"));
        assert!(here.lines().count() > 1, "{here}");
        for cpu in ["max", "qemu64"] {
            let mut emulated = Command::new("qemu-x86_64");
            emulated.current_dir(env!("CARGO_MANIFEST_DIR"));
            for variable in VARIABLES {
                emulated.env_remove(variable);
            }
            let there = output(emulated.args(["-cpu", cpu, env!("CARGO_BIN_EXE_spiked"), "read"]));
            assert!(there == here, "{capture}, {events}, {cpu}");
        }
    }
}

#[test]
fn the_table_groups_unknown_streams_and_shows_how_to_go_on() {
    let capture = "fixtures/captures/mixed.pcapng";
    let text = |args: &[&str]| {
        let output = spiked().arg("read").args(args).arg(capture).assert().code(0);
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let events = json_lines(text(&["--format", "jsonl", "--events", "streams"]).as_bytes());
    let reason = |e: &serde_json::Value| e["spiked"]["reason"].as_str().unwrap_or("named").to_string();
    let count = |wanted: &str| events.iter().filter(|e| reason(e) == wanted).count();
    let silent = count("no_payload");
    assert!(silent >= 200, "the port scan");
    let table = text(&[]);
    let summary = format!("{} of {} streams named; {silent} more carry no payload", count("named"), events.len() - silent);
    assert!(table.contains(&summary), "{summary} is not in\n{table}");
    let rows = |row: &str| -> Vec<&str> {
        let after = table.lines().skip_while(|line| !line.starts_with(row)).skip(1);
        after.take_while(|line| line.starts_with("  ")).collect()
    };
    // The streams of a row: its third number from the right.
    let streams = |line: &str| line.split_whitespace().rev().nth(2).unwrap().parse::<usize>().unwrap();
    let scan = rows("unknown: no payload")[0];
    assert!(scan.contains(" knocks on ") && scan.contains(" ports of ") && streams(scan) >= 190, "{scan}");
    for (row, wanted) in [("no payload", "no_payload"), ("unsure", "unsure"), ("unlike any", "unlike_any")] {
        assert_eq!(rows(&format!("unknown: {row}")).into_iter().map(streams).sum::<usize>(), count(wanted), "{row}\n{table}");
    }
    assert!(table.contains("spiked read --unknown CAPTURE") && table.contains("spiked learn --from CAPTURE"), "{table}");

    let listed = text(&["--unknown"]);
    let (header, lines) = listed.split_once('\n').unwrap();
    assert!(header.starts_with("source ") && header.contains(" reason ") && header.contains(" nearest class "));
    let mut got: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
    let end = |e: &serde_json::Value, side: &str| {
        format!("{}:{}", e[format!("{side}_ip")].as_str().unwrap(), e[format!("{side}_port")])
    };
    let unknown = events.iter().filter(|e| e["spiked"]["class"].is_null());
    let line = |e: &serde_json::Value| {
        let spiked = &e["spiked"];
        let confidence = format!("{:.4}", spiked["confidence"].as_f64().unwrap());
        let (packets, nearest) = (spiked["packets"].to_string(), spiked["best"].as_str().unwrap_or("-").to_string());
        let proto = e["proto"].as_str().unwrap().to_string();
        [end(e, "src"), end(e, "dest"), proto, packets, reason(e), nearest, confidence, capture.to_string()]
    };
    let mut wanted: Vec<[String; 8]> = unknown.map(line).collect();
    got.sort();
    wanted.sort();
    assert_eq!(got.len(), wanted.len());
    for (got, wanted) in got.iter().zip(&wanted) {
        assert_eq!(got[..7], wanted[..7], "{capture}");
    }

    // Of several models, the model is the first column.
    let models = ["config/models/protocols.safetensors", "config/models/behaviours.safetensors"];
    let both = text(&["--unknown", "--model", models[0], "--model", models[1]]);
    let (both_header, both) = both.split_once('\n').unwrap();
    assert_eq!(both_header, format!("model      {header}"));
    let of = |model: &str| -> Vec<&str> { both.lines().filter_map(|line| line.strip_prefix(&format!("{model:<10} "))).collect() };
    let sorted = |mut lines: Vec<&str>| {
        lines.sort_unstable();
        lines.join("\n")
    };
    assert_eq!(sorted(of("protocols")), sorted(lines.lines().collect()));
    assert_eq!(of("protocols").len() + of("behaviours").len(), both.lines().count());
    assert!(!of("behaviours").is_empty());
    spiked().args(["read", "--unknown", "--format", "jsonl", capture]).assert().code(2).stderr(contains("--unknown"));
}

#[test]
fn evaluation_shows_each_class_named_and_nearest_on_its_own_and_on_other_ports() {
    let eval = |more: &[&str]| {
        let model = "config/models/protocols.safetensors";
        let mut command = spiked();
        command
            .args(["eval", "--quiet", "--model", model, "--labels", "fixtures/labels.csv", "--captures", "fixtures"])
            .args(more);
        String::from_utf8(command.assert().code(0).get_output().stdout.clone()).unwrap()
    };
    let report: serde_json::Value = serde_json::from_str(&eval(&["--json"])).unwrap();
    let shares = |class: &serde_json::Value| ["recall", "named"].map(|key| class[key].as_f64().unwrap());
    for class in report["classes"].as_array().unwrap() {
        let [nearest, named] = shares(class);
        assert!((0.0..=1.0).contains(&named) && named <= nearest, "{class}");
    }
    let views = report["on_ports"].as_array().unwrap();
    assert_eq!(views.iter().map(|v| v["ports"].as_str().unwrap()).collect::<Vec<_>>(), ["without", "odd", "other"]);
    for view in views {
        let ssh = view["classes"].as_array().unwrap().iter().find(|c| c["class"] == "ssh").unwrap();
        assert_eq!(ssh["streams"], 21);
        assert!(shares(ssh)[0] > 0.8, "SSH is known by its content: {ssh}");
        let wrong = view["false_names"].as_array().unwrap();
        assert!(wrong.iter().all(|pair| pair[0] != pair[1] && pair[2].as_u64() > Some(0)), "{wrong:?}");
    }
    // Ping has no ports, so it is left out of the views that replace them.
    let with_icmp = |view: &&serde_json::Value| view["classes"].as_array().unwrap().iter().any(|c| c["class"] == "icmp");
    assert_eq!(views.iter().filter(with_icmp).count(), 1);
    // Streams of classes that the model lacks are in the counts by basis and reason too.
    let count = |kinds: &str| report[kinds].as_array().unwrap().iter().map(|k| k["streams"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count("bases") + count("reasons"), report["streams"].as_u64().unwrap());

    let same_ports = eval(&["--json", "--mask", "ports"]);
    let masked: serde_json::Value = serde_json::from_str(&same_ports).unwrap();
    assert_eq!(
        [&masked["accuracy"], &masked["recall"]],
        [&views[0]["accuracy"], &views[0]["recall"]],
        "masked is the view without ports"
    );
    assert_eq!(masked["on_ports"].as_array().unwrap().len(), 1, "ports that are masked can't be replaced");
    let masked = eval(&["--mask", "ports"]);
    assert!(masked.contains("without ports: nearest, named, precision"), "{masked}");
    assert!(!masked.contains("odd port") && !masked.contains("others' ports"), "{masked}");
    let text = eval(&[]);
    let header: Vec<&str> = text.lines().take(2).collect();
    assert!(["as captured", "without ports", "odd port", "others' ports"].iter().all(|part| header[0].contains(part)), "{text}");
    assert_eq!(header[1].matches(" named").count(), 4, "{text}");
    assert!(text.contains("nearest: share of the class's streams"));
}

#[test]
fn more_folds_than_captures_or_streams_are_refused() {
    for (split, what) in [("capture", "captures with labelled streams"), ("stream", "labelled streams")] {
        let eval = [
            "eval",
            "--cross-validate",
            "1000000",
            "--split-by",
            split,
            "--labels",
            "fixtures/labels.csv",
            "--captures",
            "fixtures",
        ];
        let message =
            predicates::str::is_match(format!("--cross-validate 1000000: there are only [0-9]+ {what} to split")).unwrap();
        spiked().args(eval).assert().code(2).stderr(message);
    }
}

#[test]
fn evaluation_on_no_class_of_the_model_measures_false_alarms_alone() {
    let eval = |labels: &str| {
        let mut command = spiked();
        command.args(["eval", "--model", "protocols", "--class", labels]).assert().code(0)
    };
    eval("names=fixtures/captures/dns-1.pcap")
        .stderr(contains("no stream is of a class that was trained"))
        .stdout(contains("false alarms on unseen classes").and(contains("as captured").not()).and(contains("0.0000").not()));
    eval("dns=fixtures/captures/dns-1.pcap").stderr("").stdout(contains("accuracy (nearest class)"));
}

#[test]
fn events_have_the_promised_fields() {
    let output =
        spiked().args(["read", "--format", "jsonl", "--events", "streams", "fixtures/captures/http-2.pcap"]).assert().code(0);
    let events = json_lines(&output.get_output().stdout);
    assert_eq!(events.len(), 12);
    let event = &events[0];
    for field in [
        "timestamp",
        "event_type",
        "flow_id",
        "src_ip",
        "src_port",
        "dest_ip",
        "dest_port",
        "proto",
        "community_id",
        "pcap_filename",
        "app_proto",
        "flow",
    ] {
        assert!(!event[field].is_null(), "{field} is missing in {event}");
    }
    let flow: Vec<&str> = event["flow"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(flow, ["pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient", "start", "end", "age"]);
    for (kind, sum) in [("pkts", "packets"), ("bytes", "bytes")] {
        let sides = ["toserver", "toclient"].map(|side| event["flow"][format!("{kind}_{side}")].as_u64().unwrap());
        assert!(sides[0] > 0 && sides[1] > 0 && sides[0] + sides[1] == event["spiked"][sum], "{event}");
    }
    assert_eq!(event["app_proto"], event["spiked"]["class"]);
    assert_eq!(event["flow"]["end"], event["timestamp"]);
    assert!(event["in_iface"].is_null(), "a capture has no interface");
    assert_eq!((&event["event_type"], &event["proto"], &event["dest_port"]), (&"stream".into(), &"TCP".into(), &80.into()));
    assert_eq!(event["pcap_filename"], "fixtures/captures/http-2.pcap");
    let spiked = event["spiked"].as_object().unwrap();
    let fields: Vec<&str> = spiked.keys().map(String::as_str).collect();
    assert_eq!(fields, ["class", "best", "confidence", "evidence", "packets", "bytes", "scored", "basis", "model"]);
    assert_eq!(spiked["basis"], "content");
    assert!((0.0..=1.0).contains(&spiked["confidence"].as_f64().unwrap()));
    assert!(event["timestamp"].as_str().unwrap().ends_with("+0000"));
}

#[test]
fn each_format_of_events_has_one_line_for_each_stream() {
    let read = |format: &str| {
        let said =
            spiked().args(["read", "--format", format, "--events", "streams", "fixtures/captures/icmp-1.pcap"]).assert().code(0);
        String::from_utf8(said.get_output().stdout.clone()).unwrap()
    };
    let own = json_lines(read("jsonl").as_bytes());
    let (suricata, ecs) = (json_lines(read("suricata").as_bytes()), json_lines(read("ecs").as_bytes()));
    let csv = read("csv");
    let (header, rows) = csv.split_once('\n').unwrap();
    assert!(header.starts_with("timestamp,event_type,flow_id,"));
    assert_eq!([suricata.len(), ecs.len(), rows.lines().count()], [own.len(); 3]);
    for ((own, suricata), ecs) in own.iter().zip(&suricata).zip(&ecs) {
        assert_eq!((&suricata["event_type"], &ecs["event"]["action"]), (&"flow".into(), &"stream".into()));
        assert_eq!((&own["community_id"], &own["src_ip"]), (&suricata["community_id"], &suricata["src_ip"]));
        assert_eq!((&own["community_id"], &own["src_ip"]), (&ecs["network"]["community_id"], &ecs["source"]["ip"]));
        assert!(own["src_port"].is_null() || own["icmp_type"].is_null(), "types are not ports: {own}");
    }
    assert!(own.iter().any(|e| e["icmp_type"] == 8 || e["icmp_type"] == 128), "no echo among {own:?}");
}

#[test]
fn episodes_of_models_without_episodes_are_refused() {
    let read = ["read", "--format", "jsonl", "--events", "episodes", "fixtures/captures/scan-1.pcap"];
    spiked().args(read).assert().code(2).stdout("").stderr(contains("no model has episodes"));
    spiked().args(read).args(["--model", "protocols", "--model", "behaviours"]).assert().code(0).stderr("");
}

#[test]
fn ends_of_streams_that_reading_lists_are_found_by_explaining() {
    let capture = "fixtures/captures/mixed.pcapng";
    let listed = spiked().args(["read", "--model", "behaviours", "--unknown", capture]).assert().code(0);
    let listed = String::from_utf8(listed.get_output().stdout.clone()).unwrap();
    let ends: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    for start in ["10.", "["] {
        let end = *ends.iter().find(|end| end.starts_with(start)).unwrap();
        spiked().args(["model", "explain", "behaviours", capture, end]).assert().code(0).stdout(contains(end));
    }
}

#[test]
fn a_stream_is_detected_once_and_ends_once() {
    let of_episodes = "fixtures/behaviours/test/bruteforce.ssh-6.pcap.zst";
    for (model, capture, all, by_episode) in
        [("protocols", "fixtures/captures/dns-1.pcap", 26, false), ("behaviours", of_episodes, 200, true)]
    {
        detected_once_and_ended_once(model, capture, all, by_episode);
    }
}

/// `all`: streams of the capture; `by_episode`: whether some are named because they are part of an episode.
fn detected_once_and_ended_once(model: &str, capture: &str, all: usize, by_episode: bool) {
    let read = |options: &[&str]| {
        let output = spiked().args(["read", "--model", model, capture]).args(options).assert().code(0);
        output.get_output().stdout.clone()
    };
    let events = |kind: &str| json_lines(&read(&["--format", "jsonl", "--events", kind]));
    let ids = |events: &[serde_json::Value]| {
        let mut ids: Vec<u64> = events.iter().map(|e| e["flow_id"].as_u64().unwrap()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "a stream came twice");
        ids
    };
    let (detections, streams) = (events("detections"), events("streams"));
    let named: Vec<_> = streams.iter().filter(|e| !e["spiked"]["class"].is_null()).cloned().collect();
    assert_eq!(ids(&detections), ids(&named));
    assert_eq!(streams.len(), all);
    for events in [&detections, &named] {
        assert_eq!(events.iter().any(|e| e["spiked"]["basis"] == "episode"), by_episode);
    }
    let table = String::from_utf8(read(&[])).unwrap();
    assert!(table.contains(&format!("{} of {all} streams named", named.len())), "{table}");
    let unknown = String::from_utf8(read(&["--unknown"])).unwrap();
    assert_eq!(unknown.lines().count(), 1 + all - named.len(), "a header and the unknown streams:\n{unknown}");
}

#[test]
fn results_do_not_depend_on_the_number_of_workers() {
    let read = |workers: &str| {
        let model = ["--model", "config/models/protocols.safetensors", "--model", "config/models/devices.safetensors"];
        let what = ["--format", "jsonl", "--events", "streams", "--workers", workers, "fixtures/captures"];
        spiked().arg("read").args(model).args(what).assert().code(0).get_output().stdout.clone()
    };
    let one = read("1");
    assert!(one.len() > 10_000);
    assert!(one == read("2") && one == read("5"), "the events differ");
}

#[test]
fn shared_captures_give_the_same_events_on_any_number_of_workers() {
    let Some(data) = shared_data() else { return };
    let read = |workers: &str| {
        let what = ["read", "--quiet", "--format", "jsonl", "--events", "streams", "--workers", workers];
        spiked().args(what).arg(data.join("ndpi/pcap")).assert().get_output().stdout.clone()
    };
    let one = read("1");
    assert!(one.len() > 1_000_000);
    assert!(one == read("2") && one == read("3"), "the events differ");
}

#[test]
fn folders_standard_input_and_compressed_captures_are_read() {
    let plain = std::fs::read(fixture("captures/dns-2.pcap")).unwrap();
    spiked().args(["read", "-"]).write_stdin(plain).assert().code(0).stdout(contains("dns"));
    spiked()
        .args(["read", "fixtures/captures/dns-2.pcap.gz", "fixtures/captures/redis-2.pcap.zst"])
        .assert()
        .code(0)
        .stdout(contains("2 captures"));
    let output = spiked().args(["read", "--format", "jsonl", "--events", "streams", "fixtures/captures"]).assert().code(0);
    let events = json_lines(&output.get_output().stdout);
    assert!(events.iter().any(|e| e["pcap_filename"] == "fixtures/captures/ssh-1.pcap"));
}

#[test]
fn streams_that_a_full_table_ended_are_told_with_every_format() {
    let what = "streams ended early: the stream table was full (--streams)";
    let read = |options: &[&str]| {
        let capture = "fixtures/captures/scan-1.pcap";
        spiked().args(["read", "--workers", "1", "--streams", "2"]).args(options).arg(capture).assert().code(0)
    };
    read(&[]).stdout(contains(what));
    for options in [&["--format", "jsonl"][..], &["--format", "csv", "--events", "streams"], &["--unknown"]] {
        read(options).stderr(contains(what));
    }
    read(&["--format", "jsonl", "--quiet"]).stderr("");
}

#[test]
fn a_filter_selects_packets() {
    spiked()
        .args(["read", "--filter", "udp port 53", "fixtures/captures/mixed.pcapng"])
        .assert()
        .code(0)
        .stdout(contains("dns").and(contains("snmp").not()).and(contains("did not match the filter")));
    spiked()
        .args(["read", "--filter", "udp prot 53", "fixtures/captures/dns-1.pcap"])
        .assert()
        .code(2)
        .stderr(contains("'udp prot 53'"));
}

#[test]
fn masked_slots_are_checked() {
    spiked().args(["read", "--mask", "ports", "fixtures/captures/dns-1.pcap"]).assert().code(0);
    spiked()
        .args(["read", "--mask", "prots", "fixtures/captures/dns-1.pcap"])
        .assert()
        .code(2)
        .stderr(contains("'prots'").and(contains("ports")));
}

#[test]
fn bad_captures_are_reported_and_the_rest_is_read() {
    let folder = folder();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let text = write("notes.txt", b"no capture at all");
    let empty = write("empty.pcap", b"");
    let whole = pcap(1, &[udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, &[0; 30])]);
    let cut = write("cut.pcap", &whole[..whole.len() - 5]);
    let radio = write("radio.pcap", &pcap(187, &[vec![0; 60], vec![0; 60]]));
    spiked().arg("read").arg(&text).assert().code(4).stderr(contains("notes.txt").and(contains("not a pcap")));
    spiked().arg("read").arg(&empty).assert().code(3).stderr(contains("empty.pcap: the file is empty"));
    let formats = contains("pcap, pcapng, snoop, ERF; plain, gzip, zstd, xz, lz4");
    spiked().args(["read", "--help"]).assert().code(0).stdout(formats);
    spiked().args(["read", "-"]).write_stdin("").assert().code(3).stderr(contains("spiked: standard input is empty"));
    spiked().arg("read").arg(&cut).assert().code(1).stdout(contains("cut.pcap: truncated after packet 0"));
    spiked()
        .arg("read")
        .arg(&radio)
        .assert()
        .code(1)
        .stdout(contains("skipped: 2 packets: link type").and(contains("(187) is not supported")))
        .stderr(contains("radio.pcap: link type").and(contains("(187) is not supported: 2 packets skipped, from packet 1 on")));
    let good = fixture("captures/dns-1.pcap");
    spiked().arg("read").args([&text, &good]).assert().code(1).stdout(contains("dns")).stderr(contains("notes.txt"));
}

#[test]
fn a_model_trained_on_fixtures_classifies_other_captures() {
    let folder = folder();
    let (first, second) = (
        labels(folder.path(), "first.csv", |c| c.ends_with("-1.pcap")),
        labels(folder.path(), "second.csv", |c| c.ends_with("-2.pcap") || c.ends_with("-oddport.pcap")),
    );
    let model = folder.path().join("m.safetensors");
    train(&first, &model, &[]).code(0).stdout(contains("redis").and(contains("icmp: only 2 streams")));
    let output = spiked()
        .args(["eval", "--json", "--captures", "fixtures", "--labels"])
        .arg(&second)
        .arg("--model")
        .arg(&model)
        .assert()
        .code(0);
    let report: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(report["accuracy"].as_f64().unwrap() > 0.98, "{report}");
    assert!(report["macro_f1"].as_f64().unwrap() > 0.95, "{report}");
    spiked().args(["model", "show"]).arg(&model).assert().code(0).stdout(contains("postgresql"));
    spiked()
        .args(["model", "explain"])
        .arg(&model)
        .args(["fixtures/captures/ssh-2.pcap", ":22"])
        .assert()
        .code(0)
        .stdout(contains("ssh; nearest class ssh").and(contains("all fields, per packet")));
    spiked().args(["model", "explain"]).arg(&model).args(["fixtures/captures/ssh-2.pcap", "9.9.9.9"]).assert().code(3);
}

#[test]
fn a_model_is_the_same_bit_for_bit_on_any_number_of_threads() {
    let folder = folder();
    let few = labels(folder.path(), "few.csv", |c| ["dns-1", "ntp-1", "ssh-1", "icmp-1"].iter().any(|n| c.contains(n)));
    let model = |threads: &str| {
        let out = folder.path().join("same.safetensors");
        train(&few, &out, &["--threads", threads, "--seed", "7", "--quiet"]).code(0);
        std::fs::read(out).unwrap()
    };
    let one = model("1");
    assert!(one == model("2") && one == model("3"));
}

#[test]
fn models_are_split_into_parts_and_joined() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let quick = |name: &str, classes: [&str; 2]| {
        let arguments = classes.iter().flat_map(|c| ["--class".into(), format!("{c}=fixtures/captures/{c}-1.pcap")]);
        spiked().arg("train").args(arguments).arg("--out").arg(path(name)).assert().code(0);
    };
    quick("a", ["dns", "redis"]);
    quick("b", ["ssh", "ntp"]);
    spiked()
        .args(["model", "join"])
        .args([path("a"), path("b")])
        // Without a reference confidence is averaged, and such small models name fewer streams together: the harm check reports it.
        .arg("--force")
        .arg("--out")
        .arg(path("ab"))
        .assert()
        .code(0)
        .stdout(contains("4 classes"));
    spiked()
        .args(["read", "--model"])
        .arg(path("ab"))
        .arg("fixtures/captures/ssh-2.pcap")
        .assert()
        .code(0)
        .stdout(contains("ssh"));
    spiked()
        .args(["model", "remove"])
        .arg(path("ab"))
        .args(["dns", "ntp"])
        .arg("--out")
        .arg(path("r"))
        .assert()
        .code(0)
        .stdout(contains("2 classes"));
    spiked()
        .args(["model", "remove"])
        .arg(path("r"))
        .arg("dns")
        .arg("--out")
        .arg(path("x"))
        .assert()
        .code(2)
        .stderr(contains("no class 'dns'"));
    let devices = Path::new("config/models/devices.safetensors");
    spiked()
        .args(["model", "join"])
        .args([&path("a"), devices])
        .arg("--out")
        .arg(path("x"))
        .assert()
        .code(2)
        .stderr(contains("one knows flows"));
}

#[test]
fn whole_captures_are_labelled_by_an_option() {
    let folder = folder();
    let out = folder.path().join("quick.safetensors");
    let classes = ["--class", "names=fixtures/captures/dns-1.pcap", "--class", "store=fixtures/captures/redis-1.pcap"];
    spiked().arg("train").args(classes).arg("--out").arg(&out).assert().code(0).stdout(contains("store"));
    spiked()
        .arg("read")
        .arg("--model")
        .arg(&out)
        .arg("fixtures/captures/redis-2.pcap")
        .assert()
        .code(0)
        .stdout(contains("store"));
    spiked().args(["train", "--class", "nonsense"]).assert().code(2).stderr(contains("NAME=CAPTURE"));
    spiked().args(["train", "--class", "one=fixtures/captures/dns-1.pcap"]).assert().code(2).stderr(contains("at least two"));
}

#[test]
fn training_warns_of_a_class_whose_streams_carry_no_payload_and_stay_unknown() {
    let folder = folder();
    let out = folder.path().join("silent.safetensors");
    // Pings have no ports, so what they carry is in their headers.
    let classes = [("flood", "synflood"), ("probe", "scan"), ("ping", "icmp"), ("http", "http")];
    let classes = classes.iter().flat_map(|(class, name)| ["--class".into(), format!("{class}=fixtures/captures/{name}-1.pcap")]);
    let warnings = |traces: &[&str]| {
        let trained = spiked().arg("train").args(classes.clone()).args(traces).arg("--out").arg(&out).assert().code(0);
        let text = String::from_utf8(trained.get_output().stdout.clone()).unwrap();
        text.lines().filter(|line| line.contains("no_payload")).map(str::to_owned).collect::<Vec<_>>()
    };
    let warning = |class| {
        format!(
            "  {class}: none of its streams carries payload, and all of them stay unknown (no_payload); for behaviours use --traces"
        )
    };
    assert_eq!(warnings(&[]), ["flood", "probe"].map(warning));
    assert_eq!(warnings(&["--traces"]), [""; 0]);
}

#[test]
fn mistakes_in_labels_are_reported_and_the_rest_is_used() {
    let folder = folder();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let out = folder.path().join("m.safetensors");
    let columns = "capture,proto,src_ip,src_port,dst_ip,dst_port,label\n";
    let missing = write("missing.csv", "capture,proto,src_ip,src_port,dst_ip,label\n");
    train(&missing, &out, &[]).code(2).stderr(contains("missing.csv: column 'dst_port' is missing"));
    let port = write("port.csv", &format!("{columns}captures/dns-1.pcap,UDP,10.11.1.21,many,10.11.1.1,53,dns\n"));
    train(&port, &out, &[]).code(2).stderr(contains("port.csv, line 2: 'many' is not a valid port"));
    let nothing = write("nothing.csv", columns);
    train(&nothing, &out, &[]).code(2).stderr(contains("no row"));
    let good =
        std::fs::read_to_string(labels(folder.path(), "good.csv", |c| c.contains("dns-1") || c.contains("ssh-1"))).unwrap();
    let odd = format!("{good}captures/none.pcap,TCP,1.1.1.1,1,2.2.2.2,2,dns\ncaptures/dns-1.pcap,UDP,9.9.9.9,9,8.8.8.8,8,dns\n");
    let odd = write("odd.csv", &odd);
    train(&odd, &out, &[])
        .code(1)
        .stderr(contains("none.pcap").and(contains("captures/dns-1.pcap: no stream UDP 8.8.8.8:8 9.9.9.9:9")))
        .stdout(contains("written"));
    let hosts = write("hosts.csv", "capture,host,label\ncaptures/dns-1.pcap,02:00:00:00:00:01,x\n");
    spiked()
        .args(["train", "--captures", "fixtures", "--labels"])
        .arg(&hosts)
        .arg(folder.path().join("good.csv"))
        .assert()
        .code(2)
        .stderr(contains("two kinds"));
    spiked()
        .args(["eval", "--captures", "fixtures", "--model"])
        .arg(&out)
        .arg("--labels")
        .arg(&hosts)
        .assert()
        .code(2)
        .stderr(contains("the labels are of hosts"));
}

#[test]
fn confusable_classes_and_classes_of_one_stream_give_warnings() {
    let folder = folder();
    let mut text = String::from("capture,proto,src_ip,src_port,dst_ip,dst_port,label\n");
    let all = std::fs::read_to_string(fixture("labels.csv")).unwrap();
    for (number, line) in all.lines().filter(|l| l.starts_with("captures/redis-1") || l.starts_with("captures/dns-1")).enumerate()
    {
        let twin = if number / 4 % 2 == 0 { "left" } else { "right" };
        text += &line.replace(",redis", &format!(",{twin}"));
        text.push('\n');
    }
    let once = all.lines().find(|l| l.starts_with("captures/ssh-1")).unwrap();
    text += once;
    let twins = folder.path().join("twins.csv");
    std::fs::write(&twins, text).unwrap();
    train(&twins, &folder.path().join("m.safetensors"), &[])
        .code(0)
        .stdout(contains("often confused with").and(contains("ssh: only 1 stream;")));
}

#[test]
fn a_model_that_is_damaged_or_newer_or_of_another_format_is_rejected_with_the_reason() {
    let folder = folder();
    let good = std::fs::read("config/models/devices.safetensors").unwrap();
    let path = folder.path().join("m.safetensors");
    let refused = |bytes: &[u8], why: &str| {
        std::fs::write(&path, bytes).unwrap();
        spiked().args(["model", "show"]).arg(&path).assert().code(2).stderr(contains("m.safetensors").and(contains(why)));
    };
    refused(b"", "damaged");
    refused(&good[..good.len() / 2], "damaged");
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    refused(&flipped, "checksum");
    let swap = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    refused(&swap("spiked-model", "another-one!"), "not a model of spiked");
    refused(&swap("\"version\":\"1\"", "\"version\":\"9\""), "newer");
    refused(&swap("\\\"offset\\\":13", "\\\"offset\\\":14"), "checksum");
    spiked()
        .args(["read", "--model"])
        .arg(folder.path().join("none"))
        .arg("fixtures/captures/dns-1.pcap")
        .assert()
        .code(2)
        .stderr(contains("none"));
}

#[test]
fn a_saved_model_is_readable_by_all_and_replaced_atomically() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let out = folder.path().join("m.safetensors");
    let model = spiked::model::Model::built_in().unwrap();
    model.save(&out).unwrap();
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(spiked::model::Model::load(&out).unwrap().to_bytes(), model.to_bytes());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    let nowhere = model.save(&folder.path().join("no/such/m.safetensors"));
    assert!(nowhere.unwrap_err().to_string().contains("can't write"));
}

#[test]
fn streams_of_other_captures_of_the_shared_task_are_named() {
    let Some(data) = shared_data() else { return };
    let folder = folder();
    let out = folder.path().join("p.safetensors");
    let labels = |name: &str| data.join("tasks").join(name);
    spiked()
        .args(["train", "--quiet", "--captures"])
        .arg(&data)
        .arg("--labels")
        .arg(labels("protocol-train.csv"))
        .arg("--out")
        .arg(&out)
        .assert()
        // Every row has a stream, those of tunnels by their outer packets too.
        .code(0);
    let output = spiked()
        .args(["eval", "--json", "--quiet", "--captures"])
        .arg(&data)
        .arg("--labels")
        .arg(labels("protocol-test.csv"))
        .arg("--model")
        .arg(&out)
        .assert();
    let report: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    println!("protocol-test: accuracy {}, macro-F1 {}", report["accuracy"], report["macro_f1"]);
    assert!(report["accuracy"].as_f64().unwrap() >= 0.978 && report["macro_f1"].as_f64().unwrap() >= 0.951);
}

#[test]
fn a_time_range_reads_a_part_of_a_capture() {
    let packets = |range: &str| {
        let read = ["read", "--time-range", range, "fixtures/captures/mixed.pcapng"];
        let output = spiked().args(read).assert().code(0).stderr("").get_output().stdout.clone();
        let text = String::from_utf8(output).unwrap();
        let line = text.lines().find(|line| line.contains(" packets, ")).unwrap().to_string();
        line.split(' ').next().unwrap().replace(',', "").parse::<u64>().unwrap()
    };
    let (before, after) = (packets("..2026-11-24T11:14:35Z"), packets("1795518875..2026-11-24T12:00:00+00:00"));
    assert!(before > 0 && after > 0, "{before} {after}");
    assert_eq!(before + after, 1_746, "the start is in the range, the end is not");
    for wrong in ["yesterday..", "2026-11-24T11:14:35Z", "9..1"] {
        let read = ["read", "--time-range", wrong, "fixtures/captures/mixed.pcapng"];
        spiked().args(read).assert().code(2).stderr(contains("--time-range"));
    }
    let read = ["read", "--time-range", "1..2", "fixtures/captures/mixed.pcapng"];
    spiked().args(read).assert().code(0).stdout(contains("1746 packets are outside the time range"));
}

#[test]
fn one_packet_in_one_capture_has_no_plural() {
    let output = spiked().args(["read", "--count", "1", "fixtures/captures/dns-1.pcap"]).assert().code(0);
    output.stdout(contains("\n1 packet, 100 bytes in 1 capture\n"));
}

#[test]
fn training_names_the_captures_that_cannot_be_read_and_the_classes_that_are_dropped() {
    let folder = folder();
    let none = folder.path().join("none.safetensors");
    let absent = spiked().args(["train", "--class", "web=absent.pcap", "--out"]).arg(&none).assert().code(2);
    absent.stderr(contains("absent.pcap: can't open the capture: No such file"));
    let [web, shell] = ["web=fixtures/captures/http-1.pcap:port 99", "shell=fixtures/captures/ssh-1.pcap"];
    let dropped = spiked().args(["train", "--class", web, "--class", shell, "--out"]).arg(&none).assert().code(2);
    dropped.stderr(contains("classes dropped, with fewer than 1 streams: web"));
}

#[test]
fn explaining_no_stream_is_wrong_usage() {
    let explain = ["model", "explain", "protocols", "fixtures/captures/dns-1.pcap", "--most", "0"];
    spiked().args(explain).assert().code(2).stderr(contains("--most"));
}
