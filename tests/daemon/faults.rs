//! Tests of faults: every event is delivered or counted, and the service recovers by itself. Sinks by themselves are tested in `sinks.rs`, clients of the metrics in `http.rs`, interfaces that vanish in `interfaces.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::net::{Daemon, Net, counted};
use crate::common::running::{Running, endless};
use crate::common::telemetry::Telemetry;
use crate::common::tiny::Tiny;
use crate::common::{fixture, json_lines, spiked, wait_for, wait_until};
use serde_json::Value;
use spiked::capture::{CaptureFile, FrameBatch, Source};
use spiked::model::Model;
use spiked::train::live::LearnedNeurons;

fn sink<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["sinks"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("{status}"))
}

fn lost(sink: &Value) -> u64 {
    sink["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

/// The counts at the end of the log: detections, and events written and lost of each sink.
fn account(log: &str, sink: &str) -> (u64, u64, u64) {
    let number = |line: &str, before: &str| -> u64 {
        let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("no '{before}' in {line}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let closed = log.lines().find(|l| l.contains("closed") && l.contains(sink)).unwrap_or_else(|| panic!("{log}"));
    let ended = log.lines().find(|l| l.contains("ended: ")).unwrap_or_else(|| panic!("{log}"));
    let detections = ended.rsplit("; ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    (detections, number(closed, "written="), number(closed, "lost="))
}

#[test]
fn a_full_disk_costs_events_and_evidence_that_are_counted_and_is_used_again_when_there_is_room() {
    let Some(tiny) = Tiny::mount(2 << 20) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(tiny.path().join("evidence")).unwrap();
    let ballast = tiny.path().join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let more = format!(
        "[[sinks]]\ntype = \"file\"\npath = \"{0}/eve.json\"\nevents = [\"detection\"]\nqueue = 64\n\
         [evidence]\nfolder = \"{0}/evidence\"\nfile_mib = 1\nfiles = 100\n[[policies]]\nclass = \"*\"\naction = \"alert\"\n",
        tiny.path().display()
    );
    let mut daemon = Running::start(&endless(folder.path(), &more), |_| {});
    let full = daemon.wait("the disk is full for both", |s| {
        sink(s, "file")["dropped"]["disk_full"].as_u64() > Some(0) && lost(sink(s, "evidence")) > 0
    });
    assert!(sink(&full, "file")["trouble"].is_string() && full["unhealthy"].is_null() && full["not_ready"].is_null());
    fs::remove_file(&ballast).unwrap();
    let written = |s: &Value, name: &str| sink(s, name)["written"].as_u64().unwrap();
    daemon.wait("both are written again", |s| {
        written(s, "file") > written(&full, "file") && written(s, "evidence") > written(&full, "evidence")
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let (detections, written, lost) = account(&daemon.log(), "sink=\"file\"");
    assert_eq!(written + lost, detections, "every detection is written or counted");
    let text = fs::read(tiny.path().join("eve.json")).unwrap();
    assert!(text.ends_with(b"\n"));
    assert_eq!(json_lines(&text).len() as u64, written);
    // Every packet counted as written is complete in a file.
    let mut packets = 0;
    for file in fs::read_dir(tiny.path().join("evidence")).unwrap().flatten() {
        let mut source = CaptureFile::open(&file.path()).unwrap();
        let mut batch = FrameBatch::new();
        while source.fill(&mut batch).unwrap() {
            packets += batch.len() as u64;
        }
        assert!(source.truncation().is_none(), "{file:?} is cut");
    }
    let closed = daemon.log().lines().find(|l| l.contains("evidence closed")).unwrap().to_string();
    assert!(closed.contains(&format!("written={packets} ")), "{packets} packets in files; {closed}");
}

#[test]
fn a_full_disk_leaves_the_old_model_and_is_reported() {
    let Some(tiny) = Tiny::mount(64 << 10) else { return };
    let model = tiny.path().join("site.safetensors");
    fs::write(&model, "what was there before").unwrap();
    fs::write(tiny.path().join("ballast"), vec![0; 40 << 10]).unwrap();
    spiked()
        .args(["model", "remove", "config/models/devices.safetensors", "Aria", "--out"])
        .arg(&model)
        .assert()
        .code(4)
        .stderr(predicates::str::contains("can't write the model: No space left"));
    assert_eq!(fs::read_to_string(&model).unwrap(), "what was there before");
    assert_eq!(fs::read_dir(tiny.path()).unwrap().count(), 2, "half a model was left");
}

#[test]
fn a_full_disk_leaves_the_old_checkpoint_and_is_reported() {
    let Some(tiny) = Tiny::mount(1 << 20) else { return };
    let [more, less] = two_checkpoints();
    less.save(tiny.path(), "site").unwrap();
    let there = || fs::read_dir(tiny.path()).unwrap().flatten().map(|f| (f.file_name(), fs::read(f.path()).unwrap()));
    let before: BTreeMap<_, _> = there().collect();
    assert_eq!(before.len(), 2);
    // The space left is less than both new files need, then less than the first of them.
    for left in [before.values().map(Vec::len).max().unwrap(), 0] {
        let ballast = tiny.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        file.set_len(file.metadata().unwrap().len() - left as u64).unwrap();
        let error = more.save(tiny.path(), "site").unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("site."), "{error}");
        fs::remove_file(&ballast).unwrap();
        let after: BTreeMap<_, _> = there().collect();
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "something half written was left");
        let found = LearnedNeurons::load(tiny.path(), "site").unwrap().unwrap();
        assert_eq!(found.part().unwrap().checksum(), less.part().unwrap().checksum(), "the neurons are the old ones");
    }
    more.save(tiny.path(), "site").unwrap();
}

#[test]
fn events_continue_after_their_file_is_removed_and_after_their_folder_is_created_again() {
    // A hardened daemon may write to the folder that existed at its start; a folder created later is another one.
    for harden in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("events");
        fs::create_dir(&events).unwrap();
        let more = format!(
            "harden = {harden}\n[[sinks]]\ntype = \"file\"\npath = \"{}/eve.json\"\nevents = [\"detection\"]\nqueue = 32\n",
            events.display()
        );
        let settings = endless(folder.path(), &more);
        let mut daemon = Running::start(&settings, |_| {});
        let file = events.join("eve.json");
        let grows = || fs::metadata(&file).is_ok_and(|m| m.len() > 0);
        wait_until("events are written", grows);
        fs::remove_file(&file).unwrap();
        wait_until("a removed file is created again", grows);
        fs::remove_dir_all(&events).unwrap();
        daemon.wait("the loss is counted and its reason reported", |s| {
            let reported = sink(s, "file")["trouble"].to_string().contains("was removed and can't be created again");
            reported && sink(s, "file")["dropped"]["disconnected"].as_u64() > Some(0)
        });
        fs::create_dir(&events).unwrap();
        let confined = daemon.log().contains("landlock: only the folders");
        if confined {
            // The service manager starts it again.
            assert_eq!(daemon.child.wait().unwrap().code(), Some(4), "{}", daemon.log());
            assert!(daemon.log().contains("the folder was replaced"), "{}", daemon.log());
        } else {
            wait_until("events are written into the new folder", grows);
            assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
        }
        let (detections, written, lost) = account(&daemon.log(), "sink=\"file\"");
        assert_eq!(written + lost, detections);
        if confined {
            let mut again = Running::start(&settings, |_| {});
            wait_until("events are written into the new folder", grows);
            assert_eq!(again.stop(), Some(0), "{}", again.log());
        }
    }
}

#[test]
fn a_sinks_reader_that_stalls_dies_and_returns_costs_only_what_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reader.sock");
    let more = format!(
        "[[sinks]]\ntype = \"unix\"\npath = \"{}\"\nevents = [\"detection\"]\nqueue = 32\n\
         [[sinks]]\ntype = \"file\"\npath = \"{}\"\nevents = [\"detection\"]\nqueue = 1048576\n",
        path.display(),
        folder.path().join("eve.json").display()
    );
    let mut daemon = Running::start(&endless(folder.path(), &more), |_| {});
    daemon.wait("nobody reads", |s| sink(s, "unix")["dropped"]["disconnected"].as_u64() > Some(0));
    let listener = UnixListener::bind(&path).unwrap();
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str::<Value>(&line).unwrap();
    // The reader stops reading.
    daemon.wait("it is slow", |s| sink(s, "unix")["dropped"]["slow"].as_u64() > Some(0));
    drop(reader);
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    for _ in 0..50 {
        line.clear();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap();
    }
    let reading = std::thread::spawn(move || reader.lines().count());
    daemon.wait("all is well", |s| sink(s, "unix")["trouble"].is_null());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    reading.join().unwrap();
    let (detections, written, lost) = account(&daemon.log(), "sink=\"unix\"");
    assert_eq!(written + lost, detections);
    assert_eq!(account(&daemon.log(), "sink=\"file\""), (detections, detections, 0), "the other sink does not notice");
}

/// Sets a resource limit of another process; returns the previous value.
fn limit(pid: i32, what: libc::__rlimit_resource_t, soft: u64) -> u64 {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both point to structures of ours that outlive the calls.
    unsafe {
        assert_eq!(libc::prlimit(pid, what, std::ptr::null(), &mut old), 0);
        let new = libc::rlimit { rlim_cur: soft, rlim_max: old.rlim_max };
        assert_eq!(libc::prlimit(pid, what, &new, std::ptr::null_mut()), 0);
    }
    old.rlim_cur
}

#[test]
fn without_free_descriptors_it_continues_and_it_answers_again_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("eve.json");
    let more = format!("[[sinks]]\ntype = \"file\"\npath = \"{}\"\nqueue = 1048576\n", events.display());
    let mut daemon = Running::start(&endless(folder.path(), &more), |_| {});
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64;
    let before = limit(daemon.pid(), libc::RLIMIT_NOFILE, open + 4);
    let clients: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
    wait_until("none is left", || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64 >= open + 4);
    // A reload has to open models and settings: it fails without a change. Events are still written.
    daemon.signal(libc::SIGHUP);
    wait_until("the reload fails", || daemon.log().contains("reload failed"));
    let length = fs::metadata(&events).unwrap().len();
    wait_until("events are written", || fs::metadata(&events).unwrap().len() > length);
    drop(clients);
    daemon.wait("it answers, within the same limit", |s| s["not_ready"].is_null() && s["reloads"]["failed"] == 1);
    limit(daemon.pid(), libc::RLIMIT_NOFILE, before);
    daemon.signal(libc::SIGHUP);
    daemon.wait("it reloads", |s| s["reloads"]["succeeded"] == 1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let (detections, written, lost) = account(&daemon.log(), "sink=\"file\"");
    assert_eq!((written, lost), (detections, 0));
}

#[test]
fn a_flood_of_streams_under_a_memory_limit_is_bounded_by_the_table_and_not_by_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    // A table for a million streams would hold the 120,000 streams, but needs more memory than the limit allows.
    let mut file = common::pcap(1, &[]);
    for number in 0..120_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let frame = common::udp([10, a, b, c], 40_000, [192, 0, 2, 1], 9, &[0; 12]);
        for word in [1_700_000_000 + number / 10_000, number % 10_000 * 100, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(folder.path().join("flood.pcap"), file).unwrap();
    let text = format!(
        "[replay]\ncaptures = [\"{0}/flood.pcap\", {1:?}]\nspeed = 40.0\nrepeat = 0\n[engine]\nstreams = 4096\n\
         [process]\nstatus_file = \"{0}/status.json\"\n",
        folder.path().display(),
        fixture("captures/mixed.pcapng")
    );
    let settings = folder.path().join("spiked.toml");
    fs::write(&settings, text).unwrap();
    let mut daemon = Running::start(&settings, |_| {});
    let size = || -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).unwrap();
        statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
    };
    let begun = size();
    limit(daemon.pid(), libc::RLIMIT_AS, begun + (48 << 20));
    let metric = |name: &str| -> u64 {
        let text = daemon.get("/metrics").unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64
    };
    wait_until("two floods have gone by", || metric("spiked_streams_ended_total{reason=\"evicted\"}") > 200_000);
    assert!(metric("spiked_streams_live") <= 4096, "{}", metric("spiked_streams_live"));
    assert_eq!(metric("spiked_packets_dropped_total{reason=\"worker_panic\"}"), 0);
    wait_for("streams are named after it", || daemon.status().filter(|s| s["totals"]["named"].as_u64() > Some(100)));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// The devices model, and the same model without its first class.
fn two_models() -> [Model; 2] {
    let model = Model::load(&fixture("../config/models/devices.safetensors")).unwrap();
    let other = model.without_classes(&[model.classes[0].clone()]).unwrap();
    [model, other]
}

/// Checkpoints of live teaching with two learned classes and with one, with the maximum number of anchors.
fn two_checkpoints() -> [LearnedNeurons; 2] {
    let all = Model::load(&fixture("../config/models/devices.safetensors")).unwrap();
    [2, 1].map(|learned| {
        let model = all.without_classes(&all.classes[learned..]).unwrap();
        let anchor = |class: usize| (0..32).map(|n| vec![(class * 32 + n) as u16 % 256; model.layout.slots().len()]).collect();
        let anchors = (0..).zip(&model.classes).map(|(number, class)| (class.clone(), anchor(number)));
        LearnedNeurons::of(&model, anchors.collect())
    })
}

// A kill during saving needs a process of its own: this test program, started again for this test.
#[test]
fn child_saves_models_until_killed() {
    let Some(folder) = std::env::var_os("SPIKED_TEST_MODELS").map(PathBuf::from) else { return };
    let models = two_models();
    loop {
        models.iter().for_each(|model| model.save(&folder.join("site.safetensors")).unwrap());
    }
}

#[test]
fn child_keeps_checkpoints_until_killed() {
    let Some(folder) = std::env::var_os("SPIKED_TEST_CHECKPOINTS").map(PathBuf::from) else { return };
    let checkpoints = two_checkpoints();
    loop {
        checkpoints.iter().for_each(|learned| learned.save(&folder, "site").unwrap());
    }
}

/// Kills a child of this program 100 times while it writes `site.safetensors` in a folder. `whole` checks the files each time and returns
/// which of the two versions it found.
fn kill_while_writing(child: &str, variable: &str, files: &[&str], whole: impl Fn(&Path) -> usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.safetensors");
    let (mut seen, mut halves) = ([0; 2], 0);
    let modified = || fs::metadata(&path).ok().and_then(|m| m.modified().ok());
    let others = || fs::read_dir(folder.path()).unwrap().flatten().filter(|f| files.iter().all(|name| f.file_name() != *name));
    for round in 0..100 {
        let before = modified();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("faults::{child}"), "--quiet"])
            .env(variable, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("it saves", || modified() != before);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_micros(500 * round));
        } else {
            // Independent of the time that writing takes on this machine.
            wait_for("it is in the middle", || others().next());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        seen[whole(folder.path())] += 1;
        for half in others() {
            let name = half.file_name().into_string().unwrap();
            assert!(name.starts_with(".site.") && name.ends_with(".half"), "{name} could be taken for something whole");
            fs::remove_file(half.path()).unwrap();
            halves += 1;
        }
    }
    eprintln!("100 kills: {seen:?} times the one and the other, {halves} in the middle of writing");
    assert!(seen.iter().all(|&n| n > 0) && halves > 10, "the kills did not come in the middle: {seen:?}, {halves}");
}

#[test]
fn killed_while_a_model_is_written_the_file_is_the_old_or_the_new_one_whole() {
    let sums = two_models().map(|model| model.checksum());
    kill_while_writing("child_saves_models_until_killed", "SPIKED_TEST_MODELS", &["site.safetensors"], |folder| {
        let found = Model::load(&folder.join("site.safetensors")).unwrap();
        sums.iter().position(|sum| *sum == found.checksum()).expect("the old or the new model")
    });
}

#[test]
fn killed_while_a_checkpoint_is_written_each_of_its_files_is_the_old_or_the_new_one_whole() {
    let parts = two_checkpoints().map(|learned| learned.part().unwrap().checksum());
    let files = ["site.safetensors", "site.anchors.json"];
    kill_while_writing("child_keeps_checkpoints_until_killed", "SPIKED_TEST_CHECKPOINTS", &files, |folder| {
        let anchors: serde_json::Map<String, Value> =
            serde_json::from_slice(&fs::read(folder.join("site.anchors.json")).unwrap()).unwrap();
        assert!([1, 2].contains(&anchors.len()));
        assert!(anchors.values().all(|streams| streams.as_array().unwrap().len() == 32), "anchors were lost");
        let found = LearnedNeurons::load(folder, "site").unwrap().expect("a checkpoint").part().unwrap().checksum();
        parts.iter().position(|part| *part == found).expect("the old or the new neurons")
    });
}

#[test]
fn an_interface_that_is_taken_down_and_up_is_captured_again() {
    let Some(net) = Net::new() else { return };
    let settings = net.settings(&["b"], "");
    let mut daemon = Daemon::start(&net, &settings);
    let capture = fixture("captures/dns-1.pcap");
    let mut sent = 0;
    for _ in 0..3 {
        sent += net.replay("a", &capture, &["--topspeed"]);
        daemon.wait("all is counted", |s| counted(&s["interfaces"][0]) == (sent, 0));
        net.shell("ip link set dev b down");
        // Time for which it is down; libpcap may not report the loss, so the status need not show it.
        std::thread::sleep(Duration::from_millis(300));
        net.shell("ip link set dev b up");
        // The kernel drops packets sent before both ends have a carrier.
        wait_until("both ends are up", || net.shell("cat /sys/class/net/[ab]/operstate").stdout == b"up\nup\n");
        daemon.wait("it is up", |s| s["interfaces"][0]["up"] == true);
    }
    sent += net.replay("a", &capture, &["--topspeed"]);
    daemon.wait("it is counted again", |s| counted(&s["interfaces"][0]) == (sent, 0));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// Names that contain markup, a closing quote, an escape, a template.
const HOSTILE: [&str; 5] =
    ["<script>alert(1)</script>", "\"} 1\\nforged_metric{x=\"", "'><img src=x>", "a\\", "{{7*7}}${x}%s&amp;"];

/// Names that a model may not have, since names are shown on terminals and in logs.
const REFUSED: [&str; 3] = ["x\n2026-01-01T00:00:00Z ERROR forged", "red\u{1b}[31m\u{7}", "a\r\nb"];

/// The built-in model with hostile names for the first classes and for the classes of the fixtures.
fn hostile_model() -> Model {
    let mut model = Model::built_in().unwrap();
    let wanted = ["dns", "http", "ssh", "ntp", "mqtt"];
    for (hostile, wanted) in HOSTILE.iter().zip(wanted) {
        for class in model.classes.iter_mut().filter(|c| *c == wanted) {
            *class = (*hostile).to_string();
        }
    }
    assert!(HOSTILE.iter().all(|h| model.classes.iter().any(|c| c == h)), "{:?}", model.classes);
    model
}

#[test]
fn hostile_names_of_classes_stay_names_in_metrics_report_events_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("hostile.safetensors");
    hostile_model().save(&model).unwrap();
    // Metrics: no line begins with a name.
    let telemetry = Telemetry::new(vec![Arc::new(hostile_model())]);
    telemetry.replay("mixed.pcapng");
    let text = telemetry.text();
    assert!(!text.lines().any(|l| l.starts_with("forged_metric")), "a name began a line");
    assert!(text.contains(r#"class="\"} 1\\nforged_metric{x=\"""#));
    // Names with control characters are rejected, in models and in labels.
    for refused in REFUSED {
        let mut wrong = hostile_model();
        wrong.classes[0] = refused.into();
        let file = folder.path().join("refused.safetensors");
        wrong.save(&file).unwrap();
        let mut read = spiked();
        read.args(["read", "--model"]).arg(&file).arg(fixture("captures/dns-1.pcap"));
        let printed = read.assert().code(2).get_output().stderr.clone();
        assert!(String::from_utf8_lossy(&printed).contains("contains control characters"));
        assert!(!printed[..printed.len() - 1].iter().any(u8::is_ascii_control), "{}", String::from_utf8_lossy(&printed));
        let labels = format!("{refused}={}", fixture("captures/dns-1.pcap").display());
        let mut train = spiked();
        train.args(["train", "--class", &labels, "--class", "b=fixtures/captures/ssh-1.pcap", "--out"]).arg(&file);
        train.assert().code(2).stderr(predicates::str::contains("contains control characters"));
    }
    // The page without scripts.
    let page = folder.path().join("report.html");
    let capture = fixture("captures/mixed.pcapng");
    let mut report = spiked();
    report.args(["report", "--model"]).arg(&model).arg("--raster").arg(&capture).arg("--out").arg(&page).assert().success();
    let page = fs::read_to_string(&page).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "markup from a name");
    // Events, syslog and journal, through the daemon; and the log, which also contains a file name.
    let (log, incoming) = (folder.path().join("log.sock"), folder.path().join("incoming"));
    let syslog = UnixDatagram::bind(&log).unwrap();
    syslog.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    fs::create_dir(&incoming).unwrap();
    let forged = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[31m.pcap";
    fs::copy(&capture, incoming.join(forged)).unwrap();
    let settings = folder.path().join("spiked.toml");
    let text = format!(
        "models = [\"{0}/hostile.safetensors\"]\n[watch]\nfolder = \"{0}/incoming\"\nsettle_secs = 1\non_success = \"delete\"\n\
         [[sinks]]\ntype = \"file\"\npath = \"{0}/eve.json\"\n[[sinks]]\ntype = \"syslog\"\npath = \"{0}/log.sock\"\n\
         [process]\nstatus_file = \"{0}/status.json\"\n",
        folder.path().display()
    );
    fs::write(&settings, text).unwrap();
    let mut daemon = Running::start(&settings, |_| {});
    daemon.wait("the capture is read", |s| s["interfaces"][0]["captures_read"] == 1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let events = json_lines(&fs::read(folder.path().join("eve.json")).unwrap());
    for hostile in HOSTILE {
        assert!(events.iter().any(|e| e["spiked"]["class"] == hostile), "no stream is {hostile:?}");
    }
    assert!(events.iter().all(|e| e["pcap_filename"].as_str().unwrap().ends_with(forged)));
    let mut buffer = [0; 8192];
    for _ in 0..events.len().min(5) {
        let length = syslog.recv(&mut buffer).unwrap();
        assert!(!buffer[..length].iter().any(u8::is_ascii_control), "{}", String::from_utf8_lossy(&buffer[..length]));
    }
    let printed = daemon.log();
    assert!(printed.contains("capture read") && printed.contains("\\x1b[31m"), "{printed}");
    let own = |line: &str| !line.starts_with("2026-01-01T00:00:00Z ERROR forged") && !line.contains('\u{1b}');
    assert!(printed.lines().all(own), "a file name begins a line of the log: {printed}");
}
