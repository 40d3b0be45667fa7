//! From a corpus to a model: cross-fitting, thresholds, confidence.
//!
//! 1. Cross-fitting: the captures are dealt into folds; for each fold two networks are trained on the others, one with every
//!    class and one that is never taught a part of the classes. Their potentials for streams that they never saw are those of the
//!    calibration streams: of the first the fold's, of the second all streams of the classes that it was not taught.
//! 2. Homeostasis: each neuron's threshold (`homeostasis`). Of flows two ways to show packets, and two bounds of one packet's margin,
//!    are tried; what tells the calibration streams of taught classes best is kept.
//! 3. Classes that are told better by a neuron for each direction get two (`split_by_direction`).
//! 4. Confidence, acceptance, stop rule (`calibrate`).
//! 5. The network that is kept is trained on everything.

use crate::model::{Model, Provenance};
use crate::packet::KeyKind;
use crate::snn::{self, ClassId, Network, NeuronId, NeuronSpec};
use crate::stream::{Assignments, Decision, Leader};

use super::calibrate::calibrate;
use super::folds::folds;
use super::held_out::{HeldOutPass, HeldOutPotentials, forward};
use super::homeostasis::threshold;
use super::ports::PortPool;
use super::split_by_direction::{self, CrossFit};
use super::variant::Variant;
use super::{Corpus, TeachingSchedule, TrainSettings};

/// Models of fewer classes are calibrated without untaught ones.
pub(super) const UNTAUGHT: usize = 5;

/// What training made.
pub struct Fitted {
    pub network: Network,
    pub decision: Decision,
    /// Whether packets of classes of few streams were also shown with their ports alone.
    pub ports_alone: bool,
    /// For each calibration stream as captured, scored by a network that was not trained on it: its number in the corpus, whether the
    /// network was trained on its class, and the leader when scoring stopped.
    pub calibration: Vec<(usize, bool, Leader)>,
}

impl Fitted {
    /// The model, which remembers how much of each class it was shown.
    pub fn into_model(self, name: &str, corpus: &Corpus) -> Model {
        let (streams, packets) = ClassId::first(corpus.classes.len()).map(|class| corpus.shown(class)).unzip();
        Model {
            name: name.into(),
            key: corpus.key,
            classes: corpus.classes.clone(),
            layout: corpus.layout.clone(),
            network: self.network,
            decision: self.decision,
            provenance: Provenance {
                trained_with: env!("CARGO_PKG_VERSION").into(),
                captures: corpus.captures.len() - corpus.reference_captures,
                streams,
                packets,
                ports_alone: self.ports_alone,
                ..Provenance::default()
            },
        }
    }
}

/// Passes over the corpus that [`fit()`] makes, as its `tick` counts them: one a thread.
pub fn passes(corpus: &Corpus, settings: &TrainSettings) -> u64 {
    let untaught = usize::from(corpus.classes.len() >= UNTAUGHT);
    let trainings = settings.folds * (ways(corpus).len() + 1 + untaught) + 1;
    (trainings * settings.rule.passes as usize * settings.threads.clamp(1, corpus.classes.len().max(1))) as u64
}

/// Whether packets of classes of few streams are shown with their ports alone too, as tried. One host already shows thousands of packets.
fn ways(corpus: &Corpus) -> &'static [bool] {
    if corpus.key == KeyKind::Flow { &[false, true] } else { &[false] }
}

/// Trains on the streams that `chosen` admits.
pub fn fit(corpus: &Corpus, settings: &TrainSettings, chosen: &dyn Fn(usize) -> bool, tick: &(dyn Fn() + Sync)) -> Fitted {
    let classes = corpus.classes.len();
    let streams: Vec<usize> = (0..corpus.streams.len()).filter(|&i| chosen(i)).collect();
    let fold_of = folds(corpus, &streams, settings.folds, settings.seed, false);
    let class_of = |i: usize| corpus.streams[i].class;
    let trained = |i: usize| !corpus.streams[i].reference;
    let packets: Vec<(u32, ClassId)> = streams.iter().filter(|&&i| trained(i)).flat_map(|&i| corpus.packets_of(i)).collect();
    let pool = PortPool::new(corpus, &packets);
    let cross = |settings: &TrainSettings, specs: &[NeuronSpec], open: bool| {
        let assignments = split_by_direction::assignments(classes, specs);
        let mut all = Vec::new();
        for fold in 0..settings.folds {
            let left_out = |class: ClassId| open && class.index() % settings.folds == fold;
            let shown =
                |i: usize| (trained(i) && fold_of[i].is_some_and(|f| f != fold) && !left_out(class_of(i))).then(|| class_of(i));
            let teacher = TeachingSchedule::new(corpus, settings, settings.seed ^ 1, shown);
            if teacher.is_empty() {
                continue;
            }
            let mut taught = vec![false; classes];
            streams.iter().filter_map(|&i| shown(i)).for_each(|class| taught[class.index()] = true);
            let network = train(corpus, settings, specs, &teacher, tick);
            let (most, seed) = (settings.packets_per_stream, settings.seed);
            let by = HeldOutPass { network: &network, assignments: &assignments, most, pool: &pool, seed };
            for &i in &streams {
                let due = if open { left_out(class_of(i)) } else { fold_of[i] == Some(fold) };
                if due {
                    let unseen = |c: ClassId| !taught[c.index()];
                    all.extend(Variant::all(corpus.key).iter().filter_map(|&v| forward(corpus, &by, i, v, &unseen)));
                }
            }
        }
        all
    };
    let one = NeuronSpec::one_each(classes);
    let thresholds = |settings: &TrainSettings, held_out: &[HeldOutPotentials], specs: &[NeuronSpec]| -> Vec<f32> {
        NeuronId::first(specs.len())
            .zip(specs)
            .map(|(neuron, &spec)| threshold(corpus, settings, held_out, neuron, spec))
            .collect()
    };
    let tried = ways(corpus).iter().map(|&ports_alone| {
        let settings = TrainSettings { ports_alone, ..settings.clone() };
        let held_out = cross(&settings, &one, false);
        let theta = thresholds(&settings, &held_out, &one);
        let (neurons, worth) = bounded(corpus.key, classes, &held_out, theta);
        (settings, held_out, neurons, worth)
    });
    // The first of equals.
    let best = tried.reduce(|best, next| if next.3 > best.3 { next } else { best });
    let (settings, held_out, decision, _) = best.expect("one way is always tried");
    let every: Vec<ClassId> = ClassId::first(classes).collect();
    let pair = split_by_direction::specs(classes, &every);
    let apart = cross(&settings, &pair, false);
    let theta = thresholds(&settings, &apart, &pair);
    let one = CrossFit { held_out, decision };
    let assignments = split_by_direction::assignments(classes, &pair);
    let two = CrossFit { held_out: apart, decision: Decision { theta, assignments, ..one.decision.clone() } };
    let parted = split_by_direction::better_parted(classes, &one, &two);
    let specs = split_by_direction::specs(classes, &parted);
    let CrossFit { mut held_out, decision } = split_by_direction::merged(one, &two, parted);
    if classes >= UNTAUGHT {
        held_out.append(&mut cross(&settings, &specs, true));
    }
    let teacher =
        TeachingSchedule::new(corpus, &settings, settings.seed, |i| fold_of[i].filter(|_| trained(i)).map(|_| class_of(i)));
    let network = train(corpus, &settings, &specs, &teacher, tick);
    let (decision, calibration) = calibrate(corpus.key, classes, &settings, &held_out, decision);
    Fitted { network, decision, ports_alone: settings.ports_alone, calibration }
}

/// Bounds of one packet's margin that are tried: the lower one, and the slope below it. With a slope, of many neurons that do not fire
/// the nearest is told from the others, which classes taught by a few streams need; without, such packets say next to nothing, as of a
/// host's thousands most should.
const BOUNDS: [(f32, f32); 2] = [(-0.3, 0.02), (-0.1, 0.0)];
/// One packet adds no more than this.
const MOST: f32 = 1.5;

/// Thresholds, with those bounds by which the streams of taught classes are told best: most streams right, and of all classes alike.
/// Returns how well that is, the sum of both shares, too.
fn bounded(key: KeyKind, classes: usize, held_out: &[HeldOutPotentials], theta: Vec<f32>) -> (Decision, f64) {
    let open = Decision {
        theta,
        assignments: Assignments::one_each(classes),
        clip: (0.0, MOST),
        slope: 0.0,
        confidence: Vec::new(),
        accept: Vec::new(),
        stop_confidence: 1.0,
        max_packets: u32::MAX,
        content_first: key == KeyKind::Flow,
    };
    let tried = BOUNDS.map(|(low, slope)| Decision { clip: (low, MOST), slope, ..open.clone() });
    let worth = |decision: &Decision| {
        let mut counts = vec![(0usize, 0usize); classes];
        for f in held_out.iter().filter(|f| f.taught && f.variant == Variant::AsIs) {
            let (right, all) = &mut counts[f.truth.index()];
            let said = f.trail(decision, classes).last().map(|l| l.class);
            (*right, *all) = (*right + usize::from(said == Some(f.truth)), *all + 1);
        }
        let share = |(right, all): (usize, usize)| right as f64 / all.max(1) as f64;
        let with: Vec<_> = counts.into_iter().filter(|c| c.1 > 0).collect();
        let whole = with.iter().fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        let count = with.len().max(1) as f64;
        share(whole) + with.into_iter().map(share).sum::<f64>() / count
    };
    let [first, second] = tried.map(|decision| {
        let worth = worth(&decision);
        (decision, worth)
    });
    if second.1 > first.1 { second } else { first }
}

fn train(
    corpus: &Corpus,
    settings: &TrainSettings,
    specs: &[NeuronSpec],
    teacher: &TeachingSchedule<'_>,
    tick: &(dyn Fn() + Sync),
) -> Network {
    let weights = snn::train(settings.rule, corpus.layout.input_count(), specs, settings.threads, teacher, tick);
    Network::quantise(&weights, specs.len())
}
