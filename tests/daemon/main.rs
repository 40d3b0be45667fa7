//! Tests of the daemon and its parts: inputs, sinks, metrics, server, live teaching, faults. `cargo test --test daemon MODULE::` runs one module.

#[path = "../common/mod.rs"]
mod common;

mod evidence;
mod faults;
mod http;
mod interfaces;
mod loss;
mod metrics;
mod prometheus;
mod sinks;
mod teaching;
mod unprivileged;
