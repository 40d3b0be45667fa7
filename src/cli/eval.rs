//! `spiked eval`: accuracy of a model on labelled captures, or of training in cross-validation.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::evaluate::{self, EvaluatedNetwork, Evaluation, Report};
use crate::model::Model;
use crate::train::{self, Corpus, PortVariants};

use super::train::{Choices, Source, same_kind};
use super::{Exit, mask, progress};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Split {
    /// Splits by capture: the figure to expect on other captures
    Capture,
    /// Splits by stream
    Stream,
}

/// Measures a model on labelled captures, or training by cross-validation
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked eval --model mine.safetensors --labels test.csv --captures captures/\n  \
    spiked eval --model mine.safetensors --labels test.csv --captures captures/ --mask ports\n  \
    spiked eval --cross-validate 5 --split-by capture --labels all.csv --captures captures/\n  \
    spiked eval --cross-validate 5 --streams-per-class 2 --repeats 5 --labels all.csv --captures captures/\n  \
    spiked eval --cross-validate 5 --unseen-classes --labels all.csv --captures captures/")]
pub struct Args {
    /// Model file
    #[arg(long, short, value_name = "FILE", required_unless_present = "cross_validate", conflicts_with = "cross_validate")]
    model: Option<PathBuf>,
    /// Trains on all folds but one and tests on the remaining one, K times
    #[arg(long, value_name = "K")]
    cross_validate: Option<usize>,
    /// What the folds are made of
    #[arg(long, value_enum, default_value = "capture")]
    split_by: Split,
    /// Excludes one in K classes from training in each fold: measures how well unknown traffic is recognised as unknown
    #[arg(long, requires = "cross_validate")]
    unseen_classes: bool,
    /// Trains on at most N streams per class in each fold, drawn by the seed: measures what a few examples achieve
    #[arg(long, value_name = "N", requires = "cross_validate", value_parser = clap::value_parser!(u32).range(1..))]
    streams_per_class: Option<u32>,
    /// Repeats with R seeds, starting at --seed; figures cover all repeats (intervals treat each repeat as new streams)
    #[arg(long, value_name = "R", requires = "cross_validate", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choices: Choices,
    /// Masks these slots when testing: a group or a field, as in `spiked read --mask`
    #[arg(long, value_name = "SLOTS", value_delimiter = ',')]
    mask: Vec<String>,
    /// Prints all figures as one JSON object
    #[arg(long)]
    json: bool,
}

/// Refuses more folds than there are captures or streams to split.
fn check_folds(folds: usize, split_by: Split, corpus: &Corpus) -> Result<()> {
    let (count, what) = match split_by {
        Split::Capture => {
            (corpus.streams.iter().map(|stream| stream.capture).collect::<HashSet<_>>().len(), "captures with labelled streams")
        }
        Split::Stream => (corpus.streams.len(), "labelled streams"),
    };
    if folds > count {
        bail!("--cross-validate {folds}: there are only {count} {what} to split");
    }
    Ok(())
}

/// Seed of the ports that the streams get in place of their own.
const VARIANT_SEED: u64 = 1;

pub fn run(args: &Args) -> Result<Exit> {
    let labels = args.source.read_labels()?;
    let evaluation = match (&args.model, args.cross_validate) {
        (Some(path), _) => {
            let mut model = Model::open(path)?;
            same_kind(&model, &labels, path)?;
            mask(&mut model.layout, &args.mask)?;
            let packets = model.decision.max_packets as usize;
            let (corpus, _) = args.source.gather(&labels, model.layout.clone(), packets)?;
            let known = |label: &str| model.classes.iter().any(|c| c == label);
            let all: Vec<usize> = (0..corpus.streams.len()).collect();
            let variants = PortVariants::new(&corpus, VARIANT_SEED);
            let Model { network, decision, classes, layout, .. } = &model;
            EvaluatedNetwork { corpus: &corpus, network, decision, classes, layout, known: &known }
                .evaluate(&all, Some(&variants))
        }
        (None, Some(folds)) => {
            if folds < 2 {
                bail!("--cross-validate {folds}: at least 2 folds are needed");
            }
            let settings = args.choices.settings(labels.key)?;
            let (corpus, _) = args.source.gather(&labels, args.choices.layout(labels.key)?, settings.packets_per_stream)?;
            check_folds(folds, args.split_by, &corpus)?;
            let mut layout = corpus.layout.clone();
            mask(&mut layout, &args.mask)?;
            let all: Vec<usize> = (0..corpus.streams.len()).collect();
            let steps = u64::from(args.repeats) * folds as u64 * train::passes(&corpus, &settings);
            let bar = progress(args.source.quiet, steps, "training");
            let variants = PortVariants::new(&corpus, VARIANT_SEED);
            let mut evaluation = Evaluation::default();
            for round in 0..u64::from(args.repeats) {
                let settings = train::TrainSettings { seed: settings.seed + round, ..settings.clone() };
                let fold_of = match args.split_by {
                    Split::Capture => train::folds(&corpus, &all, folds, settings.seed, true),
                    Split::Stream => train::folds_by_stream(&corpus, folds, settings.seed),
                };
                let streams_per_class = args.streams_per_class.map(|n| n as usize);
                let split = evaluate::Split { folds, fold_of, unseen_classes: args.unseen_classes, streams_per_class };
                let tick = || bar.inc(1);
                evaluation.extend(evaluate::cross_validate_on_ports(&corpus, &settings, &layout, &split, Some(&variants), &tick));
            }
            bar.finish_and_clear();
            evaluation
        }
        (None, None) => bail!("give --model FILE or --cross-validate K"),
    };
    let report = Report::of(&evaluation);
    if report.has_no_known_class() {
        eprintln!(
            "spiked: no stream is of a class that was trained, so only false alarms are measured; `spiked model show` lists a model's \
             classes, --rename gives labels their names"
        );
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        say!("{}", report.to_string().trim_end());
    }
    Ok(Exit::Ok)
}
