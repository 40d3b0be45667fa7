//! Tests of the Prometheus configuration, the rules and the Grafana dashboard against a real Prometheus: it scrapes the daemon, loads
//! the rules, and every query of the dashboard returns data.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common;
use crate::common::prometheus::{queries, start};
use crate::common::running::{Process, get_json};
use crate::common::telemetry::Telemetry;
use crate::common::{deploy, wait_until};
use serde_json::Value;
use spiked::export::http::Server;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).current_dir(format!("{DEPLOY}/prometheus")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}\n{out}{err}");
    out.into_owned()
}

#[test]
fn configuration_and_rules_are_valid_and_every_alert_fires_when_it_should() {
    if !common::installed("promtool", "prometheus") {
        return;
    }
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "recording.rules.yml", "alerting.rules.yml"]);
    promtool(&["test", "rules", "rules.test.yml"]);
    promtool(&["check", "config", "fleet.prometheus.yml"]);
    promtool(&["check", "rules", "fleet.rules.yml"]);
    promtool(&["test", "rules", "fleet.rules.test.yml"]);
}

#[test]
fn every_alert_is_tested_and_explained() {
    let document = deploy("README.md");
    for (rules, tests) in [("alerting.rules.yml", "rules.test.yml"), ("fleet.rules.yml", "fleet.rules.test.yml")] {
        let (text, fired) = (deploy(&format!("prometheus/{rules}")), deploy(&format!("prometheus/{tests}")));
        let alerts: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
        assert!(alerts.len() >= 10, "{rules}");
        for alert in alerts {
            assert!(fired.contains(&format!("alertname: {alert}\n")), "{alert} never fires in {tests}");
            let heading = format!("\n#### {alert}\n");
            assert!(document.contains(&heading), "deploy/README.md does not describe what to do about {alert}");
        }
    }
}

/// Sets a flag when it is dropped, even if the test fails, since a scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts Prometheus with the shipped configuration for one sensor.
fn prometheus(folder: &Path, target: SocketAddr) -> (Process, SocketAddr) {
    let rules = ["recording.rules.yml", "alerting.rules.yml"];
    start(folder, "prometheus/prometheus.yml", ("127.0.0.1:9184", target), &rules)
}

/// The names of metrics in a query, without those of recording rules.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    query.split(name).filter(|word| word.starts_with("spiked_") || word.starts_with("process_"))
}

#[test]
fn a_real_prometheus_scrapes_it_and_answers_every_query_of_the_dashboard() {
    if !(common::installed("prometheus", "prometheus") && common::installed("promtool", "prometheus")) {
        return;
    }
    let telemetry = Telemetry::built_in();
    telemetry.replay("mixed.pcapng");
    let server = Server::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&telemetry.metrics)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (running, address) = prometheus(folder.path(), server.address());
    let url = format!("http://{address}");
    let query =
        |expr: &str| -> Vec<Value> { serde_json::from_str(&promtool(&["query", "-o", "json", "instant", &url, expr])).unwrap() };
    wait_until("Prometheus is up", || get_json(address, "/api/v1/status/buildinfo").is_some());

    // Replay traffic until every recording rule has a value.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stopping = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                telemetry.replay("mixed.pcapng");
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let ready = || query(r#"count({__name__=~"instance.*"}) > 0 and on () count_over_time(up{job="spiked"}[1m]) >= 6"#);
        wait_until("it has scraped six times", || !ready().is_empty());
        let mut empty = Vec::new();
        for (panel, expr) in queries("grafana/spiked.json", "$instance") {
            if query(&expr).is_empty() {
                empty.push(format!("{panel}: {expr}"));
            }
        }
        assert!(empty.is_empty(), "queries of the dashboard that return nothing:\n{}", empty.join("\n"));
    });

    let health = get_json(address, "/api/v1/targets").unwrap();
    assert_eq!(health["data"]["activeTargets"][0]["health"], "up", "{health}");
    let groups = get_json(address, "/api/v1/rules").unwrap();
    let rules: Vec<&Value> =
        groups["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 20);
    let text = telemetry.text();
    let known: BTreeSet<&str> = text.lines().filter_map(|l| l.split(['{', ' ']).next()).collect();
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        // A query that is normally empty would also be empty if it named a metric that does not exist.
        for name in names(rule["query"].as_str().unwrap()) {
            assert!(known.contains(name), "{} queries {name}, which is not a metric", rule["name"]);
        }
        // The problems in this test's status: one alert fires at once, two are pending, the others are inactive.
        let state = match rule["name"].as_str().unwrap() {
            "SpikedReloadFailed" => "firing",
            "SpikedInterfaceDown" | "SpikedSinkFailing" => "pending",
            "SpikedDown" | "SpikedNotReady" | "SpikedLagging" | "SpikedWorkerFailed" | "SpikedStreamTableFull" => "inactive",
            _ => continue,
        };
        assert_eq!(rule["state"], state, "{rule}");
    }

    // Prometheus has the same counts.
    for series in ["spiked_frames_total", r#"spiked_detections_total{class="dns",model="protocols"}"#, "spiked_streams_live"] {
        let counted = telemetry.value(series).unwrap();
        let scraped = || query(series).first().and_then(|s| s["value"][1].as_str()?.parse().ok());
        wait_until("the last count is scraped", || scraped() == Some(counted));
    }

    // Prometheus notices that the sensor is gone.
    drop(server);
    wait_until("the target is down", || !query(r#"up{job="spiked"} == 0"#).is_empty());
    drop(running);
}

#[test]
fn a_prometheus_that_is_killed_and_comes_back_finds_the_daemon_as_it_was() {
    if !common::installed("prometheus", "prometheus") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = common::running::Running::start(&common::running::endless(folder.path(), ""), |_| {});
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors();
    for round in 0..2 {
        let data = folder.path().join(format!("prometheus-{round}"));
        std::fs::create_dir(&data).unwrap();
        let (running, address) = prometheus(&data, daemon.address);
        wait_until("it is scraped", || {
            get_json(address, "/api/v1/targets").is_some_and(|t| t["data"]["activeTargets"][0]["health"] == "up")
        });
        let (frames, _) = common::net::counted(&daemon.status().unwrap()["interfaces"][0]);
        // SIGKILL, its connection to the daemon open.
        drop(running);
        daemon.wait("it goes on", |s| common::net::counted(&s["interfaces"][0]).0 > frames + 1000 && s["unhealthy"].is_null());
        wait_until("nothing is left of it", || descriptors() <= before);
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}
