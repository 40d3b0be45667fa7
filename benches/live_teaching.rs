//! Accuracy of live teaching compared with offline training on the same packets.
//!
//! `cargo bench --bench live_teaching -- DATA`, DATA being the folder with `tasks/` and the captures. A learner without neurons
//! observes the training streams of the protocol task once, in the order of the captures, each class with a teacher, and trains neurons
//! from time to time, as in the daemon. The network of `spiked train` is trained on the same streams. Both classify the test captures of
//! the task: the bench prints the share of streams whose nearest class is right, and the mean recall over classes. Without DATA the
//! fixtures are used, so that tests of the benches run the code.

use std::path::{Path, PathBuf};
use std::time::Instant;

use spiked::encode::{Layout, LayoutOptions};
use spiked::evaluate::{self, Report};
use spiked::model::{Model, Provenance};
use spiked::snn::{self, Network};
use spiked::stream::Assignments;
use spiked::stream::Intake;
use spiked::train::live::{AttemptOutcome, LearnedNeurons, Learner, LearnerSettings, LearningTask};
use spiked::train::{self, Corpus, TeachingSchedule, labels};

/// Number of streams after which the learner trains neurons.
const EVERY: usize = 400;
const SEEDS: u64 = 2;

fn main() {
    let data = std::env::args().skip(1).find(|a| !a.starts_with('-')).map(PathBuf::from).filter(|d| d.join("tasks").is_dir());
    let (train, test, folder, seeds) = match &data {
        Some(data) => (data.join("tasks/protocol-train.csv"), data.join("tasks/protocol-test.csv"), data.clone(), SEEDS),
        None => {
            println!("`cargo bench --bench live_teaching -- DATA` measures; this run uses the fixtures only");
            ("fixtures/labels.csv".into(), "fixtures/labels.csv".into(), "fixtures".into(), 1)
        }
    };
    let training = corpus(&train, &folder);
    let tested = corpus(&test, &folder);
    println!(
        "{} training streams of {} classes, {} tested",
        training.streams.len(),
        training.classes.len(),
        tested.streams.len()
    );
    println!("{:<44} {:>9} {:>8} {:>12} {:>9}", "", "right", "recall", "neurons", "seconds");
    for mask in [&["ports"][..], &[][..]] {
        let slots = if mask.is_empty() { "all slots" } else { "ports masked" };
        let mut sums = vec![(0.0, 0.0); 3];
        for seed in 1..=seeds {
            let begun = Instant::now();
            let offline = offline(&training, mask, seed);
            let mut rows = vec![(format!("offline, {slots}"), offline, begun.elapsed())];
            for volleys in [32_768, 4096] {
                let begun = Instant::now();
                let live = live(&training, mask, volleys, seed);
                rows.push((format!("live, {volleys} volleys stored, {slots}"), live, begun.elapsed()));
            }
            for ((name, model, seconds), sum) in rows.into_iter().zip(&mut sums) {
                let report = report(&model, &tested);
                let (name, all) = (format!("{name}, seed {seed}"), format!("{}/{}", model.classes.len(), training.classes.len()));
                println!(
                    "{name:<44} {:>9.4} {:>8.4} {all:>12} {:>9.1}",
                    report.accuracy,
                    report.macro_recall,
                    seconds.as_secs_f64()
                );
                *sum = (sum.0 + report.accuracy, sum.1 + report.macro_recall);
            }
        }
        let mean = |sum: (f64, f64)| (sum.0 / seeds as f64 * 100.0, sum.1 / seeds as f64 * 100.0);
        for (name, sum) in ["32768", "4096"].iter().zip(&sums[1..]) {
            let ((offline, offline_recall), (live, recall)) = (mean(sums[0]), mean(*sum));
            println!(
                "{slots}: live with {name} volleys minus offline: {:+.2} points right, {:+.2} recall",
                live - offline,
                recall - offline_recall
            );
        }
    }
}

fn corpus(file: &Path, folder: &Path) -> Corpus {
    let labels = labels::read(&[file.to_path_buf()]).expect("labels");
    let layout = Layout::headers(&LayoutOptions::default());
    Corpus::gather(&labels, folder, layout, train::FLOW_PACKETS, &Intake::default(), &|| ()).expect("captures").0
}

fn slots_of(corpus: &Corpus, stream: usize) -> Vec<u16> {
    corpus.volleys_of(&corpus.streams[stream]).flatten().copied().collect()
}

/// A model of the given classes, with the decision of the built-in model except for its thresholds.
fn model(corpus: &Corpus, classes: Vec<String>, network: Network) -> Model {
    let (built_in, n) = (Model::built_in().expect("built in"), classes.len());
    let mut decision = built_in.decision;
    decision.assignments = Assignments::one_each(n);
    (decision.theta, decision.accept) = (vec![snn::Stdp::default().theta; n], vec![0.9; n]);
    Model {
        name: "bench".into(),
        key: corpus.key,
        classes,
        layout: corpus.layout.clone(),
        network,
        decision,
        episodes: Vec::new(),
        provenance: Provenance { streams: vec![0; n], packets: vec![0; n], ..Provenance::default() },
    }
}

fn offline(training: &Corpus, mask: &[&str], seed: u64) -> Model {
    let mut layout = training.layout.clone();
    mask.iter().for_each(|name| layout.mask(name).expect("a name"));
    let mut shown = Corpus::new(training.key, training.layout.clone(), training.classes.clone());
    for (number, stream) in training.streams.iter().enumerate() {
        let mut slots = slots_of(training, number);
        slots.chunks_exact_mut(training.layout.slots().len()).for_each(|volley| layout.apply_mask(volley));
        shown.push(stream.class, &slots);
    }
    let settings = train::TrainSettings::new(training.key, seed);
    let teacher = TeachingSchedule::new(&shown, &settings, seed, |i| Some(shown.streams[i].class));
    let n = training.classes.len();
    let specs = snn::NeuronSpec::one_each(n);
    let weights = snn::train(settings.rule, training.layout.input_count(), &specs, settings.threads, &teacher, &|| ());
    model(training, training.classes.clone(), Network::quantise(&weights, n))
}

fn live(training: &Corpus, mask: &[&str], volleys: usize, seed: u64) -> Model {
    let eta = snn::Stdp::default().eta;
    let mask: Vec<String> = mask.iter().map(ToString::to_string).collect();
    let task = |class: &String| LearningTask { class: class.clone(), mask: mask.clone(), eta, freeze: false };
    let inputs = training.layout.input_count();
    // A learner needs a model; the only neuron of this one is silent.
    let nothing = "(nothing)".to_string();
    let mut current = model(training, vec![nothing.clone()], Network::from_parts(inputs, 1, &vec![0; inputs], vec![1.0]));
    // Some classes have so few streams that no held-back one may be right, so any accuracy is accepted.
    let settings = LearnerSettings { volleys, min_accuracy: 0.0, seed, threads: 2 };
    let tasks = training.classes.iter().map(task).collect();
    let mut learner = Learner::new(&current, tasks, settings, LearnedNeurons::default());
    let last = training.streams.len();
    for (number, stream) in training.streams.iter().enumerate() {
        learner.observe(&current, slots_of(training, number), Some(usize::from(stream.class)));
        if (number + 1) % EVERY == 0 || number + 1 == last {
            let (with, attempts) = learner.learn(&current);
            current = with.unwrap_or(current);
            if number + 1 == last {
                for attempt in attempts.iter().filter(|a| a.outcome != AttemptOutcome::Accepted) {
                    println!("  {}: {:?}, {:?} where it was {:?}", attempt.class, attempt.outcome, attempt.with, attempt.before);
                }
            }
        }
    }
    current.without_classes(&[nothing]).expect("it learned something")
}

fn report(model: &Model, tested: &Corpus) -> Report {
    let all = 0..tested.streams.len();
    let known = |_: &str| true;
    Report::new(&evaluate::outcomes(tested, &model.network, &model.decision, &model.classes, &model.layout, &known, all))
}
