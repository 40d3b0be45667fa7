//! Cost of each stage per packet: `cargo bench`. Runs on the fixtures and the built-in model.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spiked::capture::{CaptureFile, Frame, FrameBatch, LinkType, Nanos, Source};
use spiked::encode::{Context, MAX_ACTIVE, Volley};
use spiked::engine::{self, EngineSettings, Verdict};
use spiked::export::{self, EventWriter};
use spiked::model::Model;
use spiked::packet::{Decoder, Headers, KeyKind, StreamKey};
use spiked::snn::{self, ClassId, Network, NeuronSpec, Presentation, Presentations, Stdp};
use spiked::stream::{StreamLimits, StreamTable};

const CAPTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/captures/mixed.pcapng");

fn frames() -> Vec<(LinkType, Vec<u8>)> {
    let mut source = CaptureFile::open(Path::new(CAPTURE)).expect("the fixture");
    let (mut batch, mut frames) = (FrameBatch::new(), Vec::new());
    while source.fill(&mut batch).expect("a whole capture") {
        frames.extend(batch.iter().map(|f| (f.link, f.bytes.to_vec())));
    }
    frames
}

fn stages(c: &mut Criterion) {
    let model = Model::built_in().expect("the built-in model");
    let frames = frames();
    let decoder = Decoder::default();
    let headers: Vec<Headers> = frames.iter().map(|(link, f)| decoder.decode(*link, f).expect("a good frame")).collect();
    let volleys: Vec<Volley> = frames
        .iter()
        .zip(&headers)
        .map(|((_, frame), headers)| {
            let mut volley = Volley::default();
            model.layout.encode(headers, frame, Context::first(0), &spiked::trace::TraceValues::NONE, &mut volley);
            volley
        })
        .collect();
    let active: Vec<Vec<u32>> = volleys
        .iter()
        .map(|volley| {
            let mut active = [0; MAX_ACTIVE];
            let n = model.layout.inputs(volley, &mut active);
            active[..n].to_vec()
        })
        .collect();
    let mut group = c.benchmark_group("packets");
    group.throughput(Throughput::Elements(frames.len() as u64));
    group.bench_function("decode", |b| {
        b.iter(|| frames.iter().filter(|(link, f)| decoder.decode(*link, black_box(f)).is_ok()).count());
    });
    group.bench_function("key", |b| {
        b.iter(|| {
            frames.iter().zip(&headers).map(|((_, f), h)| StreamKey::of(KeyKind::Flow, h, f)).filter(|k| k[0].is_some()).count()
        });
    });
    group.bench_function("encode", |b| {
        let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
        b.iter(|| {
            let encode = |((_, frame), headers): (&(LinkType, Vec<u8>), &Headers)| {
                model.layout.encode(headers, black_box(frame), Context::first(0), &spiked::trace::TraceValues::NONE, &mut volley);
                model.layout.inputs(&volley, &mut active)
            };
            frames.iter().zip(&headers).map(encode).sum::<usize>()
        });
    });
    group.bench_function("score", |b| {
        let mut potentials = model.network.buffer();
        b.iter(|| {
            for inputs in &active {
                model.network.potentials(black_box(inputs), &mut potentials);
            }
            potentials[0]
        });
    });
    group.bench_function("decide", |b| {
        let mut potentials = model.network.buffer();
        model.network.potentials(&active[0], &mut potentials);
        let mut evidence = vec![0.0; model.classes.len()];
        b.iter(|| {
            let mut leader = None;
            let settled = (0..active.len()).filter_map(|_| {
                leader = model.decision.accumulate(&model.network, black_box(&potentials), &mut evidence, leader.as_ref(), true);
                leader.and_then(|l| model.decision.settled(&l))
            });
            settled.sum::<f32>()
        });
    });
    group.bench_function("decide, streams of three packets", |b| {
        // Packets of many kinds, as few as stay in the first-level cache. Above, all packets but the first few settle their stream.
        let potentials: Vec<_> = active
            .iter()
            .step_by(active.len().div_ceil(64))
            .map(|inputs| {
                let mut potentials = model.network.buffer();
                model.network.potentials(inputs, &mut potentials);
                potentials
            })
            .collect();
        let mut evidence = vec![0.0; model.classes.len()];
        b.iter(|| {
            let mut leader = None;
            let settled = potentials.iter().cycle().take(active.len()).enumerate().filter_map(|(number, potentials)| {
                let before = leader.as_ref().filter(|_| number % 3 > 0);
                leader = model.decision.accumulate(&model.network, black_box(potentials), &mut evidence, before, true);
                leader.and_then(|l| model.decision.settled(&l))
            });
            settled.sum::<f32>()
        });
    });
    group.bench_function("read", |b| {
        let mut batch = FrameBatch::new();
        b.iter(|| {
            let mut source = CaptureFile::open(Path::new(CAPTURE)).expect("the fixture");
            let mut read = 0;
            while source.fill(&mut batch).expect("a whole capture") {
                read += batch.len();
            }
            read
        });
    });
    group.bench_function("table", |b| {
        let mut table = StreamTable::new(StreamLimits::NONE, foldhash::fast::RandomState::default());
        let keyed: Vec<_> = frames.iter().zip(&headers).map(|((_, f), h)| StreamKey::flow(h, f)).collect();
        b.iter(|| {
            for ((key, direction), ((link, bytes), headers)) in keyed.iter().zip(frames.iter().zip(&headers)) {
                let frame = Frame { timestamp: Nanos(0), link: *link, interface: None, wire_len: bytes.len() as u32, bytes };
                let packet = table.arrival(*black_box(key), *direction, headers, &frame);
                black_box(table.packet(&packet, 0, |()| true, || ()).at);
            }
        });
    });
    group.bench_function("hand-over", |b| {
        // One batch there and back between two threads, as often as the capture fills one.
        let batches = frames.len().div_ceil(FrameBatch::CAPACITY);
        let (there, taken) = crossbeam_channel::bounded::<FrameBatch>(4);
        let (back, pool) = crossbeam_channel::bounded(4);
        (0..4).for_each(|_| back.send(FrameBatch::new()).expect("there is room"));
        let other = std::thread::spawn(move || taken.iter().for_each(|batch| back.send(batch).expect("there is room")));
        b.iter(|| {
            for _ in 0..batches {
                there.send(pool.recv().expect("batches come back")).expect("the other thread listens");
            }
        });
        drop(there);
        other.join().expect("it ends with its channel");
    });
    let model = Arc::new(model);
    group.bench_function("events", |b| {
        let mut source = CaptureFile::open(Path::new(CAPTURE)).expect("the fixture");
        let (settings, mut verdicts) =
            (EngineSettings { workers: 1, ..EngineSettings::new(vec![Arc::clone(&model)]) }, Vec::new());
        engine::run(&settings, &mut source, &mut |verdict: &Verdict| verdicts.push(verdict.clone())).expect("a whole capture");
        let (mut writer, mut out, mut events) = (EventWriter::default(), Vec::new(), verdicts.iter().cycle());
        // As many as packets, so that the unit is the same.
        b.iter(|| {
            out.clear();
            for verdict in events.by_ref().take(frames.len()) {
                writer.write(black_box(verdict), export::EventContext { capture: Some(CAPTURE), ..Default::default() }, &mut out);
            }
            out.len()
        });
    });
    for workers in [1, 2] {
        group.bench_function(format!("pipeline, {workers} workers"), |b| {
            let settings = EngineSettings { workers, ..EngineSettings::new(vec![Arc::clone(&model)]) };
            b.iter(|| {
                let mut source = CaptureFile::open(Path::new(CAPTURE)).expect("the fixture");
                engine::run(&settings, &mut source, &mut |verdict: &Verdict| {
                    black_box(verdict);
                })
                .map(|counters| counters.frames)
            });
        });
    }
    group.finish();
}

/// Synthetic volleys of 41 active inputs: 100 classes that share most of their slots' values.
struct Synthetic {
    active: Vec<Vec<u32>>,
}

const CLASSES: usize = 100;
const SLOTS: usize = 41;

impl Presentations for Synthetic {
    fn order(&self, _: u32) -> Vec<u32> {
        (0..self.active.len() as u32).collect()
    }
    fn present(&self, index: u32, active: &mut [u32; MAX_ACTIVE]) -> Presentation {
        active[..SLOTS].copy_from_slice(&self.active[index as usize]);
        Presentation { active: SLOTS, class: Some(ClassId::from_index(index as usize % CLASSES)), part: 0 }
    }
    fn class_weights(&self, _: ClassId) -> (f32, f32) {
        (1.0, 1.0)
    }
}

fn learning(c: &mut Criterion) {
    let specs = NeuronSpec::one_each(CLASSES);
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) * below) >> 31
    };
    // A third of the slots carry the class, the others are alike or random.
    let active = (0..20_000u64)
        .map(|i| {
            let value = |slot: u64, random: &mut dyn FnMut(u64) -> u64| match slot % 3 {
                0 => (i % CLASSES as u64) * 7 % 251,
                1 => random(4),
                _ => random(256),
            };
            (0..SLOTS as u64).map(|slot| (slot * 256 + value(slot, &mut random)) as u32).collect()
        })
        .collect();
    let shown = Synthetic { active };
    let mut group = c.benchmark_group("learning");
    group.sample_size(10);
    let rule = Stdp::default();
    group.throughput(Throughput::Elements(shown.active.len() as u64 * u64::from(rule.passes)));
    group.bench_function("100 classes, 41 active inputs, one core", |b| {
        b.iter(|| snn::train(rule, SLOTS * 256, &specs, 1, &shown, &|| ()));
    });
    group.finish();
    let weights = snn::train(rule, SLOTS * 256, &specs, 1, &shown, &|| ());
    let network = Network::quantise(&weights, CLASSES);
    let mut potentials = network.buffer();
    let best = |i: usize, potentials: &mut Vec<i16>| {
        network.potentials(&shown.active[i], potentials);
        (0..CLASSES).max_by_key(|&c| potentials[c]).unwrap_or(0)
    };
    let right = (0..shown.active.len()).filter(|&i| best(i, &mut potentials) == i % CLASSES).count();
    assert!(right * 100 > shown.active.len() * 99, "the network learned nothing: {right}");
}

/// The network alone, as `benches/simulators.py` sets it beside simulators: patterns of 256 active inputs of 1,024, 64 neurons.
fn network(c: &mut Criterion) {
    const INPUTS: usize = 1024;
    const NEURONS: usize = 64;
    const PATTERNS: usize = 4096;
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let weights: Vec<i8> = (0..INPUTS * NEURONS).map(|_| (random() % 255) as i16 - 127).map(|w| w as i8).collect();
    let network = Network::from_parts(INPUTS, NEURONS, &weights, vec![1.0; NEURONS]);
    // One of four neighbouring inputs, so that no input comes twice.
    let patterns: Vec<Vec<u32>> = (0..PATTERNS).map(|_| (0..MAX_ACTIVE as u32).map(|i| i * 4 + random() % 4).collect()).collect();
    let mut group = c.benchmark_group("network");
    group.throughput(Throughput::Elements(PATTERNS as u64));
    group.bench_function("1,024 inputs x 64 neurons", |b| {
        let mut potentials = network.buffer();
        b.iter(|| {
            let spikes = |pattern: &Vec<u32>| {
                network.potentials(black_box(pattern), &mut potentials);
                potentials.iter().filter(|&&p| p > 20 * 127).count()
            };
            patterns.iter().map(spikes).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, stages, learning, network);
criterion_main!(benches);
