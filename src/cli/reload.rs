//! `spiked reload`: has the running daemon read its settings and models anew, and tells how it went.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{self, StatusFile};

use super::Exit;
use super::run::ConfigArgs;

/// Checks settings, then has the running daemon read them anew and waits for the outcome
#[derive(ClapArgs)]
#[command(after_help = "What is bad leaves the old settings and models running; the exit code is 2 then.")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Longest wait for the outcome, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

pub fn run(args: &Args) -> Result<Exit> {
    let (config, origin) = args.settings.load()?;
    if let Err(wrong) = daemon::preflight(&config) {
        wrong.iter().for_each(|w| eprintln!("spiked: {}: {w}", origin.path.display()));
        eprintln!("spiked: not reloaded");
        return Ok(Exit::Misconfigured);
    }
    let file = &config.process.status_file;
    let before = StatusFile::read(file)
        .with_context(|| format!("{}: no daemon has written there (process.status_file); does it run?", file.display()))?;
    let pid = i32::try_from(before.pid).ok().and_then(Pid::from_raw).context("the status file names no process")?;
    // The number may have been given to another process since.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", before.pid)).unwrap_or_default();
    if name.trim() != "spiked" {
        bail!("{}: process {} is no longer spiked; remove the file", file.display(), before.pid);
    }
    kill_process(pid, Signal::HUP)
        .map_err(std::io::Error::from)
        .with_context(|| format!("can't signal the daemon, process {}", before.pid))?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        let now = StatusFile::read(file).context("the daemon has ended meanwhile")?;
        if let Some(outcome) = now.last_reload.filter(|_| now.reloads > before.reloads) {
            if outcome.ok {
                say!("reloaded: {}", outcome.what);
                return Ok(Exit::Ok);
            }
            eprintln!("spiked: not reloaded, the old settings and models go on: {}", outcome.what);
            return Ok(Exit::Misconfigured);
        }
    }
    eprintln!("spiked: the daemon, process {}, has not said within {} s how the reload went", before.pid, args.timeout);
    Ok(Exit::Partly)
}
