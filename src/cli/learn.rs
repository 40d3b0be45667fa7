//! `spiked learn`: a class more, from one packet.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args as ClapArgs};

use crate::capture::{CaptureFile, Filter};
use crate::model::{self, Model, is_class_name};
use crate::packet::Decoder;
use crate::snn::OneShot;
use crate::stream::Leader;
use crate::train::one_packet::{self, PacketSelection, Pattern, TOLERANCE, WITHOUT};

use super::{Exit, silence};

/// Adds a class to a model from one packet, or a few
#[derive(ClapArgs)]
#[command(
    group = ArgGroup::new("pointed").required(true).args(["packet", "stream", "filter"]),
    after_help = "The founding paper's rule: one presentation, potentiation, one homeostatic factor (Davies et al. 2025). The tolerance\n\
    multiplies the smallest factor that makes the neuron fire for what it was shown: at 1 only such packets fire it, at T all whose\n\
    slots agree with it, less those that differ, in a share of 1/T. Point at a packet that carries payload: the first packet of a\n\
    stream looks like many others. README.md has what such neurons find, at what false alarms.\n\n\
    Examples:\n  \
    spiked learn --from odd.pcap --packet 4 --class odd --model mine.safetensors\n  \
    spiked learn --from odd.pcap --stream 10.0.0.1:7777 --class odd --tolerance 2 --model mine.safetensors --out more.safetensors\n  \
    spiked learn --from odd.pcap --filter 'udp port 7777' --class odd --model mine.safetensors"
)]
pub struct Args {
    /// Capture
    #[arg(long, value_name = "CAPTURE")]
    from: PathBuf,
    /// Number of the packet, from 1 as Wireshark counts; several: the neuron is shown each once
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    packet: Vec<u64>,
    /// The packets of the first stream whose description holds this text
    #[arg(long, value_name = "TEXT")]
    stream: Option<String>,
    /// The packets that a BPF expression admits
    #[arg(long, value_name = "BPF")]
    filter: Option<String>,
    /// Name of the class
    #[arg(long, value_name = "NAME")]
    class: String,
    /// How much more easily the neuron fires than for what it was shown alone; at least 1
    #[arg(long, value_name = "T", default_value_t = TOLERANCE)]
    tolerance: f32,
    /// Slots that the neuron does not look at; `none` for all to count
    #[arg(long, value_name = "SLOTS", value_delimiter = ',', default_values = WITHOUT)]
    without: Vec<String>,
    /// Model file
    #[arg(long, short, value_name = "FILE")]
    model: PathBuf,
    /// Model file to write [default: the model file itself, replaced whole]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not look into GRE, VXLAN and IP-in-IP tunnels
    #[arg(long)]
    no_tunnels: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    if !(args.tolerance >= 1.0 && args.tolerance.is_finite()) {
        bail!("--tolerance {}: at least 1, where only packets like the one shown fire the neuron", args.tolerance);
    }
    if !is_class_name(&args.class) {
        bail!("--class {:?}: a name holds no control characters", args.class);
    }
    if args.class.is_empty() {
        bail!("--class: the name is empty");
    }
    let model = Model::load(&args.model)?;
    let mut layout = model.layout.clone();
    if args.without != ["none"] {
        silence(&mut layout, &args.without)?;
    }
    let mut pointed = match (&args.stream, &args.filter) {
        (Some(text), _) => PacketSelection::Stream(text.clone()),
        (_, Some(expression)) => PacketSelection::Admitted(Filter::new(expression)?),
        _ => PacketSelection::Packets(args.packet.clone()),
    };
    let mut source = CaptureFile::open(&args.from)?;
    let decoder = Decoder { open_tunnels: !args.no_tunnels };
    let (shown, more) = one_packet::patterns(&mut source, model.key, &layout, &decoder, &mut pointed)?;
    let from = args.from.display();
    if shown.is_empty() {
        match pointed {
            PacketSelection::Packets(_) => bail!("{from}: no packet of that number can be decoded"),
            PacketSelection::Stream(text) => bail!("{from}: no stream holds '{text}'; `spiked read {from}` lists them"),
            PacketSelection::Admitted(_) => bail!("{from}: the filter admits no packet that can be decoded"),
        }
    }
    let patterns: Vec<Vec<u32>> = shown.iter().map(|p| p.inputs.clone()).collect();
    let neuron = OneShot::teach(&layout, &patterns);
    let name = args.from.file_name().map_or_else(|| from.to_string(), |n| n.to_string_lossy().into_owned());
    let learned = model.with_one_shot(&args.class, &neuron, args.tolerance, &name).with_context(|| format!("{from}"))?;
    let out = args.out.as_ref().unwrap_or(&args.model);
    for pattern in shown.iter().take(super::NAMED) {
        say!("packet {:<6} {}; before, the model said {}", pattern.packet, pattern.stream, describe(&model, pattern));
    }
    if shown.len() > super::NAMED {
        say!("and {} more", shown.len() - super::NAMED);
    }
    if more > 0 {
        eprintln!(
            "spiked: {more} packets more were pointed at than the {} that one neuron can hold; they are not used",
            OneShot::MOST
        );
    }
    let (factor, lowest) = (neuron.factor().unwrap_or(0.0), neuron.lowest(args.tolerance).unwrap_or(0));
    say!(
        "{}: {} packet{} shown once; homeostatic factor {:.4}, {} times the smallest; fires from a potential of {lowest} (shown: {})",
        args.class,
        shown.len(),
        if shown.len() == 1 { "" } else { "s" },
        factor * f64::from(args.tolerance),
        args.tolerance,
        neuron.theta().unwrap_or(0),
    );
    learned.save(out)?;
    say!("written: {}, {} classes", out.display(), learned.classes.len());
    Ok(if source.cut().is_some() || more > 0 { Exit::Partly } else { Exit::Ok })
}

/// What a model says of one packet alone.
fn describe(model: &Model, pattern: &Pattern) -> String {
    let slots = &pattern.volley.slots[..model.layout.slots().len()];
    let said = model::classify(&model.network, &model.decision, &model.layout, std::iter::once(slots));
    let Some(leader) = said else { return "nothing".into() };
    let Leader { class, .. } = leader;
    let (name, confidence) = (&model.classes[class as usize], model.decision.confidence(&leader));
    match model.decision.class(&leader) {
        Some(_) => format!("{name}, confidence {confidence:.3}"),
        None => format!("unknown (nearest {name}, {confidence:.3})"),
    }
}
