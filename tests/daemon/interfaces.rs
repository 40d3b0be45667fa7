//! Tests of the daemon on real interfaces: veth pairs in network namespaces (`common/net.rs`), skipped without them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common;
use crate::common::net::{Daemon, Net, counted};
use serde_json::Value;
use spiked::capture::{CaptureFile, FrameBatch, Source};

/// The fields of an event that do not depend on time.
const ALL: [&str; 7] = ["class", "best", "confidence", "evidence", "scored", "packets", "bytes"];

/// The fields of the events of each stream, by 5-tuple.
fn summaries(events: &[Value], fields: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for e in events {
        let key = ["src_ip", "src_port", "dest_ip", "dest_port", "proto", "vlan"].map(|f| e[f].to_string()).join(" ");
        let summaries: Vec<String> = fields.iter().map(|f| e["spiked"][*f].to_string()).collect();
        streams.entry(key).or_default().push(summaries.join(" "));
    }
    streams.values_mut().for_each(|s| s.sort());
    streams
}

/// Compares the streams of two lists of events, and names those that differ.
fn assert_alike(live: &[Value], offline: &[Value], fields: &[&str], capture: &Path) {
    let (live, wanted) = (summaries(live, fields), summaries(offline, fields));
    assert!(!wanted.is_empty());
    let differ: Vec<_> = wanted
        .keys()
        .chain(live.keys())
        .filter(|key| live.get(*key) != wanted.get(*key))
        .map(|key| format!("{key}: live {:?}, offline {:?}", live.get(key), wanted.get(key)))
        .collect();
    assert!(differ.is_empty(), "{}: {} differ: {:#?}", capture.display(), differ.len(), &differ[..differ.len().min(6)]);
}

fn offline(capture: &Path) -> Vec<Value> {
    let output =
        common::spiked().args(["read", "--format", "jsonl", "--events", "streams"]).arg(capture).output().expect("spiked");
    common::json_lines(&output.stdout)
}

/// The capture as tcpreplay sends it. Frames that are cut in the capture (fixtures have at most 256 bytes of each) are sent as they are, so that
/// their length on the wire differs; nothing else does.
fn as_sent(capture: &Path, folder: &Path) -> PathBuf {
    let mut source = CaptureFile::open(capture).expect("a capture");
    let (mut batch, mut frames, mut link) = (FrameBatch::new(), Vec::new(), 1);
    while source.fill(&mut batch).expect("readable") {
        link = batch.iter().next().map_or(link, |f| f.link.0);
        frames.extend(batch.iter().map(|f| f.bytes.to_vec()));
    }
    let path = folder.join("as-sent.pcap");
    fs::write(&path, common::pcap(link.into(), &frames)).expect("written");
    path
}

#[test]
fn every_packet_is_counted_and_streams_are_named_as_offline() {
    let Some(net) = Net::new() else { return };
    let mut captures = vec![common::fixture("captures/mixed.pcapng")];
    if let Some(shared) = common::shared_data() {
        // Captures whose streams have no pause longer than the timeout: a replay at full speed has none.
        captures.extend(
            ["mqtt", "quic-mvfst-22", "quic-23", "443-chrome", "WebattackSQLinj"]
                .map(|n| shared.join(format!("ndpi/pcap/{n}.pcap"))),
        );
    }
    for capture in &captures {
        let settings = net.settings(&["b"], "");
        let _ = fs::remove_file(net.path("eve.json"));
        let mut daemon = Daemon::start(&net, &settings);
        let sent = net.replay("a", capture, &["--topspeed", "--preload-pcap"]);
        let status = daemon.wait("all is counted", |s| {
            let (received, dropped) = counted(&s["interfaces"][0]);
            received + dropped >= sent
        });
        let (received, dropped) = counted(&status["interfaces"][0]);
        assert_eq!((received, dropped), (sent, 0), "{}", capture.display());
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
        let live = net.events("stream");
        assert!(live.iter().all(|e| e["in_iface"] == "b" && e["pcap_filename"].is_null()), "{live:?}");
        assert_alike(&live, &offline(capture), &ALL[..6], capture);
        assert_alike(&live, &offline(&as_sent(capture, net.folder.path())), &ALL, capture);
    }
}

#[test]
fn reload_under_load_loses_nothing_and_a_bad_file_changes_nothing() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "");
    let good = fs::read_to_string(&settings).expect("there");
    let mut daemon = Daemon::start(&net, &settings);
    let reload = || {
        let program = env!("CARGO_BIN_EXE_spiked");
        net.inside(program).args(["reload", "--config"]).arg(&settings).output().expect("spiked")
    };
    let (sent, reloads) = std::thread::scope(|scope| {
        let replaying = scope.spawn(|| {
            net.replay("a", &common::fixture("captures/mixed.pcapng"), &["--pps", "20000", "--loop", "60", "--preload-pcap"])
        });
        let mut reloads = 0;
        while !replaying.is_finished() {
            let done = reload();
            assert!(done.status.success(), "{done:?}\n{}", daemon.log());
            reloads += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
        (replaying.join().expect("replayed"), reloads)
    });
    assert!(reloads >= 5, "only {reloads} reloads");
    let status = daemon.wait("all is counted", |s| {
        let (received, dropped) = counted(&s["interfaces"][0]);
        received + dropped >= sent
    });
    let (received, dropped) = counted(&status["interfaces"][0]);
    assert_eq!((received + dropped, &status["interfaces"][0]["reopened"]), (sent, &0.into()), "{status}");
    assert_eq!(status["reloads"]["succeeded"], reloads);
    // The command checks the file and rejects it; after the signal alone the old state stays, and the failure is reported.
    fs::write(&settings, format!("{good}\n[engine]\nworkerz = 1\n")).expect("written");
    let refused = reload();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("workerz"), "{refused:?}");
    daemon.signal(libc::SIGHUP);
    let status = daemon.wait("the failed reload is reported", |s| s["reloads"]["failed"] == 1);
    assert!(status["reloads"]["trouble"].to_string().contains("workerz"), "{status}");
    let log = daemon.log();
    assert!(log.contains("reload failed"), "{log}");
    let line = log.lines().find(|line| line.contains("workerz")).expect("the mistake");
    assert!(line.contains(&format!(" ERROR {}:", settings.display())) && !line.contains("\\n"), "{line}");
    // The next command compares with the status file, which is written after the status page.
    let file = net.path("status.json");
    common::wait_for("the status file reports it", || fs::read_to_string(&file).ok().filter(|text| text.contains("workerz")));
    // Settings that need a restart are named.
    fs::write(&settings, format!("{good}\n[engine]\nworkers = 1\n")).expect("written");
    let waits = reload();
    assert!(String::from_utf8_lossy(&waits.stdout).contains("restart to apply: engine"), "{waits:?}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(!net.path("status.json").exists());
}

#[test]
fn an_interface_that_vanishes_is_reopened_and_the_others_are_not_affected() {
    let Some(net) = Net::new() else { return };
    net.pair("c", "d");
    let settings = net.settings(&["b", "d", "later"], "");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = common::fixture("captures/dns-1.pcap");
    let (first, other) = (net.replay("a", &capture, &["--topspeed"]), net.replay("c", &capture, &["--topspeed"]));
    daemon.wait("both are counted", |s| counted(&s["interfaces"][0]).0 == first && counted(&s["interfaces"][1]).0 == other);
    net.shell("ip link del dev a");
    let status = daemon.wait("it is missed", |s| s["interfaces"][0]["up"] == false);
    assert!(!status["interfaces"][0]["trouble"].is_null());
    let again = net.replay("c", &capture, &["--topspeed"]);
    daemon.wait("the other one goes on", |s| counted(&s["interfaces"][1]).0 == other + again);
    net.pair("a", "b");
    net.pair("e", "later");
    let status = daemon.wait("it is back", |s| s["interfaces"][0]["up"] == true && s["interfaces"][2]["up"] == true);
    assert_eq!(status["interfaces"][0]["reopened"], 1);
    let second = net.replay("a", &capture, &["--topspeed"]);
    let third = net.replay("e", &capture, &["--topspeed"]);
    daemon.wait("it is counted again", |s| {
        counted(&s["interfaces"][0]).0 == first + second && counted(&s["interfaces"][2]).0 == third
    });
    let log = daemon.log();
    assert!(log.contains("interface lost") && log.contains("interface opened"), "{log}");
    assert_eq!(daemon.stop(), Some(0), "{log}");
}

#[test]
fn an_interface_that_is_set_down_is_down_until_it_is_set_up() {
    let Some(net) = Net::new() else { return };
    net.shell("ip link set dev b down");
    let settings = net.settings(&["b"], "");
    let mut daemon = Daemon::start(&net, &settings);
    assert!(daemon.log().contains("can't open the interface; will retry interface=\"b\""), "{}", daemon.log());
    let capture = common::fixture("captures/dns-1.pcap");
    let mut sent = 0;
    for reopened in 0..2 {
        net.shell("ip link set dev b up");
        let status = daemon.wait("it is up", |s| s["interfaces"][0]["up"] == true);
        assert_eq!(status["interfaces"][0]["reopened"], reopened, "{status}");
        sent += net.replay("a", &capture, &["--topspeed"]);
        net.shell("ip link set dev b down");
        let status = daemon.wait("it is down", |s| s["interfaces"][0]["up"] == false);
        assert!(status["interfaces"][0]["trouble"].to_string().contains("b: can't capture on the interface"), "{status}");
        assert!(status["not_ready"].to_string().contains("b: can't capture on the interface"), "{status}");
        // The frames before it was set down are not lost.
        assert_eq!(counted(&status["interfaces"][0]), (sent, 0), "{status}");
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// The number after the first occurrence of a text that is followed by a number.
fn number_after(log: &str, text: &str) -> u64 {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    log.split(text).skip(1).find_map(digits).unwrap_or_else(|| panic!("no number after '{text}': {log}"))
}

#[test]
fn sigterm_under_load_ends_in_order_with_all_streams_written() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "[[policies]]\nclass = \"*\"\naction = \"alert\"\n[alerts]\nper_minute = 1\n");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = common::fixture("captures/mixed.pcapng");
    let sent = net.replay("a", &capture, &["--topspeed", "--loop", "20"]);
    daemon.signal(libc::SIGUSR1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let packets: u64 = net.events("stream").iter().filter_map(|e| e["spiked"]["packets"].as_u64()).sum();
    let log = daemon.log();
    let dropped: u64 = ["dropped ", " by the kernel, ", " by interfaces, "].map(|before| number_after(&log, before)).iter().sum();
    assert_eq!(packets + dropped, sent, "{log}");
    assert!(log.contains("state of an input"), "{log}");
    // One alert per minute for each class and host, which are few.
    let (alerts, detections) = (net.events("alert").len(), net.events("detection").len());
    assert!(alerts > 0 && alerts < detections, "{alerts} alerts, {detections} detections");
}

#[test]
fn several_capture_threads_share_the_flows() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "");
    let text = fs::read_to_string(&settings).expect("there").replace("name = \"b\"\n", "name = \"b\"\nthreads = 3\n");
    fs::write(&settings, text).expect("written");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = common::fixture("captures/mixed.pcapng");
    let sent = net.replay("a", &capture, &["--topspeed"]);
    daemon.wait("each is counted once", |s| counted(&s["interfaces"][0]) == (sent, 0));
    assert_eq!(daemon.stop(), Some(0));
    assert_alike(&net.events("stream"), &offline(&capture), &ALL[..6], &capture);
}

/// Resident bytes and open descriptors.
fn usage(pid: i32) -> (u64, usize) {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    (pages * 4096, fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count())
}

#[test]
fn memory_and_descriptors_stay_flat_over_a_long_replay() {
    let Some(net) = Net::new() else { return };
    let settings = net.path("replay.toml");
    let text = format!(
        "[replay]\ncaptures = [\"{}\"]\nspeed = 0.0\nrepeat = 0\n\
         [engine]\nstreams = 4096\n[process]\nstatus_file = \"{}\"\nharden = false\n",
        common::fixture("captures/mixed.pcapng").display(),
        net.path("status.json").display()
    );
    fs::write(&settings, text).expect("written");
    let mut daemon = Daemon::start(&net, &settings);
    let frames = |status: &Value| counted(&status["interfaces"][0]).0;
    let begun = frames(&daemon.wait("it is warm", |s| frames(s) > 200_000));
    let before = usage(daemon.pid());
    let frames = frames(&daemon.wait("half a million frames more", |s| frames(s) > begun + 500_000)) - begun;
    let after = usage(daemon.pid());
    eprintln!("{frames} frames; bytes resident and descriptors before {before:?}, after {after:?}");
    assert!(after.0 < before.0 + (8 << 20), "memory grows: {before:?} to {after:?} in {frames} frames");
    // A capture, the status file and a request are open for a moment each; a leak of one a replay would be hundreds.
    assert!(after.1 < before.1 + 8, "descriptors leak: {before:?} to {after:?}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}
