//! `spiked model`: looks into a model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use crate::capture::CaptureFile;
use crate::evaluate::{HeardPacket, contributions, hear};
use crate::model::Model;
use crate::packet::{Decoder, KeyKind};

use super::Exit;

/// Looks into a model file
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
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
    Join {
        /// Model file
        a: PathBuf,
        /// Model file of the same layout
        b: PathBuf,
        /// Model file to write
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
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
        Command::Join { a, b, out } => write(&Model::load(a)?.join(&Model::load(b)?)?, out),
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
    Ok(Exit::Fine)
}

#[cfg(feature = "nir")]
fn export(model: &Model, nir: &Path) -> Result<Exit> {
    model.save_nir(nir)?;
    say!("written: {}, {} neurons over {} inputs", nir.display(), model.network.neurons(), model.network.inputs());
    Ok(Exit::Fine)
}

#[cfg(not(feature = "nir"))]
fn export(_: &Model, _: &Path) -> Result<Exit> {
    bail!("this spiked was built without NIR export; build it with: cargo build --release --features nir")
}

fn show(model: &Model, json: bool) -> Result<Exit> {
    if json {
        say!("{}", serde_json::to_string_pretty(&model.description())?);
        return Ok(Exit::Fine);
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
    say!("\n{:<28} {:>8} {:>8} {:>10} {:>10}", "class", "streams", "packets", "threshold", "accepted");
    for (i, class) in model.classes.iter().enumerate() {
        let (theta, accept) = (model.decision.theta[i], model.decision.accept[i]);
        say!("{class:<28} {:>8} {:>8} {theta:>10.3} {accept:>10.3}", p.streams[i], p.packets[i]);
    }
    say!("\nthreshold: membrane potential at which the neuron spikes; accepted: confidence from which a stream is named");
    Ok(Exit::Fine)
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
    Ok(Exit::Fine)
}

/// The class with the most evidence but `leader`.
fn rival(evidence: &[f32], leader: u16) -> Option<usize> {
    (0..evidence.len()).filter(|&c| c != leader as usize).max_by(|&a, &b| evidence[a].total_cmp(&evidence[b]))
}

/// What each slot added to the leader's potential, and to its lead over the rival, with the values that it had.
fn table_of_fields(model: &Model, heard: &[HeardPacket], leader: usize, rival: Option<usize>, fields: usize) {
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
