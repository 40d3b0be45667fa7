//! Tests of the report page: it is self-contained, escapes untrusted text and shows the measurements.

use std::path::Path;

use crate::common::{fixture, pcap, spiked, udp};
use predicates::str::contains;
use spiked::model::Model;

fn page(arguments: &[&str], out: &Path) -> String {
    spiked().arg("report").args(arguments).arg("--out").arg(out).assert().code(0).stdout(contains("written"));
    std::fs::read_to_string(out).unwrap()
}

/// Checks that tags are closed in reverse order of opening.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another tag");
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

/// Checks that the page runs no script and loads nothing.
fn assert_self_contained(page: &str) {
    for foreign in
        ["<script", "<link", "<img", "<iframe", "src=", "url(", "http://", "https://", "@import", " onload", " onerror="]
    {
        assert!(!page.contains(foreign), "the page contains {foreign}");
    }
}

#[test]
fn the_shipped_models_have_a_page_with_and_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("r.html");
    let devices = page(&["--model", "config/models/devices.safetensors"], &out);
    assert!(
        devices.contains("HueBridge")
            && devices.contains("27 classes of hosts")
            && devices.contains("No labelled captures were given")
    );
    let arguments = ["--labels", "fixtures/labels.csv", "--captures", "fixtures", "--raster", "fixtures/captures/mixed.pcapng"];
    let protocols = page(&arguments, &out);
    for part in [
        "Accuracy",
        "95 %: ",
        "Macro-F1",
        "Risk against coverage",
        "Calibration",
        "Packets to decision",
        "Spike raster",
        "Lead",
        "Other ports",
        "named %",
        "unlike_any",
    ] {
        assert!(protocols.contains(part), "no {part}");
    }
    assert_eq!(protocols.matches("<article class=\"card\"").count(), Model::built_in().unwrap().classes.len());
    for page in [&devices, &protocols] {
        assert_well_formed(page);
        assert_self_contained(page);
        assert!(page.len() < 3_000_000, "{} bytes", page.len());
    }
    let again = page(&arguments, &out);
    assert!(again == protocols, "the same command makes the same page");
}

#[test]
fn a_learning_curve_is_measured_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let some = folder.path().join("some.csv");
    let text = std::fs::read_to_string(fixture("labels.csv")).unwrap();
    let few = |line: &&str| line.starts_with("capture,") || ["/dns-", "/ntp-", "/ssh-"].iter().any(|c| line.contains(c));
    std::fs::write(&some, text.lines().filter(few).collect::<Vec<_>>().join("\n")).unwrap();
    let labels = some.to_str().unwrap();
    let mut model = Model::built_in().unwrap();
    model.provenance.labels = vec!["some.csv".into()];
    let file = folder.path().join("m.safetensors");
    model.save(&file).unwrap();
    let arguments = ["--model", file.to_str().unwrap(), "--labels", labels, "--captures", "fixtures", "--learning-curve"];
    let page = page(&arguments, &folder.path().join("r.html"));
    assert!(page.contains("The model was trained on a label file named <bdi>some.csv</bdi>"));
    assert!(page.contains("Learning curve") && page.contains("training streams per class"));
    assert_well_formed(&page);
    spiked().args(["report", "--learning-curve"]).assert().code(2).stderr(contains("needs labelled captures"));
}

#[test]
fn cut_captures_and_unfit_labels_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let whole =
        pcap(1, &[udp([10, 0, 0, 1], 4000, [10, 0, 0, 2], 53, &[0; 20]), udp([10, 0, 0, 2], 53, [10, 0, 0, 1], 4000, &[1; 20])]);
    std::fs::write(path("cut.pcap"), &whole[..whole.len() - 5]).unwrap();
    let report = || {
        let mut command = spiked();
        command.args(["report", "--out"]).arg(path("r.html"));
        command
    };
    report().arg("--raster").arg(path("cut.pcap")).assert().code(1).stderr(contains("before the cut are drawn"));
    assert!(std::fs::read_to_string(path("r.html")).unwrap().contains("1 of its 1 scored packets"));
    report().arg("--raster").arg(path("none.pcap")).assert().code(4).stderr(contains("none.pcap"));
    let hosts = path("hosts.csv");
    std::fs::write(&hosts, "capture,host,label\ncut.pcap,02:00:00:00:00:01,x\n").unwrap();
    report().arg("--labels").arg(&hosts).assert().code(2).stderr(contains("the labels are of hosts"));
    let out = path("no/such/r.html");
    spiked().args(["report", "--out"]).arg(&out).assert().failure().stderr(contains("can't write the page"));
}

/// Text of the cells of each row of a table's body.
fn rows(table: &str) -> Vec<Vec<String>> {
    let body = table.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap();
    let text = |cell: &str| cell.split(['<', '>']).skip(2).step_by(2).collect::<String>();
    let cells = |row: &str| row.split("<td").skip(1).map(|cell| text(&format!("<td{cell}"))).collect();
    body.split("<tr>").skip(1).map(cells).collect()
}

#[test]
fn episodes_of_the_page_are_those_that_read_finds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("r.html");
    for capture in ["train/scan.port-1", "train/flood.syn-2", "train/beacon-1"] {
        let capture = fixture(&format!("behaviours/{capture}.pcap.zst"));
        let capture = capture.to_str().unwrap();
        let page = page(&["--model", "behaviours", "--raster", capture], &out);
        assert_well_formed(&page);
        assert_self_contained(&page);
        let section = page.split("<section id=\"episodes\">").nth(1).expect("a section").split("</section>").next().unwrap();
        let read =
            spiked().args(["read", "--model", "behaviours", "--format", "jsonl", "--events", "episodes", capture]).output();
        let events = String::from_utf8(read.unwrap().stdout).unwrap();
        let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["spiked"].clone());
        let word = |event: &serde_json::Value, key: &str| match &event[key] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "–".into(),
            number => number.to_string(),
        };
        let keys = ["class", "role", "host", "peer", "flows", "peers", "ports", "packets"];
        let ends: Vec<Vec<String>> =
            events.filter(|event| event["state"] == "end").map(|event| keys.map(|key| word(&event, key)).to_vec()).collect();
        let shown = rows(section)
            .into_iter()
            .map(|row| [0, 1, 2, 3, 7, 8, 9, 10].map(|column: usize| row[column].replace('\u{202f}', "")).to_vec());
        assert!(!ends.is_empty(), "no episode in {capture}");
        assert_eq!(shown.collect::<Vec<_>>(), ends, "{capture}");
    }
    let capture = fixture("captures/mixed.pcapng");
    let without = page(&["--raster", capture.to_str().unwrap()], &out);
    assert!(without.contains("id=\"raster\"") && !without.contains("id=\"episodes\""));
    let mut piped = spiked();
    piped.args(["report", "--model", "behaviours", "--raster", "-", "--out"]).arg(&out);
    piped.write_stdin(std::fs::read(&capture).unwrap());
    piped.assert().code(0).stderr(contains("so its episodes are not drawn"));
    assert!(!std::fs::read_to_string(&out).unwrap().contains("id=\"episodes\""));
}

#[test]
fn hostile_names_are_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let evil = ["<script>alert(1)</script>", "\"onload='x'><b>\u{202e}gnp", "</svg></table>&amp;"];
    let capture = path("<b>&\u{202e}.pcap");
    let frames: Vec<_> = (0..40).map(|i| udp([10, 0, 0, 1], 40_000 + i % 4, [10, 0, 0, 2], 53, &[i as u8; 20])).collect();
    std::fs::write(&capture, pcap(1, &frames)).unwrap();
    let mut model = Model::load(Path::new("config/models/protocols.safetensors")).unwrap();
    for (class, evil) in model.classes.iter_mut().zip(evil) {
        *class = evil.into();
    }
    model.provenance.labels = evil.map(String::from).to_vec();
    model.provenance.trained_with = evil[0].into();
    let file = path("<i>m\".safetensors");
    model.save(&file).unwrap();
    let labels = path("<u>'l.csv");
    let rows: Vec<String> = (0..4)
        .map(|i| {
            let label = evil[i % 3].replace('"', "\"\"");
            format!("{},UDP,10.0.0.1,{},10.0.0.2,53,\"{label}\"", capture.file_name().unwrap().to_str().unwrap(), 40_000 + i)
        })
        .collect();
    std::fs::write(&labels, format!("capture,proto,src_ip,src_port,dst_ip,dst_port,label\n{}\n", rows.join("\n"))).unwrap();
    let text = |p: &Path| p.to_str().unwrap().to_string();
    let (file, labels, capture, root) = (text(&file), text(&labels), text(&capture), text(folder.path()));
    let arguments = ["--model", &file, "--labels", &labels, "--captures", &root, "--raster", &capture];
    let page = page(&arguments, &path("r.html"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("\\u{202e}gnp"));
    assert!(!page.contains('\u{202e}') && !page.contains("<b>\\u") && !page.contains("<i>m") && !page.contains("<u>"));
    assert!(!page.contains("\"onload"));
    assert!(!page.contains("<script"));
    assert_well_formed(&page);
}
