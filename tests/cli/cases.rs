//! The program on every capture of the shared cases, against what their expectations state: exit code, streams, packets, VLANs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{in_gtp, json_lines, pcap, skip, spiked, tcp, udp};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;

const DNS: &str = "UDP 192.0.2.10:40000 198.51.100.20:53";
const HTTP: &str = "TCP 192.0.2.10:40001 198.51.100.20:80";

/// The folder of the shared cases; reports a skip if it is absent.
fn shared_cases() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases");
    if path.is_dir() {
        return Some(path);
    }
    skip("the captures in ../shared/cases");
    None
}

/// Ends of the tunnels in the shared cases.
const TUNNEL_ENDS: [&str; 2] = ["203.0.113.1", "2001:db8::1 "];

/// Streams as lines of ends, VLANs and packets, sorted, and the exit code. Tunnels are streams too.
fn streams(capture: &Path, options: &[&str]) -> (Vec<String>, Option<i32>) {
    let output = spiked()
        .args(["read", "--quiet", "--events", "streams", "--format", "jsonl"])
        .args(options)
        .arg(capture)
        .output()
        .unwrap();
    let mut lines: Vec<String> = json_lines(&output.stdout)
        .iter()
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_string();
            let port = |key: &str| event[key].as_u64().map(|port| format!(":{port}")).unwrap_or_default();
            let vlan = event.get("vlan").map(|vlan| format!(" {vlan}")).unwrap_or_default();
            let packets = ["pkts_toserver", "pkts_toclient"].map(|key| event["flow"][key].as_u64().unwrap_or(0));
            let [from, to] = [("src_ip", "src_port"), ("dest_ip", "dest_port")].map(|(ip, p)| text(ip) + &port(p));
            format!("{} {from} {to}{vlan}: {}", text("proto"), packets[0] + packets[1])
        })
        .collect();
    lines.sort();
    (lines, output.status.code())
}

/// What differs from one DNS stream of 2 packets, the value of all link types and encapsulations.
fn expectations() -> BTreeMap<&'static str, Vec<String>> {
    let one = |ends: &str, packets: u32| vec![format!("{ends}: {packets}")];
    let mut cases = BTreeMap::from([
        ("encap-802.1ah.pcap", vec![format!("{DNS} [9]: 2")]),
        ("encap-qinq-two-customers.pcap", [11, 12].map(|inner| format!("{DNS} [500,{inner}]: 2")).into()),
        ("encap-vlan-9200.pcap", vec![format!("{DNS} [5]: 2")]),
        ("encap-vlan-one-way.pcap", vec![format!("{DNS} [100]: 1"), "UDP 198.51.100.20:53 192.0.2.10:40000: 1".into()]),
        ("tcp-port-reuse-unclosed.pcap", vec![format!("{HTTP}: 5"), format!("{HTTP}: 8")]),
        ("tcp-syn-after-fin.pcap", one(HTTP, 8)),
        ("tcp-midstream-server-first.pcap", one(HTTP, 4)),
        ("clocks-an-hour-apart.pcapng", one(DNS, 8)),
        ("span-duplicates.pcap", one(HTTP, 16)),
        (
            "udp-lite.pcap",
            ["40000 198.51.100.20:5004: 1", "40002 198.51.100.20:5006: 1"].map(|s| format!("UDP-Lite 192.0.2.10:{s}")).into(),
        ),
    ]);
    let four = [
        "fragments-ports-in-first.pcap",
        "packed.pcap.xz",
        "packed.pcap.lz4",
        "snoop.snoop",
        "ethernet.erf",
        "version-2.2-swapped-lengths.pcap",
        "tsresol-1e-30.pcapng",
        "spb-snap0.pcapng",
        "spb-between-epb.pcapng",
        "every-block.pcapng",
        "gz-trailing-zeros.pcap.gz",
    ];
    cases.extend(four.map(|name| (name, one(DNS, 4))));
    cases
}

/// Cases whose expectation is debatable (keepalive), or stated elsewhere (Community ID).
const NOT_COMPARED: [&str; 2] = ["tcp-keepalive-2h.pcap", "icmp-echo-and-error.pcap"];

#[test]
fn shared_cases_give_the_expected_streams() {
    let Some(folder) = shared_cases() else { return };
    let expectations = expectations();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_script = [".py", ".sh", ".md"].iter().any(|end| name.ends_with(end));
        if !path.is_file() || is_script || NOT_COMPARED.contains(&name.as_str()) {
            continue;
        }
        let expected = expectations.get(name.as_str()).cloned().unwrap_or_else(|| vec![format!("{DNS}: 2")]);
        let mut found = streams(&path, &[]);
        // The expectations are of the innermost packets.
        found.0.retain(|line| TUNNEL_ENDS.iter().all(|end| !line.contains(end)));
        if found != (expected.clone(), Some(0)) {
            wrong.push(format!("{name}: {found:?}, expected {expected:?}"));
        }
        count += 1;
    }
    assert!(count > 0 && wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn copies_of_mirror_ports_are_reported_and_left_out() {
    let flood = "duplicates: 1166 of 2441 packets, identical to one shortly before";
    spiked().args(["read", "fixtures/behaviours/test/flood.udp-7.pcap.zst"]).assert().code(0).stdout(contains(flood));
    let Some(folder) = shared_cases() else { return };
    let path = folder.join("span-duplicates.pcap");
    let what = "duplicates: 8 of 16 packets, identical to one shortly before (a mirror port, or a program that repeats itself); ";
    let hint = format!("{what}--drop-duplicates leaves duplicates out\n");
    spiked().arg("read").arg(&path).assert().code(0).stdout(contains(hint));
    assert_eq!(streams(&path, &["--drop-duplicates"]), (vec![format!("{HTTP}: 8")], Some(0)));
    spiked().args(["read", "--drop-duplicates"]).arg(&path).assert().code(0).stdout(contains(format!("{what}left out\n")));
}

#[test]
fn vlans_are_left_out_of_the_key_if_so_set() {
    let Some(folder) = shared_cases() else { return };
    for (name, packets) in [("encap-vlan-one-way.pcap", 2), ("encap-qinq-two-customers.pcap", 4)] {
        assert_eq!(streams(&folder.join(name), &["--ignore-vlan"]), (vec![format!("{DNS}: {packets}")], Some(0)), "{name}");
    }
}

/// An Ethernet frame of one UDP datagram from 192.0.2.10 behind VLAN tags.
fn tagged(tags: &[u16]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    tags.iter().for_each(|tag| frame.extend([&[0x81, 0], &tag.to_be_bytes()[..]].concat()));
    frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 10, 198, 51, 100, 20]);
    frame.extend([0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

#[test]
fn three_vlan_tags_are_in_the_key_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qinqinq.pcap");
    let frames = [&[500, 11, 12][..], &[500, 11, 13], &[500, 11, 12], &[500, 11, 12, 14]].map(tagged);
    std::fs::write(&path, pcap(1, &frames)).unwrap();
    let expected = vec![format!("{DNS} [500,11,12]: 3"), format!("{DNS} [500,11,13]: 1")];
    assert_eq!(streams(&path, &[]), (expected, Some(0)));
    assert_eq!(streams(&path, &["--ignore-vlan"]), (vec![format!("{DNS}: 4")], Some(0)));
}

/// A pcapng capture: interfaces with their names, and packets with the number of their interface, a second apart.
fn pcapng(interfaces: &[Option<&str>], packets: &[u32], first: u64) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len().next_multiple_of(4) + 12) as u32;
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        [&kind.to_le_bytes(), &length.to_le_bytes(), body, &padding, &length.to_le_bytes()].concat()
    };
    let mut file = block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    for name in interfaces {
        let mut body = vec![1, 0, 0, 0, 0, 0, 4, 0];
        if let Some(name) = name {
            body.extend([&[2, 0], &(name.len() as u16).to_le_bytes()[..], name.as_bytes()].concat());
            body.resize(body.len().next_multiple_of(4), 0);
            body.extend([0; 4]);
        }
        file.extend(block(1, &body));
    }
    for (number, interface) in packets.iter().enumerate() {
        let (frame, micros) = (tagged(&[]), (first + number as u64) * 1_000_000);
        let words = [*interface, (micros >> 32) as u32, micros as u32, frame.len() as u32, frame.len() as u32];
        let body = [words.map(u32::to_le_bytes).concat(), frame].concat();
        file.extend(block(6, &body));
    }
    file
}

#[test]
fn the_table_says_that_packets_in_tunnels_count_in_several_streams() {
    let folder = tempfile::tempdir().unwrap();
    let plain: Vec<_> = (0..4).map(|n| udp([10, 0, 0, 1], 4000, [10, 0, 0, 2], 53, &[n; 20])).collect();
    let told = contains("\n4 packets, 392 bytes in 1 capture\npackets in tunnels are counted above in the tunnel's stream");
    let read = |name: &str, frames: &[Vec<u8>]| {
        let path = folder.path().join(name);
        std::fs::write(&path, pcap(1, frames)).unwrap();
        spiked().arg("read").arg(path).assert().code(0)
    };
    read("gtp.pcap", &plain.iter().map(|frame| in_gtp(frame)).collect::<Vec<_>>()).stdout(told);
    read("plain.pcap", &plain).stdout(contains("tunnel").not());
}

/// Interface and packets of each stream.
fn by_interface(paths: &[&Path], options: &[&str]) -> Vec<(String, u64)> {
    let arguments = ["read", "--quiet", "--events", "streams", "--format", "jsonl"];
    let output = spiked().args(arguments).args(options).args(paths).output().unwrap();
    let events = json_lines(&output.stdout);
    let packets = |event: &serde_json::Value| event["flow"]["pkts_toserver"].as_u64().unwrap();
    let mut found: Vec<_> =
        events.iter().map(|event| (event["in_iface"].as_str().unwrap_or("-").to_owned(), packets(event))).collect();
    found.sort();
    found
}

#[test]
fn interfaces_of_one_file_are_named_and_may_be_in_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: Vec<u8>| {
        std::fs::write(folder.path().join(name), content).unwrap();
        folder.path().join(name)
    };
    let one =
        file("one.pcapng", pcapng(&[Some("eth0"), Some("eth1"), None, Some("eth0")], &[0, 1, 0, 2, 1, 0, 3], 1_700_000_000));
    let of = |name: &str, packets| (name.to_owned(), packets);
    assert_eq!(by_interface(&[&one], &[]), [of("eth0", 7)], "not in the key: the interface of the first packet");
    let apart = [of("2", 1), of("eth0", 1), of("eth0", 3), of("eth1", 2)];
    assert_eq!(by_interface(&[&one], &["--interface-in-key"]), apart, "two interfaces of one name are two");
    // The next file of the same capture describes its interfaces in another order.
    let next = file("two.pcapng", pcapng(&[Some("eth1"), Some("eth0")], &[0, 0, 1], 1_700_000_010));
    let both = [of("2", 1), of("eth0", 1), of("eth0", 4), of("eth1", 4)];
    assert_eq!(by_interface(&[&one, &next], &["--interface-in-key"]), both);
    let each = by_interface(&[&one, &next], &["--interface-in-key", "--each-file"]);
    assert_eq!(each.len(), 6);
    // What is learned is what is read.
    let features = |options: &[&str]| {
        let class = format!("a={}", one.display());
        let output = spiked().args(["features", "--class", &class]).args(options).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .skip(1)
            .map(|line| line.split(',').next().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    assert_eq!((features(&[]), features(&["--interface-in-key"])), (1, 4));
    let plain = file("plain.pcap", pcap(1, &[tagged(&[7])]));
    let note = "plain.pcap: the file does not name interfaces (pcapng does): --interface-in-key has no effect on it";
    spiked().args(["read", "--interface-in-key"]).arg(&plain).assert().code(0).stdout(contains(note));
}

#[test]
fn the_daemon_names_the_interfaces_of_captures_and_may_have_them_in_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("one.pcapng"), pcapng(&[Some("eth0"), Some("eth1")], &[0, 1, 0, 1, 1], 1_700_000_000)).unwrap();
    let text = format!(
        "[replay]\ncaptures = [{:?}]\n[[sinks]]\ntype = \"file\"\nevents = [\"stream\"]\npath = {:?}\n[metrics]\nenabled = false\n[process]\nstatus_file = {:?}\n",
        at("one.pcapng"),
        at("events.json"),
        at("status"),
    );
    std::fs::write(at("spiked.toml"), text).unwrap();
    // As fast as possible, and at a pace: frames are then handed on one by one.
    for speed in ["0", "100"] {
        for (in_key, wanted) in [(false, vec![("eth0", 5)]), (true, vec![("eth0", 2), ("eth1", 3)])] {
            let set = [format!("replay.speed={speed}"), format!("engine.interface_in_key={in_key}")];
            spiked()
                .args(["run", "--config"])
                .arg(at("spiked.toml"))
                .args(["--set", &set[0], "--set", &set[1]])
                .assert()
                .success();
            let events = json_lines(&std::fs::read(at("events.json")).unwrap());
            std::fs::remove_file(at("events.json")).unwrap();
            let streams = events.iter().filter(|event| event["event_type"] == "stream");
            let of =
                |e: &serde_json::Value| (e["in_iface"].as_str().unwrap_or("-").to_owned(), e["flow"]["pkts_toserver"].as_u64());
            let mut found: Vec<_> = streams.map(of).collect();
            found.sort();
            let wanted: Vec<_> = wanted.into_iter().map(|(name, packets)| (name.to_owned(), Some(packets))).collect();
            assert_eq!(found, wanted, "speed {speed}, in the key: {in_key}");
        }
    }
}

/// `gzip -9 spool.pcap` writes a header whose time, compression level and file name look like those of an ERF record.
#[test]
fn a_gzip_header_that_looks_like_an_erf_record_is_that_of_a_gzip_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("spool.pcap"), pcap(1, &[tagged(&[])])).unwrap();
    let zipped = std::process::Command::new("gzip").args(["-9", "spool.pcap"]).current_dir(&folder).status();
    if !zipped.is_ok_and(|status| status.success()) {
        return skip("gzip");
    }
    let path = folder.path().join("spool.pcap.gz");
    let header = std::fs::read(&path).unwrap();
    assert_eq!((&header[..4], header[8], &header[10..12]), (&[0x1f, 0x8b, 8, 8][..], 2, &b"sp"[..]));
    assert_eq!(streams(&path, &[]), (vec![format!("{DNS}: 1")], Some(0)));
}

#[test]
fn training_reads_packets_as_reading_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vlans.pcap");
    let frames = [&[7][..], &[8], &[7], &[7]].map(tagged);
    std::fs::write(&path, pcap(1, &frames)).unwrap();
    let class = format!("a={}", path.display());
    for (options, streams) in [(&[][..], 2), (&["--ignore-vlan"], 1)] {
        let output = spiked().args(["features", "--class", &class]).args(options).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let found: std::collections::BTreeSet<_> = text.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(found.len(), streams, "{options:?}");
    }
    let numbered = ["learn", "--packet", "1", "--class", "x", "--drop-duplicates", "--out", "x.safetensors", "--from"];
    let message = "--drop-duplicates changes the numbers of packets; leave it out with --packet";
    spiked().current_dir(&folder).args(numbered).arg(&path).assert().failure().stderr(contains(message));
}

/// Years of the timestamps of a capture whose packets have no time.
#[test]
fn packets_without_any_time_are_dated_by_their_file() {
    let Some(folder) = shared_cases() else { return };
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("spb-snap0.pcapng");
    std::fs::copy(folder.join("spb-snap0.pcapng"), &path).unwrap();
    let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    let output = spiked().args(["read", "--quiet", "--events", "streams", "--format", "jsonl"]).arg(&path).output().unwrap();
    let [event] = &json_lines(&output.stdout)[..] else { panic!("one stream") };
    assert_eq!(event["timestamp"], "2023-11-14T22:13:20.000000+0000");
}

#[test]
fn which_tunnels_are_opened_and_how_deep_is_an_option() {
    let Some(folder) = shared_cases() else { return };
    let of = |name: &str, options: &[&str]| streams(&folder.join(name), options).0;
    let deep = "encap-vxlan-in-gre-two-deep.pcap";
    let [gre, vxlan] = ["GRE 203.0.113.1 203.0.113.2: 2", "UDP 203.0.113.1:50000 203.0.113.2:4789: 2"];
    assert_eq!(of(deep, &[]), [gre, &format!("{DNS}: 2"), vxlan]);
    assert_eq!(of(deep, &["--tunnel-depth", "0"]), [gre]);
    assert_eq!(of(deep, &["--no-tunnels"]), [gre]);
    assert_eq!(of(deep, &["--tunnel-depth", "1"]), [gre, vxlan]);
    assert_eq!(of(deep, &["--exclude-tunnel", "vxlan"]), [gre, vxlan]);
    assert_eq!(of(deep, &["--exclude-tunnel", "teredo,geneve"]), of(deep, &[]));
    assert_eq!(of("encap-geneve.pcap", &["--exclude-tunnel", "geneve"]), ["UDP 203.0.113.1:50000 203.0.113.2:6081: 2"]);
    for (wrong, message) in [
        (["--tunnel-port", "vxlan=0"], "out of range (1 to 65535)"),
        (["--tunnel-port", "vxlans=1"], "give one of vxlan, "),
        (["--exclude-tunnel", "x"], "give one of gre, "),
        (["--tunnel-port", "vxlan=6081"], "port 6081 is that of geneve already"),
    ] {
        spiked().arg("read").args(wrong).arg(folder.join(deep)).assert().failure().stderr(contains(message));
    }
}

#[test]
fn events_name_the_tunnels_around_a_stream() {
    let Some(folder) = shared_cases() else { return };
    let depth = |event: &serde_json::Value| event["spiked"]["tunnels"].as_array().map_or(0, Vec::len);
    let event = |name: &str, format: &str, kind: &str| {
        let arguments = ["read", "--quiet", "--events", kind, "--format", format];
        let output = spiked().args(arguments).arg(folder.join(name)).output().unwrap();
        // The stream of the innermost packets: those of the tunnels have fewer tunnels around them, or none.
        json_lines(&output.stdout).into_iter().max_by_key(depth).unwrap()
    };
    for (name, tunnels, proto, ports) in [
        ("encap-geneve.pcap", vec!["geneve"], "UDP", true),
        ("encap-vxlan-in-gre-two-deep.pcap", vec!["gre", "vxlan"], "GRE", false),
        ("encap-gtp-u.pcap", vec!["gtp"], "UDP", true),
    ] {
        for (format, kind) in [("jsonl", "detections"), ("jsonl", "streams"), ("suricata", "streams")] {
            let event = event(name, format, kind);
            let outer = &event["tunnel"];
            assert_eq!(event["spiked"]["tunnels"], serde_json::json!(tunnels), "{event}");
            assert_eq!((&outer["proto"], &outer["depth"]), (&proto.into(), &tunnels.len().into()), "{event}");
            assert!(
                outer["src_ip"].is_string() && outer["dest_ip"].is_string() && outer["dest_port"].is_u64() == ports,
                "{event}"
            );
        }
        assert_eq!(event(name, "ecs", "streams")["spiked"]["tunnels"], serde_json::json!(tunnels));
    }
    let bridged = event("encap-802.1ah.pcap", "jsonl", "streams");
    assert_eq!((&bridged["spiked"]["tunnels"][0], bridged.get("tunnel")), (&"802.1ah".into(), None), "{bridged}");
    assert_eq!(event("span-duplicates.pcap", "jsonl", "streams").get("tunnel"), None);
}

/// A TCP connection of 20 segments a second apart, from this second on, as two captures of ten.
fn halves(second: u32) -> [Vec<u8>; 2] {
    [0, 10].map(|from| {
        let segment = |n: u32| {
            let (client, server) = (([192, 0, 2, 10], 40001), ([198, 51, 100, 20], 80));
            let (source, destination) = if n.is_multiple_of(2) { (client, server) } else { (server, client) };
            tcp(source, destination, "A", n, b"a segment")
        };
        let mut file = pcap(1, &(from..from + 10).map(segment).collect::<Vec<_>>());
        let record = (file.len() - 24) / 10;
        for n in 0..10 {
            let at = 24 + n * record;
            file[at..at + 4].copy_from_slice(&(second + from + n as u32).to_le_bytes());
        }
        file
    })
}

#[test]
fn files_that_follow_each_other_in_time_are_one_capture() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = halves(1_700_000_000);
    // By name, the second half comes first.
    std::fs::write(folder.path().join("x.pcap1"), &second).unwrap();
    std::fs::write(folder.path().join("x.pcap9"), &first).unwrap();
    assert_eq!(streams(folder.path(), &[]), (vec![format!("{HTTP}: 20")], Some(0)));
    assert_eq!(streams(folder.path(), &["--each-file"]), (vec![format!("{HTTP}: 10"); 2], Some(0)));
    let output =
        spiked().args(["read", "--quiet", "--events", "streams", "--format", "jsonl"]).arg(folder.path()).output().unwrap();
    assert!(json_lines(&output.stdout)[0]["pcap_filename"].as_str().unwrap().ends_with("x.pcap9"), "that of the first packet");
    spiked().arg("read").arg(folder.path()).assert().stdout(contains("20 packets").and(contains("in 2 captures")));
    // Eleven minutes later no stream goes on; at the same time, the files are of different places, or one is a copy.
    for start in [1_700_000_670, 1_700_000_000, 1_700_000_008] {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("a.pcap"), &first).unwrap();
        std::fs::write(other.path().join("b.pcap"), &halves(start)[0]).unwrap();
        assert_eq!(streams(other.path(), &[]).0.len(), 2, "{start}");
    }
}
