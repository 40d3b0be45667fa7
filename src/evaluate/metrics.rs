//! Figures of an evaluation: accuracy, macro-F1, recall, precision, confusions, coverage, calibration.

use std::collections::BTreeMap;

use serde::Serialize;

/// Classification of one labelled stream.
#[derive(Clone, Debug)]
pub struct StreamOutcome {
    /// Label of the stream.
    pub label: String,
    /// Whether the model was trained on the label.
    pub known: bool,
    /// The class that the stream was given; `None` for unknown.
    pub class: Option<String>,
    /// The nearest class; `None` if no packet was scored.
    pub best: Option<String>,
    /// Confidence that the nearest class is right, 0 to 1.
    pub confidence: f32,
    /// Number of packets scored.
    pub scored: u32,
    /// Index of its capture.
    pub capture: u32,
}

impl StreamOutcome {
    /// Whether its class is known to the model and is the nearest one.
    pub fn right(&self) -> bool {
        self.known && self.best.as_deref() == Some(&self.label)
    }

    /// Whether its class is known to the model and was given to it.
    pub fn named_rightly(&self) -> bool {
        self.known && self.class.as_deref() == Some(&self.label)
    }
}

/// Confusion counts of one class: true positives, false positives and false negatives.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassCounts {
    /// Streams of the class that are nearest to it.
    pub hit: usize,
    /// Streams of other classes that are nearest to it.
    pub wrong: usize,
    /// Streams of the class that are nearest to another.
    pub missed: usize,
}

impl ClassCounts {
    /// ClassCounts a stream of class `truth` whose nearest class is `best`.
    pub fn add(counts: &mut [Self], truth: usize, best: Option<usize>) {
        if best == Some(truth) {
            counts[truth].hit += 1;
            return;
        }
        counts[truth].missed += 1;
        if let Some(best) = best {
            counts[best].wrong += 1;
        }
    }

    fn f1(self) -> f64 {
        share(2 * self.hit, 2 * self.hit + self.wrong + self.missed)
    }

    fn streams(self) -> usize {
        self.hit + self.missed
    }
}

/// The mean F1 of the classes that have streams.
pub fn macro_f1(counts: &[ClassCounts]) -> f64 {
    let with: Vec<f64> = counts.iter().filter(|c| c.streams() > 0).map(|c| c.f1()).collect();
    with.iter().sum::<f64>() / with.len().max(1) as f64
}

/// Figures of one class, by the nearest class (closed set).
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClassReport {
    /// Name of the class.
    pub class: String,
    /// Number of streams.
    pub streams: usize,
    /// Fraction of the streams nearest to the class that are of the class, 0 to 1.
    pub precision: f64,
    /// Fraction of the streams of the class that are nearest to it, 0 to 1.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

/// The streams whose confidence is in one tenth of its range.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bin {
    /// Number of streams.
    pub streams: usize,
    /// Streams whose nearest class is right.
    pub right: usize,
    /// Mean confidence.
    pub confidence: f64,
}

/// Figures of an evaluation. Shares are 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of streams.
    pub streams: usize,
    /// Share of the streams of known classes whose nearest class is right.
    pub accuracy: f64,
    /// Mean F1 over the classes, by the nearest class.
    pub macro_f1: f64,
    /// Mean recall over the classes, by the nearest class.
    pub macro_recall: f64,
    /// Mean accuracy over the captures: a capture with many streams counts as one.
    pub capture_accuracy: f64,
    /// Open set: share of the named streams that are named correctly.
    pub precision: f64,
    /// Open set: share of the streams of known classes that are named correctly.
    pub recall: f64,
    /// Number of streams of unseen classes.
    pub unseen: usize,
    /// Share of the streams of unseen classes that are named.
    pub false_alarms: f64,
    /// Mean number of packets scored per stream.
    pub packets_used: f64,
    /// Expected calibration error over ten equal-width bins.
    pub calibration_error: f64,
    /// The bins of the calibration error.
    pub calibration: Vec<Bin>,
    /// (coverage, share wrong among the covered streams), by falling confidence.
    pub risk_coverage: Vec<(f64, f64)>,
    /// (label, nearest class, streams) of wrong streams of known classes, most frequent first.
    pub confusions: Vec<(String, String, usize)>,
    /// (label, class given, streams) of named streams of unseen classes, most frequent first.
    pub alarms: Vec<(String, String, usize)>,
    /// Figures of each class.
    pub classes: Vec<ClassReport>,
}

/// The quotient; 0 if `whole` is 0.
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// The distinct pairs with their numbers, most frequent first.
fn ranked<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String, usize)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    pairs.for_each(|pair| *counts.entry(pair).or_default() += 1);
    let mut list: Vec<_> = counts.into_iter().map(|((a, b), n)| (a.to_string(), b.to_string(), n)).collect();
    list.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.cmp(b)));
    list
}

impl Report {
    /// Computes all figures.
    pub fn new(outcomes: &[StreamOutcome]) -> Self {
        let (known, unseen): (Vec<&StreamOutcome>, Vec<&StreamOutcome>) = outcomes.iter().partition(|o| o.known);
        let (classes, macro_f1) = class_reports(&known);
        let mean = |f: fn(&ClassReport) -> f64| classes.iter().map(f).sum::<f64>() / classes.len().max(1) as f64;
        let named = outcomes.iter().filter(|o| o.class.is_some()).count();
        let named_right = outcomes.iter().filter(|o| o.named_rightly()).count();
        let (calibration, calibration_error) = calibration(outcomes);
        let wrong = known.iter().filter(|o| !o.right());
        let alarms = unseen.iter().filter_map(|o| Some((o.label.as_str(), o.class.as_deref()?)));
        Self {
            streams: outcomes.len(),
            accuracy: share(outcomes.iter().filter(|o| o.right()).count(), known.len()),
            macro_f1,
            macro_recall: mean(|c| c.recall),
            capture_accuracy: capture_accuracy(&known),
            precision: share(named_right, named),
            recall: share(named_right, known.len()),
            unseen: unseen.len(),
            false_alarms: share(unseen.iter().filter(|o| o.class.is_some()).count(), unseen.len()),
            packets_used: outcomes.iter().map(|o| f64::from(o.scored)).sum::<f64>() / outcomes.len().max(1) as f64,
            calibration_error,
            calibration,
            risk_coverage: risk_coverage(outcomes),
            confusions: ranked(wrong.map(|o| (o.label.as_str(), o.best.as_deref().unwrap_or("(none)")))),
            alarms: ranked(alarms),
            classes,
        }
    }
}

/// The figures of each class of known streams, and their macro-F1.
fn class_reports(known: &[&StreamOutcome]) -> (Vec<ClassReport>, f64) {
    let mut labels: Vec<&str> = known.iter().map(|o| o.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    let place = |name: &str| labels.binary_search(&name).ok();
    let mut counts = vec![ClassCounts::default(); labels.len()];
    for o in known {
        if let Some(truth) = place(&o.label) {
            ClassCounts::add(&mut counts, truth, o.best.as_deref().and_then(place));
        }
    }
    let report = |(class, c): (&&str, &ClassCounts)| ClassReport {
        class: (*class).to_string(),
        streams: c.streams(),
        precision: share(c.hit, c.hit + c.wrong),
        recall: share(c.hit, c.streams()),
        f1: c.f1(),
    };
    (labels.iter().zip(&counts).map(report).collect(), macro_f1(&counts))
}

/// The bins of confidence, and the expected calibration error.
fn calibration(outcomes: &[StreamOutcome]) -> (Vec<Bin>, f64) {
    let mut bins = vec![Bin::default(); 10];
    for o in outcomes {
        let bin = &mut bins[((o.confidence * 10.0) as usize).min(9)];
        bin.streams += 1;
        bin.right += usize::from(o.right());
        bin.confidence += f64::from(o.confidence);
    }
    let off = bins.iter().map(|b| (b.confidence - b.right as f64).abs()).sum::<f64>();
    for bin in &mut bins {
        bin.confidence /= bin.streams.max(1) as f64;
    }
    (bins, off / outcomes.len().max(1) as f64)
}

/// About twenty points of the risk-coverage curve.
fn risk_coverage(outcomes: &[StreamOutcome]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<&StreamOutcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut wrong = 0;
    let risk = |(i, o): (usize, &&StreamOutcome)| {
        wrong += usize::from(!o.right());
        (share(i + 1, sorted.len()), share(wrong, i + 1))
    };
    let risks: Vec<(f64, f64)> = sorted.iter().enumerate().map(risk).collect();
    let steps = risks.len().div_ceil(20).max(1);
    risks.into_iter().skip(steps - 1).step_by(steps).collect()
}

/// The mean over the captures of the share of known streams that are right.
fn capture_accuracy(known: &[&StreamOutcome]) -> f64 {
    let mut captures: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for o in known {
        let (right, all) = captures.entry(o.capture).or_default();
        (*right, *all) = (*right + usize::from(o.right()), *all + 1);
    }
    captures.values().map(|&(right, all)| share(right, all)).sum::<f64>() / captures.len().max(1) as f64
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<20} {:>8} {:>10} {:>8} {:>8}", "class", "streams", "precision", "recall", "F1")?;
        for c in &self.classes {
            writeln!(f, "{:<20} {:>8} {:>10.3} {:>8.3} {:>8.3}", c.class, c.streams, c.precision, c.recall, c.f1)?;
        }
        writeln!(f)?;
        for (what, list) in [
            ("most confused (truth -> nearest class):", &self.confusions),
            ("of unseen classes, but named (truth -> class):", &self.alarms),
        ] {
            if !list.is_empty() {
                writeln!(f, "{what}")?;
                for (truth, best, n) in list.iter().take(12) {
                    writeln!(f, "  {n:>5}  {truth} -> {best}")?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "risk against coverage:")?;
        for target in [0.25, 0.5, 0.75, 0.9, 1.0] {
            if let Some((coverage, risk)) = self.risk_coverage.iter().find(|r| r.0 >= target) {
                writeln!(f, "  {:>5.1} % of streams covered: {:.2} % wrong", coverage * 100.0, risk * 100.0)?;
            }
        }
        writeln!(f)?;
        writeln!(f, "{:<38} {}", "streams", self.streams)?;
        if self.unseen > 0 {
            let (known, classes) = (self.streams - self.unseen, self.classes.len());
            writeln!(f, "{:<38} {known} of {classes} classes", "of known classes")?;
        }
        writeln!(f, "{:<38} {:.4}", "accuracy (nearest class)", self.accuracy)?;
        writeln!(f, "{:<38} {:.4}", "macro-F1", self.macro_f1)?;
        writeln!(f, "{:<38} {:.4}", "macro recall", self.macro_recall)?;
        writeln!(f, "{:<38} {:.4}", "accuracy, each capture counting once", self.capture_accuracy)?;
        writeln!(f, "{:<38} {:.4}", "precision of the streams named", self.precision)?;
        writeln!(f, "{:<38} {:.4}", "recall (named correctly)", self.recall)?;
        if self.unseen > 0 {
            writeln!(f, "{:<38} {:.4} of {}", "false alarms on unseen classes", self.false_alarms, self.unseen)?;
        }
        writeln!(f, "{:<38} {:.4}", "calibration error", self.calibration_error)?;
        writeln!(f, "{:<38} {:.2}", "packets used per stream", self.packets_used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capture_counts_once_and_streams_of_unseen_classes_not_at_all() {
        let outcome = |best: &str, known, capture| StreamOutcome {
            label: "a".into(),
            known,
            class: None,
            best: Some(best.into()),
            confidence: 0.5,
            scored: 1,
            capture,
        };
        // One capture of a hundred streams, all wrong; one of a single stream, right; one of an unseen class.
        let mut outcomes: Vec<_> = (0..100).map(|_| outcome("b", true, 0)).collect();
        outcomes.extend([outcome("a", true, 1), outcome("b", false, 2)]);
        let report = Report::new(&outcomes);
        assert_eq!((report.capture_accuracy, report.unseen), (0.5, 1));
        assert!((report.accuracy - 1.0 / 101.0).abs() < 1e-12);
        assert!(report.to_string().contains("of known classes                       101 of 1 classes"));
    }
}
