//! Streams found and false alarms of neurons trained on one packet, by tolerance.
//!
//! `cargo bench --bench one_packet -- DATA`, DATA being the folder with `tasks/` and the captures. A model is trained on the task's
//! training captures. Then each class in turn is removed, one packet of one of its training streams is learned in its place, and the test
//! captures are classified: found are streams of the class that are given it, false alarms are streams of other classes that are given
//! it. Every second class serves to choose the defaults, the others to report. Without DATA one packet is learned and nothing is
//! measured, so that tests of the benches run the code.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use spiked::encode::{Layout, LayoutOptions, MAX_ACTIVE, SILENT, Volley};
use spiked::evaluate;
use spiked::model::Model;
use spiked::snn::{ClassId, OneShot};
use spiked::stream::Intake;
use spiked::train::{self, Corpus, TrainSettings, labels, one_packet};

const TOLERANCES: [f32; 8] = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0];
/// Packets drawn for each class.
const DRAWS: u64 = 5;

fn main() {
    let data = std::env::args().skip(1).find(|a| !a.starts_with('-')).map(PathBuf::from);
    let Some(data) = data.filter(|d| d.join("tasks").is_dir()) else {
        speed(&Model::built_in().expect("built in"));
        println!("`cargo bench --bench one_packet -- DATA` measures what such neurons find");
        return;
    };
    let seed = 1;
    let gather = |name: &str, classes: Option<&Vec<String>>| {
        let mut labels = labels::read(&[data.join(format!("tasks/{name}.csv"))]).expect("labels");
        if let Some(classes) = classes {
            let place = |c: ClassId| classes.binary_search(&labels.classes[c.index()]).ok().map(ClassId::from_index);
            for (_, known) in &mut labels.captures {
                known.streams = known.streams.drain().filter_map(|(n, c)| Some((n, place(c)?))).collect();
            }
            labels.classes = classes.clone();
        }
        corpus(&labels, &data)
    };
    let training = gather("protocol-train", None);
    let tested = gather("protocol-test", Some(&training.classes));
    let fitted = train::fit(&training, &TrainSettings::new(training.key, seed), &|_| true, &|| ());
    let model = fitted.into_model("protocol", &training);
    speed(&model);
    let mut masked = model.layout.clone();
    one_packet::DEFAULT_MASK.iter().for_each(|name| masked.mask(name).expect("a name"));
    println!("{:<44}{:>10}   {:^31}   {:^31}", "", "", "half of the classes, to choose on", "the other half");
    println!(
        "{:<44}{:>10}{}",
        "shown",
        "tolerance",
        format!("   {:>8} {:>8} {:>13}", "found", "by class", "false alarms").repeat(2)
    );
    for (layout, shown) in
        [(&model.layout, Shown::WithPayload), (&masked, Shown::WithPayload), (&masked, Shown::First), (&masked, Shown::Stream)]
    {
        for tolerance in TOLERANCES {
            row(&model, layout, [&training, &tested], shown, tolerance);
        }
    }
}

/// Which packets of a stream the neuron is shown.
#[derive(Clone, Copy, Debug)]
enum Shown {
    First,
    WithPayload,
    Stream,
}

fn corpus(labels: &labels::Labels, data: &Path) -> Corpus {
    let layout = Layout::headers(&LayoutOptions::default());
    Corpus::gather(labels, data, layout, train::FLOW_PACKETS, &Intake::default(), &|| ()).expect("captures").0
}

fn patterns(corpus: &Corpus, layout: &Layout, stream: usize, shown: Shown) -> Vec<Vec<u32>> {
    let s = &corpus.streams[stream];
    let payload = corpus.layout.slots().iter().position(|s| s.name == "payload[0]").expect("a slot");
    let all = s.first..s.first + s.kept;
    let with_payload = all.clone().find(|&v| corpus.volley(v)[payload] != SILENT).unwrap_or(s.first);
    let chosen = match shown {
        Shown::First => s.first..s.first + 1,
        Shown::WithPayload => with_payload..with_payload + 1,
        Shown::Stream => all,
    };
    let mut active = [0; MAX_ACTIVE];
    chosen
        .map(|v| {
            let mut volley = Volley::default();
            volley.slots[..corpus.volley(v).len()].copy_from_slice(corpus.volley(v));
            layout.apply_mask(&mut volley.slots);
            let n = layout.inputs(&volley, &mut active);
            active[..n].to_vec()
        })
        .collect()
}

fn row(model: &Model, layout: &Layout, [training, tested]: [&Corpus; 2], shown: Shown, tolerance: f32) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut halves = [Sums::default(), Sums::default()];
    for class in 0..model.classes.len() {
        let name = &model.classes[class];
        let streams: Vec<usize> = (0..training.streams.len()).filter(|&i| training.streams[i].class.index() == class).collect();
        let later: Vec<usize> = (0..tested.streams.len()).filter(|&i| tested.streams[i].class.index() == class).collect();
        if later.is_empty() {
            continue;
        }
        let without = model.without_classes(std::slice::from_ref(name)).expect("a class");
        let Sums { found, positive, alarms, negative, recalls } = &mut halves[class % 2];
        let (mut hits, mut asked) = (0, 0);
        for _ in 0..DRAWS {
            let stream = streams[random.next_u32() as usize % streams.len()];
            let neuron = OneShot::train(&model.layout, &patterns(training, layout, stream, shown));
            asked += later.len();
            let Ok(with) = without.with_one_shot(name, std::slice::from_ref(&neuron), tolerance, "bench") else { continue };
            let all = 0..tested.streams.len();
            let outcomes = evaluate::outcomes(tested, &with.network, &with.decision, &with.classes, &with.layout, &|_| true, all);
            let named = |positive: bool| {
                outcomes.iter().filter(|o| (o.label == *name) == positive && o.class.as_ref() == Some(name)).count()
            };
            hits += named(true);
            *alarms += named(false);
            *negative += tested.streams.len() - later.len();
        }
        *found += hits;
        *positive += asked;
        recalls.push(f64::from(hits as u32) / f64::from(asked as u32));
    }
    let what = match shown {
        Shown::First => "first packet of a stream",
        Shown::WithPayload => "first packet with payload",
        Shown::Stream => "all packets of a stream",
    };
    let slots = if layout.masked().is_empty() { "all slots" } else { "as by default" };
    println!("{:<44}{tolerance:>10}{}{}", format!("{what}, {slots}"), halves[0], halves[1]);
}

/// What was found by the neurons of some classes.
#[derive(Default)]
struct Sums {
    found: usize,
    positive: usize,
    alarms: usize,
    negative: usize,
    recalls: Vec<f64>,
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = |a: usize, b: usize| a as f64 / b.max(1) as f64;
        let by_class = self.recalls.iter().sum::<f64>() / self.recalls.len().max(1) as f64;
        let (found, alarms) = (share(self.found, self.positive), share(self.alarms, self.negative) * 100.0);
        write!(f, "   {found:>8.3} {by_class:>8.3} {alarms:>11.2} %")
    }
}

/// What adding a class costs, beside the size of the model.
fn speed(model: &Model) {
    let layout = &model.layout;
    let pattern: Vec<u32> = (0..40).map(|slot| slot * 256 + 7).collect();
    let began = Instant::now();
    let rounds = 10;
    for _ in 0..rounds {
        let neuron = OneShot::train(layout, std::slice::from_ref(&pattern));
        std::hint::black_box(model.with_one_shot("new", std::slice::from_ref(&neuron), 1.5, "bench").expect("a new class"));
    }
    let each = began.elapsed() / rounds;
    println!("a class added to {} classes: {each:?}", model.classes.len());
}
