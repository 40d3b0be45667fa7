//! Tests of the daemon without privileges: replays and watched folders with policies, sinks and evidence captures; the watchdog.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::running::Running;
use crate::common::skip::{KernelFeature, skip_without};
use crate::common::{PATIENCE, fixture, json_lines, pcap, spiked, wait_for};
use etherparse::{PacketBuilder, TcpOptionElement};
use spiked::capture::{CaptureFile, FrameBatch, Source};

#[test]
fn alerts_follow_the_policies_and_keep_their_packets_as_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(folder.path().join("evidence")).unwrap();
    let settings = format!(
        r#"
[replay]
captures = ["fixtures/captures/ftp-1.pcap", "fixtures/captures/ssh-1.pcap", "fixtures/captures/http-1.pcap",
    "fixtures/captures/tls-1.pcap", "fixtures/captures/tls-oddport.pcap"]
speed = 0
[[sinks]]
type = "file"
path = "{}"
[evidence]
folder = "{}"
packets = 5
[metrics]
enabled = false
[process]
status_file = "{}"
[[policies]]
class = "http"
action = "ignore"
[[policies]]
class = "tls"
action = "alert"
severity = "low"
include_filter = "tcp port 443"
[[policies]]
class = "*"
action = "alert"
severity = "high"
exclude_filter = "tcp port 22"
"#,
        at("events.json"),
        at("evidence"),
        at("status"),
    );
    fs::write(folder.path().join("spiked.toml"), settings).unwrap();
    spiked().args(["run", "--config", &at("spiked.toml")]).assert().success();

    let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
    let of = |kind: &str| events.iter().filter(|e| e["event_type"] == kind).collect::<Vec<_>>();
    let (alerts, detections) = (of("alert"), of("detection"));
    let usual = |e: &serde_json::Value| e["spiked"]["class"] == "tls" && e["dest_port"] == 443;
    let severity = |e: &serde_json::Value| if usual(e) { "low" } else { "high" };
    assert!(alerts.iter().all(|e| e["severity"] == severity(e) && e["dest_port"] != 22), "the first policy that matches decides");
    let level = |e: &serde_json::Value| if usual(e) { 3 } else { 1 };
    assert!(alerts.iter().all(|e| e["alert"]["severity"] == level(e)), "low is 3, high is 1");
    assert!(detections.iter().all(|e| e["alert"]["severity"] == 3), "a detection has the lowest severity");
    for (class, port) in [("ftp", false), ("tls", true), ("tls", false)] {
        let those = |e: &&&serde_json::Value| e["spiked"]["class"] == class && (e["dest_port"] == 443) == port;
        assert!(alerts.iter().any(|e| those(&e)), "no alert of {class}");
    }
    assert!(detections.iter().any(|e| e["spiked"]["class"] == "ssh"), "streams without an alert are reported too");
    assert!(events.iter().all(|e| e["spiked"]["class"] != "http"), "and what is ignored is not");

    let files: Vec<_> = fs::read_dir(folder.path().join("evidence")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    let mut evidence = CaptureFile::open(&files[0].path()).unwrap();
    let (mut batch, mut packets) = (FrameBatch::new(), 0);
    while evidence.fill(&mut batch).unwrap() {
        packets += batch.len();
    }
    assert!(evidence.truncation().is_none());
    // Alerts are limited per class and host; evidence is kept of every stream that matches an alert policy.
    let streams = detections.iter().filter(|e| e["dest_port"] != 22).count();
    assert!(alerts.len() < streams, "{} alerts of {streams}", alerts.len());
    assert!((streams..=streams * 5).contains(&packets), "{packets} packets of {streams} streams");
}

/// In the recording 10.58.224.58 sweeps the net from 08:39:56 on; some of its probes are named by the episode alone.
#[test]
fn policies_apply_to_episodes_and_keep_packets_of_the_streams_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let evidence = at("evidence");
    let run = |policy: &str| {
        let _ = fs::remove_dir_all(&evidence);
        fs::create_dir(&evidence).unwrap();
        let settings = format!(
            "models = [\"behaviours\"]\n[replay]\ncaptures = [\"fixtures/behaviours/test/scan.host-10.pcap.zst\"]\nspeed = 0\n\
             [[sinks]]\ntype = \"file\"\npath = {:?}\nevents = [\"detection\", \"alert\", \"episode\"]\n[evidence]\nfolder = {evidence:?}\n\
             [metrics]\nenabled = false\n[process]\nstatus_file = {:?}\n[[policies]]\nclass = \"scan.host\"\n{policy}",
            at("events.json"),
            at("status"),
        );
        fs::write(folder.path().join("spiked.toml"), settings).unwrap();
        let _ = fs::remove_file(folder.path().join("events.json"));
        spiked().args(["run", "--config", &at("spiked.toml")]).assert().success();
        let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
        let packets: usize = fs::read_dir(&evidence)
            .unwrap()
            .flatten()
            .map(|file| {
                let mut source = CaptureFile::open(&file.path()).unwrap();
                let (mut batch, mut packets) = (FrameBatch::new(), 0);
                while source.fill(&mut batch).unwrap() {
                    packets += batch.len();
                }
                packets
            })
            .sum();
        (events.into_iter().filter(|e| e["spiked"]["class"] == "scan.host").collect::<Vec<_>>(), packets)
    };
    let count = |events: &[serde_json::Value], kind: &str, of_episode: bool| {
        events.iter().filter(|e| e["event_type"] == kind && e["spiked"]["state"].is_string() == of_episode).count()
    };

    let (events, packets) = run("action = \"alert\"\nseverity = \"high\"\n");
    assert_eq!((count(&events, "episode", true), count(&events, "alert", true)), (2, 1), "begin and end, and one alert");
    let alert = events.iter().find(|e| e["event_type"] == "alert" && e["spiked"]["state"] == "begin").expect("it begins");
    assert_eq!((&alert["severity"], &alert["alert"]["severity"]), (&"high".into(), &1.into()));
    assert!(alert["spiked"]["host"] == "10.58.224.58" && alert["src_ip"] == "10.58.224.58", "{alert}");
    let by_episode = events.iter().filter(|e| e["event_type"] == "detection" && e["spiked"]["basis"] == "episode").count();
    assert!(by_episode >= 5, "{by_episode} streams named by the episode");
    let named = count(&events, "detection", false);
    assert!(packets >= named, "{packets} packets of {named} streams");

    let ignored = run("action = \"ignore\"\ninclude_filter = \"src host 10.58.224.58\"\n").0;
    assert!(ignored.is_empty(), "{ignored:?}");
    let of_another = run("action = \"ignore\"\nexclude_filter = \"src host 10.58.224.58\"\n").0;
    assert_eq!((count(&of_another, "episode", true), count(&of_another, "alert", true)), (2, 0));
}

/// SYNs from one host to each of `ports`, and the resets that closed ports answer with.
fn scan(ports: impl Iterator<Item = u16>) -> Vec<Vec<u8>> {
    let (client, server) = ([10, 9, 0, 1], [10, 9, 1, 1]);
    let ip = |from, to| PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from, to, 64);
    let probe = |port: u16| {
        let (source, options) = (40_000 + port % 20_000, [TcpOptionElement::MaximumSegmentSize(1460)]);
        let syn = ip(client, server).tcp(source, port, 1, 1024).syn().options(&options).expect("they fit");
        let reset = ip(server, client).tcp(port, source, 0, 0).rst().ack(2);
        [syn, reset].map(|packet| {
            let mut frame = Vec::new();
            packet.write(&mut frame, &[]).expect("a vector takes all bytes");
            frame
        })
    };
    ports.flat_map(probe).collect()
}

#[test]
fn a_policy_for_a_class_off_its_port_alerts_on_content_and_never_on_a_scan() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let probed = (1..1024).chain([1883, 2022, 2222, 5432, 8080, 8443, 8931, 15_432, 22_022]);
    fs::write(folder.path().join("scan.pcap"), pcap(1, &scan(probed))).unwrap();
    let odd = ["http", "postgresql", "redis", "ssh", "tls"].map(|class| format!("fixtures/captures/{class}-oddport.pcap"));
    let text = |captures: &[String], policies: &str| {
        format!(
            "[replay]\ncaptures = {captures:?}\nspeed = 0\n[[sinks]]\ntype = \"file\"\npath = {:?}\nevents = [\"alert\", \"stream\"]\n\
             [metrics]\nenabled = false\n[process]\nstatus_file = {:?}\n[alerts]\nper_minute = 0\n{policies}",
            at("events.json"),
            at("status"),
        )
    };
    let run = |captures: &[String], policies: &str| {
        fs::write(folder.path().join("spiked.toml"), text(captures, policies)).unwrap();
        let _ = fs::remove_file(folder.path().join("events.json"));
        spiked().args(["run", "--config", &at("spiked.toml")]).assert().success();
        let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
        let (alerts, streams): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| e["event_type"] == "alert");
        (alerts, streams.len())
    };
    let policy = |class: &str, port: u16, more: &str| {
        format!("[[policies]]\nclass = \"{class}\"\naction = \"alert\"\nexclude_filter = \"port {port}\"\n{more}")
    };
    let every = [("ssh", 22), ("http", 80), ("tls", 443), ("postgresql", 5432)];
    let all: String = every.map(|(class, port)| policy(class, port, "")).concat();
    let ssh: String = policy("ssh", 22, "basis = \"content\"\n");
    let of = |alerts: &[serde_json::Value], class: &str| alerts.iter().filter(|e| e["spiked"]["class"] == class).count();

    let (alerts, _) = run(&odd, &ssh);
    assert_eq!((alerts.len(), of(&alerts, "ssh")), (6, 6), "each connection to SSH on port 2022, and nothing else");
    assert!(alerts.iter().all(|e| e["spiked"]["basis"] == "content" && e["dest_port"] == 2022));
    let (alerts, _) = run(&odd, &all);
    assert_eq!(every.map(|(class, _)| of(&alerts, class)), [6, 9, 9, 9], "each connection to a service on an odd port");
    assert_eq!(alerts.len(), 33);
    let (alerts, streams) = run(&[at("scan.pcap")], &(ssh + &all + "[[policies]]\nclass = \"*\"\naction = \"alert\"\n"));
    assert_eq!((alerts.len(), streams), (0, 1032), "a scan of many ports, those of known services among them");
    // Policies by basis part the 45 streams of taught classes. The model has seen some of these services on odd ports, so a few rest on those.
    let by_content = run(&odd, &policy("*", 22, "basis = \"content\"\n")).0;
    let others = run(&odd, &policy("*", 22, "basis = [\"ports\", \"headers\"]\n")).0;
    assert!(
        by_content.iter().all(|e| e["spiked"]["basis"] == "content") && others.iter().all(|e| e["spiked"]["basis"] != "content")
    );
    assert_eq!(by_content.len() + others.len(), 45);
    assert!(by_content.len() >= 42, "{} rest on content", by_content.len());
}

/// Settings with an input that write all events to `events.json` in the folder.
fn settings(folder: &Path, input: &str) -> std::path::PathBuf {
    let at = |name: &str| folder.join(name).display().to_string();
    let (events, status) = (at("events.json"), at("status.json"));
    let text = format!(
        "{input}[[sinks]]\ntype = \"file\"\npath = \"{events}\"\nevents = [\"detection\", \"stream\"]\n\
         [metrics]\naddress = \"127.0.0.1:0\"\n[process]\nstatus_file = \"{status}\"\n"
    );
    fs::write(folder.join("spiked.toml"), text).unwrap();
    folder.join("spiked.toml")
}

#[test]
fn events_of_a_replay_name_the_capture_that_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let captures = ["dns-1", "ssh-1", "http-1"].map(|n| fixture(&format!("captures/{n}.pcap")).display().to_string());
    let file = settings(folder.path(), &format!("[replay]\ncaptures = {captures:?}\nspeed = 0\n"));
    spiked().args(["run", "--config"]).arg(&file).assert().success();
    let live = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
    let offline =
        spiked().args(["read", "--each-file", "--format", "jsonl", "--events", "detections"]).args(&captures).output().unwrap();
    let summaries = |events: &[serde_json::Value]| -> Vec<String> {
        let of = |e: &serde_json::Value| ["timestamp", "community_id", "pcap_filename"].map(|f| e[f].to_string()).join(" ");
        events.iter().filter(|e| e["event_type"] == "detection").map(of).collect()
    };
    let (live, offline) = (summaries(&live), summaries(&json_lines(&offline.stdout)));
    // Offline each capture has its own streams; a replay is one traffic in which the captures follow each other. Only the names are compared.
    let name = |line: &String| line.rsplit(' ').next().unwrap().to_string();
    assert_eq!(live.iter().map(name).collect::<Vec<_>>(), offline.iter().map(name).collect::<Vec<_>>());
    assert_eq!(live.iter().map(name).collect::<BTreeSet<_>>(), captures.iter().map(|c| format!("\"{c}\"")).collect());
}

#[test]
fn a_watched_folder_counts_its_captures_and_names_them_in_events() {
    let folder = tempfile::tempdir().unwrap();
    let incoming = folder.path().join("incoming");
    fs::create_dir(&incoming).unwrap();
    let file = settings(folder.path(), &format!("[watch]\nfolder = \"{}\"\non_success = \"delete\"\n", incoming.display()));
    let mut daemon = Running::start(&file, |_| {});
    for name in ["dns-1.pcap", "http-1.pcap"] {
        fs::copy(fixture("captures").join(name), incoming.join(name)).unwrap();
    }
    fs::write(incoming.join("text.pcap"), "no capture at all, but long enough to be one").unwrap();
    let status = daemon.wait("all captures are processed", |s| {
        s["interfaces"][0]["captures_read"] == 2 && s["interfaces"][0]["captures_refused"] == 1
    });
    assert_eq!(status["interfaces"][0]["name"], "watch");
    let reason = fs::read_to_string(incoming.join("unreadable/text.pcap.reason")).unwrap();
    assert!(reason.contains("not a pcap"), "{reason}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
    let named: BTreeSet<&str> =
        events.iter().filter(|e| e["event_type"] == "detection").filter_map(|e| e["pcap_filename"].as_str()).collect();
    let wanted = ["dns-1.pcap", "http-1.pcap"].map(|n| incoming.join(n).display().to_string());
    assert_eq!(named, wanted.iter().map(String::as_str).collect());
}

/// A pcap file with each record twice, as a mirror port would capture it.
fn doubled(file: &[u8]) -> Vec<u8> {
    let (header, mut rest) = file.split_at(24);
    let mut out = header.to_vec();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let (record, after) = rest.split_at(16 + length);
        out.extend([record, record].concat());
        rest = after;
    }
    out
}

#[test]
fn copies_of_a_mirror_port_are_counted_and_left_out_if_so_set() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("mirrored.pcap");
    fs::write(&capture, doubled(&fs::read(fixture("captures/dns-1.pcap")).unwrap())).unwrap();
    let replay =
        |repeat: u32, engine: &str| format!("[replay]\ncaptures = [{capture:?}]\nrepeat = {repeat}\n[engine]\n{engine}\n");
    let packets = [false, true].map(|drop| {
        let file = settings(folder.path(), &replay(1, &format!("drop_duplicates = {drop}")));
        spiked().args(["run", "--set", "replay.speed=0", "--config"]).arg(&file).assert().success();
        let events = json_lines(&fs::read(folder.path().join("events.json")).unwrap());
        fs::remove_file(folder.path().join("events.json")).unwrap();
        let of_flow =
            |e: &serde_json::Value| e["flow"]["pkts_toserver"].as_u64().unwrap() + e["flow"]["pkts_toclient"].as_u64().unwrap();
        events.iter().filter(|e| e["event_type"] == "stream").map(of_flow).sum::<u64>()
    });
    assert!(packets[1] > 0 && packets[0] == 2 * packets[1], "{packets:?}");

    let daemon = Running::start(&settings(folder.path(), &replay(0, "")), |_| {});
    let status = daemon.wait("frames were compared", |s| s["interfaces"][0]["compared"].as_u64() > Some(8));
    let [copies, compared] = ["copies", "compared"].map(|name| status["interfaces"][0][name].as_u64().unwrap());
    // A frame may be counted before its copy.
    assert!((compared / 2).abs_diff(copies) <= 1, "{status}");
}

/// A thread of a child process, stopped until this is dropped: a child with a traced thread can't be waited for.
struct Stopped(i32);

impl Stopped {
    fn stop(thread: i32) -> Option<Self> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: requests to a thread of our own child; none of them reads or writes memory.
        let stopped = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) == 0
        };
        stopped.then_some(Self(thread))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

/// A stuck worker: one thread of the daemon is stopped by ptrace.
#[test]
fn a_stuck_worker_stops_the_watchdogs_pings_until_it_moves() {
    let folder = tempfile::tempdir().unwrap();
    let capture = fixture("captures/mixed.pcapng").display().to_string();
    let file = settings(folder.path(), &format!("[replay]\ncaptures = [{capture:?}]\nrepeat = 0\n[engine]\nworkers = 2\n"));
    let socket = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut daemon = Running::start(&file, |command| {
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1500000");
    });
    let within = |limit: Duration, wanted: &str| {
        let (end, mut buffer) = (Instant::now() + limit, [0; 4096]);
        while Instant::now() < end {
            if let Ok(length) = systemd.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted)
            {
                return true;
            }
        }
        false
    };
    let notified = |wanted: &str| within(PATIENCE, wanted);
    assert!(notified("READY=1"));
    for _ in 0..3 {
        assert!(notified("WATCHDOG=1"), "the watchdog is notified while all workers make progress");
    }
    let worker = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten().find_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        (name.trim() == "spiked-worker-1").then(|| task.file_name().to_string_lossy().parse::<i32>().unwrap())
    });
    let worker = worker.expect("it has two workers");
    // While it sleeps: a thread that is stopped while it allocates blocks all others.
    let task = format!("/proc/{}/task/{worker}", daemon.pid());
    wait_for("the worker waits", || fs::read_to_string(format!("{task}/wchan")).ok().filter(|at| at.contains("futex")));
    let Some(stopped) = Stopped::stop(worker) else {
        return skip_without(KernelFeature::Ptrace, &std::io::Error::last_os_error());
    };
    daemon.wait("the worker is missed", |s| s["unhealthy"].to_string().contains("worker 1 has made no progress"));
    while within(Duration::from_millis(300), "WATCHDOG=1") {}
    assert!(!within(Duration::from_secs(2), "WATCHDOG=1"), "a stuck worker is fed");
    assert!(daemon.get("/healthz").unwrap().contains("worker 1"));
    drop(stopped);
    assert!(notified("WATCHDOG=1"), "the worker makes progress again but the watchdog is not notified");
    wait_for("health", || daemon.get("/healthz").filter(|body| body == "ok\n"));
    assert!(daemon.log().contains("watchdog notifications are suspended"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(notified("STOPPING=1"));
}
