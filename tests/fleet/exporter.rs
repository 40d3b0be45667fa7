//! Tests of `spiked fleet exporter`, and of the Prometheus configuration, the alerts and the dashboard of a fleet against a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use spiked::config::FleetConfig;
use spiked::fleet::connection::{Connection, runtime};

use super::common::prometheus::{queries, start};
use super::common::running::{Process, Running, endless, get, get_json};
use super::common::{self, deploy, wait_for, wait_until};
use super::models::{self, edge, key, signed};
use super::servers::{Server, free_port, init};
use super::setup::{server_with_users, url_of};

/// Starts an exporter with the permissions of the reader `soc`.
fn exporter(url: &str) -> (Process, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spiked"))
        .args(["fleet", "exporter", "--listen", "127.0.0.1:0", "--name", "soc", "--server", url])
        .env_remove(common::skip::REQUIRE_ALL)
        .env_remove(common::skip::NATS_SERVER)
        .env_remove(common::skip::S3_SERVER)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    stderr.read_line(&mut line).expect("a line");
    // The pipe stays open: the exporter writes to it when its server dies.
    child.stderr = Some(stderr.into_inner());
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    (Process(child), address.parse().expect("an address"))
}

/// Settings of the sensor "north" of the group "edge", which publishes events, takes a model and reports the port of its metrics.
fn settings(folder: &Path, url: &str, key: &str, port: u16) -> std::path::PathBuf {
    let (models, spool) = (folder.join("north/models"), folder.join("north/spool"));
    fs::create_dir_all(&models).expect("a folder");
    fs::create_dir_all(&spool).expect("a folder");
    let more = format!(
        "[[sinks]]\ntype = \"nats\"\n[fleet]\nservers = [{url:?}]\nsensor = \"north\"\ngroup = \"edge\"\nmodels = [{:?}]\n\
         model_folder = {models:?}\ntrusted_keys = [{key:?}]\nspool = {spool:?}\nmetrics_address = \"127.0.0.1:{port}\"\n",
        models::name()
    );
    endless(&folder.join("north"), &more)
}

/// Starts Prometheus with the shipped configuration for a fleet.
fn prometheus(folder: &Path, exporter: SocketAddr) -> (Process, SocketAddr) {
    let config = "prometheus/fleet.prometheus.yml";
    assert!(deploy(config).contains("127.0.0.1:9185/sd"));
    let rules = ["recording.rules.yml", "alerting.rules.yml", "fleet.rules.yml"];
    start(folder, config, ("127.0.0.1:9185", exporter), &rules)
}

/// The series that a query returns.
fn query(prometheus: SocketAddr, expr: &str) -> Vec<Value> {
    let url = format!("http://{prometheus}");
    let output = Command::new("promtool").args(["query", "-o", "json", "instant", &url, expr]).output().expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{expr}: {error}; {output:?}"))
}

/// Removes the report of a sensor, as the servers do after a minute.
fn remove_report(url: &str, sensor: &str) {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "operator").await.expect("connected");
        let context = async_nats::jetstream::new(connection.client.clone());
        context.get_key_value("spiked-status").await.expect("a bucket").purge(sensor).await.expect("removed");
    });
}

/// A fleet of one sensor, which sends events, runs version 1 of a model and has refused version 2.
struct Fleet {
    server: Server,
    operator: String,
    north: Running,
    metrics: SocketAddr,
    exporter: Process,
    address: SocketAddr,
}

impl Fleet {
    fn start(folder: &Path) -> Option<Self> {
        let (server, users) = server_with_users(folder, &["--sensor", "north", "--reader", "soc", "--curator", "models"])?;
        let url = |name: &str| url_of(&server, &users, name);
        let operator = url("operator");
        assert!(init(&operator, &[]).status.success());
        let (key, port) = (key(), free_port());
        let file = settings(folder, &url("north"), &key.pk.to_base64(), port);
        let metrics: SocketAddr = ([127, 0, 0, 1], port).into();
        let north = Running::start(&file, |command| {
            command.args(["--set", &format!("metrics.address={metrics}")]);
        });
        assert_eq!(north.address, metrics);
        edge("publish", &signed(folder, "one", &key).display().to_string(), &operator, &[]);
        models::wait_version(&north, 1, "installed");
        edge("publish", &signed(folder, "two", &models::key()).display().to_string(), &operator, &[]);
        models::wait_version(&north, 1, "refused");
        let (exporter, address) = exporter(&url("soc"));
        Some(Self { operator, north, metrics, exporter, address, server })
    }

    /// The metrics, with the labels of each series in the order of their names.
    fn text(&self) -> String {
        let sorted = |line: &str| {
            let Some((name, labels, value)) = line.split_once('{').and_then(|(name, rest)| {
                let (labels, value) = rest.split_once('}')?;
                Some((name, labels, value))
            }) else {
                return format!("{line}\n");
            };
            let mut labels: Vec<&str> = labels.split(',').collect();
            labels.sort_unstable();
            format!("{name}{{{}}}{value}\n", labels.join(","))
        };
        get(self.address, "/metrics").unwrap_or_default().lines().map(sorted).collect()
    }

    /// Waits until the exporter serves a line.
    fn wait(&self, line: &str) -> String {
        wait_for(line, || Some(self.text()).filter(|text| text.lines().any(|l| l == line)))
    }
}

#[test]
fn the_exporter_shows_sensors_models_and_streams_and_remembers_who_is_silent() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut fleet) = Fleet::start(folder.path()) else { return };
    let model = models::name();
    let labels = format!("group=\"edge\",model=\"{model}\"");
    let text =
        fleet.wait(&format!("spiked_fleet_sensor_model_refused_total{{{labels},reason=\"signature\",sensor=\"north\"}} 1"));
    for line in [
        "spiked_fleet_up 1".to_string(),
        r#"spiked_fleet_sensor_up{group="edge",sensor="north"} 1"#.into(),
        r#"spiked_fleet_sensor_permission_denied{group="edge",sensor="north"} 0"#.into(),
        format!("spiked_fleet_published_version{{{labels}}} 2"),
        format!("spiked_fleet_sensor_model_version{{{labels},sensor=\"north\"}} 1"),
        format!("spiked_fleet_sensor_model_wanted_version{{{labels},sensor=\"north\"}} 2"),
        format!("spiked_fleet_sensor_model_behind{{{labels},sensor=\"north\"}} 1"),
        r#"spiked_fleet_stream_limit_bytes{stream="SPIKED_EVENTS"} 536870912"#.into(),
        r#"spiked_fleet_stream_current_replicas{stream="SPIKED_EVENTS"} 1"#.into(),
        r#"spiked_fleet_jobs{state="waiting"} 0"#.into(),
        r#"spiked_fleet_sensor_spool_limit_bytes{group="edge",sensor="north"} 268435456"#.into(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let sd = json!([{ "targets": [fleet.metrics.to_string()], "labels": { "sensor": "north", "group": "edge" } }]);
    assert_eq!(get_json(fleet.address, "/sd"), Some(sd.clone()));
    assert_eq!(get(fleet.address, "/readyz").as_deref(), Some("ok\n"));

    assert_eq!(fleet.north.stop(), Some(0), "{}", fleet.north.log());
    remove_report(&fleet.operator, "north");
    let text = fleet.wait(r#"spiked_fleet_sensor_up{group="edge",sensor="north"} 0"#);
    assert!(text.contains("spiked_fleet_sensor_last_report_timestamp_seconds{group=\"edge\",sensor=\"north\"}"), "{text}");
    assert_eq!(get_json(fleet.address, "/sd"), Some(sd));

    // One that starts now has not seen its report, but its events.
    let users = fs::read_to_string(folder.path().join("users.conf")).expect("settings");
    let (_other, address) = exporter(&url_of(&fleet.server, &users, "soc"));
    wait_until("another exporter knows the sensor", || {
        get(address, "/metrics").is_some_and(|text| text.contains(r#"spiked_fleet_sensor_up{sensor="north",group=""} 0"#))
    });

    fleet.server.kill();
    let text = fleet.wait("spiked_fleet_up 0");
    assert!(!text.contains("spiked_fleet_sensor_up"), "{text}");
    assert_ne!(get(fleet.address, "/readyz").as_deref(), Some("ok\n"));
    fleet.server.restart();
    fleet.wait("spiked_fleet_up 1");
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe {
        libc::kill(i32::try_from(fleet.exporter.0.id()).expect("a process number"), libc::SIGTERM);
    }
    assert_eq!(fleet.exporter.0.wait().expect("a child").code(), Some(0));
}

#[test]
fn a_sensor_that_may_not_publish_its_events_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some((server, users)) = server_with_users(folder.path(), &["--sensor", "north", "--reader", "soc"]) else { return };
    let operator = url_of(&server, &users, "operator");
    assert!(init(&operator, &[]).status.success());
    // A server that takes the reports of north, not its events.
    drop(server);
    let less = users.replacen(r#""spiked.events.north.*", "#, "", 1);
    assert_ne!(less, users);
    let (_, less_users) = less.split_once("authorization").expect("users");
    let server = Server::alone(folder.path(), &format!("authorization{less_users}")).expect("it was there");
    let file = settings(folder.path(), &url_of(&server, &users, "north"), &key().pk.to_base64(), 9184);
    let _north = Running::start(&file, |_| {});
    let (_exporter, address) = exporter(&url_of(&server, &users, "soc"));
    wait_until("the exporter shows it", || {
        let line = r#"spiked_fleet_sensor_permission_denied{sensor="north",group="edge"} 1"#;
        get(address, "/metrics").is_some_and(|text| text.lines().any(|l| l == line))
    });
}

#[test]
fn a_real_prometheus_finds_the_sensor_and_answers_every_query_of_the_dashboard() {
    if !(common::installed("prometheus", "prometheus") && common::installed("promtool", "prometheus")) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let Some(fleet) = Fleet::start(folder.path()) else { return };
    let (_prometheus, address) = prometheus(folder.path(), fleet.address);
    wait_until("it has scraped exporter and sensor several times", || {
        let scraped = |job: &str| {
            get_json(address, "/api/v1/targets").is_some_and(|t| {
                let targets = t["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
                targets.iter().any(|target| target["labels"]["job"] == job && target["health"] == "up")
            })
        };
        scraped("spiked-fleet")
            && scraped("spiked")
            && !query(address, r#"count_over_time(up{job="spiked", instance="north", group="edge"}[1m]) >= 6"#).is_empty()
    });
    wait_until("the exporter has read twice", || {
        let read = "count_over_time(spiked_fleet_sensor_model_refused_total[1m]) >= 12";
        !query(address, read).is_empty()
    });
    let empty: Vec<String> = queries("grafana/fleet.json", "$group")
        .into_iter()
        .filter(|(_, e)| query(address, e).is_empty())
        .map(|(panel, e)| format!("{panel}: {e}"))
        .collect();
    assert!(empty.is_empty(), "queries of the dashboard that return nothing:\n{}", empty.join("\n"));

    // A query that is normally empty would also be empty if it named a metric that does not exist.
    let text = fleet.text();
    let known: BTreeSet<&str> = text.lines().filter_map(|l| l.split(['{', ' ']).next()).collect();
    let rules = deploy("prometheus/fleet.rules.yml");
    let expressions = rules.lines().filter(|line| !line.contains("summary") && !line.contains("description"));
    let words = expressions.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("spiked_")).collect();
    assert!(named.len() >= 10, "{named:?}");
    assert!(named.iter().all(|name| known.contains(name)), "{named:?} of {known:?}");
    let document = deploy("README.md");
    for name in known.iter().filter(|name| name.starts_with("spiked_fleet")) {
        assert!(document.contains(&format!("`{name}`")), "deploy/README.md does not describe {name}");
    }
    let groups = get_json(address, "/api/v1/rules").expect("rules");
    let of_group = |group: &Value| group["rules"].as_array().cloned().unwrap_or_default();
    let rules: Vec<Value> = groups["data"]["groups"].as_array().expect("groups").iter().flat_map(of_group).collect();
    let state = |name: &str| rules.iter().find(|rule| rule["name"] == name).map(|rule| rule["state"].clone());
    assert_eq!(state("SpikedFleetVersionBehind"), Some("pending".into()));
    assert_eq!(state("SpikedFleetSensorSilent"), Some("inactive".into()));
    assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
}
