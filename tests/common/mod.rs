//! Helpers of the tests: the program, its fixtures, the shared captures, small captures built in memory.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod net;
pub mod prometheus;
pub mod running;
pub mod skip;
pub mod telemetry;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
pub use skip::skip;
use spiked::capture::{CaptureFile, FrameBatch, Source as _};

/// The program under test, run in the folder of the project.
pub fn spiked() -> Command {
    let mut command = Command::cargo_bin("spiked").expect("the program is built with the tests");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in skip::VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The text of a file of `deploy/`.
pub fn deploy(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).expect("a file of deploy/")
}

/// The longest that a test waits for anything. It only ends tests that hang: a busy machine may take far longer than an idle one.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `poll` returns a value.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < end, "{PATIENCE:?} passed without: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a condition holds; panics as [`wait_for`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Whether a program can be started; if not, reports a skip with the Debian package that has it.
pub fn installed(program: &str, package: &str) -> bool {
    let start = std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    if start.is_err() {
        skip(&format!("{program} (Debian package {package})"));
    }
    start.is_ok()
}

/// The folder of the shared captures; reports a skip if it is absent.
pub fn shared_data() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if path.is_dir() {
        return Some(path);
    }
    skip("the captures in ../shared/data");
    None
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The frames of a fixture's capture.
pub fn frames_of(name: &str) -> Vec<Vec<u8>> {
    let mut file = CaptureFile::open(&fixture("captures").join(name)).expect("a fixture");
    let (mut batch, mut frames) = (FrameBatch::new(), Vec::new());
    while file.fill(&mut batch).expect("a fixture") {
        frames.extend(batch.iter().map(|f| f.bytes.to_vec()));
    }
    frames
}

/// A UDP packet in an Ethernet frame.
pub fn udp(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(source, destination, 64)
        .udp(sport, dport);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes all bytes");
    frame
}

/// The IP packet of an Ethernet frame in GTP-U, from 203.0.113.1 to 203.0.113.2.
pub fn in_gtp(frame: &[u8]) -> Vec<u8> {
    let packet = &frame[14..];
    let length = (packet.len() as u16).to_be_bytes();
    udp([203, 0, 113, 1], 2152, [203, 0, 113, 2], 2152, &[&[0x30, 0xff], &length[..], &[0, 0, 0, 1], packet].concat())
}

/// The IP packet of an Ethernet frame in GRE, from 203.0.113.3 to 203.0.113.4.
pub fn in_gre(frame: &[u8]) -> Vec<u8> {
    let mut outer = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([203, 0, 113, 3], [203, 0, 113, 4], 64);
    let packet = [&[0, 0, 8, 0], &frame[14..]].concat();
    builder.write(&mut outer, etherparse::IpNumber::GRE, &packet).expect("a vector takes all bytes");
    outer
}

/// A TCP segment in an Ethernet frame, with the flags of `flags`: `S` and `A`.
pub fn tcp(
    (source, sport): ([u8; 4], u16),
    (destination, dport): ([u8; 4], u16),
    flags: &str,
    seq: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(source, destination, 64)
        .tcp(sport, dport, seq, 64_240);
    if flags.contains('S') {
        builder = builder.syn();
    }
    if flags.contains('A') {
        builder = builder.ack(1);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes all bytes");
    frame
}

/// A little-endian microsecond pcap file of frames one second apart.
pub fn pcap(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, link] {
        file.extend(word.to_le_bytes());
    }
    for (second, frame) in (1_700_000_000_u32..).zip(frames) {
        for word in [second, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The lines of JSON that a command printed.
pub fn json_lines(output: &[u8]) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(output).lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
