//! Tests of the fleet's models: published, staged, promoted and rolled back; files that sensors must not run; servers that are away.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minisign::KeyPair;
use parking_lot::Mutex;
use serde_json::Value;
use spiked::config::FleetConfig;
use spiked::export::status::FleetStatus;
use spiked::fleet::connection::{Connection, runtime};
use spiked::fleet::models::{Buckets, SensorReport, sha256, stage};
use spiked::fleet::receiver::{Receiver, SensorHooks};
use spiked::model::Model;

use super::common::running::{Running, endless};
use super::common::{wait_for, wait_until};
use super::servers::{Server, fleet, init};

/// The built-in model with another remark, so that its file differs.
fn model(remark: &str) -> Vec<u8> {
    let mut model = Model::built_in().expect("a model");
    model.provenance.reference = vec![remark.into()];
    model.to_bytes()
}

/// A model whose neurons have the names of other classes, as one that was joined in a wrong order.
fn permuted(remark: &str) -> Vec<u8> {
    let mut model = Model::from_bytes(&model(remark), Path::new(remark)).expect("a model");
    model.classes.rotate_left(1);
    model.to_bytes()
}

/// A model that gives every stream the same class, as far as it can.
fn greedy(remark: &str) -> Vec<u8> {
    let mut model = Model::from_bytes(&model(remark), Path::new(remark)).expect("a model");
    model.decision.theta[0] = -100.0;
    model.to_bytes()
}

pub fn name() -> String {
    Model::built_in().expect("a model").name
}

pub fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key")
}

/// Writes a model file and its signature.
pub fn signed(folder: &Path, remark: &str, key: &KeyPair) -> PathBuf {
    let folder = folder.join(remark);
    fs::create_dir_all(&folder).expect("a folder");
    let (path, bytes) = (folder.join(format!("{}.safetensors", name())), model(remark));
    fs::write(&path, &bytes).expect("written");
    fs::write(folder.join(format!("{}.safetensors.minisig", name())), signature(&bytes, key)).expect("written");
    path
}

pub fn signature(bytes: &[u8], key: &KeyPair) -> String {
    minisign::sign(None, &key.sk, Cursor::new(bytes), None, None).expect("signed").to_string()
}

/// Settings of a daemon of the group "edge".
fn settings(folder: &Path, sensor: &str, url: &str, key: &KeyPair) -> PathBuf {
    let models = folder.join(sensor).join("models");
    fs::create_dir_all(&models).expect("a folder");
    let more = format!(
        "[fleet]\nservers = [{url:?}]\nsensor = {sensor:?}\ngroup = \"edge\"\nmodels = [{:?}]\nmodel_folder = {models:?}\n\
         trusted_keys = [{:?}]\n",
        name(),
        key.pk.to_base64()
    );
    endless(&folder.join(sensor), &more)
}

/// Runs a command of `spiked fleet` on the group "edge".
pub fn edge(command: &str, what: &str, url: &str, more: &[&str]) {
    let output = fleet(&[&[command, what, "--group", "edge", "--server", url], more].concat());
    assert!(output.status.success(), "{output:?}");
}

/// Waits until a daemon has a version of the model in a state.
pub fn wait_version(daemon: &Running, version: u64, state: &str) -> Value {
    daemon.wait(&format!("version {version} is {state}"), |status| {
        let model = &status["fleet"]["models"][0];
        model["version"] == version && model["state"] == state
    })
}

/// Checksum of the model that a daemon runs.
fn running(daemon: &Running) -> String {
    daemon.status().expect("a status")["models"][0]["checksum"].as_str().expect("a checksum").into()
}

fn checksum(remark: &str) -> String {
    Model::from_bytes(&model(remark), Path::new(remark)).expect("a model").checksum()
}

#[test]
fn models_are_staged_promoted_and_rolled_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let (url, key) = (server.url(), key());
    assert!(init(&url, &[]).status.success());
    let daemons = ["north", "south"].map(|sensor| Running::start(&settings(folder.path(), sensor, &url, &key), |_| {}));
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 0, "waiting")));
    let publish = |remark: &str, more: &[&str]| {
        edge("publish", &signed(folder.path(), remark, &key).display().to_string(), &url, more);
    };
    publish("one", &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 1, "installed")));
    assert!(daemons.iter().all(|daemon| running(daemon) == checksum("one")));

    let stages = ["north", "south"].map(|sensor| stage(sensor, 2));
    assert_ne!(stages[0], stages[1], "the sensors' names do not separate them");
    let first = usize::from(stages[1] < stages[0]);
    publish("two", &["--percent", &(stages[first] + 1).to_string()]);
    wait_version(&daemons[first], 2, "installed");
    assert_eq!(running(&daemons[first]), checksum("two"));
    wait_version(&daemons[1 - first], 1, "installed");
    assert_eq!(running(&daemons[1 - first]), checksum("one"));
    edge("promote", &name(), &url, &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 2, "installed")));

    let status = || fleet(&["status", "--json", "--server", &url]);
    let reported = wait_for("both report version 2", || {
        let value: Value = serde_json::from_slice(&status().stdout).ok()?;
        ["north", "south"].iter().all(|s| value["sensors"][s]["models"][0]["version"] == 2).then_some(value)
    });
    assert_eq!(reported["models"][format!("edge.{}", name())]["percent"], 100, "{reported}");
    assert_eq!(status().status.code(), Some(0));

    edge("rollback", &name(), &url, &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 1, "installed")));
    assert!(daemons.iter().all(|daemon| running(daemon) == checksum("one")));
    let refused = fleet(&["rollback", &name(), "--group", "edge", "--server", &url]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no version before"), "{refused:?}");
    publish("three", &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 3, "installed")));
}

/// Puts bytes in the object store under a SHA-256 that is not theirs, and a record that names it.
fn publish_corrupt(url: &str, key: &KeyPair) {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let context = async_nats::jetstream::new(connection.client.clone());
        let store = context.get_object_store("spiked-models").await.expect("a store");
        let bytes = model("corrupt");
        let half = &bytes[..bytes.len() / 2];
        store.put(sha256(&bytes).as_str(), &mut &half[..]).await.expect("stored");
        let buckets = Buckets::open(&connection).await.expect("buckets");
        buckets.publish("edge", &name(), &bytes, Some(signature(&bytes, key)), 100).await.expect("published");
    });
}

fn publish_bytes(url: &str, bytes: &[u8], signature: Option<String>) {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let buckets = Buckets::open(&connection).await.expect("buckets");
        buckets.publish("edge", &name(), bytes, signature, 100).await.expect("published");
    });
}

#[test]
fn wrong_files_are_refused_and_the_last_good_copy_serves_without_servers() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut server) = Server::alone(folder.path(), "") else { return };
    let (url, key, other) = (server.url(), key(), key());
    assert!(init(&url, &[]).status.success());
    let file = settings(folder.path(), "north", &url, &key);
    let mut daemon = Running::start(&file, |_| {});
    edge("publish", &signed(folder.path(), "one", &key).display().to_string(), &url, &[]);
    wait_version(&daemon, 1, "installed");

    let refused = |version: u64, reason: &str| {
        let text = format!("version {version} refused ({reason})");
        let trouble = |status: &Value| status["fleet"]["models"][0]["trouble"].as_str().unwrap_or_default().to_string();
        let status = daemon.wait(&text, |status| trouble(status).starts_with(&text));
        assert_eq!((&status["fleet"]["models"][0]["version"], running(&daemon)), (&Value::from(1), checksum("one")), "{status}");
        let metrics = daemon.get("/metrics").expect("metrics");
        let series = format!("spiked_fleet_model_refused_total{{model=\"{}\",reason=\"{reason}\"}} 1", name());
        assert!(metrics.contains(&series), "{metrics}");
        assert!(daemon.log().contains(&text), "{}", daemon.log());
    };
    edge("publish", &signed(folder.path(), "wrongly-signed", &other).display().to_string(), &url, &[]);
    refused(2, "signature");
    publish_bytes(&url, &model("unsigned"), None);
    refused(3, "unsigned");
    publish_corrupt(&url, &key);
    refused(4, "checksum");
    let garbage = b"not a model".as_slice();
    publish_bytes(&url, garbage, Some(signature(garbage, &key)));
    refused(5, "unreadable");
    let output = fleet(&["status", "--server", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused, behind: version 5 refused (unreadable)"), "{output:?}");

    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    server.kill();
    let daemon = Running::start(&file, |_| {});
    let status = daemon.wait("the servers are away", |status| status["fleet"]["trouble"].is_string());
    assert_eq!((&status["fleet"]["models"][0]["version"], running(&daemon)), (&Value::from(1), checksum("one")), "{status}");
    server.restart();
    daemon.wait("the servers are back", |status| status["fleet"]["connected"] == true);
}

/// Waits until a daemon has enough streams to try a model.
fn wait_streams(daemon: &Running) {
    daemon.wait("it has recent streams", |status| status["fleet"]["models"][0]["recent_streams"].as_u64() >= Some(20));
}

#[test]
fn a_harmful_model_is_refused_by_the_canary_of_a_sensor_that_has_seen_traffic() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let (url, key) = (server.url(), key());
    assert!(init(&url, &[]).status.success());
    let file = settings(folder.path(), "north", &url, &key);
    let mut daemon = Running::start(&file, |_| {});
    wait_streams(&daemon);
    let publish = |remark: &str| edge("publish", &signed(folder.path(), remark, &key).display().to_string(), &url, &[]);
    publish("one");
    let status = wait_version(&daemon, 1, "installed");
    let canary = |status: &Value| status["fleet"]["models"][0]["canary"].clone();
    assert_eq!((&canary(&status)["outcome"], &canary(&status)["lost"]), (&"passed".into(), &0.into()), "{status}");

    let refused = |daemon: &Running, version: u64| {
        let status = daemon.wait(&format!("version {version} is refused"), |status| {
            let model = &status["fleet"]["models"][0];
            model["state"] == "refused" && model["refused_version"] == version && model["canary"]["version"] == version
        });
        println!("{}", status["fleet"]["models"][0]["trouble"]);
        let (streams, lost) = (canary(&status)["streams"].as_u64(), canary(&status)["lost"].as_u64());
        assert!(streams >= Some(20) && lost > streams.map(|all| all / 10), "{status}");
        assert_eq!((&status["fleet"]["models"][0]["version"], running(daemon)), (&Value::from(1), checksum("one")), "{status}");
    };
    let bytes = permuted("permuted");
    publish_bytes(&url, &bytes, Some(signature(&bytes, &key)));
    refused(&daemon, 2);
    let text = "version 2 refused (canary): loses ";
    assert!(daemon.log().contains(text), "{}", daemon.log());
    let metrics = daemon.get("/metrics").expect("metrics");
    let series = format!("spiked_fleet_model_refused_total{{model=\"{}\",reason=\"canary\"}} 1", name());
    assert!(metrics.contains(&series) && metrics.contains("spiked_fleet_canary_lost_streams"), "{metrics}");
    let output = wait_for("the refusal is reported", || {
        let output = fleet(&["status", "--server", &url]);
        String::from_utf8_lossy(&output.stdout).contains(text).then_some(output)
    });
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && report.contains("canary of version 2: refused, "), "{report}");

    let bytes = greedy("greedy");
    publish_bytes(&url, &bytes, Some(signature(&bytes, &key)));
    refused(&daemon, 3);
    // The streams are gone after a restart, the refusal is not.
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let daemon = Running::start(&file, |_| {});
    daemon.wait("the servers answer", |status| status["fleet"]["connected"] == true);
    refused(&daemon, 3);
    wait_streams(&daemon);
    publish("four");
    let status = wait_version(&daemon, 4, "installed");
    assert_eq!((&canary(&status)["outcome"], running(&daemon)), (&"passed".into(), checksum("four")), "{status}");
    assert_eq!(status["fleet"]["models"][0]["refused_version"], Value::Null);
}

#[test]
fn a_version_that_a_sensor_refused_is_promoted_by_force_only_and_a_rollback_needs_no_canary() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let (url, key) = (server.url(), key());
    assert!(init(&url, &[]).status.success());
    let daemons = ["north", "south"].map(|sensor| Running::start(&settings(folder.path(), sensor, &url, &key), |_| {}));
    edge("publish", &signed(folder.path(), "one", &key).display().to_string(), &url, &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 1, "installed")));
    daemons.iter().for_each(wait_streams);
    let stages = ["north", "south"].map(|sensor| stage(sensor, 2));
    let first = usize::from(stages[1] < stages[0]);
    let path = signed(folder.path(), "permuted", &key);
    let bytes = permuted("permuted");
    fs::write(&path, &bytes).expect("written");
    fs::write(format!("{}.minisig", path.display()), signature(&bytes, &key)).expect("written");
    edge("publish", &path.display().to_string(), &url, &["--percent", &(stages[first] + 1).to_string()]);
    daemons[first].wait("it is refused", |status| status["fleet"]["models"][0]["refused_version"] == 2);
    let promote = |more: &[&str]| fleet(&[&["promote", &name(), "--group", "edge", "--server", &url], more].concat());
    wait_until("the refusal is reported", || {
        String::from_utf8_lossy(&fleet(&["status", "--server", &url]).stdout).contains("canary of version 2: refused")
    });
    let output = promote(&["--percent", "99"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let sensor = ["north", "south"][first];
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains(&format!("{sensor}: version 2 refused (canary): loses ")) && text.contains("--force"), "{text}");
    assert_eq!(running(&daemons[1 - first]), checksum("one"));
    // To fewer sensors it needs no force.
    assert!(promote(&["--percent", "0"]).status.success());
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 1, "installed")));
    assert!(promote(&["--force"]).status.success());
    daemons.iter().for_each(|daemon| {
        daemon.wait("it is refused", |status| status["fleet"]["models"][0]["refused_version"] == 2);
    });
    edge("rollback", &name(), &url, &[]);
    daemons.iter().for_each(|daemon| drop(wait_version(daemon, 1, "installed")));
    // A sensor without traffic takes the harmful version, and the one before again although that loses what the harmful one names.
    let quiet = settings(folder.path(), "quiet", &url, &key);
    let text = fs::read_to_string(&quiet).expect("settings");
    fs::write(&quiet, format!("{text}canary_min_streams = 1000\n")).expect("written");
    let quiet = Running::start(&quiet, |_| {});
    wait_version(&quiet, 1, "installed");
    edge("publish", &path.display().to_string(), &url, &[]);
    let status = wait_version(&quiet, 3, "installed");
    assert_eq!(status["fleet"]["models"][0]["canary"]["outcome"], "not_enough_streams", "{status}");
    edge("rollback", &name(), &url, &[]);
    wait_version(&quiet, 1, "installed");
    assert_eq!(running(&quiet), checksum("one"));
}

/// Signs bytes as the file of another model.
fn signed_as(bytes: &[u8], key: &KeyPair, file: &str) -> String {
    let comment = format!("timestamp:1700000000\tfile:{file}\thashed");
    minisign::sign(None, &key.sk, Cursor::new(bytes), Some(&comment), None).expect("signed").to_string()
}

/// Publishes a model, removes the first chunk of its file, and stores other bytes in its place if `replaced` is set.
fn publish_altered(url: &str, key: &KeyPair, remark: &str, replaced: bool) {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let context = async_nats::jetstream::new(connection.client.clone());
        let store = context.get_object_store("spiked-models").await.expect("a store");
        let bytes = model(remark);
        let info = store.put(sha256(&bytes).as_str(), &mut &bytes[..]).await.expect("stored");
        let subject = format!("$O.spiked-models.C.{}", info.nuid);
        let stream = context.get_stream("OBJ_spiked-models").await.expect("a stream");
        let chunk = stream.direct_get_next_for_subject(subject.as_str(), Some(1)).await.expect("a chunk");
        assert!(stream.delete_message(chunk.sequence).await.expect("deleted"));
        if replaced {
            let other = vec![0; chunk.payload.len()];
            context.publish(subject, other.into()).await.expect("sent").await.expect("stored");
        }
        let buckets = Buckets::open(&connection).await.expect("buckets");
        buckets.publish("edge", &name(), &bytes, Some(signature(&bytes, key)), 100).await.expect("published");
    });
}

/// Stores what is not a record as the record of the model.
fn spoil_record(url: &str) {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let context = async_nats::jetstream::new(connection.client.clone());
        let store = context.get_key_value("spiked-fleet").await.expect("a bucket");
        store.put(format!("model.edge.{}", name()), "not a record".into()).await.expect("stored");
    });
}

#[test]
fn altered_objects_records_and_copies_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut server) = Server::alone(folder.path(), "") else { return };
    let (url, key) = (server.url(), key());
    assert!(init(&url, &[]).status.success());
    let file = settings(folder.path(), "north", &url, &key);
    let mut daemon = Running::start(&file, |_| {});
    let publish = |remark: &str| edge("publish", &signed(folder.path(), remark, &key).display().to_string(), &url, &[]);
    publish("one");
    wait_version(&daemon, 1, "installed");
    let refused = |text: &str| {
        let trouble = |status: &Value| status["fleet"]["models"][0]["trouble"].as_str().unwrap_or_default().to_string();
        let status = daemon.wait(text, |status| trouble(status).contains(text));
        assert_eq!((&status["fleet"]["connected"], running(&daemon)), (&Value::from(true), checksum("one")), "{status}");
    };
    publish_altered(&url, &key, "lacks-a-chunk", false);
    refused("version 2 refused (missing)");
    publish_altered(&url, &key, "altered", true);
    refused("version 3 refused (checksum)");
    let other = model("of-another-name");
    publish_bytes(&url, &other, Some(signed_as(&other, &key, "other.safetensors")));
    refused("version 4 refused (signature): the signature is for the file other.safetensors");
    spoil_record(&url);
    refused("not a valid record");
    let output = fleet(&["status", "--server", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("not a valid entry"), "{output:?}");
    publish("two");
    let version = daemon.wait("the next version runs", |status| status["fleet"]["models"][0]["state"] == "installed");
    assert!(version["fleet"]["models"][0]["version"].as_u64() > Some(4), "{version}");
    assert_eq!(running(&daemon), checksum("two"));

    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    server.kill();
    // A valid model, but not the one that was signed.
    let copy = folder.path().join("north/models").join(format!("{}.safetensors", name()));
    fs::write(&copy, model("put-there")).expect("written");
    let daemon = Running::start(&file, |_| {});
    let status = daemon.wait("the servers are away", |status| status["fleet"]["trouble"].is_string());
    assert_eq!(status["fleet"]["models"][0]["version"], 0, "{status}");
    assert_ne!(running(&daemon), checksum("put-there"));
    assert!(daemon.log().contains("last good copy is not used"), "{}", daemon.log());
}

#[test]
fn fifty_sensors_have_a_model_within_seconds() {
    const SENSORS: usize = 50;
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let (url, key) = (server.url(), key());
    assert!(init(&url, &[]).status.success());
    let statuses: Vec<Arc<Mutex<FleetStatus>>> = (0..SENSORS).map(|_| Arc::default()).collect();
    let start = |(number, status): (usize, &Arc<Mutex<FleetStatus>>)| {
        let models = folder.path().join(format!("models-{number}"));
        fs::create_dir_all(&models).expect("a folder");
        let config = FleetConfig {
            servers: vec![url.clone()],
            sensor: format!("sensor-{number}"),
            group: "edge".into(),
            models: vec![name()],
            model_folder: Some(models),
            trusted_keys: vec![key.pk.to_base64()],
            ..FleetConfig::default()
        };
        let hooks = SensorHooks {
            reload: Box::new(|| Ok(())),
            running: Box::new(|_| None),
            with_learned: Box::new(|model| Some(model.clone())),
            streams: Box::new(|_| Vec::new()),
            report: Box::new(SensorReport::default),
        };
        Receiver::start(&config, hooks, Arc::clone(status)).expect("started")
    };
    let receivers: Vec<Receiver> = statuses.iter().enumerate().map(start).collect();
    wait_until("all are connected", || statuses.iter().all(|status| status.lock().connected));
    let bytes = model("one");
    let signature = signature(&bytes, &key);
    let config = FleetConfig { servers: vec![url.clone()], ..FleetConfig::default() };
    let (begin, end) = runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let buckets = Buckets::open(&connection).await.expect("buckets");
        let context = async_nats::jetstream::new(connection.client.clone());
        let reports = context.get_key_value("spiked-status").await.expect("a bucket");
        let begin = Instant::now();
        buckets.publish("edge", &name(), &bytes, Some(signature), 100).await.expect("published");
        for number in 0..SENSORS {
            loop {
                let report = reports.get(format!("sensor-{number}")).await.expect("read").expect("a report");
                let report: SensorReport = serde_json::from_slice(&report).expect("JSON");
                if report.models[0].version == 1 {
                    break;
                }
                assert!(begin.elapsed() < Duration::from_secs(60), "{report:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        (begin, Instant::now())
    });
    println!(
        "{:.2} s from publishing {} bytes until {SENSORS} sensors have reported it",
        (end - begin).as_secs_f64(),
        bytes.len()
    );
    drop(receivers);
}
