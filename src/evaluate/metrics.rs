//! What do the outcomes say? Accuracy, macro-F1, recall, precision, confusion, coverage, calibration.

use std::collections::BTreeMap;

use serde::Serialize;

/// What became of one labelled stream.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its label; `known` says whether the model was taught it.
    pub label: String,
    pub known: bool,
    /// The class it was given, if any, the nearest one, and how sure.
    pub class: Option<String>,
    pub best: Option<String>,
    pub confidence: f32,
    /// Packets that were scored.
    pub scored: u32,
    /// Number of its capture.
    pub capture: u32,
}

impl Outcome {
    /// Its class was taught, and is the nearest one.
    pub fn right(&self) -> bool {
        self.known && self.best.as_deref() == Some(&self.label)
    }

    /// Its class was taught, and it was given that class.
    pub fn named_rightly(&self) -> bool {
        self.known && self.class.as_deref() == Some(&self.label)
    }
}

/// Of one class: streams rightly found, others taken for it, its own that were taken for others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub hit: usize,
    pub wrong: usize,
    pub missed: usize,
}

impl Counts {
    /// Counts a stream of class `truth` whose nearest class is `best`.
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
pub fn macro_f1(counts: &[Counts]) -> f64 {
    let with: Vec<f64> = counts.iter().filter(|c| c.streams() > 0).map(|c| c.f1()).collect();
    with.iter().sum::<f64>() / with.len().max(1) as f64
}

/// One class's figures, over `best` (closed set).
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClassReport {
    pub class: String,
    pub streams: usize,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// The streams whose confidence lies in one tenth of its range.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bin {
    pub streams: usize,
    pub right: usize,
    /// Mean confidence.
    pub confidence: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub streams: usize,
    /// Of streams of known classes: `best` is right.
    pub accuracy: f64,
    pub macro_f1: f64,
    pub macro_recall: f64,
    /// The same streams' mean share right, each capture counting once: one capture of many streams does not decide.
    pub capture_accuracy: f64,
    /// Open set, over `class`: of the streams named, rightly named; of the known streams, rightly named; of the untaught, named.
    pub precision: f64,
    pub recall: f64,
    pub untaught: usize,
    pub false_alarms: f64,
    /// Mean packets scored a stream.
    pub packets_used: f64,
    /// Expected calibration error over ten equal-width bins.
    pub calibration_error: f64,
    /// The bins of the calibration error.
    pub calibration: Vec<Bin>,
    /// (coverage, error among the covered) at falling confidence.
    pub risk_coverage: Vec<(f64, f64)>,
    /// (truth, best, streams), most frequent first.
    pub confusions: Vec<(String, String, usize)>,
    /// (untaught truth, class that it was given, streams), most frequent first.
    pub alarms: Vec<(String, String, usize)>,
    pub classes: Vec<ClassReport>,
}

/// A share; of nothing, 0.
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn ranked(counts: BTreeMap<(&str, &str), usize>) -> Vec<(String, String, usize)> {
    let mut list: Vec<_> = counts.into_iter().map(|((a, b), n)| (a.to_string(), b.to_string(), n)).collect();
    list.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.cmp(b)));
    list
}

impl Report {
    pub fn new(outcomes: &[Outcome]) -> Self {
        let known: Vec<&Outcome> = outcomes.iter().filter(|o| o.known).collect();
        let untaught: Vec<&Outcome> = outcomes.iter().filter(|o| !o.known).collect();
        let mut labels: Vec<&str> = known.iter().map(|o| o.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        let place = |name: &str| labels.binary_search(&name).ok();
        let mut counts = vec![Counts::default(); labels.len()];
        let mut confusion: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for &o in &known {
            if let Some(truth) = place(&o.label) {
                Counts::add(&mut counts, truth, o.best.as_deref().and_then(place));
            }
            if !o.right() {
                *confusion.entry((&o.label, o.best.as_deref().unwrap_or("(none)"))).or_default() += 1;
            }
        }
        let classes: Vec<ClassReport> = labels
            .iter()
            .zip(&counts)
            .map(|(class, c)| ClassReport {
                class: (*class).to_string(),
                streams: c.streams(),
                precision: share(c.hit, c.hit + c.wrong),
                recall: share(c.hit, c.streams()),
                f1: c.f1(),
            })
            .collect();
        let mean = |f: fn(&ClassReport) -> f64| classes.iter().map(f).sum::<f64>() / classes.len().max(1) as f64;
        let named = outcomes.iter().filter(|o| o.class.is_some()).count();
        let named_right = outcomes.iter().filter(|o| o.named_rightly()).count();
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
        let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
        sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        let mut wrong = 0;
        let risks: Vec<(f64, f64)> = sorted
            .iter()
            .enumerate()
            .map(|(i, o)| {
                wrong += usize::from(!o.right());
                (share(i + 1, sorted.len()), share(wrong, i + 1))
            })
            .collect();
        let mut captures: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for o in &known {
            let (right, all) = captures.entry(o.capture).or_default();
            (*right, *all) = (*right + usize::from(o.right()), *all + 1);
        }
        let by_capture = captures.values().map(|&(right, all)| share(right, all)).sum::<f64>();
        let steps = risks.len().div_ceil(20).max(1);
        let mut alarms: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for &o in &untaught {
            if let Some(class) = &o.class {
                *alarms.entry((&o.label, class)).or_default() += 1;
            }
        }
        Self {
            streams: outcomes.len(),
            accuracy: share(outcomes.iter().filter(|o| o.right()).count(), known.len()),
            macro_f1: macro_f1(&counts),
            macro_recall: mean(|c| c.recall),
            capture_accuracy: by_capture / captures.len().max(1) as f64,
            precision: share(named_right, named),
            recall: share(named_right, known.len()),
            untaught: untaught.len(),
            false_alarms: share(untaught.iter().filter(|o| o.class.is_some()).count(), untaught.len()),
            packets_used: outcomes.iter().map(|o| f64::from(o.scored)).sum::<f64>() / outcomes.len().max(1) as f64,
            calibration_error: off / outcomes.len().max(1) as f64,
            calibration: bins,
            risk_coverage: risks.into_iter().skip(steps - 1).step_by(steps).collect(),
            confusions: ranked(confusion),
            alarms: ranked(alarms),
            classes,
        }
    }
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
            ("untaught, but named (truth -> class):", &self.alarms),
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
        if self.untaught > 0 {
            let (known, classes) = (self.streams - self.untaught, self.classes.len());
            writeln!(f, "{:<38} {known} of {classes} classes", "of classes that were taught")?;
        }
        writeln!(f, "{:<38} {:.4}", "accuracy (nearest class)", self.accuracy)?;
        writeln!(f, "{:<38} {:.4}", "macro-F1", self.macro_f1)?;
        writeln!(f, "{:<38} {:.4}", "macro recall", self.macro_recall)?;
        writeln!(f, "{:<38} {:.4}", "accuracy, each capture counting once", self.capture_accuracy)?;
        writeln!(f, "{:<38} {:.4}", "precision of the streams named", self.precision)?;
        writeln!(f, "{:<38} {:.4}", "recall (named, and rightly)", self.recall)?;
        if self.untaught > 0 {
            writeln!(f, "{:<38} {:.4} of {}", "false alarms on untaught streams", self.false_alarms, self.untaught)?;
        }
        writeln!(f, "{:<38} {:.4}", "calibration error", self.calibration_error)?;
        writeln!(f, "{:<38} {:.2}", "packets used a stream", self.packets_used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capture_counts_once_and_untaught_streams_not_at_all() {
        let outcome = |best: &str, known, capture| Outcome {
            label: "a".into(),
            known,
            class: None,
            best: Some(best.into()),
            confidence: 0.5,
            scored: 1,
            capture,
        };
        // One capture of a hundred streams, all wrong; one of a single stream, right; one of a class that was not taught.
        let mut said: Vec<_> = (0..100).map(|_| outcome("b", true, 0)).collect();
        said.extend([outcome("a", true, 1), outcome("b", false, 2)]);
        let report = Report::new(&said);
        assert_eq!((report.capture_accuracy, report.untaught), (0.5, 1));
        assert!((report.accuracy - 1.0 / 101.0).abs() < 1e-12);
        assert!(report.to_string().contains("of classes that were taught            101 of 1 classes"));
    }
}
