//! A real Prometheus with the configuration and the rules of `deploy/`, and the queries of a dashboard.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::running::Process;
use super::{deploy, wait_for};

/// Starts Prometheus with a shipped configuration, but `target` in place of the address `shipped` of what it scrapes or asks for targets, an
/// interval of 1 s, and its data in `folder`.
pub fn start(folder: &Path, config: &str, (shipped, target): (&str, SocketAddr), rules: &[&str]) -> (Process, SocketAddr) {
    let text = deploy(config);
    assert!(text.contains(shipped) && text.contains("_interval: 15s"));
    let text = text.replace(shipped, &target.to_string()).replace("_interval: 15s", "_interval: 1s");
    fs::write(folder.join("prometheus.yml"), text).expect("written");
    for rules in rules {
        fs::write(folder.join(rules), deploy(&format!("prometheus/{rules}"))).expect("written");
    }
    let log = folder.join("prometheus.log");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg("--web.listen-address=127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("it starts");
    let running = Process(child);
    // Its log names the port that the system chose.
    let address = wait_for("Prometheus listens", || {
        let text = fs::read_to_string(&log).expect("a log");
        let line = text.lines().find(|line| line.contains("Listening on"))?;
        line.split("address=").nth(1)?.split_whitespace().next()?.trim_matches('"').parse().ok()
    });
    (running, address)
}

/// Every query of a dashboard with its panel's title, as Grafana would send it with all values of `variable`.
pub fn queries(dashboard: &str, variable: &str) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&deploy(dashboard)).expect("JSON");
    let of = |panel: &Value| {
        let title = panel["title"].as_str().expect("a title").to_string();
        let expr = |t: &Value| t["expr"].as_str().expect("a query").to_string();
        let sent = |t: &Value| expr(t).replace(variable, ".*").replace("$__rate_interval", "1m").replace("$__range", "6h");
        panel["targets"].as_array().into_iter().flatten().map(|t| (title.clone(), sent(t))).collect::<Vec<_>>()
    };
    dashboard["panels"].as_array().expect("panels").iter().flat_map(of).collect()
}
