//! `spiked features`: labelled packets as the network sees them, for comparison with other classifiers.

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::encode::SILENT;
use crate::model::Model;
use crate::train;

use super::Exit;
use super::train::{Encoding, Source};

/// Writes labelled packets as slot values, one CSV line per packet
#[derive(ClapArgs)]
#[command(after_help = "Columns: stream, class, fold (by capture), then one column per slot, empty where the slot is silent.\n\
    benches/baselines.py trains other classifiers on it.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    encoding: Encoding,
    /// Number of folds that captures are split into, as `spiked eval --cross-validate` does
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
    /// Writes this model's active inputs and the neurons that spiked instead of slot values: the reference for exported networks
    #[arg(long, value_name = "MODEL")]
    spikes: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Exit> {
    let labels = args.source.read_labels()?;
    if let Some(model) = &args.spikes {
        return spikes(args, &labels, model);
    }
    let settings = args.encoding.settings(labels.key)?;
    let (corpus, _) = args.source.gather(&labels, args.encoding.layout(labels.key)?, settings.packets_per_stream)?;
    let all: Vec<usize> = (0..corpus.streams.len()).collect();
    let fold_of = train::folds(&corpus, &all, args.folds.max(1), settings.seed, true);
    let mut out = csv::Writer::from_writer(BufWriter::new(io::stdout().lock()));
    let slots = corpus.layout.slots().iter().map(|s| s.name.as_str());
    out.write_record(["stream", "class", "fold"].into_iter().chain(slots))?;
    for (number, stream) in corpus.streams.iter().enumerate() {
        let fold = fold_of[number].map_or_else(String::new, |f| f.to_string());
        for volley in stream.first..stream.first + stream.kept {
            let values = corpus.volley(volley).iter().map(|&v| if v == SILENT { String::new() } else { v.to_string() });
            let lead = [number.to_string(), corpus.classes[stream.class.index()].clone(), fold.clone()];
            out.write_record(lead.into_iter().chain(values))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// One line per packet: stream, class, active inputs, neurons that spiked; numbers are separated by spaces.
fn spikes(args: &Args, labels: &train::labels::Labels, model: &Path) -> Result<Exit> {
    let model = Model::open(model)?;
    let packets = args.encoding.settings(labels.key)?.packets_per_stream;
    let (corpus, _) = args.source.gather(labels, model.layout.clone(), packets)?;
    let mut out = csv::Writer::from_writer(BufWriter::new(io::stdout().lock()));
    out.write_record(["stream", "class", "inputs", "spikes"])?;
    let mut classifier = model.classifier();
    for (number, stream) in corpus.streams.iter().enumerate() {
        for index in stream.first..stream.first + stream.kept {
            let spiked = classifier.spikes(corpus.volley(index));
            let spiked: Vec<String> = spiked.into_iter().map(|neuron| neuron.index().to_string()).collect();
            let inputs: Vec<String> = classifier.inputs().iter().map(u32::to_string).collect();
            let class = corpus.classes[stream.class.index()].clone();
            out.write_record([number.to_string(), class, inputs.join(" "), spiked.join(" ")])?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
