//! `spiked reload`: makes the running daemon reload its settings and models, and reports the outcome.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{self, StatusFile};

use super::Exit;
use super::run::ConfigArgs;

/// Checks the settings, makes the running daemon reload them, and waits for the outcome
#[derive(ClapArgs)]
#[command(after_help = "If anything is wrong, the daemon keeps its settings and models, and the exit code is 2.")]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Seconds to wait for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

pub fn run(args: &Args) -> Result<Exit> {
    let (config, _) = daemon::check(&args.settings.source()?).context("not reloaded")?;
    let file = &config.process.status_file;
    let before = StatusFile::read(file).with_context(|| {
        format!("{}: can't read the daemon's status file (process.status_file); is the daemon running?", file.display())
    })?;
    let pid = i32::try_from(before.pid).ok().and_then(Pid::from_raw).context("the status file does not name a process")?;
    // The kernel may have reused the process id.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", before.pid)).unwrap_or_default();
    if name.trim() != "spiked" {
        bail!("{}: process {} is not spiked; the daemon has ended: remove the file", file.display(), before.pid);
    }
    kill_process(pid, Signal::HUP)
        .map_err(std::io::Error::from)
        .with_context(|| format!("can't signal the daemon, process {}", before.pid))?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        let now = StatusFile::read(file).context("the daemon ended during the reload")?;
        if let Some(outcome) = now.last_reload.filter(|_| now.reloads > before.reloads) {
            if outcome.ok {
                say!("reloaded: {}", outcome.what);
                return Ok(Exit::Ok);
            }
            eprintln!("spiked: not reloaded; the daemon keeps its settings and models: {}", outcome.what);
            return Ok(Exit::Misconfigured);
        }
    }
    eprintln!("spiked: the daemon (process {}) did not report the outcome of the reload within {} s", before.pid, args.timeout);
    Ok(Exit::Partly)
}
