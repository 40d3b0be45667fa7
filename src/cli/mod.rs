//! Command line: one file per command. `exit` defines the exit codes.

#[macro_use]
mod exit;

mod check;
mod eval;
mod features;
#[cfg(feature = "fleet")]
mod fleet;
#[cfg(feature = "fleet")]
mod fleet_jobs;
#[cfg(feature = "fleet")]
mod fleet_parts;
mod generate;
mod harm;
mod intake;
mod learn;
mod live;
mod model;
mod paper;
mod read;
mod reload;
mod report;
mod run;
mod top;
mod train;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory, FromArgMatches as _, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::encode::Layout;

use exit::{Exit, OutputError};

/// Examples of the program's help.
const EXAMPLES: &str = "Examples:\n  \
    spiked read capture.pcap                              the streams of a capture by class\n  \
    spiked learn --from odd.pcap --packet 4 --class odd --out mine.safetensors\n  \
    spiked read --model mine.safetensors captures/        finds what the packet taught\n  \
    spiked top -i eth0                                    live view in the terminal\n  \
    spiked train --labels labels.csv --captures captures/\n  \
    spiked run --config /etc/spiked/spiked.toml           classifies live traffic";

/// Help of a command: the examples, then the options.
const COMMAND_HELP: &str = "{about-with-newline}\n{usage-heading} {usage}{after-help}\n\n{all-args}";

#[derive(Parser)]
#[command(
    name = "spiked",
    version,
    about = "Classifies network streams with a spiking neural network trained on labelled captures",
    before_help = EXAMPLES,
    after_help = format!("{}\n\n`spiked COMMAND --help` shows examples.", exit::HELP),
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}",
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
    Top(top::Args),
    Run(run::Args),
    Check(check::Args),
    Reload(reload::Args),
    Train(train::Args),
    Learn(learn::Args),
    Eval(eval::Args),
    Model(model::Args),
    Paper(paper::Args),
    Report(report::Args),
    Features(features::Args),
    #[cfg(feature = "fleet")]
    Fleet(fleet::Args),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// Runs the command line. Errors go to standard error, the causes on the same line.
#[expect(unsafe_code, reason = "sets the disposition of a signal")]
pub fn main() -> ExitCode {
    let mut command = Cli::command().mut_subcommands(examples_first);
    if std::env::args_os().len() < 2 {
        let printed = command.print_help().context("standard output: can't write the help");
        return printed.map_or_else(|error| Exit::of(&error).into(), |()| ExitCode::SUCCESS);
    }
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    // SAFETY: no thread has been started yet, and SIG_DFL is a valid handler. With it, a closed output pipe (`spiked read x | head`)
    // ends the program silently, as users expect of command-line tools.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let result = match cli.command {
        Command::Read(args) => read::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Paper(args) => paper::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Features(args) => features::run(&args),
        #[cfg(feature = "fleet")]
        Command::Fleet(args) => fleet::run(&args),
        Command::Completions(args) => Ok(generate::completions(&args, Cli::command())),
        Command::Man(args) => generate::man(&args, Cli::command()),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let place = if exit::is_of_standard_output(&error) { "standard output: " } else { "" };
            eprintln!("spiked: {place}{}", escaped(&describe(&error)));
            Exit::of(&error).into()
        }
    }
}

/// A command, and those below it, with a help that shows examples before options.
fn examples_first(command: clap::Command) -> clap::Command {
    command.help_template(COMMAND_HELP).mut_subcommands(examples_first)
}

/// The error and its causes, each once: messages that already contain their cause are common.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The text with control characters escaped, except for line breaks and tabs: names come from files, and must not control a terminal.
fn escaped(text: &str) -> String {
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().flat_map(|c| plain(c).then_some(c).into_iter().chain(c.escape_debug().filter(move |_| !plain(c)))).collect()
}

/// Masks the slots named by `--mask`.
fn mask(layout: &mut Layout, names: &[String]) -> anyhow::Result<()> {
    names.iter().try_for_each(|name| layout.mask(name).with_context(|| format!("--mask {name}")))
}

/// A progress bar on standard error for work of `length` steps; hidden unless standard error is a terminal.
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

/// Entries of a list printed before the rest is summarised as a count.
const LISTED: usize = 5;

/// Reports unused input on standard error: the number of items, and the first few of them.
fn report_unused(what: &str, list: &[String]) {
    if !list.is_empty() {
        eprintln!("spiked: {} {what}:", list.len());
        for line in list.iter().take(LISTED) {
            eprintln!("  {line}");
        }
        if list.len() > LISTED {
            eprintln!("  and {} more", list.len() - LISTED);
        }
    }
}
