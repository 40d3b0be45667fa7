//! The engine as the daemon uses it: a source with a clock, models swapped under way, packets kept as evidence, a tap for learning.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::time::Duration;

use common::{fixture, udp};
use spiked::capture::{CaptureError, CaptureFile, FrameBatch, LinkType, Nanos, Source};
use spiked::engine::{self, Event, KeptPacket, Models, Observer, Progress, Settings, Tap, Verdict};
use spiked::model::Model;

const SECOND: u64 = 1_000_000_000;

/// Frames and the clock at which each batch comes.
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
            batch.push(Nanos(now * SECOND), LinkType(1), frame.len() as u32, &frame);
        }
        Ok(true)
    }

    fn clock(&self) -> Option<Nanos> {
        Some(Nanos(self.now * SECOND))
    }
}

#[derive(Default)]
struct Heard {
    verdicts: Vec<Verdict>,
    kept: Vec<KeptPacket>,
    frames: u64,
    timed_out_before_the_end: u64,
    spikes: u64,
    idle: Duration,
}

impl Observer for Heard {
    fn verdict(&mut self, verdict: &Verdict) {
        self.verdicts.push(verdict.clone());
    }
    fn packet(&mut self, packet: &KeptPacket) {
        self.kept.push(packet.clone());
    }
    fn progress(&mut self, progress: &Progress<'_>) {
        self.frames += progress.tally.frames;
        self.timed_out_before_the_end += progress.tally.timed_out;
        self.spikes += progress.tally.spikes.iter().flat_map(|s| &s.counts).sum::<u64>();
        self.idle += progress.idle;
    }
}

fn built_in() -> Arc<Model> {
    Arc::new(Model::built_in().unwrap())
}

/// A DNS query, another for each number.
fn dns(number: u8) -> Vec<u8> {
    let mut query = vec![number, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7];
    query.extend(b"example\x03com\x00\x00\x01\x00\x01");
    udp([10, 0, 0, number], 40_000, [10, 0, 1, 1], 53, &query)
}

#[test]
fn quiet_streams_end_by_the_clock_though_nothing_comes() {
    let settings = Settings::new(vec![built_in()]);
    let start = 1_700_000_000;
    let mut batches = vec![(start, (0..50).map(dns).collect::<Vec<_>>())];
    batches.extend((1..30).map(|tick| (start + tick * 60, Vec::new())));
    let mut heard = Heard::default();
    let tally = engine::run(&settings, &mut Live::new(batches), &mut heard).unwrap();
    assert_eq!((tally.frames, heard.frames), (50, 50));
    assert_eq!((tally.timed_out, heard.timed_out_before_the_end), (50, 50));
    assert_eq!(heard.verdicts.iter().filter(|v| v.event == Event::Stream).count(), 50);
    assert!(heard.spikes >= 50, "each query makes at least its own class spike: {}", heard.spikes);
}

#[test]
fn models_are_swapped_under_way_and_no_packet_is_lost() {
    let whole = built_in();
    let known: Vec<String> = whole.classes.iter().filter(|c| *c != "dns").cloned().collect();
    let only_dns = Arc::new(whole.without_classes(&known).unwrap());
    let no_dns = Arc::new(whole.without_classes(&["dns".into()]).unwrap());
    for workers in [1, 2, 3] {
        let settings = Settings { workers, ..Settings::new(vec![Arc::clone(&no_dns)]) };
        let swap = Arc::clone(&settings.models);
        let (first, second): (Models, Models) = (vec![Arc::clone(&only_dns), Arc::clone(&whole)], vec![Arc::clone(&whole)]);
        let batches: Vec<_> = (0..30u64).map(|n| (1_700_000_000 + n, (0..100u8).map(dns).collect::<Vec<_>>())).collect();
        let mut source = Live::new(batches);
        source.between = Box::new(move |now| match now - 1_700_000_000 {
            10 => swap.store(Arc::new(first.clone())),
            20 => swap.store(Arc::new(second.clone())),
            _ => {}
        });
        let mut heard = Heard::default();
        let tally = engine::run(&settings, &mut source, &mut heard).unwrap();
        assert_eq!(tally.frames, 3000);
        let ends: Vec<_> = heard.verdicts.iter().filter(|v| v.event == Event::Stream && v.model == 0).collect();
        assert_eq!(ends.len(), 100, "each stream goes on through both swaps ({workers} workers)");
        assert!(ends.iter().all(|v| v.packets == 30), "and has all its packets");
        for verdict in &heard.verdicts {
            assert!(verdict.leader.is_none_or(|l| usize::from(l.class) < verdict.named.classes.len()));
        }
    }
}

#[test]
fn the_first_packets_of_named_streams_are_kept_with_their_class() {
    let count = |workers, keep_packets| {
        let settings = Settings { workers, keep_packets, ..Settings::new(vec![built_in()]) };
        let mut source = CaptureFile::open(&fixture("captures/ssh-1.pcap")).unwrap();
        let mut heard = Heard::default();
        engine::run(&settings, &mut source, &mut heard).unwrap();
        let named: Vec<_> = heard.verdicts.iter().filter(|v| v.event == Event::Stream && v.class.is_some()).collect();
        let most = u64::from(keep_packets);
        assert_eq!(heard.kept.len() as u64, named.iter().map(|v| v.packets.min(most)).sum::<u64>());
        assert!(heard.kept.iter().all(|p| p.named.classes[usize::from(p.class)] == "ssh" && p.confidence > 0.5));
        heard.kept.iter().map(|p| p.packet).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(count(2, 0).is_empty());
    let ten = count(1, 10);
    assert_eq!(ten, count(3, 10));
    assert!(!ten.is_empty());
    assert!(ten.is_subset(&count(2, 1000)));
}

#[test]
fn the_tap_gives_volleys_and_counts_what_its_reader_is_too_slow_for() {
    let (samples, taken) = crossbeam_channel::bounded(30);
    let tap = Some(Tap { samples, one_in: Arc::new(AtomicU32::new(1)), packets: [1; 2] });
    let settings = Settings { tap, ..Settings::new(vec![built_in()]) };
    let batches = vec![(1_700_000_000, (0..50).map(dns).collect::<Vec<_>>()), (1_700_000_001, (0..50).map(dns).collect())];
    let tally = engine::run(&settings, &mut Live::new(batches), &mut Heard::default()).unwrap();
    drop(settings);
    let taken: Vec<_> = taken.iter().collect();
    assert_eq!((taken.len(), tally.untapped), (30, 20));
    assert!(taken.iter().all(|s| s.slots.len() == s.named.layout.slots().len() && s.position == 0));
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
    let settings = Settings { workers: 2, ..Settings::new(vec![built_in()]) };
    let mut heard = Heard::default();
    engine::run(&settings, &mut Idle(never, 0), &mut heard).unwrap();
    // Ten waits of 50 ms, told by two workers.
    assert!(heard.idle > Duration::from_millis(600), "{:?}", heard.idle);
}
