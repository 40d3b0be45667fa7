//! `spiked model`: looks into a model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use crate::capture::CaptureFile;
use crate::evaluate::{self, Claims, TracePacket, contributions, hear};
use crate::model::{ClassSources, Model};
use crate::packet::{Decoder, KeyKind};
use crate::train::{self, Corpus, GatherReport, TrainSettings};

use super::train::{Source, same_kind};
use super::{Exit, complain, progress};

/// Looks into a model file
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(ClapArgs)]
struct Retrain {
    /// Model file
    file: PathBuf,
    /// Class to teach anew
    #[arg(value_name = "CLASS")]
    which: String,
    #[command(flatten)]
    source: Source,
    /// Seed of every random choice [default: the one that the model was trained with]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Model file to write [default: the model file itself, replaced whole]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// What a model knows and where it comes from
    Show {
        /// Model file
        file: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Puts the classes of two models into one
    ///
    /// Given captures (--reference), confidence and acceptance are worked out anew so that they agree with what the two models say of
    /// them each by itself; given labelled captures that neither was taught (--labels, --captures), so that they are right about those.
    /// Else each class's acceptance stays as it is and the weights that make evidence into confidence are averaged.
    Join {
        /// Model file
        a: PathBuf,
        /// Model file of the same layout
        b: PathBuf,
        /// Model file to write
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
        /// Captures of the traffic that the model will see, without labels
        #[arg(long, value_name = "CAPTURE", num_args = 1.., conflicts_with_all = ["labels", "class"])]
        reference: Vec<PathBuf>,
        #[command(flatten)]
        labelled: Source,
    },
    /// Teaches one class's neuron anew
    ///
    /// The labelled captures hold the class and others to tell it from: those that the model was taught, or more like them. The
    /// neuron is the one that `train` would make of them; its acceptance is worked out on streams that it was not shown. All else
    /// stays bit for bit as it is; `model calibrate` makes confidence anew.
    Retrain(Retrain),
    /// Works out confidence and acceptance anew, on labelled captures that the model was not taught
    ///
    /// HyperactiveNeuron neurons, which claim twenty foreign streams or more and fewer of their own, get a threshold so high that they no
    /// longer do; a class of which the reference has streams, and that then claims none of them, is taken out.
    /// Streams of classes that the model does not have are welcome: they show how often it names what it was never taught.
    Calibrate {
        /// Model file
        file: PathBuf,
        #[command(flatten)]
        reference: Source,
        /// Model file to write [default: the model file itself, replaced whole]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Takes classes out of a model
    Remove {
        /// Model file
        file: PathBuf,
        /// Classes
        #[arg(required = true)]
        classes: Vec<String>,
        /// Model file to write
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Writes the network for other simulators
    Export {
        /// Model file
        file: PathBuf,
        /// NIR graph to write (HDF5): Input, Affine, LIF, Output; one step from rest is one packet
        #[arg(long, value_name = "H5")]
        nir: PathBuf,
    },
    /// Which header bytes made the nearest neuron spike, stream by stream
    Explain {
        /// Model file
        file: PathBuf,
        /// Capture
        capture: PathBuf,
        /// Only streams whose description holds this text: an address, a port ("10.0.0.1:5432"), a protocol
        stream: Option<String>,
        /// Streams explained at most
        #[arg(long, value_name = "N", default_value_t = 3)]
        most: usize,
        /// Fields shown for each stream
        #[arg(long, value_name = "N", default_value_t = 12)]
        fields: usize,
    },
}

pub fn run(args: &Args) -> Result<Exit> {
    match &args.command {
        Command::Show { file, json } => show(&Model::load(file)?, *json),
        Command::Join { a, b, out, reference, labelled } => {
            let (a, b) = (Model::load(a)?, Model::load(b)?);
            let joined = a.join(&b)?;
            if labelled.is_given() {
                return recalibrate(joined, labelled, out);
            }
            if !reference.is_empty() {
                return agree(joined, [&a, &b], reference, &labelled.decoder(), out);
            }
            if let Some((holds, other)) = a.other_bounds(&b) {
                say!(
                    "{0} and {1} bound one packet's evidence differently; {0}'s bounds hold, so {1}'s classes may be too sure or too unsure: captures (--reference, --labels) put that right",
                    holds.name,
                    other.name
                );
            }
            write(&joined, out)
        }
        Command::Retrain(args) => retrain(args),
        Command::Calibrate { file, reference, out } => recalibrate(Model::load(file)?, reference, out.as_ref().unwrap_or(file)),
        Command::Remove { file, classes, out } => write(&Model::load(file)?.without_classes(classes)?, out),
        Command::Export { file, nir } => export(&Model::load(file)?, nir),
        Command::Explain { file, capture, stream, most, fields } => {
            explain(&Model::load(file)?, capture, stream.as_deref(), *most, *fields)
        }
    }
}

fn write(model: &Model, out: &Path) -> Result<Exit> {
    model.save(out)?;
    say!("written: {}, {} classes", out.display(), model.classes.len());
    Ok(Exit::Ok)
}

/// Writes a model with its confidence and acceptance worked out on a reference.
fn recalibrate(mut model: Model, reference: &Source, out: &Path) -> Result<Exit> {
    let settings = settings_of(&model, model.provenance.seed);
    let (mut corpus, gathered) = gather(&model, reference, &settings, out)?;
    model = quieted(model, &corpus)?;
    model.decision = train::recalibrate(&model, &mut corpus, &settings);
    model.provenance.reference = reference.label_names();
    let untaught = corpus.classes.len() - model.classes.len();
    say!(
        "confidence and acceptance rest on {} reference streams; {untaught} of their classes are untaught",
        corpus.streams.len()
    );
    write(&model, out)?;
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

/// Writes a joined model with its confidence and acceptance worked out on captures without labels.
fn agree(mut joined: Model, parts: [&Model; 2], captures: &[PathBuf], decoder: &Decoder, out: &Path) -> Result<Exit> {
    let settings = settings_of(&joined, joined.provenance.seed);
    let mut reference = Corpus::new(joined.key, joined.layout.clone(), joined.classes.clone());
    let (names, mut gathered): (Vec<String>, _) =
        (captures.iter().map(|c| c.display().to_string()).collect(), GatherReport::default());
    for name in &names {
        let (packets, every) = (settings.packets_per_stream, &mut |_: &_| Some(0));
        if let Err(error) = reference.read_file(Path::new(""), name, packets, decoder, &mut gathered, every) {
            gathered.unreadable.push(error.to_string());
        }
    }
    complain("captures could not be read; the others are used", &gathered.unreadable);
    complain("captures are cut; what is before the cut is used", &gathered.cut);
    if reference.streams.is_empty() {
        bail!("no stream of {} in the reference", if joined.key == KeyKind::Host { "a host" } else { "packets" });
    }
    joined.decision = train::agreed(&joined, parts, &reference, &settings);
    joined.provenance.reference = names;
    say!("confidence and acceptance agree with what the parts say of {} reference streams", reference.streams.len());
    write(&joined, out)?;
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

/// The model with its hyperactive neurons given a higher threshold or taken out; tells of each.
fn quieted(mut model: Model, reference: &Corpus) -> Result<Model> {
    let told = |n: Claims| format!("{} streams, {} of them its own", n.streams(), n.own);
    let mut silenced = Vec::new();
    for found in evaluate::hyperactive(&model, reference) {
        let (class, before) = (&found.name, told(found.before));
        if let Some((by, after)) = found.quiet {
            let was = model.decision.theta[found.class];
            model.decision.raise(found.class, by);
            let theta = model.decision.theta[found.class];
            say!("{class}: hyperactive, claims {before}; threshold {was:.2} raised to {theta:.2}: claims {}", told(after));
        } else {
            say!(
                "{class}: hyperactive, claims {before}; silenced: no threshold leaves it any of its own, and the class is taken out"
            );
            silenced.push(found.name);
        }
    }
    Ok(if silenced.is_empty() { model } else { model.without_classes(&silenced)? })
}

fn retrain(args: &Retrain) -> Result<Exit> {
    let model = Model::load(&args.file)?;
    let class = model.place(&args.which)?;
    let settings = settings_of(&model, args.seed.unwrap_or(model.provenance.seed));
    let (mut corpus, gathered) = gather(&model, &args.source, &settings, &args.file)?;
    let Some(own) = corpus.classes.iter().position(|c| *c == args.which) else {
        bail!("the labels name no stream of the class '{}'", args.which);
    };
    if corpus.classes.len() < 2 {
        bail!("the labels name streams of '{}' alone; a class is learned against others", args.which);
    }
    let (streams, packets) = corpus.shown(own as u16);
    let taught = ClassSources { streams, packets, labels: args.source.label_names(), captures: corpus.captures.len() };
    let steps = u64::from(settings.rule.passes) * (settings.folds as u64 + 1);
    let bar = progress(args.source.quiet, steps, "training");
    let (neurons, (theta, accept)) = train::retrain(&model, &mut corpus, class, &settings, &|| bar.inc(1));
    bar.finish_and_clear();
    let model = model.with_neurons(&args.which, &neurons, (&theta, accept), taught)?;
    say!("{}: taught {streams} streams, {packets} packets", args.which);
    write(&model, args.out.as_ref().unwrap_or(&args.file))?;
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

/// The settings that a model was trained with, as far as it knows them.
fn settings_of(model: &Model, seed: u64) -> TrainSettings {
    TrainSettings { packets_per_stream: model.decision.give_up as usize, ..TrainSettings::new(model.key, seed) }
}

/// Labelled streams as the model sees them.
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
    bail!("this spiked was built without NIR export; build it with: cargo build --release --features nir")
}

fn show(model: &Model, json: bool) -> Result<Exit> {
    if json {
        say!("{}", serde_json::to_string_pretty(&model.description())?);
        return Ok(Exit::Ok);
    }
    let p = &model.provenance;
    let key = if model.key == KeyKind::Host { "hosts" } else { "flows" };
    say!("{:<18} {}", "model", model.name);
    say!("{:<18} {key}", "names");
    say!("{:<18} {} neurons over {} inputs", "network", model.network.neurons(), model.network.inputs());
    say!("{:<18} {} slots, {} coincidences", "layout", model.layout.slots().len(), model.layout.coincidences().len());
    say!("{:<18} confidence {:.3}, at most {} packets", "stops at", model.decision.stop, model.decision.give_up);
    say!("{:<18} spiked {}, seed {}", "trained with", p.trained_with, p.seed);
    say!("{:<18} {} captures, {}", "taught from", p.captures, p.labels.join(", "));
    say!(
        "{:<18} whole, without each group of slots{}",
        "packets shown",
        if p.ports_alone { "; those of classes of few streams with ports alone too" } else { "" }
    );
    if !p.reference.is_empty() {
        say!("{:<18} {}", "calibrated on", p.reference.join(", "));
    }
    say!("\n{:<28} {:>8} {:>8} {:>10} {:>10}", "class", "streams", "packets", "accepted", "threshold");
    for (i, class) in model.classes.iter().enumerate() {
        let theta: Vec<String> = model.decision.neurons_of(i).map(|n| format!("{:>10.3}", model.decision.theta[n])).collect();
        let accept = model.decision.accept[i];
        say!("{class:<28} {:>8} {:>8} {accept:>10.3} {}", p.streams[i], p.packets[i], theta.join(" "));
    }
    say!("\nthreshold: membrane potential at which the neuron spikes; accepted: confidence from which a stream is named");
    Ok(Exit::Ok)
}

fn explain(model: &Model, capture: &Path, wanted: Option<&str>, most: usize, fields: usize) -> Result<Exit> {
    let streams = hear(model, &mut CaptureFile::open(capture)?, &Decoder::default(), usize::MAX)?;
    let mut shown = 0;
    for stream in &streams {
        let name = stream.name.to_string();
        let Some(leader) = stream.leader.filter(|_| wanted.is_none_or(|w| name.contains(w))) else { continue };
        if shown == most {
            say!("further streams are not shown (--most)");
            break;
        }
        shown += 1;
        let class = &model.classes[leader.class as usize];
        let verdict = if model.decision.class(&leader).is_some() { class.as_str() } else { "unknown" };
        let rival = rival(&stream.evidence, leader.class);
        say!("{name}");
        say!(
            "  {verdict}; nearest class {class}, confidence {:.3}, evidence {:.2} over {} of {} packets; next: {}",
            model.decision.confidence(&leader),
            leader.evidence,
            leader.packets,
            stream.packets,
            rival.map_or("none", |r| model.classes[r].as_str()),
        );
        table_of_fields(model, &stream.heard, leader.class as usize, rival, fields);
        say!("");
    }
    if shown == 0 {
        match wanted {
            Some(wanted) => bail!("{}: no stream holds '{wanted}'", capture.display()),
            None => bail!("{}: no stream could be decoded", capture.display()),
        }
    }
    Ok(Exit::Ok)
}

/// The class with the most evidence but `leader`.
fn rival(evidence: &[f32], leader: u16) -> Option<usize> {
    (0..evidence.len()).filter(|&c| c != leader as usize).max_by(|&a, &b| evidence[a].total_cmp(&evidence[b]))
}

/// What each slot added to the leader's potential, and to its lead over the rival, with the values that it had.
fn table_of_fields(model: &Model, heard: &[TracePacket], leader: usize, rival: Option<usize>, fields: usize) {
    let rows = contributions(model, heard.iter().map(|h| &h.volley), leader, rival);
    say!("  {:<34} {:<26} {:>10} {:>10}", "field", "value", "potential", "lead");
    for row in rows.iter().take(fields) {
        let values = format!("{}{}", row.values.join(" "), if row.more { " ..." } else { "" });
        say!("  {:<34} {values:<26} {:>+10.3} {:>+10.3}", row.name, row.potential, row.lead);
    }
    let total: f32 = rows.iter().map(|r| r.potential).sum();
    let lead: f32 = rows.iter().map(|r| r.lead).sum();
    say!("  {:<34} {:<26} {total:>+10.3} {lead:>+10.3}", "all fields, a packet", "");
}
