//! `spiked run`: the daemon.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::config::{Config, Override};
use crate::daemon::{self, ConfigSource};

use super::Exit;

/// Options for locating the settings, shared by run, check and reload
#[derive(ClapArgs, Clone)]
pub struct ConfigArgs {
    /// Settings file (TOML); `config/spiked.toml` documents every key
    #[arg(long, short, value_name = "FILE", default_value = "/etc/spiked/spiked.toml")]
    config: PathBuf,
    /// Overrides a key of the file and the environment, such as metrics.address=127.0.0.1:9185; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = Override::from_argument)]
    set: Vec<Override>,
}

impl ConfigArgs {
    /// The settings file, overridden by the environment, overridden by `--set`.
    pub(super) fn source(&self) -> Result<ConfigSource> {
        let variables = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        let mut overrides = Override::from_environment(variables)?;
        overrides.extend(self.set.iter().cloned());
        Ok(ConfigSource { path: self.config.clone(), overrides })
    }

    pub(super) fn load(&self) -> Result<(Config, ConfigSource)> {
        let source = self.source()?;
        Ok((source.load()?, source))
    }
}

/// Classifies streams continuously: from interfaces, a replay or a watched folder
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked run --config /etc/spiked/spiked.toml\n  \
    spiked run --config spiked.toml --set 'interfaces=[{name=\"eth1\"}]'\n  \
    SPIKED_METRICS_ADDRESS=0.0.0.0:9184 spiked run --config spiked.toml\n\n\
    Signals:\n  \
    SIGHUP   reloads settings and models (`spiked reload` does so and reports the outcome) and reopens files\n  \
    SIGUSR1  logs a summary of the state\n  \
    SIGTERM  drains queues, flushes events and exits within 5 s")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
}

#[expect(unsafe_code, reason = "sets the disposition of a signal")]
pub fn run(args: &Args) -> Result<Exit> {
    // SAFETY: no thread has been started yet, and SIG_IGN is a valid handler. A sink whose reader has gone must not end the daemon.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    let (config, source) = args.settings.load()?;
    let end = daemon::run(config, source)?;
    Ok(if end.counters.frames == 0 && end.finite { Exit::Nothing } else { Exit::Ok })
}
