//! Comparison with tshark over the shared captures: innermost addresses and ports of every packet, with a table of what differs.
//!
//! `cargo test --release --test pipeline tshark:: -- --ignored --nocapture`; with `SPIKED_EVERY=8` every eighth capture only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::shared_data;
use spiked::capture::{CaptureFile, FrameBatch, Source};
use spiked::packet::Decoder;

/// Fields of a packet: its encapsulation, which other blocks of a file do not have, the stack of protocols, then source and destination of each layer in order.
const FIELDS: [&str; 12] = [
    "frame.encap_type",
    "frame.protocols",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
];

/// Source and destination address and port, if the packet is IP.
type Ends = Option<(IpAddr, IpAddr, u16, u16)>;

/// The innermost packet of a line of tshark's. What ICMP errors quote is not a packet.
fn innermost(line: &str) -> (Ends, String) {
    let fields: Vec<Vec<&str>> = line.split('\t').map(|field| field.split(',').collect()).collect();
    let protocols = fields[1][0];
    let field = |kind: usize, number: usize| fields.get(kind).and_then(|values| values.get(number)).copied().unwrap_or("");
    let (mut counts, mut addresses, mut ports) = ([0; 5], None, (0, 0));
    for protocol in protocols.split(':') {
        let layer = match protocol {
            "ip" => 0,
            "ipv6" => 1,
            "tcp" => 2,
            "udp" | "udplite" => 3,
            "sctp" => 4,
            "icmp" | "icmpv6" => break,
            "arp" => {
                addresses = None;
                break;
            }
            _ => continue,
        };
        let (source, destination) = (field(2 + 2 * layer, counts[layer]), field(3 + 2 * layer, counts[layer]));
        counts[layer] += 1;
        if layer < 2 {
            if let (Ok(source), Ok(destination)) = (source.parse::<IpAddr>(), destination.parse::<IpAddr>()) {
                (addresses, ports) = (Some((source, destination)), (0, 0));
            }
        } else if let (Ok(source), Ok(destination)) = (source.parse(), destination.parse()) {
            ports = (source, destination);
        }
    }
    (addresses.map(|(source, destination)| (source, destination, ports.0, ports.1)), protocols.into())
}

fn tshark(path: &Path) -> Option<Vec<(Ends, String)>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "occurrence=a", "-r"]).arg(path);
    for preference in ["ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE"] {
        command.args(["-o", preference]);
    }
    command.args(["-d", "udp.port==8472,vxlan"]);
    command.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let output = command.output().ok()?;
    let lines = String::from_utf8_lossy(&output.stdout);
    Some(lines.lines().filter(|line| !line.starts_with('\t')).map(innermost).collect())
}

fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of captures").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { captures(&entry, found) } else { found.push(entry) }
    }
}

/// Number of packets that agree, and of those that differ by protocols with an example.
#[derive(Default)]
struct Comparison {
    agree: u64,
    differ: BTreeMap<String, (u64, String)>,
}

impl Comparison {
    fn compare(&mut self, path: &Path) {
        let Ok(mut file) = CaptureFile::open(path) else { return };
        let Some(theirs) = tshark(path) else { return };
        let (mut batch, mut number, decoder) = (FrameBatch::new(), 0, Decoder::default());
        while file.fill(&mut batch).expect("what was opened can be read") {
            for frame in batch.iter() {
                number += 1;
                let Some((want, protocols)) = theirs.get(number - 1) else { continue };
                let headers = decoder.decode(frame.link, frame.bytes).ok();
                let found = headers.and_then(|h| {
                    let (sport, dport) = h.ports(frame.bytes);
                    Some((h.src_addr(frame.bytes)?, h.dst_addr(frame.bytes)?, sport, dport))
                });
                if found == *want {
                    self.agree += 1;
                    continue;
                }
                let which = match (found, want) {
                    (Some(f), Some(w)) if (f.0, f.1) == (w.0, w.1) => "ports",
                    (Some(_), Some(_)) => "addresses",
                    (None, Some(_)) => "not opened",
                    _ => "only opened here",
                };
                let example = || (0, format!("{} packet {number}: {found:?}, tshark {want:?}", path.display()));
                self.differ.entry(format!("{which}: {} {protocols}", frame.link)).or_insert_with(example).0 += 1;
            }
        }
    }
}

#[test]
#[ignore = "runs tshark over all shared captures"]
fn innermost_endpoints_are_tsharks() {
    let Some(data) = shared_data() else { return };
    let every = std::env::var("SPIKED_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut files = Vec::new();
    captures(&data, &mut files);
    files.sort();
    let mut comparison = Comparison::default();
    files.iter().step_by(every).for_each(|path| comparison.compare(path));
    let mut differ: Vec<_> = comparison.differ.into_iter().collect();
    differ.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (kind, (count, example)) in &differ {
        println!("{count:>8}  {kind}\n          {example}");
    }
    let different: u64 = differ.iter().map(|(_, (count, _))| count).sum();
    let share = comparison.agree as f64 / (comparison.agree + different).max(1) as f64;
    println!("{} packets agree, {different} differ: {:.3} %", comparison.agree, share * 100.0);
    assert!(share >= 0.999, "{share}");
}
