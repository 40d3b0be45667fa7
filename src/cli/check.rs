//! `spiked check`: validates the settings, models, filters and folders that `spiked run` would use.

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::daemon;

use super::Exit;
use super::run::ConfigArgs;

/// Checks settings and everything they refer to: reports every mistake at once, with its line and what to do
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked check --config /etc/spiked/spiked.toml && systemctl reload spiked")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
}

pub fn run(args: &Args) -> Result<Exit> {
    let (config, source) = args.settings.load()?;
    let preflight = match daemon::preflight(&config) {
        Ok(preflight) => preflight,
        Err(wrong) => {
            wrong.iter().for_each(|w| eprintln!("spiked: {}: {w}", source.path.display()));
            return Ok(Exit::Misconfigured);
        }
    };
    preflight.warnings.iter().for_each(|w| eprintln!("spiked: {}: {w}", source.path.display()));
    let classes: usize = preflight.models.iter().map(|m| m.classes.len()).sum();
    say!(
        "{}: ok: {} models with {classes} classes, {} policies, {} sinks",
        source.path.display(),
        preflight.models.len(),
        config.policies.len(),
        config.sinks.len()
    );
    Ok(Exit::Ok)
}
