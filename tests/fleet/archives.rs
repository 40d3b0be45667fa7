//! Tests of archives: each capture is read once, whatever becomes of the workers, and the result is that of one `spiked read`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::{PATIENCE, frames_of, pcap, spiked};
use super::servers::{Server, fleet, init};
use super::setup::{server_with_users, url_of};

/// Fixtures that captures are made of: named and unknown streams, scans, several protocols.
const FIXTURES: [&str; 8] = [
    "dns-1.pcap",
    "http-1.pcap",
    "redis-1.pcap",
    "ssh-2.pcap",
    "scan-1.pcap",
    "synflood-1.pcap",
    "gearman-1.pcap",
    "icmp-1.pcap",
];

/// Place of the second byte of the source and destination address in an Ethernet frame with IPv4.
const ADDRESSES: [usize; 2] = [27, 31];

/// Writes captures of hosts of their own into a folder; each has the frames of a fixture `repeats` times, with other addresses.
pub fn archive(folder: &Path, count: usize, repeats: u8) -> PathBuf {
    let archive = folder.join("archive");
    fs::create_dir_all(&archive).expect("a folder");
    let fixtures = FIXTURES.map(frames_of);
    for number in 0..count {
        let mut frames = Vec::new();
        for repeat in 0..repeats {
            let first = frames.len();
            frames.extend(fixtures[number % FIXTURES.len()].iter().cloned());
            for frame in frames[first..].iter_mut().filter(|frame| frame.len() > 34 && frame[12..14] == [8, 0]) {
                for at in ADDRESSES {
                    (frame[at], frame[at + 1]) = ((number / FIXTURES.len()) as u8, repeat);
                }
            }
        }
        fs::write(archive.join(format!("{number:05}.pcap")), pcap(1, &frames)).expect("written");
    }
    archive
}

/// Files that are no captures, by their names.
const POISON: [(&str, &[u8]); 3] =
    [("bad-text.pcap", b"not a capture at all\n"), ("bad-empty.pcap", b""), ("bad-magic.pcapng", &[0xff; 4096])];

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command of `spiked fleet` as a client.
fn run(url: &str, name: &str, command: &[&str]) -> Output {
    let (command, arguments) = command.split_first().expect("a command");
    fleet(&[&[command, "--server", url, "--name", name], arguments].concat())
}

/// What `spiked fleet jobs` reports.
pub fn jobs(url: &str, name: &str) -> Value {
    serde_json::from_slice(&run(url, name, &["jobs", "--json"]).stdout).expect("JSON")
}

pub fn failed(jobs: &Value) -> Vec<String> {
    let failed = jobs["failed"].as_array().expect("a list");
    failed.iter().map(|job| job["reason"].as_str().expect("a reason").to_string()).collect()
}

/// A worker as a process of its own; killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(url: &str, name: &str) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("spiked"));
        command.args(["fleet", "work", "--until-empty", "--server", url, "--name", name]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs"))
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a state").is_none()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn sorted(text: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = String::from_utf8_lossy(text).lines().map(String::from).collect();
    lines.sort();
    lines
}

/// Four workers read an archive with three poison files while one of them is killed again and again.
fn workers_are_killed(count: usize, interval: Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let url = server.url();
    assert!(init(&url, &[]).status.success());
    let archive = archive(folder.path(), count, 20);
    POISON.iter().for_each(|(name, bytes)| fs::write(archive.join(name), bytes).expect("written"));
    let archive = archive.to_str().expect("a path");
    let enqueue = || text(&run(&url, "operator", &["enqueue", archive]).stdout).replace(',', "");
    let all = count + POISON.len();
    assert!(enqueue().contains(&format!("{all} captures queued")));
    assert!(enqueue().contains(&format!("{all} wait or are in work already")));

    let begin = Instant::now();
    let mut workers: Vec<Worker> = (0..4).map(|n| Worker::start(&url, &format!("worker-{n}"))).collect();
    // The first soon, since a quick machine reads a small archive in half a second.
    let (mut kills, mut next) = (0, Instant::now() + interval / 4);
    while workers.iter_mut().any(Worker::is_running) {
        assert!(begin.elapsed() < 2 * PATIENCE, "{}", jobs(&url, "operator"));
        thread::sleep(Duration::from_millis(20));
        if Instant::now() >= next && workers.iter_mut().all(Worker::is_running) {
            workers[kills % 4] = Worker::start(&url, &format!("worker-{}", kills + 4));
            kills += 1;
            next = Instant::now() + interval;
        }
    }
    let progress = jobs(&url, "operator");
    println!(
        "{count} captures, 4 workers, {kills} killed, {} given out again: {:.1} s",
        progress["retried"],
        begin.elapsed().as_secs_f64()
    );
    assert!(kills > 0, "no worker was killed");
    assert_eq!((&progress["waiting"], &progress["in_work"]), (&0.into(), &0.into()), "{progress}");
    assert_eq!(progress["done"], count, "{progress}");
    let reasons = failed(&progress);
    assert_eq!(reasons.len(), POISON.len(), "{reasons:?}");
    assert!(POISON.iter().all(|(name, _)| reasons.iter().any(|reason| reason.contains(name))), "{reasons:?}");

    let read =
        |more: &[&str]| spiked().args(["read", "--each-file", "--quiet"]).args(more).arg(archive).output().expect("it runs");
    let (one, fleet) = (read(&[]), run(&url, "operator", &["results"]));
    assert_eq!(text(&fleet.stdout), text(&one.stdout));
    assert_eq!((fleet.status.code(), one.status.code()), (Some(1), Some(1)));
    let (one, fleet) = (read(&["--format", "jsonl"]), run(&url, "operator", &["results", "--events"]));
    assert!(one.stdout.len() > 100 * count, "few events");
    assert_eq!(sorted(&fleet.stdout), sorted(&one.stdout));
    let again = enqueue();
    assert!(again.contains("0 captures queued") && again.contains(&format!("{count} were read before")), "{again}");
}

#[test]
fn each_capture_is_counted_once_although_workers_are_killed() {
    workers_are_killed(200, Duration::from_millis(300));
}

#[test]
#[ignore = "takes a minute or more"]
fn a_thousand_captures_are_counted_once_although_workers_are_killed() {
    workers_are_killed(1000, Duration::from_millis(500));
}

#[test]
fn files_that_are_missing_or_changed_are_set_aside_with_their_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let url = server.url();
    assert!(init(&url, &[]).status.success());
    let archive = archive(folder.path(), 4, 1);
    let path = |number: usize| archive.join(format!("{number:05}.pcap"));
    let enqueue = || text(&run(&url, "operator", &["enqueue", archive.to_str().expect("a path")]).stdout);
    assert!(enqueue().contains("4 captures queued"));
    fs::remove_file(path(0)).expect("removed");
    fs::copy(path(3), path(1)).expect("copied");
    let work = || run(&url, "operator", &["work", "--until-empty", "--jobs", "2"]);
    assert_eq!(work().status.code(), Some(1));
    let reasons = failed(&jobs(&url, "operator"));
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("00000.pcap: can't open the capture"), "{reasons:?}");
    assert!(reasons[1].contains("00001.pcap: has changed since it was queued"), "{reasons:?}");
    // The changed file is another job, whose result takes the place of the failure.
    assert!(enqueue().contains("1 captures queued"));
    assert_eq!(work().status.code(), Some(0));
    let progress = jobs(&url, "operator");
    assert_eq!((&progress["done"], failed(&progress).len()), (&3.into(), 1), "{progress}");
    assert_eq!(work().status.code(), Some(3), "no job was left");
}

#[test]
fn options_and_formats_belong_to_a_batch() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let url = server.url();
    assert!(init(&url, &[]).status.success());
    let archive = archive(folder.path(), 3, 1).display().to_string();
    let options = ["--events", "streams", "--format", "csv", "--filter", "tcp"];
    assert!(run(&url, "operator", &[&["enqueue", &archive, "--"], &options[..]].concat()).status.success());
    assert!(run(&url, "operator", &["work", "--until-empty"]).status.success());
    let read = spiked()
        .args(["read", "--each-file", "--quiet", "--workers", "1"])
        .args(options)
        .arg(&archive)
        .output()
        .expect("it runs");
    assert_eq!(text(&run(&url, "operator", &["results", "--events"]).stdout), text(&read.stdout));
    assert!(run(&url, "operator", &["enqueue", &archive]).status.success());
    assert!(run(&url, "operator", &["work", "--until-empty"]).status.success());
    let several = run(&url, "operator", &["results"]);
    assert_eq!(several.status.code(), Some(2), "{several:?}");
    let batches = jobs(&url, "operator")["batches"].clone();
    assert_eq!(batches.as_array().map(Vec::len), Some(2), "{batches}");
    let batch = batches.as_array().expect("a list").iter().find(|batch| !batch["options"].to_string().contains("tcp"));
    let batch = batch.expect("the second batch")["batch"].as_str().expect("an id").to_string();
    let one = spiked().args(["read", "--each-file", "--quiet", &archive]).output().expect("it runs");
    assert_eq!(text(&run(&url, "operator", &["results", "--batch", &batch]).stdout), text(&one.stdout));
    for foreign in ["--write=x", "--interface=lo", "--workers=2", "--count=5", "--no-such-option"] {
        let refused = run(&url, "operator", &["enqueue", &archive, "--", foreign]);
        assert_eq!(refused.status.code(), Some(2), "{foreign}: {refused:?}");
    }
}

#[test]
fn roles_are_enough_for_archives() {
    let folder = tempfile::tempdir().expect("a folder");
    let roles = ["--reader", "soc", "--curator", "models", "--worker", "reading", "--sensor", "north"];
    let Some((server, settings)) = server_with_users(folder.path(), &roles) else { return };
    let url = |name: &str| url_of(&server, &settings, name);
    assert!(init(&url("operator"), &[]).status.success());
    let archive = archive(folder.path(), 2, 1).display().to_string();
    let as_role = |name: &str, command: &[&str]| run(&url(name), name, command);
    for (name, command) in [
        ("models", &["enqueue", &archive][..]),
        ("reading", &["work", "--until-empty"]),
        ("soc", &["jobs"]),
        ("soc", &["results", "--events"]),
        ("soc", &["results"]),
        ("models", &["enqueue", &archive]),
    ] {
        let output = as_role(name, command);
        assert!(output.status.success(), "{name} {command:?}: {output:?}");
    }
    for (name, command) in [
        ("north", &["enqueue", &archive][..]),
        ("soc", &["enqueue", &archive]),
        ("north", &["work", "--until-empty"]),
        ("models", &["work", "--until-empty"]),
        ("reading", &["results"]),
    ] {
        let output = as_role(name, command);
        assert_eq!(output.status.code(), Some(5), "{name} {command:?}: {output:?}");
        assert!(text(&output.stderr).contains("permission denied"), "{name} {command:?}: {output:?}");
    }
}
