//! Calibration of the decision: confidence, acceptance thresholds and the stop rule, from held-out streams.
//!
//! 1. Confidence: logistic regression of "the leader is right" on the leader's features.
//! 2. Acceptance: the confidence from which naming streams is worth its false alarms, lower for a class that is right in many captures and rarely
//!    wrong, higher for a class that claims too much.
//! 3. Stop rule: the lowest confidence at which stopping costs no more accuracy than allowed.
//! 4. Scale: confidence becomes the share of right leaders among streams of known classes; the thresholds follow.

use std::collections::{BTreeMap, BTreeSet};

use crate::packet::KeyKind;
use crate::snn::ClassId;
use crate::stream::{CONSTANT_FEATURES, Decision, FEATURES, Leader};

use super::held_out::HeldOutPotentials;
use super::variant::Variant;
use super::{FLOW_PACKETS, TrainSettings};

/// The leading class of one calibration stream after each of its packets.
pub(super) struct LeaderHistory {
    pub stream: usize,
    pub capture: u32,
    /// The stream's class, and whether the network was trained on that class.
    pub truth: ClassId,
    pub known: bool,
    /// How it differs from the captured stream.
    pub variant: Variant,
    /// Number of streams that this one counts for.
    pub weight: f32,
    /// The leader after each packet that was scored.
    pub leaders: Vec<Leader>,
}

/// Adds confidence, acceptance and stop rule to the thresholds and bounds of `given`, from calibration streams of `classes` classes.
///
/// Also returns, for each stream as captured, its index in the corpus, whether the network was trained on its class, and the leader when
/// scoring stopped.
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
        capture: f.capture,
        truth: f.truth,
        known: f.known,
        variant: f.variant,
        weight: f.variant.weight(),
        leaders: f.trail(&decision, classes),
    };
    let mut trails: Vec<LeaderHistory> = held_out.iter().map(trail).collect();
    weigh(key, &mut trails);
    decision.confidence = confidence(&trails);
    let calibration = set_acceptance(key, settings, &trails, &mut decision);
    if decision.content_first {
        scale_to_known(&mut decision, &trails);
    }
    (decision, calibration)
}

/// The weights of the logistic regression that turns the features of a leader into confidence.
pub(super) fn confidence(trails: &[LeaderHistory]) -> Vec<f32> {
    let features = |leader: &Leader| leader.features();
    // Features that are always zero have no weight, for example those of streams without content in a model of hosts.
    let weights = logistic(&examples(trails, features), [0.0; FEATURES]);
    let used = weights.iter().rposition(|&w| w != 0.0).map_or(0, |last| last + 1);
    weights[..used].iter().map(|&w| w as f32).collect()
}

/// The leaders after which the confidence of a stream may be read, as examples of a regression: features, whether the class is right, and
/// weight. Each stream counts once, divided among its leaders.
fn examples<const N: usize>(trails: &[LeaderHistory], features: impl Fn(&Leader) -> [f32; N]) -> Vec<([f32; N], bool, f32)> {
    let mut examples = Vec::new();
    for trail in trails {
        let asked = trail.leaders.len().min(FLOW_PACKETS);
        for leader in trail.leaders.iter().take(asked).chain(trail.leaders.last()) {
            let right = trail.known && leader.class == trail.truth;
            examples.push((features(leader), right, trail.weight / (asked + 1) as f32));
        }
    }
    examples
}

/// Scales and shifts the confidence of a decision, so that it is the share of right leaders among streams of known classes with content (Platt
/// scaling), and its thresholds with it: what is named stays the same, and when scoring stops. Streams of unseen classes and of none take part in
/// the regression, because confidence has to tell them from others. But how many of them there are is an assumption, which lowers the confidence
/// of all.
fn scale_to_known(decision: &mut Decision, trails: &[LeaderHistory]) {
    let is_known = |t: &&LeaderHistory| t.known && t.variant.shows_class();
    let known: Vec<LeaderHistory> = (trails.iter().filter(is_known))
        .map(|t| LeaderHistory { leaders: t.leaders.iter().filter(|l| l.content()).copied().collect(), ..*t })
        .collect();
    let logit = |p: f32| (p / (1.0 - p)).ln();
    let features = |leader: &Leader| [1.0, logit(decision.confidence(leader).clamp(f32::EPSILON, 1.0 - f32::EPSILON))];
    let [shift, scale] = logistic(&examples(&known, features), [0.0, 1.0]).map(|w| w as f32);
    if scale <= 0.0 {
        return;
    }
    decision.confidence.iter_mut().for_each(|w| *w *= scale);
    for constant in CONSTANT_FEATURES {
        decision.confidence.get_mut(constant).into_iter().for_each(|w| *w += shift);
    }
    let stops = Some(&mut decision.stop_confidence).filter(|stop| **stop < 1.0);
    decision.accept.iter_mut().chain(stops).for_each(|level| *level = 1.0 / (1.0 + (-scale * logit(*level) - shift).exp()));
}

/// Sets acceptance and the stop rule; the weights of confidence must be set before. Returns for each stream what [`calibrate`] returns.
pub(super) fn set_acceptance(
    key: KeyKind,
    settings: &TrainSettings,
    trails: &[LeaderHistory],
    decision: &mut Decision,
) -> Vec<(usize, bool, Leader)> {
    let classes = decision.accept.len();
    let ends: Vec<FinalState> = trails
        .iter()
        .filter(|trail| trail.variant.shows_class())
        .filter_map(|trail| {
            let last = trail.leaders.last().filter(|leader| leader.content())?;
            let &LeaderHistory { capture, truth, known, weight, .. } = trail;
            Some(FinalState { confidence: decision.confidence(last), leader: last.class, capture, truth, known, weight })
        })
        .collect();
    let cost = if decision.content_first { FALSE_NAME_COST_BY_CONTENT } else { FALSE_NAME_COST };
    decision.accept = acceptance(&ends, cost, classes);
    for class in ClassId::first(classes) {
        let claims: Vec<Claim> = ends
            .iter()
            .filter(|e| e.leader == class)
            .map(|e| Claim { confidence: e.confidence, right: e.right(), share: e.weight })
            .collect();
        let accept = &mut decision.accept[class.index()];
        *accept = raise_acceptance(*accept, &claims, MIN_CLAIMS);
    }
    decision.stop_confidence = if key == KeyKind::Flow { stop_rule(settings, decision, trails) } else { NEVER };
    let stopped = |leaders: &[Leader]| leaders.iter().find(|l| decision.settled(l).is_some()).or(leaders.last()).copied();
    let as_is = trails.iter().filter(|trail| trail.variant == Variant::AsIs);
    as_is.filter_map(|trail| Some((trail.stream, trail.known, stopped(&trail.leaders)?))).collect()
}

/// Gives the streams of unseen classes the weight that they have in traffic. Each class was left out of one network, so there are as many
/// unseen streams as known ones.
fn weigh(key: KeyKind, trails: &mut [LeaderHistory]) {
    let per_known = if key == KeyKind::Host { UNSEEN_PER_KNOWN_HOST } else { UNSEEN_PER_KNOWN };
    let is_unseen = |t: &LeaderHistory| !t.known && t.variant.shows_class();
    let count = |of: &dyn Fn(&LeaderHistory) -> bool| trails.iter().filter(|t| of(t)).map(|t| t.weight).sum::<f32>();
    let unseen = (per_known * count(&|t| t.known) / count(&is_unseen).max(1.0)).min(1.0);
    trails.iter_mut().filter(|t| is_unseen(t)).for_each(|t| t.weight *= unseen);
}

/// The state of a calibration stream after its last packet.
struct FinalState {
    confidence: f32,
    leader: ClassId,
    capture: u32,
    truth: ClassId,
    known: bool,
    weight: f32,
}

impl FinalState {
    fn right(&self) -> bool {
        self.known && self.leader == self.truth
    }
}

/// A confidence that no stream reaches.
const NEVER: f32 = 2.0;
/// Streams of unseen classes for each stream of a known class, as assumed of traffic.
const UNSEEN_PER_KNOWN: f32 = 0.4;
/// The same of hosts.
const UNSEEN_PER_KNOWN_HOST: f32 = 0.2;
/// Correctly named streams that weigh as much as a falsely named one when acceptance is chosen.
const FALSE_NAME_COST: f64 = 2.0;
/// The same where streams are named by their content. Few streams of unseen classes resemble a class there: with a cost of 2 hardly fewer of them
/// are named, but clearly fewer of known classes.
const FALSE_NAME_COST_BY_CONTENT: f64 = 1.0;
/// Number of captures for which the streams of all classes count in the acceptance of one class. Streams of a capture resemble each other, so a class
/// is judged by its own claims only as far as it is right in many captures.
const USUAL_CAPTURES: f64 = 10.0;
/// Lowest acceptance threshold of a class.
pub(super) const MIN_ACCEPTANCE: f32 = 0.5;
/// Highest acceptance threshold of a class.
pub(super) const MAX_ACCEPTANCE: f32 = 0.98;

/// A stream whose leading class is the class in question.
pub(super) struct Claim {
    pub confidence: f32,
    pub right: bool,
    /// Number of streams that it counts for.
    pub share: f32,
}

/// Number of claims from which the share of wrong ones is taken to be known.
pub(super) const MIN_CLAIMS: f32 = 20.0;

/// The acceptance threshold of a class: `level`, raised in steps of 0.01 while more than a fifth of the claims at or above it are wrong and
/// there are at least `few` of them.
pub(super) fn raise_acceptance(mut level: f32, claims: &[Claim], few: f32) -> f32 {
    while level < MAX_ACCEPTANCE {
        let kept = claims.iter().filter(|c| c.confidence >= level);
        let (all, wrong) = kept.fold((0.0, 0.0), |(all, wrong), c| (all + c.share, wrong + if c.right { 0.0 } else { c.share }));
        if all < few || wrong * 5.0 <= all {
            break;
        }
        level += 0.01;
    }
    level
}

/// The confidence from which streams of each class are named, `[class]`: where naming the streams of all classes is worth most. That of a class is
/// lower if its own claims speak for it: they are weighed against the streams of all classes as the number of captures in which the class is right
/// against [`USUAL_CAPTURES`].
fn acceptance(ends: &[FinalState], cost: f64, classes: usize) -> Vec<f32> {
    let mut sorted: Vec<(&FinalState, f64)> = ends.iter().zip(worth(ends, cost)).collect();
    sorted.sort_by(|(a, _), (b, _)| b.confidence.total_cmp(&a.confidence));
    let usual = worth_most(sorted.iter().map(|&(end, worth)| (end.confidence, worth)));
    let all: f64 = ends.iter().map(|end| f64::from(end.weight)).sum();
    let of_class = |class: ClassId| {
        let claims = || ends.iter().filter(move |end| end.leader == class);
        let captures: BTreeSet<u32> = claims().filter(|end| end.right()).map(|end| end.capture).collect();
        let own = captures.len() as f64 / claims().map(|end| f64::from(end.weight)).sum::<f64>();
        let share = |end: &FinalState| USUAL_CAPTURES / all + if end.leader == class { own } else { 0.0 };
        worth_most(sorted.iter().map(|&(end, worth)| (end.confidence, share(end) * worth))).min(usual)
    };
    ClassId::first(classes).map(of_class).collect()
}

/// What naming each stream is worth: its share of the known streams if its leader is right, minus `cost` times its share of the negative streams if
/// it is negative. Negative are the streams of unseen classes, each class counting once so that a flood or a twin of one class does not decide for
/// all; without unseen classes, the known streams whose leader is wrong.
fn worth(ends: &[FinalState], cost: f64) -> impl Iterator<Item = f64> {
    let open = ends.iter().any(|e| !e.known);
    let mut of_class: BTreeMap<ClassId, f64> = BTreeMap::new();
    let negative = move |e: &FinalState| if open { !e.known } else { !e.right() };
    ends.iter().filter(|e| negative(e)).for_each(|e| *of_class.entry(e.truth).or_default() += f64::from(e.weight));
    let negative_classes = of_class.len().max(1) as f64;
    let known: f64 = ends.iter().filter(|e| e.known).map(|e| f64::from(e.weight)).sum();
    // Without held-out streams of known classes the total is 0; the bound avoids a division by it.
    let share = |end: &FinalState, of: f64| f64::from(end.weight) / of.max(f64::MIN_POSITIVE);
    ends.iter().map(move |end| {
        let gain = if end.right() { share(end, known) } else { 0.0 };
        let loss = if negative(end) { cost * share(end, of_class[&end.truth] * negative_classes) } else { 0.0 };
        gain - loss
    })
}

/// The confidence from which streams are worth most together, of streams by falling confidence, each with its worth.
fn worth_most(streams: impl ExactSizeIterator<Item = (f32, f64)>) -> f32 {
    // Without any calibration stream all streams are named.
    let (mut sum, mut best, mut level) = (0.0, f64::MIN, if streams.len() == 0 { MIN_ACCEPTANCE } else { MAX_ACCEPTANCE });
    let mut streams = streams.peekable();
    while let Some((confidence, worth)) = streams.next() {
        sum += worth;
        // Streams of equal confidence are named together.
        if sum > best && streams.peek().is_none_or(|&(next, _)| next < confidence) {
            (best, level) = (sum, confidence);
        }
    }
    level.clamp(MIN_ACCEPTANCE, MAX_ACCEPTANCE)
}

/// The lowest confidence at which stopping early costs no more accuracy than `settings.stop_loss`.
fn stop_rule(settings: &TrainSettings, decision: &Decision, trails: &[LeaderHistory]) -> f32 {
    // A mere attempt to connect is wrong whenever scoring stops.
    let counts = |t: &&LeaderHistory| t.known && t.variant != Variant::HandshakeOtherPorts && !t.leaders.is_empty();
    let known: Vec<_> = trails.iter().filter(counts).collect();
    let all: f64 = known.iter().map(|t| f64::from(t.weight)).sum();
    let accuracy = |stop: f32| {
        let right = known.iter().filter(|trail| {
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

/// Weighted logistic regression of `(features, target, weight)` by Newton's method with a ridge of 1 around `prior`. Returns the weights.
fn logistic<const N: usize>(examples: &[([f32; N], bool, f32)], prior: [f64; N]) -> [f64; N] {
    let mut w = prior;
    for _ in 0..25 {
        let mut gradient = [0f64; N];
        let mut hessian = [[0f64; N]; N];
        for (x, right, weight) in examples {
            let z: f64 = w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            let (residual, curvature) = (f64::from(u8::from(*right)) - p, p * (1.0 - p));
            for i in 0..N {
                gradient[i] += f64::from(*weight) * residual * f64::from(x[i]);
                for j in 0..N {
                    hessian[i][j] += f64::from(*weight) * curvature * f64::from(x[i]) * f64::from(x[j]);
                }
            }
        }
        for i in 0..N {
            hessian[i][i] += 1.0;
            gradient[i] -= w[i] - prior[i];
        }
        let step = solve(hessian, gradient);
        for (w, s) in w.iter_mut().zip(step) {
            *w += s.clamp(-2.0, 2.0);
        }
    }
    w
}

/// Solves `a x = b` by Gaussian elimination with partial pivoting; the ridge keeps the matrix regular.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for column in 0..N {
        let pivot = (column..N).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs())).unwrap_or(column);
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..N {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column];
            a[row].iter_mut().zip(pivot).skip(column).for_each(|(to, from)| *to -= factor * from);
            b[row] -= factor * b[column];
        }
    }
    for row in (0..N).rev() {
        for k in row + 1..N {
            b[row] -= a[row][k] * b[k];
        }
        b[row] /= a[row][row];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams with these leads: 7 of 8 of known classes are right from a lead of 1 on, half below; `unseen` more are of unseen classes.
    fn trails(unseen: usize) -> Vec<LeaderHistory> {
        let stream = |lead: f32, right: bool, known: bool| LeaderHistory {
            stream: 0,
            capture: 0,
            truth: ClassId::from_index(usize::from(!right)),
            known,
            variant: Variant::AsIs,
            weight: 1.0,
            leaders: vec![Leader::new(ClassId::from_index(0), 1.0, lead, 1)],
        };
        let known = (0..800).map(|i| {
            let lead = (i % 8) as f32 / 2.0;
            stream(lead, if lead < 1.0 { i % 16 < 8 } else { i / 8 % 8 != 0 }, true)
        });
        known.chain((0..unseen).map(|i| stream((i % 8) as f32 / 2.0, false, false))).collect()
    }

    fn decision(confidence: Vec<f32>) -> Decision {
        Decision {
            confidence,
            ..serde_json::from_str(r#"{"theta":[1],"clip":[-1,1],"confidence":[],"accept":[0.6],"stop":0.7,"give_up":9}"#)
                .unwrap()
        }
    }

    #[test]
    fn scaled_confidence_is_the_share_of_right_streams_whatever_the_number_of_unseen_ones() {
        for unseen in [0, 200, 800] {
            let trails = trails(unseen);
            let mut plain = decision(confidence(&trails));
            let between = |leads: [usize; 2]| leads.iter().map(|&i| plain.confidence(&trails[i].leaders[0])).sum::<f32>() / 2.0;
            (plain.accept, plain.stop_confidence) = (vec![between([1, 2])], between([5, 6]));
            let mut scaled = plain.clone();
            scale_to_known(&mut scaled, &trails);
            let known: Vec<_> = trails.iter().filter(|t| t.known).collect();
            let mean =
                |decision: &Decision| known.iter().map(|t| decision.confidence(&t.leaders[0])).sum::<f32>() / known.len() as f32;
            let right = known.iter().filter(|t| t.truth.index() == 0).count() as f32 / known.len() as f32;
            assert!((mean(&scaled) - right).abs() < 0.01, "{unseen}: {} and {right}", mean(&scaled));
            assert!(unseen == 0 || mean(&plain) < right - 0.05, "{unseen}: {}", mean(&plain));
            let named = |decision: &Decision| trails.iter().map(|t| decision.class(&t.leaders[0]).is_some()).collect::<Vec<_>>();
            let settled =
                |decision: &Decision| trails.iter().map(|t| decision.settled(&t.leaders[0]).is_some()).collect::<Vec<_>>();
            assert_eq!((named(&plain), settled(&plain)), (named(&scaled), settled(&scaled)));
            assert!(named(&plain).contains(&true) && named(&plain).contains(&false) && settled(&plain).contains(&true));
        }
    }

    #[test]
    fn acceptance_is_lower_for_a_class_that_is_right_in_many_captures() {
        let class = ClassId::from_index;
        let stream = |leader: usize, confidence: f32, capture: u32, known: bool| {
            let truth = class(if known { leader } else { 2 });
            FinalState { confidence, leader: class(leader), capture, truth, known, weight: 1.0 }
        };
        // Streams of the classes 0 and 1 have confidences from 0.6 to 1; those of an unseen class up to 0.95, and all are taken for class 1.
        let accept = |captures: u32| {
            let known = (0..200).map(|i: u32| stream(i as usize % 2, 0.6 + 0.002 * i as f32, i / 2 % captures, true));
            let unseen = (0..50).map(|i| stream(1, 0.6 + 0.007 * i as f32, 0, false));
            acceptance(&known.chain(unseen).collect::<Vec<_>>(), 2.0, 3)
        };
        let [one, many] = [1, 50].map(accept);
        assert!(one.iter().all(|&level| (0.93..0.96).contains(&level)), "{one:?}");
        assert!((0.6..0.61).contains(&many[0]), "{many:?}");
        assert_eq!(many[1..], one[1..]);
        assert_eq!(acceptance(&[], 2.0, 2), [MIN_ACCEPTANCE; 2]);
    }

    #[test]
    fn without_streams_confidence_stays() {
        let plain = decision(vec![0.5, 1.0, 0.2]);
        let mut scaled = plain.clone();
        scale_to_known(&mut scaled, &[]);
        assert_eq!(scaled.confidence, plain.confidence);
    }
}
