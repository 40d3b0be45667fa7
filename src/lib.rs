//! A network packet classifier: each packet's header octets become one simultaneous spike pattern, and spiking neurons that
//! learned classes of streams say which streams they know.
//!
//! ```text
//! frames ──> capture ──> packet ──> encode ──> snn ──> stream ──> export
//! ```
//! Everything flows one way; a stage knows the types before it and nothing after it. [`train`] is the same way with a teacher.

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
