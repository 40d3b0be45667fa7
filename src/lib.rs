//! A network packet classifier: each packet's header bytes become one simultaneous spike pattern, and spiking neurons trained on
//! classes of streams recognise the streams of those classes.
//!
//! ```text
//! frames ──> capture ──> packet ──> encode ──> snn ──> stream ──> export
//! ```
//! Data flows one way; a stage knows the types before it and nothing after it. [`train`] is the same pipeline with a teacher.
//! `ARCHITECTURE.md` in the repository shows folders, threads, bounds and the words used; `CONTRIBUTING.md` how to build, test and extend.

#![deny(unsafe_code)]

pub mod atomic_write;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod encode;
pub mod engine;
pub mod evaluate;
pub mod export;
pub mod model;
pub mod packet;
mod prefetch;
pub mod report;
#[cfg(test)]
#[path = "../tests/common/skip.rs"]
mod skip;
pub mod snn;
pub mod stream;
pub mod train;
mod typed_index;
