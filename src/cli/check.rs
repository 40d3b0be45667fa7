//! `spiked check`: validates the settings, models, filters and folders that `spiked run` would use.

#[cfg(feature = "fleet")]
use std::path::Path;

use anyhow::Result;
use clap::Args as ClapArgs;

#[cfg(feature = "fleet")]
use crate::config::FleetConfig;
use crate::daemon;
#[cfg(feature = "fleet")]
use crate::fleet::check;
#[cfg(feature = "fleet")]
use crate::fleet::connection::{FleetError, runtime};

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
    let source = args.settings.source()?;
    let (config, preflight) = daemon::check(&source)?;
    preflight.warnings.iter().for_each(|warning| eprintln!("spiked: {warning}"));
    #[cfg(feature = "fleet")]
    if let Some(fleet) = &config.fleet {
        let exit = check_fleet(fleet, &source.path)?;
        if exit != Exit::Ok {
            return Ok(exit);
        }
    }
    let classes: usize = preflight.models.iter().map(|m| m.classes.len()).sum();
    say!(
        "{}: ok (models: {}, classes: {classes}, policies: {}, sinks: {})",
        source.path.display(),
        preflight.models.len(),
        config.policies.len(),
        config.sinks.len()
    );
    Ok(Exit::Ok)
}

/// Asks the servers of the fleet for their version and permissions. That none can be reached is no mistake of the settings.
#[cfg(feature = "fleet")]
fn check_fleet(config: &FleetConfig, path: &Path) -> Result<Exit> {
    let path = path.display();
    match runtime()?.block_on(check::check(config)) {
        Ok(version) => say!("{path}: fleet: ok: nats-server {version}, events of '{}' may be published", config.sensor),
        Err(error @ FleetError::Connection(_)) => {
            eprintln!("spiked: {path}: fleet: not checked, no server can be reached: {error}")
        }
        Err(error) => {
            eprintln!("spiked: {path}: fleet: {error}");
            return Ok(if matches!(error, FleetError::Permission(_)) { Exit::NoPrivilege } else { Exit::Misconfigured });
        }
    }
    Ok(Exit::Ok)
}
