//! The daemon on real interfaces: veth pairs in network namespaces that each test makes and removes. Needs root, `ip` and `tcpreplay`;
//! skipped, saying so, where one of them is not there.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A namespace with a veth pair `a` and `b`, and a folder; gone when dropped.
struct Net {
    name: String,
    folder: tempfile::TempDir,
}

impl Net {
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: getuid only reads.
        if unsafe { libc::getuid() } != 0 {
            eprintln!("skipped: only root makes network namespaces");
            return None;
        }
        for tool in ["ip", "tcpreplay"] {
            if Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                eprintln!("skipped: {tool} is not installed");
                return None;
            }
        }
        let name = format!("spiked-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        if !Command::new("ip").args(["netns", "add", &name]).status().is_ok_and(|s| s.success()) {
            eprintln!("skipped: this machine gives no network namespace");
            return None;
        }
        let net = Self { name, folder: tempfile::tempdir().expect("a folder") };
        // Silence the kernel's own packets: only what is replayed is counted.
        net.shell("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1; ip link set lo up");
        net.pair("a", "b");
        Some(net)
    }

    fn pair(&self, a: &str, b: &str) {
        self.shell(&format!(
            "ip link add name {a} mtu 65535 type veth peer name {b} mtu 65535; ip link set dev {a} up; ip link set dev {b} up"
        ));
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn shell(&self, script: &str) -> Output {
        let output = self.inside("sh").args(["-ec", script]).output().expect("sh");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Replays a capture into an interface; returns how many packets went out.
    fn replay(&self, interface: &str, capture: &Path, options: &[&str]) -> u64 {
        let output = self.inside("tcpreplay").args(["-i", interface]).args(options).arg(capture).output().expect("tcpreplay");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.contains("Successful packets")).unwrap_or_else(|| panic!("{output:?}"));
        line.rsplit(' ').find(|w| !w.is_empty()).and_then(|n| n.parse().ok()).expect("a number")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Settings for the interfaces, with `more` after them.
    fn settings(&self, interfaces: &[&str], more: &str) -> PathBuf {
        let mut text = String::new();
        for interface in interfaces {
            text += &format!("[[interfaces]]\nname = \"{interface}\"\n");
        }
        let (events, status) = (self.path("eve.json"), self.path("status.json"));
        text += &format!(
            "[[sinks]]\ntype = \"file\"\npath = \"{}\"\nevents = [\"detection\", \"alert\", \"stream\"]\nqueue = 1048576\n\
             [process]\nstatus_file = \"{}\"\n[capture]\nbatch_millis = 20\nretry_max_secs = 1\n{more}\n",
            events.display(),
            status.display()
        );
        let path = self.path("spiked.toml");
        fs::write(&path, text).expect("written");
        path
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read(self.path("eve.json")).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is not whole");
        common::json_lines(&text).into_iter().filter(|e| e["event_type"] == kind).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A running daemon; killed when dropped.
struct Daemon<'a> {
    net: &'a Net,
    child: Child,
}

impl<'a> Daemon<'a> {
    fn start(net: &'a Net, settings: &Path) -> Self {
        let log = fs::File::create(net.path("log")).expect("a file");
        let child =
            net.inside(env!("CARGO_BIN_EXE_spiked")).args(["run", "--config"]).arg(settings).stderr(log).spawn().expect("spiked");
        let daemon = Self { net, child };
        daemon.wait("it is ready", |s| s["not_ready"].is_null());
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.net.path("log")).unwrap_or_default()
    }

    fn status(&self) -> Option<Value> {
        let script = "exec 3<>/dev/tcp/127.0.0.1/9184; printf 'GET /status HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let output = self.net.inside("bash").args(["-c", script]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(30);
        let mut last = None;
        while Instant::now() < until {
            last = self.status();
            if let Some(status) = last.as_ref().filter(|s| is(s)) {
                return status.clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("never: {what}: {last:?}\n{}", self.log());
    }

    fn pid(&self) -> i32 {
        // `ip netns exec` becomes the program.
        i32::try_from(self.child.id()).expect("a process number")
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe {
            libc::kill(self.pid(), signal);
        }
    }

    /// SIGTERM; returns the exit code and how long it took.
    fn stop(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.signal(libc::SIGTERM);
        let status = self.child.wait().expect("a child");
        (status.code(), began.elapsed())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn counted(interface: &Value) -> (u64, u64) {
    let dropped = interface["dropped"].as_object().expect("by reason").values().filter_map(Value::as_u64).sum();
    (interface["received"].as_u64().expect("a number"), dropped)
}

/// What is said of each stream, whenever that was.
fn said(events: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for e in events {
        let key = ["src_ip", "src_port", "dest_ip", "dest_port", "proto", "vlan"].map(|f| e[f].to_string()).join(" ");
        // Not the octets: of frames that a capture holds cut, tcpreplay sends what it holds.
        let said = ["class", "best", "confidence", "evidence", "scored", "packets"].map(|f| e["spiked"][f].to_string());
        streams.entry(key).or_default().push(said.join(" "));
    }
    streams.values_mut().for_each(|s| s.sort());
    streams
}

/// Holds the streams of one to those of the other, and names those that differ.
fn assert_alike(live: &[Value], offline: &[Value], capture: &Path) {
    let (live, wanted) = (said(live), said(offline));
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

#[test]
fn every_packet_is_counted_and_streams_are_named_as_offline() {
    let Some(net) = Net::new() else { return };
    let mut captures = vec![common::fixture("captures/mixed.pcapng")];
    if let Some(shared) = common::shared_data() {
        // Captures whose streams do not outlast a pause longer than the time-out, which a replay flat out has not got.
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
        assert_eq!(daemon.stop().0, Some(0), "{}", daemon.log());
        assert_alike(&net.events("stream"), &offline(capture), capture);
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
    assert_eq!(counted(&status["interfaces"][0]), (sent, 0));
    assert_eq!(status["reloads"]["succeeded"], reloads);
    // The command's own check refuses a bad file; the signal alone leaves the old state, and says so.
    fs::write(&settings, format!("{good}\n[engine]\nworkerz = 1\n")).expect("written");
    let refused = reload();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("workerz"), "{refused:?}");
    daemon.signal(libc::SIGHUP);
    let status = daemon.wait("the failed reload is told", |s| s["reloads"]["failed"] == 1);
    assert!(status["reloads"]["trouble"].to_string().contains("workerz"), "{status}");
    assert!(daemon.log().contains("reload failed"), "{}", daemon.log());
    // What needs a restart is named.
    fs::write(&settings, format!("{good}\n[engine]\nworkers = 1\n")).expect("written");
    let waits = reload();
    assert!(String::from_utf8_lossy(&waits.stdout).contains("waits for a restart: engine"), "{waits:?}");
    assert_eq!(daemon.stop().0, Some(0), "{}", daemon.log());
    assert!(!net.path("status.json").exists());
}

#[test]
fn an_interface_that_goes_is_picked_up_again_and_the_others_do_not_notice() {
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
    assert_eq!(daemon.stop().0, Some(0), "{log}");
}

#[test]
fn sigterm_under_load_ends_within_five_seconds_with_all_streams_written() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "[[policies]]\nclass = \"*\"\naction = \"alert\"\n[alerts]\nper_minute = 1\n");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = common::fixture("captures/mixed.pcapng");
    let sent = net.replay("a", &capture, &["--topspeed", "--loop", "20"]);
    daemon.signal(libc::SIGUSR1);
    let (code, took) = daemon.stop();
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let packets: u64 = net.events("stream").iter().filter_map(|e| e["spiked"]["packets"].as_u64()).sum();
    let log = daemon.log();
    assert!(log.contains("dropped 0 by the kernel, 0 by interfaces, 0 at the queue"), "{log}");
    assert_eq!(packets, sent, "{log}");
    assert!(log.contains("state of an input"), "{log}");
    // One alert a minute for each class and host, of which there are but a few.
    let (alerts, detections) = (net.events("alert").len(), net.events("detection").len());
    assert!(alerts > 0 && alerts < detections, "{alerts} alerts, {detections} detections");
}

#[test]
fn several_capture_threads_share_the_flows_out() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "");
    let text = fs::read_to_string(&settings).expect("there").replace("name = \"b\"\n", "name = \"b\"\nthreads = 3\n");
    fs::write(&settings, text).expect("written");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = common::fixture("captures/mixed.pcapng");
    let sent = net.replay("a", &capture, &["--topspeed"]);
    daemon.wait("each is counted once", |s| counted(&s["interfaces"][0]) == (sent, 0));
    assert_eq!(daemon.stop().0, Some(0));
    assert_alike(&net.events("stream"), &offline(&capture), &capture);
}

/// Resident octets and open descriptors.
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
        "[replay]\ncaptures = [\"{}\"]\nspeed = 0.0\nrounds = 0\n\
         [engine]\nstreams = 4096\n[process]\nstatus_file = \"{}\"\nharden = false\n",
        common::fixture("captures/mixed.pcapng").display(),
        net.path("status.json").display()
    );
    fs::write(&settings, text).expect("written");
    let mut daemon = Daemon::start(&net, &settings);
    std::thread::sleep(Duration::from_secs(4));
    let (before, begun) = (usage(daemon.pid()), daemon.wait("it runs", |_| true));
    std::thread::sleep(Duration::from_secs(12));
    let (after, ended) = (usage(daemon.pid()), daemon.wait("it runs", |_| true));
    let frames = counted(&ended["interfaces"][0]).0 - counted(&begun["interfaces"][0]).0;
    eprintln!("{frames} frames; octets resident and descriptors before {before:?}, after {after:?}");
    assert!(frames > 500_000, "only {frames} frames");
    assert!(after.0 < before.0 + (8 << 20), "memory grows: {before:?} to {after:?} in {frames} frames");
    assert_eq!(after.1, before.1, "descriptors leak");
    assert_eq!(daemon.stop().0, Some(0), "{}", daemon.log());
}
