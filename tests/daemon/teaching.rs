//! Live teaching: a BPF filter teaches a class while the daemon runs, and the class is then found on any port.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::running::Running;
use crate::common::{json_lines, spiked, wait_until};
use serde_json::Value;
use spiked::capture::CaptureFile;
use spiked::model::Model;
use spiked::packet::Decoder;
use spiked::snn::ClassId;
use spiked::train::live::{AttemptOutcome, LearnedNeurons, Learner, LearnerSettings, LearningTask, named as given};
use spiked::train::{Corpus, LabelledStream};

/// Settings of a daemon that replays captures; `more` says what it is taught.
fn settings(folder: &Path, captures: &[&str], pace: &str, more: &str) -> PathBuf {
    let captures: Vec<String> = captures.iter().map(|c| format!("\"fixtures/captures/{c}\"")).collect();
    let (captures, place) = (captures.join(", "), folder.display());
    let text = format!(
        r#"
[replay]
captures = [{captures}]
{pace}
[[sinks]]
type = "file"
path = "{place}/events.json"
[process]
status_file = "{place}/status"
[learning]
folder = "{place}/learned"
every_secs = 0.2
{more}"#
    );
    let file = folder.join("spiked.toml");
    fs::write(&file, text).unwrap();
    fs::create_dir_all(folder.join("learned")).unwrap();
    file
}

/// Redis is taught by its port.
const REDIS: &str = "[[teachers]]\nclass = \"redis\"\nfilter = \"tcp port 6379\"\nrate = 1e6\n";

#[test]
fn what_a_port_teaches_is_found_on_another_port_and_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The shipped model does not know Redis; the port on which it is to be found is none that the filter names.
    let captures = ["redis-1.pcap", "http-1.pcap", "ssh-1.pcap", "dns-1.pcap", "tls-1.pcap", "redis-oddport.pcap"];
    let daemon = Running::start(&settings(folder, &captures, "speed = 10\nrepeat = 0", REDIS), |_| {});
    let found = |port: u64| {
        let lines = fs::read(folder.join("events.json")).unwrap_or_default();
        // The last line may not be whole yet.
        let whole = lines.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        json_lines(&lines[..whole]).iter().any(|e| e["spiked"]["class"] == "redis" && (e["dest_port"] == port) == (port == 6379))
    };
    wait_until("Redis on another port among the events", || found(0));
    let part = folder.join("learned/protocols.safetensors");
    wait_until("a file of what was learned", || part.exists());
    // SIGKILL.
    drop(daemon);

    // The file is a model of the taught class, whole after a kill -9; another daemon knows it from its first packet.
    let shown = spiked().arg("model").arg("show").arg(&part).output().unwrap();
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("redis"));
    fs::remove_file(folder.join("events.json")).unwrap();
    let frozen = settings(folder, &["redis-oddport.pcap"], "speed = 10\nrepeat = 1", &format!("{REDIS}freeze = true\n"));
    spiked().args(["run", "--set", "metrics.enabled=false", "--config"]).arg(frozen).assert().success();
    assert!(found(0), "it does not know what was learned before it started");
}

/// A class's task.
fn task<'a>(status: &'a Value, class: &str) -> Option<&'a Value> {
    status["learning"]["lessons"].as_array()?.iter().find(|l| l["class"] == class)
}

#[test]
fn a_reload_freezes_a_lesson_thaws_it_and_dismisses_the_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let captures = ["redis-1.pcap", "http-1.pcap", "dns-1.pcap"];
    let with = |more: &str| settings(folder.path(), &captures, "speed = 20\nrepeat = 0", more);
    let mut daemon = Running::start(&with(&format!("{REDIS}freeze = true\n")), |_| {});
    let streams = |s: &Value, what: &str| task(s, "redis").map_or(0, |l| l["streams"][what].as_u64().unwrap_or(0));
    let frozen = daemon.wait("streams are heard and not learned", |s| streams(s, "frozen") >= 20);
    assert_eq!((streams(&frozen, "shown"), streams(&frozen, "held_back")), (0, 0));
    assert!(task(&frozen, "redis").unwrap()["accuracy"] == 0.0, "nothing knows Redis: {frozen}");
    with(REDIS);
    daemon.signal(libc::SIGHUP);
    let taught = daemon.wait("it is learned", |s| task(s, "redis").is_some_and(|l| l["attempts"]["taken_over"].is_u64()));
    assert!(streams(&taught, "shown") > 0 && taught["learning"]["one_in"] == 1);
    with("");
    daemon.signal(libc::SIGHUP);
    let alone = daemon.wait("nobody teaches", |s| s["learning"]["one_in"] == 0 && s["reloads"]["succeeded"] == 2);
    let class = |s: &Value| s["models"][0]["classes"].as_u64().unwrap();
    assert_eq!(class(&alone), class(&frozen) + 1, "what was learned stays");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());

    let shown = |s: &Value| task(s, "redis").map_or(0, |l| l["shown"].as_u64().unwrap());
    let mut again = Running::start(&with(&format!("{REDIS}freeze = true\n")), |_| {});
    let remembered = again.wait("what was heard is there again", |s| shown(s) > 0);
    assert!(shown(&remembered) >= shown(&taught), "{remembered}");
    assert_eq!(again.stop(), Some(0), "{}", again.log());
}

#[test]
fn a_host_is_taught_by_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let teacher =
        |(class, address)| format!("[[teachers]]\nclass = \"{class}\"\nfilter = \"ether host {address}\"\nrate = 1e6\n");
    let teacher = [("client", "e2:9e:11:e9:40:65"), ("server", "ae:9b:60:08:c7:27")].map(teacher).concat();
    let file = settings(folder.path(), &["mixed.pcapng"], "speed = 2000\nrepeat = 0", &teacher);
    let models = format!("models = [\"config/models/devices.safetensors\"]\n{}", fs::read_to_string(&file).unwrap());
    fs::write(&file, models).unwrap();
    let mut daemon = Running::start(&file, |_| {});
    let taught = daemon.wait("the host is learned", |s| task(s, "client").is_some_and(|l| l["attempts"]["taken_over"].is_u64()));
    assert_eq!(task(&taught, "client").unwrap()["model"], "devices");
    daemon.wait("it is known before it is taught once more", |s| {
        task(s, "client").is_some_and(|l| l["accuracy"].as_f64() > Some(0.5))
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn streams_that_come_faster_than_they_are_heard_are_sampled_more_rarely() {
    let folder = tempfile::tempdir().unwrap();
    let captures = ["redis-1.pcap", "http-1.pcap", "dns-1.pcap", "ntp-1.pcap", "snmp-1.pcap"];
    let mut daemon = Running::start(&settings(folder.path(), &captures, "speed = 0\nrepeat = 0", REDIS), |_| {});
    daemon.wait("one stream in some is sampled", |s| s["learning"]["one_in"].as_u64() > Some(1));
    daemon.wait("it is learned all the same", |s| task(s, "redis").is_some_and(|l| l["attempts"]["taken_over"].is_u64()));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// The streams of a capture, as slot values.
fn streams(model: &Model, capture: &str) -> Vec<Vec<u16>> {
    let mut corpus = Corpus::new(model.key, model.layout.clone(), vec!["all".into()]);
    let mut source = CaptureFile::open(&common::fixture("captures").join(capture)).unwrap();
    corpus.read_capture(&mut source, 0, 16, &Decoder::default(), &mut |_| Some(ClassId::new(0))).unwrap();
    let slots = |s: &LabelledStream| corpus.volleys_of(s).flatten().copied().collect();
    corpus.streams.iter().map(slots).collect()
}

/// Share of a capture's streams that the model gives the class.
fn named(model: &Model, capture: &str, class: &str) -> f64 {
    let said: Vec<bool> = streams(model, capture).iter().map(|s| given(model, s) == Some(class)).collect();
    said.iter().filter(|right| **right).count() as f64 / said.len() as f64
}

const FOREIGN: [&str; 5] = ["http", "ssh", "dns", "tls", "snmp"];

/// A learner of Redis that has heard nothing yet.
fn novice(model: &Model, learned: LearnedNeurons) -> Learner {
    let task = LearningTask { class: "redis".into(), mask: vec!["ports".into()], eta: 0.5, freeze: false };
    let settings = LearnerSettings { volleys: 4096, min_accuracy: 0.8, seed: 1, threads: 1 };
    Learner::new(model, vec![task], settings, learned)
}

/// A learner of Redis that has heard what is not.
fn beginner(model: &Model, learned: LearnedNeurons) -> Learner {
    let mut learner = novice(model, learned);
    FOREIGN.iter().flat_map(|c| streams(model, &format!("{c}-1.pcap"))).for_each(|s| _ = learner.observe(model, s, None));
    learner
}

/// A learner that was taught Redis well, and the model with what it learned.
fn trained_learner() -> (Learner, Model) {
    let model = Model::built_in().unwrap();
    let mut learner = beginner(&model, LearnedNeurons::default());
    streams(&model, "redis-1.pcap").into_iter().for_each(|s| _ = learner.observe(&model, s, Some(0)));
    assert_eq!(learner.prequential("redis"), Some(0.0), "nothing knew Redis before");
    let (with, attempts) = learner.learn(&model);
    assert_eq!(attempts.iter().map(|a| a.outcome).collect::<Vec<_>>(), [AttemptOutcome::TakenOver]);
    (learner, with.unwrap())
}

#[test]
fn junk_on_the_taught_port_does_not_make_the_model_worse() {
    let (_, good) = trained_learner();
    for capture in ["redis-2.pcap", "redis-oddport.pcap"] {
        assert!(named(&good, capture, "redis") > 0.9, "{capture} is found");
    }
    let foreign = |model: &Model| FOREIGN.map(|class| named(model, &format!("{class}-2.pcap"), class));
    let before = foreign(&good);
    let mut random = 1u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u16
    };
    let noise: Vec<Vec<u16>> = (0..2000)
        .map(|n| {
            let mut like = streams(&good, "redis-1.pcap").swap_remove(n % 20);
            like.iter_mut().filter(|value| **value != spiked::encode::SILENT).for_each(|value| *value = byte());
            like
        })
        .collect();
    let web: Vec<Vec<u16>> = streams(&good, "http-1.pcap").into_iter().cycle().take(2000).collect();
    for (what, junk) in [("noise", noise), ("HTTP", web)] {
        let (mut learner, mut model) = trained_learner();
        for part in junk.chunks(500) {
            part.iter().for_each(|s| _ = learner.observe(&model, s.clone(), Some(0)));
            let (with, attempts) = learner.learn(&model);
            for attempt in attempts {
                let (outcome, mean) = (attempt.outcome, attempt.with.mean());
                eprintln!("{what}: {outcome:?}, {mean:.3} of the streams held back where it was {:?}", attempt.before);
                assert!(outcome != AttemptOutcome::TakenOver || mean >= 0.8, "nothing below the gate is taken over");
            }
            model = with.unwrap_or(model);
        }
        let at = model.classes.iter().position(|c| c == "redis").unwrap();
        assert_eq!((model.decision.theta[at], model.classes.len()), (1.0, good.classes.len()));
        for capture in ["redis-2.pcap", "redis-oddport.pcap"] {
            assert!(named(&model, capture, "redis") > 0.9, "{what} for Redis: {capture} is lost");
        }
        let after = foreign(&model);
        assert!(after.iter().zip(&before).all(|(a, b)| *a >= b - 0.05), "{what} for Redis: {before:?} became {after:?}");
    }
}

#[test]
fn what_was_heard_is_remembered_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (learner, model) = trained_learner();
    learner.save_replay(folder.path(), "site").unwrap();
    let mut restarted = novice(&model, LearnedNeurons::default());
    assert!(!restarted.load_replay(folder.path(), "another").unwrap(), "nothing was kept under that name");
    assert!(restarted.load_replay(folder.path(), "site").unwrap());
    assert_eq!(restarted.stored("redis"), learner.stored("redis"));
    assert!(restarted.stored("redis").0 > 0);
    assert_eq!(
        (restarted.prequential("redis"), restarted.prequential_mean()),
        (learner.prequential("redis"), learner.prequential_mean())
    );
    restarted.save_replay(folder.path(), "again").unwrap();
    let [first, second] =
        ["site", "again"].map(|name| fs::read(folder.path().join(format!("{name}.replay.safetensors"))).unwrap());
    assert_eq!(first, second);
    // It has nothing to observe any more before it learns.
    let bare = model.without_classes(&["redis".into()]).unwrap();
    assert!(restarted.is_ready());
    let attempt = restarted.learn(&bare).1.pop().expect("a try");
    assert_eq!((attempt.class.as_str(), attempt.outcome), ("redis", AttemptOutcome::TakenOver));

    // A file cut anywhere, or with any byte changed, is refused or read as something: it never ends the daemon, and never has more
    // than there is room for.
    for at in (0..first.len()).step_by(first.len() / 200 + 1) {
        fs::write(folder.path().join("cut.replay.safetensors"), &first[..at]).unwrap();
        assert!(novice(&model, LearnedNeurons::default()).load_replay(folder.path(), "cut").is_err());
        let mut changed = first.clone();
        changed[at] ^= 0x15;
        fs::write(folder.path().join("cut.replay.safetensors"), changed).unwrap();
        let mut learner = novice(&model, LearnedNeurons::default());
        let _ = learner.load_replay(folder.path(), "cut");
        assert!(learner.stored("redis").0 <= 4096);
    }
    // Another layout's volleys mean something else.
    let devices = Model::load(Path::new("config/models/devices.safetensors")).unwrap();
    assert!(!novice(&devices, LearnedNeurons::default()).load_replay(folder.path(), "site").unwrap());
}

#[test]
fn streams_that_guard_a_class_are_there_again_after_a_restart() {
    let (learner, good) = trained_learner();
    let folder = tempfile::tempdir().unwrap();
    learner.learned().save(folder.path(), "protocols").unwrap();
    // Another protocol that nobody knows, where Redis was: consistent, and no claim on anything.
    let good = good.without_classes(&["mqtt".into()]).unwrap();
    let outcome_of_other_traffic = |learned: LearnedNeurons| {
        let mut learner = beginner(&good, learned);
        streams(&good, "mqtt-1.pcap").into_iter().for_each(|s| _ = learner.observe(&good, s, Some(0)));
        learner.learn(&good).1.pop().expect("there is enough to learn from").outcome
    };
    let restored = LearnedNeurons::load(folder.path(), "protocols").unwrap().expect("it was saved");
    assert_eq!(outcome_of_other_traffic(restored), AttemptOutcome::Worse);
    let part = learner.learned().part().unwrap();
    let unguarded = LearnedNeurons::of(&part, std::collections::BTreeMap::new());
    assert_eq!(outcome_of_other_traffic(unguarded), AttemptOutcome::TakenOver, "the test would show nothing");
}
