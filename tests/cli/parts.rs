//! Tests of models as parts: retraining one neuron does not change the others, and joined parts are calibrated by a reference.

use std::path::{Path, PathBuf};

use crate::common::{fixture, spiked};
use predicates::prelude::*;
use predicates::str::contains;
use spiked::model::Model;
use spiked::snn::ClassId;

/// The labels of the fixtures for which `admit` returns true, as a file in `folder`.
fn labels(folder: &Path, name: &str, admit: impl Fn(&str) -> bool) -> PathBuf {
    let text = std::fs::read_to_string(fixture("labels.csv")).unwrap();
    let kept: Vec<&str> = text.lines().enumerate().filter(|(i, line)| *i == 0 || admit(line)).map(|(_, line)| line).collect();
    let path = folder.join(name);
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    path
}

fn on(command: &[&str], labels: &Path) -> assert_cmd::Command {
    let mut call = spiked();
    call.args(command).arg("--labels").arg(labels).args(["--captures", "fixtures", "--quiet"]);
    call
}

/// The weights of one neuron, and their scale.
fn neuron(model: &Model, class: ClassId) -> (Vec<i8>, f32) {
    let neuron = model.decision.assignments.first_of(class);
    let weights = (0..model.network.inputs()).map(|i| model.network.weight(i, neuron)).collect();
    (weights, model.network.scale()[neuron.index()])
}

fn ordinary(line: &str) -> bool {
    !["scan", "synflood"].iter().any(|flood| line.ends_with(flood))
}

#[test]
fn retraining_a_neuron_changes_no_other_and_gives_the_neuron_of_full_training() {
    let folder = tempfile::tempdir().unwrap();
    let first = labels(folder.path(), "first.csv", |line| ordinary(line) && line.contains("-1.pcap"));
    let [whole, other, again] = ["whole", "other", "again"].map(|n| folder.path().join(n));
    on(&["train", "--out", whole.to_str().unwrap()], &first).assert().code(0);
    let retrain = |from: &Path, to: &Path, more: &[&str]| {
        let mut call = on(&["model", "retrain", from.to_str().unwrap(), "ssh", "--out", to.to_str().unwrap()], &first);
        call.args(more).assert().code(0).stdout(contains("ssh: trained"));
        Model::load(to).unwrap()
    };
    let original = Model::load(&whole).unwrap();
    let changed = retrain(&whole, &other, &["--seed", "7"]);
    let back = retrain(&other, &again, &[]);
    let ssh = original.place("ssh").unwrap();
    assert_ne!(neuron(&original, ssh), neuron(&changed, ssh), "another seed makes another neuron");
    for class in ClassId::first(original.classes.len()).filter(|&c| c != ssh) {
        assert_eq!(neuron(&original, class), neuron(&changed, class), "{}", original.classes[class.index()]);
        assert_eq!(original.decision.accept[class.index()], changed.decision.accept[class.index()]);
    }
    assert_eq!(original.network, back.network, "the same corpus and seed make the same neuron, alone or beside all others");
    assert_eq!(original.provenance, back.provenance);
    assert_eq!((&original.decision.theta, &original.decision.confidence), (&back.decision.theta, &back.decision.confidence));
}

#[test]
fn classes_that_can_not_be_retrained_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let dns = labels(folder.path(), "dns.csv", |line| line.contains("dns-1.pcap"));
    let model = folder.path().join("m.safetensors");
    std::fs::copy("config/models/protocols.safetensors", &model).unwrap();
    let was = std::fs::read(&model).unwrap();
    let retrain = |class: &str| on(&["model", "retrain", model.to_str().unwrap(), class], &dns).assert().code(2);
    retrain("nonsense").stderr(contains("has no class 'nonsense'"));
    retrain("smtp").stderr(contains("no labelled stream is of the class 'smtp'"));
    retrain("dns").stderr(contains("training needs streams of other classes too"));
    spiked().args(["model", "retrain"]).arg(&model).arg("dns").assert().code(2).stderr(contains("no labelled captures"));
    assert!(was == std::fs::read(&model).unwrap(), "the model is as it was");
}

#[test]
fn joined_parts_are_calibrated_by_a_reference() {
    let folder = tempfile::tempdir().unwrap();
    let few = ["dns", "redis"];
    let of = |line: &str| few.iter().any(|class| line.ends_with(class));
    let a = labels(folder.path(), "a.csv", |line| line.contains("-1.pcap") && of(line));
    let b = labels(folder.path(), "b.csv", |line| ordinary(line) && line.contains("-1.pcap") && !of(line));
    let reference = labels(folder.path(), "reference.csv", |line| ordinary(line) && line.contains("-2.pcap"));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    for (labels, name) in [(&a, "a"), (&b, "b")] {
        on(&["train", "--out", &path(name)], labels).assert().code(0);
    }
    // The harm check finds that a part of two classes takes streams of the other's.
    let join = |out: &str| ["model", "join", &path("a"), &path("b"), "--force", "--out", &path(out)].map(str::to_string);
    spiked().args(["model", "join", &path("a"), &path("b"), "--out", &path("plain")]).assert().code(2).stderr(contains("ntp"));
    spiked().args(join("plain")).assert().code(0);
    on(&join("sure").each_ref().map(String::as_str), &reference).assert().code(0).stdout(contains("reference streams"));
    on(&["model", "calibrate", &path("plain"), "--out", &path("again")], &reference).assert().code(0);
    let [plain, sure, again] = ["plain", "sure", "again"].map(|n| Model::load(Path::new(&path(n))).unwrap());
    assert_eq!((&plain.network, &plain.classes), (&sure.network, &sure.classes));
    assert_ne!(plain.decision.confidence, sure.decision.confidence);
    assert_eq!(sure.decision, again.decision, "joined on a reference, or calibrated on it afterwards");
    assert_eq!(sure.provenance.reference, ["reference.csv"]);
    spiked().args(["model", "show", &path("sure")]).assert().code(0).stdout(contains("reference.csv"));
}

/// The class of each stream of some captures; `None` for unknown.
fn classes(model: &str, captures: &[String]) -> Vec<Option<String>> {
    let output =
        spiked().args(["read", "--events", "streams", "--format", "jsonl", "--model", model]).args(captures).output().unwrap();
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let class = |event: serde_json::Value| event["spiked"]["class"].as_str().map(str::to_string);
    String::from_utf8(output.stdout).unwrap().lines().map(event).map(class).collect()
}

#[test]
fn parts_joined_on_unlabelled_captures_name_what_the_parts_name_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let few = ["http", "ntp", "redis", "ftp"];
    let of = |line: &str| few.iter().any(|class| line.ends_with(class));
    for (name, mine) in [("a", true), ("b", false)] {
        let labels = labels(folder.path(), name, |line| ordinary(line) && line.contains("-1.pcap") && of(line) == mine);
        on(&["train", "--out", &path(&format!("{name}.safetensors"))], &labels).assert().code(0);
    }
    let [a, b, joined, partly] = ["a", "b", "joined", "partly"].map(|n| path(&format!("{n}.safetensors")));
    let mut captures: Vec<String> = std::fs::read_dir(fixture("captures"))
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_string())
        .filter(|capture| ordinary(&capture.replace("-2.pcap", "")) && capture.ends_with("-2.pcap"))
        .collect();
    captures.sort();
    let join = |out: &str, captures: &[String]| {
        let mut call = spiked();
        // The harm check finds that the first part's dns takes streams of the second's classes.
        call.args(["model", "join", &a, &b, "--force", "--out", out, "--reference"]).args(captures);
        call.assert()
    };
    join(&joined, &captures).code(0).stdout(contains("reference streams"));
    let alone = [&a, &b].map(|part| classes(part, &captures));
    // Numbers of streams that only one part names: all, and those that the joined model names the same and differently.
    let together = |model: &str| {
        let (mut one, mut kept, mut other) = (0, 0, 0);
        for ((a, b), both) in alone[0].iter().zip(&alone[1]).zip(classes(model, &captures)) {
            if let (Some(class), None) | (None, Some(class)) = (a, b) {
                one += 1;
                kept += usize::from(both.as_ref() == Some(class));
                other += usize::from(both.as_ref().is_some_and(|c| c != class));
            }
        }
        (one, kept, other)
    };
    let plain = path("plain.safetensors");
    spiked().args(["model", "join", &a, &b, "--force", "--out", &plain]).assert().code(0);
    let ((_, averaged, _), (one, kept, other)) = (together(&plain), together(&joined));
    println!(
        "{one} streams are named by one part alone; {kept} so by both on the captures, {averaged} averaged; {other} otherwise"
    );
    assert!(kept >= averaged && kept == one && other == 0);

    let damaged = path("damaged.pcap");
    std::fs::write(&damaged, "not a capture").unwrap();
    join(&partly, &[damaged.clone(), captures[0].clone()]).code(1).stderr(contains("damaged.pcap"));
    join(&partly, &[damaged]).failure().stderr(contains("the reference has no packet streams"));
    let (cut, bytes) = (path("cut.pcap"), std::fs::read(&captures[0]).unwrap());
    std::fs::write(&cut, &bytes[..bytes.len() - 5]).unwrap();
    join(&partly, &[cut]).code(1).stderr(contains("captures are cut").and(contains("cut.pcap")));
}

#[test]
fn a_hyperactive_neuron_is_found_and_its_threshold_raised() {
    let folder = tempfile::tempdir().unwrap();
    let first = labels(folder.path(), "first.csv", |line| ordinary(line) && line.contains("-1.pcap"));
    let second = labels(folder.path(), "second.csv", |line| ordinary(line) && line.contains("-2.pcap"));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    on(&["train", "--out", &path("sound")], &first).assert().code(0);
    let mut model = Model::load(Path::new(&path("sound"))).unwrap();
    let redis = model.place("redis").unwrap();
    model.decision.theta[redis.index()] = -6.0;
    // Wide bounds: otherwise the packets of other classes reach the bound as well, and the neuron does not lead.
    model.decision.clip.1 = 5.0;
    model.save(Path::new(&path("loud"))).unwrap();
    let printed = contains("redis: hyperactive, claims").and(contains("threshold -6.00 raised to"));
    on(&["model", "calibrate", &path("loud"), "--out", &path("quiet")], &second).assert().code(0).stdout(printed);
    on(&["model", "calibrate", &path("sound"), "--out", &path("same")], &second)
        .assert()
        .code(0)
        .stdout(contains("hyperactive").not());
    let accuracy = |name: &str| {
        let printed = on(&["eval", "--json", "--model", &path(name)], &second).assert().code(0);
        serde_json::from_slice::<serde_json::Value>(&printed.get_output().stdout).unwrap()["accuracy"].as_f64().unwrap()
    };
    let [sound, loud, quiet] = ["sound", "loud", "quiet"].map(accuracy);
    // A threshold is raised until the neuron claims no more streams of other classes than of its own.
    let labels = std::fs::read_to_string(&second).unwrap();
    let own = labels.lines().filter(|line| line.ends_with(",redis")).count() as f64 / (labels.lines().count() - 1) as f64;
    assert!(loud < 0.5 && quiet >= sound - own, "{sound}, loud {loud}, quieted {quiet}, {own} of the streams are of its class");
}

#[test]
fn the_name_of_a_built_in_model_is_no_file_to_write_and_a_folder_does_not_hide_it() {
    let folder = tempfile::tempdir().unwrap();
    let labels = labels(folder.path(), "labels.csv", |line| line.contains("dns-2.pcap"));
    for command in [&["model", "calibrate", "protocols"][..], &["model", "retrain", "protocols", "dns"]] {
        on(command, &labels).assert().code(2).stderr(contains("protocols is built in").and(contains("--out")));
    }
    std::fs::create_dir(folder.path().join("protocols")).unwrap();
    spiked().current_dir(folder.path()).args(["model", "show", "protocols"]).assert().code(0).stdout(contains("quic"));
}

#[test]
fn the_built_in_models_are_listed_with_what_they_classify() {
    let output = spiked().args(["model", "list"]).assert().code(0);
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |name: &str, classifies: &str| {
        let classes = Model::open(Path::new(name)).unwrap().classes.len().to_string();
        assert!(rows.contains(&vec![name, classifies, &classes]), "{name} is not in\n{text}");
    };
    row("protocols", "flows");
    row("devices", "hosts");
    row("behaviours", "flows");
    assert_eq!(rows.len(), 1 + Model::built_in_names().count());
}
