//! Tests of the engine as the daemon uses it: sources with a clock, models replaced while running, evidence packets, the tap for learning.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::common;
use crate::common::{fixture, frames_of, in_gre, in_gtp, pcap, udp};
use spiked::capture::{CaptureError, CaptureFile, FrameBatch, InterfaceId, LinkType, Nanos, Source, watch};
use spiked::encode::Volley;
use spiked::engine::{self, EngineSettings, Event, EvidencePacket, Models, Observer, Output, Tap, Verdict};
use spiked::episode::{Episode, EpisodeState, InputSpike, MIN_CONFIDENCE};
use spiked::model::Model;
use spiked::packet::{Decoder, Direction, KeyKind, StreamKey, Tunnel};
use spiked::snn::ClassId;
use spiked::stream::{Basis, Intake, Leader, StreamLimits, StreamTracker};

const SECOND: u64 = 1_000_000_000;

/// Batches of frames with the time of the clock at each.
struct Live {
    batches: std::vec::IntoIter<(u64, Vec<Vec<u8>>)>,
    now: u64,
    between: Box<dyn FnMut(u64) + Send>,
}

impl Live {
    fn new(batches: Vec<(u64, Vec<Vec<u8>>)>) -> Self {
        Self { batches: batches.into_iter(), now: 1_700_000_000, between: Box::new(|_| {}) }
    }
}

impl Source for Live {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        let Some((now, frames)) = self.batches.next() else { return Ok(false) };
        self.now = now;
        (self.between)(now);
        for frame in frames {
            batch.push(Nanos(now * SECOND), LinkType::ETHERNET, frame.len() as u32, &frame);
        }
        Ok(true)
    }

    fn clock(&self) -> Option<Nanos> {
        Some(Nanos(self.now * SECOND))
    }
}

#[derive(Default)]
struct Recorder {
    verdicts: Vec<Verdict>,
    kept: Vec<EvidencePacket>,
    episodes: Vec<Episode>,
    input_spikes: Vec<InputSpike>,
    frames: u64,
    timed_out_before_the_end: u64,
    spikes: u64,
    idle: Duration,
}

impl Observer for Recorder {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.verdicts.push(verdict.clone()),
            Output::Packet(packet) => self.kept.push(packet.clone()),
            Output::Episode(output) => self.episodes.push(output.episode.clone()),
            Output::Spike { spike, .. } => self.input_spikes.push(spike),
            Output::Progress(progress) => {
                self.frames += progress.counters.frames;
                self.timed_out_before_the_end += progress.counters.timed_out;
                self.spikes += progress.counters.spikes.iter().flat_map(|s| &s.counts).sum::<u64>();
                self.idle += progress.idle;
            }
        }
    }
}

fn built_in() -> Arc<Model> {
    Arc::new(Model::built_in().unwrap())
}

/// A DNS query that differs by number.
fn dns(number: u8) -> Vec<u8> {
    let mut query = vec![number, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7];
    query.extend(b"example\x03com\x00\x00\x01\x00\x01");
    udp([10, 0, 0, number], 40_000, [10, 0, 1, 1], 53, &query)
}

#[test]
fn quiet_streams_end_by_the_clock_without_further_packets() {
    let settings = EngineSettings::new(vec![built_in()]);
    let start = 1_700_000_000;
    let mut batches = vec![(start, (0..50).map(dns).collect::<Vec<_>>())];
    batches.extend((1..30).map(|tick| (start + tick * 60, Vec::new())));
    let mut recorder = Recorder::default();
    let counters = engine::run(&settings, &mut Live::new(batches), &mut recorder).unwrap();
    assert_eq!((counters.frames, recorder.frames), (50, 50));
    assert_eq!((counters.timed_out, recorder.timed_out_before_the_end), (50, 50));
    assert_eq!(recorder.verdicts.iter().filter(|v| v.event == Event::Stream).count(), 50);
    assert!(recorder.spikes >= 50, "each query makes at least its own class spike: {}", recorder.spikes);
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_streams_open() {
    let settings = EngineSettings::new(vec![built_in()]);
    let (start, day) = (1_700_000_000, 86_400);
    let batch = |numbers: std::ops::Range<u8>| numbers.map(dns).collect::<Vec<_>>();
    let mut batches = vec![(start, batch(0..50)), (start - day, batch(50..100)), (start - day + 1, batch(50..100))];
    batches.extend((1..30).map(|tick| (start - day + tick * 60, Vec::new())));
    // And forward once more.
    batches.push((start + 1, batch(50..100)));
    let mut recorder = Recorder::default();
    let counters = engine::run(&settings, &mut Live::new(batches), &mut recorder).unwrap();
    assert_eq!((counters.frames, counters.opened, recorder.timed_out_before_the_end), (200, 150, 100));
    let packets: u64 = recorder.verdicts.iter().filter(|v| v.event == Event::Stream).map(|v| v.packets).sum();
    assert_eq!(packets, 200);
}

#[test]
fn a_watched_capture_older_than_the_one_before_is_read_as_if_it_were_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ended = |recorder: &Recorder| {
        let ends = recorder
            .verdicts
            .iter()
            .filter(|v| v.event == Event::Stream && v.class.is_some_and(|c| v.model.classes[usize::from(c)] == "ssh"));
        let mut ends: Vec<_> = ends.map(|v| (v.key, v.packets)).collect();
        ends.sort_unstable();
        ends
    };
    let mut alone = Recorder::default();
    let settings = EngineSettings { workers: 2, ..EngineSettings::new(vec![built_in()]) };
    // From 2023, one packet per second; the fixtures are years later.
    let earlier = folder.path().join("earlier");
    std::fs::write(&earlier, pcap(1, &frames_of("ssh-1.pcap"))).unwrap();
    engine::run(&settings, &mut CaptureFile::open(&earlier).unwrap(), &mut alone).unwrap();
    assert!(ended(&alone).len() > 5);
    let incoming = folder.path().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watched = watch::WatchSettings {
        folder: incoming.clone(),
        on_success: watch::Disposition::Leave,
        move_to: None,
        quarantine_folder: folder.path().join("unreadable"),
        settle: Duration::from_secs(60),
        filter: None,
    };
    let mut source = watch::WatchSource::open(&watched, &stop).unwrap();
    let counters = Arc::clone(source.counters());
    let mut recorder = Recorder::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| engine::run(&settings, &mut source, &mut recorder).unwrap());
        let read = |captures| common::wait_until("it is read", || counters.captures_read.load(Relaxed) == captures);
        std::fs::copy(fixture("captures/dns-1.pcap"), incoming.join("later.pcap")).unwrap();
        read(1);
        std::fs::rename(&earlier, incoming.join("earlier.pcap")).unwrap();
        read(2);
        stop.store(true, Relaxed);
        running.join().unwrap();
    });
    assert_eq!(ended(&recorder), ended(&alone));
}

/// Returns some batches, then panics; with or without a clock.
struct Broken(Live, bool);

impl Source for Broken {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.0.fill(batch)?;
        assert!(more, "a test breaks the source here");
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.1.then(|| self.0.clock()).flatten()
    }
}

#[test]
fn a_source_that_panics_ends_with_an_error_and_its_packets_are_reported() {
    for (workers, live) in [(1, false), (1, true), (2, false), (3, true)] {
        let settings = EngineSettings { workers, ..EngineSettings::new(vec![built_in()]) };
        let batches = (0..3).map(|n| (1_700_000_000 + n, (0..50).map(dns).collect::<Vec<_>>())).collect();
        let mut recorder = Recorder::default();
        let error = engine::run(&settings, &mut Broken(Live::new(batches), live), &mut recorder).unwrap_err();
        assert!(error.to_string().contains("panicked after packet 150"), "{error}");
        assert_eq!(recorder.frames, 150);
        let ends = recorder.verdicts.iter().filter(|v| v.event == Event::Stream);
        assert_eq!(ends.map(|v| v.packets).collect::<Vec<_>>(), [3; 50], "{workers} workers, live: {live}");
    }
}

#[test]
fn models_are_replaced_while_running_and_no_packet_is_lost() {
    let whole = built_in();
    let known: Vec<String> = whole.classes.iter().filter(|c| *c != "dns").cloned().collect();
    let only_dns = Arc::new(whole.without_classes(&known).unwrap());
    let no_dns = Arc::new(whole.without_classes(&["dns".into()]).unwrap());
    for workers in [1, 2, 3] {
        let settings = EngineSettings { workers, ..EngineSettings::new(vec![Arc::clone(&no_dns)]) };
        let swap = Arc::clone(&settings.models);
        let (first, second): (Models, Models) = (vec![Arc::clone(&only_dns), Arc::clone(&whole)], vec![Arc::clone(&whole)]);
        let batches: Vec<_> = (0..30u64).map(|n| (1_700_000_000 + n, (0..100u8).map(dns).collect::<Vec<_>>())).collect();
        let mut source = Live::new(batches);
        source.between = Box::new(move |now| match now - 1_700_000_000 {
            10 => swap.store(Arc::new(first.clone())),
            20 => swap.store(Arc::new(second.clone())),
            _ => {}
        });
        let mut recorder = Recorder::default();
        let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
        assert_eq!(counters.frames, 3000);
        assert_eq!((counters.opened, counters.model_removed), (200, 100), "those of the second model end with it");
        let ends: Vec<_> = recorder.verdicts.iter().filter(|v| v.event == Event::Stream && v.model_index == 0).collect();
        assert_eq!(ends.len(), 100, "each stream goes on through both swaps ({workers} workers)");
        assert!(ends.iter().all(|v| v.packets == 30), "and has all its packets");
        for verdict in &recorder.verdicts {
            assert!(verdict.leader.is_none_or(|l| usize::from(l.class) < verdict.model.classes.len()));
        }
    }
}

#[test]
fn models_keep_their_streams_in_another_order_without_others_and_under_another_name() {
    let whole = built_in();
    let no_dns = whole.without_classes(&["dns".into()]).unwrap();
    let named = |name: &str, model: &Model| Arc::new(Model { name: name.into(), ..model.clone() });
    let (a, b, other_a) = (named("a", &whole), named("b", &no_dns), named("c", &whole));
    for (next, removed, kept) in [
        (vec![Arc::clone(&b), Arc::clone(&a)], 0, ["b", "a"].as_slice()),
        (vec![Arc::clone(&b)], 20, &["b"]),
        (vec![Arc::clone(&b), other_a], 0, &["b", "c"]),
    ] {
        let settings = EngineSettings { workers: 2, ..EngineSettings::new(vec![Arc::clone(&a), Arc::clone(&b)]) };
        let swap = Arc::clone(&settings.models);
        let batches = (0..10u64).map(|n| (1_700_000_000 + n, (0..20u8).map(dns).collect())).collect();
        let mut source = Live::new(batches);
        source.between = Box::new(move |now| {
            if now == 1_700_000_005 {
                swap.store(Arc::new(next.clone()));
            }
        });
        let mut recorder = Recorder::default();
        let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
        assert_eq!((counters.opened, counters.model_removed), (40, removed), "{kept:?}");
        for (model_index, name) in kept.iter().enumerate() {
            let ends =
                recorder.verdicts.iter().filter(|v| v.event == Event::Stream && v.packets == 10 && v.model_index == model_index);
            let ends: Vec<_> = ends.collect();
            assert_eq!(ends.len(), 20, "{name}");
            assert!(ends.iter().all(|v| v.model.name == *name && v.class.is_some() == (*name != "b")), "{name}");
        }
    }
}

/// A model of so many neurons that they are grouped, which never names a stream: 32 classes of the built-in model, and 31 copies of each. Its classes
/// are named by their numbers. `sorted`: those of the first 16 classes come first.
fn grouped(sorted: bool) -> Arc<Model> {
    let whole = built_in();
    let join = |one: &Model, other: &Model| {
        let numbered = |from: usize, part: &Model| {
            let classes = (from..from + part.classes.len()).map(|number| format!("{number:04}")).collect();
            Model { classes, ..part.clone() }
        };
        numbered(0, one).join(&numbered(one.classes.len(), other)).unwrap()
    };
    let copied = |mut model: Model, classes: usize| {
        while model.classes.len() < classes {
            model = join(&model, &model);
        }
        model
    };
    let [first, second] = [0..16, 16..32].map(|kept| {
        let others: Vec<String> = [&whole.classes[..kept.start], &whole.classes[kept.end..]].concat();
        whole.without_classes(&others).unwrap()
    });
    let mut model = if sorted { join(&copied(first, 512), &copied(second, 512)) } else { copied(join(&first, &second), 1024) };
    model.decision.accept.fill(1.1);
    assert!(model.network.groups().is_some());
    Arc::new(model)
}

#[test]
fn evidence_starts_again_with_a_model_whose_neurons_are_in_other_groups() {
    let (before, after) = (grouped(false), grouped(true));
    assert_eq!(before.classes, after.classes);
    for (next, packets) in [(after, 5), (Arc::clone(&before), 9)] {
        let (samples, taken) = crossbeam_channel::unbounded();
        let tap = Some(Tap { samples, one_in: Arc::new(AtomicU32::new(1)), packets: [9; 2] });
        let settings = EngineSettings { tap, ..EngineSettings::new(vec![Arc::clone(&before)]) };
        let swap = Arc::clone(&settings.models);
        let batches = (0..9u64).map(|n| (1_700_000_000 + n, (0..20u8).map(dns).collect())).collect();
        let mut source = Live::new(batches);
        source.between = Box::new(move |now| {
            if now == 1_700_000_004 {
                // After the workers have read the packets before.
                (0..80).for_each(|_| drop(taken.recv_timeout(Duration::from_secs(60)).unwrap()));
                swap.store(Arc::new(vec![Arc::clone(&next)]));
            }
        });
        let mut recorder = Recorder::default();
        engine::run(&settings, &mut source, &mut recorder).unwrap();
        let ends: Vec<_> = recorder.verdicts.iter().filter(|v| v.event == Event::Stream).collect();
        assert_eq!(ends.len(), 20);
        let counts = ends.iter().map(|v| (v.packets, v.leader.map_or(0, |leader| leader.packets())));
        assert_eq!(counts.collect::<Vec<_>>(), [(9, packets); 20]);
    }
}

#[test]
fn the_first_packets_of_named_streams_are_kept_with_their_class() {
    let count = |workers, keep_packets| {
        let settings = EngineSettings { workers, keep_packets, ..EngineSettings::new(vec![built_in()]) };
        let mut source = CaptureFile::open(&fixture("captures/ssh-1.pcap")).unwrap();
        let mut recorder = Recorder::default();
        engine::run(&settings, &mut source, &mut recorder).unwrap();
        let named: Vec<_> = recorder.verdicts.iter().filter(|v| v.event == Event::Stream && v.class.is_some()).collect();
        let most = u64::from(keep_packets);
        assert_eq!(recorder.kept.len() as u64, named.iter().map(|v| v.packets.min(most)).sum::<u64>());
        assert!(recorder.kept.iter().all(|p| p.model.classes[usize::from(p.class)] == "ssh" && p.confidence > 0.5));
        recorder.kept.iter().map(|p| p.packet).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(count(2, 0).is_empty());
    let ten = count(1, 10);
    assert_eq!(ten, count(3, 10));
    assert!(!ten.is_empty());
    assert!(ten.is_subset(&count(2, 1000)));
}

#[test]
fn the_tap_sends_volleys_and_counts_those_that_do_not_fit() {
    let (samples, taken) = crossbeam_channel::bounded(30);
    let tap = Some(Tap { samples, one_in: Arc::new(AtomicU32::new(1)), packets: [1; 2] });
    let settings = EngineSettings { tap, ..EngineSettings::new(vec![built_in()]) };
    let batches = vec![(1_700_000_000, (0..50).map(dns).collect::<Vec<_>>()), (1_700_000_001, (0..50).map(dns).collect())];
    let counters = engine::run(&settings, &mut Live::new(batches), &mut Recorder::default()).unwrap();
    drop(settings);
    let taken: Vec<_> = taken.iter().collect();
    assert_eq!((taken.len(), counters.dropped_samples), (30, 20));
    assert!(taken.iter().all(|s| s.slots.len() == s.model.layout.slots().len() && s.position == 0));
}

#[test]
fn an_idle_source_leaves_workers_waiting_not_spinning() {
    struct Idle(mpsc::Receiver<()>, u32);
    impl Source for Idle {
        fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
            batch.clear();
            let _ = self.0.recv_timeout(Duration::from_millis(50));
            self.1 += 1;
            Ok(self.1 < 10)
        }
        fn clock(&self) -> Option<Nanos> {
            Some(Nanos(SECOND))
        }
    }
    let (_keep, never) = mpsc::channel();
    let settings = EngineSettings { workers: 2, ..EngineSettings::new(vec![built_in()]) };
    let mut recorder = Recorder::default();
    engine::run(&settings, &mut Idle(never, 0), &mut recorder).unwrap();
    // Ten waits of 50 ms, reported by two workers.
    assert!(recorder.idle > Duration::from_millis(600), "{:?}", recorder.idle);
}

/// The CPUs that each worker thread of this process may use.
fn affinities() -> std::collections::BTreeMap<String, String> {
    let mut found = std::collections::BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let of = |field: &str| status.lines().find_map(|l| l.strip_prefix(field)).map(|l| l.trim().to_string());
        if let (Some(name), Some(cpus)) = (of("Name:"), of("Cpus_allowed_list:"))
            && name.starts_with("spiked-worker-")
        {
            found.insert(name, cpus);
        }
    }
    found
}

#[test]
fn pinned_workers_have_a_cpu_each() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let workers = 9;
    let settings = EngineSettings { workers, pin: true, ..EngineSettings::new(vec![built_in()]) };
    let seen = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
    let keep = Arc::clone(&seen);
    let mut source = Live::new((0..20).map(|n| (1_700_000_000 + n, vec![dns(1)])).collect());
    // Tests with fewer workers run at the same time: the last workers belong to this test.
    let own = move |n: usize| (format!("spiked-worker-{n}"), cpus[n % cpus.len()].to_string());
    let wanted: std::collections::BTreeMap<_, _> = (4..workers).map(own).collect();
    let pinned = wanted.clone();
    source.between = Box::new(move |_| {
        common::wait_until("each worker is pinned to its CPU", || {
            let mut seen = keep.lock().unwrap();
            seen.extend(affinities());
            pinned.iter().all(|(name, cpu)| seen.get(name) == Some(cpu))
        });
    });
    engine::run(&settings, &mut source, &mut Recorder::default()).unwrap();
    let seen = seen.lock().unwrap();
    for (name, cpu) in wanted {
        assert_eq!(seen.get(&name), Some(&cpu), "{name} of {seen:?}");
    }
}

/// A frame: link type, time, length on the wire, captured bytes.
type TimedFrame = (LinkType, Nanos, u32, Vec<u8>);

/// Frames in batches of the given lengths in turn.
struct InBatches {
    frames: Vec<TimedFrame>,
    at: usize,
    lengths: std::iter::Cycle<std::vec::IntoIter<usize>>,
}

impl InBatches {
    fn new(frames: Vec<TimedFrame>, lengths: Vec<usize>) -> Self {
        Self { frames, at: 0, lengths: lengths.into_iter().cycle() }
    }

    /// Whole Ethernet frames with their seconds.
    fn ethernet(frames: impl IntoIterator<Item = (u64, Vec<u8>)>, lengths: Vec<usize>) -> Self {
        let frame = |(second, bytes): (u64, Vec<u8>)| (LinkType::ETHERNET, Nanos(second * SECOND), bytes.len() as u32, bytes);
        Self::new(frames.into_iter().map(frame).collect(), lengths)
    }
}

impl Source for InBatches {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        let most = self.lengths.next().unwrap_or(FrameBatch::CAPACITY);
        let end = self.frames.len().min(self.at + most);
        for (link, timestamp, wire_len, bytes) in &self.frames[self.at..end] {
            batch.push(*timestamp, *link, *wire_len, bytes);
        }
        self.at = end;
        Ok(!batch.is_empty())
    }
}

/// The frames of a recording of behaviours.
fn recording(name: &str) -> Vec<TimedFrame> {
    let mut source = CaptureFile::open(&fixture(&format!("behaviours/{name}.pcap.zst"))).unwrap();
    let (mut frames, mut batch) = (Vec::new(), FrameBatch::new());
    while source.fill(&mut batch).unwrap() {
        frames.extend(batch.iter().map(|f| (f.link, f.timestamp, f.wire_len, f.bytes.to_vec())));
    }
    frames
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 6, failure_persistence: None, ..Default::default() })]

    /// Hosts' flows lie in many shards, and their traces are the same in all of them.
    #[test]
    fn traces_and_episodes_do_not_depend_on_workers_or_batches(
        capture in proptest::sample::select(vec!["train/scan.port-1", "train/flood.syn-5", "train/bruteforce.http-1", "train/beacon-1", "test/scan.host-8"]),
        lengths in proptest::collection::vec(1usize..=FrameBatch::CAPACITY, 1..6),
    ) {
        let model = Arc::new(Model::load(&fixture("../config/models/behaviours.safetensors")).unwrap());
        let frames = recording(capture);
        let run = |workers, lengths: Vec<usize>| {
            let settings = EngineSettings { workers, ..EngineSettings::new(vec![Arc::clone(&model)]) };
            let mut source = InBatches::new(frames.clone(), lengths);
            let mut recorder = Recorder::default();
            engine::run(&settings, &mut source, &mut recorder).unwrap();
            (recorder.verdicts, recorder.episodes, recorder.input_spikes)
        };
        let alone = run(1, vec![FrameBatch::CAPACITY]);
        proptest::prop_assert!(alone.1.iter().any(|e| e.state == EpisodeState::Begin), "no episode in {capture}");
        proptest::prop_assert!(alone.0.iter().any(|verdict| verdict.by_episode), "no stream named by an episode in {capture}");
        for workers in [1, 2, 3, 7] {
            let (verdicts, episodes, spikes) = run(workers, lengths.clone());
            // Without the verdicts in the message, which hold the model.
            proptest::prop_assert!(verdicts == alone.0, "other verdicts with {workers} workers");
            proptest::prop_assert_eq!(&episodes, &alone.1, "{} workers", workers);
            proptest::prop_assert!(spikes == alone.2, "other spikes with {workers} workers");
        }
    }
}

/// The shipped behaviours model, and what it finds in a recording.
fn behaviours_of(recording: &str) -> (Arc<Model>, Recorder) {
    let model = Arc::new(Model::load(&fixture("../config/models/behaviours.safetensors")).unwrap());
    let mut source = CaptureFile::open(&fixture(&format!("behaviours/{recording}.pcap.zst"))).unwrap();
    let mut recorder = Recorder::default();
    engine::run(&EngineSettings::new(vec![Arc::clone(&model)]), &mut source, &mut recorder).unwrap();
    (model, recorder)
}

/// A scan of one probe in 2 s, by a tool that the model was not trained on.
#[test]
fn a_slow_scan_is_found_within_ten_probes() {
    let (model, recorder) = behaviours_of("test/scan.port-14");
    let scan = recorder.episodes.iter().find(|e| model.classes[e.class.index()] == "scan.port").expect("an episode");
    assert!(scan.state == EpisodeState::Begin && scan.flows <= 10, "{} flows", scan.flows);
}

/// Most connections of this attack resemble it too little to be named alone.
#[test]
fn streams_of_an_episode_are_named_by_it() {
    let (model, recorder) = behaviours_of("test/bruteforce.ssh-6");
    let episode = recorder.episodes.iter().rfind(|e| model.classes[e.class.index()] == "bruteforce.ssh").expect("an episode");
    let (by_episode, alone): (Vec<_>, Vec<_>) =
        recorder.verdicts.iter().filter(|v| v.class.is_some()).partition(|v| v.by_episode);
    let (detections, ends): (Vec<&Verdict>, Vec<_>) = by_episode.iter().partition(|v| v.event == Event::Detection);
    assert!(ends.len() >= 5, "{} named by an episode", ends.len());
    let streams = |verdicts: &[&Verdict]| verdicts.iter().map(|v| v.number).collect::<Vec<_>>();
    assert_eq!(streams(&detections), streams(&ends), "each is reported once");
    for end in ends {
        let [(source, _), _] = end.key.ends(end.first_direction);
        assert_eq!((end.class, source, end.basis()), (Some(episode.class), episode.host, Some(Basis::Episode)));
        assert_eq!(end.leader.map(|leader| leader.class), end.class);
        // Where a later packet alone leads, its confidence may be higher.
        let alone = end.packets < 32 && end.confidence >= model.decision.accept[episode.class.index()];
        assert!(end.confidence >= MIN_CONFIDENCE && !alone, "{} after {} packets", end.confidence, end.packets);
    }
    assert!(alone.iter().all(|v| v.basis() != Some(Basis::Episode)));
}

/// The first packets of a flood that is one flow do not show it; later ones begin an episode, which names the flow.
#[test]
fn the_only_flow_of_an_episode_is_named_by_it() {
    let (model, recorder) = behaviours_of("test/flood.icmp-5");
    let episode = recorder.episodes.last().expect("an episode");
    assert_eq!((model.classes[episode.class.index()].as_str(), episode.flows, episode.ports), ("flood.icmp", 1, 0));
    let named = |v: &&Verdict| v.event == Event::Stream && v.class == Some(episode.class);
    let [flood] = recorder.verdicts.iter().filter(named).collect::<Vec<_>>()[..] else { panic!("not one stream") };
    assert!(flood.basis() == Some(Basis::Episode) && flood.first <= episode.start);
    assert!(flood.packets >= episode.packets && flood.bytes >= episode.bytes);
}

/// An Ethernet frame with the TCP segment or UDP datagram of an IPv4 packet over IPv6; `None` for other frames.
fn over_ipv6(frame: &[u8]) -> Option<Vec<u8>> {
    let ip = frame.get(14..34).filter(|ip| frame[12..14] == [0x08, 0x00] && matches!(ip[9], 6 | 17))?;
    let (header, total) = (usize::from(ip[0] & 15) * 4, u16::from_be_bytes([ip[2], ip[3]]));
    let address = |ipv4: &[u8]| [&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0], ipv4].concat();
    let length = (total - header as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, length[0], length[1], ip[9], ip[8]];
    Some([&frame[..12], &[0x86, 0xdd], &fixed, &address(&ip[12..16]), &address(&ip[16..20]), &frame[14 + header..]].concat())
}

/// The model was trained on attacks over IPv4 alone.
#[test]
fn attacks_over_ipv6_are_found_as_over_ipv4() {
    let model = Arc::new(Model::load(&fixture("../config/models/behaviours.safetensors")).unwrap());
    let episodes = |frames: Vec<TimedFrame>| {
        let mut recorder = Recorder::default();
        let mut source = InBatches::new(frames, vec![FrameBatch::CAPACITY]);
        engine::run(&EngineSettings::new(vec![Arc::clone(&model)]), &mut source, &mut recorder).unwrap();
        recorder.episodes
    };
    for name in ["test/scan.port-14", "test/flood.syn-7", "test/bruteforce.ssh-6"] {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (link, time, wire_len, bytes) in recording(name) {
            let Some(converted) = over_ipv6(&bytes) else { continue };
            let longer = (converted.len() - bytes.len()) as u32;
            ipv6.push((link, time, wire_len + longer, converted));
            ipv4.push((link, time, wire_len, bytes));
        }
        let ends = |frames| {
            let ends = episodes(frames).into_iter().filter(|e| e.state == EpisodeState::End);
            ends.map(|e| (e.class, e.role, e.flows)).collect::<Vec<_>>()
        };
        let (ipv4, ipv6) = (ends(ipv4), ends(ipv6));
        assert!(!ipv4.is_empty(), "no episode in {name}");
        assert_eq!(ipv4.len(), ipv6.len(), "episodes in {name}");
        for ((class, role, flows), over_ipv6) in ipv4.into_iter().zip(ipv6) {
            assert_eq!((class, role), (over_ipv6.0, over_ipv6.1), "in {name}");
            // Sets of addresses count a little otherwise.
            assert!(flows.abs_diff(over_ipv6.2) * 20 <= flows, "{flows} and {} flows in {name}", over_ipv6.2);
        }
    }
}

/// All requests of an ARP scan are one stream, and each is about another host.
#[test]
fn an_arp_scan_is_an_episode_of_the_host_that_asks() {
    let (model, recorder) = behaviours_of("train/scan.host-3");
    let scan = recorder.episodes.iter().rfind(|e| model.classes[e.class.index()] == "scan.host").expect("an episode");
    assert_eq!(scan.host.to_string(), "172.17.4.47");
    assert!(scan.peers > 100, "{} peers", scan.peers);
}

/// Two models, where the second lacks a class.
static SIDE_BY_SIDE: LazyLock<Models> = LazyLock::new(|| {
    let whole = built_in();
    let without = whole.without_classes(&["dns".into()]).unwrap();
    vec![whole, Arc::new(without)]
});
static TRAFFIC: LazyLock<Vec<Vec<Vec<u8>>>> =
    LazyLock::new(|| ["dns-1", "http-1", "ssh-1", "tls-1", "ntp-1"].map(|name| frames_of(&format!("{name}.pcap"))).into());

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 10, failure_persistence: None, ..Default::default() })]
    /// Several captures shuffled into one, with pauses that end streams, read with two models side by side.
    #[test]
    fn results_hang_neither_on_the_workers_nor_on_the_batches(
        order in proptest::collection::vec((0usize..5, 0u64..400), 200..500),
        lengths in proptest::collection::vec(1usize..=FrameBatch::CAPACITY, 1..6),
        workers in 2usize..5,
        every_packet: bool,
        keep_packets in 0u32..6,
    ) {
        let mut sources: Vec<_> = TRAFFIC.iter().map(|frames| frames.iter().cycle()).collect();
        let mut now = 1_700_000_000;
        let frames: Vec<(u64, Vec<u8>)> = order
            .into_iter()
            .map(|(source, pause)| {
                // Most packets have the same time.
                now += pause.saturating_sub(390) * 100;
                (now, sources[source].next().expect("no end").clone())
            })
            .collect();
        let run = |workers, lengths: Vec<usize>| {
            let settings = EngineSettings { workers, every_packet, keep_packets, ..EngineSettings::new(SIDE_BY_SIDE.clone()) };
            let mut source = InBatches::ethernet(frames.clone(), lengths);
            let mut recorder = Recorder::default();
            let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
            let mut kept: Vec<_> = recorder.kept.iter().map(|p| (p.packet, p.model_index, p.class, p.confidence.to_bits())).collect();
            // They are passed on when their stream is named, so they are in order only within a batch.
            kept.sort_unstable();
            (recorder.verdicts, kept, counters)
        };
        let alone = run(1, vec![FrameBatch::CAPACITY]);
        proptest::prop_assert!(alone.0.len() >= 10, "{} verdicts", alone.0.len());
        for (workers, lengths) in [(1, lengths.clone()), (workers, vec![FrameBatch::CAPACITY]), (workers, lengths)] {
            let (verdicts, kept, counters) = run(workers, lengths);
            proptest::prop_assert_eq!(&verdicts, &alone.0);
            proptest::prop_assert_eq!(&kept, &alone.1);
            proptest::prop_assert_eq!(&counters, &alone.2);
        }
    }
}

/// A TCP segment of one connection; `back` when the server sends it.
fn segment(flags: u8, back: bool) -> Vec<u8> {
    let (client, server) = ([10, 0, 0, 1, 156, 64], [10, 0, 0, 2, 0, 22]);
    let [from, to] = if back { [server, client] } else { [client, server] };
    let mut frame = vec![2, 0, 0, 0, 0, to[3], 2, 0, 0, 0, 0, from[3], 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend_from_slice(&from[..4]);
    frame.extend_from_slice(&to[..4]);
    frame.extend_from_slice(&from[4..]);
    frame.extend_from_slice(&to[4..]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    frame
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]
    /// Streams evict each other from the table and from the rows of evidence, and sometimes time out.
    #[test]
    fn a_crowd_is_told_of_alike_however_it_is_cut_into_batches(
        packets in proptest::collection::vec((0u16..300, 0usize..4, 0u64..500), 500..1000),
        lengths in proptest::collection::vec(1usize..40, 1..6),
        streams in proptest::sample::select(vec![100usize, 200, 1000]),
        every_packet: bool,
    ) {
        let mut now = 1_700_000_000;
        let frames: Vec<(u64, Vec<u8>)> = packets
            .iter()
            .map(|&(number, kind, pause)| {
                now += pause.saturating_sub(490) * 100;
                let mut frame = if kind == 3 { dns(1) } else { segment(ACK, kind == 1) };
                let port = if kind == 1 { 36 } else { 34 };
                frame[port..port + 2].copy_from_slice(&(40_000 + number).to_be_bytes());
                (now, frame)
            })
            .collect();
        let run = |lengths: Vec<usize>| {
            let mut settings = EngineSettings { workers: 1, every_packet, keep_packets: 2, ..EngineSettings::new(vec![built_in()]) };
            settings.limits.streams = streams;
            let mut recorder = Recorder::default();
            let mut source = InBatches::ethernet(frames.clone(), lengths);
            let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
            (recorder.verdicts, counters)
        };
        let whole = run(vec![FrameBatch::CAPACITY]);
        proptest::prop_assume!(whole.1.dropped_undecided > 0 && whole.1.timed_out > 0);
        proptest::prop_assert_eq!(run(lengths), whole);
    }
}

/// Number of packets of each stream of the segments, given as (second, flags, whether the server sends it).
fn streams_of(model: Arc<Model>, segments: &[(u64, u8, bool)]) -> Vec<u64> {
    let with_sequence: Vec<_> = segments.iter().map(|&(second, flags, back)| (second, flags, back, 1)).collect();
    streams_of_sequences(model, &with_sequence)
}

/// As [`streams_of`], with the sequence number of the client's SYN for SYNs and their answers.
fn streams_of_sequences(model: Arc<Model>, segments: &[(u64, u8, bool, u32)]) -> Vec<u64> {
    let segment = |&(second, flags, back, sequence): &(u64, u8, bool, u32)| {
        let mut frame = segment(flags, back);
        // The sequence number, or the acknowledgement of the next one.
        let (at, number) = if back { (42, sequence + 1) } else { (38, sequence) };
        frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        (1_700_000_000 + second, frame)
    };
    let frames = segments.iter().map(segment);
    let settings = EngineSettings { workers: 1, ..EngineSettings::new(vec![model]) };
    let mut source = InBatches::ethernet(frames, vec![3]);
    let mut recorder = Recorder::default();
    engine::run(&settings, &mut source, &mut recorder).unwrap();
    recorder.verdicts.iter().filter(|v| v.event == Event::Stream).map(|v| v.packets).collect()
}

#[test]
fn a_connection_of_the_same_ports_is_a_stream_of_its_own_once_the_last_is_closed() {
    let open = [(0, SYN, false), (0, SYN | ACK, true), (0, ACK, false)];
    let of_sequences = |closing: &[(u64, u8, bool)], then: u64, sequence: u32| {
        let first = [&open[..], closing].concat().into_iter().map(|(second, flags, back)| (second, flags, back, 1));
        let again = open.into_iter().map(|(_, flags, back)| (then, flags, back, sequence));
        streams_of_sequences(built_in(), &first.chain(again).collect::<Vec<_>>())
    };
    let after = |closing: &[(u64, u8, bool)], then: u64| of_sequences(closing, then, 77_000);
    let both = [(1, FIN | ACK, false), (1, FIN | ACK, true), (1, ACK, false)];
    assert_eq!(after(&both, 2), [6, 3], "both sides have finished");
    assert_eq!(after(&[(1, RST | ACK, true)], 2), [4, 3], "a reset");
    assert_eq!(after(&both[..1], 2), [7], "one side may still send");
    assert_eq!(of_sequences(&[], 2, 1), [6], "a SYN that is sent again is the same connection's");
    assert_eq!(of_sequences(&both, 2, 1), [9], "also after the end");
    assert_eq!(after(&[], 0), [6], "no pause");
    assert_eq!(after(&[], 30), [3, 3], "another SYN after a pause, although nothing was closed");
    // Late packets of a closed connection belong to it, for a minute.
    let late = |second| streams_of(built_in(), &[&open[..], &both[..], &[(second, ACK, true)]].concat());
    assert_eq!(late(60), [7]);
    assert_eq!(late(63), [6, 1]);
}

/// Sender of the first packets' streams by the address's last byte and port, given the segments of one stream.
fn source_port(segments: &[(u64, u8, bool)]) -> (u16, u64) {
    let frames = segments.iter().map(|&(second, flags, back)| (1_700_000_000 + second, segment(flags, back)));
    let settings = EngineSettings { workers: 1, ..EngineSettings::new(vec![built_in()]) };
    let mut source = InBatches::ethernet(frames, vec![3]);
    let mut recorder = Recorder::default();
    engine::run(&settings, &mut source, &mut recorder).unwrap();
    let stream = recorder.verdicts.iter().find(|v| v.event == Event::Stream).unwrap();
    let forward = stream.first_direction == Direction::Forward;
    (if forward { stream.key.port_a() } else { stream.key.port_b() }, stream.own_packets)
}

#[test]
fn the_source_is_the_client_wherever_the_capture_begins() {
    let client = source_port(&[(0, SYN, false), (0, SYN | ACK, true), (0, ACK, false)]);
    assert_eq!(client.1, 2);
    assert_eq!(source_port(&[(0, SYN | ACK, true), (0, ACK, false)]), (client.0, 1), "an answer to a SYN");
    assert_eq!(source_port(&[(0, ACK, true), (0, ACK, false), (0, ACK, true)]), (client.0, 1), "from the middle");
    assert_eq!(source_port(&[(0, ACK, false), (0, ACK, true)]), (client.0, 1));
}

/// An Ethernet frame with a fragment of a UDP packet from port 40000 to port 53; `at`: offset in units of 8 bytes, 0 for the first.
fn fragment(packet: u16, at: u16, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = udp([10, 0, 0, 1], 40_000, [10, 0, 0, 9], 53, &[7; 16]);
    frame[18..20].copy_from_slice(&packet.to_be_bytes());
    let more = if at == 0 { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&(at | more).to_be_bytes());
    if at > 0 {
        // Later fragments have no UDP header.
        frame[34..42].fill(7);
    }
    if let Some(vlan) = vlan {
        frame.splice(12..12, [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
    }
    frame
}

/// Packets of each stream of the frames, one a second, and the number of fragments without their first.
fn streams_of_frames(frames: &[Vec<u8>], workers: usize, lengths: Vec<usize>, vlan_in_key: bool) -> (Vec<u64>, u64) {
    let frames = (1_700_000_000..).zip(frames.iter().cloned());
    let intake = Intake { vlan_in_key, ..Intake::default() };
    let settings = EngineSettings { workers, intake, ..EngineSettings::new(vec![built_in()]) };
    let mut source = InBatches::ethernet(frames, lengths);
    let mut recorder = Recorder::default();
    let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
    let streams = recorder.verdicts.iter().filter(|v| v.event == Event::Stream).map(|v| v.packets);
    (streams.collect(), counters.lone_fragments)
}

#[test]
fn fragments_belong_to_the_stream_of_the_first_whatever_the_batches() {
    let frames: Vec<_> = (0..60).flat_map(|packet| [fragment(packet, 0, None), fragment(packet, 3, None)]).collect();
    for (workers, length) in [(1, 1024), (1, 1), (3, 1), (4, 3)] {
        assert_eq!(streams_of_frames(&frames, workers, vec![length], true), (vec![120], 0), "{workers} workers");
    }
    // A fragment before its first one, or without it, and one of another packet more than 30 s after the first.
    assert_eq!(streams_of_frames(&[fragment(1, 3, None), fragment(1, 0, None)], 1, vec![2], true), (vec![1, 1], 1));
    let late: Vec<_> =
        [fragment(1, 0, None)].into_iter().chain((2..40).map(|n| fragment(n, 0, None))).chain([fragment(1, 3, None)]).collect();
    assert_eq!(streams_of_frames(&late, 1, vec![5], true), (vec![39, 1], 1));
}

/// Protocol and lower port, packets, and the names of the tunnels around it, of each stream of the frames, sorted.
fn tunnelled_streams(frames: &[Vec<u8>], depth: u8, workers: usize, length: usize) -> Vec<String> {
    let intake = Intake { decoder: Decoder::default().with_depth(depth), ..Intake::default() };
    let settings = EngineSettings { workers, intake, ..EngineSettings::new(vec![built_in()]) };
    let mut source = InBatches::ethernet((1_700_000_000..).zip(frames.iter().cloned()), vec![length]);
    let mut recorder = Recorder::default();
    let counters = engine::run(&settings, &mut source, &mut recorder).unwrap();
    let ends = recorder.verdicts.iter().filter(|v| v.event == Event::Stream);
    let mut streams: Vec<_> = ends
        .map(|v| {
            let tunnels: Vec<_> = v.tunnel.iter().flat_map(|tunnel| tunnel.kinds()).map(|kind| kind.name()).collect();
            format!("{} {}: {} in {tunnels:?}", v.key.proto_name(), v.key.port_a().min(v.key.port_b()), v.packets)
        })
        .collect();
    streams.sort();
    assert_eq!((counters.frames, counters.opened), (frames.len() as u64, streams.len() as u64));
    assert_eq!((counters.lone_fragments, counters.dropped_tunnels), (0, 0));
    streams
}

#[test]
fn a_tunnel_is_a_stream_and_so_is_each_within_it() {
    let gtp: Vec<_> = (0..40).map(|n| in_gtp(&dns(n % 2))).collect();
    let deep: Vec<_> = gtp.iter().map(|frame| in_gre(frame)).collect();
    for (workers, length) in [(1, 1024), (2, 1), (3, 7), (7, 1024)] {
        let of = |frames, depth| tunnelled_streams(frames, depth, workers, length);
        let inner = "UDP 53: 20 in [\"gtp\"]";
        assert_eq!(of(&gtp, 4), ["UDP 2152: 40 in []", inner, inner]);
        assert_eq!(of(&gtp, 0), ["UDP 2152: 40 in []"]);
        let inner = "UDP 53: 20 in [\"gre\", \"gtp\"]";
        assert_eq!(of(&deep, 4), ["GRE 0: 40 in []", "UDP 2152: 40 in [\"gre\"]", inner, inner]);
        assert_eq!(of(&deep, 1), ["GRE 0: 40 in []", "UDP 2152: 40 in [\"gre\"]"]);
    }
}

/// The first fragment holds the begin of the inner packet, the others only bytes of it.
#[test]
fn later_fragments_of_a_tunnel_s_packet_are_of_the_tunnel() {
    let whole = in_gtp(&udp([10, 0, 0, 1], 40_000, [10, 0, 0, 9], 53, &[7; 160]));
    let fragment = |from: usize, to: usize| {
        let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
        let more = if 34 + to < whole.len() { 0x2000 } else { 0 };
        frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&((from / 8) as u16 | more).to_be_bytes());
        frame
    };
    let frames = [fragment(0, 80), fragment(80, 160), fragment(160, whole.len() - 34), whole.clone()];
    for workers in [1, 2, 3, 7] {
        assert_eq!(tunnelled_streams(&frames, 4, workers, 1), ["UDP 2152: 4 in []", "UDP 53: 2 in [\"gtp\"]"]);
    }
}

/// A flood within a tunnel: hosts of both packets have traces, streams of both begin with one frame, and packets of both are kept.
#[test]
fn results_of_tunnels_do_not_depend_on_workers_or_batches() {
    let behaviours = Arc::new(Model::load(&fixture("../config/models/behaviours.safetensors")).unwrap());
    let devices = Arc::new(Model::load(&fixture("../config/models/devices.safetensors")).unwrap());
    let is_ip = |frame: &&TimedFrame| frame.0 == LinkType::ETHERNET && frame.3[12..14] == [8, 0];
    let in_tunnel = |&(link, time, _, ref frame): &TimedFrame| {
        let frame = in_gtp(frame);
        (link, time, frame.len() as u32, frame)
    };
    let frames: Vec<_> = recording("train/flood.syn-5").iter().filter(is_ip).take(3000).map(in_tunnel).collect();
    let run = |workers, lengths: Vec<usize>| {
        let models = vec![built_in(), Arc::clone(&behaviours), Arc::clone(&devices)];
        let settings = EngineSettings { workers, keep_packets: 2, ..EngineSettings::new(models) };
        let mut recorder = Recorder::default();
        engine::run(&settings, &mut InBatches::new(frames.clone(), lengths), &mut recorder).unwrap();
        let mut kept: Vec<_> = recorder.kept.iter().map(|p| (p.packet, p.model_index, p.key, p.class)).collect();
        // Packets are passed on batch by batch, when their stream is named.
        kept.sort_unstable_by_key(|p| (p.0, p.1, p.2));
        (recorder.verdicts, recorder.episodes, recorder.input_spikes, kept)
    };
    let alone = run(1, vec![FrameBatch::CAPACITY]);
    let outer = alone.0.iter().filter(|v| v.event == Event::Stream && v.key.port_a() == 2152);
    let outer: Vec<_> = outer.map(|v| (v.packets, v.tunnel.as_deref())).collect();
    assert_eq!(outer, [(frames.len() as u64, None); 2], "of the two models of flows");
    let inner = |v: &&Verdict| v.tunnel.as_ref().is_some_and(|tunnel| tunnel.kinds() == [Tunnel::Gtp]);
    assert!(alone.0.iter().filter(inner).count() > 100 && !alone.3.is_empty());
    for (workers, length) in [(1, 1), (2, 100), (3, 7), (7, 1000)] {
        let other = run(workers, vec![length]);
        assert!(other.0 == alone.0, "other verdicts with {workers} workers");
        assert_eq!((&other.1, &other.3), (&alone.1, &alone.3), "{workers} workers");
        assert!(other.2 == alone.2, "other spikes with {workers} workers");
    }
}

#[test]
fn vlans_may_be_left_out_of_the_key() {
    let frames = [Some(5), Some(6), None].map(|vlan| fragment(1, 0, vlan));
    assert_eq!(streams_of_frames(&frames, 1, vec![3], true).0, [1, 1, 1]);
    assert_eq!(streams_of_frames(&frames, 2, vec![3], false).0, [3]);
}

#[test]
fn a_host_is_one_stream_however_often_its_connections_close() {
    let devices = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/devices.safetensors");
    let model = Arc::new(Model::load(&devices).unwrap());
    for end in [FIN | ACK, RST | ACK] {
        let connection = |from| [(from, SYN, false), (from, SYN | ACK, true), (from, FIN | ACK, false), (from, end, true)];
        let segments: Vec<_> = (0..5).flat_map(|round| connection(round * 120)).collect();
        assert_eq!(streams_of(Arc::clone(&model), &segments), [20, 20], "all that each of the two hosts sent and received");
    }
}

/// A capture in batches of random sizes, at most `left` frames of it.
struct RandomBatches {
    file: CaptureFile,
    pending: FrameBatch,
    at: usize,
    left: usize,
    random: ChaCha8Rng,
}

impl RandomBatches {
    fn open(path: &Path, seed: u64) -> Option<Self> {
        let (file, random) = (CaptureFile::open(path).ok()?, ChaCha8Rng::seed_from_u64(seed));
        Some(Self { file, pending: FrameBatch::new(), at: 0, left: 10_000, random })
    }
}

impl Source for RandomBatches {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if self.left == 0 {
            return Ok(false);
        }
        if self.at == self.pending.len() {
            self.at = 0;
            if !self.file.fill(&mut self.pending)? {
                self.left = 0;
                return Ok(false);
            }
        }
        let size = (self.random.next_u64() % 300) as usize;
        let end = self.pending.len().min(self.at + size.min(self.left));
        for frame in (self.at..end).map(|number| self.pending.frame(number)) {
            batch.push(frame.timestamp, frame.link, frame.wire_len, frame.bytes);
        }
        self.left -= end - self.at;
        self.at = end;
        Ok(true)
    }
}

/// A stream: model, key, number of its first packet.
type StreamId = (usize, StreamKey, u64);

/// Result of reading a capture: the direction and slot values of each packet by stream and position, and the leader, class and number of
/// packets of each stream.
#[derive(Default)]
struct Seen {
    packets: HashMap<(StreamId, u8), (Direction, Vec<u16>)>,
    streams: HashMap<StreamId, (Option<Leader>, Option<ClassId>, u64)>,
}

fn seen_by_engine(models: &[Arc<Model>], path: &Path, seed: u64, workers: usize) -> Option<Seen> {
    let (samples, taken) = crossbeam_channel::unbounded();
    let tap = Tap { samples, one_in: Arc::new(AtomicU32::new(1)), packets: [u8::MAX; KeyKind::COUNT] };
    let settings = EngineSettings { workers, tap: Some(tap), ..EngineSettings::new(models.to_vec()) };
    let mut seen = Seen::default();
    let mut observer = |verdict: &Verdict| {
        if verdict.event == Event::Stream {
            let id = (verdict.model_index, verdict.key, verdict.number);
            assert!(seen.streams.insert(id, (verdict.leader, verdict.class, verdict.packets)).is_none());
        }
    };
    let counters = engine::run(&settings, &mut RandomBatches::open(path, seed)?, &mut observer).ok()?;
    assert_eq!(
        (counters.evicted, counters.dropped_undecided, counters.dropped_samples),
        (0, 0, 0),
        "{}: the limits are not reached",
        path.display()
    );
    drop(settings);
    for sample in taken {
        let id = ((sample.model_index, sample.key, sample.stream), sample.position);
        assert!(seen.packets.insert(id, (sample.first_direction, sample.slots)).is_none());
    }
    Some(seen)
}

fn seen_by_tracker(models: &[Arc<Model>], path: &Path, seed: u64) -> Option<Seen> {
    let mut seen = Seen::default();
    for (number, model) in models.iter().enumerate() {
        let mut tracker = StreamTracker::new(model.key, &Intake::default(), StreamLimits::default());
        let (mut classifier, mut volley) = (model.classifier(), Volley::default());
        let new_stream = classifier.new_stream();
        let visited = tracker.visit(
            &mut RandomBatches::open(path, seed)?,
            |_| new_stream.clone(),
            |packet| {
                packet.encode(&model.layout, &mut volley);
                let slots = &volley.slots[..model.layout.slots().len()];
                classifier.observe(slots, volley.content, &mut packet.stream.state);
                if packet.context.position < u8::MAX {
                    let id = ((number, packet.stream.key, packet.stream.number), packet.context.position);
                    seen.packets.insert(id, (packet.stream.first_direction(), slots.to_vec()));
                }
                ControlFlow::Continue(())
            },
        );
        visited.ok()?;
        for stream in tracker.finish() {
            let leader = stream.state.leader;
            let class = leader.and_then(|leader| model.decision.class(&leader));
            seen.streams.insert((number, stream.key, stream.number), (leader, class, stream.packets));
        }
    }
    Some(seen)
}

/// All captures below a folder, except `sealed`, which no test may read.
fn captures_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.ends_with("sealed") {
            captures_below(&path, found);
        } else if path.extension().is_some_and(|e| ["pcap", "pcapng", "cap", "gz", "zst"].iter().any(|known| e == *known)) {
            found.push(path);
        }
    }
    found.sort();
}

/// All fixtures and a random sample of the shared captures, in random batches, with one to four workers: the engine and the tracker
/// see the same packets of the same streams at the same positions with the same slots, and name the same classes by the same evidence.
#[test]
fn engine_and_tracker_see_the_same_packets() {
    let devices = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/devices.safetensors");
    let models = [built_in(), Arc::new(Model::load(&devices).unwrap())];
    let given = std::env::var("SPIKED_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    eprintln!("SPIKED_TEST_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut paths, mut shared) = (Vec::new(), Vec::new());
    captures_below(&fixture(""), &mut paths);
    assert!(paths.len() > 30, "{paths:?}");
    if let Some(data) = common::shared_data() {
        captures_below(&data, &mut shared);
        paths.extend((0..20).map(|_| shared[(random.next_u64() % shared.len() as u64) as usize].clone()));
    }
    let (mut packets, mut streams, mut named) = (0, 0, 0);
    for path in &paths {
        let (seed, workers) = (random.next_u64(), 1 + (random.next_u64() % 4) as usize);
        // The tracker reads in other batches than the engine.
        let (engine, tracker) = (seen_by_engine(&models, path, seed, workers), seen_by_tracker(&models, path, !seed));
        assert_eq!(engine.is_some(), tracker.is_some(), "{}: both can read it or neither", path.display());
        let (Some(engine), Some(tracker)) = (engine, tracker) else { continue };
        for (id, slots) in &tracker.packets {
            assert_eq!(engine.packets.get(id), Some(slots), "{}, {workers} workers: packet {id:?}", path.display());
        }
        for (id, outcome) in &tracker.streams {
            assert_eq!(engine.streams.get(id), Some(outcome), "{}, {workers} workers: stream {id:?}", path.display());
        }
        assert_eq!((engine.packets.len(), engine.streams.len()), (tracker.packets.len(), tracker.streams.len()));
        packets += tracker.packets.len();
        streams += tracker.streams.len();
        named += tracker.streams.values().filter(|outcome| outcome.1.is_some()).count();
    }
    eprintln!("{} captures, {packets} packets, {streams} streams, {named} named", paths.len());
    assert!(packets > 2_000 && streams > 200 && named > 100, "{packets} packets, {streams} streams, {named} named");
}

/// Number of streams of the labelled captures that the limits of the engine would split: [`spiked::train::Corpus::limits`].
#[test]
#[ignore = "a measurement over ../shared/data"]
fn streams_of_the_corpus_that_the_engines_limits_would_split() {
    let Some(data) = common::shared_data() else { return };
    for (key, tasks) in
        [(KeyKind::Flow, &["ndpi", "protocol-train", "protocol-test"][..]), (KeyKind::Host, &["device-train", "device-test"][..])]
    {
        let paths: std::collections::BTreeSet<PathBuf> = tasks
            .iter()
            .flat_map(|task| {
                let rows = std::fs::read_to_string(data.join(format!("tasks/{task}.csv"))).unwrap();
                rows.lines().filter_map(|row| Some(data.join(row.split(',').next()?))).collect::<Vec<_>>()
            })
            .collect();
        let count = |limits: StreamLimits| -> usize {
            let streams = |path: &PathBuf| {
                let mut tracker = StreamTracker::new(key, &Intake::default(), limits);
                let mut file = CaptureFile::open(path).ok()?;
                tracker.visit(&mut file, |_| (), |_| ControlFlow::Continue(())).ok()?;
                Some(tracker.finish().len())
            };
            paths.iter().filter_map(streams).sum()
        };
        eprintln!(
            "{key:?}: {} streams by key, {} by the engine's limits",
            count(StreamLimits::NONE),
            count(StreamLimits::default())
        );
    }
}

/// A frame on each of two interfaces.
struct TwoInterfaces(usize);

impl Source for TwoInterfaces {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        batch.interface = InterfaceId::from_index(self.0 % 2);
        self.0 += 1;
        let frame = udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, b"a query");
        batch.push(Nanos(self.0 as u64), LinkType::ETHERNET, frame.len() as u32, &frame);
        Ok(self.0 <= 4)
    }
}

#[test]
fn streams_of_two_interfaces_are_one_unless_set_otherwise() {
    for (interface_in_key, streams) in [(false, vec![4]), (true, vec![2, 2])] {
        let mut settings = EngineSettings::new(vec![Arc::new(Model::built_in().unwrap())]);
        settings.intake.interface_in_key = interface_in_key;
        let mut packets = Vec::new();
        let mut observe = |verdict: &Verdict| packets.extend((verdict.event == Event::Stream).then_some(verdict.packets));
        engine::run(&settings, &mut TwoInterfaces(0), &mut observe).unwrap();
        assert_eq!(packets, streams);
    }
}
