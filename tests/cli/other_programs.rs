//! Tests of what other programs make of the output: the Wireshark post-dissector, the model in numpy, events in pandas and DuckDB.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{fixture, installed, skip, spiked};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Python that has these packages: the first in the path, or Debian's; `None` after reporting a skip. Packages that Debian lacks are
/// skipped without a failure even where all tests are required.
fn python(packages: &[&str], debian: Option<&str>) -> Option<&'static str> {
    let has = |python: &&str| {
        let import = Command::new(python).args(["-c", &format!("import {}", packages.join(", "))]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    match (found, debian) {
        (None, Some(package)) => skip(&format!("Python's {} (Debian package {package})", packages.join(", "))),
        (None, None) => eprintln!("skipped: Python's {}, which Debian does not package", packages.join(", ")),
        (Some(_), _) => {}
    }
    found
}

fn csv_of(bytes: &[u8]) -> Vec<HashMap<String, String>> {
    csv::Reader::from_reader(bytes).deserialize().map(|row| row.unwrap()).collect()
}

#[test]
fn wireshark_shows_class_and_confidence_as_fields() {
    if !installed("tshark", "tshark") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("named.pcapng");
    spiked().args(["read", "--write"]).arg(&written).arg("fixtures/captures/mixed.pcapng").assert().code(0);
    let tshark = |args: &[&str]| {
        let script = format!("lua_script:{}", root().join("deploy/wireshark/spiked.lua").display());
        let output = Command::new("tshark").args(["-n", "-X", &script, "-r"]).arg(&written).args(args).output().unwrap();
        let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && !error.contains("Lua"), "{error}");
        out
    };
    let rows =
        tshark(&["-T", "fields", "-e", "frame.comment", "-e", "spiked.class", "-e", "spiked.confidence", "-e", "spiked.model"]);
    let mut classes: BTreeMap<String, u32> = BTreeMap::new();
    for row in rows.lines() {
        let [comment, class, confidence, model] = row.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let confidence: f64 = confidence.parse().unwrap();
        assert_eq!(comment, format!("{class}, confidence {confidence:.3}, model {model}"));
        *classes.entry(class.into()).or_default() += 1;
    }
    assert_eq!(classes.keys().collect::<Vec<_>>(), ["dns", "http", "mqtt", "ntp", "redis", "snmp", "ssh"]);
    let filtered = tshark(&["-Y", "spiked.class == \"ssh\" && spiked.confidence > 0.5"]);
    assert_eq!(filtered.lines().count(), classes["ssh"] as usize);
    let columns = tshark(&["-o", "gui.column.format:\"No.\",\"%m\",\"Class\",\"%Cus:spiked.class\"", "-c", "1"]);
    assert_eq!(columns.split_whitespace().collect::<Vec<_>>(), ["1", "http"]);
}

/// Capture, protocol and both ends of a stream, in any order. `destination`: the beginning of the columns of its destination.
fn stream_of(row: &HashMap<String, String>, capture: &str, destination: &str) -> (String, String, [String; 2]) {
    let end = |name: &str| {
        let (address, port) = (&row[&format!("{name}_ip")], row[&format!("{name}_port")].as_str());
        format!("{address} {}", if port == "0" { "" } else { port })
    };
    let mut ends = ["src", destination].map(end);
    ends.sort();
    (capture.into(), row["proto"].to_uppercase().replace("IPV6-ICMP", "ICMP").replace("ICMPV6", "ICMP"), ends)
}

#[test]
fn a_model_scored_in_numpy_finds_the_same_classes() {
    let Some(python) = python(&["numpy"], Some("python3-numpy")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let features = folder.path().join("features.csv");
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let labels = ["--labels", "fixtures/labels.csv", "--captures", "fixtures"];
    let mut rows = Command::new(program);
    rows.args(["features", "--packets", "64"]).args(labels).current_dir(root());
    assert!(rows.stdout(File::create(&features).unwrap()).stderr(Stdio::null()).status().unwrap().success());
    let script = root().join("docs/score.py");
    let scored = Command::new(python)
        .arg(script)
        .arg(root().join("config/models/protocols.safetensors"))
        .stdin(File::open(&features).unwrap())
        .output()
        .unwrap();
    assert!(scored.status.success(), "{}", String::from_utf8_lossy(&scored.stderr));
    let scored = csv_of(&scored.stdout);
    // Streams are numbered in the order of the labels' captures and of their first packets.
    let labelled = csv_of(&std::fs::read(fixture("labels.csv")).unwrap());
    let place: HashMap<String, usize> =
        labelled.iter().rev().enumerate().map(|(at, row)| (format!("fixtures/{}", row["capture"]), usize::MAX - at)).collect();
    let label: HashMap<_, _> = labelled
        .iter()
        .map(|row| (stream_of(row, &format!("fixtures/{}", row["capture"]), "dst"), row["label"].as_str()))
        .collect();
    let read = ["read", "--events", "streams", "--format", "csv", "fixtures/captures"];
    let mut events = csv_of(&spiked().args(read).assert().code(0).get_output().stdout);
    events.retain(|row| label.contains_key(&stream_of(row, &row["pcap_filename"], "dest")));
    events.sort_by_cached_key(|row| (place[&row["pcap_filename"]], row["flow.start"].clone()));
    assert_eq!((scored.len(), events.len()), (labelled.len(), labelled.len()));
    for (scored, event) in scored.iter().zip(&events) {
        assert_eq!(scored["label"], label[&stream_of(event, &event["pcap_filename"], "dest")], "{scored:?} {event:?}");
        assert_eq!(scored["nearest"], event["spiked.best"], "{scored:?} {event:?}");
        assert_eq!(scored["class"], event["spiked.class"], "{scored:?} {event:?}");
        let [ours, theirs] = [&scored["confidence"], &event["spiked.confidence"]].map(|text| text.parse::<f64>().unwrap());
        // Both are rounded to three digits, so that equal ones may differ by one in the last.
        assert!((ours - theirs).abs() < 0.0015, "{scored:?} {event:?}");
    }
}

/// The recipe of docs/USAGE.md that begins with `import NAME`, run in a folder with events of a fixture.
fn recipe(name: &str, debian: Option<&str>) {
    let Some(python) = python(&[name], debian) else { return };
    let usage = std::fs::read_to_string(root().join("docs/USAGE.md")).unwrap();
    let blocks = usage.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let recipe = blocks.into_iter().find(|block| block.contains(&format!("import {name}"))).expect("the recipe");
    let folder = tempfile::tempdir().unwrap();
    for (format, file) in [("csv", "streams.csv"), ("jsonl", "streams.jsonl")] {
        let read = ["read", "--events", "streams", "--format", format, "fixtures/captures/mixed.pcapng"];
        std::fs::write(folder.path().join(file), &spiked().args(read).assert().code(0).get_output().stdout).unwrap();
    }
    let output = Command::new(python).args(["-c", recipe]).current_dir(folder.path()).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    for (class, streams) in [("dns", "21"), ("ssh", "6")] {
        let row = |line: &str| line.contains(class) && line.split(|c: char| !c.is_ascii_digit()).any(|n| n == streams);
        assert!(out.lines().any(row), "{class} {streams}\n{out}");
    }
}

#[test]
fn events_in_pandas() {
    recipe("pandas", Some("python3-pandas"));
}

#[test]
fn events_in_duckdb() {
    recipe("duckdb", None);
}
