//! Models that the fleet shares: what is published about them, to which sensors a version goes, and the commands that change it.
//!
//! The object store [`MODELS_BUCKET`] has the model files by SHA-256. The key-value bucket [`FLEET_BUCKET`] has one [`ModelRecord`] for each
//! group of sensors and name of a model, at the key `model.GROUP.NAME`. The key-value bucket [`STATUS_BUCKET`] has one [`SensorReport`] for each
//! sensor, which the servers remove after a minute.

use std::collections::BTreeMap;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind, Stream};
use async_nats::jetstream::{self, kv, object_store};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::TryStreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::is_token;
use crate::export::status::CanaryStatus;

use super::connection::{Connection, FleetError};

/// Object store of the model files.
pub const MODELS_BUCKET: &str = "spiked-models";
/// Key-value bucket of the records of models.
pub const FLEET_BUCKET: &str = "spiked-fleet";
/// Key-value bucket of the sensors' reports.
pub const STATUS_BUCKET: &str = "spiked-status";
/// Maximum size of a model file in bytes.
pub const MAX_MODEL: usize = 256 << 20;

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Number of the version in its group, from 1 on.
    pub version: u64,
    /// SHA-256 of the file, in hexadecimal digits: its name in the object store.
    pub sha256: String,
    /// The content of the signature file that minisign made; `None`: unsigned, which sensors refuse.
    pub signature: Option<String>,
}

/// What a group of sensors runs as a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The version that was published last and not rolled back.
    #[serde(flatten)]
    pub current: ModelVersion,
    /// Share of the sensors, in percent, that run `current`; the others run `previous`.
    pub percent: u8,
    /// The version before; `None`: there was none.
    pub previous: Option<ModelVersion>,
    /// Highest number that was given to a version, so that no number is used twice.
    pub highest: u64,
}

impl ModelRecord {
    /// The version that a sensor is to run; `None`: the one that it has.
    pub fn for_sensor(&self, sensor: &str) -> Option<&ModelVersion> {
        if stage(sensor, self.current.version) < self.percent { Some(&self.current) } else { self.previous.as_ref() }
    }
}

/// Place of a sensor in the stages of a version, 0 to 99: it runs the version if this is below the percentage. It depends on the name and the
/// version alone, so a larger percentage adds sensors and removes none, and another version begins with other sensors.
pub fn stage(sensor: &str, version: u64) -> u8 {
    let digest = Sha256::digest(format!("{sensor} {version}"));
    let number = digest.iter().take(8).fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    u8::try_from(number % 100).unwrap_or(0)
}

/// SHA-256 of bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a sensor reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SensorReport {
    /// Version of the program.
    pub version: String,
    /// Group of the sensor.
    pub group: String,
    /// Models that it takes from the fleet.
    pub models: Vec<ModelReport>,
    /// Frames lost between its interfaces and the engine since its start.
    pub drops: u64,
    /// The last error of its sinks, inputs or reloads.
    pub last_error: Option<String>,
    /// Host and port of its metrics; `None`: they are for its own machine only.
    pub metrics: Option<String>,
    /// Whether the servers' permissions do not allow what it must do.
    #[serde(default)]
    pub permission_denied: bool,
    /// Its events that no server has acknowledged; `None`: it sends none.
    #[serde(default)]
    pub spool: Option<SpoolReport>,
}

/// What a sensor reports about its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolReport {
    /// Events that no server has acknowledged.
    pub events: u64,
    /// Size of the spool in bytes; segments count whole until all of their events are acknowledged.
    pub bytes: u64,
    /// Maximum size in bytes.
    pub limit: u64,
    /// Events that were acknowledged since its start.
    pub written: u64,
    /// Events that were dropped since its start.
    pub dropped: u64,
}

/// What a sensor reports about a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// The model's name.
    pub name: String,
    /// Version that the sensor runs; 0: none of the fleet's.
    pub version: u64,
    /// SHA-256 of its file; empty with version 0.
    pub sha256: String,
    /// "waiting", "installed" or "refused".
    pub state: String,
    /// Why the version that it should run was refused.
    pub last_error: Option<String>,
    /// Version that was refused and that should run.
    #[serde(default)]
    pub refused_version: Option<u64>,
    /// Versions that were refused since its start, by reason.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// The last trial of a version on the sensor's recent streams.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
}

/// The buckets of the fleet.
pub struct Buckets {
    connection: Connection,
    models: object_store::ObjectStore,
    /// The stream of `models`.
    stream: Stream,
    fleet: kv::Store,
}

impl Buckets {
    /// Opens the buckets.
    ///
    /// # Errors
    /// They do not exist, or the server does not allow to read them.
    pub async fn open(connection: &Connection) -> Result<Self, FleetError> {
        let context = jetstream::new(connection.client.clone());
        let lacking = |error: &dyn std::error::Error| {
            let text = super::connection::chain(error);
            connection.errors.take().unwrap_or_else(|| FleetError::Server(format!("{text}; run `spiked fleet init`")))
        };
        let models = context.get_object_store(MODELS_BUCKET).await.map_err(|error| lacking(&error))?;
        let fleet = context.get_key_value(FLEET_BUCKET).await.map_err(|error| lacking(&error))?;
        let stream = context.get_stream(super::setup::object_stream(MODELS_BUCKET)).await.map_err(|error| lacking(&error))?;
        Ok(Self { connection: connection.clone(), models, stream, fleet })
    }

    /// The record of a model and its revision in the bucket.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it, or the record is not a valid one ([`FleetError::Record`]).
    pub async fn record(&self, group: &str, name: &str) -> Result<Option<(ModelRecord, u64)>, FleetError> {
        let (stored, revision) = self.stored(group, name).await?;
        let invalid = |error| FleetError::Record(format!("{}: not a valid record: {error}", key(group, name)));
        stored.map(|record| record.map(|record| (record, revision)).map_err(invalid)).transpose()
    }

    /// What is stored as the record of a model, and the revision of the last change, a removal included (0: there was none).
    async fn stored(&self, group: &str, name: &str) -> Result<(Option<serde_json::Result<ModelRecord>>, u64), FleetError> {
        let entry = self.fleet.entry(key(group, name)).await.map_err(|error| self.connection.explain(error))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
        Ok((entry.map(|entry| serde_json::from_slice(&entry.value)), revision))
    }

    /// Writes a record, unless another client has changed it since `revision` (0: it did not exist).
    async fn write(&self, group: &str, name: &str, record: &ModelRecord, revision: u64) -> Result<(), FleetError> {
        let value = serde_json::to_vec(record).map_err(|error| FleetError::Server(error.to_string()))?.into();
        let written = self.fleet.update(key(group, name), value, revision).await;
        written.map(|_| ()).map_err(|error| self.connection.explain(error))
    }

    /// The bytes of a model file, at most [`MAX_MODEL`], not yet checked; `None`: there is no complete one with this SHA-256.
    ///
    /// Chunks are requested one by one. A consumer would be faster, but the permission to create one is also the permission to have the
    /// servers send messages to any subject, those of other sensors included.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn file(&self, sha256: &str) -> Result<Option<Vec<u8>>, FleetError> {
        let subject = format!("$O.{MODELS_BUCKET}.M.{}", URL_SAFE.encode(sha256));
        let Some(info) = self.found(self.stream.direct_get_last_for_subject(subject).await)? else { return Ok(None) };
        let info = serde_json::from_slice::<object_store::ObjectInfo>(&info.payload).ok();
        let Some(info) = info.filter(|info| !info.deleted && is_token(&info.nuid)) else { return Ok(None) };
        let size = info.size.min(MAX_MODEL);
        let subject = format!("$O.{MODELS_BUCKET}.C.{}", info.nuid);
        let (mut bytes, mut next) = (Vec::new(), 1);
        while bytes.len() < size {
            let chunk = self.stream.direct_get_next_for_subject(subject.as_str(), Some(next)).await;
            let Some(chunk) = self.found(chunk)? else { return Ok(None) };
            bytes.extend_from_slice(&chunk.payload);
            next = chunk.sequence + 1;
        }
        Ok(Some(bytes))
    }

    fn found(&self, answer: Result<StreamMessage, DirectGetError>) -> Result<Option<StreamMessage>, FleetError> {
        match answer {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
            Err(error) => Err(self.connection.explain(error)),
        }
    }

    /// Stores a model file unless it is there; returns its SHA-256.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn store(&self, bytes: &[u8]) -> Result<String, FleetError> {
        let sha256 = sha256(bytes);
        match self.models.info(&sha256).await {
            Ok(_) => {}
            Err(error) if error.kind() == object_store::InfoErrorKind::NotFound => {
                let mut reader = bytes;
                self.models.put(sha256.as_str(), &mut reader).await.map_err(|error| self.connection.explain(error))?;
            }
            Err(error) => return Err(self.connection.explain(error)),
        }
        Ok(sha256)
    }

    /// Publishes a model file to `percent` of the sensors of a group; returns the number of the version. What the group ran on all sensors
    /// becomes the version before; a version that was only on a part of them is replaced, and so is a record that is not valid.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it, or another client publishes at the same time.
    pub async fn publish(
        &self,
        group: &str,
        name: &str,
        bytes: &[u8],
        signature: Option<String>,
        percent: u8,
    ) -> Result<u64, FleetError> {
        let (stored, revision) = self.stored(group, name).await?;
        self.publish_onto((group, name), (stored.and_then(Result::ok), revision), bytes, signature, percent).await
    }

    /// Publishes a model file as [`Buckets::publish`] does, in place of the record `present` with its revision.
    ///
    /// # Errors
    /// As [`Buckets::publish`]; also if the record has changed since that revision.
    pub async fn publish_onto(
        &self,
        (group, name): (&str, &str),
        (present, revision): (Option<ModelRecord>, u64),
        bytes: &[u8],
        signature: Option<String>,
        percent: u8,
    ) -> Result<u64, FleetError> {
        let sha256 = self.store(bytes).await?;
        // Each version has changed the record, so no number is larger than the revision of one that was removed or is not valid.
        let version = present.as_ref().map_or(revision, |record| record.highest) + 1;
        let previous = present.and_then(|record| if record.percent == 100 { Some(record.current) } else { record.previous });
        let current = ModelVersion { version, sha256, signature };
        self.write(group, name, &ModelRecord { current, percent, previous, highest: version }, revision).await?;
        Ok(version)
    }

    /// Sends the current version of a model to `percent` of the sensors of a group; returns its record.
    ///
    /// # Errors
    /// There is none, the server can't be reached or does not allow it, or another client changes the record at the same time.
    pub async fn promote(&self, group: &str, name: &str, percent: u8) -> Result<ModelRecord, FleetError> {
        let (mut record, revision) = self.existing(group, name).await?;
        record.percent = percent;
        self.write(group, name, &record, revision).await?;
        Ok(record)
    }

    /// Returns all sensors of a group to the version before the current one; returns the record.
    ///
    /// # Errors
    /// There is no version before, the server can't be reached or does not allow it, or another client changes the record at the same time.
    pub async fn rollback(&self, group: &str, name: &str) -> Result<ModelRecord, FleetError> {
        let (record, revision) = self.existing(group, name).await?;
        let lacking =
            || FleetError::Server(format!("{name}, group {group}: there is no version before {}", record.current.version));
        let current = record.previous.clone().ok_or_else(lacking)?;
        let record = ModelRecord { current, percent: 100, previous: None, highest: record.highest };
        self.write(group, name, &record, revision).await?;
        Ok(record)
    }

    async fn existing(&self, group: &str, name: &str) -> Result<(ModelRecord, u64), FleetError> {
        let lacking = || FleetError::Server(format!("{name}, group {group}: no such model was published"));
        self.record(group, name).await?.ok_or_else(lacking)
    }
}

fn key(group: &str, name: &str) -> String {
    format!("model.{group}.{name}")
}

/// A valid entry of a bucket.
pub(super) struct BucketEntry<T> {
    pub key: String,
    /// When it was stored, in seconds since 1970.
    pub stored: f64,
    pub value: T,
}

/// The entries of a bucket whose keys begin with `prefix`, in order of the keys, and a line on each that is not valid.
pub(super) async fn entries<T: DeserializeOwned>(
    connection: &Connection,
    bucket: &str,
    prefix: &str,
) -> Result<(Vec<BucketEntry<T>>, Vec<String>), FleetError> {
    let context = jetstream::new(connection.client.clone());
    let store = context.get_key_value(bucket).await.map_err(|error| connection.explain(error))?;
    // From the subjects of the stream: to list keys by a consumer takes a permission that readers do not have.
    let subjects = async {
        let subjects = store.stream.info_with_subjects(format!("$KV.{bucket}.>")).await;
        let subjects = subjects.map_err(|error| connection.explain(error))?;
        subjects.try_collect::<Vec<(String, usize)>>().await.map_err(|error| connection.explain(error))
    };
    let subjects = connection.answer(subjects).await??;
    let key = |(subject, _): (String, usize)| subject.strip_prefix(&format!("$KV.{bucket}.")).map(String::from);
    let mut keys: Vec<String> = subjects.into_iter().filter_map(key).filter(|key| key.starts_with(prefix)).collect();
    keys.sort();
    let (mut entries, mut invalid) = (Vec::new(), Vec::new());
    for key in keys {
        let entry = store.entry(&key).await.map_err(|error| connection.explain(error))?;
        // A report may have ended since the keys were listed.
        let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put) else { continue };
        match serde_json::from_slice(&entry.value) {
            Ok(value) => entries.push(BucketEntry { key, stored: seconds(entry.created.unix_timestamp_nanos()), value }),
            Err(error) => invalid.push(format!("{bucket}, {key}: not a valid entry: {error}")),
        }
    }
    Ok((entries, invalid))
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: i128) -> f64 {
    nanoseconds as f64 / 1e9
}

/// What was published, and what the sensors report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FleetOverview {
    /// Records of models, by `GROUP.NAME`.
    pub models: BTreeMap<String, ModelRecord>,
    /// Reports of the last minute, by sensor.
    pub sensors: BTreeMap<String, SensorReport>,
    /// Times at which the servers stored the reports, in seconds since 1970, by sensor.
    pub reported: BTreeMap<String, f64>,
    /// A line on each entry that is not valid.
    pub invalid: Vec<String>,
}

impl FleetOverview {
    /// The sensors of a group that refused the current version of a model, each with the reason.
    pub fn refusals(&self, group: &str, name: &str, version: u64) -> Vec<(&str, &str)> {
        let mut refusals = Vec::new();
        for (sensor, report) in self.sensors.iter().filter(|(_, report)| report.group == group) {
            let refused = report.models.iter().filter(|m| m.name == name && m.refused_version == Some(version));
            refusals.extend(refused.map(|m| (sensor.as_str(), m.last_error.as_deref().unwrap_or_default())));
        }
        refusals
    }

    /// The version of a model that a sensor is to run; `None`: the one that it has.
    pub fn wanted(&self, name: &str, sensor: &SensorReport, model: &str) -> Option<&ModelVersion> {
        self.models.get(&format!("{}.{model}", sensor.group))?.for_sensor(name)
    }
}

/// Reads the records and the reports.
///
/// # Errors
/// The server can't be reached, or does not allow it.
pub async fn overview(connection: &Connection) -> Result<FleetOverview, FleetError> {
    let (models, mut invalid) = entries(connection, FLEET_BUCKET, "").await?;
    let (reports, more) = entries::<SensorReport>(connection, STATUS_BUCKET, "").await?;
    invalid.extend(more);
    let name = |key: String| key.strip_prefix("model.").map(String::from).unwrap_or(key);
    Ok(FleetOverview {
        models: models.into_iter().map(|entry| (name(entry.key), entry.value)).collect(),
        reported: reports.iter().map(|entry| (entry.key.clone(), entry.stored)).collect(),
        sensors: reports.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        invalid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u64) -> ModelVersion {
        ModelVersion { version, sha256: String::new(), signature: None }
    }

    #[test]
    fn stages_are_stable_and_grow() {
        let sensors: Vec<String> = (0..1000).map(|n| format!("sensor-{n}")).collect();
        let at = |percent| {
            let record = ModelRecord { current: version(2), percent, previous: Some(version(1)), highest: 2 };
            sensors.iter().map(|s| record.for_sensor(s).map_or(0, |v| v.version)).collect::<Vec<_>>()
        };
        assert!(at(0).iter().all(|&v| v == 1) && at(100).iter().all(|&v| v == 2));
        let (ten, half) = (at(10), at(50));
        let count = |versions: &[u64]| versions.iter().filter(|&&v| v == 2).count();
        assert!((70..130).contains(&count(&ten)) && (450..550).contains(&count(&half)), "{} {}", count(&ten), count(&half));
        assert!(ten.iter().zip(&half).all(|(ten, half)| ten <= half), "a sensor left the stage");
        assert_eq!((stage("north", 1), stage("north", 2)), (stage("north", 1), stage("north", 2)));
        let first = ModelRecord { current: version(1), percent: 0, previous: None, highest: 1 };
        assert_eq!(first.for_sensor("north"), None);
    }
}
