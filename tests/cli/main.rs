//! Tests of the command line: each runs the program or reads its output. `cargo test --test cli MODULE::` runs one module.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod commands;
mod config;
mod deploy;
mod exit_codes;
mod generate;
mod labels;
mod learn;
mod live;
#[cfg(feature = "nir")]
mod nir;
mod other_programs;
mod paper;
mod parts;
mod readme;
mod report;
mod top;
