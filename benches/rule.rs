//! Result of the teacher-gated rule on a small task, with every presentation, for `brian2_rule.py` to reproduce.
//!
//! `cargo bench --bench rule -- OUT.json`. The task consists of all presentations of the first streams of three classes of the fixtures.
//! Inputs that never spike are left out. Without OUT the weights are discarded, so that tests of the benches run the code.

use std::collections::BTreeMap;
use std::path::Path;

use spiked::encode::{Layout, LayoutOptions, MAX_ACTIVE};
use spiked::snn::{self, ClassId, NeuronSpec, Presentations};
use spiked::stream::Intake;
use spiked::train::{Corpus, TeachingSchedule, TrainSettings, labels};

const CLASSES: [&str; 3] = ["dns", "mqtt", "snmp"];
/// Streams of each class, and packets of each stream.
const STREAMS: usize = 6;
const PACKETS: usize = 4;

fn main() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let labels = labels::read(&[fixtures.join("labels.csv")]).expect("the fixtures' labels");
    let layout = Layout::headers(&LayoutOptions::default());
    let (mut corpus, _) =
        Corpus::gather(&labels, &fixtures, layout, PACKETS, &Intake::default(), &|| ()).expect("the fixtures' captures");
    let mut left = BTreeMap::from(CLASSES.map(|class| (class, STREAMS)));
    let names = corpus.classes.clone();
    corpus.streams.retain(|s| match left.get_mut(names[s.class.index()].as_str()) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    });
    corpus.keep_classes(1);
    let settings = TrainSettings::new(corpus.key, 1);
    let (rule, classes) = (settings.rule, corpus.classes.len());
    let teacher = TeachingSchedule::new(&corpus, &settings, settings.seed, |i| Some(corpus.streams[i].class));
    let weights = snn::train(rule, corpus.layout.input_count(), &NeuronSpec::one_each(classes), 1, &teacher, &|| ());

    let mut active = [0; MAX_ACTIVE];
    let mut place: BTreeMap<u32, usize> = BTreeMap::new();
    let mut shown = Vec::new();
    for pass in 0..rule.passes {
        let eta = rule.eta * (1.0 - 0.9 * pass as f32 / (rule.passes.max(2) - 1) as f32);
        for index in teacher.order(pass) {
            let now = teacher.present(index, &mut active);
            let inputs: Vec<usize> = active[..now.active]
                .iter()
                .map(|&input| {
                    let next = place.len();
                    *place.entry(input).or_insert(next)
                })
                .collect();
            shown.push(serde_json::json!({ "class": now.class, "eta": eta, "inputs": inputs }));
        }
    }
    let mut learned = vec![Vec::new(); place.len()];
    for (&input, &at) in &place {
        learned[at] = weights[input as usize * classes..][..classes].to_vec();
    }
    println!("{} presentations, {} inputs, {classes} neurons", shown.len(), place.len());
    let Some(out) = std::env::args().skip(1).find(|a| !a.starts_with('-')) else { return };
    let gains: Vec<_> = ClassId::first(classes).map(|class| teacher.class_weights(class)).collect();
    let task = serde_json::json!({
        "theta": rule.theta, "margin": rule.margin, "gains": gains, "presentations": shown, "weights": learned,
    });
    std::fs::write(&out, task.to_string()).expect("a file that can be written");
}
