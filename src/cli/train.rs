//! `spiked train`: trains a model on labelled captures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::encode::{Group, Layout, LayoutOptions, MAX_PAYLOAD};
use crate::evaluate::{self, Report};
use crate::model::Model;
use crate::packet::KeyKind;
use crate::train::labels::{LabelOptions, WholeClass};
use crate::train::{self, Corpus, FALSE_ALARM_RATE, GatherReport, TrainSettings, labels};

use super::intake::IntakeOptions;
use super::{Exit, mask, progress, report_unused};

/// Options for labelled streams, shared by training, evaluation and export
#[derive(ClapArgs, Clone)]
pub struct Source {
    /// Label files: CSV with columns capture,proto,src_ip,src_port,dst_ip,dst_port,label (streams), with start and end in addition for
    /// one of several streams of the same addresses and ports, or capture,host,label (hosts); or Zeek's conn.log (TSV, JSON), Suricata's
    /// eve.json, nDPI's CSV, spiked's events; - for standard input
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Labelled streams")]
    labels: Vec<PathBuf>,
    /// Column or JSON field (alert.category) of the label files that holds the label [default: label; in logs service, app_proto,
    /// ndpi_proto or spiked.class]
    #[arg(long, value_name = "NAME", requires = "labels", help_heading = "Labelled streams")]
    label_column: Option<String>,
    /// Folder that capture paths in label files are relative to; logs that do not name a capture label every capture in it, or this one
    #[arg(long, value_name = "DIR", default_value = ".", help_heading = "Labelled streams")]
    captures: PathBuf,
    /// Labels every stream in CAPTURE as NAME, or in the captures of a folder (NAME=FOLDER), or the packets that match a BPF filter
    /// (NAME=CAPTURE:FILTER); may be repeated
    #[arg(long, value_name = "NAME=CAPTURE", conflicts_with = "labels", help_heading = "Labelled streams")]
    class: Vec<String>,
    /// CSV with columns label,class: renames labels, or drops those with an empty class
    #[arg(long, value_name = "CSV", help_heading = "Labelled streams")]
    rename: Option<PathBuf>,
    /// Drops classes with fewer streams
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Labelled streams")]
    min_streams: usize,
    #[command(flatten)]
    pub intake: IntakeOptions,
    /// Prints only errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Options for encoding labelled streams, shared by training, evaluation and export
#[derive(ClapArgs, Clone)]
pub struct Encoding {
    /// Payload bytes that the network sees [default: 16 for flows, 8 with --traces, 32 for hosts]
    #[arg(long, value_name = "N", help_heading = "Encoding")]
    payload: Option<u16>,
    /// Also sees the traces of a stream's hosts: leaky counts of what they did recently; for scans, floods and other behaviours
    #[arg(long, help_heading = "Encoding")]
    traces: bool,
    /// Packets per stream used for training [default: 16 for flows, 2048 for hosts]
    #[arg(long, value_name = "N", help_heading = "Encoding")]
    packets: Option<usize>,
    /// Random seed
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Encoding")]
    seed: u64,
}

/// Options for encoding and training, shared by training and cross-validation
#[derive(ClapArgs, Clone)]
pub struct Choices {
    #[command(flatten)]
    encoding: Encoding,
    /// Target share of other classes' calibration streams that fire a neuron; sets its threshold, within bounds
    #[arg(long, value_name = "SHARE", default_value_t = FALSE_ALARM_RATE, help_heading = "Training")]
    false_alarm_rate: f64,
    /// Training threads [default: one per allowed CPU]; the model does not depend on it
    #[arg(long, value_name = "N", help_heading = "Training")]
    threads: Option<usize>,
}

/// Trains a model on labelled captures
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked train --labels labels.csv --captures captures/ --out mine.safetensors\n  \
    spiked train --class web=web.pcap --class database=db.pcap --out two.safetensors\n  \
    spiked train --class camera=camera/ --class printer='office.pcap:host 10.0.0.7' --out devices.safetensors\n  \
    spiked train --labels conn.log --label-column service --captures captures/ --out zeek.safetensors\n  \
    spiked train --mask ports --labels labels.csv --captures captures/ --out content.safetensors")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choices: Choices,
    /// Label files of captures that only serve to calibrate thresholds and confidence, as --labels; relative to --captures too
    #[arg(long, value_name = "CSV", num_args = 1..)]
    reference: Vec<PathBuf>,
    /// Slots that the model does not learn: a group or a field, as in `spiked read --mask`
    #[arg(long, value_name = "SLOTS", value_delimiter = ',')]
    mask: Vec<String>,
    /// Output model file
    #[arg(long, short, value_name = "FILE", default_value = "model.safetensors")]
    out: PathBuf,
}

impl Encoding {
    pub fn layout(&self, key: KeyKind) -> Result<Layout> {
        // Devices differ less in the protocols they use than in payload: 0.93 of hosts are right with 32 bytes, 0.83 with 8. Behaviours differ in traces.
        let payload = self.payload.unwrap_or(match key {
            KeyKind::Host => 32,
            KeyKind::Flow if self.traces => 8,
            KeyKind::Flow => LayoutOptions::default().payload,
        });
        if payload > MAX_PAYLOAD {
            bail!("--payload {payload} is out of range (0 to {MAX_PAYLOAD} bytes)");
        }
        let built_in = LayoutOptions::default();
        // The names that devices send show which kind they are: with folded bytes 0.87 of hosts are right.
        let exact_payload = if key == KeyKind::Host { payload } else { built_in.exact_payload };
        Ok(Layout::headers(&LayoutOptions { payload, exact_payload, traces: self.traces, ..built_in }))
    }

    pub fn settings(&self, key: KeyKind) -> Result<TrainSettings> {
        let mut settings = TrainSettings::new(key, self.seed);
        if let Some(packets) = self.packets {
            settings.packets_per_stream = packets;
        }
        if settings.packets_per_stream == 0 {
            bail!("--packets must be at least 1");
        }
        Ok(settings)
    }
}

impl Choices {
    pub fn layout(&self, key: KeyKind) -> Result<Layout> {
        self.encoding.layout(key)
    }

    pub fn settings(&self, key: KeyKind) -> Result<TrainSettings> {
        let mut settings = self.encoding.settings(key)?;
        if let Some(threads) = self.threads {
            settings.threads = threads;
        }
        if !(self.false_alarm_rate > 0.0 && self.false_alarm_rate < 1.0) {
            bail!("--false-alarm-rate {} is out of range (between 0 and 1, such as 0.01)", self.false_alarm_rate);
        }
        settings.false_alarm_rate = self.false_alarm_rate;
        if settings.threads == 0 {
            bail!("--threads must be at least 1");
        }
        Ok(settings)
    }
}

impl Source {
    /// The labelled streams of label files, all of their classes.
    pub fn of_files(labels: &[PathBuf], captures: &Path, intake: IntakeOptions) -> Self {
        Self {
            labels: labels.to_vec(),
            label_column: None,
            captures: captures.into(),
            class: Vec::new(),
            rename: None,
            min_streams: 1,
            intake,
            quiet: false,
        }
    }

    /// Whether any labelled streams were given.
    pub fn is_given(&self) -> bool {
        !self.labels.is_empty() || !self.class.is_empty()
    }

    /// The labels, after `--rename`.
    pub fn read_labels(&self) -> Result<labels::Labels> {
        if !self.is_given() {
            bail!("no labelled captures: give --labels CSV... with --captures DIR, or --class NAME=CAPTURE");
        }
        let mut labels = if self.class.is_empty() {
            let options = LabelOptions { column: self.label_column.clone(), captures: self.captures.clone() };
            options.read(&self.labels)?
        } else {
            let classes: Result<Vec<_>> = self
                .class
                .iter()
                .map(|text| match WholeClass::parse(text, &self.captures) {
                    Some(class) => Ok(class),
                    None => bail!("--class {text} is not of the form NAME=CAPTURE, NAME=FOLDER or NAME=CAPTURE:FILTER"),
                })
                .collect();
            labels::of_classes(&classes?, &self.captures)?
        };
        if let Some(path) = &self.rename {
            labels.rename(path)?;
        }
        Ok(labels)
    }

    /// The corpus of all labelled streams without classes that have too few. Reports on standard error what could not be used.
    pub fn gather(&self, labels: &labels::Labels, layout: Layout, packets: usize) -> Result<(Corpus, GatherReport)> {
        let bar = progress(self.quiet, labels.captures.len() as u64, "captures");
        let (mut corpus, gathered) =
            Corpus::gather(labels, &self.captures, layout, packets, &self.intake.intake()?, &|| bar.inc(1))?;
        bar.finish_and_clear();
        report_unused("captures could not be read; their labels are not used", &gathered.unreadable);
        report_unused("captures are cut short; packets before the cut are used", &gathered.cut);
        report_unused("labelled streams are not in their capture; the rest is used", &gathered.missing);
        if labels.conflicts > 0 {
            eprintln!(
                "spiked: {} rows contradict an earlier label of the same stream; the earlier label is used",
                labels.conflicts
            );
        }
        let left_out = corpus.keep_classes(self.min_streams);
        if !left_out.is_empty() && !self.quiet {
            eprintln!("spiked: classes dropped, with fewer than {} streams: {}", self.min_streams, left_out.join(", "));
        }
        Ok((corpus, gathered))
    }

    pub fn label_names(&self) -> Vec<String> {
        if self.labels.is_empty() { self.class.clone() } else { self.labels.iter().map(|path| file_name(path)).collect() }
    }
}

pub fn run(args: &Args) -> Result<Exit> {
    let labels = args.source.read_labels()?;
    let settings = args.choices.settings(labels.key)?;
    let mut layout = args.choices.layout(labels.key)?;
    mask(&mut layout, &args.mask)?;
    Model::check_writable(&args.out)?;
    let (mut corpus, mut gathered) = args.source.gather(&labels, layout.clone(), settings.packets_per_stream)?;
    if corpus.classes.len() < 2 {
        bail!(
            "only the class '{}' is left to train; training needs at least two classes, since each is learned against the others",
            corpus.classes.join("")
        );
    }
    if !args.reference.is_empty() {
        let source = Source { labels: args.reference.clone(), class: Vec::new(), min_streams: 1, ..args.source.clone() };
        let labels = source.read_labels()?;
        if labels.key != corpus.key {
            bail!("--reference labels are of {}, but --labels are of {}", kind(labels.key), kind(corpus.key));
        }
        let (reference, found) = source.gather(&labels, layout, settings.packets_per_stream)?;
        gathered.append(found);
        let left_out = corpus.append_reference(&reference);
        if left_out > 0 && !args.source.quiet {
            eprintln!("spiked: {left_out} reference streams are of classes without training streams; they are not used");
        }
    }
    let bar = progress(args.source.quiet, train::passes(&corpus, &settings), "training");
    let fitted = train::fit(&corpus, &settings, &|_| true, &|| bar.inc(1));
    bar.finish_and_clear();
    let held_out = Report::new(&evaluate::held_out(&corpus, &fitted));
    let mut model = fitted.into_model(&name_of(&args.out), &corpus);
    (model.provenance.seed, model.provenance.labels) = (settings.seed, args.source.label_names());
    model.provenance.reference = args.reference.iter().map(|path| file_name(path)).collect();
    model.save(&args.out)?;
    if !args.source.quiet {
        summary(&corpus, &model, &held_out);
        say!("\nwritten: {}", args.out.display());
    }
    Ok(if gathered.is_whole() { Exit::Ok } else { Exit::Partly })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}

/// Classes with fewer streams get a warning.
const FEW: u64 = 5;
/// Share of a class's held-out streams assigned to one other class from which a confusion gets a warning.
const CONFUSED: f64 = 0.25;

/// Prints the result per class, and warnings.
fn summary(corpus: &Corpus, model: &Model, held_out: &Report) {
    let relies = evaluate::reliance(corpus, model);
    let trained: BTreeMap<&str, f64> = relies.iter().map(|r| (r.class.as_str(), r.recall)).collect();
    let by_class: BTreeMap<&str, _> = held_out.classes.iter().map(|c| (c.class.as_str(), c)).collect();
    let odd_ports = named_on_odd_ports(corpus, model);
    say!("{:<24} {:>8} {:>8} {:>9} {:>9} {:>22}", "", "", "", "trained", "named on", "held out (calibration)");
    say!(
        "{:<24} {:>8} {:>8} {:>9} {:>9} {:>12} {:>9}",
        "class",
        "streams",
        "packets",
        "recall",
        "odd ports",
        "precision",
        "recall"
    );
    for (i, class) in model.classes.iter().enumerate() {
        let (streams, packets) = (model.provenance.streams[i], model.provenance.packets[i]);
        let trained = trained.get(class.as_str()).copied().unwrap_or(0.0);
        let odd = odd_ports.get(class).map_or_else(|| "-".into(), |odd| format!("{odd:.3}"));
        match by_class.get(class.as_str()) {
            Some(c) => {
                say!("{class:<24} {streams:>8} {packets:>8} {trained:>9.3} {odd:>9} {:>12.3} {:>9.3}", c.precision, c.recall)
            }
            None => say!("{class:<24} {streams:>8} {packets:>8} {trained:>9.3} {odd:>9} {:>12} {:>9}", "-", "-"),
        }
    }
    say!(
        "\n{} classes, {} streams, {} packets; held out: {:.2} % of streams right, macro-F1 {:.3}; named {:.2} %, of those right {:.2} %; unseen classes named {:.2} %",
        model.classes.len(),
        model.provenance.streams.iter().sum::<u64>(),
        model.provenance.packets.iter().sum::<u64>(),
        held_out.accuracy * 100.0,
        held_out.macro_f1,
        held_out.recall * 100.0,
        held_out.precision * 100.0,
        held_out.false_alarms * 100.0,
    );
    let mut warnings = Vec::new();
    for (class, &streams) in model.classes.iter().zip(&model.provenance.streams).filter(|(_, s)| **s < FEW) {
        warnings.push(format!("{class}: only {streams} stream{}; label more", if streams == 1 { "" } else { "s" }));
    }
    for (truth, best, count) in &held_out.confusions {
        let streams = by_class.get(truth.as_str()).map_or(0, |c| c.streams);
        if streams as u64 >= FEW && *count as f64 >= CONFUSED * streams as f64 {
            warnings.push(format!("{truth}: often confused with {best} ({count} of {streams} held-out streams)"));
        }
    }
    warnings.extend(relies.iter().flat_map(evaluate::Reliance::warnings));
    warnings.extend(evaluate::silent_classes(corpus, model).iter().map(|class| {
        format!(
            "{class}: none of its streams carries payload, and all of them stay unknown (no_payload); for behaviours use --traces"
        )
    }));
    if let Some(harm) = evaluate::harm_on_reference(&[], model).filter(evaluate::Harm::is_harmful) {
        warnings.push(format!("{}: {harm} (under the names that the built-in model uses)", super::harm::REFERENCE));
    }
    if !warnings.is_empty() {
        say!("\nwarnings:");
        warnings.iter().for_each(|w| say!("  {w}"));
    }
    let groups: Vec<_> = Group::ALL.iter().map(|g| g.name()).collect();
    say!("\n`spiked eval --mask SLOTS` shows which slots the classes rely on; groups: {}", groups.join(", "));
}

/// The share of each class's streams that the model names rightly when the server has another port, 0 to 1. Hosts have none.
fn named_on_odd_ports(corpus: &Corpus, model: &Model) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::<String, (u32, u32)>::new();
    if corpus.key == KeyKind::Flow {
        let ports = train::PortVariants::new(corpus, model.provenance.seed);
        let mut odd = Corpus::new(corpus.key, corpus.layout.clone(), corpus.classes.clone());
        for (i, stream) in corpus.streams.iter().enumerate().filter(|(_, stream)| !stream.reference) {
            if let Some(packets) = ports.odd(corpus, i) {
                odd.push(stream.class, &packets.concat());
            }
        }
        let all = 0..odd.streams.len();
        let (network, decision, layout) = (&model.network, &model.decision, &model.layout);
        for outcome in evaluate::outcomes(&odd, network, decision, &model.classes, layout, &|_| true, all) {
            let (named, all) = counts.entry(outcome.label.clone()).or_default();
            (*named, *all) = (*named + u32::from(outcome.named_rightly()), *all + 1);
        }
    }
    counts.into_iter().map(|(class, (named, all))| (class, f64::from(named) / f64::from(all))).collect()
}

fn kind(key: KeyKind) -> &'static str {
    if key == KeyKind::Host { "hosts" } else { "streams" }
}

/// Refuses labels of another kind (streams, hosts) than the model's.
pub fn same_kind(model: &Model, labels: &labels::Labels, path: &Path) -> Result<()> {
    if model.key != labels.key {
        bail!("the labels are of {}, but {} classifies {}", kind(labels.key), path.display(), kind(model.key));
    }
    Ok(())
}
