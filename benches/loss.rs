//! Share of frames that spiked receives, compared with tcpdump, on the same veth pair, with the same frames, in turn, at falling rates.
//!
//! `cargo bench --bench loss`; needs root, `ip`, `tcpreplay` and `tcpdump`. Each program has 64 MiB of kernel buffer. A row has the rate
//! requested from tcpreplay and the rate reached, the share of the sent frames that `tcpdump -w` wrote and that spiked received, and the ratio of
//! the two: 1 or more means that spiked loses no more than tcpdump. `--test` runs one short round.

// The tests' network namespaces and daemon.
#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use common::net::{Daemon, Net, counted};
use common::{fixture, installed, wait_for, wait_until};

/// Packets per second that tcpreplay is asked for; `None`: as fast as it can.
const RATES: [Option<u32>; 6] = [None, Some(200_000), Some(100_000), Some(50_000), Some(25_000), Some(10_000)];
/// Replays of the fixture in a round: more frames than the kernel's buffer holds.
const LOOPS: u32 = 400;

/// Frames sent, frames received, seconds that sending took.
struct Round {
    sent: u64,
    received: u64,
    seconds: f64,
}

impl Round {
    fn share(&self) -> f64 {
        self.received as f64 / self.sent as f64
    }
}

fn main() {
    let short = std::env::args().any(|argument| argument == "--test");
    let Some(net) = Net::new() else { return };
    if !installed("tcpdump", "tcpdump") {
        return;
    }
    let capture = fixture("captures/mixed.pcapng");
    let (rates, loops) = if short { (&RATES[3..4], 1) } else { (&RATES[..], LOOPS) };
    println!("{:>12} {:>12} {:>9} {:>9} {:>7}", "asked/s", "sent/s", "tcpdump", "spiked", "ratio");
    for &rate in rates {
        let (tcpdump, spiked) = (tcpdump(&net, &capture, rate, loops), spiked(&net, &capture, rate, loops));
        let asked = rate.map_or_else(|| "most".to_string(), |rate| rate.to_string());
        let sent = (tcpdump.sent + spiked.sent) as f64 / (tcpdump.seconds + spiked.seconds);
        let ratio = spiked.share() / tcpdump.share();
        println!("{asked:>12} {sent:>12.0} {:>9.4} {:>9.4} {ratio:>7.4}", tcpdump.share(), spiked.share());
    }
}

/// Replays the capture; returns the frames sent and the seconds that it took.
fn send(net: &Net, capture: &Path, rate: Option<u32>, loops: u32) -> (u64, f64) {
    let (rate, loops) = (rate.map(|r| r.to_string()), loops.to_string());
    let mut options = vec!["--preload-pcap", "--loop", &loops];
    options.extend(rate.as_deref().map_or(vec!["--topspeed"], |rate| vec!["--pps", rate]));
    let began = Instant::now();
    (net.replay("a", capture, &options), began.elapsed().as_secs_f64())
}

fn tcpdump(net: &Net, capture: &Path, rate: Option<u32>, loops: u32) -> Round {
    let (file, log) = (net.path("tcpdump.pcap"), net.path("tcpdump.log"));
    let mut child = net
        .inside("tcpdump")
        .args(["-i", "b", "-n", "-B", "65536", "-Z", "root", "-U", "-w"])
        .arg(&file)
        .stderr(std::fs::File::create(&log).expect("a file"))
        .stdout(Stdio::null())
        .spawn()
        .expect("tcpdump");
    // It prints this once its socket is bound.
    wait_until("tcpdump listens", || std::fs::read_to_string(&log).unwrap_or_default().contains("listening on"));
    let (sent, seconds) = send(net, capture, rate, loops);
    // What is in its buffer is not written after SIGINT: wait until the file has not grown for a second.
    let size = || std::fs::metadata(&file).map_or(0, |m| m.len());
    let mut last = (size(), Instant::now());
    wait_until("tcpdump has written its buffer", || {
        if size() != last.0 {
            last = (size(), Instant::now());
        }
        last.1.elapsed().as_secs() >= 1
    });
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).expect("a process number"), libc::SIGINT) };
    child.wait().expect("it ends");
    let received = wait_for("tcpdump's counts", || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().find(|line| line.contains("captured"))?.split(' ').next()?.parse().ok()
    });
    std::fs::remove_file(&file).expect("it was written");
    Round { sent, received, seconds }
}

fn spiked(net: &Net, capture: &Path, rate: Option<u32>, loops: u32) -> Round {
    let mut daemon = Daemon::start(net, &net.settings(&["b"], ""));
    let (sent, seconds) = send(net, capture, rate, loops);
    let status = daemon.wait("all is counted", |status| {
        let (received, dropped) = counted(&status["interfaces"][0]);
        received + dropped >= sent
    });
    let (received, _) = counted(&status["interfaces"][0]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    Round { sent, received, seconds }
}
