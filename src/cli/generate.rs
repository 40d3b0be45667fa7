//! `spiked man` and `spiked completions`: man pages and shell completions generated from the command line's definition.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args as ClapArgs, Command};
use clap_complete::Shell;

use super::exit::{Exit, OutputError, check_output};

/// Prints a completion script for a shell
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    source <(spiked completions bash)\n  \
    spiked completions zsh > ~/.zfunc/_spiked\n  \
    spiked completions fish > ~/.config/fish/completions/spiked.fish")]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Writes the man pages into a folder, one per command
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  spiked man man/ && man -l man/spiked-read.1")]
pub struct ManArgs {
    /// Output folder; created if missing
    folder: PathBuf,
}

pub fn completions(args: &CompletionsArgs, mut cli: Command) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "spiked", &mut script);
    check_output(io::stdout().write_all(&script));
    Exit::Ok
}

pub fn man(args: &ManArgs, cli: Command) -> Result<Exit> {
    fs::create_dir_all(&args.folder).with_context(|| OutputError::to(&args.folder, "the folder"))?;
    clap_mangen::generate_to(cli.disable_help_subcommand(true), &args.folder)
        .with_context(|| OutputError::to(&args.folder, "the pages"))?;
    Ok(Exit::Ok)
}
