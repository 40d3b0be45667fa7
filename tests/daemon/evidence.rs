//! Tests of evidence captures: packets of named streams, with class and confidence as comments, readable by Wireshark and spiked.

use std::path::Path;
use std::process::Command;

use crate::common::tiny::Tiny;
use crate::common::{fixture, skip, spiked, wait_for};
use predicates::str::contains;
use spiked::capture::{CaptureFile, FrameBatch, LinkType, Nanos, Source};
use spiked::export::evidence::{CommentedPacket, Evidence, Options};
use spiked::export::pcapng::{PcapngPacket, PcapngWriter};

/// (nanoseconds, link type, bytes on the wire, bytes)
fn read(path: &Path) -> Vec<(u64, u16, u32, Vec<u8>)> {
    let (mut file, mut batch, mut all) = (CaptureFile::open(path).unwrap(), FrameBatch::new(), Vec::new());
    while file.fill(&mut batch).unwrap() {
        all.extend(batch.iter().map(|f| (f.timestamp.0, f.link.0, f.wire_len, f.bytes.to_vec())));
    }
    assert_eq!(file.truncation(), None);
    all
}

/// The output of tshark, one line per packet; `None` after reporting a skip if it is not installed.
fn tshark(path: &Path, fields: &[&str]) -> Option<Vec<String>> {
    let fields = fields.iter().flat_map(|f| ["-e", f]);
    match Command::new("tshark").args(["-n", "-T", "fields", "-r"]).arg(path).args(fields).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect())
        }
        Err(error) => {
            skip(&format!("tshark (Debian package tshark): {error}"));
            None
        }
    }
}

#[test]
fn packets_of_several_link_types_come_back_to_the_nanosecond() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pcapng");
    let time = 1_700_000_000_123_456_789;
    let mut writer = PcapngWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
    let mut want = Vec::new();
    for (n, link) in [(0_u8, 1), (1, 101), (2, 1), (3, 276), (4, 113), (5, 101)] {
        let bytes = vec![n; 60 + usize::from(n)];
        let (timestamp, wire_len) = (time + u64::from(n), 1500 + u32::from(n));
        let comment = format!("ssh, ünd number {n}");
        writer
            .packet(&PcapngPacket {
                timestamp: Nanos(timestamp),
                link: LinkType(link),
                wire_len,
                bytes: &bytes,
                comment: &comment,
            })
            .unwrap();
        want.push((timestamp, link, wire_len, bytes));
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), writer.written());
    assert_eq!(read(&path), want);
    if let Some(printed) = tshark(&path, &["frame.comment", "frame.time_epoch", "frame.len", "frame.cap_len"]) {
        assert_eq!(printed[3], "ssh, ünd number 3\t1700000000.123456792\t1503\t63");
        assert_eq!(printed.len(), 6);
    }
}

#[test]
fn read_writes_the_first_packets_of_named_streams() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.pcapng");
    let capture = fixture("captures/ssh-1.pcap");
    spiked().args(["read", "--write-packets", "3", "--write"]).arg(&path).arg(&capture).assert().code(0).stdout(contains("ssh"));
    let (written, all) = (read(&path), read(&capture));
    assert!(!written.is_empty() && written.len() < all.len());
    assert!(written.iter().all(|packet| all.contains(packet)), "a packet that was not in the capture");
    if let Some(printed) = tshark(&path, &["tcp.stream", "frame.comment"]) {
        assert_eq!(printed.len(), written.len());
        let mut of_stream = std::collections::BTreeMap::<&str, usize>::new();
        for line in &printed {
            let (stream, comment) = line.split_once('\t').unwrap();
            assert!(comment.starts_with("ssh, confidence 0.") && comment.ends_with(", model protocols"), "{comment}");
            *of_stream.entry(stream).or_default() += 1;
        }
        assert!(of_stream.values().all(|&n| n == 3), "{of_stream:?}");
    }
    // The file is a capture like any other. Three packets are a TCP handshake; with more packets the streams have their class.
    spiked().arg("read").arg(&path).assert().code(0).stdout(contains("no payload"));
    let more = folder.path().join("more.pcapng");
    spiked().args(["read", "--write"]).arg(&more).arg(&capture).assert().code(0);
    spiked().arg("read").arg(&more).assert().code(0).stdout(contains("ssh"));
    let copy = folder.path().join("copy.pcap");
    std::fs::copy(&capture, &copy).unwrap();
    spiked().args(["read", "--write"]).args([&copy, &copy]).assert().code(2).stderr(contains("one of the captures to read"));
    assert_eq!(read(&copy), all, "the capture was overwritten");
    let nowhere = folder.path().join("no/such.pcapng");
    spiked().args(["read", "--write"]).args([&nowhere, &copy]).assert().code(4).stderr(contains("no/such.pcapng"));
}

fn kept(number: u8) -> CommentedPacket {
    let timestamp = Nanos(1_700_000_000_000_000_000 + u64::from(number));
    CommentedPacket {
        timestamp,
        link: LinkType::ETHERNET,
        wire_len: 900,
        bytes: vec![number; 900],
        comment: format!("number {number}"),
    }
}

#[test]
fn evidence_rotates_and_its_size_is_bounded_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { folder: folder.path().into(), file_bytes: 5000, files: 3 };
    std::fs::write(folder.path().join("not-ours.pcapng"), "kept").unwrap();
    for round in 0..2 {
        let evidence = Evidence::start(options.clone()).unwrap();
        (0..50).for_each(|n| evidence.offer(kept(round * 50 + n)));
        let counts = evidence.close();
        assert_eq!((counts.written, counts.dropped, counts.failed), (50, 0, 0));
    }
    let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.pop().unwrap().file_name().unwrap(), "not-ours.pcapng");
    assert_eq!(files.len(), 3, "{files:?}");
    let mut numbers = Vec::new();
    for file in &files {
        assert!(std::fs::metadata(file).unwrap().len() <= 5000);
        numbers.extend(read(file).iter().map(|packet| packet.3[0]));
    }
    // The last files, in order, none missing.
    assert_eq!(numbers, ((100 - numbers.len() as u8)..100).collect::<Vec<_>>());
    assert!(numbers.len() >= 12);
}

#[test]
fn evidence_that_cannot_be_written_is_counted_and_the_files_stay_whole() {
    let Some(folder) = Tiny::mount(64 << 10) else { return };
    let options = Options { folder: folder.path().into(), file_bytes: 1 << 20, files: 3 };
    let evidence = Evidence::start(options).unwrap();
    (0..200).for_each(|n| evidence.offer(kept(n)));
    let status = wait_for("all are counted", || {
        let status = evidence.status();
        (status.written + status.dropped.values().sum::<u64>() == 200).then_some(status)
    });
    let counts = evidence.close();
    assert_eq!(status.dropped["disk_full"], counts.failed, "{status:?}");
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    let packets: usize = files.iter().map(|file| read(file).len()).sum();
    assert!(counts.failed > 0 && counts.written > 40, "{counts:?}");
    assert_eq!(counts.written + counts.failed, 200);
    assert_eq!(packets as u64, counts.written);
}

#[test]
fn evidence_continues_in_a_new_file_if_the_open_one_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { folder: folder.path().into(), file_bytes: 1 << 20, files: 3 };
    let evidence = Evidence::start(options).unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    evidence.offer(kept(1));
    wait_for("the first packet is written", || (evidence.counts().written == 1).then_some(()));
    files().iter().for_each(|file| std::fs::remove_file(file).unwrap());
    evidence.offer(kept(2));
    let counts = evidence.close();
    assert_eq!((counts.written, counts.failed), (2, 0));
    let numbers: Vec<_> = files().iter().flat_map(|file| read(file)).map(|packet| packet.3[0]).collect();
    assert_eq!(numbers, [2]);
}
