//! From a corpus to a model: cross-fitting, confidence, acceptance, stop rule.
//!
//! 1. Cross-fitting: the captures are dealt into folds; for each fold two networks are trained on the others, one with every
//!    class and one that is never taught a part of the classes. Their potentials on the fold, which they never saw, are the
//!    calibration streams: taught ones and untaught ones.
//! 2. Confidence: logistic regression of "the leader is right" on the leader's lead and evidence.
//! 3. Acceptance: the confidence from which naming streams is worth its false alarms, higher for a class that claims too much.
//! 4. Stop rule: the lowest confidence at which stopping costs no more accuracy than allowed.
//! 5. The network that is kept is trained on everything.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::encode::{MAX_ACTIVE, Volley};
use crate::snn::{self, Network};
use crate::stream::{Decision, FEATURES, Leader};

use super::{Corpus, FLOW_PACKETS, Settings, Teacher};
use crate::packet::KeyKind;

/// Share of the classes that the second network of a fold is never taught.
pub(super) const UNTAUGHT: usize = 5;

/// A stream's packets as a network that never saw it felt them.
pub(super) struct Felt {
    pub stream: usize,
    /// Potentials times gain, `[packet * classes + class]`; untaught classes are at -infinity.
    pub potentials: Vec<f32>,
    pub packets: usize,
    pub taught: bool,
}

impl Felt {
    /// The leader after each packet.
    pub fn trail(&self, decision: &Decision, classes: usize) -> Vec<Leader> {
        let (mut evidence, (low, high)) = (vec![0f32; classes], decision.clip);
        (0..self.packets)
            .filter_map(|p| {
                let row = &self.potentials[p * classes..][..classes];
                for ((e, u), theta) in evidence.iter_mut().zip(row).zip(&decision.theta) {
                    *e += if u.is_finite() { (u - theta).clamp(low, high) } else { f32::NEG_INFINITY };
                }
                decision.leader(&evidence, p as u32 + 1)
            })
            .collect()
    }
}

/// What training made.
pub struct Fitted {
    pub network: Network,
    pub decision: Decision,
    /// For each calibration stream, which the network that felt it had not been taught: its number in the corpus, whether its
    /// class had been taught, and the leader when scoring stopped.
    pub calibration: Vec<(usize, bool, Leader)>,
}

/// Passes over the corpus that [`fit`] makes, as its `tick` counts them: one a thread.
pub fn passes(corpus: &Corpus, settings: &Settings) -> u64 {
    let trainings = settings.folds * if corpus.classes.len() < UNTAUGHT { 1 } else { 2 } + 1;
    (trainings * settings.rule.passes as usize * settings.threads.clamp(1, corpus.classes.len().max(1))) as u64
}

/// Trains on the streams that `chosen` admits.
pub fn fit(corpus: &Corpus, settings: &Settings, chosen: &dyn Fn(usize) -> bool, tick: &(dyn Fn() + Sync)) -> Fitted {
    let classes = corpus.classes.len();
    let streams: Vec<usize> = (0..corpus.streams.len()).filter(|&i| chosen(i)).collect();
    let fold_of = folds(corpus, &streams, settings.folds, settings.seed, false);
    let mut felt = Vec::new();
    for fold in 0..settings.folds {
        for open in [false, true] {
            let untaught = |class: u16| open && (class as usize + fold).is_multiple_of(UNTAUGHT);
            if open && classes < UNTAUGHT {
                continue;
            }
            let teacher = Teacher::new(corpus, settings, settings.seed ^ 1, |i| {
                let stream = &corpus.streams[i];
                (fold_of[i] != Some(fold) && fold_of[i].is_some() && !untaught(stream.class)).then_some(stream.class)
            });
            if teacher.is_empty() {
                continue;
            }
            let network = train(corpus, settings, &teacher, tick);
            for &i in streams.iter().filter(|&&i| fold_of[i] == Some(fold)) {
                let class = corpus.streams[i].class;
                // Taught streams count from the network that knows every class, untaught ones from the other.
                if open == untaught(class) {
                    felt.push(feel(corpus, &network, i, settings.packets_per_stream, &untaught, open));
                }
            }
        }
    }
    let teacher = Teacher::new(corpus, settings, settings.seed, |i| fold_of[i].map(|_| corpus.streams[i].class));
    let network = train(corpus, settings, &teacher, tick);
    let (decision, calibration) = calibrate(corpus, settings, &felt, vec![settings.rule.theta; classes], clip(corpus.key));
    Fitted { network, decision, calibration }
}

fn train(corpus: &Corpus, settings: &Settings, teacher: &Teacher<'_>, tick: &(dyn Fn() + Sync)) -> Network {
    let classes = corpus.classes.len();
    let weights = snn::train(settings.rule, corpus.layout.input_count(), classes, settings.threads, teacher, tick);
    Network::quantise(&weights, classes)
}

/// Deals captures into folds, each class's captures spread evenly. Unless `strict`, a class that has one capture only is dealt
/// by streams, so that every class is in every part.
pub fn folds(corpus: &Corpus, streams: &[usize], folds: usize, seed: u64, strict: bool) -> Vec<Option<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::MAX);
    let mut captures: Vec<u32> = streams.iter().map(|&i| corpus.streams[i].capture).collect();
    captures.sort_unstable();
    captures.dedup();
    let mut held: Vec<Vec<u32>> = vec![Vec::new(); corpus.captures.len().max(1)];
    let mut captures_of = vec![0u32; corpus.classes.len()];
    for &i in streams {
        let s = &corpus.streams[i];
        held[s.capture as usize].push(u32::from(s.class));
    }
    for classes in &mut held {
        classes.sort_unstable();
        classes.dedup();
        for &mut class in classes {
            captures_of[class as usize] += 1;
        }
    }
    // Rarest classes choose first: their captures go to the fold that has fewest of the class.
    let mut order: Vec<(u32, u32, u32)> = captures
        .iter()
        .map(|&c| (held[c as usize].iter().map(|&k| captures_of[k as usize]).min().unwrap_or(0), random.next_u32(), c))
        .collect();
    order.sort_unstable();
    let mut load = vec![vec![0u32; corpus.classes.len()]; folds];
    let mut size = vec![0u32; folds];
    let mut fold_of_capture = vec![0usize; corpus.captures.len().max(1)];
    for (_, _, capture) in order {
        let classes = &held[capture as usize];
        let rarest = classes.iter().min_by_key(|&&k| captures_of[k as usize]).copied().unwrap_or(0);
        let fold = (0..folds).min_by_key(|&f| (load[f][rarest as usize], size[f], f)).unwrap_or(0);
        for &k in classes {
            load[fold][k as usize] += 1;
        }
        size[fold] += 1;
        fold_of_capture[capture as usize] = fold;
    }
    let mut fold_of = vec![None; corpus.streams.len()];
    let mut within = vec![0usize; corpus.classes.len()];
    for &i in streams {
        let s = &corpus.streams[i];
        let class = s.class as usize;
        fold_of[i] = Some(if captures_of[class] < 2 && !strict {
            within[class] += 1;
            within[class] % folds
        } else {
            fold_of_capture[s.capture as usize]
        });
    }
    fold_of
}

/// Deals streams into folds, each class's streams spread evenly.
pub fn folds_by_stream(corpus: &Corpus, folds: usize, seed: u64) -> Vec<Option<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::MAX);
    let mut order: Vec<(u16, u32, usize)> =
        corpus.streams.iter().enumerate().map(|(i, s)| (s.class, random.next_u32(), i)).collect();
    order.sort_unstable();
    let mut fold_of = vec![None; corpus.streams.len()];
    for (place, (_, _, stream)) in order.into_iter().enumerate() {
        fold_of[stream] = Some(place % folds);
    }
    fold_of
}

/// What `network` feels of a stream's packets; its neurons are the first of the corpus' classes, and those of `untaught` ones are left out.
pub(super) fn feel(
    corpus: &Corpus,
    network: &Network,
    stream: usize,
    most: usize,
    untaught: &dyn Fn(u16) -> bool,
    open: bool,
) -> Felt {
    let classes = corpus.classes.len();
    let s = &corpus.streams[stream];
    let packets = s.kept.min(most);
    let mut potentials = Vec::with_capacity(packets * classes);
    let mut buffer = network.buffer();
    let mut active = [0u32; MAX_ACTIVE];
    let mut volley = Volley::default();
    for v in s.first..s.first + packets {
        let slots = corpus.volley(v);
        volley.slots[..slots.len()].copy_from_slice(slots);
        let n = corpus.layout.inputs(&volley, &mut active);
        network.potentials(&active[..n], &mut buffer);
        for ((class, &u), gain) in (0u16..).zip(&buffer).zip(network.gain()) {
            potentials.push(if untaught(class) { f32::NEG_INFINITY } else { f32::from(u) * gain });
        }
        potentials.resize((v - s.first + 1) * classes, f32::NEG_INFINITY);
    }
    Felt { stream, potentials, packets, taught: !open }
}

/// Confidence, acceptance and stop rule from calibration streams, for neurons with the thresholds `theta`, one a class.
pub(super) fn calibrate(
    corpus: &Corpus,
    settings: &Settings,
    felt: &[Felt],
    theta: Vec<f32>,
    clip: (f32, f32),
) -> (Decision, Vec<(usize, bool, Leader)>) {
    let classes = corpus.classes.len();
    let mut decision = Decision {
        theta,
        clip,
        confidence: vec![0.0; FEATURES],
        accept: vec![1.0; classes],
        stop: 2.0,
        give_up: settings.packets_per_stream as u32,
    };
    // The leader after each packet of each calibration stream.
    let leaders: Vec<(usize, bool, Vec<Leader>)> =
        felt.iter().map(|f| (f.stream, f.taught, f.trail(&decision, classes))).collect();
    let right = |stream: usize, taught: bool, leader: &Leader| taught && leader.class == corpus.streams[stream].class;
    // A stream counts once, over the packets at which it might be asked.
    let mut examples = Vec::new();
    for (stream, taught, trail) in &leaders {
        let asked = trail.len().min(FLOW_PACKETS);
        for leader in trail.iter().take(asked).chain(trail.last()) {
            examples.push((leader.features(), right(*stream, *taught, leader), 1.0 / (asked + 1) as f32));
        }
    }
    decision.confidence = logistic(&examples);
    // Acceptance: walk down from the surest stream; the lowest confidence at which false alarms are below the target.
    let ends: Vec<End> = leaders
        .iter()
        .filter_map(|(stream, taught, trail)| {
            let last = trail.last()?;
            let (leader, truth) = (last.class as usize, corpus.streams[*stream].class as usize);
            Some(End { confidence: decision.confidence(last), leader, truth, taught: *taught })
        })
        .collect();
    decision.accept = vec![acceptance(&ends, classes, settings.false_alarm_cost); classes];
    for class in 0..classes {
        let claims: Vec<(f32, bool)> = ends.iter().filter(|e| e.leader == class).map(|e| (e.confidence, e.right())).collect();
        decision.accept[class] = raised(decision.accept[class], &claims);
    }
    if corpus.key == KeyKind::Flow {
        decision.stop = stop_rule(corpus, settings, &decision, &leaders);
    }
    let stopped = |trail: &[Leader]| trail.iter().find(|l| decision.settled(l)).or(trail.last()).copied();
    let calibration = leaders.iter().filter_map(|(stream, taught, trail)| Some((*stream, *taught, stopped(trail)?))).collect();
    (decision, calibration)
}

/// Bounds of one packet's margin. A flow has a few packets, and where no neuron fires the nearest must still be told from the others; of
/// a host's thousands each is unlike most of what it was taught, and may cost it little.
fn clip(key: KeyKind) -> (f32, f32) {
    match key {
        KeyKind::Flow => (-0.6, 1.5),
        KeyKind::Host => (-0.1, 1.5),
    }
}

/// How a calibration stream ended.
struct End {
    confidence: f32,
    leader: usize,
    truth: usize,
    taught: bool,
}

impl End {
    fn right(&self) -> bool {
        self.taught && self.leader == self.truth
    }
}

/// No class is asked for more confidence than this.
const SUREST: f32 = 0.98;

/// The acceptance of a class that claims streams so confidently and rightly or not: from `level` on raised while it claims too many
/// foreign ones.
pub(super) fn raised(mut level: f32, claims: &[(f32, bool)]) -> f32 {
    while level < SUREST {
        let (all, foreign) =
            claims.iter().filter(|c| c.0 >= level).fold((0, 0), |(all, foreign), c| (all + 1, foreign + usize::from(!c.1)));
        if all < 20 || foreign * 5 <= all {
            break;
        }
        level += 0.01;
    }
    level
}

/// The confidence from which streams are named: where the share of taught streams named rightly, less `cost` times the share
/// of foreign ones named, is largest. Foreign are untaught streams, each class counting once so that a flood or a twin of one
/// class does not decide for all; where no class was left untaught, the taught streams whose leader is wrong.
fn acceptance(ends: &[End], classes: usize, cost: f64) -> f32 {
    let open = ends.iter().any(|e| !e.taught);
    let mut of_class = vec![0usize; classes];
    let foreign = |e: &End| if open { !e.taught } else { !e.right() };
    ends.iter().filter(|e| foreign(e)).for_each(|e| of_class[e.truth] += 1);
    let foreign_classes = of_class.iter().filter(|n| **n > 0).count().max(1) as f64;
    let taught = ends.iter().filter(|e| e.taught).count().max(1) as f64;
    let mut sorted: Vec<&End> = ends.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let (mut worth, mut best, mut level) = (0.0, f64::MIN, SUREST);
    for (i, end) in sorted.iter().enumerate() {
        if end.right() {
            worth += 1.0 / taught;
        }
        if foreign(end) {
            worth -= cost / (of_class[end.truth] as f64 * foreign_classes);
        }
        // Streams of one confidence are admitted together.
        if worth > best && sorted.get(i + 1).is_none_or(|next| next.confidence < end.confidence) {
            (best, level) = (worth, end.confidence);
        }
    }
    level.clamp(0.5, SUREST)
}

/// The lowest confidence at which stopping early loses no more than allowed.
fn stop_rule(corpus: &Corpus, settings: &Settings, decision: &Decision, leaders: &[(usize, bool, Vec<Leader>)]) -> f32 {
    let taught: Vec<_> = leaders.iter().filter(|l| l.1 && !l.2.is_empty()).collect();
    let accuracy = |stop: f32| {
        let right = taught.iter().filter(|(stream, _, trail)| {
            let at = trail.iter().find(|l| decision.confidence(l) >= stop).or(trail.last());
            at.is_some_and(|l| l.class == corpus.streams[*stream].class)
        });
        right.count() as f64 / taught.len().max(1) as f64
    };
    let whole = accuracy(2.0);
    let candidates = [0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999];
    candidates.into_iter().find(|&stop| accuracy(stop) >= whole - settings.stop_loss).unwrap_or(0.9995)
}

/// Weighted logistic regression by Newton's method with a small ridge.
fn logistic(examples: &[([f32; FEATURES], bool, f32)]) -> Vec<f32> {
    let mut w = [0f64; FEATURES];
    for _ in 0..25 {
        let mut gradient = [0f64; FEATURES];
        let mut hessian = [[0f64; FEATURES]; FEATURES];
        for (x, right, weight) in examples {
            let z: f64 = w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            let (residual, curvature) = (f64::from(u8::from(*right)) - p, p * (1.0 - p));
            for i in 0..FEATURES {
                gradient[i] += f64::from(*weight) * residual * f64::from(x[i]);
                for j in 0..FEATURES {
                    hessian[i][j] += f64::from(*weight) * curvature * f64::from(x[i]) * f64::from(x[j]);
                }
            }
        }
        for i in 0..FEATURES {
            hessian[i][i] += 1.0;
            gradient[i] -= w[i];
        }
        let step = solve(hessian, gradient);
        for (w, s) in w.iter_mut().zip(step) {
            *w += s.clamp(-2.0, 2.0);
        }
    }
    w.iter().map(|&w| w as f32).collect()
}

/// Gaussian elimination; the ridge keeps the matrix regular.
fn solve(mut a: [[f64; FEATURES]; FEATURES], mut b: [f64; FEATURES]) -> [f64; FEATURES] {
    for column in 0..FEATURES {
        let pivot = (column..FEATURES).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs())).unwrap_or(column);
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..FEATURES {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column];
            a[row].iter_mut().zip(pivot).skip(column).for_each(|(to, from)| *to -= factor * from);
            b[row] -= factor * b[column];
        }
    }
    for row in (0..FEATURES).rev() {
        for k in row + 1..FEATURES {
            b[row] -= a[row][k] * b[k];
        }
        b[row] /= a[row][row];
    }
    b
}
