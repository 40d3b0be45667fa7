//! `spiked eval`: how good a model is on labelled captures, or a way of training in cross-validation.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::evaluate::{self, Report};
use crate::model::Model;
use crate::train;

use super::train::{Choices, Source, same_kind};
use super::{Exit, progress, silence};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Split {
    /// Captures are dealt into folds: the honest figure
    Capture,
    /// Streams are dealt into folds
    Stream,
}

/// Measures a model on labelled captures, or training in cross-validation
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked eval --model mine.safetensors --labels test.csv --captures captures/\n  \
    spiked eval --model mine.safetensors --labels test.csv --captures captures/ --without ports\n  \
    spiked eval --cross-validate 5 --by capture --labels all.csv --captures captures/\n  \
    spiked eval --cross-validate 5 --streams-per-class 2 --rounds 5 --labels all.csv --captures captures/\n  \
    spiked eval --cross-validate 5 --untaught --labels all.csv --captures captures/")]
pub struct Args {
    /// Model file to measure
    #[arg(long, short, value_name = "FILE", required_unless_present = "cross_validate", conflicts_with = "cross_validate")]
    model: Option<PathBuf>,
    /// Train on all folds but one and test on that, K times
    #[arg(long, value_name = "K")]
    cross_validate: Option<usize>,
    /// What is dealt into folds
    #[arg(long, value_enum, default_value = "capture")]
    by: Split,
    /// In each fold, never teach one in K of the classes: how well unknown traffic is told
    #[arg(long, requires = "cross_validate")]
    untaught: bool,
    /// In each fold, teach at most N streams of each class, drawn by the seed: what a handful of examples does
    #[arg(long, value_name = "N", requires = "cross_validate", value_parser = clap::value_parser!(u32).range(1..))]
    streams_per_class: Option<u32>,
    /// Repeat with R seeds, beginning with --seed; the figures are over all rounds (their intervals take each for new streams)
    #[arg(long, value_name = "R", requires = "cross_validate", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choices: Choices,
    /// Silence these slots when testing
    #[arg(long, value_name = "SLOTS", value_delimiter = ',')]
    without: Vec<String>,
    /// All figures as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    let labels = args.source.read_labels()?;
    let outcomes = match (&args.model, args.cross_validate) {
        (Some(path), _) => {
            let mut model = Model::load(path)?;
            same_kind(&model, &labels, path)?;
            silence(&mut model.layout, &args.without)?;
            let packets = model.decision.give_up as usize;
            let (corpus, _) = args.source.gather(&labels, model.layout.clone(), packets)?;
            let known = |label: &str| model.classes.iter().any(|c| c == label);
            let all = 0..corpus.streams.len();
            evaluate::outcomes(&corpus, &model.network, &model.decision, &model.classes, &model.layout, &known, all)
        }
        (None, Some(folds)) => {
            if folds < 2 {
                bail!("--cross-validate {folds}: at least 2 folds are needed");
            }
            let settings = args.choices.settings(labels.key)?;
            let (corpus, _) = args.source.gather(&labels, args.choices.layout(labels.key)?, settings.packets_per_stream)?;
            let mut layout = corpus.layout.clone();
            silence(&mut layout, &args.without)?;
            let all: Vec<usize> = (0..corpus.streams.len()).collect();
            let steps = u64::from(args.rounds) * folds as u64 * train::passes(&corpus, &settings);
            let bar = progress(args.source.quiet, steps, "training");
            let mut outcomes = Vec::new();
            for round in 0..u64::from(args.rounds) {
                let settings = train::TrainSettings { seed: settings.seed + round, ..settings.clone() };
                let fold_of = match args.by {
                    Split::Capture => train::folds(&corpus, &all, folds, settings.seed, true),
                    Split::Stream => train::folds_by_stream(&corpus, folds, settings.seed),
                };
                let streams_per_class = args.streams_per_class.map(|n| n as usize);
                let split = evaluate::Split { folds, fold_of, untaught: args.untaught, streams_per_class };
                outcomes.extend(evaluate::cross_validate(&corpus, &settings, &layout, &split, &|| bar.inc(1)));
            }
            bar.finish_and_clear();
            outcomes
        }
        (None, None) => bail!("give --model FILE or --cross-validate K"),
    };
    let report = Report::new(&outcomes);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        say!("{}", report.to_string().trim_end());
    }
    Ok(Exit::Ok)
}
