//! `spiked paper`: reproduction of the founding paper's experiments (Davies et al. 2025).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use crate::encode::Layout;
use crate::snn::{OneShot, SpinnakerNeuron};

use super::{Exit, OutputError};

/// Reproduces the founding paper's experiments with its one-shot learning rule
#[derive(ClapArgs)]
#[command(after_help = "The paper: Davies, Gait, Rowley, Di Nuovo, Neurocomputing 611 (2025) 128650, arXiv 2312.02659.\n\n\
    Examples:\n  \
    spiked paper                             the paper's table: two patterns on one neuron, by Hamming distance\n  \
    spiked paper --plot paper.svg            the same as a plot\n  \
    spiked paper --compare decisions.csv     compares every word with a machine's decisions; exit code 1 on any difference except ties\n\n\
    The file has columns trained_patterns (words joined by +), homeostatic_factor, fired_words_hex (bit k from the left: word k).")]
pub struct Args {
    /// Compares with the decisions in this file
    #[arg(long, value_name = "CSV")]
    compare: Option<PathBuf>,
    /// Writes the table as a plot
    #[arg(long, value_name = "SVG", conflicts_with = "compare")]
    plot: Option<PathBuf>,
}

/// Bits of one word in the paper.
const BITS: u8 = 10;
const WORDS: u16 = 1 << BITS;
/// The paper's first pattern: five ones, five zeros.
const PATTERN: u16 = 0b11_1110_0000;
/// Larger factors come from overflow of the machine's 32-bit potentials, not from homeostasis.
const OVERFLOW: f64 = 128.0;
/// Upper bound of the machine's search for a factor in runs that overflowed; other runs ended below a thousand.
const WIDE: f64 = 1e5;

pub fn run(args: &Args) -> Result<Exit> {
    match &args.compare {
        Some(path) => compare(path),
        None => table(args.plot.as_deref()),
    }
}

/// The active inputs of each word, through the encoder's dual-rail layout.
fn words() -> (Layout, Vec<Vec<u32>>) {
    let layout = Layout::paper_word(BITS);
    let words = (0..WORDS).map(|word| layout.word(word)).collect();
    (layout, words)
}

/// Accuracy, precision, sensitivity and specificity over all words; trained words are the positives.
struct Figures {
    distance: u32,
    fired: usize,
    factor: Option<f64>,
    values: [f64; 4],
}

fn figures(layout: &Layout, words: &[Vec<u32>], distance: u32) -> Figures {
    let second = PATTERN ^ ((1u16 << distance) - 1);
    let trained = [PATTERN, second];
    let neuron = OneShot::train(layout, &trained.map(|p| words[p as usize].clone()));
    let (mut hit, mut alarm, mut missed, mut quiet) = (0.0, 0.0, 0.0, 0.0);
    for (word, active) in (0..WORDS).zip(words) {
        match (trained.contains(&word), neuron.fires(active)) {
            (true, true) => hit += 1.0,
            (false, true) => alarm += 1.0,
            (true, false) => missed += 1.0,
            (false, false) => quiet += 1.0,
        }
    }
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    Figures {
        distance,
        fired: (hit + alarm) as usize,
        factor: neuron.factor(),
        values: [
            share(hit + quiet, f64::from(WORDS)),
            share(hit, hit + alarm),
            share(hit, hit + missed),
            share(quiet, quiet + alarm),
        ],
    }
}

const NAMES: [&str; 4] = ["accuracy", "precision", "sensitivity", "specificity"];

fn table(plot: Option<&Path>) -> Result<Exit> {
    let (layout, words) = words();
    let rows: Vec<Figures> = (0..=u32::from(BITS)).map(|distance| figures(&layout, &words, distance)).collect();
    say!("two patterns on one neuron, {PATTERN} and one at a Hamming distance from it; all {WORDS} words of {BITS} bits shown\n");
    say!("{:>8} {:>10} {:>8} {:>10} {:>10} {:>12} {:>12}", "distance", "factor", "fired", NAMES[0], NAMES[1], NAMES[2], NAMES[3]);
    for row in &rows {
        let factor = row.factor.map_or_else(|| "none".into(), |f| format!("{f:.4}"));
        let [accuracy, precision, sensitivity, specificity] = row.values;
        say!(
            "{:>8} {factor:>10} {:>8} {accuracy:>10.4} {precision:>10.4} {sensitivity:>12.4} {specificity:>12.4}",
            row.distance,
            row.fired
        );
    }
    if let Some(path) = plot {
        std::fs::write(path, svg(&rows)).with_context(|| OutputError::to(path, "the plot"))?;
        say!("\nwritten: {}", path.display());
    }
    Ok(Exit::Ok)
}

/// The table as a line plot.
fn svg(rows: &[Figures]) -> String {
    // Distinguishable for colour-blind readers (Okabe and Ito).
    const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
    let (x, y) = (|d: f64| 70.0 + d * 50.0, |v: f64| 340.0 - v * 280.0);
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 400\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Accuracy, precision, sensitivity and specificity of a neuron trained on two patterns, against their Hamming distance</title>\n\
         <rect width=\"720\" height=\"400\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"30\" font-size=\"16\">Two patterns on one neuron blur as they differ</text>\n",
    );
    let mut line = |text: String| out.push_str(&(text + "\n"));
    for tick in 0..=5 {
        let (v, at) = (f64::from(tick) / 5.0, y(f64::from(tick) / 5.0));
        line(format!(
            "<line x1=\"70\" x2=\"570\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"40\" y=\"{}\">{v:.1}</text>",
            at + 4.0
        ));
    }
    for row in rows {
        line(format!("<text x=\"{}\" y=\"360\" text-anchor=\"middle\">{}</text>", x(f64::from(row.distance)), row.distance));
    }
    line("<text x=\"320\" y=\"385\" text-anchor=\"middle\">Hamming distance of the two patterns</text>".into());
    for (i, (name, colour)) in NAMES.iter().zip(COLOURS).enumerate() {
        let mut points = String::new();
        for row in rows {
            let _ = write!(points, "{:.1},{:.1} ", x(f64::from(row.distance)), y(row.values[i]));
        }
        // Dashes distinguish lines that overlap.
        let dash = ["none", "8 4", "2 3", "12 3 2 3"][i];
        line(format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dash}\"/>"
        ));
        let at = 90 + i * 24;
        line(format!(
            "<line x1=\"590\" x2=\"620\" y1=\"{at}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dash}\"/>"
        ));
        line(format!("<text x=\"628\" y=\"{}\">{name}</text>", at + 4));
    }
    out + "</svg>\n"
}

/// One row of a file of decisions.
struct Decisions {
    name: String,
    patterns: Vec<u16>,
    factor: f64,
    /// For each word, whether the neuron fired.
    fired: Vec<bool>,
}

fn decisions(path: &Path) -> Result<Vec<Decisions>> {
    let unreadable = || format!("{}: can't read the decisions", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(unreadable)?;
    let header = reader.headers().with_context(unreadable)?.clone();
    let column = |name: &str| match header.iter().position(|c| c == name) {
        Some(at) => Ok(at),
        None => bail!("{}: column '{name}' is missing", path.display()),
    };
    let (trained, factor, fired) = (column("trained_patterns")?, column("homeostatic_factor")?, column("fired_words_hex")?);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.with_context(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let bad = |what: &str| format!("{}, line {line}: {what}", path.display());
        let cell = |at: usize| record.get(at).unwrap_or("");
        let patterns: Result<Vec<u16>, _> = cell(trained).split('+').map(str::parse).collect();
        let patterns = patterns.ok().filter(|p| p.iter().all(|&w| w < WORDS));
        let bits: Option<Vec<bool>> = cell(fired)
            .chars()
            .map(|c| c.to_digit(16))
            .collect::<Option<Vec<u32>>>()
            .map(|digits| digits.iter().flat_map(|d| (0..4).rev().map(move |bit| d >> bit & 1 == 1)).collect());
        rows.push(Decisions {
            name: cell(trained).into(),
            patterns: patterns.with_context(|| bad("trained_patterns holds something other than ten-bit words"))?,
            factor: cell(factor).parse().with_context(|| bad("homeostatic_factor is not a number"))?,
            fired: bits
                .filter(|b| b.len() == WORDS as usize)
                .with_context(|| bad(&format!("fired_words_hex does not have {} hexadecimal digits", WORDS / 4)))?,
        });
    }
    if rows.is_empty() {
        bail!("{}: the file has no rows", path.display());
    }
    Ok(rows)
}

fn compare(path: &Path) -> Result<Exit> {
    let (layout, words) = words();
    let (mut compared, mut ties, mut tied_alike, mut different, mut otherwise, mut alike) = (0, 0, 0, 0, 0, 0);
    let mut factors = Vec::new();
    let rows = decisions(path)?;
    for row in &rows {
        let patterns: Vec<_> = row.patterns.iter().map(|&p| words[p as usize].clone()).collect();
        let neuron = OneShot::train(&layout, &patterns);
        let machine = SpinnakerNeuron::new(&neuron);
        let overflowed = row.factor > OVERFLOW;
        let found = machine.factor(&patterns, if overflowed { WIDE } else { OVERFLOW });
        alike += usize::from(found.is_some_and(|f| (f - row.factor).abs() < 5e-6));
        otherwise += words.iter().zip(&row.fired).filter(|(active, fired)| machine.fires(active, row.factor) != **fired).count();
        if overflowed {
            say!(
                "{}: factor {:.5}: the machine's potentials overflowed; real arithmetic can't be compared",
                row.name,
                row.factor
            );
            continue;
        }
        if let Some(factor) = neuron.factor() {
            factors.push((row.factor / factor - 1.0).abs());
        }
        for (word, (active, &fired)) in words.iter().zip(&row.fired).enumerate() {
            compared += 1;
            if Some(neuron.potential(active)) == neuron.theta() {
                ties += 1;
                tied_alike += usize::from(neuron.fires(active) == fired);
            } else if neuron.fires(active) != fired {
                different += 1;
                say!("{}: word {word}: {} there, {} here", row.name, fired_text(fired), fired_text(!fired));
            }
        }
    }
    factors.sort_by(f64::total_cmp);
    let (median, largest) = (factors.get(factors.len() / 2), factors.last());
    say!("\nin real arithmetic");
    say!("{:<58} {compared}", "words compared");
    say!("{:<58} {different}", "decided differently, ties excluded");
    say!("{:<58} {ties}", "exact ties");
    say!("{:<58} {tied_alike}", "  decided equally if a tie fires");
    say!("{:<58} {:.5}", "homeostatic factor: relative difference, median", median.unwrap_or(&0.0));
    say!("{:<58} {:.5}", "homeostatic factor: relative difference, largest", largest.unwrap_or(&0.0));
    say!("\nin the machine's fixed point, ties and overflow included");
    say!("{:<58} {}", "words compared", rows.len() * words.len());
    say!("{:<58} {otherwise}", "decided differently");
    say!("{:<58} {alike} of {}", "homeostatic factor found by its search, to five decimals", rows.len());
    Ok(if different == 0 { Exit::Ok } else { Exit::Partly })
}

fn fired_text(fired: bool) -> &'static str {
    if fired { "fired" } else { "silent" }
}
