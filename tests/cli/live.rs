//! Tests of `spiked read` on pipes and interfaces: events come while the packets do, and signals, limits and a closed output end it in order.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{fixture, net::Net, pcap, spiked, udp, wait_for};
use predicates::prelude::*;
use predicates::str::contains;

/// `spiked read` of its standard input, with the bytes of a capture written to it and the pipe still open.
fn reading(format: &str, bytes: &[u8]) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("spiked"));
    command.args(["read", "--format", format, "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.as_mut().unwrap();
    input.write_all(bytes).unwrap();
    input.flush().unwrap();
    child
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: kill only sends a signal, to the child of this test.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

fn capture() -> Vec<u8> {
    std::fs::read(fixture("captures/dns-1.pcap")).unwrap()
}

/// Exit code, standard output and standard error.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn events_come_while_the_pipe_is_open() {
    let start = Instant::now();
    let mut child = reading("jsonl", &capture());
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"class\":\"dns\""), "{line}");
    eprintln!("the first event came after {:?}", start.elapsed());
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_end_with_what_is_known() {
    let whole = spiked().args(["read", "fixtures/captures/dns-1.pcap"]).assert().code(0).get_output().stdout.clone();
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("dns")).map(str::to_string).collect::<Vec<_>>();
    for number in [libc::SIGINT, libc::SIGTERM] {
        // The last record is not complete.
        let bytes = [capture(), vec![1, 2, 3]].concat();
        let child = reading("table", &bytes);
        std::thread::sleep(Duration::from_millis(1500));
        signal(&child, number);
        let (code, out, error) = ended(child);
        assert_eq!((code, rows(&out)), (Some(0), rows(&String::from_utf8_lossy(&whole))), "{out}{error}");
        let child = reading("jsonl", &pcap(1, &[]));
        std::thread::sleep(Duration::from_millis(1500));
        signal(&child, number);
        let (code, out, _) = ended(child);
        assert_eq!((code, out.as_str()), (Some(3), ""), "nothing was read");
    }
}

#[test]
fn a_closed_output_ends_it_quietly() {
    let mut child = reading("jsonl", &capture());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    wait_for("the end of the program", || child.try_wait().unwrap());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(error, "");
}

#[test]
fn limits_end_a_capture() {
    let read = |arguments: &[&str]| {
        let mut command = spiked();
        command.args(["read", "--events", "streams", "--format", "jsonl", "fixtures/captures/dns-1.pcap"]).args(arguments);
        String::from_utf8(command.assert().code(0).get_output().stdout.clone()).unwrap()
    };
    assert_eq!(read(&["--count", "1"]).lines().count(), 1);
    assert_eq!(read(&["--duration", "600", "--count", "100000"]), read(&[]));
}

#[test]
fn skipped_files_and_names_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.pcap"), pcap(1, &[udp([10, 0, 0, 1], 1, [10, 0, 0, 2], 2, b"x")])).unwrap();
    std::fs::write(folder.path().join("odd\u{1b}[31m.txt"), "no capture").unwrap();
    let escaped = || contains("odd\\u{1b}[31m.txt: skipped: not a capture").and(contains("\u{1b}").not());
    for format in ["table", "jsonl"] {
        spiked().args(["read", "--quiet", "--format", format]).arg(folder.path()).assert().code(1).stderr(escaped());
    }
    spiked()
        .args(["read", "no\u{1b}such.pcap"])
        .assert()
        .code(4)
        .stderr(contains("no\\u{1b}such.pcap").and(contains("\u{1b}").not()));
    spiked().args(["read", "-i", "no-such-if"]).assert().code(predicate::in_iter([4, 5])).stderr(contains("no-such-if"));
    let config = |name: &str| {
        let path = folder.path().join("spiked.toml");
        std::fs::write(&path, format!("[[interfaces]]\nname = \"{name}\"\n")).unwrap();
        spiked().arg("check").arg("--config").arg(path).assert().code(2)
    };
    config("hv1@if2").stderr(contains("give 'hv1'"));
    config("a-very-long-name").stderr(contains("16 bytes, at most 15"));
}

#[test]
fn interfaces_are_read_without_settings() {
    let Some(net) = Net::new() else { return };
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let start = |arguments: &[&str]| {
        let mut command = net.inside(program.to_str().unwrap());
        command.args(["read", "--format", "jsonl", "-i", "a", "-i", "absent"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        // By then the interfaces are open.
        errors.read_line(&mut line).unwrap();
        assert!(line.contains("absent"), "{line}");
        child
    };
    let replay = || net.replay("b", &fixture("captures/dns-1.pcap"), &["--topspeed"]);
    let child = start(&["--filter", "udp port 53"]);
    replay();
    std::thread::sleep(Duration::from_millis(500));
    // `ip netns exec` becomes the program.
    signal(&child, libc::SIGINT);
    let (code, out, _) = ended(child);
    assert_eq!(code, Some(1), "an interface is absent");
    assert!(out.lines().count() > 5 && out.lines().all(|line| line.contains("\"in_iface\":\"a\"")), "{out}");
    let child = start(&["--count", "2"]);
    replay();
    assert_eq!(ended(child).0, Some(1));
    let begin = Instant::now();
    let child = start(&["--duration", "1"]);
    assert_eq!(ended(child).0, Some(4), "no packet, and an interface is absent");
    assert!(begin.elapsed() >= Duration::from_secs(1));
}
