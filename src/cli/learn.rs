//! `spiked learn`: adds a class to a model from one packet or a few.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args as ClapArgs};

use crate::capture::{CaptureFile, Filter};
use crate::model::{Model, is_class_name};
use crate::packet::Decoder;
use crate::snn::OneShot;
use crate::stream::Leader;
use crate::train::one_packet::{self, DEFAULT_MASK, PacketSelection, Pattern, TOLERANCE};

use super::{Exit, mask};

/// Adds a class to a model from one packet, or a few
#[derive(ClapArgs)]
#[command(
    group = ArgGroup::new("pointed").required(true).args(["packet", "stream", "filter"]),
    after_help = "Uses the founding paper's one-shot rule: one presentation, potentiation, one homeostatic factor (Davies et al. 2025). The\n\
    tolerance T multiplies the smallest factor that makes the neuron fire for the packets shown: at 1 only identical packets fire\n\
    it; at T, packets fire it if the slots that agree, minus those that differ, make up a share of at least 1/T. Choose a packet\n\
    that carries payload: the first packet of a stream looks like that of many others.\n\n\
    Examples:\n  \
    spiked learn --from odd.pcap --packet 4 --class odd --model mine.safetensors\n  \
    spiked learn --from odd.pcap --stream 10.0.0.1:7777 --class odd --tolerance 2 --model mine.safetensors --out more.safetensors\n  \
    spiked learn --from odd.pcap --filter 'udp port 7777' --class odd --model mine.safetensors"
)]
pub struct Args {
    /// Capture to learn from
    #[arg(long, value_name = "CAPTURE")]
    from: PathBuf,
    /// Packet number, counted from 1 as Wireshark does; several numbers show the neuron each packet once
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    packet: Vec<u64>,
    /// Packets of the first stream whose description contains this text
    #[arg(long, value_name = "TEXT")]
    stream: Option<String>,
    /// Packets that match a BPF filter
    #[arg(long, value_name = "BPF")]
    filter: Option<String>,
    /// Name of the new class
    #[arg(long, value_name = "NAME")]
    class: String,
    /// Factor by which the neuron fires more easily than the packets shown require; at least 1
    #[arg(long, value_name = "T", default_value_t = TOLERANCE)]
    tolerance: f32,
    /// Slots that the neuron ignores; `none` makes it use all slots
    #[arg(long, value_name = "SLOTS", value_delimiter = ',', default_values = DEFAULT_MASK)]
    mask: Vec<String>,
    /// Model file
    #[arg(long, short, value_name = "FILE")]
    model: PathBuf,
    /// Model file to write [default: replaces the model file]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Does not decapsulate tunnels (GRE, VXLAN, GTP-U, IP-in-IP and others)
    #[arg(long)]
    no_tunnels: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
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
    let model = Model::load(&args.model)?;
    let mut layout = model.layout.clone();
    if args.mask != ["none"] {
        mask(&mut layout, &args.mask)?;
    }
    let mut selection = match (&args.stream, &args.filter) {
        (Some(text), _) => PacketSelection::Stream(text.clone()),
        (_, Some(expression)) => PacketSelection::Matching(Filter::new(expression)?),
        _ => PacketSelection::Packets(args.packet.clone()),
    };
    let mut source = CaptureFile::open(&args.from)?;
    let decoder = Decoder::new(!args.no_tunnels);
    let (shown, more) = one_packet::patterns(&mut source, model.key, &layout, &decoder, &mut selection)?;
    let from = args.from.display();
    if shown.is_empty() {
        match selection {
            PacketSelection::Packets(_) => bail!("{from}: no packet with that number can be decoded"),
            PacketSelection::Stream(text) => {
                bail!("{from}: no stream contains '{text}'; `spiked read --format jsonl --events streams {from}` lists them")
            }
            PacketSelection::Matching(_) => bail!("{from}: no packet that can be decoded matches the filter"),
        }
    }
    let patterns: Vec<Vec<u32>> = shown.iter().map(|p| p.inputs.clone()).collect();
    let neuron = OneShot::train(&layout, &patterns);
    let name = args.from.file_name().map_or_else(|| from.to_string(), |n| n.to_string_lossy().into_owned());
    let learned = model.with_one_shot(&args.class, &neuron, args.tolerance, &name).with_context(|| format!("{from}"))?;
    let out = args.out.as_ref().unwrap_or(&args.model);
    for pattern in shown.iter().take(super::LISTED) {
        say!("packet {:<6} {}; classified so far as {}", pattern.packet, pattern.stream, describe(&model, pattern));
    }
    if shown.len() > super::LISTED {
        say!("and {} more", shown.len() - super::LISTED);
    }
    if more > 0 {
        eprintln!("spiked: {more} of the selected packets are not used: one neuron can hold {}", OneShot::MOST);
    }
    let (factor, lowest) = (neuron.factor().unwrap_or(0.0), neuron.lowest(args.tolerance).unwrap_or(0));
    say!(
        "{}: {} packet{} shown once; homeostatic factor {:.4} ({} times the smallest); threshold {lowest}, the packets shown score {}",
        args.class,
        shown.len(),
        if shown.len() == 1 { "" } else { "s" },
        factor * f64::from(args.tolerance),
        args.tolerance,
        neuron.theta().unwrap_or(0),
    );
    learned.save(out)?;
    say!("written: {}, {} classes", out.display(), learned.classes.len());
    Ok(if source.truncation().is_some() || more > 0 { Exit::Partly } else { Exit::Ok })
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
        None => format!("unknown (nearest {name}, {confidence:.3})"),
    }
}
