//! `spiked volleys`: the labelled packets as the network sees them, for comparison with other classifiers.

use std::io::{self, BufWriter};

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::encode::SILENT;
use crate::train;

use super::Exit;
use super::train::{Choices, Source};

/// Writes the labelled packets as slot values, one CSV line a packet
#[derive(ClapArgs)]
#[command(after_help = "Columns: stream, class, fold (by capture), then a column a slot, empty where it is silent.\n\
    benches/baselines.py trains other classifiers on it.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choices: Choices,
    /// Folds that captures are dealt into, as `spiked eval --cross-validate` does
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
}

pub fn run(args: &Args) -> Result<Exit> {
    let labels = args.source.read_labels()?;
    let settings = args.choices.settings(labels.key)?;
    let (corpus, _) = args.source.gather(&labels, args.choices.layout(labels.key)?, settings.packets_per_stream)?;
    let all: Vec<usize> = (0..corpus.streams.len()).collect();
    let fold_of = train::folds(&corpus, &all, args.folds.max(1), settings.seed, true);
    let mut out = csv::Writer::from_writer(BufWriter::new(io::stdout().lock()));
    let slots = corpus.layout.slots().iter().map(|s| s.name.as_str());
    out.write_record(["stream", "class", "fold"].into_iter().chain(slots))?;
    for (number, stream) in corpus.streams.iter().enumerate() {
        let fold = fold_of[number].map_or_else(String::new, |f| f.to_string());
        for volley in stream.first..stream.first + stream.kept {
            let values = corpus.volley(volley).iter().map(|&v| if v == SILENT { String::new() } else { v.to_string() });
            let lead = [number.to_string(), corpus.classes[stream.class as usize].clone(), fold.clone()];
            out.write_record(lead.into_iter().chain(values))?;
        }
    }
    out.flush()?;
    Ok(Exit::Fine)
}
