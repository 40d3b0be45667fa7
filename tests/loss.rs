//! Does spiked lose frames where tcpdump loses none? The same veth pair, the same packets, one after the other in one run, each
//! with 64 MiB of kernel buffer; alone in its file, so that no other test takes the CPU meanwhile.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::net::{Daemon, Net, counted};

/// Packets a second that tcpreplay is told to send, from as fast as it goes down.
const RATES: [Option<u32>; 6] = [None, Some(200_000), Some(100_000), Some(50_000), Some(25_000), Some(10_000)];
/// Packets of each replay: more than the kernel's buffer holds.
const LOOPS: &str = "400";

/// A replay: what was sent, and how long it took.
struct Sent {
    packets: u64,
    took: Duration,
}

fn send(net: &Net, capture: &Path, rate: Option<u32>) -> Sent {
    let pps = rate.map(|r| r.to_string());
    let mut options = vec!["--preload-pcap", "--loop", LOOPS];
    options.extend(pps.as_deref().map_or(vec!["--topspeed"], |pps| vec!["--pps", pps]));
    let began = Instant::now();
    let packets = net.replay("a", capture, &options);
    Sent { packets, took: began.elapsed() }
}

/// Sent, written by tcpdump, dropped by the kernel as it says.
fn tcpdump(net: &Net, capture: &Path, rate: Option<u32>) -> (Sent, u64, u64) {
    let file = net.path("tcpdump.pcap");
    let mut child = net
        .inside("tcpdump")
        .args(["-i", "b", "-n", "-B", "65536", "-Z", "root", "-w"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("tcpdump");
    let until = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        assert!(Instant::now() < until, "tcpdump does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    let sent = send(net, capture, rate);
    // What lies in its buffer is not written when it is told to end: wait until the file no longer grows.
    let size = || std::fs::metadata(&file).map_or(0, |m| m.len());
    let (mut last, mut quiet) = (size(), 0);
    while quiet < 5 {
        std::thread::sleep(Duration::from_millis(200));
        quiet = if size() == last { quiet + 1 } else { 0 };
        last = size();
    }
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).expect("a process number"), libc::SIGINT) };
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().expect("piped"), &mut said).expect("text");
    child.wait().expect("it ends");
    let number = |what: &str| -> u64 {
        let line = said.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("{said}"));
        line.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let (written, dropped) = (number("captured"), number("dropped by kernel"));
    std::fs::remove_file(&file).expect("it was written");
    (sent, written, dropped)
}

#[test]
fn where_tcpdump_loses_nothing_spiked_loses_nothing() {
    let Some(net) = Net::new() else { return };
    if std::process::Command::new("tcpdump").arg("--version").output().is_err() {
        eprintln!("skipped: tcpdump is not installed");
        return;
    }
    let capture = common::fixture("captures/mixed.pcapng");
    for rate in RATES {
        let asked = rate.map_or("flat out".into(), |r| format!("{r} packets/s"));
        let per_second = |sent: &Sent| sent.packets as f64 / sent.took.as_secs_f64();
        let (sent, written, dropped) = tcpdump(&net, &capture, rate);
        eprintln!("{asked}: tcpdump: {} sent, {written} written, {dropped} dropped; {:.0}/s", sent.packets, per_second(&sent));
        if written < sent.packets {
            continue;
        }
        let settings = net.settings(&["b"], "");
        let mut daemon = Daemon::start(&net, &settings);
        let sent = send(&net, &capture, rate);
        let status = daemon.wait("all is counted", |s| {
            let (received, dropped) = counted(&s["interfaces"][0]);
            received + dropped >= sent.packets
        });
        let (received, dropped) = counted(&status["interfaces"][0]);
        eprintln!("{asked}: spiked: {} sent, {received} received, {dropped} dropped; {:.0}/s", sent.packets, per_second(&sent));
        assert_eq!((received, dropped), (sent.packets, 0), "{}", status["interfaces"][0]);
        assert_eq!(daemon.stop().0, Some(0), "{}", daemon.log());
        return;
    }
    panic!("tcpdump loses packets at {:?} packets a second: nothing to compare with", RATES[RATES.len() - 1]);
}
