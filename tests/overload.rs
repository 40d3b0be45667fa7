//! Tests of overload and evasion: the cost of hostile traffic, in memory and in streams that are no longer named. Every loss is counted.
//!
//! `SPIKED_FLOOD=20000000 cargo test --release --test overload flood -- --nocapture` floods at full size.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;

use common::{frames_of, pcap, udp};
use spiked::capture::{CaptureError, CaptureFile, FrameBatch, LinkType, Nanos, Source};
use spiked::encode::{Layout, LayoutOptions};
use spiked::engine::{self, Counters, EngineSettings, Event, Observer, Output, Verdict};
use spiked::model::{MAX_CLASSES, Model};
use spiked::packet::{self, Decoder, StreamKey, Tunnel};
use spiked::snn::{Network, NeuronId, Synapse};
use spiked::stream::{Assignments, Decision};

/// Records what the engine reports of the streams.
#[derive(Default)]
struct Recorder {
    /// Class of each named stream, by key.
    named: BTreeMap<StreamKey, String>,
    /// The streams of interest; `None`: all.
    only: Option<BTreeSet<StreamKey>>,
    detections: u64,
    ends: u64,
    packets: u64,
    /// Largest number of live streams of each worker.
    most: BTreeMap<usize, usize>,
}

impl Recorder {
    fn verdict(&mut self, verdict: &Verdict) {
        match verdict.event {
            Event::Detection => self.detections += 1,
            Event::Stream => {
                self.ends += 1;
                self.packets += verdict.packets;
            }
        }
        if let Some(class) = verdict.class
            && self.only.as_ref().is_none_or(|only| only.contains(&verdict.key))
        {
            self.named.insert(verdict.key, verdict.model.classes[usize::from(class)].clone());
        }
    }
}

impl Observer for Recorder {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.verdict(verdict),
            Output::Progress(progress) => {
                let most = self.most.entry(progress.worker).or_default();
                *most = progress.live.max(*most);
            }
            Output::Packet(_) | Output::Episode(_) | Output::Spike { .. } => {}
        }
    }
}

/// A source of the frames of an iterator.
struct Frames<I>(I);

impl<I: Iterator<Item = (u64, Vec<u8>)> + Send> Source for Frames<I> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        while !batch.is_full() {
            let Some((nanos, frame)) = self.0.next() else { break };
            batch.push(Nanos(nanos), LinkType::ETHERNET, frame.len() as u32, &frame);
        }
        Ok(!batch.is_empty())
    }
}

fn settings(streams: usize) -> EngineSettings {
    let mut settings =
        EngineSettings { workers: 2, ..EngineSettings::new(vec![Arc::new(Model::built_in().expect("a sound model"))]) };
    settings.limits.streams = streams;
    settings
}

fn run(settings: &EngineSettings, frames: impl Iterator<Item = (u64, Vec<u8>)> + Send) -> (Counters, Recorder) {
    run_recorder(settings, frames, Recorder::default())
}

/// Runs the engine and records the verdicts on the streams that `calm` named.
fn run_flooded(
    settings: &EngineSettings,
    frames: impl Iterator<Item = (u64, Vec<u8>)> + Send,
    calm: &Recorder,
) -> (Counters, Recorder) {
    run_recorder(settings, frames, Recorder { only: Some(calm.named.keys().copied().collect()), ..Recorder::default() })
}

fn run_recorder(
    settings: &EngineSettings,
    frames: impl Iterator<Item = (u64, Vec<u8>)> + Send,
    mut recorder: Recorder,
) -> (Counters, Recorder) {
    let counters = engine::run(settings, &mut Frames(frames), &mut recorder).expect("the frames don't end early");
    (counters, recorder)
}

/// Number of the streams named in `calm` that have the same name under the flood; at least 99 % are documented.
fn kept(calm: &Recorder, recorder: &Recorder) -> usize {
    let kept = calm.named.iter().filter(|(key, class)| recorder.named.get(*key) == Some(*class)).count();
    assert!(kept * 100 >= calm.named.len() * 99, "{kept} of {} are still named", calm.named.len());
    kept
}

/// Checks that every opened stream has ended, and that no worker panicked.
fn accounted(counters: &Counters, recorder: &Recorder) {
    assert_eq!(counters.opened, recorder.ends, "streams opened and reported");
    assert_eq!((counters.panic_lost_streams, counters.panic_lost_packets), (0, 0));
}

/// Real traffic: the fixtures of several protocols, one after another, as one continuous capture.
fn real() -> Vec<Vec<u8>> {
    ["dns-1", "http-1", "mqtt-1", "ntp-1", "postgresql-1", "redis-1", "smtp-1", "snmp-1", "ssh-1", "tls-1"]
        .iter()
        .flat_map(|name| frames_of(&format!("{name}.pcap")))
        .collect()
}

const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// The `number`th SYN of a flood that never repeats an address and port.
fn syn(number: u64) -> Vec<u8> {
    let n = number.to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend([100 + n[5] % 100, n[5], n[6], n[7], 192, 0, 2, 80, n[4], n[7], 0, 80]);
    frame.extend([n[6], n[7], 1, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    frame
}

/// Peak resident memory of this process in mebibytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kb| kb >> 10)
}

#[test]
fn a_syn_flood_stays_within_the_table_and_hides_almost_nothing() {
    let flood: u64 = std::env::var("SPIKED_FLOOD").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let streams = if flood > 1_000_000 { 1 << 20 } else { 4096 };
    let real = real();
    let each = flood / real.len() as u64;
    let calm = run(&settings(streams), real.iter().cloned().enumerate().map(|(i, f)| (START + i as u64 * 1_000_000, f)));
    accounted(&calm.0, &calm.1);
    assert!(calm.1.named.len() > 100, "{} streams are named", calm.1.named.len());
    let mixed = (0u64..).zip(&real).flat_map(|(i, frame)| {
        let now = START + i * 1_000_000;
        std::iter::once((now, frame.clone())).chain((0..each).map(move |n| (now, syn(i * each + n))))
    });
    let before = peak();
    let (counters, recorder) = run_flooded(&settings(streams), mixed, &calm.1);
    accounted(&counters, &recorder);
    assert_eq!(counters.frames, real.len() as u64 * (each + 1));
    assert_eq!(recorder.packets, counters.frames, "each packet is in one reported stream");
    let live: usize = recorder.most.values().sum();
    assert!(live <= streams + 2, "{live} streams at once");
    let kept = kept(&calm.1, &recorder);
    println!(
        "{} flood packets: {kept} of {} streams named as without; {live} live at most, {} evicted, {} hurried; {} MB at the peak, {before} before",
        each * real.len() as u64,
        calm.1.named.len(),
        counters.evicted,
        counters.dropped_undecided,
        peak()
    );
    // Records, index, evidence of undecided streams, and queued batches. At full size the test runs alone; otherwise the peak is that of
    // all tests of this process.
    let bounded = flood <= 1_000_000 || peak() - before <= ((streams as u64 * 500) >> 20) + 64;
    assert!(bounded, "{before} MB before, {} MB at the peak", peak());
}

/// A harder flood: datagrams of no class, three per stream, so that each stream looks like continuing traffic and is not decided early.
#[test]
fn a_flood_of_undecidable_streams_hides_almost_nothing() {
    let streams = 4096;
    let real = real();
    let calm = run(&settings(streams), real.iter().cloned().enumerate().map(|(i, f)| (START + i as u64 * 1_000_000, f)));
    let each = 99;
    let datagram = |number: u64| {
        let n = number.to_be_bytes();
        // Bytes that differ between all streams: a multiplication spreads the number.
        let payload = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        udp([100, n[5], n[6], n[7]], 20_000 + number as u16 % 10_000, [192, 0, 2, 80], 30_000 + n[7] as u16, &payload)
    };
    let mixed = (0u64..).zip(&real).flat_map(|(i, frame)| {
        let now = START + i * 1_000_000;
        // The three packets of a stream are tens of packets apart.
        let flood = (0..each).map(move |n| (now, datagram(i * each / 3 + n % (each / 3))));
        std::iter::once((now, frame.clone())).chain(flood)
    });
    let (counters, recorder) = run_flooded(&settings(streams), mixed, &calm.1);
    accounted(&counters, &recorder);
    assert_eq!(recorder.packets, counters.frames, "each packet is in one reported stream");
    let live: usize = recorder.most.values().sum();
    assert!(live <= streams + 2, "{live} streams at once");
    let kept = kept(&calm.1, &recorder);
    println!(
        "{} datagrams of {} streams: {kept} of {} streams named as without; {} evicted, {} hurried",
        each * real.len() as u64,
        each / 3 * real.len() as u64,
        calm.1.named.len(),
        counters.evicted,
        counters.dropped_undecided
    );
}

/// Tuples that would collide in one slot of the table and one worker if the attacker knew the hash. The process draws a random hash, so they
/// spread like any others.
#[test]
fn addresses_chosen_to_collide_spread_like_any_others() {
    let guess = foldhash::fast::FixedState::with_seed(0);
    let mut index = 0;
    let colliding = std::iter::from_fn(|| {
        loop {
            index += 1;
            let frame = syn(index);
            let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).expect("Ethernet");
            let (key, _) = StreamKey::of(packet::KeyKind::Flow, &headers, &frame)[0]?;
            let hash = std::hash::BuildHasher::hash_one(&guess, key);
            if hash & 63 == 0 && hash >> 63 == 0 {
                return Some(frame);
            }
        }
    });
    let flood: Vec<_> = colliding.take(4096).collect();
    let real = real();
    let calm = run(&settings(1 << 16), real.iter().cloned().enumerate().map(|(i, f)| (START + i as u64 * 1_000_000, f)));
    let mixed = flood.into_iter().chain(real.iter().cloned()).enumerate().map(|(i, f)| (START + i as u64 * 1_000_000, f));
    let (counters, recorder) = run_flooded(&settings(1 << 16), mixed, &calm.1);
    accounted(&counters, &recorder);
    let kept = kept(&calm.1, &recorder);
    println!("{index} tried for 4096 that collide: {:?} live at most by worker, {kept} named as without", recorder.most);
    // Of 4,096 streams each worker has half, within six standard deviations.
    assert!(recorder.most.len() == 2 && recorder.most.values().all(|&live| live > 2048 - 6 * 32), "{:?}", recorder.most);
}

#[test]
fn a_worker_that_panics_costs_its_streams_which_are_counted() {
    let settings = settings(1 << 16);
    let whole = settings.models.load_full()[0].clone();
    let mut broken = Model::clone(&whole);
    // Inputs that the network does not have, which loading a model would reject.
    broken.network = Network::from_parts(1, whole.classes.len(), &vec![0; whole.classes.len()], vec![1.0; whole.classes.len()]);
    let (broken, swap) = (Arc::new(broken), Arc::clone(&settings.models));
    let real = real();
    let count = 3 * real.len();
    let frames = (0..count).map(move |i| {
        match i {
            i if i == real.len() => swap.store(Arc::new(vec![Arc::clone(&broken)])),
            i if i == 2 * real.len() => swap.store(Arc::new(vec![Arc::clone(&whole)])),
            _ => {}
        }
        // Each round is an hour later, so its streams are new.
        (START + (i / real.len()) as u64 * 3600 * SECOND, real[i % real.len()].clone())
    });
    let (counters, recorder) = run(&settings, frames);
    println!(
        "{} packets: {} streams and {} packets lost and counted",
        counters.frames, counters.panic_lost_streams, counters.panic_lost_packets
    );
    assert_eq!(counters.frames, count as u64);
    assert!(counters.panic_lost_streams > 0 && counters.panic_lost_packets > 0);
    assert_eq!(counters.opened, recorder.ends + counters.panic_lost_streams, "each stream has ended or is counted lost");
    assert!(recorder.named.len() > 100, "what comes after is named: {}", recorder.named.len());
}

#[test]
fn one_elephant_stream_leaves_the_others_named() {
    let real = real();
    let calm = run(&settings(1 << 16), real.iter().cloned().map(|f| (START, f)));
    let elephant = udp([10, 9, 9, 9], 50_000, [10, 9, 9, 8], 50_001, &[0x55; 1200]);
    // One worker has 99.5 % of all packets.
    let mixed = real.iter().flat_map(|f| std::iter::repeat_n(elephant.clone(), 200).chain([f.clone()])).map(|f| (START, f));
    let (counters, recorder) = run(&settings(1 << 16), mixed);
    accounted(&counters, &recorder);
    assert_eq!(counters.frames, recorder.packets);
    assert_eq!(counters.opened, calm.0.opened + 1);
    let lost: Vec<_> = calm.1.named.iter().filter(|(k, c)| recorder.named.get(*k) != Some(*c)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn overlapping_and_tiny_fragments_are_counted_and_belong_to_a_stream() {
    let whole = udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, &[7; 64]);
    let fragment = |offset: u16, more: bool, bytes: usize| {
        let mut frame = whole.clone();
        frame.truncate(34 + bytes);
        frame[16..18].copy_from_slice(&(20 + bytes as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        frame
    };
    let mut frames = Vec::new();
    for offset in 0..200 {
        for bytes in [0, 1, 7, 8, 24] {
            frames.push(fragment(offset, offset % 3 != 0, bytes));
        }
    }
    frames.push(fragment(0x1fff, true, 64));
    let count = frames.len() as u64;
    let (counters, recorder) = run(&settings(4096), frames.into_iter().map(|f| (START, f)));
    accounted(&counters, &recorder);
    assert_eq!((counters.frames, recorder.packets), (count, count));
    // Fragments with complete ports, and fragments without.
    assert!(counters.opened <= 3, "{} streams", counters.opened);
}

#[test]
fn headers_with_a_wrong_length_affect_only_their_own_packet() {
    let tcp = {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder.tcp(1000, 443, 1, 1024).write(&mut frame, &[0x16; 40]).expect("a vector takes all bytes");
        frame
    };
    let udp = udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, &[7; 40]);
    let mut frames = Vec::new();
    for frame in [&tcp, &udp] {
        // Header length, total length, UDP length or TCP offset: every value of each byte.
        for at in [14, 16, 17, 38, 39, 46] {
            for value in 0..=255 {
                let mut lying = frame.clone();
                lying[at] = value;
                frames.push(lying);
            }
        }
        frames.extend((0..frame.len()).map(|n| frame[..n].to_vec()));
    }
    let count = frames.len() as u64;
    let (counters, recorder) = run(&settings(1 << 16), frames.into_iter().map(|f| (START, f)));
    accounted(&counters, &recorder);
    assert_eq!(
        recorder.packets + counters.undecodable.values().sum::<u64>(),
        count,
        "each frame is in a stream or counted undecodable"
    );
}

#[test]
fn tags_and_tunnels_are_followed_to_the_limit_and_no_further() {
    let inner = udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, b"payload");
    let tagged = |tags: usize| [&inner[..12], &[0x81, 0, 0, 7].repeat(tags), &inner[12..]].concat();
    let decode = |frame: &[u8]| Decoder::default().decode(LinkType::ETHERNET, frame).expect("it has a link header");
    for tags in 0..200 {
        let want = if tags <= 7 { packet::Network::Ipv4 } else { packet::Network::Other };
        let got = decode(&tagged(tags)).network;
        assert!(got == want || tags == 8, "{tags} tags: {got:?}");
    }
    let labelled = [&inner[..12], &[0x88, 0x47], &[0, 1, 0, 64].repeat(5000)[..], &inner[14..]].concat();
    assert_eq!(decode(&labelled).network, packet::Network::Other);
    // IP in IP, many times: the fifth level counts, as documented.
    let nested = |levels: usize| {
        let mut ip = inner[14..].to_vec();
        for level in 0..levels {
            let total = (20 + ip.len()) as u16;
            let [high, low] = total.to_be_bytes();
            let header = [0x45, 0, high, low, 0, 0, 0, 0, 64, 4, 0, 0, 1, 1, 1, level as u8, 2, 2, 2, level as u8];
            ip = [&header[..], &ip].concat();
        }
        [&inner[..14], &ip].concat()
    };
    for levels in [0, 1, 2, 50, 1000] {
        let headers = decode(&nested(levels));
        assert_eq!(headers.tunnels[0], if levels == 0 { Tunnel::None } else { Tunnel::IpInIp });
        assert_eq!(usize::from(headers.network_at), 14 + 20 * levels.min(4));
    }
    let extensions = [&[0x60, 0, 0, 0, 0xff, 0xff, 0, 64][..], &[0xfd; 32], &[0, 0, 0, 0, 0, 0, 0, 0].repeat(1000)].concat();
    assert_eq!(Decoder::default().decode(LinkType::RAW, &extensions).expect("raw IP").network, packet::Network::Ipv6);
    let frames = (0..200).map(tagged).chain([labelled]).chain((0..200).map(nested)).map(|f| (START, f));
    let (counters, recorder) = run(&settings(4096), frames);
    accounted(&counters, &recorder);
    // A frame within tunnels is a packet of each of them too.
    let outer: usize = (0..200_usize).map(|levels| levels.min(4)).sum();
    let undecodable = counters.undecodable.values().sum::<u64>();
    assert_eq!((counters.frames, counters.frames + outer as u64), (401, recorder.packets + undecodable));
}

#[test]
fn clocks_that_jump_only_end_streams() {
    let year_2106 = u64::from(u32::MAX) * SECOND;
    let times = [START, 0, START + 1, year_2106, START, u64::MAX, 0, START - 3600 * SECOND, u64::MAX - 1, START];
    let real = real();
    let count = real.len() as u64;
    let jumping = real.into_iter().enumerate().map(|(i, f)| (times[i % times.len()], f));
    let (counters, recorder) = run(&settings(1 << 16), jumping);
    accounted(&counters, &recorder);
    assert_eq!((counters.frames, recorder.packets), (count, count));
    assert!(counters.timed_out > 0);
}

#[test]
fn an_event_of_any_time_is_a_line_of_json() {
    let mut bytes = pcap(1, &[udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, b"x"), udp([10, 0, 0, 3], 1, [10, 0, 0, 2], 53, b"x")]);
    bytes[24..32].fill(0xff);
    let mut file = tempfile::Builder::new().suffix(".pcap").tempfile().expect("a file");
    file.write_all(&bytes).expect("written");
    let output =
        common::spiked().args(["read", "--events", "streams", "--format", "jsonl"]).arg(file.path()).output().expect("it runs");
    let lines = common::json_lines(&output.stdout);
    assert_eq!(lines.iter().filter(|l| l["event_type"] == "stream").count(), 2, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.windows(4).any(|w| w == b"2106"), "{lines:#?}");
}

#[test]
fn labels_of_more_classes_than_a_model_has_are_refused() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let row = |n: u32| format!("a.pcap,tcp,10.{}.{}.{},1,10.0.0.1,2,class-{n}\n", n >> 16, n >> 8 & 255, n & 255);
    let text: String = (0..1_000_000).map(row).collect();
    write!(file, "capture,proto,src_ip,src_port,dst_ip,dst_port,label\n{text}").expect("written");
    let error = spiked::train::labels::read(&[file.path().into()]).expect_err("too many classes");
    assert!(error.to_string().contains("1000000 classes"), "{error}");
}

#[test]
fn a_packed_capture_is_decompressed_up_to_a_limit() {
    // Records of a million zeros, which compress best.
    let record = [&[0u8; 8][..], &1_000_000_u32.to_le_bytes(), &1_000_000_u32.to_le_bytes(), &vec![0; 1_000_000]].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
    for packer in [&mut gzip as &mut dyn std::io::Write, &mut zstd] {
        packer.write_all(&pcap(1, &[])).expect("packed");
        (0..700).for_each(|_| packer.write_all(&record).expect("packed"));
    }
    for bomb in [gzip.finish().expect("packed"), zstd.finish().expect("packed")] {
        let packed = bomb.len();
        let mut file = CaptureFile::from_reader(std::io::Cursor::new(bomb), "bomb".into()).expect("it begins well");
        let (mut batch, mut bytes) = (FrameBatch::new(), 0);
        while file.fill(&mut batch).expect("what was opened can be read") {
            bytes += batch.iter().map(|f| f.bytes.len() as u64).sum::<u64>();
        }
        let cut = file.truncation().expect("it was cut").to_string();
        assert!(cut.contains("bomb") && cut.contains("truncated after packet"), "{cut}");
        assert!(bytes > 100 << 20 && bytes < (257 << 20) + 200 * packed as u64, "{bytes} of {packed}");
        assert_eq!(bytes, file.frames() * 1_000_000, "all records before the cut are complete");
    }
}

#[test]
fn a_model_larger_than_any_is_refused_before_it_is_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(5 << 30).expect("a file of holes");
    let error = Model::load(file.path()).expect_err("too large").to_string();
    assert!(error.contains("more than any model has"), "{error}");
    // A header that claims more than the file has, or more than a file can have.
    for length in [u64::MAX, 1 << 40, 101 << 20, 8] {
        let bytes = [&length.to_le_bytes()[..], b"{\"a\":1}"].concat();
        assert!(Model::from_bytes(&bytes, file.path()).is_err());
    }
}

#[test]
fn a_model_of_the_largest_size_is_read_written_and_run() {
    let whole = Model::built_in().expect("a sound model");
    let layout = Layout::headers(&LayoutOptions { payload: 40, coincidence_bits: 15, ..LayoutOptions::default() });
    let (inputs, classes) = (layout.input_count(), MAX_CLASSES);
    // Close to the gibibyte of synapses that a model may have: twice as many coincidences exceed it.
    assert!(inputs * classes > 960 << 20 && (inputs + (1 << 15)) * classes > 1 << 30, "{inputs} inputs");
    // Each input has synapses to 20 neurons, 797 apart.
    let mut row: Vec<Synapse> = Vec::new();
    let network = Network::from_rows::<Infallible>(inputs, vec![0.01; classes], |each| {
        for input in 0..inputs {
            row.clear();
            row.extend(
                (0..20).map(|n| (NeuronId::from_index((input * 31 + n * 797) % 16_384), ((input * 20 + n) % 120) as i8 + 1)),
            );
            row.sort_unstable();
            each(input, &row);
        }
        Ok(())
    });
    let Ok(network) = network;
    let decision = Decision {
        theta: vec![0.5; classes],
        assignments: Assignments::one_each(classes),
        accept: vec![0.9; classes],
        ..whole.decision.clone()
    };
    let names = (0..classes).map(|n| format!("class-{n}")).collect();
    let largest = Model { layout, network, decision, classes: names, ..Model::clone(&whole) };
    let bytes = largest.to_bytes();
    let again = Model::from_bytes(&bytes, std::path::Path::new("protocols.safetensors")).expect("it is within the bounds");
    assert!(again == largest, "it is read as it was written");
    drop(largest);
    let mut settings = settings(1 << 16);
    settings.models = Arc::new(arc_swap::ArcSwap::from_pointee(vec![Arc::new(again)]));
    let real = real();
    let count = real.len() as u64;
    let (counters, recorder) = run(&settings, real.into_iter().map(|f| (START, f)));
    accounted(&counters, &recorder);
    assert_eq!((counters.frames, recorder.packets), (count, count));
    println!("{} MB on disk, {} MB at the peak", bytes.len() >> 20, peak());
}

#[test]
fn hostile_class_names_are_plain_names() {
    let whole = Model::built_in().expect("a sound model");
    let mut model = whole.without_classes(&whole.classes[1..]).expect("one is left");
    let mut named = |name: &str| {
        model.classes[0] = name.into();
        Model::from_bytes(&model.to_bytes(), std::path::Path::new("x")).map(|again| again.classes)
    };
    for name in ["</script><script>alert(1)</script>", "../../etc/passwd", "\"} evil{", "%s%n", ""] {
        assert_eq!(named(name).expect("a name is a name"), [name]);
    }
    for name in ["a\nb", "\u{1b}[2J", "%s%n\0"] {
        let error = named(name).expect_err("it would steer a terminal, or begin a line of a log").to_string();
        assert!(error.contains("control characters"), "{error}");
    }
    assert_eq!(whole.classes.iter().collect::<BTreeSet<_>>().len(), whole.classes.len());
}
