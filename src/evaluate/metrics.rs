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

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub streams: usize,
    /// Of streams of known classes: `best` is right.
    pub accuracy: f64,
    pub macro_f1: f64,
    pub macro_recall: f64,
    /// Open set, over `class`: of the streams named, rightly named; of the known streams, rightly named; of the untaught, named.
    pub precision: f64,
    pub recall: f64,
    pub untaught: usize,
    pub false_alarms: f64,
    /// Mean packets scored a stream.
    pub packets_used: f64,
    /// Expected calibration error over ten equal-width bins.
    pub calibration_error: f64,
    /// (coverage, error among the covered) at falling confidence.
    pub risk_coverage: Vec<(f64, f64)>,
    /// (truth, best, streams), most frequent first.
    pub confusions: Vec<(String, String, usize)>,
    /// (untaught truth, class that it was given, streams), most frequent first.
    pub alarms: Vec<(String, String, usize)>,
    pub classes: Vec<ClassReport>,
}

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
        let right = |o: &Outcome| o.known && o.best.as_deref() == Some(&o.label);
        // (right, said wrongly, missed)
        let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        let mut confusion: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for &o in &known {
            counts.entry(&o.label).or_default()[if right(o) { 0 } else { 2 }] += 1;
        }
        for &o in known.iter().filter(|o| !right(o)) {
            let best = o.best.as_deref().unwrap_or("(none)");
            *confusion.entry((&o.label, best)).or_default() += 1;
            if let Some(c) = counts.get_mut(best) {
                c[1] += 1;
            }
        }
        let classes: Vec<ClassReport> = counts
            .iter()
            .map(|(class, &[hit, wrong, missed])| ClassReport {
                class: (*class).to_string(),
                streams: hit + missed,
                precision: share(hit, hit + wrong),
                recall: share(hit, hit + missed),
                f1: share(2 * hit, 2 * hit + wrong + missed),
            })
            .collect();
        let mean = |f: fn(&ClassReport) -> f64| classes.iter().map(f).sum::<f64>() / classes.len().max(1) as f64;
        let named = outcomes.iter().filter(|o| o.class.is_some()).count();
        let named_right = known.iter().filter(|o| o.class.as_deref() == Some(&o.label)).count();
        let mut bins = [(0usize, 0f64, 0usize); 10];
        for o in outcomes {
            let bin = &mut bins[((o.confidence * 10.0) as usize).min(9)];
            *bin = (bin.0 + 1, bin.1 + f64::from(o.confidence), bin.2 + usize::from(right(o)));
        }
        let calibration_error = bins.iter().map(|b| (b.1 - b.2 as f64).abs()).sum::<f64>() / outcomes.len().max(1) as f64;
        let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
        sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        let mut wrong = 0;
        let risks: Vec<(f64, f64)> = sorted
            .iter()
            .enumerate()
            .map(|(i, o)| {
                wrong += usize::from(!right(o));
                (share(i + 1, sorted.len()), share(wrong, i + 1))
            })
            .collect();
        let steps = risks.len().div_ceil(20).max(1);
        let mut alarms: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for &o in &untaught {
            if let Some(class) = &o.class {
                *alarms.entry((&o.label, class)).or_default() += 1;
            }
        }
        Self {
            streams: outcomes.len(),
            accuracy: share(known.iter().filter(|o| right(o)).count(), known.len()),
            macro_f1: mean(|c| c.f1),
            macro_recall: mean(|c| c.recall),
            precision: share(named_right, named),
            recall: share(named_right, known.len()),
            untaught: untaught.len(),
            false_alarms: share(untaught.iter().filter(|o| o.class.is_some()).count(), untaught.len()),
            packets_used: outcomes.iter().map(|o| f64::from(o.scored)).sum::<f64>() / outcomes.len().max(1) as f64,
            calibration_error,
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
        writeln!(f, "{:<38} {:.4}", "accuracy (nearest class)", self.accuracy)?;
        writeln!(f, "{:<38} {:.4}", "macro-F1", self.macro_f1)?;
        writeln!(f, "{:<38} {:.4}", "macro recall", self.macro_recall)?;
        writeln!(f, "{:<38} {:.4}", "precision of the streams named", self.precision)?;
        writeln!(f, "{:<38} {:.4}", "recall (named, and rightly)", self.recall)?;
        if self.untaught > 0 {
            writeln!(f, "{:<38} {:.4} of {}", "false alarms on untaught streams", self.false_alarms, self.untaught)?;
        }
        writeln!(f, "{:<38} {:.4}", "calibration error", self.calibration_error)?;
        writeln!(f, "{:<38} {:.2}", "packets used a stream", self.packets_used)
    }
}
