//! Network packet classifier: the header bytes of each packet become one pattern of simultaneous spikes, and spiking neurons that were
//! trained on classes of streams recognise streams of those classes.
//!
//! A stream is what others call a flow or a connection: the packets of both directions between two endpoints, or all packets of a host.
//!
//! ```text
//! frames ──> capture ──> packet ──> encode ──> snn ──> stream ──> export
//! ```
//! Data flows one way: a stage uses the types of the stages before it and none of those after it. [`train`] runs the same pipeline with a
//! teacher. `ARCHITECTURE.md` in the repository describes folders, threads, bounds and terms; `CONTRIBUTING.md` describes how to build, test
//! and extend the program.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod atomic_write;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod encode;
pub mod engine;
pub mod episode;
pub mod evaluate;
pub mod export;
#[cfg(feature = "fleet")]
pub mod fleet;
mod map_as_pairs;
pub mod model;
pub mod packet;
mod prefetch;
pub mod report;
#[cfg(test)]
#[path = "../tests/common/skip.rs"]
mod skip;
pub mod snn;
pub mod stream;
pub mod trace;
pub mod train;
mod typed_index;
