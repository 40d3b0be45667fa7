//! Tests of the exit codes and the messages that go with them.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::common::{fixture, pcap, spiked, udp};
use predicates::prelude::*;
use predicates::str::contains;

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn one_packet() -> Vec<u8> {
    pcap(1, &[udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, &[0; 30])])
}

#[test]
fn fine_is_0() {
    spiked().arg("read").arg(fixture("captures/dns-1.pcap")).assert().code(0);
    // A filter without a match is a result, not a failure.
    spiked().args(["read", "--filter", "port 9"]).arg(fixture("captures/dns-1.pcap")).assert().code(0);
}

#[test]
fn cut_short_or_read_in_part_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let whole = one_packet();
    let cut = write(folder.path(), "cut.pcap", &whole[..whole.len() - 1]);
    spiked().arg("read").arg(&cut).assert().code(1).stdout(contains("cut.pcap: truncated after packet 0"));
    let two = write(folder.path(), "two.pcap", &[&whole[..], &[0; 5]].concat());
    let explained = spiked().args(["model", "explain", "protocols"]).arg(&two).assert().code(1).stdout(contains("10.0.0.1"));
    explained.stderr(contains("two.pcap: truncated after packet 1"));
    let good = fixture("captures/dns-1.pcap");
    let text = write(folder.path(), "text", b"no capture at all, but long enough to be one");
    spiked().arg("read").args([&good, &text]).assert().code(1).stderr(contains("not a pcap"));
    let empty = write(folder.path(), "empty.pcap", b"");
    spiked().arg("read").args([&good, &empty]).assert().code(1).stderr(contains("0 bytes"));
}

#[test]
fn misconfigured_is_2() {
    let good = fixture("captures/dns-1.pcap");
    spiked().args(["read", "--no-such-option"]).arg(&good).assert().code(2).stderr(contains("--no-such-option"));
    spiked().args(["read", "--filter", "udp prot 53"]).arg(&good).assert().code(2).stderr(contains("man pcap-filter"));
    spiked()
        .args(["read", "--model", "none.safetensors"])
        .arg(&good)
        .assert()
        .code(2)
        .stderr(contains("none.safetensors: no such model file; the built-in models are protocols, "));
    let twice = ["read", "--model", "config/models/devices.safetensors", "--model", "config/models/devices.safetensors"];
    spiked().args(twice).arg(&good).assert().code(2).stderr(contains("two models would be called 'devices'"));
    // The table has no events.
    for format in [&[][..], &["--format", "table"]] {
        let read = spiked().args(["read", "--events", "streams"]).args(format).arg(&good).assert();
        read.code(2).stdout("").stderr(contains("--events needs --format jsonl, suricata, ecs or csv"));
    }
    spiked().args(["read", "--streams", "0"]).arg(&good).assert().code(2).stderr(contains("--streams"));
    for workers in ["0", "257"] {
        spiked().args(["read", "--workers", workers]).arg(&good).assert().code(2).stderr(contains("is not in 1..=256"));
    }
}

#[test]
fn nothing_in_it_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let none = write(folder.path(), "none.pcap", &pcap(1, &[]));
    spiked().arg("read").arg(&none).assert().code(3).stdout(contains("none.pcap: no packets"));
    let empty = write(folder.path(), "empty.pcap", b"");
    spiked().arg("read").arg(&empty).assert().code(3).stderr(contains("no input: no capture could be read"));
    let hollow = folder.path().join("hollow");
    std::fs::create_dir(&hollow).unwrap();
    spiked().arg("read").arg(&hollow).assert().code(3).stderr(contains("the folder holds no capture"));
    let explain = ["model", "explain", "protocols"];
    spiked().args(explain).arg(&none).assert().code(3).stderr(contains("none.pcap: no stream could be decoded"));
    let absent = spiked().args(explain).arg(fixture("captures/dns-1.pcap")).arg(":9").assert();
    absent.code(3).stdout("").stderr(contains("dns-1.pcap: no stream contains \":9\""));
    // A capture without packets beside others, which tcpdump -G writes when there is no traffic, is not a failure.
    spiked().arg("read").arg(&none).arg(fixture("captures/dns-1.pcap")).assert().code(0).stdout(contains("no packets"));
}

#[test]
fn unreadable_is_4() {
    let folder = tempfile::tempdir().unwrap();
    let text = write(folder.path(), "text", b"no capture at all, but long enough to be one");
    spiked().arg("read").arg(&text).assert().code(4).stderr(contains("unreadable: no capture could be read"));
    let cut = write(folder.path(), "cut.pcap", &one_packet()[..20]);
    spiked().arg("read").arg(&cut).assert().code(4).stderr(contains("cut.pcap: ends after 20 bytes, within its file header"));
    spiked().arg("read").arg(folder.path().join("absent.pcap")).assert().code(4).stderr(contains("absent.pcap"));
    let empty = write(folder.path(), "empty.pcap", b"");
    spiked().arg("read").args([&empty, &text]).assert().code(4);
}

#[test]
fn what_cannot_be_written_is_4_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = fixture("captures/dns-1.pcap");
    let nowhere = folder.path().join("no/such/folder/out");
    // Standard output that can't be written, in every way of writing to it.
    let full = |arguments: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("spiked"));
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdout(full);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {text}");
        assert!(text.contains("spiked: standard output: No space left on device"), "{arguments:?}: {text}");
    };
    full(&["read", "fixtures/captures/dns-1.pcap"]);
    full(&["read", "--format", "jsonl", "fixtures/captures/dns-1.pcap"]);
    full(&["model", "show", "config/models/devices.safetensors"]);
    full(&["completions", "bash"]);
    full(&["features", "--labels", "fixtures/labels.csv", "--captures", "fixtures"]);
    // Files, each named in its message.
    for arguments in [&["read", "--write"][..], &["report", "--model", "config/models/devices.safetensors", "--out"]] {
        let mut command = spiked();
        command.args(arguments).arg(&nowhere);
        if arguments[0] == "read" {
            command.arg(&good);
        }
        command.assert().code(4).stderr(contains("no/such/folder/out: can't write"));
    }
    // A file that may not grow, as on a full disk.
    let packets = folder.path().join("packets.pcapng");
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" read --write \"$1\" fixtures/captures"]);
    limited.arg(assert_cmd::cargo::cargo_bin("spiked")).arg(&packets).current_dir(env!("CARGO_MANIFEST_DIR"));
    let written = assert_cmd::Command::from_std(limited).assert().code(4);
    written.stderr(contains("packets.pcapng: can't write packets: File too large"));
    spiked()
        .args(["model", "remove", "config/models/devices.safetensors", "Aria", "--out"])
        .arg(&nowhere)
        .assert()
        .code(4)
        .stderr(contains("can't write the model"));
    // Before the work is done: the captures are not read.
    let train = ["train", "--class", "a=absent.pcap", "--class", "b=absent.pcap", "--out"];
    let learn = ["learn", "--from", "absent.pcap", "--packet", "1", "--class", "odd", "--out"];
    for (arguments, out) in [(&train[..], &nowhere), (&learn[..], &nowhere), (&learn[..], &folder.path().to_path_buf())] {
        let written = spiked().args(arguments).arg(out).assert().code(4);
        written.stderr(contains(format!("{}: can't write the model", out.display())).and(contains("absent.pcap").not()));
    }
    // A missing input file has another code: the command was wrong.
    spiked().args(["eval", "--model", "none.safetensors", "--labels", "none.csv"]).assert().code(2);
}

#[test]
fn an_address_that_is_taken_is_4() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!(
        "[replay]\ncaptures = [\"{}\"]\n[metrics]\naddress = \"{}\"\n[process]\nstatus_file = \"{}\"\n",
        fixture("captures/dns-1.pcap").display(),
        taken.local_addr().unwrap(),
        folder.path().join("status").display(),
    );
    let file = write(folder.path(), "spiked.toml", settings.as_bytes());
    spiked().args(["run", "--config"]).arg(&file).assert().code(4).stderr(contains("is another spiked running?"));
}

#[test]
fn no_privilege_is_5() {
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "secret.pcap", &one_packet());
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // SAFETY: geteuid only reads the process's own number.
    let root = unsafe { libc::geteuid() } == 0;
    let mut command = if root {
        // Root may read everything, so the test runs as nobody, with a copy of the program where nobody may run it.
        let copy = folder.path().join("spiked");
        std::fs::copy(assert_cmd::cargo::cargo_bin("spiked"), &copy).unwrap();
        let mut command = std::process::Command::new(copy);
        command.uid(65534).gid(65534).current_dir("/");
        command
    } else {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("spiked"))
    };
    command.arg("read").arg(&secret);
    assert_cmd::Command::from_std(command)
        .assert()
        .code(5)
        .stderr(contains("Permission denied").and(contains("no privilege: no capture could be read")));
}

#[test]
fn the_help_names_every_code() {
    let text = spiked().arg("--help").assert().code(0);
    let help = String::from_utf8(text.get_output().stdout.clone()).unwrap();
    for code in ["0  ok", "1  done", "2  misconfigured", "3  no input", "4  unreadable", "5  no privilege"] {
        assert!(help.contains(code), "{code} is not in\n{help}");
    }
}

#[test]
#[cfg(not(feature = "fleet"))]
fn objects_of_s3_name_the_feature_that_reads_them() {
    for path in ["s3://captures/x.pcap", "s3://captures/2026/"] {
        let output = spiked().args(["read", path]).assert().code(4);
        output.stderr(contains(format!("{path}: can't open the capture: this build can't read from S3; build it with")));
    }
}
