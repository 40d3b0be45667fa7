//! When is a stream named, and when is it heard no further? From calibration streams:
//!
//! 1. Confidence: logistic regression of "the leader is right" on the leader's features.
//! 2. Acceptance: the confidence from which naming streams is worth its false alarms, higher for a class that claims too much.
//! 3. Stop rule: the lowest confidence at which stopping costs no more accuracy than allowed.

use std::collections::BTreeMap;

use crate::packet::KeyKind;
use crate::snn::ClassId;
use crate::stream::{Decision, FEATURES, Leader};

use super::held_out::HeldOutPotentials;
use super::variant::Variant;
use super::{FLOW_PACKETS, TrainSettings};

/// A calibration stream.
pub(super) struct LeaderHistory {
    pub stream: usize,
    /// Its class, and whether the network was taught it.
    pub truth: ClassId,
    pub taught: bool,
    /// How it differs from the captured stream.
    pub variant: Variant,
    /// How many streams it counts for.
    pub weight: f32,
    /// Who leads after each packet.
    pub leaders: Vec<Leader>,
}

/// The thresholds and bounds of `given`, with confidence, acceptance and stop rule from calibration streams of `classes` classes; and of
/// each stream its number in the corpus, whether its class had been taught, and the leader when scoring stopped.
pub(super) fn calibrate(
    key: KeyKind,
    classes: usize,
    settings: &TrainSettings,
    held_out: &[HeldOutPotentials],
    given: Decision,
) -> (Decision, Vec<(usize, bool, Leader)>) {
    let mut decision = Decision { accept: vec![1.0; classes], max_packets: settings.packets_per_stream as u32, ..given };
    let trail = |f: &HeldOutPotentials| LeaderHistory {
        stream: f.stream,
        truth: f.truth,
        taught: f.taught,
        variant: f.variant,
        weight: f.variant.weight(),
        leaders: f.trail(&decision, classes),
    };
    let mut trails: Vec<LeaderHistory> = held_out.iter().map(trail).collect();
    weigh(&mut trails);
    decision.confidence = confidence(&trails);
    let calibration = admit(key, settings, &trails, &mut decision);
    (decision, calibration)
}

/// The weights that make evidence into confidence.
pub(super) fn confidence(trails: &[LeaderHistory]) -> Vec<f32> {
    // A stream counts once, over the packets at which it might be asked.
    let mut examples = Vec::new();
    for trail in trails {
        let asked = trail.leaders.len().min(FLOW_PACKETS);
        for leader in trail.leaders.iter().take(asked).chain(trail.leaders.last()) {
            let right = trail.taught && leader.class == trail.truth;
            examples.push((leader.features(), right, trail.weight / (asked + 1) as f32));
        }
    }
    logistic(&examples)
}

/// Sets acceptance and the stop rule where confidence is known.
pub(super) fn admit(
    key: KeyKind,
    settings: &TrainSettings,
    trails: &[LeaderHistory],
    decision: &mut Decision,
) -> Vec<(usize, bool, Leader)> {
    let classes = decision.accept.len();
    let ends: Vec<End> = trails
        .iter()
        .filter_map(|trail| {
            let last = trail.leaders.last()?;
            let &LeaderHistory { truth, taught, weight, .. } = trail;
            Some(End { confidence: decision.confidence(last), leader: last.class, truth, taught, weight })
        })
        .collect();
    decision.accept = vec![acceptance(&ends, settings.false_alarm_cost); classes];
    for class in ClassId::first(classes) {
        let claims: Vec<Claim> = ends
            .iter()
            .filter(|e| e.leader == class)
            .map(|e| Claim { confidence: e.confidence, right: e.right(), share: e.weight })
            .collect();
        let accept = &mut decision.accept[class.index()];
        *accept = raised(*accept, &claims, FEW);
    }
    decision.stop_confidence = if key == KeyKind::Flow { stop_rule(settings, decision, trails) } else { NEVER };
    let stopped = |leaders: &[Leader]| leaders.iter().find(|l| decision.settled(l)).or(leaders.last()).copied();
    let as_is = trails.iter().filter(|trail| trail.variant == Variant::AsIs);
    as_is.filter_map(|trail| Some((trail.stream, trail.taught, stopped(&trail.leaders)?))).collect()
}

/// Gives the streams of untaught classes the weight that they have in traffic: every class was untaught once, so there are as many of
/// them as of the taught ones.
fn weigh(trails: &mut [LeaderHistory]) {
    let count = |of: bool| trails.iter().filter(|t| t.taught == of).map(|t| t.weight).sum::<f32>();
    let foreign = (FOREIGN * count(true) / count(false).max(1.0)).min(1.0);
    trails.iter_mut().filter(|t| !t.taught).for_each(|t| t.weight *= foreign);
}

/// How a calibration stream ended.
struct End {
    confidence: f32,
    leader: ClassId,
    truth: ClassId,
    taught: bool,
    weight: f32,
}

impl End {
    fn right(&self) -> bool {
        self.taught && self.leader == self.truth
    }
}

/// A confidence that no stream earns.
const NEVER: f32 = 2.0;
/// Untaught streams for each taught one that confidence reckons with.
const FOREIGN: f32 = 0.2;
/// No class is asked for less confidence than this,
pub(super) const LEAST: f32 = 0.5;
/// or for more than this.
pub(super) const SUREST: f32 = 0.98;

/// A stream that a class claims.
pub(super) struct Claim {
    pub confidence: f32,
    pub right: bool,
    /// How much of a stream it counts for.
    pub share: f32,
}

/// Claims below which it is not said of a class that too many are wrong.
pub(super) const FEW: f32 = 20.0;

/// The acceptance of a class with these claims: from `level` on raised while more than a fifth of them are wrong, and there are `few` or more.
pub(super) fn raised(mut level: f32, claims: &[Claim], few: f32) -> f32 {
    while level < SUREST {
        let kept = claims.iter().filter(|c| c.confidence >= level);
        let (all, wrong) = kept.fold((0.0, 0.0), |(all, wrong), c| (all + c.share, wrong + if c.right { 0.0 } else { c.share }));
        if all < few || wrong * 5.0 <= all {
            break;
        }
        level += 0.01;
    }
    level
}

/// The confidence from which streams are named: where the share of taught streams named rightly, less `cost` times the share
/// of foreign ones named, is largest. Foreign are untaught streams, each class counting once so that a flood or a twin of one
/// class does not decide for all; where no class was left untaught, the taught streams whose leader is wrong.
fn acceptance(ends: &[End], cost: f64) -> f32 {
    let open = ends.iter().any(|e| !e.taught);
    let mut of_class: BTreeMap<ClassId, f64> = BTreeMap::new();
    let foreign = |e: &End| if open { !e.taught } else { !e.right() };
    ends.iter().filter(|e| foreign(e)).for_each(|e| *of_class.entry(e.truth).or_default() += f64::from(e.weight));
    let foreign_classes = of_class.len().max(1) as f64;
    let taught: f64 = ends.iter().filter(|e| e.taught).map(|e| f64::from(e.weight)).sum();
    // Where nothing taught was held out, what was has no weight.
    let share = |end: &End, of: f64| f64::from(end.weight) / of.max(f64::MIN_POSITIVE);
    let mut sorted: Vec<&End> = ends.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    // Of no streams nothing is known: all is named.
    let (mut worth, mut best, mut level) = (0.0, f64::MIN, if ends.is_empty() { LEAST } else { SUREST });
    for (i, end) in sorted.iter().enumerate() {
        if end.right() {
            worth += share(end, taught);
        }
        if foreign(end) {
            worth -= cost * share(end, of_class[&end.truth] * foreign_classes);
        }
        // Streams of one confidence are admitted together.
        if worth > best && sorted.get(i + 1).is_none_or(|next| next.confidence < end.confidence) {
            (best, level) = (worth, end.confidence);
        }
    }
    level.clamp(LEAST, SUREST)
}

/// The lowest confidence at which stopping early loses no more than allowed.
fn stop_rule(settings: &TrainSettings, decision: &Decision, trails: &[LeaderHistory]) -> f32 {
    let taught: Vec<_> = trails.iter().filter(|t| t.taught && !t.leaders.is_empty()).collect();
    let all: f64 = taught.iter().map(|t| f64::from(t.weight)).sum();
    let accuracy = |stop: f32| {
        let right = taught.iter().filter(|trail| {
            let stops = |l: &&Leader| decision.confidence(l) >= stop.max(decision.accept[l.class.index()]);
            let at = trail.leaders.iter().find(stops).or(trail.leaders.last());
            at.is_some_and(|l| l.class == trail.truth)
        });
        right.map(|t| f64::from(t.weight)).sum::<f64>() / all.max(f64::MIN_POSITIVE)
    };
    let whole = accuracy(NEVER);
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
    // Features that are always zero, as those of streams without content of a model of hosts, have no weight.
    let used = w.iter().rposition(|&w| w != 0.0).map_or(0, |last| last + 1);
    w[..used].iter().map(|&w| w as f32).collect()
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
