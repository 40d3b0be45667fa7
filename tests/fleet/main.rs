//! Tests of the fleet with real nats-server processes, and a real S3 server, on loopback ports.

mod archives;
#[path = "../common/mod.rs"]
mod common;
mod deploy;
mod events;
mod exporter;
mod models;
mod parts;
mod permissions;
mod s3;
mod servers;
mod setup;
