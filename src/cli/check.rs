//! `spiked check`: would it run? All mistakes of the settings at once.

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::daemon;

use super::Exit;
use super::run::ConfigArgs;

/// Checks settings: every mistake at once, each with its place and what to do; opens models, filters and folders
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked check --config /etc/spiked/spiked.toml && systemctl reload spiked")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
}

pub fn run(args: &Args) -> Result<Exit> {
    let (config, origin) = args.settings.load()?;
    let examined = match daemon::preflight(&config) {
        Ok(examined) => examined,
        Err(wrong) => {
            wrong.iter().for_each(|w| eprintln!("spiked: {}: {w}", origin.path.display()));
            return Ok(Exit::Misconfigured);
        }
    };
    examined.warnings.iter().for_each(|w| eprintln!("spiked: {}: {w}", origin.path.display()));
    let classes: usize = examined.models.iter().map(|m| m.classes.len()).sum();
    say!(
        "{}: fine: {} models with {classes} classes, {} policies, {} sinks",
        origin.path.display(),
        examined.models.len(),
        config.policies.len(),
        config.sinks.len()
    );
    Ok(Exit::Ok)
}
