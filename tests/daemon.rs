//! The daemon without privileges: a replay through policies, sinks and evidence captures.

mod common;

use std::fs;

use common::{json_lines, spiked};
use spiked::capture::{CaptureFile, FrameBatch, Source};

#[test]
fn alerts_go_by_the_policies_and_leave_the_packets_that_they_rest_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(folder.path().join("evidence")).unwrap();
    let settings = format!(
        r#"
[replay]
captures = ["fixtures/captures/ftp-1.pcap", "fixtures/captures/ssh-1.pcap", "fixtures/captures/http-1.pcap"]
speed = 0
[[sinks]]
type = "file"
path = "{}"
[evidence]
folder = "{}"
packets = 5
[metrics]
enabled = false
[process]
status_file = "{}"
[[policies]]
class = "http"
action = "ignore"
[[policies]]
class = "*"
action = "alert"
severity = "high"
unless = "tcp port 22"
"#,
        at("events.json"),
        at("evidence"),
        at("status"),
    );
    fs::write(folder.path().join("spiked.toml"), settings).unwrap();
    spiked().args(["run", "--config", &at("spiked.toml")]).assert().success();

    let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
    let of = |kind: &str| events.iter().filter(|e| e["event_type"] == kind).collect::<Vec<_>>();
    let (alerts, detections) = (of("alert"), of("detection"));
    assert!(!alerts.is_empty() && alerts.iter().all(|e| e["severity"] == "high" && e["dest_port"] != 22));
    assert!(detections.iter().any(|e| e["spiked"]["class"] == "ssh"), "what gives no alert is reported all the same");
    assert!(events.iter().all(|e| e["spiked"]["class"] != "http"), "and what is ignored is not");

    let files: Vec<_> = fs::read_dir(folder.path().join("evidence")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    let mut evidence = CaptureFile::open(&files[0].path()).unwrap();
    let (mut batch, mut packets) = (FrameBatch::new(), 0);
    while evidence.fill(&mut batch).unwrap() {
        packets += batch.len();
    }
    assert!(evidence.cut().is_none());
    // Alerts are limited for each class and host; evidence is kept of every stream that is one.
    let streams = detections.iter().filter(|e| e["dest_port"] != 22).count();
    assert!(alerts.len() < streams, "{} alerts of {streams}", alerts.len());
    assert!((streams..=streams * 5).contains(&packets), "{packets} packets of {streams} streams");
}
