//! Many sensors that share NATS servers with JetStream: names, connections, the spool of events, and what `spiked fleet` sets up.
//!
//! | name | kind | content |
//! | --- | --- | --- |
//! | `SPIKED_EVENTS`, subjects `spiked.events.SENSOR.TYPE` | stream | events, with the header `Nats-Msg-Id: SENSOR-START-NUMBER` |
//! | `SPIKED_JOBS`, subjects `spiked.jobs.read.JOB` | work queue | captures to read |
//! | `SPIKED_RESULTS`, subjects `spiked.results.JOB.PART` | stream | what workers read: events, table and end of each job |
//! | `SPIKED_PARTS`, subjects `spiked.parts.SENSOR.MODEL.CLASS` | stream | the last neurons that each sensor learned of each class |
//! | `spiked-models` | object store | model files by SHA-256 |
//! | `spiked-fleet`, keys `model.GROUP.NAME` | key-value bucket | version, SHA-256, signature and percentage of each published model |
//! | `spiked-curation`, keys `part.SENSOR.MODEL.CLASS`, `lease.GROUP` | key-value bucket | what became of each part; who curates a group |
//! | `spiked-status`, keys `SENSOR` | key-value bucket | what each sensor reported in the last minute |
//!
//! Not stored: `spiked.trials.GROUP` and `spiked.votes.SENSOR.BALLOT`, by which sensors try parts (see [`votes`]).
//!
//! Streams, deduplication, retention and permissions are the servers'. An event that was acknowledged is kept by a quorum of the stream's
//! servers; an event that was not is in the sensor's [`spool`] and is sent again with the same id, so readers may see an id twice and drop
//! the second.

pub mod canary;
pub mod check;
pub mod connection;
pub mod curator;
pub mod exporter;
pub mod gate;
pub mod ids;
pub mod jobs;
pub mod lease;
pub mod models;
pub mod part_publisher;
pub mod parts;
pub mod receiver;
pub mod results;
pub mod setup;
pub mod sign;
pub mod spool;
pub mod tail;
pub mod verify;
pub mod votes;
pub mod work;

/// Stream of the events of all sensors.
pub const EVENTS_STREAM: &str = "SPIKED_EVENTS";
/// Subjects of events begin with it.
pub const EVENTS_SUBJECT: &str = "spiked.events";

/// Subject of a sensor's events of a type.
pub fn event_subject(sensor: &str, event: &str) -> String {
    format!("{EVENTS_SUBJECT}.{sensor}.{event}")
}
