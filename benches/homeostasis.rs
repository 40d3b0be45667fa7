//! Accuracy with thresholds that adapt to changing traffic, compared with frozen thresholds.
//!
//! `cargo bench --bench homeostasis -- DATA`, DATA being the folder with `tasks/` and the captures. A model is trained on the protocol
//! task's training captures, and another on the device task's. Their test streams are classified five times: once as captured, then changed as by another
//! access network (seven more hops, a smaller MTU and MSS, another window, options in another order). The frozen network keeps its
//! thresholds. With homeostasis the threshold of each neuron is raised by every packet of another class for which it spikes, and lowered by
//! every packet of its own class for which it is silent, within bounds: it settles where the ratio of the two rates is that of the steps.
//! "labelled" uses the class of each stream after it was classified, as from a teacher; "by itself" uses the class that the model gives.
//! Without DATA the fixtures are used, so that tests of the benches run the code.

use std::path::{Path, PathBuf};

use spiked::encode::{Layout, LayoutOptions, MAX_ACTIVE, SILENT, Volley};
use spiked::evaluate::{self, Report};
use spiked::model::Model;
use spiked::packet::KeyKind;
use spiked::stream::Intake;
use spiked::train::{self, Corpus, TrainSettings, labels};

/// Increase of a threshold per false spike.
const STEP: f32 = 0.002;
/// Number of missed packets that weigh as much as one false spike: the ratio of the share of packets missed to that of false spikes.
const RATIO: f32 = 10.0;
/// Bounds of thresholds, as multiples of the calibrated ones.
const BOUNDS: (f32, f32) = (0.5, 2.0);
/// Maximum number of packets used of a host, so that the bench takes minutes and not hours.
const HOST_PACKETS: usize = 256;
/// Rounds of changed traffic.
const ROUNDS: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Follow {
    Frozen,
    Labels,
    ByItself,
}

fn main() {
    let data = std::env::args().skip(1).find(|a| !a.starts_with('-')).map(PathBuf::from).filter(|d| d.join("tasks").is_dir());
    let Some(data) = data else {
        println!("`cargo bench --bench homeostasis -- DATA` measures; this run uses the fixtures only");
        measure("fixtures/labels.csv".as_ref(), "fixtures/labels.csv".as_ref(), "fixtures".as_ref());
        return;
    };
    for task in ["protocol", "device"] {
        let file = |part: &str| data.join(format!("tasks/{task}-{part}.csv"));
        println!("{task}:");
        measure(&file("train"), &file("test"), &data);
    }
}

fn measure(train: &Path, test: &Path, folder: &Path) {
    let (training, tested) = (corpus(train, folder), corpus(test, folder));
    let fitted = train::fit(
        &training,
        &TrainSettings {
            packets_per_stream: HOST_PACKETS.min(TrainSettings::new(training.key, 1).packets_per_stream),
            ..TrainSettings::new(training.key, 1)
        },
        &|_| true,
        &|| (),
    );
    let n = training.classes.len();
    let model = fitted.into_model("bench", &training);
    let changed = changed(&tested);
    println!("{} streams a round, {n} classes", tested.streams.len());
    println!("{:<12} {:<28} {:>9} {:>8} {:>8} {:>12}", "thresholds", "traffic", "precision", "recall", "nearest", "theta");
    for (name, follow) in [("frozen", Follow::Frozen), ("labelled", Follow::Labels), ("by itself", Follow::ByItself)] {
        let mut model = model.clone();
        for round in 0..=ROUNDS {
            let (traffic, what) =
                if round == 0 { (&tested, "as captured".into()) } else { (&changed, format!("changed, round {round}")) };
            let report = Report::new(&round_of(&mut model, traffic, follow));
            let (low, high) = model.decision.theta.iter().fold((f32::MAX, f32::MIN), |(l, h), &t| (l.min(t), h.max(t)));
            println!(
                "{name:<12} {what:<28} {:>9.4} {:>8.4} {:>8.4} {:>12}",
                report.precision,
                report.recall,
                report.accuracy,
                format!("{low:.2}..{high:.2}")
            );
        }
    }
}

fn corpus(file: &Path, folder: &Path) -> Corpus {
    let labels = labels::read(&[file.to_path_buf()]).expect("labels");
    let host = labels.key == KeyKind::Host;
    let built_in = LayoutOptions::default();
    let (payload, exact_payload, packets) =
        if host { (32, 32, HOST_PACKETS) } else { (built_in.payload, built_in.exact_payload, train::FLOW_PACKETS) };
    let layout = Layout::headers(&LayoutOptions { payload, exact_payload, ..built_in });
    Corpus::gather(&labels, folder, layout, packets, &Intake::default(), &|| ()).expect("captures").0
}

/// Names the streams one by one; thresholds follow each after it was named.
fn round_of(model: &mut Model, streams: &Corpus, follow: Follow) -> Vec<evaluate::StreamOutcome> {
    let calibrated = 1.0;
    let (mut potentials, mut active, mut volley) = (model.network.buffer(), [0u32; MAX_ACTIVE], Volley::default());
    let mut outcomes = Vec::new();
    for number in 0..streams.streams.len() {
        let one = std::iter::once(number);
        let known = |label: &str| model.classes.iter().any(|c| c == label);
        let outcome =
            evaluate::outcomes(streams, &model.network, &model.decision, &model.classes, &model.layout, &known, one).remove(0);
        let class = match follow {
            Follow::Frozen => None,
            Follow::Labels => Some(outcome.label.clone()),
            Follow::ByItself => outcome.class.clone(),
        };
        if let Some(positive) = class.and_then(|class| model.classes.iter().position(|c| *c == class)) {
            let stream = &streams.streams[number];
            for v in stream.first..stream.first + stream.kept {
                let slots = streams.volley(v);
                volley.slots[..slots.len()].copy_from_slice(slots);
                let n = model.layout.inputs(&volley, &mut active);
                model.network.potentials(&active[..n], &mut potentials);
                for (neuron, theta) in model.decision.theta.iter_mut().enumerate() {
                    let spike = f32::from(potentials[neuron]) * model.network.scale()[neuron] >= *theta;
                    let step = match (neuron == positive, spike) {
                        (false, true) => STEP,
                        (true, false) => -STEP / RATIO,
                        _ => 0.0,
                    };
                    *theta = (*theta + step).clamp(BOUNDS.0 * calibrated, BOUNDS.1 * calibrated);
                }
            }
        }
        outcomes.push(outcome);
    }
    outcomes
}

/// The streams as another access network would bring them.
fn changed(from: &Corpus) -> Corpus {
    let place = |name: &str| from.layout.slots().iter().position(|s| s.name == name);
    let slot = |name: &str| place(name).unwrap_or_else(|| panic!("no slot {name}"));
    let (ttl, hops, window) = (slot("ip.ttl"), slot("ipv6.hlim"), [slot("tcp.window[0]"), slot("tcp.window[1]")]);
    let options: Vec<usize> = (0..16).filter_map(|i| place(&format!("tcp.options[{i}]"))).collect();
    let mut corpus = Corpus::new(from.key, from.layout.clone(), from.classes.clone());
    let width = from.layout.slots().len();
    for stream in &from.streams {
        let mut slots: Vec<u16> = from.volleys_of(stream).flatten().copied().collect();
        for volley in slots.chunks_exact_mut(width) {
            for at in [ttl, hops] {
                if volley[at] != SILENT {
                    volley[at] = volley[at].saturating_sub(7);
                }
            }
            if volley[window[0]] != SILENT {
                (volley[window[0]], volley[window[1]]) = (0xfa, 0xf0);
            }
            // An MSS option first (RFC 9293): its value becomes 1360. The others change places with what follows them.
            let kinds: Vec<u16> = options.iter().map(|&at| volley[at]).collect();
            if kinds.first() == Some(&2) && kinds.len() >= 8 {
                (volley[options[2]], volley[options[3]]) = (0x05, 0x50);
                volley[options[4]] = 1;
                volley[options[5]] = 1;
                volley[options[6]] = 4;
                volley[options[7]] = 2;
            }
        }
        corpus.push(stream.class, &slots);
    }
    corpus
}
