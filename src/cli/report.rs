//! `spiked report`: a model as a page for people.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use crate::capture::CaptureFile;
use crate::evaluate::{self, hear};
use crate::model::Model;
use crate::report::{self, Measurements, Raster};
use crate::train::TrainSettings;

use super::train::{Source, same_kind};
use super::{Exit, OutputError, progress};

/// Writes a page that shows what a model learned and how good it is
#[derive(ClapArgs)]
#[command(
    after_help = "The page is one file without scripts: figures with confidence intervals, curves, confusions, what each class rests on, \
    every neuron's receptive field. Without --labels it shows what the model alone tells.\n\n\
    Examples:\n  \
    spiked report --model mine.safetensors --out report.html\n  \
    spiked report --model mine.safetensors --labels test.csv --captures captures/ --out report.html\n  \
    spiked report --raster strange.pcap --out report.html      packet by packet, with the built-in model"
)]
pub struct Args {
    /// Model file [default: the built-in protocols model]
    #[arg(long, short, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Draw the spikes of this capture's first packets
    #[arg(long, value_name = "CAPTURE")]
    raster: Option<PathBuf>,
    /// Train new networks on few streams of the labelled captures and draw how well they do on the other captures: takes a while
    #[arg(long)]
    learning_curve: bool,
    /// Seed of the bootstrap and of the learning curve
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Page to write
    #[arg(long, short, value_name = "HTML", default_value = "report.html")]
    out: PathBuf,
}

/// Packets that are heard for a raster.
const HEARD: usize = 2000;

pub fn run(args: &Args) -> Result<Exit> {
    let model = match &args.model {
        Some(path) => Model::load(path)?,
        None => Model::built_in()?,
    };
    let mut exit = Exit::Ok;
    let measured = if args.source.is_given() {
        let (measured, all) = measure(args, &model)?;
        if !all {
            exit = Exit::Partly;
        }
        Some(measured)
    } else if args.learning_curve {
        bail!("--learning-curve needs labelled captures: give --labels CSV and --captures DIR");
    } else {
        None
    };
    let mut heard = None;
    if let Some(path) = &args.raster {
        let mut file = CaptureFile::open(path)?;
        heard = Some(hear(&model, &mut file, &args.source.decoder(), HEARD)?);
        if let Some(cut) = file.cut() {
            eprintln!("spiked: {}: {cut}; what is before the cut is drawn", path.display());
            exit = Exit::Partly;
        }
    }
    let raster = args.raster.as_ref().zip(heard.as_ref()).map(|(path, heard)| {
        let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Raster::new(&model, name, heard)
    });
    let page = report::page(&model, measured.as_ref(), raster.as_ref());
    std::fs::write(&args.out, &page).with_context(|| OutputError::to(&args.out, "the page"))?;
    if !args.source.quiet {
        say!("written: {}, {} kB", args.out.display(), page.len().div_ceil(1000));
    }
    Ok(exit)
}

/// Scores the labelled captures; also says whether all labels could be used.
fn measure(args: &Args, model: &Model) -> Result<(Measurements, bool)> {
    let labels = args.source.read_labels()?;
    same_kind(model, &labels, args.model.as_deref().unwrap_or("the built-in model".as_ref()))?;
    let settings = TrainSettings::new(labels.key, args.seed);
    let packets = (model.decision.give_up as usize).max(settings.packets_per_stream);
    let (corpus, gathered) = args.source.gather(&labels, model.layout.clone(), packets)?;
    let learning = if args.learning_curve {
        let bar = progress(args.source.quiet, evaluate::learning_passes(&corpus, &settings), "learning curve");
        let curve = evaluate::learning_curve(&corpus, &settings, &|| bar.inc(1));
        bar.finish_and_clear();
        curve
    } else {
        Vec::new()
    };
    Ok((Measurements::new(model, &corpus, args.source.label_names(), learning, args.seed), gathered.is_whole()))
}
