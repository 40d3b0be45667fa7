//! Tests of the sinks: lines are written whole, lines that can't be written are counted by reason, and offering a line never waits.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::tiny::Tiny;
use crate::common::{PATIENCE, wait_until};
use spiked::capture::Nanos;
use spiked::export::sink::{DropReason, Line, Severity, SinkHandle, Target};
use spiked::export::status;

fn line(number: u64) -> Arc<Line> {
    padded(number, 150)
}

/// A line of JSON with padding of `bytes` bytes.
fn padded(number: u64, bytes: usize) -> Arc<Line> {
    Arc::new(Line {
        text: format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(bytes)),
        timestamp: Nanos(1_700_000_000_123_456_789),
        severity: Severity::Warning,
        event: "alert",
        class: Some("ssh".into()),
    })
}

fn numbers(text: &[u8]) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "half a line: {:?}", String::from_utf8_lossy(&text[text.len() - 40..]));
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect(line)["number"].as_u64().unwrap();
    std::str::from_utf8(text).unwrap().lines().map(number).collect()
}

/// Deadline of closing a sink, after which unwritten lines are dropped: late enough for a busy machine to write all.
fn patient() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn dropped(status: &status::SinkStatus) -> u64 {
    status.dropped.values().sum()
}

#[test]
fn a_file_gets_every_line_and_is_reopened_after_logrotate() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("eve.json"), folder.path().join("eve.json.1"));
    let sink = SinkHandle::start("file", &Target::File(path.clone()), 100_000).unwrap();
    (0..10_000).for_each(|n| sink.offer(&line(n)));
    wait_until("the first lines", || sink.status().written == 10_000);
    fs::rename(&path, &moved).unwrap();
    sink.offer(&line(10_000));
    wait_until("the old file is written on", || sink.status().written == 10_001);
    sink.reopen();
    wait_until("the new file", || path.exists());
    sink.offer(&line(10_001));
    let status = sink.close(patient());
    assert_eq!((status.written, dropped(&status), status.queued), (10_002, 0, 0));
    assert_eq!(numbers(&fs::read(&path).unwrap()), [10_001]);
    assert_eq!(numbers(&fs::read(&moved).unwrap()), (0..10_001).collect::<Vec<_>>());
}

#[test]
fn a_file_that_logrotate_truncates_is_continued_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eve.json");
    let sink = SinkHandle::start("file", &Target::File(path.clone()), 100).unwrap();
    sink.offer(&line(1));
    wait_until("the line", || fs::metadata(&path).unwrap().len() > 0);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    sink.offer(&line(2));
    sink.close(patient());
    assert_eq!(numbers(&fs::read(&path).unwrap()), [2]);
}

#[test]
fn an_incomplete_line_at_the_end_is_completed_when_the_file_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eve.json");
    let after = |before: &str| {
        fs::write(&path, before).unwrap();
        let sink = SinkHandle::start("file", &Target::File(path.clone()), 100).unwrap();
        sink.offer(&Arc::new(Line { text: "{}".into(), ..(*line(0)).clone() }));
        sink.close(patient());
        fs::read_to_string(&path).unwrap()
    };
    assert_eq!(after(""), "{}\n");
    assert_eq!(after("{\"a\":1}\n"), "{\"a\":1}\n{}\n");
    assert_eq!(after("{\"a\":1}\n{\"b\":"), "{\"a\":1}\n{}\n", "half an event is cut off");
    assert_eq!(after("{\"b\":"), "{}\n");
    assert_eq!(after("{\"a\":1}\n{\"b\":2}"), "{\"a\":1}\n{\"b\":2}\n{}\n", "a whole one is completed");
    assert_eq!(after("not ours"), "not ours\n{}\n", "what is not ours is kept");
    let long = format!("{{\"long\":\"{}", "x".repeat(200_000));
    assert_eq!(after(&long), format!("{long}\n{{}}\n"));
}

#[test]
fn a_file_that_cannot_be_opened_is_reported_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| SinkHandle::start("file", &Target::File(path.into()), 1).err().expect("no such file").to_string();
    assert!(error(&folder.path().join("no/such/folder")).contains("no/such/folder: can't write events there: No such file"));
    assert!(error(Path::new("/dev/null")).contains("not a regular file"));
}

#[test]
fn a_full_disk_leaves_whole_lines_and_is_used_again_when_there_is_room() {
    let Some(tiny) = Tiny::mount(256 << 10) else { return };
    let path = tiny.path().join("eve.json");
    let ballast = tiny.path().join("ballast");
    fs::write(&ballast, vec![0; 128 << 10]).unwrap();
    let sink = SinkHandle::start("file", &Target::File(path.clone()), 1000).unwrap();
    for n in 0..1500 {
        sink.offer(&line(n));
        std::thread::sleep(Duration::from_micros(100));
    }
    wait_until("the error is reported", || sink.status().last_error.is_some());
    assert_eq!(sink.status().last_error.unwrap(), format!("{}: No space left on device (os error 28)", path.display()));
    let first = numbers(&fs::read(&path).unwrap());
    assert!(!first.is_empty() && first.len() < 1500);
    // More lines than the queue holds: drops, with their reason.
    (1500..4000).for_each(|n| sink.offer(&line(n)));
    let full = sink.status();
    assert!(full.dropped["disk_full"] > 0, "{full:?}");
    assert_eq!(full.written + dropped(&full) + full.queued, 4000);
    fs::remove_file(&ballast).unwrap();
    wait_until("the rest is written, until the disk is full again", || {
        let status = sink.status();
        status.written > full.written && status.last_error.is_some()
    });
    // What the disk has no room for is not waited for.
    let status = sink.close(Instant::now() + Duration::from_secs(1));
    let written = numbers(&fs::read(&path).unwrap());
    assert_eq!(written.len() as u64, status.written);
    assert!(written.is_sorted(), "in order");
    assert_eq!((status.written + dropped(&status), status.queued), (4000, 0));
    assert_eq!(dropped(&status), status.dropped["disk_full"]);
}

#[test]
fn a_reader_that_connects_late_and_reconnects_gets_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reader.sock");
    let sink = SinkHandle::start("unix", &Target::Socket(path.clone()), 1000).unwrap();
    // Without a reader the queue fills, and the other lines are counted as dropped.
    (0..500).for_each(|n| sink.offer(&line(n)));
    wait_until("the error is reported", || sink.status().last_error.is_some());
    (500..4000).for_each(|n| sink.offer(&line(n)));
    let before = sink.status();
    assert!(before.dropped["disconnected"] >= 1500 && before.written == 0, "{before:?}");
    assert_eq!(dropped(&before) + before.queued, 4000);
    // A reader connects, reads the queued lines, and disconnects.
    let listener = UnixListener::bind(&path).unwrap();
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    let mut kept = Vec::new();
    while (kept.len() as u64) < before.queued {
        let mut text = String::new();
        reader.read_line(&mut text).unwrap();
        kept.extend(numbers(text.as_bytes()));
    }
    assert_eq!(kept[..500], (0..500).collect::<Vec<_>>());
    drop(reader);
    drop(listener);
    fs::remove_file(&path).unwrap();
    sink.offer(&line(7000));
    wait_until("the error is reported again", || sink.status().last_error.is_some());
    // It reconnects and gets the line that it missed.
    let listener = UnixListener::bind(&path).unwrap();
    let mut reader = listener.accept().unwrap().0;
    sink.offer(&line(7001));
    wait_until("all is written", || sink.status().queued == 0);
    let status = sink.close(patient());
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert_eq!(numbers(&text), [7000, 7001]);
    assert_eq!(status.written + dropped(&status), 4002);
    assert_eq!(dropped(&status), status.dropped["disconnected"]);
}

#[test]
fn a_reader_that_stalls_costs_lines_beyond_the_queue_and_offering_never_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reader.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let sink = SinkHandle::start("unix", &Target::Socket(path), 500).unwrap();
    sink.offer(&line(0));
    let mut reader = listener.accept().unwrap().0;
    let mut offered = 1;
    // Slower than the thread, so that only the stalled reader fills the queue.
    while sink.status().last_error.is_none() {
        sink.offer(&padded(offered, 5000));
        offered += 1;
        std::thread::sleep(Duration::from_micros(500));
        assert!(offered < 20_000, "the reader does not read, and yet all goes on");
    }
    let began = Instant::now();
    for _ in 0..1000 {
        sink.offer(&line(offered));
        offered += 1;
    }
    // A guard against waiting, not a measurement: if each offer waited for the reader's 250 ms, these would take 250 s.
    assert!(began.elapsed() < PATIENCE, "offering 1000 lines took {:?}", began.elapsed());
    let stalled = sink.status();
    assert!(stalled.dropped["slow"] >= 500, "{stalled:?}");
    assert!(stalled.last_error.unwrap().ends_with("/reader.sock: the reader does not read, or reads too slowly"));
    let all = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    wait_until("the reader has all", || sink.status().queued == 0);
    let status = sink.close(patient());
    let read = numbers(&all.join().unwrap());
    assert_eq!(read.len() as u64, status.written);
    assert!(read.is_sorted());
    assert_eq!((status.written + dropped(&status), status.last_error), (offered, None));
}

#[test]
fn a_reader_killed_during_a_line_never_gets_an_incomplete_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reader.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let sink = SinkHandle::start("unix", &Target::Socket(path), 10_000).unwrap();
    let mut next = 0;
    for round in 0..20 {
        for _ in 0..300 {
            sink.offer(&padded(next, 700 + 37 * round));
            next += 1;
        }
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        // Reads some lines, up to the end of one, and drops the connection with unread lines.
        for _ in 0..=round * 3 {
            let mut text = Vec::new();
            reader.read_until(b'\n', &mut text).unwrap();
            numbers(&text);
        }
    }
    drop(listener);
    let status = sink.close(Instant::now());
    assert_eq!(status.written + dropped(&status), next);
}

#[test]
fn syslog_gets_rfc_5424_and_journald_gets_fields() {
    let folder = tempfile::tempdir().unwrap();
    let (log, journal) = (folder.path().join("log"), folder.path().join("journal"));
    let (logs, journals) = (UnixDatagram::bind(&log).unwrap(), UnixDatagram::bind(&journal).unwrap());
    let syslog = SinkHandle::start("syslog", &Target::Syslog { socket: log.clone(), facility: 16 }, 10).unwrap();
    let journald = SinkHandle::start("journald", &Target::Journald(journal), 10).unwrap();
    let one = Arc::new(Line { text: r#"{"number":1}"#.into(), ..(*line(1)).clone() });
    syslog.offer(&one);
    journald.offer(&one);
    let mut buffer = [0; 4096];
    let length = logs.recv(&mut buffer).unwrap();
    let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let parts: Vec<&str> = message.splitn(8, ' ').collect();
    // Facility local0 (16), severity warning (4): 16 * 8 + 4.
    assert_eq!(parts[..2], ["<132>1", "2023-11-14T22:13:20.123456Z"], "{message}");
    assert_eq!(parts[3..], ["spiked", &std::process::id().to_string(), "alert", "-", r#"{"number":1}"#], "{message}");
    let length = journals.recv(&mut buffer).unwrap();
    let entry = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let fields: Vec<&str> = entry.lines().collect();
    let want = ["MESSAGE={\"number\":1}", "PRIORITY=4", "SYSLOG_IDENTIFIER=spiked", "SPIKED_EVENT=alert", "SPIKED_CLASS=ssh"];
    assert_eq!(fields, want);
    // A line larger than a datagram is dropped; the next is sent.
    syslog.offer(&padded(2, 4 << 20));
    syslog.offer(&one);
    assert!(logs.recv(&mut buffer).unwrap() > 0);
    // A syslog daemon that restarts has a new socket at the same path.
    drop(logs);
    fs::remove_file(&log).unwrap();
    syslog.offer(&one);
    wait_until("the error is reported", || syslog.status().last_error.is_some());
    let logs = UnixDatagram::bind(&log).unwrap();
    assert!(logs.recv(&mut buffer).unwrap() > 0);
    let status = syslog.close(patient());
    assert_eq!((status.written, dropped(&status), status.dropped["other"]), (3, 1, 1));
    assert_eq!(journald.close(patient()).written, 1);
}

#[test]
fn every_reason_has_its_name() {
    let names: Vec<&str> = DropReason::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names, ["queue_full", "disk_full", "disconnected", "slow", "other"]);
}

// Sinks that are killed or block are tested in a process of their own: this test program, started again for one of these two tests.

#[test]
fn child_writes_until_killed() {
    let Some(path) = std::env::var_os("SPIKED_TEST_FILE") else { return };
    let sink = SinkHandle::start("file", &Target::File(path.into()), 1 << 16).unwrap();
    let pace = std::env::var("SPIKED_TEST_PACE").unwrap() == "slow";
    for number in 0.. {
        let one = (*padded(number, (number % 700) as usize)).clone();
        sink.offer(&Arc::new(one));
        if std::env::var("SPIKED_TEST_LAST").is_ok_and(|last| last == number.to_string()) {
            // Neither closed nor dropped: a kill leaves what is in the file now.
            std::thread::park();
        }
        if pace {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn child_writes_to_standard_output() {
    let Ok(count) = std::env::var("SPIKED_TEST_STDOUT") else { return };
    let sink = SinkHandle::start("stdout", &Target::Stdout, 1000).unwrap();
    for n in 0..count.parse().unwrap() {
        sink.offer(&line(n));
        std::thread::sleep(Duration::from_micros(50));
    }
    let status = sink.close(Instant::now() + Duration::from_millis(600));
    eprintln!("status {}", serde_json::to_string(&status).unwrap());
    std::process::exit(0);
}

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("sinks::{test}"), "--nocapture", "--quiet"]);
    command
}

/// Linux ends a killed process between two pages of a write, so a line may be cut; the next start completes it
/// (`an_incomplete_line_at_the_end_is_completed_when_the_file_is_opened`).
#[test]
fn after_a_kill_the_file_holds_all_that_was_written_and_only_its_last_line_may_be_cut() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let path = folder.path().join(format!("{round}.json"));
        let pace = if round % 2 == 0 { "slow" } else { "flat out" };
        let mut process = child("child_writes_until_killed")
            .env("SPIKED_TEST_FILE", &path)
            .env("SPIKED_TEST_PACE", pace)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the child writes", || fs::metadata(&path).is_ok_and(|m| m.len() > 0));
        std::thread::sleep(Duration::from_millis(100 + 37 * round));
        let before = fs::read(&path).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let text = fs::read(&path).unwrap();
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let written = numbers(&text[..whole]);
        if pace == "slow" {
            assert_eq!(written, (0..written.len() as u64).collect::<Vec<_>>());
        }
        assert!(text[whole..].is_empty() || text[whole..].starts_with(b"{"), "{}", String::from_utf8_lossy(&text[whole..]));
        assert!(text.starts_with(&before), "what was written before the kill is gone ({pace})");
        fs::remove_file(&path).unwrap();
    }
}

/// Lines are not buffered for later ones: a sink without further lines has written all of them.
#[test]
fn after_a_kill_the_file_holds_every_line_of_a_sink_that_had_been_idle() {
    let folder = tempfile::tempdir().unwrap();
    for last in [0, 1, 300] {
        let path = folder.path().join(format!("{last}.json"));
        let mut process = child("child_writes_until_killed")
            .env("SPIKED_TEST_FILE", &path)
            .env("SPIKED_TEST_PACE", "flat out")
            .env("SPIKED_TEST_LAST", last.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = || fs::read(&path).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count() as u64);
        wait_until("all lines are in the file", || lines() == last + 1);
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(numbers(&fs::read(&path).unwrap()), (0..=last).collect::<Vec<_>>());
    }
}

/// The status that the child printed.
fn status_of(stderr: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(stderr);
    let status = text.lines().find_map(|l| l.strip_prefix("status ")).unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(status).unwrap()
}

#[test]
fn standard_output_whose_reader_stalls_drops_with_reason_slow() {
    let mut process = child("child_writes_to_standard_output")
        .env("SPIKED_TEST_STDOUT", "4000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The child ends although its standard output is never read.
    wait_until("it ends", || process.try_wait().unwrap().is_some());
    let (mut text, mut printed) = (Vec::new(), Vec::new());
    process.stderr.take().unwrap().read_to_end(&mut printed).unwrap();
    process.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    let status = status_of(&printed);
    assert!(status["dropped"]["slow"].as_u64().unwrap() > 1000, "{status}");
    let json = text.iter().position(|&b| b == b'{').unwrap();
    numbers(&text[json..]);
}

#[test]
fn standard_output_whose_reader_is_gone_drops_and_reports_it() {
    let mut process = child("child_writes_to_standard_output")
        .env("SPIKED_TEST_STDOUT", "3000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reader ends after the first line, which the test program itself prints.
    BufReader::with_capacity(1, process.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let output = process.wait_with_output().unwrap();
    let status = status_of(&output.stderr);
    let (written, gone) = (status["written"].as_u64().unwrap(), status["dropped"]["disconnected"].as_u64().unwrap());
    assert!(gone > 1000 && written + gone == 3000, "{status}");
}

#[test]
fn standard_output_to_a_file_on_a_full_disk_has_whole_lines() {
    let Some(tiny) = Tiny::mount(64 << 10) else { return };
    let path = tiny.path().join("out.json");
    let output = child("child_writes_to_standard_output")
        .env("SPIKED_TEST_STDOUT", "3000")
        .stdout(fs::File::create(&path).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let status = status_of(&output.stderr);
    let text = fs::read(&path).unwrap();
    let json = text.iter().position(|&b| b == b'{').unwrap();
    assert_eq!(numbers(&text[json..]).len() as u64, status["written"].as_u64().unwrap());
    assert_eq!(status["written"].as_u64().unwrap() + status["dropped"]["disk_full"].as_u64().unwrap(), 3000, "{status}");
}
