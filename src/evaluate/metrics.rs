//! Figures of an evaluation: accuracy, macro-F1, recall, precision, confusions, coverage, calibration.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Evaluation, PortView};
use crate::stream::{Basis, UnknownReason};

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
    /// What the class rests on; `None` for unknown, or if the model does not distinguish bases.
    pub basis: Option<Basis>,
    /// Why the stream is unknown; `None` with a class.
    pub reason: Option<UnknownReason>,
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
    average(with.into_iter())
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
    /// Fraction of the streams of the class that are given it: recall at the acceptance threshold, 0 to 1.
    pub named: f64,
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

/// Figures of one class on other ports.
#[derive(Clone, Debug, Serialize)]
pub struct PortClassReport {
    /// Name of the class.
    pub class: String,
    /// Number of streams.
    pub streams: usize,
    /// Fraction of the streams that are nearest to the class, 0 to 1.
    pub recall: f64,
    /// Fraction of the streams that are given the class, 0 to 1.
    pub named: f64,
}

/// Figures of the same streams on other ports. Shares are 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct PortReport {
    /// The ports.
    pub ports: PortView,
    /// Number of streams.
    pub streams: usize,
    /// Share of the streams of known classes whose nearest class is right.
    pub accuracy: f64,
    /// Share of the named streams that are named correctly.
    pub precision: f64,
    /// Share of the streams of known classes that are named correctly.
    pub recall: f64,
    /// (label, class given, streams) of wrongly named streams, most frequent first.
    pub false_names: Vec<(String, String, usize)>,
    /// Figures of each class.
    pub classes: Vec<PortClassReport>,
}

impl PortReport {
    fn new(ports: PortView, outcomes: &[StreamOutcome]) -> Self {
        let Report { streams, accuracy, precision, recall, false_names, classes, .. } = Report::new(outcomes);
        let class = |c: ClassReport| PortClassReport { class: c.class, streams: c.streams, recall: c.recall, named: c.named };
        Self { ports, streams, accuracy, precision, recall, false_names, classes: classes.into_iter().map(class).collect() }
    }

    /// The figures of a class; `None` if none of its streams has such ports.
    pub fn class(&self, name: &str) -> Option<&PortClassReport> {
        self.classes.iter().find(|c| c.class == name)
    }
}

/// The streams that have a basis, or a reason why they are unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedBy {
    /// The basis or the reason, as in events.
    pub name: &'static str,
    /// Number of streams.
    pub streams: usize,
    /// Streams whose nearest class is right.
    pub right: usize,
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
    /// Expected calibration error over ten equal-width bins, of the streams of known classes: confidence assumes one of them.
    pub calibration_error: f64,
    /// The bins of the calibration error.
    pub calibration: Vec<Bin>,
    /// (coverage, share wrong among the covered streams), by falling confidence.
    pub risk_coverage: Vec<(f64, f64)>,
    /// (label, nearest class, streams) of wrong streams of known classes, most frequent first.
    pub confusions: Vec<(String, String, usize)>,
    /// (label, class given, streams) of named streams of unseen classes, most frequent first.
    pub alarms: Vec<(String, String, usize)>,
    /// (label, class given, streams) of wrongly named streams, those of unseen classes among them, most frequent first.
    pub false_names: Vec<(String, String, usize)>,
    /// Named streams by what their class rests on.
    pub bases: Vec<NamedBy>,
    /// Unknown streams by the reason.
    pub reasons: Vec<NamedBy>,
    /// Figures of each class.
    pub classes: Vec<ClassReport>,
    /// Figures of the same streams on other ports; without the views in which no stream was evaluated, as if the ports are masked.
    pub on_ports: Vec<PortReport>,
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
        let mean = |f: fn(&ClassReport) -> f64| average(classes.iter().map(f));
        let named = outcomes.iter().filter(|o| o.class.is_some()).count();
        let named_right = outcomes.iter().filter(|o| o.named_rightly()).count();
        let (calibration, calibration_error) = calibration(&known);
        let wrong = known.iter().filter(|o| !o.right());
        let named_wrongly = outcomes.iter().filter(|o| !o.named_rightly());
        let false_names = named_wrongly.filter_map(|o| Some((o.label.as_str(), o.class.as_deref()?)));
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
            false_names: ranked(false_names),
            bases: named_by(outcomes, Basis::ALL.map(|basis| (basis.name(), move |o: &StreamOutcome| o.basis == Some(basis)))),
            reasons: named_by(
                outcomes,
                UnknownReason::ALL.map(|reason| (reason.name(), move |o: &StreamOutcome| o.reason == Some(reason))),
            ),
            classes,
            on_ports: Vec::new(),
        }
    }

    /// Whether no stream is of a class that was trained: figures of known classes can't be measured, and are 0.
    pub fn has_no_known_class(&self) -> bool {
        self.unseen == self.streams
    }

    /// The figures of an evaluation, with those on other ports.
    pub fn of(evaluation: &Evaluation) -> Self {
        let measured = evaluation.on_ports.iter().filter(|(_, outcomes)| !outcomes.is_empty());
        let on_ports = measured.map(|(ports, outcomes)| PortReport::new(*ports, outcomes)).collect();
        Self { on_ports, ..Self::new(&evaluation.outcomes) }
    }
}

/// Numbers of streams of each kind; kinds without streams are left out.
fn named_by<const N: usize>(
    outcomes: &[StreamOutcome],
    kinds: [(&'static str, impl Fn(&StreamOutcome) -> bool); N],
) -> Vec<NamedBy> {
    let count = |(name, is): (&'static str, _)| {
        let is: &dyn Fn(&StreamOutcome) -> bool = &is;
        let streams = outcomes.iter().filter(|o| is(o)).count();
        NamedBy { name, streams, right: outcomes.iter().filter(|o| is(o) && o.right()).count() }
    };
    kinds.into_iter().map(count).filter(|k| k.streams > 0).collect()
}

/// The figures of each class of known streams, and their macro-F1.
fn class_reports(known: &[&StreamOutcome]) -> (Vec<ClassReport>, f64) {
    let mut labels: Vec<&str> = known.iter().map(|o| o.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    let place = |name: &str| labels.binary_search(&name).ok();
    let mut counts = vec![ClassCounts::default(); labels.len()];
    let mut named = vec![0; labels.len()];
    for o in known {
        if let Some(truth) = place(&o.label) {
            named[truth] += usize::from(o.named_rightly());
            ClassCounts::add(&mut counts, truth, o.best.as_deref().and_then(place));
        }
    }
    let report = |((class, c), named): ((&&str, &ClassCounts), usize)| ClassReport {
        class: (*class).to_string(),
        streams: c.streams(),
        precision: share(c.hit, c.hit + c.wrong),
        recall: share(c.hit, c.streams()),
        named: share(named, c.streams()),
        f1: c.f1(),
    };
    (labels.iter().zip(&counts).zip(named).map(report).collect(), macro_f1(&counts))
}

/// The bins of confidence, and the expected calibration error.
fn calibration(known: &[&StreamOutcome]) -> (Vec<Bin>, f64) {
    let mut bins = vec![Bin::default(); 10];
    for o in known {
        let bin = &mut bins[((o.confidence * 10.0) as usize).min(9)];
        bin.streams += 1;
        bin.right += usize::from(o.right());
        bin.confidence += f64::from(o.confidence);
    }
    let off = bins.iter().map(|b| (b.confidence - b.right as f64).abs()).sum::<f64>();
    for bin in &mut bins {
        bin.confidence /= bin.streams.max(1) as f64;
    }
    (bins, off / known.len().max(1) as f64)
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
    average(captures.values().map(|&(right, all)| share(right, all)))
}

/// The mean of some values; 0 of none.
fn average(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let number = values.len().max(1);
    values.fold(0.0, |sum, value| sum + value) / number as f64
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.has_no_known_class() {
            self.write_classes(f)?;
            writeln!(f)?;
        }
        let lists = [
            ("most confused (truth -> nearest class):".to_string(), &self.confusions),
            ("of unseen classes, but named (truth -> class):".into(), &self.alarms),
            ("named wrongly (truth -> class):".into(), &self.false_names),
        ];
        let on_ports =
            self.on_ports.iter().map(|p| (format!("named wrongly, {} (truth -> class):", p.ports.title()), &p.false_names));
        for (what, list) in lists.into_iter().chain(on_ports).filter(|(_, list)| !list.is_empty()) {
            writeln!(f, "{what}")?;
            for (truth, best, n) in list.iter().take(12) {
                writeln!(f, "  {n:>5}  {truth} -> {best}")?;
            }
            writeln!(f)?;
        }
        let unseen = if self.unseen > 0 { " (streams of unseen classes count as wrong)" } else { "" };
        writeln!(f, "risk against coverage{unseen}:")?;
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
        if !self.has_no_known_class() {
            writeln!(f, "{:<38} {:.4}", "accuracy (nearest class)", self.accuracy)?;
            writeln!(f, "{:<38} {:.4}", "macro-F1", self.macro_f1)?;
            writeln!(f, "{:<38} {:.4}", "macro recall", self.macro_recall)?;
            writeln!(f, "{:<38} {:.4}", "accuracy, each capture counting once", self.capture_accuracy)?;
            writeln!(f, "{:<38} {:.4}", "precision of the streams named", self.precision)?;
            writeln!(f, "{:<38} {:.4}", "recall (named correctly)", self.recall)?;
            writeln!(f, "{:<38} {:.4}", "calibration error", self.calibration_error)?;
        }
        if self.unseen > 0 {
            writeln!(f, "{:<38} {:.4} of {}", "false alarms on unseen classes", self.false_alarms, self.unseen)?;
        }
        writeln!(f, "{:<38} {:.2}", "packets used per stream", self.packets_used)?;
        self.write_kinds(f)
    }
}

impl Report {
    /// The table of classes: as captured, then on other ports.
    fn write_classes(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<20} {:>8} {:>37}", "", "", "as captured")?;
        self.on_ports.iter().try_for_each(|p| write!(f, "  {:>15}", p.ports.title()))?;
        write!(f, "\n{:<20} {:>8} {:>10} {:>8} {:>8} {:>8}", "class", "streams", "precision", "nearest", "named", "F1")?;
        self.on_ports.iter().try_for_each(|_| write!(f, "  {:>8} {:>6}", "nearest", "named"))?;
        writeln!(f)?;
        for c in &self.classes {
            write!(f, "{:<20} {:>8} {:>10.3} {:>8.3} {:>8.3} {:>8.3}", c.class, c.streams, c.precision, c.recall, c.named, c.f1)?;
            for ports in &self.on_ports {
                match ports.class(&c.class) {
                    Some(of) => write!(f, "  {:>8.3} {:>6.3}", of.recall, of.named)?,
                    None => write!(f, "  {:>8} {:>6}", "-", "-")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f, "nearest: share of the class's streams whose nearest class is right; named: share that is given the class")
    }

    /// Totals on other ports, and streams by basis and reason.
    fn write_kinds(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for p in self.on_ports.iter().filter(|_| !self.has_no_known_class()) {
            let (title, figures) = (p.ports.title(), [p.accuracy, p.recall, p.precision]);
            writeln!(
                f,
                "{:<38} {:.4} {:.4} {:.4}",
                format!("{title}: nearest, named, precision"),
                figures[0],
                figures[1],
                figures[2]
            )?;
        }
        for (what, kinds) in [("named by", &self.bases), ("unknown:", &self.reasons)] {
            for NamedBy { name, streams, right } in kinds {
                writeln!(f, "{:<38} {streams}, nearest class right for {right}", format!("{what} {name}"))?;
            }
        }
        Ok(())
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
            basis: None,
            reason: None,
        };
        // One capture of a hundred streams, all wrong; one of a single stream, right; one of an unseen class.
        let mut outcomes: Vec<_> = (0..100).map(|_| outcome("b", true, 0)).collect();
        outcomes.extend([outcome("a", true, 1), outcome("b", false, 2)]);
        let report = Report::new(&outcomes);
        assert_eq!((report.capture_accuracy, report.unseen), (0.5, 1));
        assert!(report.to_string().contains("risk against coverage (streams of unseen classes count as wrong):"));
        assert!((report.accuracy - 1.0 / 101.0).abs() < 1e-12);
        assert!(report.to_string().contains("of known classes                       101 of 1 classes"));
    }
}
