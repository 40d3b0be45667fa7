//! How is it asked? One file a command; `exit` says how each may end.

#[macro_use]
mod exit;

mod check;
mod eval;
mod features;
mod generate;
mod learn;
mod model;
mod paper;
mod read;
mod reload;
mod report;
mod run;
mod train;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::encode::Layout;

use exit::{Exit, OutputError};

#[derive(Parser)]
#[command(
    name = "spiked",
    version,
    about = "Names the streams in network traffic with a spiking neural network that learned them from labelled captures",
    after_help = format!("{}\n\n`spiked COMMAND --help` shows examples.", exit::HELP),
    propagate_version = true,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Read(read::Args),
    Run(run::Args),
    Check(check::Args),
    Reload(reload::Args),
    Train(train::Args),
    Learn(learn::Args),
    Eval(eval::Args),
    Model(model::Args),
    Paper(paper::Args),
    Report(report::Args),
    Volleys(features::Args),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// Runs the command line; errors go to standard error, one line a cause.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // SAFETY: called before any thread is started, with the system's own handler. A reader of our output that has gone, as `head`
    // does, ends the program silently, as users of other commands expect.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let result = match cli.command {
        Command::Read(args) => read::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Paper(args) => paper::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Volleys(args) => features::run(&args),
        Command::Completions(args) => Ok(generate::completions(&args, Cli::command())),
        Command::Man(args) => generate::man(&args, Cli::command()),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("spiked: {error:#}");
            Exit::of(&error).into()
        }
    }
}

/// Silences what `--without` names.
fn silence(layout: &mut Layout, names: &[String]) -> anyhow::Result<()> {
    names.iter().try_for_each(|name| layout.without(name).with_context(|| format!("--without {name}")))
}

/// A bar on standard error for work of `length` steps, where a person looks; else nothing.
fn progress(quiet: bool, length: u64, what: &'static str) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Names at most so many of a longer list.
const NAMED: usize = 5;

/// Tells on standard error what was found wrong with the input and not used: how many, and the first few.
fn complain(what: &str, list: &[String]) {
    if !list.is_empty() {
        eprintln!("spiked: {} {what}:", list.len());
        for line in list.iter().take(NAMED) {
            eprintln!("  {line}");
        }
        if list.len() > NAMED {
            eprintln!("  and {} more", list.len() - NAMED);
        }
    }
}
