//! From a corpus to a model: cross-fitting, thresholds, confidence.
//!
//! 1. Cross-fitting: the captures are assigned to folds. For each fold two networks are trained on the other folds, one with all classes
//!    and one without a part of them. Calibration uses their potentials for streams that they were not trained on: of the first network
//!    the streams of the fold, of the second all streams of the classes left out.
//! 2. Homeostasis: the threshold of each neuron (`homeostasis`). For flows two ways to present packets are tried, for all models two
//!    bounds of one packet's margin; those that classify the calibration streams of known classes best are kept.
//! 3. Classes that are classified better with a neuron for each direction get two neurons (`split_by_direction`).
//! 4. Confidence, acceptance, stop rule (`calibrate`).
//! 5. The network of the model is trained on all streams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::{Model, Provenance};
use crate::snn::{ClassId, Network, NeuronId, NeuronSpec};
use crate::stream::{Assignments, Decision, Leader};

use super::calibrate::calibrate;
use super::episodes;
use super::folds::folds;
use super::held_out::{HeldOutPass, HeldOutPotentials, forward};
use super::homeostasis::threshold;
use super::ports::PortPool;
use super::split_by_direction::{self, CrossFit};
use super::variant::Variant;
use super::{Corpus, TeachingSchedule, TrainSettings};

/// Smallest number of classes from which calibration uses unseen classes.
const MIN_CLASSES_WITH_UNSEEN: usize = 5;

/// The class of streams that are not part of an episode.
pub const NORMAL: &str = "normal";

/// Result of [`fit()`].
pub struct FitResult {
    /// The trained network.
    pub network: Network,
    /// Its calibrated decision.
    pub decision: Decision,
    /// Whether packets of classes with few streams were also shown with their ports alone.
    pub ports_alone: bool,
    /// For each calibration stream as captured, scored by a network that was not trained on it: its index in the corpus, whether the
    /// network was trained on its class, and the leader when scoring stopped.
    pub calibration: Vec<(usize, bool, Leader)>,
}

impl FitResult {
    /// The model; its provenance has the numbers of streams and packets of each class.
    pub fn into_model(self, name: &str, corpus: &Corpus) -> Model {
        let (streams, packets) = ClassId::first(corpus.classes.len()).map(|class| corpus.shown(class)).unzip();
        Model {
            name: name.into(),
            key: corpus.key,
            classes: corpus.classes.clone(),
            layout: corpus.layout.clone(),
            network: self.network,
            episodes: if corpus.layout.has_traces() {
                episodes::rules(corpus, &self.decision, &self.calibration, &|class| class == NORMAL)
            } else {
                Vec::new()
            },
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

/// Whether calibration uses unseen classes. Behaviours are alike, and one that is unseen is rightly taken for its next.
fn uses_unseen(corpus: &Corpus) -> bool {
    corpus.classes.len() >= MIN_CLASSES_WITH_UNSEEN && !corpus.layout.has_traces()
}

/// Largest number of calls of `tick` in [`fit()`]: one per pass over the corpus and thread.
pub fn passes(corpus: &Corpus, settings: &TrainSettings) -> u64 {
    let unseen = usize::from(uses_unseen(corpus));
    let trainings = settings.folds * (ways(corpus).len() + 1 + unseen) + 1;
    (trainings * settings.rule.passes as usize * settings.threads.clamp(1, corpus.classes.len().max(1))) as u64
}

/// The values of [`TrainSettings::ports_alone`] that are tried. A host shows thousands of packets, so ports alone are not tried for hosts.
fn ways(corpus: &Corpus) -> &'static [bool] {
    if corpus.by_content() { &[false, true] } else { &[false] }
}

/// Trains on the streams for which `chosen` returns true. Calls `tick` no more often than [`passes`] says.
pub fn fit(corpus: &Corpus, settings: &TrainSettings, chosen: &dyn Fn(usize) -> bool, tick: &(dyn Fn() + Sync)) -> FitResult {
    let classes = corpus.classes.len();
    let fitting = Fitting::new(corpus, settings, chosen, tick);
    let one = NeuronSpec::one_each(classes);
    let tried = ways(corpus).iter().map(|&ports_alone| {
        let settings = TrainSettings { ports_alone, ..settings.clone() };
        let held_out = fitting.cross_fit(&settings, &one, &|_| true, false);
        let theta = thresholds(corpus, &settings, &held_out, &one);
        let (decision, worth) = choose_bounds(corpus.by_content(), classes, &held_out, theta);
        (settings, held_out, decision, worth)
    });
    // The first of equals.
    let best = tried.reduce(|best, next| if next.3 > best.3 { next } else { best });
    let (settings, held_out, decision, _) = best.expect("one way is always tried");
    let one = CrossFit { held_out, decision };
    let candidates = split_by_direction::candidates(classes, &one);
    let every: Vec<ClassId> = ClassId::first(classes).collect();
    let pair = split_by_direction::specs(classes, &every);
    let apart = fitting.cross_fit(&settings, &pair, &|class| candidates.contains(&class), false);
    let theta = thresholds(corpus, &settings, &apart, &pair);
    let assignments = split_by_direction::assignments(classes, &pair);
    let two = CrossFit { held_out: apart, decision: Decision { theta, assignments, ..one.decision.clone() } };
    let split = split_by_direction::better_split(classes, &candidates, &one, &two);
    let specs = split_by_direction::specs(classes, &split);
    let CrossFit { mut held_out, decision } = split_by_direction::merged(one, &two, split);
    if uses_unseen(corpus) {
        held_out.append(&mut fitting.cross_fit(&settings, &specs, &|_| true, true));
    }
    let network = fitting.train_on_all(&settings, &specs);
    let (decision, calibration) = calibrate(corpus.key, classes, &settings, &held_out, decision);
    FitResult { network, decision, ports_alone: settings.ports_alone, calibration }
}

/// The streams that [`fit()`] trains on, and their folds.
struct Fitting<'a> {
    corpus: &'a Corpus,
    tick: &'a (dyn Fn() + Sync),
    /// Indices of the chosen streams.
    streams: Vec<usize>,
    /// The fold of each stream of the corpus; `None` for streams that were not chosen.
    fold_of: Vec<Option<usize>>,
    pool: PortPool,
}

impl<'a> Fitting<'a> {
    fn new(corpus: &'a Corpus, settings: &TrainSettings, chosen: &dyn Fn(usize) -> bool, tick: &'a (dyn Fn() + Sync)) -> Self {
        let mut streams: Vec<usize> = (0..corpus.streams.len()).filter(|&i| chosen(i)).collect();
        if corpus.layout.has_traces() {
            thin(corpus, &mut streams);
        }
        let fold_of = folds(corpus, &streams, settings.folds, settings.seed, false);
        let trained = streams.iter().filter(|&&i| !corpus.streams[i].reference);
        let packets: Vec<(u32, ClassId)> = trained.flat_map(|&i| corpus.packets_of(i)).collect();
        let pool = PortPool::new(corpus, &packets);
        Self { corpus, tick, streams, fold_of, pool }
    }

    /// The class of a stream that networks are trained on; `None` for reference streams.
    fn trained(&self, stream: usize) -> Option<ClassId> {
        let stream = &self.corpus.streams[stream];
        (!stream.reference).then_some(stream.class)
    }

    /// Trains one network per fold without the streams of the fold, and returns the potentials of these streams. With `unseen`, the
    /// network of fold k is not trained on the classes c with c mod folds = k either, and the streams of these classes are returned
    /// instead. Neurons of classes for which `needed` returns false have no weights.
    fn cross_fit(
        &self,
        settings: &TrainSettings,
        specs: &[NeuronSpec],
        needed: &(dyn Fn(ClassId) -> bool + Sync),
        unseen: bool,
    ) -> Vec<HeldOutPotentials> {
        let (corpus, classes) = (self.corpus, self.corpus.classes.len());
        let assignments = split_by_direction::assignments(classes, specs);
        // Folds side by side: threads that share the neurons of one network would each prepare all presentations.
        let at_once = settings.threads.clamp(1, settings.folds);
        let shared = TrainSettings { threads: settings.threads / at_once, ..settings.clone() };
        let of_fold = |fold: usize| {
            let settings = &shared;
            let left_out = |class: ClassId| unseen && class.index() % settings.folds == fold;
            let in_other_fold = |i: usize| self.fold_of[i].is_some_and(|f| f != fold);
            let shown = |i: usize| self.trained(i).filter(|&class| in_other_fold(i) && !left_out(class));
            let teacher = TeachingSchedule::new(corpus, settings, settings.seed ^ 1, shown);
            if teacher.is_empty() {
                return Vec::new();
            }
            let mut known = vec![false; classes];
            self.streams.iter().filter_map(|&i| shown(i)).for_each(|class| known[class.index()] = true);
            // The potentials of the other classes' neurons are not used.
            let network = self.train(settings, specs, &|class| known[class.index()] && needed(class), &teacher);
            let (most, seed) = (settings.packets_per_stream, settings.seed);
            let by = HeldOutPass { network: &network, assignments: &assignments, most, pool: &self.pool, seed };
            let is_unseen = |c: ClassId| !known[c.index()];
            let held_out = |i: usize| if unseen { left_out(corpus.streams[i].class) } else { self.fold_of[i] == Some(fold) };
            let variants =
                |&i: &usize| Variant::all(corpus).iter().filter_map(|&v| forward(corpus, &by, i, v, &is_unseen)).collect();
            self.streams.iter().filter(|&&i| held_out(i)).flat_map::<Vec<_>, _>(variants).collect()
        };
        let next = AtomicUsize::new(0);
        let work = || -> Vec<(usize, Vec<HeldOutPotentials>)> {
            let folds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&fold| fold < settings.folds));
            folds.map(|fold| (fold, of_fold(fold))).collect()
        };
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a training thread panicked")).collect()
        });
        all.sort_unstable_by_key(|&(fold, _)| fold);
        all.into_iter().flat_map(|(_, held_out)| held_out).collect()
    }

    /// The network trained on all chosen streams.
    fn train_on_all(&self, settings: &TrainSettings, specs: &[NeuronSpec]) -> Network {
        let shown = |i: usize| self.fold_of[i].and_then(|_| self.trained(i));
        self.train(settings, specs, &|_| true, &TeachingSchedule::new(self.corpus, settings, settings.seed, shown))
    }

    /// Trains a network with the neurons `specs`. Neurons of classes for which `trained` returns false are not trained: all their weights are 0. The
    /// weights of one neuron do not depend on the other neurons.
    fn train(
        &self,
        settings: &TrainSettings,
        specs: &[NeuronSpec],
        trained: &dyn Fn(ClassId) -> bool,
        teacher: &TeachingSchedule<'_>,
    ) -> Network {
        let (inputs, neurons) = (self.corpus.layout.input_count(), specs.len());
        let (places, learning): (Vec<usize>, Vec<NeuronSpec>) =
            specs.iter().copied().enumerate().filter(|(_, spec)| trained(spec.class)).unzip();
        let mut weights = vec![0.0; inputs * neurons];
        if learning.is_empty() {
            return Network::quantise(&weights, neurons);
        }
        let learned = teacher.train(settings.rule, &learning, settings.threads, self.tick);
        for (row, learned) in weights.chunks_exact_mut(neurons).zip(learned.chunks_exact(learning.len())) {
            places.iter().zip(learned).for_each(|(&place, &weight)| row[place] = weight);
        }
        Network::quantise(&weights, neurons)
    }
}

/// Largest number of streams of one class and capture, for models with traces: a flood is thousands of streams that are alike.
const MOST_ALIKE: usize = 250;

/// Keeps at most [`MOST_ALIKE`] streams of each class and capture, evenly spread, and as many later packets.
fn thin(corpus: &Corpus, streams: &mut Vec<usize>) {
    let group = |i: usize| (corpus.streams[i].capture, corpus.streams[i].class, corpus.streams[i].later);
    let mut counts: HashMap<_, (usize, usize)> = HashMap::new();
    streams.iter().for_each(|&i| counts.entry(group(i)).or_default().0 += 1);
    streams.retain(|&i| {
        let (all, passed) = counts.entry(group(i)).or_default();
        *passed += 1;
        *all <= MOST_ALIKE || *passed * MOST_ALIKE / *all > (*passed - 1) * MOST_ALIKE / *all
    });
}

/// The threshold of each neuron.
fn thresholds(corpus: &Corpus, settings: &TrainSettings, held_out: &[HeldOutPotentials], specs: &[NeuronSpec]) -> Vec<f32> {
    let neurons = NeuronId::first(specs.len()).zip(specs);
    neurons.map(|(neuron, &spec)| threshold(corpus, settings, held_out, neuron, spec)).collect()
}

/// Bounds of one packet's margin that are tried: the lower bound, and the slope below it. With a slope, the nearest of many neurons that
/// do not fire differs from the others, which classes with few training streams need. Without, packets for which no neuron fires add
/// almost nothing, which suits hosts with their thousands of packets.
const BOUNDS: [(f32, f32); 2] = [(-0.3, 0.02), (-0.1, 0.0)];
/// Largest evidence that one packet adds.
const MOST: f32 = 1.5;

/// The decision with the given thresholds and the better of [`BOUNDS`]: the one with the larger sum of accuracy and macro recall on the held-out
/// streams of known classes. Also returns that sum, 0 to 2.
fn choose_bounds(content_first: bool, classes: usize, held_out: &[HeldOutPotentials], theta: Vec<f32>) -> (Decision, f64) {
    let open = Decision {
        theta,
        assignments: Assignments::one_each(classes),
        clip: (0.0, MOST),
        slope: 0.0,
        confidence: Vec::new(),
        accept: Vec::new(),
        stop_confidence: 1.0,
        max_packets: u32::MAX,
        content_first,
    };
    let tried = BOUNDS.map(|(low, slope)| Decision { clip: (low, MOST), slope, ..open.clone() });
    let worth = |decision: &Decision| {
        let mut counts = vec![(0usize, 0usize); classes];
        for f in held_out.iter().filter(|f| f.known && f.variant == Variant::AsIs) {
            let (right, all) = &mut counts[f.truth.index()];
            let leader = f.trail(decision, classes).last().map(|l| l.class);
            (*right, *all) = (*right + usize::from(leader == Some(f.truth)), *all + 1);
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
