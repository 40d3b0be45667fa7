//! Tests of shared learning: a class that one sensor learns is on another after its approval and not before; what is not good enough is
//! refused with its reason; no captured bytes leave a sensor.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use base64::Engine as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use minisign::KeyPair;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spiked::config::FleetConfig;
use spiked::fleet::connection::{Connection, runtime};
use spiked::fleet::parts::{pack, unpack};
use spiked::model::Model;

use super::common::running::Running;
use super::common::{fixture, json_lines, wait_for, wait_until};
use super::models::{key, name, signature, signed, wait_version};
use super::servers::{Server, fleet, init};
use super::setup::{server_with_users, url_of};

/// Time from the approval of a class until another sensor names it.
const GOAL: Duration = Duration::from_secs(5);
const ROLES: [&str; 10] =
    ["--sensor", "north", "--sensor", "south", "--curator", "models", "--curator", "second", "--reader", "soc"];

/// A server with users, its settings, a key, and version 1 of the model of the group "edge".
struct Group {
    folder: tempfile::TempDir,
    server: Server,
    users: String,
    key: KeyPair,
}

impl Group {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, users) = server_with_users(folder.path(), &ROLES)?;
        let group = Self { folder, server, users, key: key() };
        assert!(init(&group.url("operator"), &[]).status.success());
        let text = group.key.sk.to_box(None).expect("a key").to_string();
        fs::write(group.path("minisign.key"), text).expect("written");
        let file = signed(group.folder.path(), "one", &group.key);
        let arguments = ["publish", &file.display().to_string(), "--group", "edge", "--server", &group.url("models")];
        let output = fleet(&[&arguments[..], &["--name", "models"]].concat());
        assert!(output.status.success(), "{output:?}");
        Some(group)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, user: &str) -> String {
        url_of(&self.server, &self.users, user)
    }

    /// Settings of a sensor that replays captures and takes the group's model.
    fn settings(&self, sensor: &str, captures: &[&str], more: &str, teaches: &str) -> PathBuf {
        let folder = self.path(sensor);
        ["models", "learned"].iter().for_each(|name| fs::create_dir_all(folder.join(name)).expect("a folder"));
        let captures: Vec<PathBuf> = captures.iter().map(|capture| fixture("captures").join(capture)).collect();
        let text = format!(
            "[replay]\ncaptures = {captures:?}\nspeed = 10\nrepeat = 0\n\
             [[sinks]]\ntype = \"file\"\npath = {:?}\n[process]\nstatus_file = {:?}\n\
             [learning]\nfolder = {:?}\nevery_secs = 0.2\n{more}\
             [fleet]\nservers = [{:?}]\nsensor = {sensor:?}\ngroup = \"edge\"\nmodels = [{:?}]\nmodel_folder = {:?}\n\
             trusted_keys = [{:?}]\n{teaches}",
            folder.join("events.json"),
            folder.join("status"),
            folder.join("learned"),
            self.url(sensor),
            name(),
            folder.join("models"),
            self.key.pk.to_base64(),
        );
        let file = folder.join("spiked.toml");
        fs::write(&file, text).expect("written");
        file
    }

    fn curator(&self, user: &str, more: &[&str]) -> Curator {
        let log = self.path(&format!("{user}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_spiked"))
            .args(["fleet", "curate", "--group", "edge", "--server", &self.url(user), "--name", user, "--signing-key"])
            .arg(self.path("minisign.key"))
            .args(more)
            .stdout(fs::File::create(&log).expect("a file"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it starts");
        Curator { child, log }
    }

    /// What `spiked fleet parts` lists.
    fn parts(&self) -> Vec<Value> {
        let output = fleet(&["parts", "--json", "--server", &self.url("soc"), "--name", "soc"]);
        assert!(output.status.success(), "{output:?}");
        let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        list["parts"].as_array().expect("a list").clone()
    }

    /// Waits until the part of a sensor and class is in a state; returns it.
    fn wait_part(&self, sensor: &str, class: &str, state: &str) -> Value {
        wait_for(&format!("{class} of {sensor} is {state}: {:?}", self.path("models.log")), || {
            let is_meant = |part: &Value| part["sensor"] == sensor && part["class"] == class && part["state"] == state;
            self.parts().into_iter().find(is_meant)
        })
    }

    fn approve(&self, sensor: &str, class: &str) -> std::process::Output {
        fleet(&["approve", sensor, class, "--server", &self.url("models"), "--name", "models"])
    }

    /// Publishes the bytes of a model file as a part of a sensor.
    fn publish_part(&self, sensor: &str, class: &str, bytes: &[u8], accuracy: f64) {
        let figures = json!({"group": "edge", "model_checksum": "", "streams": 10, "held_back": 3, "accuracy": accuracy});
        let config = FleetConfig { servers: vec![self.url(sensor)], ..FleetConfig::default() };
        runtime().expect("a runtime").block_on(async {
            let connection = Connection::open(&config, sensor).await.expect("connected");
            let mut headers = HeaderMap::new();
            headers.insert("Spiked-Figures", figures.to_string());
            let context = jetstream::new(connection.client.clone());
            let subject = format!("spiked.parts.{sensor}.{}.{class}", name());
            context
                .publish_with_headers(subject, headers, pack(bytes).expect("packed").into())
                .await
                .expect("sent")
                .await
                .expect("stored");
        });
    }

    /// All messages of all streams: the subject with the headers, and the payload.
    fn messages(&self) -> Vec<(String, Vec<u8>)> {
        let config = FleetConfig { servers: vec![self.url("operator")], ..FleetConfig::default() };
        runtime().expect("a runtime").block_on(async {
            let connection = Connection::open(&config, "operator").await.expect("connected");
            let context = jetstream::new(connection.client.clone());
            let names: Vec<String> = context.stream_names().try_collect().await.expect("names");
            assert!(names.len() >= 8, "{names:?}");
            let mut messages = Vec::new();
            for name in names {
                let mut stream = context.get_stream(name).await.expect("a stream");
                let state = stream.info().await.expect("its state").state.clone();
                for sequence in state.first_sequence.max(1)..=state.last_sequence {
                    match stream.get_raw_message(sequence).await {
                        Ok(message) => {
                            messages.push((format!("{} {:?}", message.subject, message.headers), message.payload.to_vec()));
                        }
                        Err(error) => assert!(matches!(error.kind(), RawMessageErrorKind::NoMessageFound), "{error}"),
                    }
                }
            }
            messages
        })
    }
}

/// `spiked fleet curate`; killed when dropped.
struct Curator {
    child: Child,
    log: PathBuf,
}

impl Curator {
    fn wait(&self, text: &str) {
        wait_until(&format!("{text} in {:?}", self.log), || fs::read_to_string(&self.log).unwrap_or_default().contains(text));
    }
}

impl Drop for Curator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TEACHER: &str = "[[teachers]]\nclass = \"gearman\"\nfilter = \"tcp port 4730\"\nrate = 1e6\n";
const TAUGHT: [&str; 5] = ["gearman-1.pcap", "http-1.pcap", "ssh-1.pcap", "dns-1.pcap", "tls-1.pcap"];

/// Number of events of a class that a sensor has written.
fn named(folder: &Path, class: &str) -> usize {
    let lines = fs::read(folder.join("events.json")).unwrap_or_default();
    // The last line may be incomplete.
    let whole = lines.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    json_lines(&lines[..whole]).iter().filter(|event| event["spiked"]["class"] == class).count()
}

/// Bytes that no message may contain.
struct Captured {
    /// Eight bytes of payload with at least four values.
    payload: HashSet<[u8; 8]>,
    /// Six bytes of payload with at least four values, as slot values are written in JSON.
    slots: Vec<String>,
    /// Addresses as they are in packets.
    addresses: HashSet<Vec<u8>>,
    /// Addresses as text.
    texts: HashSet<String>,
}

impl Captured {
    /// Of the TCP packets of a capture.
    fn of(capture: &Path) -> Self {
        let distinct = |bytes: &[u8]| bytes.iter().collect::<HashSet<_>>().len() >= 4;
        let (mut payload, mut slots) = (HashSet::new(), HashSet::new());
        let (mut addresses, mut texts) = (HashSet::new(), HashSet::new());
        let bytes = fs::read(capture).expect("a capture");
        assert_eq!(&bytes[..4], &[0xd4, 0xc3, 0xb2, 0xa1], "pcap");
        let mut rest = &bytes[24..];
        while let Some((head, after)) = rest.split_at_checked(16) {
            let length = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
            let frame = &after[..length];
            rest = &after[length..];
            assert_eq!(&frame[12..14], &[8, 0], "IPv4");
            addresses.extend([frame[..6].to_vec(), frame[6..12].to_vec(), frame[26..30].to_vec(), frame[30..34].to_vec()]);
            let text = |address: &[u8]| address.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
            texts.extend([text(&frame[26..30]), text(&frame[30..34])]);
            let tcp = 14 + usize::from(frame[14] & 15) * 4;
            let content = &frame[tcp + usize::from(frame[tcp + 12] >> 4) * 4..];
            payload.extend(content.windows(8).filter(|w| distinct(w)).map(|w| <[u8; 8]>::try_from(w).expect("eight bytes")));
            let first = &content[..content.len().min(8)];
            slots.extend(
                first.windows(6).filter(|w| distinct(w)).map(|w| w.iter().map(u8::to_string).collect::<Vec<_>>().join(",")),
            );
        }
        Self { payload, slots: slots.into_iter().collect(), addresses, texts }
    }

    /// What of it is in some bytes.
    fn found(&self, bytes: &[u8]) -> Option<String> {
        let window = bytes.windows(8).find(|w| self.payload.contains(*w)).map(|w| format!("payload {w:?}"));
        let mac = || bytes.windows(6).find(|w| self.addresses.contains(*w)).map(|w| format!("address {w:?}"));
        let text = String::from_utf8_lossy(bytes);
        let slots = || self.slots.iter().find(|slots| text.contains(*slots)).map(|slots| format!("slots {slots}"));
        let address = || self.texts.iter().find(|address| text.contains(*address)).map(|text| format!("address {text}"));
        window.or_else(mac).or_else(slots).or_else(address)
    }

    /// Whether an IPv4 address is in some bytes; in megabytes of weights it may be by chance.
    fn found_address(&self, bytes: &[u8]) -> bool {
        bytes.windows(4).any(|w| self.addresses.contains(w))
    }
}

#[test]
fn a_class_taught_on_one_sensor_is_named_on_another_after_its_approval() {
    let Some(group) = Group::start() else { return };
    let passing = Passing::listen(&group);
    let curator = group.curator("models", &[]);
    let south = group.settings("south", &["gearman-oddport.pcap"], "", "");
    let south = Running::start(&south, |_| {});
    let north = group.settings("north", &TAUGHT, TEACHER, "teaches = [\"gearman\"]\n");
    let north = Running::start(&north, |_| {});
    for daemon in [&north, &south] {
        daemon.wait("version 1 runs", |status| status["fleet"]["models"][0]["version"] == 1);
    }
    wait_until("north names it", || named(&group.path("north"), "gearman") > 0);
    let part = group.wait_part("north", "gearman", "candidate");
    assert!(part["figures"]["streams"].as_u64() > Some(0) && part["figures"]["accuracy"].as_f64() >= Some(0.8), "{part}");
    assert!(part["reference"]["others"].as_u64() > Some(1000), "{part}");
    assert!(part["votes"]["north"].is_object() && part["votes"]["south"].is_object(), "{part}");
    assert_eq!(no_captured_bytes(&group, &passing), 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(named(&group.path("south"), "gearman"), 0, "before its approval");
    let version = |daemon: &Running| daemon.status().expect("a status")["fleet"]["models"][0]["version"].clone();
    assert_eq!((version(&north), version(&south)), (1.into(), 1.into()));

    let begin = Instant::now();
    let output = group.approve("north", "gearman");
    assert!(output.status.success(), "{output:?}");
    let approved = Instant::now();
    wait_until("south names it", || named(&group.path("south"), "gearman") > 0);
    let (took, all) = (approved.elapsed(), begin.elapsed());
    println!(
        "{:.2} s from approval until another sensor names the class; {:.2} s with the command",
        took.as_secs_f64(),
        all.as_secs_f64()
    );
    assert!(took < GOAL, "{took:?}");
    assert!(version(&south).as_u64() > Some(1));
    curator.wait("published in version 2");

    assert_eq!(no_captured_bytes(&group, &passing), 1);
    steals(&group, &north);
}

/// A part that the reference passes and that steals the streams of a class that only one sensor has: its vote refuses the part.
fn steals(group: &Group, north: &Running) {
    let learned = group.messages().into_iter().find(|(head, _)| head.starts_with("spiked.parts.north."));
    let file = unpack(&learned.expect("a part").1).expect("gzip");
    let mut part = Model::from_bytes(&file, Path::new("part")).expect("a part");
    // The group's model has the class already, so that the reference finds no new claims; on north its own class is stronger.
    part.classes = vec!["thief".into()];
    part.decision.theta[0] = 1.8;
    let mut model = Model::built_in().expect("a model").with_part(&part).expect("it fits");
    // With the usual bound the margins of both classes would be the same.
    model.decision.clip.1 = 100.0;
    let (bytes, path) = (model.to_bytes(), group.path("one").join(format!("{}.safetensors", name())));
    fs::write(&path, &bytes).expect("written");
    fs::write(format!("{}.minisig", path.display()), signature(&bytes, &group.key)).expect("written");
    let arguments = ["publish", &path.display().to_string(), "--group", "edge", "--server", &group.url("models")];
    assert!(fleet(&[&arguments[..], &["--name", "models"]].concat()).status.success());
    wait_version(north, 3, "installed");
    // Its margin grows four times as fast, so that it is stronger than north's neuron, however often that has been trained by now.
    let scale = part.network.scale()[0];
    part.network = part.network.with_scale(4.0 * scale);
    part.decision.theta[0] = 4.0 * 2.4;
    group.publish_part("south", "thief", &part.to_bytes(), 1.0);
    let tried = wait_for("it is tried", || group.parts().into_iter().find(|part| part["class"] == "thief"));
    let reason = tried["reason"].as_str().unwrap_or_default();
    println!("{reason}; reference {}, votes {}", tried["reference"], tried["votes"]);
    assert!(tried["state"] == "refused" && tried["reference"].is_object(), "the reference passes it, the votes do not: {tried}");
    assert!(reason.starts_with("claims ") && reason.contains("streams of other classes on the sensor north"), "{tried}");
    let vote = &tried["votes"]["north"];
    assert!(vote["streams"].as_u64() >= Some(20) && vote["claimed"].as_u64() > Some(0), "{tried}");
    let output = fleet(&["parts", "--server", &group.url("soc"), "--name", "soc"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("vote of north: claims "), "{output:?}");
    assert_eq!(group.approve("south", "thief").status.code(), Some(4));
}

#[test]
fn a_part_that_too_few_sensors_have_tried_is_no_candidate() {
    let Some(group) = Group::start() else { return };
    let _curator = group.curator("models", &["--votes", "2", "--vote-seconds", "1"]);
    let south = group.settings("south", &TAUGHT, "", "");
    let south = Running::start(&south, |_| {});
    south.wait("it has recent streams", |status| status["fleet"]["models"][0]["recent_streams"].as_u64() >= Some(24));
    wait_until("it reports", || {
        let output = fleet(&["status", "--server", &group.url("soc"), "--name", "soc"]);
        String::from_utf8_lossy(&output.stdout).contains("sensor south")
    });
    group.publish_part("north", "dns", &part("dns", "dns", None), 1.0);
    let refused = group.wait_part("north", "dns", "refused");
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.starts_with("1 votes of sensors")), "{refused}");
    assert_eq!(refused["votes"]["south"]["claimed"], 0, "{refused}");
}

/// A message: its subject with the headers, and its payload.
type Text = (String, Vec<u8>);

/// Requests for votes and votes, which the servers do not store.
struct Passing {
    messages: Arc<Mutex<Vec<Text>>>,
}

impl Passing {
    /// Listens in a thread that ends with the process.
    fn listen(group: &Group) -> Self {
        let config = FleetConfig { servers: vec![group.url("operator")], ..FleetConfig::default() };
        let (messages, (ready, listening)) = (Arc::<Mutex<Vec<Text>>>::default(), mpsc::channel());
        let written = Arc::clone(&messages);
        std::thread::spawn(move || {
            runtime().expect("a runtime").block_on(async {
                let connection = Connection::open(&config, "operator").await.expect("connected");
                let trials = connection.client.subscribe("spiked.trials.>").await.expect("subscribed");
                let votes = connection.client.subscribe("spiked.votes.>").await.expect("subscribed");
                connection.client.flush().await.expect("sent");
                ready.send(()).expect("the test waits");
                let mut all = futures_util::stream::select(trials, votes);
                while let Some(message) = all.next().await {
                    written.lock().push((format!("{} {:?}", message.subject, message.headers), message.payload.to_vec()));
                }
            });
        });
        listening.recv().expect("listening");
        Self { messages }
    }

    /// Subjects and figures of the votes.
    fn votes(&self) -> Vec<(String, Value)> {
        let messages = self.messages.lock();
        let votes = messages.iter().filter(|(head, _)| head.starts_with("spiked.votes."));
        votes.map(|(head, payload)| (head.clone(), serde_json::from_slice(payload).expect("JSON"))).collect()
    }
}

/// Looks into every message for what the sensor has captured; returns the number of parts.
fn no_captured_bytes(group: &Group, passing: &Passing) -> usize {
    let captured = Captured::of(&fixture("captures/gearman-1.pcap"));
    let anchors = fs::read(group.path("north/learned/protocols.anchors.json")).expect("anchors");
    assert!(captured.found(&anchors).is_some(), "the search would find nothing");
    let mut parts = 0;
    for (head, vote) in passing.votes() {
        let figures = vote.as_object().expect("an object");
        assert!(figures.keys().eq(["streams", "claimed", "agreed"]) && figures.values().all(Value::is_u64), "{head}: {vote}");
    }
    let passing = passing.messages.lock().clone();
    assert!(passing.iter().any(|(head, _)| head.starts_with("spiked.trials.edge ")));
    for (head, payload) in group.messages().into_iter().chain(passing) {
        assert_eq!(captured.found(&payload), None, "{head}");
        assert_eq!(captured.found(head.as_bytes()), None, "{head}");
        let entry = serde_json::from_slice::<Value>(&payload).unwrap_or_default();
        let in_entry = entry["message"].as_str();
        let in_entry = in_entry.map(|text| base64::engine::general_purpose::STANDARD.decode(text).expect("base64"));
        let is_part = head.starts_with("spiked.parts.");
        parts += usize::from(is_part);
        let is_message = is_part || head.starts_with("spiked.trials.");
        if let Some(message) = in_entry.or_else(|| is_message.then(|| payload.clone())) {
            let file = unpack(&message).expect("gzip");
            assert!(captured.found(&file).is_none() && !captured.found_address(&file), "{head}");
            assert!(Model::from_bytes(&file, Path::new("part")).is_ok_and(|part| part.classes == ["gearman"]));
            println!("a part has {} bytes, its message {}", file.len(), message.len());
        }
    }
    parts
}

/// The neurons of a class of the built-in model as a part of another name.
fn part(class: &str, new: &str, theta: Option<f32>) -> Vec<u8> {
    let model = Model::built_in().expect("a model");
    let others: Vec<String> = model.classes.iter().filter(|c| *c != class).cloned().collect();
    let mut part = model.without_classes(&others).expect("a part");
    part.classes = vec![new.into()];
    part.decision.theta = theta.map_or(part.decision.theta, |theta| vec![theta]);
    part.to_bytes()
}

#[test]
fn parts_that_are_not_good_enough_are_refused_with_their_reason() {
    let Some(group) = Group::start() else { return };
    let _curator = group.curator("models", &[]);
    let refused = |sensor: &str, class: &str, reason: &str| {
        let part = group.wait_part(sensor, class, "refused");
        assert!(part["reason"].as_str().is_some_and(|text| text.contains(reason)), "{part}");
        let output = group.approve(sensor, class);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("not a candidate"), "{output:?}");
    };
    group.publish_part("north", "greedy", &part("dns", "greedy", Some(-100.0)), 1.0);
    refused("north", "greedy", "harmful: ");
    let mut corrupt = part("dns", "corrupt", None);
    let last = corrupt.len() - 1;
    corrupt[last] ^= 1;
    group.publish_part("north", "corrupt", &corrupt, 1.0);
    refused("north", "corrupt", "unreadable: ");
    group.publish_part("north", "misnamed", &part("dns", "dns", None), 1.0);
    refused("north", "misnamed", "its class is 'dns'");

    // A class that the model has, from two sensors: the better one stays a candidate.
    let same = part("dns", "dns", None);
    group.publish_part("north", "dns", &same, 0.9);
    group.wait_part("north", "dns", "candidate");
    group.publish_part("south", "dns", &same, 0.8);
    refused("south", "dns", "not better than the part of north");
    group.publish_part("south", "dns", &part("dns", "dns", Some(0.999)), 0.95);
    group.wait_part("south", "dns", "candidate");
    refused("north", "dns", "the part of south is better");
}

#[test]
fn one_process_curates_and_another_takes_over_when_it_dies() {
    let Some(group) = Group::start() else { return };
    let auto = ["--auto", "--min-accuracy", "0.9"];
    let first = group.curator("models", &auto);
    first.wait("curating the group edge");
    let second = group.curator("second", &auto);
    second.wait("waiting: models-");
    drop(first);
    let died = Instant::now();
    // Below the rule's accuracy, and above.
    group.publish_part("north", "dns", &part("dns", "dns", None), 0.8);
    second.wait("curating the group edge");
    println!("{:.1} s until another process curates", died.elapsed().as_secs_f64());
    assert_eq!(group.wait_part("north", "dns", "candidate")["version"], Value::Null);
    group.publish_part("south", "dns", &part("dns", "dns", None), 0.95);
    let part = group.wait_part("south", "dns", "published");
    assert!(part["version"].as_u64() >= Some(1), "{part}");
    second.wait("approved by rule");
}
