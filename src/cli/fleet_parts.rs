//! `spiked fleet curate`, `parts` and `approve`: what one sensor learned, for all sensors of its group.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args as ClapArgs;
use serde_json::json;

use crate::config::FleetConfig;
use crate::fleet::curator::{self, CuratorSettings, describe};
use crate::fleet::gate::{GatherReference, PartGate};
use crate::fleet::parts::{PartEntries, PartState, state_word};
use crate::fleet::sign::SigningKey;
use crate::fleet::verify::TrustedKeys;
use crate::model::Model;

use super::Exit;
use super::fleet::{ServerArgs, check_name};
use super::train::Source;

/// Puts the classes that sensors have learned into the model of their group, once they are approved
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked fleet curate --group edge --signing-key minisign.key --trusted-key RWQ... --name models\n  \
    spiked fleet curate --group edge --signing-key minisign.key --auto --labels test.csv --captures captures/\n\n\
    It tries each class on the built-in reference, and on labelled captures if there are any; then the sensors of the group try it on\n\
    their own streams and answer with numbers. `spiked fleet parts` lists the classes and the votes,\n\
    `spiked fleet approve` approves one. One process curates a group; others wait and take over when it ends.")]
pub struct CurateArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Group of sensors, as fleet.group
    #[arg(long, value_name = "NAME", default_value = "default")]
    group: String,
    /// Secret key of minisign that signs the group's models
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// File with the password of the secret key
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Another public key that may have signed the group's model; may be repeated
    #[arg(long = "trusted-key", value_name = "KEY")]
    trusted_keys: Vec<String>,
    /// Share of the sensors of the group that get a new version
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// Approve what does no harm and reaches --min-accuracy
    #[arg(long)]
    auto: bool,
    /// Lowest accuracy for --auto, 0 to 1: what the sensor states, and the share of the class's streams named in labelled captures
    #[arg(long, value_name = "X", default_value_t = 0.9, requires = "auto")]
    min_accuracy: f64,
    /// Fewest sensors that must have tried a class on 20 streams of their own or more
    #[arg(long, value_name = "N", default_value_t = 0)]
    votes: usize,
    /// Time to wait for the sensors that run the model
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    vote_seconds: u64,
    #[command(flatten)]
    source: Source,
}

/// Lists the classes that sensors have learned and what became of them
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet parts --json | jq '.parts[] | select(.state == \"candidate\")'")]
pub struct PartsArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Approves a class that a sensor has learned: `spiked fleet curate` publishes it
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet approve north gearman --sha256 3f9a --name models")]
pub struct ApproveArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// The sensor that learned it
    #[arg(value_name = "SENSOR")]
    sensor: String,
    /// The class
    #[arg(value_name = "CLASS")]
    class: String,
    /// Name of the model, if the sensor has learned the class for several
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Begin of the SHA-256 in the list: approve only this one, not a later one
    #[arg(long, value_name = "DIGITS", default_value = "")]
    sha256: String,
}

pub async fn curate(args: &CurateArgs) -> Result<Exit> {
    check_name(&args.group)?;
    if !(0.0..=1.0).contains(&args.min_accuracy) {
        bail!("--min-accuracy {} is out of range (0 to 1)", args.min_accuracy);
    }
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| path.display().to_string());
    let password = args.password_file.as_ref().map(read).transpose()?.map(|text| text.trim_end().to_string());
    let key = SigningKey::new(&read(&args.signing_key)?, password)
        .map_err(|error| anyhow!("{}: {error}; an encrypted key needs --password-file", args.signing_key.display()))?;
    let own = key.public().map_err(|error| anyhow!("{}: {error}", args.signing_key.display()))?;
    let trusted_keys = args.trusted_keys.iter().cloned().chain([own]).collect();
    let trusted = TrustedKeys::new(&FleetConfig { trusted_keys, ..FleetConfig::default() }).context("--trusted-key")?;
    let gather = gather(&args.source)?;
    let connection = args.servers.connect().await?;
    let settings = CuratorSettings {
        group: args.group.clone(),
        holder: format!("{}-{}", args.servers.name(), std::process::id()),
        percent: args.percent,
        auto: args.auto.then_some(args.min_accuracy),
        votes: args.votes,
        vote_time: Duration::from_secs(args.vote_seconds),
        key,
        trusted,
    };
    // A reader that has gone does not end the curator.
    let log = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
    let Err(error) = curator::curate(&connection, &settings, PartGate::new(gather), &log).await;
    Err(error.into())
}

/// Reads the labelled captures, if any are given.
fn gather(source: &Source) -> Result<GatherReference> {
    if !source.is_given() {
        return Ok(Box::new(|_| Ok(None)));
    }
    let (source, labels) = (source.clone(), source.read_labels()?);
    Ok(Box::new(move |model: &Model| {
        if labels.key != model.key {
            return Ok(None);
        }
        let packets = model.decision.max_packets as usize;
        let gathered = source.gather(&labels, model.layout.clone(), packets);
        gathered.map(|(corpus, _)| Some(corpus)).map_err(|error| format!("the labelled captures can't be read: {error:#}"))
    }))
}

pub async fn parts(args: &PartsArgs) -> Result<Exit> {
    let (all, invalid) = PartEntries::open(&args.servers.connect().await?).await?.all().await?;
    let exit = if invalid.is_empty() { Exit::Ok } else { Exit::Partly };
    if args.json {
        let object = |(name, entry): &(_, crate::fleet::parts::PartEntry)| {
            let mut object = json!(entry);
            if let (Some(fields), serde_json::Value::Object(name)) = (object.as_object_mut(), json!(name)) {
                fields.extend(name);
                fields.remove("message");
                fields.remove("tried");
            }
            object
        };
        let list: Vec<_> = all.iter().map(object).collect();
        say!("{}", serde_json::to_string_pretty(&json!({ "parts": list, "invalid": invalid }))?);
        return Ok(exit);
    }
    invalid.iter().for_each(|error| say!("{error}"));
    for (name, entry) in &all {
        let version = entry.version.map_or_else(String::new, |version| format!(" in version {version}"));
        let group = &entry.figures.group;
        let state = state_word(entry.state);
        say!("{} {} of {}, group {group}: {state}{version}, SHA-256 {:.12}", name.sensor, name.class, name.model, entry.sha256);
        say!("  {}", describe(entry));
        for (sensor, vote) in &entry.votes {
            let few = if vote.counts() { "" } else { ", too few to count" };
            say!(
                "  vote of {sensor}: claims {} of {} streams of other classes, {} keep theirs{few}",
                vote.claimed,
                vote.streams,
                vote.agreed
            );
        }
        entry.reason.iter().for_each(|reason| say!("  {reason}"));
    }
    if all.iter().any(|(_, entry)| entry.state == PartState::Candidate) {
        say!("approve with `spiked fleet approve SENSOR CLASS`");
    }
    Ok(exit)
}

pub async fn approve(args: &ApproveArgs) -> Result<Exit> {
    let entries = PartEntries::open(&args.servers.connect().await?).await?;
    let (name, entry) = entries.approve((&args.sensor, &args.class), args.model.as_deref(), &args.sha256).await?;
    say!("{} of {} from {}: approved, SHA-256 {:.12}, {}", name.class, name.model, name.sensor, entry.sha256, describe(&entry));
    Ok(Exit::Ok)
}
