//! Tests of labels: every format of label file names the same streams, and wrong lines are reported together.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::common::{fixture, in_gtp, pcap, spiked, udp};
use predicates::prelude::*;
use predicates::str::contains;
use spiked::encode::{Layout, LayoutOptions};
use spiked::stream::Intake;
use spiked::train::labels::{LabelError, LabelOptions, Labels, WholeClass, of_classes};
use spiked::train::{Corpus, GatherReport};

/// Three streams of UDP, of which the last uses the addresses and ports of the first again, an hour later.
fn captures(folder: &Path) {
    let frame = |source: u8, port: u16, text: &[u8]| udp([10, 0, 0, source], port, [10, 0, 0, 9], 53, text);
    let mut file = pcap(1, &[frame(1, 1000, b"one"), frame(2, 2000, b"two"), frame(1, 1000, b"again")]);
    // The time of the last packet.
    let at = file.len() - frame(1, 1000, b"again").len() - 16;
    file[at..at + 4].copy_from_slice(&1_700_003_600_u32.to_le_bytes());
    std::fs::create_dir(folder.join("day")).unwrap();
    std::fs::write(folder.join("day/a.pcap"), file).unwrap();
}

fn gather(labels: &Labels, captures: &Path) -> (Corpus, GatherReport) {
    let layout = Layout::headers(&LayoutOptions::default());
    Corpus::gather(labels, captures, layout, 16, &Intake::default(), &|| ()).unwrap()
}

/// Number of packets by class.
fn packets(labels: &Labels, captures: &Path) -> BTreeMap<String, u64> {
    let mut packets = BTreeMap::new();
    for stream in gather(labels, captures).0.streams {
        *packets.entry(labels.classes[stream.class.index()].clone()).or_default() += stream.packets;
    }
    packets
}

fn of(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(class, packets)| (class.into(), packets)).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        captures(folder.path());
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, text: &str, column: Option<&str>) -> Result<Labels, LabelError> {
        let options = LabelOptions { column: column.map(Into::into), captures: self.0.path().into() };
        options.read(&[self.write("labels", text)])
    }

    /// Number of packets by class that the label file gives.
    fn packets(&self, text: &str, column: Option<&str>) -> BTreeMap<String, u64> {
        let labels = self.read(text, column).unwrap();
        packets(&labels, self.0.path())
    }
}

const TABLE: &str = "capture,proto,src_ip,src_port,dst_ip,dst_port,label\n\
    day/a.pcap,UDP,10.0.0.1,1000,10.0.0.9,53,x\nday/a.pcap,17,10.0.0.9,53,10.0.0.2,2000,y\n";

#[test]
fn labels_of_recordings_with_fragments_name_streams_only() {
    let mut text = String::new();
    let packed = std::fs::File::open("fixtures/behaviours/labels.csv.gz").unwrap();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let fragmented = ["capture,", "test/amplification-6.", "train/flood.udp-18."];
    let rows: Vec<&str> = text.lines().filter(|line| fragmented.iter().any(|start| line.starts_with(start))).collect();
    let labels = Folder::new().read(&rows.join("\n"), None).unwrap();
    let (corpus, gathered) = gather(&labels, Path::new("fixtures/behaviours"));
    assert_eq!((gathered.missing, corpus.streams.len()), (Vec::<String>::new(), rows.len() - 1));
}

#[test]
fn tables_have_any_separator_and_protocols_by_number() {
    let folder = Folder::new();
    let expected = of(&[("x", 2), ("y", 1)]);
    assert_eq!(folder.packets(TABLE, None), expected);
    for separator in [";", "\t", "|"] {
        assert_eq!(folder.packets(&TABLE.replace(',', separator), None), expected, "{separator:?}");
    }
    assert_eq!(folder.packets(&format!("\u{feff}{}", TABLE.replace('\n', "\r\n")), None), expected);
    // Without a capture, rows label the streams of every capture.
    let anywhere: String = TABLE.lines().map(|line| format!("{}\n", line.split_once(',').unwrap().1)).collect();
    assert_eq!(folder.packets(&anywhere, None), expected);
    // The captures may be one file.
    let capture = folder.0.path().join("day/a.pcap");
    let options = LabelOptions { captures: capture.clone(), ..LabelOptions::default() };
    assert_eq!(packets(&options.read(&[folder.write("one", &anywhere)]).unwrap(), &capture), expected);
}

#[test]
fn rows_label_a_tunnel_and_the_streams_in_it() {
    let folder = Folder::new();
    let frames = [1, 1, 2].map(|source| in_gtp(&udp([10, 0, 0, source], 1000, [10, 0, 0, 9], 53, b"a query")));
    std::fs::write(folder.0.path().join("tunnel.pcap"), pcap(1, &frames)).unwrap();
    let rows = [("203.0.113.2,2152,203.0.113.1,2152,gtp", 3), ("10.0.0.1,1000,10.0.0.9,53,dns", 2)];
    for (row, packets) in rows {
        let table = format!("capture,proto,src_ip,src_port,dst_ip,dst_port,label\ntunnel.pcap,UDP,{row}\n");
        assert_eq!(folder.packets(&table, None), of(&[(row.rsplit(',').next().unwrap(), packets)]));
    }
}

#[test]
fn times_tell_streams_of_the_same_addresses_apart() {
    let folder = Folder::new();
    let table = "capture,proto,src_ip,src_port,dst_ip,dst_port,label,start,end\n\
        day/a.pcap,udp,10.0.0.1,1000,10.0.0.9,53,x,1700000000,1700000000\n\
        day/a.pcap,udp,10.0.0.2,2000,10.0.0.9,53,y,,\n\
        day/a.pcap,udp,10.0.0.1,1000,10.0.0.9,53,z,2023-11-14T23:13:00Z,2023-11-14T23:13:20Z\n";
    assert_eq!(folder.packets(table, None), of(&[("x", 1), ("y", 1), ("z", 1)]));
    let labels = folder.read(table, None).unwrap();
    assert_eq!(labels.conflicts, 0);
    assert!(gather(&labels, folder.0.path()).1.is_whole());
}

const ZEEK: &str = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n\
    #fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\tconn_state\n\
    #types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tstring\n\
    1700000000.000000\tC1\t10.0.0.1\t1000\t10.0.0.9\t53\tudp\tdns\t-\tS0\n\
    1700000001.000000\tC2\t10.0.0.2\t2000\t10.0.0.9\t53\tudp\t-\t-\tSF\n\
    1700003600.000000\tC3\t10.0.0.1\t1000\t10.0.0.9\t53\tudp\tntp\t0.100000\tS0\n#close\t2023-11-14-23-13-20\n";

#[test]
fn logs_of_zeek_label_streams() {
    let folder = Folder::new();
    assert_eq!(folder.packets(ZEEK, None), of(&[("dns", 1), ("ntp", 1)]));
    assert_eq!(folder.packets(ZEEK, Some("conn_state")), of(&[("S0", 2), ("SF", 1)]));
    let json = r#"{"ts":1700000000.000000,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":1000,"id.resp_h":"10.0.0.9","id.resp_p":53,"proto":"udp","service":"dns","conn_state":"S0"}
{"ts":1700000001.0,"uid":"C2","id.orig_h":"10.0.0.2","id.orig_p":2000,"id.resp_h":"10.0.0.9","id.resp_p":53,"proto":"udp","conn_state":"SF"}
{"ts":"2023-11-14T23:13:20.000000Z","uid":"C3","id.orig_h":"10.0.0.1","id.orig_p":1000,"id.resp_h":"10.0.0.9","id.resp_p":53,"proto":"udp","service":"ntp","duration":0.1,"conn_state":"S0"}
"#;
    assert_eq!(folder.packets(json, None), of(&[("dns", 1), ("ntp", 1)]));
    assert_eq!(folder.packets(json, Some("conn_state")), of(&[("S0", 2), ("SF", 1)]));
    // The labels of IoT-23 are separated by spaces.
    let iot = ZEEK
        .replace("\tconn_state\n", "\ttunnel_parents   label   detailed-label\n")
        .replace("\tstring\n", "\tset[string]   string   string\n");
    let iot = iot.replace("\tS0\n", "\t(empty)   Malicious   C&C\n").replace("\tSF\n", "\t-   Benign   -\n");
    assert_eq!(folder.packets(&iot, None), of(&[("Benign", 1), ("Malicious", 2)]));
    assert_eq!(folder.packets(&iot, Some("detailed-label")), of(&[("C&C", 2)]));
}

#[test]
fn events_of_suricata_and_own_events_label_streams() {
    let folder = Folder::new();
    let flow = r#""proto":"UDP","src_ip":"10.0.0.1","src_port":1000,"dest_ip":"10.0.0.9","dest_port":53,"#;
    let eve = [
        r#"{"timestamp":"2023-11-14T22:13:20.000000+0000","event_type":"stats","stats":{"uptime":1}}"#.to_string(),
        format!(r#"{{"event_type":"flow",{flow}"app_proto":"dns","flow":{{"start":"2023-11-14T22:13:20.000000+0000","end":"2023-11-14T22:13:20.000000+0000"}}}}"#),
        format!(r#"{{"event_type":"flow",{flow}"app_proto":"failed","flow":{{"start":"2023-11-14T23:13:20.000000+0000","end":"2023-11-14T23:13:20.000000+0000"}}}}"#),
        format!(r#"{{"event_type":"alert",{flow}"alert":{{"category":"Bad","signature":"odd"}},"flow":{{"start":"2023-11-14T23:13:20.000000+0000"}}}}"#),
    ]
    .join("\n");
    assert_eq!(folder.packets(&eve, None), of(&[("dns", 1)]));
    assert_eq!(folder.packets(&eve, Some("alert.category")), of(&[("Bad", 1)]));
    let error = folder.read(&eve, Some("alert.severity")).unwrap_err();
    assert!(error.to_string().contains("'alert.severity' is missing"), "{error}");
    // What `spiked read` writes labels the streams that it read.
    let captures = fixture("captures");
    for format in ["jsonl", "csv", "suricata", "ecs"] {
        let read = |capture: &str| spiked().args(["read", "--events", "streams", "--format", format, capture]).assert().code(0);
        let text = String::from_utf8(read("fixtures/captures/dns-1.pcap").get_output().stdout.clone()).unwrap();
        let options = LabelOptions { captures: captures.join("dns-1.pcap"), ..LabelOptions::default() };
        let labels = options.read(&[folder.write("events", &text)]).unwrap();
        let corpus = gather(&labels, Path::new("")).0;
        assert!(corpus.streams.len() > 10, "{format}: {} streams", corpus.streams.len());
        assert_eq!(labels.classes[corpus.streams[0].class.index()], "dns", "{format}");
    }
}

#[test]
fn tables_of_ndpi_label_streams() {
    let folder = Folder::new();
    let ndpi = "#flow_id|protocol|first_seen|last_seen|duration|src_ip|src_port|dst_ip|dst_port|ndpi_proto_num|ndpi_proto|proto_by_ip|server_name_sni|\n\
        1|17|1700000000.000|1700000000.000|0.000|10.0.0.1|1000|10.0.0.9|53|5|DNS|Unknown||\n\
        2|17|1700000001.000|1700000001.000|0.000|10.0.0.2|2000|10.0.0.9|53|5.1|DNS.Example|Unknown|x|||\n\
        3|6|1700000002.000|1700000002.000|0.000|10.0.0.3|3000|10.0.0.9|99|0|Unknown|Unknown||\n";
    assert_eq!(folder.packets(ndpi, None), of(&[("DNS", 1), ("DNS.Example", 1)]));
    let numbers = ndpi.lines().take(3).collect::<Vec<_>>().join("\n").replace('|', ",");
    assert_eq!(folder.packets(&numbers, Some("ndpi_proto_num")), of(&[("5", 1), ("5.1", 1)]));
}

#[test]
fn classes_are_captures_folders_or_filters() {
    let folder = Folder::new();
    let path = folder.0.path();
    std::fs::write(path.join("b:c.pcap"), pcap(1, &[udp([10, 0, 0, 3], 3, [10, 0, 0, 9], 53, b"three")])).unwrap();
    let parse = |text: &str| WholeClass::parse(text, path);
    assert_eq!(parse("no"), None);
    assert_eq!(parse("=day"), None);
    let classes = ["one=day/a.pcap:host 10.0.0.1 and udp", "two=day/a.pcap:port 2000", "three=b:c.pcap", "four=day"]
        .map(|t| parse(t).unwrap());
    let labels = of_classes(&classes, path).unwrap();
    assert_eq!(packets(&labels, path), of(&[("four", 3), ("one", 2), ("three", 1), ("two", 1)]));
    let error = of_classes(&[parse("x=day/a.pcap:prot udp").unwrap()], path).unwrap_err();
    assert!(error.to_string().contains("not a valid BPF filter"), "{error}");
    std::fs::create_dir(path.join("empty")).unwrap();
    let class = format!("--class=none={}", path.join("empty").display());
    spiked().args(["train", "--out", "/dev/null", &class]).assert().code(3).stderr(contains("holds no capture"));
}

#[test]
fn all_wrong_lines_are_reported_at_once() {
    let folder = Folder::new();
    let good = TABLE.lines().nth(1).unwrap();
    let text = format!("{TABLE}{}\nday/a.pcap,udp\n{good}\n,udp,1.1.1.1,1,2.2.2.2,2,x\n", good.replace("1000", "70000"));
    let error = folder.read(&text, None).unwrap_err().to_string();
    for part in [
        "3 wrong lines",
        "line 4: '70000' is not a valid port",
        "line 5: 2 columns instead of the 7",
        "line 7: the capture or the label is empty",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let many = format!("{TABLE}{}", "x\n".repeat(1000));
    let error = folder.read(&many, None).unwrap_err().to_string();
    assert!(error.contains("1000 wrong lines") && error.contains("and 980 more") && error.lines().count() < 25, "{error}");
    let error = folder.read("{\"a\":1}\n{\"a\":\n", None).unwrap_err().to_string();
    assert!(error.contains("line 2: is not valid JSON"), "{error}");
    let time = ZEEK.replace("1700003600.000000", "noon");
    assert!(folder.read(&time, None).unwrap_err().to_string().contains("line 10: 'noon' is not a valid time"));
}

#[test]
fn names_that_contradict_each_other_are_rejected() {
    let folder = Folder::new();
    let rename = |rows: &str| {
        let mut labels = folder.read(TABLE, None).unwrap();
        labels.rename(&folder.write("names.csv", &format!("label,class\n{rows}")))
    };
    assert!(rename("a,x\nb,x\na,x\n").is_ok(), "a repeated row agrees with the first");
    let error = rename("a,x\nb,x\na,y\n").unwrap_err().to_string();
    assert!(
        error.ends_with("names.csv, line 4: label 'a' has class 'y', but class 'x' in line 2; remove one of the two"),
        "{error}"
    );
}

#[test]
fn labels_come_from_standard_input() {
    let folder = Folder::new();
    let train = |text: &str| {
        let mut command = spiked();
        command
            .args(["eval", "--cross-validate", "2", "--split-by", "stream", "--labels", "-", "--captures"])
            .arg(folder.0.path());
        command.write_stdin(text.to_string()).assert()
    };
    train(TABLE).code(0);
    train(&format!("{TABLE}x\n")).code(2).stderr(contains("-, line 4: 1 columns instead of the 7").and(contains("spiked: ")));
}
