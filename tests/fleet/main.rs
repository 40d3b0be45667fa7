//! Tests of the fleet with real nats-server processes on loopback ports.

mod archives;
#[path = "../common/mod.rs"]
mod common;
mod deploy;
mod events;
mod exporter;
mod models;
mod parts;
mod permissions;
mod servers;
mod setup;
