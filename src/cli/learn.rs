//! `spiked learn`: adds a class to a model from one packet, a few, or labelled streams.
//!
//! Nothing is written if the new class claims streams of other classes: those of the reference built into the program, and those of the
//! capture that the model names already.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args as ClapArgs};

use crate::capture::{Filter, Nanos};
use crate::encode::Layout;
use crate::evaluate::{Before, Harm, names_of, reference};
use crate::model::{ClassSources, Model, PartsError, is_class_name};
use crate::packet::{KeyKind, StreamKey};
use crate::snn::{ClassId, OneShot};
use crate::stream::{Intake, Leader, StreamLimits};
use crate::train::labels::StreamName;
use crate::train::one_packet::{self, DEFAULT_MASK, MAX_PATTERNS, PacketSelection, Pattern, SelectedPackets, TOLERANCE};
use crate::train::{self, Corpus, FLOW_PACKETS, LabelledStream, TrainSettings};

use super::harm::{REFERENCE, Refusal, accept, write_checked};
use super::intake::IntakeOptions;
use super::train::{Source, same_kind};
use super::{Exit, mask, progress};

/// Largest number of neurons of a class that is learned from packets.
const MAX_NEURONS: usize = 8;
/// Number of a capture's streams that the harm check reads.
const MAX_STREAMS: usize = 20_000;
/// Tolerances that are suggested where a larger one does harm.
const LOWER: [f32; 4] = [2.5, 2.0, 1.5, 1.0];

/// Adds a class to a model from one packet, a few, or labelled streams
#[derive(ClapArgs)]
#[command(
    group = ArgGroup::new("pointed").required(true).args(["packet", "stream", "filter", "labels"]),
    after_help = "Examples:\n  \
    spiked learn --from odd.pcap --packet 4 --class odd --out mine.safetensors\n  \
    spiked learn --from odd.pcap --stream 10.0.0.1:7777 --class odd --tolerance 2 --model mine.safetensors --in-place\n  \
    spiked learn --from odd.pcap --filter 'udp port 7777' --class odd --out mine.safetensors\n  \
    spiked learn --labels odd.csv --captures captures/ --class odd --out mine.safetensors\n\n\
    From packets: the founding paper's one-shot rule, one neuron per packet that no earlier one fires for: one presentation, \
    potentiation, one homeostatic factor (Davies et al. 2025). The tolerance T multiplies the smallest factor that makes the neuron \
    fire for its packet: at 1 only identical packets fire it; at T, packets fire it if the slots that agree, minus those that differ, \
    make up a share of at least 1/T. --stream and --filter use the first packets with payload, two in each direction of a stream; \
    models with traces, such as behaviours, use the first packets with or without, and get episodes of the class.\n\n\
    From labelled streams: one neuron trained against the other labels and the built-in reference.\n\n\
    The model is not written if the class claims streams of other classes, of the built-in reference or of the capture."
)]
pub struct Args {
    /// Capture to learn from
    #[arg(long, value_name = "CAPTURE", required_unless_present = "labels", help_heading = "What to learn")]
    from: Option<PathBuf>,
    /// Packet number, counted from 1 as Wireshark does; may be repeated
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..), help_heading = "What to learn")]
    packet: Vec<u64>,
    /// First packets with payload of the first stream with these words: an address, a port (":7777"), a protocol, or both ends as `spiked
    /// read --unknown` prints them
    #[arg(long, value_name = "TEXT", help_heading = "What to learn")]
    stream: Option<String>,
    /// First packets with payload of each stream that match a BPF filter
    #[arg(long, value_name = "BPF", help_heading = "What to learn")]
    filter: Option<String>,
    /// Label files: streams labelled with the class teach it, streams with other labels are what it must not claim
    #[arg(long, value_name = "CSV", num_args = 1.., conflicts_with = "from", help_heading = "What to learn")]
    labels: Vec<PathBuf>,
    /// Folder that capture paths in label files are relative to
    #[arg(long, value_name = "DIR", default_value = ".", help_heading = "What to learn")]
    captures: PathBuf,
    /// Name of the new class
    #[arg(long, value_name = "NAME", help_heading = "What to learn")]
    class: String,
    #[command(flatten)]
    intake: IntakeOptions,
    /// Factor by which a neuron fires more easily than its packet requires; at least 1
    #[arg(long, value_name = "T", default_value_t = TOLERANCE, conflicts_with = "labels", help_heading = "How to learn")]
    tolerance: f32,
    /// Slots that the new neurons ignore; `none` makes them use all slots [default: what differs between hosts and messages (ttl, options,
    /// tcp.window, length, stream.previous); with --labels: ports]
    #[arg(long, value_name = "SLOTS", value_delimiter = ',', help_heading = "How to learn")]
    mask: Vec<String>,
    /// Model to add the class to: a file, or the name of a built-in model
    #[arg(long, short, value_name = "MODEL", default_value = "protocols", help_heading = "Model")]
    model: PathBuf,
    /// Model file to write
    #[arg(long, short, value_name = "FILE", required_unless_present = "in_place", help_heading = "Model")]
    out: Option<PathBuf>,
    /// Replaces the model file
    #[arg(long, conflicts_with = "out", help_heading = "Model")]
    in_place: bool,
    /// Uses packets without payload, and writes the model even if the class claims streams of other classes
    #[arg(long, help_heading = "Model")]
    force: bool,
    /// The stream to learn from, where the program itself chose it.
    #[arg(skip)]
    key: Option<StreamKey>,
}

impl Args {
    /// Learning `class` from the stream of `key` in the capture `from`, added to `model` and written to `out`.
    pub fn of_stream(from: &Path, key: StreamKey, class: &str, model: &Path, out: &Path) -> Self {
        let in_place = model == out;
        Self {
            from: Some(from.into()),
            packet: Vec::new(),
            stream: None,
            filter: None,
            labels: Vec::new(),
            captures: PathBuf::from("."),
            class: class.into(),
            intake: IntakeOptions::default(),
            tolerance: TOLERANCE,
            mask: Vec::new(),
            model: model.into(),
            out: (!in_place).then(|| out.into()),
            in_place,
            force: false,
            key: Some(key),
        }
    }

    /// The same with packets read as by `intake`, and with the harm check's result ignored, if `force`.
    #[must_use]
    pub fn with(self, intake: IntakeOptions, force: bool) -> Self {
        Self { intake, force, ..self }
    }
}

pub fn run(args: &Args) -> Result<Exit> {
    let mut report = Vec::new();
    let learned = learn(args, &mut report);
    report.iter().for_each(|line| say!("{line}"));
    let Learned { exit, warning } = learned?;
    if let Some(warning) = warning {
        eprintln!("spiked: {warning}");
    }
    Ok(exit)
}

/// A class that was learned and written.
pub struct Learned {
    exit: Exit,
    /// That the class names none of the streams that taught it.
    pub warning: Option<String>,
}

/// Learns and writes the model. What is to be shown is appended to `report`, also if it fails.
///
/// # Errors
/// If an argument is invalid, the capture can't be read, the class does harm, or the model can't be written.
pub fn learn(args: &Args, report: &mut Vec<String>) -> Result<Learned> {
    if !(args.tolerance >= 1.0 && args.tolerance.is_finite()) {
        bail!(
            "--tolerance {} is out of range (1 or more; at 1 only packets identical to those shown fire the neuron)",
            args.tolerance
        );
    }
    if !is_class_name(&args.class) {
        bail!("--class {:?}: a class name must not contain control characters", args.class);
    }
    if args.class.is_empty() {
        bail!("--class: the name is empty");
    }
    if let Some(text) = args.stream.as_ref().filter(|text| text.split_whitespace().all(|word| word == ">")) {
        bail!("--stream {text:?}: give an address, a port or a protocol of the stream");
    }
    let model = Model::open(&args.model)?;
    if model.classes.contains(&args.class) {
        return Err(PartsError::ClassExists { model: model.name, class: args.class.clone() }.into());
    }
    let out = output(args)?;
    Model::check_writable(out)?;
    match &args.from {
        Some(from) => from_packets(args, &model, from, out, report),
        None => from_labels(args, &model, out),
    }
}

/// The file to write.
fn output(args: &Args) -> Result<&Path> {
    let model = &args.model;
    match &args.out {
        None if !Model::is_built_in(model) => Ok(model),
        None => bail!("--in-place: {} is built in; give --out FILE", model.display()),
        Some(out) if out.canonicalize().is_ok_and(|out| model.canonicalize().is_ok_and(|model| model == out)) => {
            bail!("--out {} is the model to add to; give --in-place to replace it", out.display())
        }
        Some(out) => Ok(out),
    }
}

/// The model's layout with the slots masked that the new neurons ignore.
fn masked(args: &Args, model: &Model, by_default: &[&str]) -> Result<Layout> {
    let mut layout = model.layout.clone();
    if args.mask.is_empty() {
        // A model may lack some of these slots.
        by_default.iter().for_each(|name| drop(layout.mask(name)));
    } else if args.mask != ["none"] {
        mask(&mut layout, &args.mask)?;
    }
    Ok(layout)
}

/// Streams on which the harm of a new class is checked.
struct Checks<'a> {
    reference: Option<Before<'a>>,
    capture: Option<Before<'a>>,
    /// Name of the capture in messages.
    from: String,
}

impl Checks<'_> {
    /// The harm of a changed model, for each kind of stream.
    fn harm(&self, after: &Model) -> impl Iterator<Item = (&str, Harm)> {
        let capture = self.capture.iter().map(|before| (self.from.as_str(), before));
        let all = self.reference.iter().map(|before| (REFERENCE, before)).chain(capture);
        all.map(|(name, before)| (name, before.harm(after)))
    }

    /// The first harm that is too much, as a message.
    fn refusal(&self, after: &Model) -> Option<String> {
        let (streams, harm) = self.harm(after).find(|(_, harm)| harm.is_harmful())?;
        let new = after.classes.last().map_or("", String::as_str);
        let twin = harm.twin(new).map_or_else(String::new, |twin| format!("; if they are the same protocol, --class {twin}"));
        Some(format!("{streams}: {harm}{twin}"))
    }
}

fn from_packets(args: &Args, model: &Model, from: &Path, out: &Path, report: &mut Vec<String>) -> Result<Learned> {
    let layout = masked(args, model, &DEFAULT_MASK)?;
    let intake = args.intake.intake()?;
    if intake.drop_duplicates && !args.packet.is_empty() {
        bail!("--drop-duplicates changes the numbers of packets; leave it out with --packet");
    }
    let mut selection = match (args.key, &args.stream, &args.filter) {
        (Some(key), ..) => PacketSelection::Key(key),
        (_, Some(text), _) => PacketSelection::Stream(text.clone()),
        (.., Some(expression)) => PacketSelection::Matching(Filter::new(expression)?),
        _ => PacketSelection::Packets(args.packet.clone()),
    };
    let mut source = intake.source(from)?;
    // What a flow without payload does shows in the traces of its hosts.
    let any = args.force || model.key == KeyKind::Host || model.layout.has_traces();
    let found = one_packet::patterns(&mut source, model.key, &layout, &intake, &mut selection, any)?;
    let name = from.display().to_string();
    check_selection(&found, &selection, &name, any)?;
    let shown: BTreeSet<&StreamName> = found.patterns.iter().map(|p| &p.stream).collect();
    let (known, capture) = (reference(&model.layout), streams_of(model, from, &intake)?);
    let checks = Checks {
        reference: (model.key == KeyKind::Flow).then(|| Before::labelled(&known, &[model])),
        capture: capture.as_ref().map(|corpus| Before::unlabelled(corpus, model, |name| shown.contains(name))),
        from: name.clone(),
    };
    let file = from.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
    let learner = Learner { args, model, layout: &layout, checks: &checks, source: &file };
    let (used, neurons) = learner.neurons(&found, matches!(selection, PacketSelection::Packets(_)), report)?;
    for pattern in used.iter().take(super::LISTED) {
        report.push(format!(
            "packet {:<6} {}; classified so far as {}",
            pattern.packet,
            pattern.stream,
            describe(model, pattern)
        ));
    }
    if used.len() > super::LISTED {
        report.push(format!("and {} more", used.len() - super::LISTED));
    }
    if found.more > 0 {
        report.push(format!("the first {MAX_PATTERNS} of {} selected packets are used", MAX_PATTERNS + found.more));
    }
    report.extend(summary(args, &neurons));
    let mut learned = learner.with(&neurons)?;
    if model.layout.has_traces() {
        let flows: Vec<_> = found.flows.iter().map(|flow| (0, flow)).collect();
        learned.episodes.extend(train::rules_of_flows(&flows, ClassId::from_index(learned.classes.len() - 1)));
    }
    for (streams, harm) in checks.harm(&learned).filter(|(_, harm)| harm.streams > 0) {
        report.push(accept(&harm, streams, args.force)?);
    }
    if let Some(capture) = &checks.capture {
        report.push(format!("{name}: {} streams are named {}", capture.found(&learned, &args.class), args.class));
    }
    learned.save(out)?;
    report.push(format!("written: {}, {} classes", out.display(), learned.classes.len()));
    let exit = if source.source().truncation().is_some() { Exit::Partly } else { Exit::Ok };
    let taught = |stream: &LabelledStream| shown.contains(&stream.name);
    Ok(Learned { exit, warning: capture.as_ref().and_then(|corpus| unnamed(&args.class, &learned, corpus, taught)) })
}

/// A warning if the learned model gives `class` to none of the streams of `corpus` that taught it. Of models with traces there is none: an
/// episode may name streams that are unknown by themselves.
fn unnamed(class: &str, learned: &Model, corpus: &Corpus, taught: impl Fn(&LabelledStream) -> bool) -> Option<String> {
    let names = names_of(learned, corpus, taught);
    if learned.layout.has_traces() || names.is_empty() || names.iter().flatten().any(|name| name == class) {
        return None;
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    names.iter().for_each(|name| *counts.entry(name.as_deref().unwrap_or("unknown")).or_default() += 1);
    let instead: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    Some(format!(
        "{class} names none of the streams that it was taught from ({}): teach it from packets with payload, from more streams or from \
         another capture",
        instead.join(", ")
    ))
}

/// Refuses a selection without packets, or one that names packets without payload.
fn check_selection(found: &SelectedPackets, selection: &PacketSelection, from: &str, any: bool) -> Result<()> {
    let empty: Vec<String> = found.patterns.iter().filter(|p| !p.content && !any).map(|p| p.packet.to_string()).collect();
    let instead: Vec<String> = found.instead.iter().take(super::LISTED).map(ToString::to_string).collect();
    let instead = if instead.is_empty() {
        "the capture has none in its stream".into()
    } else {
        format!("take --packet {}", instead.join(" or "))
    };
    if !empty.is_empty() {
        bail!(Refusal(format!(
            "{from}: packet {} carries no payload, and looks like the beginning of other protocols' streams: {instead}; --force uses it",
            empty.join(", ")
        )));
    }
    if !found.patterns.is_empty() {
        return Ok(());
    }
    let without = format!("{} packets without payload are not used, --force uses them", found.empty);
    match selection {
        PacketSelection::Packets(_) => bail!("{from}: no packet with that number can be decoded"),
        PacketSelection::Stream(_) | PacketSelection::Key(_) if found.empty > 0 => {
            bail!(Refusal(format!("{from}: the stream carries no payload ({without})")))
        }
        PacketSelection::Key(_) => bail!("{from}: the stream's packets are no longer there"),
        PacketSelection::Stream(text) => {
            bail!("{from}: no stream contains '{text}'; `spiked read --format jsonl --events streams {from}` lists them")
        }
        PacketSelection::Matching(_) if found.empty > 0 => {
            bail!(Refusal(format!("{from}: no packet that matches the filter carries payload ({without})")))
        }
        PacketSelection::Matching(_) => bail!("{from}: no packet that can be decoded matches the filter"),
    }
}

/// The first streams of the capture, for the harm check; `None` for standard input, which was read already.
fn streams_of(model: &Model, from: &Path, intake: &Intake) -> Result<Option<Corpus>> {
    if from.as_os_str() == "-" {
        eprintln!("spiked: standard input is read once: the harm check uses the built-in reference alone");
        return Ok(None);
    }
    let mut corpus = Corpus::new(model.key, model.layout.clone(), vec![String::new()]);
    corpus.limits = StreamLimits::default();
    let packets = FLOW_PACKETS.min(model.decision.max_packets as usize);
    let mut count = 0;
    let mut first = |_: &StreamName, _: Nanos| {
        count += 1;
        (count <= MAX_STREAMS).then(|| ClassId::new(0))
    };
    let mut source = intake.source(from)?;
    corpus.read_capture(&mut source, 0, packets, intake, &mut first)?;
    Ok(Some(corpus))
}

/// Makes neurons of packets.
struct Learner<'a> {
    args: &'a Args,
    model: &'a Model,
    layout: &'a Layout,
    checks: &'a Checks<'a>,
    /// File name of the capture.
    source: &'a str,
}

impl Learner<'_> {
    fn with(&self, neurons: &[OneShot]) -> Result<Model> {
        let model = self.model.with_one_shot(&self.args.class, neurons, self.args.tolerance, self.source);
        model.with_context(|| self.checks.from.clone())
    }

    /// A neuron for each packet that no other one fires for, and these packets. Of a stream or a filter, packets whose neuron does harm are
    /// left out.
    ///
    /// # Errors
    /// If a packet that was chosen by number does harm, or all of the others do.
    fn neurons<'p>(
        &self,
        found: &'p SelectedPackets,
        by_number: bool,
        report: &mut Vec<String>,
    ) -> Result<(Vec<&'p Pattern>, Vec<OneShot>)> {
        let tolerance = self.args.tolerance;
        let (mut used, mut neurons, mut refused) = (Vec::new(), Vec::<OneShot>::new(), Vec::new());
        for pattern in &found.patterns {
            let fires = |n: &OneShot| n.lowest(tolerance).is_some_and(|lowest| n.potential(&pattern.inputs) >= lowest);
            if neurons.len() == MAX_NEURONS || neurons.iter().any(fires) {
                continue;
            }
            let neuron = OneShot::train(self.layout, std::slice::from_ref(&pattern.inputs));
            if !self.args.force {
                let refusal = self.checks.refusal(&self.with(std::slice::from_ref(&neuron))?);
                if let Some(reason) = refusal {
                    let lower = self.lower(&neuron);
                    refused.push(format!("packet {} is not used: {reason}{lower}", pattern.packet));
                    continue;
                }
            }
            used.push(pattern);
            neurons.push(neuron);
        }
        if neurons.is_empty() || (by_number && !refused.is_empty()) {
            let reason = refused.first().map_or("no packet fires a neuron", String::as_str);
            bail!(Refusal(format!("{reason}; not written, --force writes it")));
        }
        report.append(&mut refused);
        Ok((used, neurons))
    }

    /// The largest smaller tolerance at which a neuron does no harm, as the end of a message.
    fn lower(&self, neuron: &OneShot) -> String {
        let harmless = |tolerance: f32| {
            let with = self.model.with_one_shot(&self.args.class, std::slice::from_ref(neuron), tolerance, self.source);
            with.is_ok_and(|with| self.checks.refusal(&with).is_none())
        };
        let lower = LOWER.into_iter().find(|&tolerance| tolerance < self.args.tolerance && harmless(tolerance));
        lower.map_or_else(String::new, |tolerance| format!(" (at --tolerance {tolerance} it does no harm)"))
    }
}

/// What was learned, one line for each neuron.
fn summary(args: &Args, neurons: &[OneShot]) -> Vec<String> {
    let line = |neuron: &OneShot| {
        format!(
            "{}: learned from one packet, which scores {}; packets are recognised from {} (--tolerance {})",
            args.class,
            neuron.theta().unwrap_or(0),
            neuron.lowest(args.tolerance).unwrap_or(0),
            args.tolerance,
        )
    };
    neurons.iter().map(line).collect()
}

/// Classification of one packet alone, as text.
fn describe(model: &Model, pattern: &Pattern) -> String {
    let slots = &pattern.volley.slots[..model.layout.slots().len()];
    let leader = model.classifier().classify([slots]);
    let Some(leader) = leader else { return "nothing".into() };
    let Leader { class, .. } = leader;
    let (name, confidence) = (&model.classes[class.index()], model.decision.confidence(&leader));
    match model.decision.class(&leader) {
        Some(_) => format!("{name}, confidence {confidence:.3}"),
        None => format!("unknown (nearest {name} at {confidence:.3}, named from {:.3})", model.decision.accept[class.index()]),
    }
}

fn from_labels(args: &Args, model: &Model, out: &Path) -> Result<Learned> {
    let source = Source::of_files(&args.labels, &args.captures, args.intake.clone());
    let labels = source.read_labels()?;
    same_kind(model, &labels, &args.model)?;
    if !labels.classes.contains(&args.class) {
        bail!("no stream is labelled '{}'; the labels are: {}", args.class, labels.classes.join(", "));
    }
    let settings = TrainSettings {
        packets_per_stream: model.decision.max_packets as usize,
        ..TrainSettings::new(model.key, model.provenance.seed)
    };
    let layout = masked(args, model, &["ports"])?;
    let (labelled, gathered) = source.gather(&labels, layout.clone(), settings.packets_per_stream)?;
    let mut corpus = Corpus::new(model.key, model.layout.clone(), labelled.classes.clone());
    append(&mut corpus, &labelled, "");
    if model.key == KeyKind::Flow {
        append(&mut corpus, &reference(&layout), &args.class);
    }
    if corpus.classes.len() < 2 {
        bail!("all labelled streams are of the class '{}'; a model of hosts needs streams of other classes too", args.class);
    }
    let own = corpus.classes.iter().position(|c| *c == args.class).map(ClassId::from_index);
    let (streams, packets) = own.map_or((0, 0), |own| corpus.shown(own));
    if streams == 0 {
        bail!("no stream labelled '{}' was found in its capture", args.class);
    }
    let sources = ClassSources { streams, packets, labels: source.label_names(), captures: labelled.captures.len() };
    let bar = progress(false, u64::from(settings.rule.passes) * (settings.folds as u64 + 1), "training");
    let learned = train::add_class(model, &mut corpus, &args.class, sources, &settings, &|| bar.inc(1))?;
    bar.finish_and_clear();
    say!("{}: trained on {streams} streams, {packets} packets", args.class);
    write_checked(&[model], &learned, out, args.force)?;
    let exit = if gathered.is_whole() { Exit::Ok } else { Exit::Partly };
    Ok(Learned { exit, warning: unnamed(&args.class, &learned, &corpus, |stream| Some(stream.class) == own) })
}

/// Adds the streams of `from` to a corpus with the same slots, except those of the class `without`.
fn append(corpus: &mut Corpus, from: &Corpus, without: &str) {
    let place = |corpus: &mut Corpus, class: &String| {
        let at = corpus.classes.iter().position(|c| c == class).unwrap_or(corpus.classes.len());
        if at == corpus.classes.len() {
            corpus.classes.push(class.clone());
        }
        ClassId::from_index(at)
    };
    for stream in from.streams.iter().filter(|s| from.classes[s.class.index()] != without) {
        let class = place(corpus, &from.classes[stream.class.index()]);
        let slots: Vec<u16> = from.volleys_of(stream).flatten().copied().collect();
        corpus.push(class, &slots);
        if let Some(added) = corpus.streams.last_mut() {
            added.start.clone_from(&stream.start);
        }
    }
}
