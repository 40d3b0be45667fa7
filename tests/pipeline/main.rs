//! Tests of the pipeline as a library: captures, decoder, engine. `cargo test --test pipeline MODULE::` runs one module.

#[path = "../common/mod.rs"]
mod common;

mod capture;
mod cases;
mod decode;
mod engine;
mod tshark;
