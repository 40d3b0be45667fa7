//! `spiked run`: names streams as they pass, day and night.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::config::{Config, Override};
use crate::daemon::{self, ConfigSource};

use super::Exit;

/// Where settings come from; the same for run, check and reload
#[derive(ClapArgs, Clone)]
pub struct ConfigArgs {
    /// ConfigArgs file (TOML); `config/spiked.toml` documents every key
    #[arg(long, short, value_name = "FILE", default_value = "/etc/spiked/spiked.toml")]
    config: PathBuf,
    /// Sets a key over the file and the environment, such as metrics.address=127.0.0.1:9185; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = Override::from_argument)]
    set: Vec<Override>,
}

impl ConfigArgs {
    /// The file, the environment over it, and the arguments over both.
    pub(super) fn origin(&self) -> Result<ConfigSource> {
        let variables = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        let mut overrides = Override::from_environment(variables)?;
        overrides.extend(self.set.iter().cloned());
        Ok(ConfigSource { path: self.config.clone(), overrides })
    }

    pub(super) fn load(&self) -> Result<(Config, ConfigSource)> {
        let origin = self.origin()?;
        Ok((origin.load()?, origin))
    }
}

/// Names streams as they pass: live interfaces, a replay, or a watched folder
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked run --config /etc/spiked/spiked.toml\n  \
    spiked run --config spiked.toml --set 'interfaces=[{name=\"eth1\"}]'\n  \
    SPIKED_METRICS_ADDRESS=0.0.0.0:9184 spiked run --config spiked.toml\n\n\
    Signals:\n  \
    SIGHUP   reads settings and models anew (`spiked reload` does it and tells how it went), reopens files\n  \
    SIGUSR1  logs a summary of the state\n  \
    SIGTERM  takes what was captured, writes what is known, ends within 5 s")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
}

pub fn run(args: &Args) -> Result<Exit> {
    // SAFETY: called before any thread is started, with the system's own handler. A sink whose reader has gone must not end us.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    let (config, origin) = args.settings.load()?;
    let end = daemon::run(config, origin)?;
    Ok(if end.counters.frames == 0 && end.finite { Exit::Nothing } else { Exit::Ok })
}
