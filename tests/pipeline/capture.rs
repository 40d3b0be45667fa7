//! Tests of capture files: every format is read, and damage in a file costs none of the frames before it.

use std::io::Write as _;
use std::path::Path;

use crate::common::{fixture, pcap, shared_data, udp};
use proptest::prelude::*;
use spiked::capture::{CaptureError, CaptureFile, FrameBatch, Source, Truncation};

/// (nanoseconds, link type, bytes on the wire, bytes)
type Read = Vec<(u64, u16, u32, Vec<u8>)>;

fn read(mut file: CaptureFile) -> (Read, Option<Truncation>) {
    let (mut frames, mut batch) = (Vec::new(), FrameBatch::new());
    while file.fill(&mut batch).expect("what was opened can be read") {
        frames.extend(batch.iter().map(|f| (f.timestamp.0, f.link.0, f.wire_len, f.bytes.to_vec())));
    }
    let truncation = file.truncation().cloned();
    (frames, truncation)
}

fn from_bytes(bytes: Vec<u8>) -> Result<CaptureFile, CaptureError> {
    CaptureFile::from_reader(std::io::Cursor::new(bytes), "test".into())
}

/// The same through a file, which is memory-mapped.
fn from_file(bytes: &[u8]) -> Result<CaptureFile, CaptureError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    CaptureFile::open(file.path())
}

fn three() -> Vec<Vec<u8>> {
    (1..4).map(|n| udp([10, 0, 0, n], 1000, [10, 0, 0, 9], 53, &[n; 20])).collect()
}

#[test]
fn both_byte_orders_and_both_resolutions_are_equal() {
    let little = pcap(1, &three());
    let mut want = read(from_bytes(little.clone()).unwrap()).0;
    assert_eq!(want.len(), 3);
    assert_eq!(want[1].0, 1_700_000_001_000_000_000);
    let swapped = |magic: u32, fraction: u32| {
        let mut file = Vec::new();
        file.extend(magic.to_be_bytes());
        file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 1]);
        for (second, frame) in (1_700_000_000_u32..).zip(three()) {
            for word in [second, fraction, frame.len() as u32, frame.len() as u32] {
                file.extend(word.to_be_bytes());
            }
            file.extend(frame);
        }
        file
    };
    assert_eq!(read(from_bytes(swapped(0xa1b2_c3d4, 0)).unwrap()).0, want);
    want.iter_mut().for_each(|frame| frame.0 += 7);
    assert_eq!(read(from_bytes(swapped(0xa1b2_3c4d, 7)).unwrap()).0, want);
}

/// A pcapng block with its two lengths.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().div_ceil(4) * 4, 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

#[test]
fn pcapng_interfaces_have_their_own_link_types_and_resolutions() {
    let section = block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[255; 8]].concat());
    let interface = |link: u8, options: &[u8]| block(1, &[&[link, 0, 0, 0, 0, 0, 0, 0][..], options].concat());
    let packet = |interface: u32, ticks: u64, bytes: &[u8]| {
        let length = (bytes.len() as u32).to_le_bytes();
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        block(6, &[&interface.to_le_bytes()[..], &high.to_le_bytes(), &low.to_le_bytes(), &length, &length, bytes].concat())
    };
    let file = [
        section,
        interface(1, &[]),
        interface(101, &[9, 0, 1, 0, 9, 0, 0, 0]),
        interface(113, &[9, 0, 1, 0, 0x8a, 0, 0, 0]),
        packet(0, 5_000_000, b"micro"),
        packet(1, 5_000_000_000, b"nano"),
        packet(2, 5 << 10, b"binary"),
        block(0xbad, b"unknown blocks are skipped"),
        packet(0, 6_000_000, b"last"),
    ]
    .concat();
    let (frames, truncation) = read(from_bytes(file.clone()).unwrap());
    assert_eq!(truncation, None);
    let found: Vec<_> = frames.iter().map(|f| (f.0, f.1, f.3.as_slice())).collect();
    let second = 1_000_000_000;
    assert_eq!(
        found,
        [(5 * second, 1, &b"micro"[..]), (5 * second, 101, b"nano"), (5 * second, 113, b"binary"), (6 * second, 1, b"last")]
    );
    assert_eq!(read(from_file(&file).unwrap()).0, frames);
}

#[test]
fn compressed_captures_equal_plain_ones() {
    let plain = pcap(1, &three());
    let want = read(from_bytes(plain.clone()).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    assert_eq!(read(from_bytes(gzip.finish().unwrap()).unwrap()), want);
    assert_eq!(read(from_bytes(zstd::encode_all(&plain[..], 3).unwrap()).unwrap()), want);
    for (plain, packed) in [("dns-2.pcap", "dns-2.pcap.gz"), ("redis-2.pcap", "redis-2.pcap.zst")] {
        let open = |name: &str| read(CaptureFile::open(&fixture("captures").join(name)).unwrap());
        assert_eq!(open(plain), open(packed));
    }
}

#[test]
fn every_prefix_gives_its_whole_frames_and_where_it_is_truncated() {
    for whole in [pcap(1, &three()), std::fs::read(fixture("captures/mixed.pcapng")).unwrap()[..3000].to_vec()] {
        let all = read(from_bytes(whole.clone()).unwrap()).0;
        let mut most = 0;
        for length in 0..whole.len() {
            let Ok(file) = from_bytes(whole[..length].to_vec()) else { continue };
            let (frames, truncation) = read(file);
            assert_eq!(frames, all[..frames.len()], "at {length}");
            assert!(frames.len() >= most, "frames were lost at {length}");
            most = frames.len();
            assert_eq!(read(from_file(&whole[..length]).unwrap()), (frames, truncation.clone()), "mapped, at {length}");
            if let Some(truncation) = truncation {
                assert_eq!(truncation.after as usize, most);
            }
        }
    }
}

#[test]
fn what_is_not_a_capture_is_refused_with_its_name_and_reason() {
    let message = |bytes: &[u8]| from_bytes(bytes.to_vec()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message(b"").contains("test: the file is empty"));
    for start in [&pcap(1, &[])[..23], b"snoop\0\0\0\0\0\0\x02"] {
        let cut = format!("test: ends after {} bytes, within its file header", start.len());
        assert!(message(start).contains(&cut), "{}", message(start));
    }
    assert!(message(b"snoopy").contains("not a pcap"));
    assert!(message(b"GET / HTTP/1.1\r\n").contains("test: begins with 474554202f204854: not a pcap"));
    // The time, type and length of an ERF record, in ASCII.
    let text = "# spiked\n\nspiked names the protocol of network streams.\n".repeat(1000);
    assert!(message(text.as_bytes()).contains("test: begins with 23207370696b6564: not a pcap"));
    assert!(message(&[0x1f, 0x8b, 8, 0, 1, 2, 3]).contains("test"));
    let missing = CaptureFile::open(Path::new("no/such.pcap")).err().unwrap().to_string();
    assert!(missing.contains("no/such.pcap: can't open"), "{missing}");
}

#[test]
fn an_absurd_length_ends_the_capture_after_the_good_frames() {
    let mut file = pcap(1, &three());
    file.extend([0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 127, 255, 255, 255, 127]);
    file.extend([0; 100]);
    let (frames, truncation) = read(from_bytes(file).unwrap());
    assert_eq!(frames.len(), 3);
    let truncation = truncation.unwrap().to_string();
    assert!(truncation.contains("after packet 3") && truncation.contains("2147483647"), "{truncation}");
}

#[test]
fn a_bomb_is_read_in_bounded_memory() {
    // 4 GiB of zero-length records from some kilobytes would be 268 million frames; a record that claims 1 GiB ends it instead.
    let mut file = pcap(1, &three());
    file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 64]);
    let bomb = std::io::Cursor::new(file).chain_zeros(1 << 28);
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    std::io::copy(&mut { bomb }, &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 100_000);
    let (frames, truncation) = read(from_bytes(packed).unwrap());
    assert_eq!(frames.len(), 3);
    assert!(truncation.is_some());
}

/// `self`, then so many zero bytes.
trait ChainZeros: std::io::Read + Sized {
    fn chain_zeros(self, count: u64) -> std::io::Chain<Self, std::io::Take<std::io::Repeat>> {
        use std::io::Read as _;
        self.chain(std::io::repeat(0).take(count))
    }
}
impl<R: std::io::Read> ChainZeros for R {}

proptest! {
    #[test]
    fn damage_never_panics(at in 0usize..2000, value: u8, length in 0usize..3000) {
        let mut bytes = std::fs::read(fixture("captures/mixed.pcapng")).unwrap();
        bytes.truncate(3000);
        bytes[at] = value;
        bytes.truncate(length.max(1));
        if let Ok(file) = from_bytes(bytes) {
            read(file);
        }
    }
}

#[test]
fn odd_captures_hold_as_many_packets_as_capinfos_counts() {
    let Some(data) = shared_data() else { return };
    let mut table = csv::Reader::from_path(data.join("robust/expected.csv")).unwrap();
    let (mut wrong, mut compared, mut refused) = (Vec::new(), 0, 0);
    for row in table.records().map(Result::unwrap) {
        let (path, verdict, packets) = (&row[0], &row[2], &row[3]);
        let frames = match CaptureFile::open(&data.join(path)) {
            Ok(file) => Some(read(file).0.len()),
            Err(error) => {
                assert!(error.to_string().contains(path), "the error does not name the file: {error}");
                refused += 1;
                None
            }
        };
        let bytes = std::fs::read(data.join(path)).unwrap();
        if verdict == "0" && ours(&bytes) {
            compared += 1;
            if frames.map(|n| n.to_string()).as_deref() != Some(packets) {
                wrong.push(format!("{path}: {frames:?}, capinfos says {packets}"));
            }
        }
    }
    println!("{compared} files compared, {refused} refused");
    assert!(compared > 300);
    assert!(wrong.is_empty(), "{} files differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// pcap, pcapng, gzip and zstd; capinfos reads dozens of other formats.
fn ours(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 9] = [
        &[0xa1, 0xb2, 0xc3, 0xd4],
        &[0xd4, 0xc3, 0xb2, 0xa1],
        &[0xa1, 0xb2, 0x3c, 0x4d],
        &[0x4d, 0x3c, 0xb2, 0xa1],
        &[0xa1, 0xb2, 0xcd, 0x34],
        &[0x34, 0xcd, 0xb2, 0xa1],
        &[0x0a, 0x0d, 0x0d, 0x0a],
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    magics.iter().any(|magic| bytes.starts_with(magic))
}

/// A pcapng file of two interfaces: of each packet the interface and the second.
fn two_interfaces(packets: &[(u32, u64)]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let length = (12 + body.len() as u32).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &length].concat()
    };
    let section = [&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut file = block(0x0a0d_0d0a, &section);
    (0..2).for_each(|_| file.extend(block(1, &[1, 0, 0, 0, 0, 0, 0, 0])));
    for &(interface, second) in packets {
        let ticks = second * 1_000_000;
        let fields = [interface, (ticks >> 32) as u32, ticks as u32, 60, 60].map(u32::to_le_bytes).concat();
        file.extend(block(6, &[&fields[..], &[0; 60]].concat()));
    }
    file
}

#[test]
fn interfaces_of_one_file_with_different_clocks_are_synchronized() {
    let seconds = |packets: &[(u32, u64)]| {
        let mut file = CaptureFile::from_reader(std::io::Cursor::new(two_interfaces(packets)), "test".into()).unwrap();
        let mut batch = FrameBatch::new();
        assert!(file.fill(&mut batch).unwrap());
        batch.iter().map(|frame| frame.timestamp.0 / 1_000_000_000).collect::<Vec<_>>()
    };
    assert_eq!(seconds(&[(0, 9000), (1, 12600), (0, 9001), (1, 12603)]), [9000, 9000, 9001, 9003], "an hour ahead");
    assert_eq!(seconds(&[(0, 9000), (1, 5400), (1, 5402), (0, 9003)]), [9000, 9000, 9002, 9003], "an hour behind");
    assert_eq!(seconds(&[(0, 9000), (0, 9001), (1, 12600), (1, 12601)]), [9000, 9001, 12600, 12601], "an hour later");
    assert_eq!(seconds(&[(0, 9000), (1, 12600), (0, 12601)]), [9000, 12600, 12601], "one clock, an hour of silence");
    assert_eq!(seconds(&[(0, 9000), (1, 9020), (0, 9001)]), [9000, 9020, 9001], "out of order");
}
