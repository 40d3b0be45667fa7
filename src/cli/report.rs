//! `spiked report`: an HTML page about a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use crate::evaluate::{self, EpisodeTrace, StreamTrace, trace_episodes, trace_streams};
use crate::model::Model;
use crate::report::{self, Measurements, Raster};
use crate::train::TrainSettings;

use super::intake::is_file;
use super::train::{Source, same_kind};
use super::{Exit, OutputError, progress};

/// Writes an HTML page that shows what a model learned and how well it classifies
#[derive(ClapArgs)]
#[command(
    after_help = "The page is a single file without scripts: figures with confidence intervals, curves, confusions, the fields that each class \
    relies on, and every neuron's receptive field. Without --labels it shows only what the model file holds.\n\n\
    With a model that has episodes, --raster also shows the neurons of hosts over the whole capture: their potentials, spikes and episodes.\n\n\
    Examples:\n  \
    spiked report --model mine.safetensors --out report.html\n  \
    spiked report --model mine.safetensors --labels test.csv --captures captures/ --out report.html\n  \
    spiked report --raster strange.pcap --out report.html      packet by packet, with the built-in model\n  \
    spiked report --model behaviours --raster attack.pcap --out attack.html      also the episodes of its hosts"
)]
pub struct Args {
    /// Model file [default: the built-in protocols model]
    #[arg(long, short, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Draws the spikes of this capture's first packets, and the episodes of the whole capture if the model has any
    #[arg(long, value_name = "CAPTURE")]
    raster: Option<PathBuf>,
    /// Trains networks on a few streams of the labelled captures and plots their accuracy on the other captures; slow
    #[arg(long)]
    learning_curve: bool,
    /// Seed of the bootstrap and of the learning curve
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Output file
    #[arg(long, short, value_name = "HTML", default_value = "report.html")]
    out: PathBuf,
}

/// Packets classified for a raster.
const RASTER_PACKETS: usize = 2000;

pub fn run(args: &Args) -> Result<Exit> {
    let model = match &args.model {
        Some(path) => Model::open(path)?,
        None => Model::built_in()?,
    };
    let model = Arc::new(model);
    let mut exit = Exit::Ok;
    let measurements = if args.source.is_given() {
        let (measurements, all) = measure(args, &model)?;
        if !all {
            exit = Exit::Partly;
        }
        Some(measurements)
    } else if args.learning_curve {
        bail!("--learning-curve needs labelled captures: give --labels CSV and --captures DIR");
    } else {
        None
    };
    let traces = args.raster.as_ref().map(|path| CaptureTraces::new(args, &model, path)).transpose()?;
    if traces.as_ref().is_some_and(|traces| traces.cut) {
        exit = Exit::Partly;
    }
    let raster = traces.as_ref().map(|traces| traces.raster(&model));
    let page = report::page(&model, measurements.as_ref(), raster.as_ref());
    std::fs::write(&args.out, &page).with_context(|| OutputError::to(&args.out, "the page"))?;
    if !args.source.quiet {
        say!("written: {}, {} kB", args.out.display(), page.len().div_ceil(1000));
    }
    Ok(exit)
}

/// What a raster is drawn of.
struct CaptureTraces {
    name: String,
    /// Streams of the first packets.
    streams: Vec<StreamTrace>,
    /// Episodes of the whole capture, if the model has any.
    episodes: Option<EpisodeTrace>,
    /// Whether the capture is cut before the last of these.
    cut: bool,
}

impl CaptureTraces {
    fn new(args: &Args, model: &Arc<Model>, path: &Path) -> Result<Self> {
        let intake = args.source.intake.intake()?;
        let mut file = intake.source(path)?;
        let streams = trace_streams(model, &mut file, &intake, RASTER_PACKETS)?;
        let mut episodes = None;
        if !model.episodes.is_empty() && is_file(path) {
            file = intake.source(path)?;
            episodes = Some(trace_episodes(model, &mut file, &intake)?);
        } else if !model.episodes.is_empty() {
            eprintln!("spiked: {}: can't be read twice, so its episodes are not drawn", path.display());
        }
        let cut = file.source().truncation();
        if let Some(cut) = cut {
            eprintln!("spiked: {}: {cut}; packets before the cut are drawn", path.display());
        }
        let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, streams, episodes, cut: cut.is_some() })
    }

    fn raster<'a>(&'a self, model: &'a Model) -> Raster<'a> {
        Raster::new(model, self.name.clone(), &self.streams, self.episodes.as_ref())
    }
}

/// Scores the labelled captures. The second value is whether all labels could be used.
fn measure(args: &Args, model: &Model) -> Result<(Measurements, bool)> {
    let labels = args.source.read_labels()?;
    same_kind(model, &labels, args.model.as_deref().unwrap_or("the built-in model".as_ref()))?;
    let settings = TrainSettings::new(labels.key, args.seed);
    let packets = (model.decision.max_packets as usize).max(settings.packets_per_stream);
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
