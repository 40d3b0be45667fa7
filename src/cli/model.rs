//! `spiked model`: inspects and edits model files.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use crate::capture::printable;
use crate::evaluate::{self, Claims, Contribution, StreamTrace, contributions, trace_streams};
use crate::model::{ClassSources, Model};
use crate::packet::KeyKind;
use crate::snn::ClassId;
use crate::stream::{Intake, Leader};
use crate::train::{self, Corpus, GatherReport, LabelledFile, TrainSettings};

use super::harm::write_checked;
use super::intake::IntakeOptions;
use super::train::{Source, same_kind};
use super::{Exit, progress, report_unused};

/// Inspects and edits model files
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked model list\n  \
    spiked model show protocols\n  \
    spiked model explain mine.safetensors capture.pcap 10.0.0.1:5432\n  \
    spiked model join mine.safetensors theirs.safetensors --out both.safetensors\n  \
    spiked model remove mine.safetensors telnet --out less.safetensors")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(ClapArgs)]
struct Retrain {
    /// Model file, or the name of a built-in model
    file: PathBuf,
    /// Class to retrain
    #[arg(value_name = "CLASS")]
    which: String,
    #[command(flatten)]
    source: Source,
    /// Random seed [default: the one that the model was trained with]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Model file to write [default: replaces the model file; required for a built-in model]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes the model even if it claims streams of other classes of the built-in reference
    #[arg(long)]
    force: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the built-in models: what they classify, and their number of classes
    List,
    /// Shows a model's classes, thresholds and provenance
    Show {
        /// Model file, or the name of a built-in model
        file: PathBuf,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Joins the classes of two models into one
    ///
    /// With captures (--reference), confidence and acceptance are recalibrated to agree with the classifications of the two models
    /// alone. With labelled captures that neither model was trained on (--labels, --captures), they are calibrated on the labels.
    /// Otherwise each class keeps its acceptance threshold, and the weights that turn evidence into confidence are averaged.
    Join {
        /// Model file, or the name of a built-in model
        a: PathBuf,
        /// Model file of the same layout
        b: PathBuf,
        /// Model file to write
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
        /// Unlabelled captures of the traffic that the model will classify
        #[arg(long, value_name = "CAPTURE", num_args = 1.., conflicts_with_all = ["labels", "class"])]
        reference: Vec<PathBuf>,
        #[command(flatten)]
        labelled: Source,
        /// Writes the model even if a class claims, or silences, streams of other classes of the built-in reference
        #[arg(long)]
        force: bool,
    },
    /// Retrains one class's neurons
    ///
    /// The labelled captures must hold the class and other classes to distinguish it from, such as the model's training captures. The
    /// result is what `train` would make of them; the acceptance threshold is set on held-out streams. Everything else in the model
    /// stays bit for bit the same; `model calibrate` recalibrates confidence.
    Retrain(Retrain),
    /// Recalibrates confidence and acceptance on labelled captures that the model was not trained on
    ///
    /// Raises the threshold of hyperactive neurons (those that claim twenty or more streams of other classes and fewer of their own) until
    /// they no longer do so. A class that then claims none of its streams in the reference is removed. Streams of classes that the
    /// model lacks are useful: they show how often it names unknown traffic.
    Calibrate {
        /// Model file, or the name of a built-in model
        file: PathBuf,
        #[command(flatten)]
        reference: Source,
        /// Model file to write [default: replaces the model file; required for a built-in model]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Removes classes from a model
    Remove {
        /// Model file, or the name of a built-in model
        file: PathBuf,
        /// Classes to remove
        #[arg(required = true)]
        classes: Vec<String>,
        /// Model file to write
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Exports the network for other simulators
    Export {
        /// Model file, or the name of a built-in model
        file: PathBuf,
        /// NIR graph to write (HDF5): Input, Affine, LIF, Output; one step from rest is one packet
        #[arg(long, value_name = "H5")]
        nir: PathBuf,
    },
    /// Shows which header and payload bytes drive the nearest class's neuron, stream by stream
    ///
    /// Potential: what a field adds to the potential of that neuron, the mean of the packets that the evidence comes from. Lead: the same
    /// minus what the field adds to the potential of the next class's neuron. Fields joined by & have an input for their values together.
    Explain {
        /// Model file, or the name of a built-in model
        file: PathBuf,
        /// Capture
        capture: PathBuf,
        /// Only streams with these words: an address, a port (":5432"), a protocol, or both ends as `spiked read --unknown` prints them
        stream: Option<String>,
        /// Maximum number of streams
        #[arg(long, value_name = "N", default_value = "3")]
        most: NonZeroUsize,
        /// Number of fields per stream
        #[arg(long, value_name = "N", default_value_t = 12)]
        fields: usize,
        #[command(flatten)]
        intake: IntakeOptions,
    },
}

pub fn run(args: &Args) -> Result<Exit> {
    match &args.command {
        Command::List => list(),
        Command::Show { file, json } => show(&Model::open(file)?, *json),
        Command::Join { a, b, out, reference, labelled, force } => {
            let (a, b) = (Model::open(a)?, Model::open(b)?);
            let joined = a.join(&b)?;
            let checked = |joined: &Model| write_checked(&[&a, &b], joined, out, *force);
            if labelled.is_given() {
                return recalibrate(joined, labelled, out, checked);
            }
            if !reference.is_empty() {
                let (joined, gathered) = agree(joined, [&a, &b], reference, &labelled.intake.intake()?)?;
                checked(&joined)?;
                return Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly });
            }
            if let Some((holds, other)) = a.differing_bounds(&b) {
                say!(
                    "{0} and {1} limit a packet's evidence differently; {0}'s limits are used, so the confidence of {1}'s classes may be off: recalibrate with --reference or --labels",
                    holds.name,
                    other.name
                );
            }
            checked(&joined)?;
            Ok(Exit::Ok)
        }
        Command::Retrain(args) => retrain(args),
        Command::Calibrate { file, reference, out } => {
            let out = target(out.as_deref(), file)?;
            recalibrate(Model::open(file)?, reference, out, |model| write(model, out).map(drop))
        }
        Command::Remove { file, classes, out } => write(&Model::open(file)?.without_classes(classes)?, out),
        Command::Export { file, nir } => export(&Model::open(file)?, nir),
        Command::Explain { file, capture, stream, most, fields, intake } => {
            explain(&Model::open(file)?, capture, stream.as_deref(), [most.get(), *fields], &intake.intake()?)
        }
    }
}

fn write(model: &Model, out: &Path) -> Result<Exit> {
    model.save(out)?;
    say!("written: {}, {} classes", out.display(), model.classes.len());
    Ok(Exit::Ok)
}

/// Writes a model with its confidence and acceptance calibrated on a labelled reference. `out` is the file that `write` writes.
fn recalibrate(mut model: Model, reference: &Source, out: &Path, write: impl FnOnce(&Model) -> Result<()>) -> Result<Exit> {
    let settings = settings_of(&model, model.provenance.seed);
    let (mut corpus, gathered) = gather(&model, reference, &settings, out)?;
    model = without_hyperactive(model, &corpus)?;
    model.decision = train::recalibrate(&model, &mut corpus, &settings);
    model.provenance.reference = reference.label_names();
    let unseen = corpus.classes.len() - model.classes.len();
    say!(
        "confidence and acceptance calibrated on {} reference streams; {unseen} of their classes are not in the model",
        corpus.streams.len()
    );
    write(&model)?;
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

/// A joined model with its confidence and acceptance calibrated on unlabelled captures, and what could not be used of these.
fn agree(mut joined: Model, parts: [&Model; 2], captures: &[PathBuf], intake: &Intake) -> Result<(Model, GatherReport)> {
    let settings = settings_of(&joined, joined.provenance.seed);
    let mut reference = Corpus::new(joined.key, joined.layout.clone(), joined.classes.clone());
    let (names, mut gathered): (Vec<String>, _) =
        (captures.iter().map(|c| c.display().to_string()).collect(), GatherReport::default());
    for name in &names {
        let file = LabelledFile { folder: Path::new(""), capture: name, filter: None };
        let (packets, every) = (settings.packets_per_stream, &mut |_: &_, _| Some(ClassId::new(0)));
        if let Err(error) = reference.read_file(&file, packets, intake, &mut gathered, every) {
            gathered.unreadable.push(error.to_string());
        }
    }
    report_unused("captures could not be read; the rest is used", &gathered.unreadable);
    report_unused("captures are cut short; packets before the cut are used", &gathered.cut);
    if reference.streams.is_empty() {
        bail!("the reference has no {} streams", if joined.key == KeyKind::Host { "host" } else { "packet" });
    }
    joined.decision = train::calibrate_joined(&joined, parts, &reference, &settings);
    joined.provenance.reference = names;
    say!(
        "confidence and acceptance calibrated on the two models' classifications of {} reference streams",
        reference.streams.len()
    );
    Ok((joined, gathered))
}

/// Raises the thresholds of hyperactive neurons, or removes their classes, and reports each.
fn without_hyperactive(mut model: Model, reference: &Corpus) -> Result<Model> {
    let claims = |n: Claims| format!("{} streams, {} of them its own", n.streams(), n.positive);
    let mut silenced = Vec::new();
    for found in evaluate::hyperactive(&model, reference) {
        let (class, before) = (&found.name, claims(found.before));
        if let Some((by, after)) = found.quiet {
            let first = found.class.index();
            let was = model.decision.theta[first];
            model.decision.raise(found.class, by);
            let theta = model.decision.theta[first];
            say!("{class}: hyperactive, claims {before}; threshold {was:.2} raised to {theta:.2}: claims {}", claims(after));
        } else {
            say!("{class}: hyperactive, claims {before}; removed: no threshold leaves it any of its own");
            silenced.push(found.name);
        }
    }
    Ok(if silenced.is_empty() { model } else { model.without_classes(&silenced)? })
}

fn retrain(args: &Retrain) -> Result<Exit> {
    let out = target(args.out.as_deref(), &args.file)?;
    let model = Model::open(&args.file)?;
    let class = model.place(&args.which)?;
    let neurons = model.decision.assignments.neurons_of(class).count();
    if neurons > 2 {
        bail!(
            "'{0}' has {neurons} neurons, each of one packet; remove it with `spiked model remove`, then `spiked learn --labels`",
            args.which
        );
    }
    let settings = settings_of(&model, args.seed.unwrap_or(model.provenance.seed));
    let (mut corpus, gathered) = gather(&model, &args.source, &settings, &args.file)?;
    let Some(own) = corpus.classes.iter().position(|c| *c == args.which).map(ClassId::from_index) else {
        bail!("no labelled stream is of the class '{}'", args.which);
    };
    if corpus.classes.len() < 2 {
        bail!("all labelled streams are of the class '{}'; training needs streams of other classes too", args.which);
    }
    let (streams, packets) = corpus.shown(own);
    let sources = ClassSources { streams, packets, labels: args.source.label_names(), captures: corpus.captures.len() };
    let steps = u64::from(settings.rule.passes) * (settings.folds as u64 + 1);
    let bar = progress(args.source.quiet, steps, "training");
    let (neurons, (theta, accept)) = train::retrain(&model, &mut corpus, class, &settings, &|| bar.inc(1));
    bar.finish_and_clear();
    let retrained = model.with_neurons(&args.which, &neurons, (&theta, accept), sources)?;
    say!("{}: trained on {streams} streams, {packets} packets", args.which);
    write_checked(&[&model], &retrained, out, args.force)?;
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

/// The file to write, which can be written: `out`, or the model file itself. A built-in model has none.
fn target<'a>(out: Option<&'a Path>, file: &'a Path) -> Result<&'a Path> {
    if out.is_none() && Model::is_built_in(file) {
        bail!("{} is built in; name the file to write with --out", file.display());
    }
    let target = out.unwrap_or(file);
    Model::check_writable(target)?;
    Ok(target)
}

/// The training settings recorded in a model.
fn settings_of(model: &Model, seed: u64) -> TrainSettings {
    TrainSettings { packets_per_stream: model.decision.max_packets as usize, ..TrainSettings::new(model.key, seed) }
}

/// Labelled streams, encoded with the model's layout.
fn gather(model: &Model, source: &Source, settings: &TrainSettings, file: &Path) -> Result<(Corpus, GatherReport)> {
    let labels = source.read_labels()?;
    same_kind(model, &labels, file)?;
    source.gather(&labels, model.layout.clone(), settings.packets_per_stream)
}

#[cfg(feature = "nir")]
fn export(model: &Model, nir: &Path) -> Result<Exit> {
    model.save_nir(nir)?;
    say!("written: {}, {} neurons over {} inputs", nir.display(), model.network.neurons(), model.network.inputs());
    Ok(Exit::Ok)
}

#[cfg(not(feature = "nir"))]
fn export(_: &Model, _: &Path) -> Result<Exit> {
    bail!("this build has no NIR export; rebuild with: cargo build --release --features nir")
}

fn list() -> Result<Exit> {
    say!("{:<18} {:<10} {:>8}", "model", "classifies", "classes");
    for name in Model::built_in_names() {
        let model = Model::open(Path::new(name))?;
        say!("{name:<18} {:<10} {:>8}", classifies(&model), model.classes.len());
    }
    Ok(Exit::Ok)
}

/// What a model's streams are.
fn classifies(model: &Model) -> &'static str {
    if model.key == KeyKind::Host { "hosts" } else { "flows" }
}

fn show(model: &Model, json: bool) -> Result<Exit> {
    if json {
        say!("{}", serde_json::to_string_pretty(&model.description())?);
        return Ok(Exit::Ok);
    }
    let p = &model.provenance;
    say!("{:<18} {}", "model", model.name);
    say!("{:<18} {}", "classifies", classifies(model));
    say!("{:<18} {} neurons over {} inputs", "network", model.network.neurons(), model.network.inputs());
    say!("{:<18} {} slots, {} coincidences", "layout", model.layout.slots().len(), model.layout.coincidences().len());
    say!("{:<18} confidence {:.3}, at most {} packets", "stops at", model.decision.stop_confidence, model.decision.max_packets);
    say!("{:<18} spiked {}, seed {}", "trained with", p.trained_with, p.seed);
    say!("{:<18} {} captures, {}", "trained on", p.captures, p.labels.join(", "));
    say!(
        "{:<18} whole, and without each group of slots{}",
        "packets shown",
        if p.ports_alone { "; for classes with few streams also with ports alone" } else { "" }
    );
    if !p.reference.is_empty() {
        say!("{:<18} {}", "calibrated on", p.reference.join(", "));
    }
    say!("\n{:<28} {:>8} {:>8} {:>10} {:>10}", "class", "streams", "packets", "accepted", "threshold");
    for (i, class) in model.classes.iter().enumerate() {
        let neurons = model.decision.assignments.neurons_of(ClassId::from_index(i));
        let theta: Vec<String> = neurons.map(|n| format!("{:>10.3}", model.decision.theta[n.index()])).collect();
        let accept = model.decision.accept[i];
        say!("{class:<28} {:>8} {:>8} {accept:>10.3} {}", p.streams[i], p.packets[i], theta.join(" "));
    }
    if !model.episodes.is_empty() {
        say!("\n{:<28} {:>8} {:>10} {:>10}", "episodes of", "host", "fires at", "tau (s)");
        for rule in &model.episodes {
            let class = &model.classes[rule.class.index()];
            say!("{class:<28} {:>8} {:>10.2} {:>10.1}", rule.role.name(), rule.threshold, rule.tau);
        }
    }
    say!("\nthreshold: membrane potential at which a neuron spikes; accepted: lowest confidence at which a stream is named");
    Ok(Exit::Ok)
}

fn explain(model: &Model, capture: &Path, wanted: Option<&str>, [most, fields]: [usize; 2], intake: &Intake) -> Result<Exit> {
    let mut source = intake.source(capture)?;
    let streams = trace_streams(model, &mut source, intake, usize::MAX)?;
    let mut shown = 0;
    for stream in &streams {
        let Some(leader) = stream.leader.filter(|_| wanted.is_none_or(|text| stream.name.matches(text))) else { continue };
        if shown == most {
            say!("more streams are not shown (--most)");
            break;
        }
        shown += 1;
        explanation(model, stream, &leader, fields, WIDTHS).iter().for_each(|line| say!("{line}"));
        say!("");
    }
    let name = printable(capture);
    if shown == 0 {
        match wanted {
            Some(wanted) => eprintln!("spiked: {name}: no stream contains {wanted:?}"),
            None => eprintln!("spiked: {name}: no stream could be decoded"),
        }
    }
    if let Some(cut) = source.source().truncation() {
        eprintln!("spiked: {name}: {cut}; packets before the cut are used");
        return Ok(Exit::Partly);
    }
    Ok(if shown == 0 { Exit::Nothing } else { Exit::Ok })
}

/// Characters of the columns "field" and "value" of an explanation.
const WIDTHS: [usize; 2] = [34, 26];

/// Why a stream has its class, as lines: its name, what was decided, and the fields that decided it, in columns of these `widths`.
pub fn explanation(model: &Model, stream: &StreamTrace, leader: &Leader, fields: usize, widths: [usize; 2]) -> Vec<String> {
    let class = &model.classes[leader.class.index()];
    let verdict = if model.decision.class(leader).is_some() { class.as_str() } else { "unknown" };
    let rival = rival(model, stream, leader.class);
    let mut lines = vec![
        stream.name.to_string(),
        format!(
            "  {verdict}; nearest class {class}, confidence {:.3}, evidence {:.2} over {} of {} packets; next: {}",
            model.decision.confidence(leader),
            leader.evidence,
            leader.packets(),
            stream.packets,
            rival.map_or("none", |r| model.classes[r.index()].as_str()),
        ),
    ];
    let rows = contributions(model, stream.counted().iter().map(|packet| &packet.volley), leader.class, rival);
    lines.extend(table_of_fields(&rows, fields, widths));
    lines
}

/// The class with the most evidence except the leader. The evidence of classes that are far away is at its lower bound: of equals, the one
/// with the largest margin at the last packet.
fn rival(model: &Model, stream: &StreamTrace, leader: ClassId) -> Option<ClassId> {
    let last = stream.counted().last()?;
    let mut classifier = model.classifier();
    let forward = classifier.forward(&last.volley.slots[..model.layout.slots().len()]);
    let margin = |class: ClassId| {
        let margins =
            model.decision.assignments.neurons_of(class).map(|n| forward.potential(n) - model.decision.theta[n.index()]);
        margins.fold(f32::NEG_INFINITY, f32::max)
    };
    let evidence = |class: ClassId| stream.evidence[class.index()];
    let others = ClassId::first(stream.evidence.len()).filter(|&c| c != leader);
    others.max_by(|&a, &b| evidence(a).total_cmp(&evidence(b)).then_with(|| margin(a).total_cmp(&margin(b))))
}

/// Each slot's contribution to the leader's potential and to its lead over the rival, with the values seen.
fn table_of_fields(rows: &[Contribution], fields: usize, [field, value]: [usize; 2]) -> Vec<String> {
    let mut lines = vec![format!("  {:<field$} {:<value$} {:>10} {:>10}", "field", "value", "potential", "lead")];
    for row in rows.iter().take(fields) {
        let values = format!("{}{}", row.values.join(" "), if row.more { " ..." } else { "" });
        lines.push(format!("  {:<field$} {values:<value$} {:>+10.3} {:>+10.3}", row.name, row.potential, row.lead));
    }
    let total: f32 = rows.iter().map(|r| r.potential).sum();
    let lead: f32 = rows.iter().map(|r| r.lead).sum();
    lines.push(format!("  {:<field$} {:<value$} {total:>+10.3} {lead:>+10.3}", "all fields, per packet", ""));
    lines
}
