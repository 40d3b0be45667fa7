//! Parts: the neurons of one class that a sensor learned, and what became of them.
//!
//! A part is a model file of one class alone, compressed with gzip: weights, thresholds and acceptance, as `spiked model` makes them. The streams from which it was
//! learned, the held-back ones and the anchors stay on the sensor. The message's header has [`PartFigures`]. The stream [`PARTS_STREAM`] has the
//! last part of each sensor, model and class; the bucket [`CURATION_BUCKET`] has a [`PartEntry`] for each that the curator has tried.

use std::io::{self, Read as _, Write as _};

use async_nats::jetstream::{self, kv};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, FleetError, chain};
use super::models::{BucketEntry, entries};
use super::votes::Votes;

/// Stream of the parts.
pub const PARTS_STREAM: &str = "SPIKED_PARTS";
/// Subjects of parts begin with it.
pub const PARTS_SUBJECT: &str = "spiked.parts";
/// Key-value bucket of the entries of parts and of the curators' leases.
pub const CURATION_BUCKET: &str = "spiked-curation";
/// Header of a part's message with its [`PartFigures`] as JSON.
pub const FIGURES_HEADER: &str = "Spiked-Figures";
/// Maximum size of the model file in a part, in bytes.
const MAX_PART: u64 = 64 << 20;
/// Keys of the entries of parts begin with it.
pub(super) const ENTRIES: &str = "part.";

/// Sensor, model and class of a part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartName {
    /// The sensor that learned it.
    pub sensor: String,
    /// Name of the model that it belongs to.
    pub model: String,
    /// Its class.
    pub class: String,
}

impl PartName {
    /// Reads `SENSOR.MODEL.CLASS` after a prefix; `None` if it has another form.
    fn parse(text: &str, prefix: &str) -> Option<Self> {
        let mut tokens = text.strip_prefix(prefix)?.split('.');
        let (sensor, model, class) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let name = Self { sensor: sensor.into(), model: model.into(), class: class.into() };
        tokens.next().is_none().then_some(name)
    }

    /// Reads the subject of a message.
    pub fn of_subject(subject: &str) -> Option<Self> {
        Self::parse(subject, &format!("{PARTS_SUBJECT}."))
    }

    /// Subject of the messages.
    pub fn subject(&self) -> String {
        format!("{PARTS_SUBJECT}.{}.{}.{}", self.sensor, self.model, self.class)
    }

    /// Reads the key of an entry.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        Self::parse(key, ENTRIES)
    }

    fn key(&self) -> String {
        format!("{ENTRIES}{}.{}.{}", self.sensor, self.model, self.class)
    }
}

/// The message of a model file: most of the file is the starts of rows that are empty, so gzip makes it fifty times smaller (357 kB become 7 kB).
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn pack(file: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(file)?;
    packed.finish()
}

/// The model file of a message.
///
/// # Errors
/// It is not complete gzip, or the file is larger than 64 MiB.
pub fn unpack(message: &[u8]) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    GzDecoder::new(message).take(MAX_PART + 1).read_to_end(&mut file)?;
    if file.len() as u64 > MAX_PART {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {} MiB", MAX_PART >> 20)));
    }
    Ok(file)
}

/// What a sensor states about a part: numbers only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartFigures {
    /// Group of the sensor.
    pub group: String,
    /// Checksum of the model in which the part was learned.
    pub model_checksum: String,
    /// Number of streams on which it was trained.
    pub streams: u64,
    /// Number of held-back streams of the class.
    pub held_back: u64,
    /// Mean share of the held-back streams, of the class and of others, that are named correctly with the part, 0 to 1.
    pub accuracy: f64,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    /// It failed the gate.
    Refused,
    /// It passed the gate and waits for approval.
    Candidate,
    /// It is approved and will be published.
    Approved,
    /// It is in a version of the group's model.
    Published,
}

/// Figures of a part on the curator's reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceFigures {
    /// Streams of other classes that the group's model claims falsely with the part and not without.
    pub claimed: usize,
    /// Streams of other classes.
    pub others: usize,
    /// Streams of the class that the model names correctly with the part.
    pub named: usize,
    /// Streams of the class.
    pub streams: usize,
}

/// A part that the curator has tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartEntry {
    /// What became of it.
    pub state: PartState,
    /// SHA-256 of its message in hexadecimal digits.
    pub sha256: String,
    /// SHA-256 of the last part of this name that was tried, and of the group's model on which.
    pub tried: String,
    /// What the sensor states.
    pub figures: PartFigures,
    /// What the curator measured; `None`: it could not be tried.
    pub reference: Option<ReferenceFigures>,
    /// Why it was refused.
    pub reason: Option<String>,
    /// Version of the group's model in which it was published.
    pub version: Option<u64>,
    /// What sensors of the group have found, by sensor.
    #[serde(default, skip_serializing_if = "Votes::is_empty")]
    pub votes: Votes,
    /// The message in base64 until it is published or refused, since the stream may have a newer one when it is approved.
    pub message: Option<String>,
}

impl PartEntry {
    /// Bytes of the message; `None` if there are none.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        self.message.as_ref().and_then(|message| STANDARD.decode(message).ok())
    }
}

/// The bucket of the entries.
pub struct PartEntries {
    connection: Connection,
    pub(super) store: kv::Store,
}

impl PartEntries {
    /// Opens the bucket.
    ///
    /// # Errors
    /// It does not exist, or the server does not allow to read it.
    pub async fn open(connection: &Connection) -> Result<Self, FleetError> {
        let store = jetstream::new(connection.client.clone()).get_key_value(CURATION_BUCKET).await;
        let store = store.map_err(|error| {
            let lacking = || FleetError::Server(format!("{}; run `spiked fleet init`", chain(&error)));
            connection.errors.take().unwrap_or_else(lacking)
        })?;
        Ok(Self { connection: connection.clone(), store })
    }

    /// All entries in the order of their names, and a line on each that is not valid.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn all(&self) -> Result<(Vec<(PartName, PartEntry)>, Vec<String>), FleetError> {
        let (entries, invalid) = entries::<PartEntry>(&self.connection, CURATION_BUCKET, ENTRIES).await?;
        let named = |BucketEntry { key, value, .. }| Some((PartName::of_key(&key)?, value));
        Ok((entries.into_iter().filter_map(named).collect(), invalid))
    }

    /// The entry of a part and its revision (0: there was none); an entry that is not valid counts as none.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn entry(&self, name: &PartName) -> Result<(Option<PartEntry>, u64), FleetError> {
        let entry = self.store.entry(name.key()).await.map_err(|error| self.connection.explain(error))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
        Ok((entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()), revision))
    }

    /// Writes an entry, unless another client has changed it since `revision`.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it, or another client has changed the entry.
    pub async fn write(&self, name: &PartName, entry: &PartEntry, revision: u64) -> Result<(), FleetError> {
        let value = serde_json::to_vec(entry).map_err(|error| FleetError::Server(error.to_string()))?;
        let written = self.store.update(name.key(), value.into(), revision).await;
        written.map(drop).map_err(|error| self.connection.explain(error))
    }

    /// Approves the candidate of a sensor and class, `sha256` being the begin of its SHA-256 if only that one is meant; returns its name and
    /// entry.
    ///
    /// # Errors
    /// There is no candidate like this, or several models have one; the server can't be reached or does not allow it.
    pub async fn approve(
        &self,
        (sensor, class): (&str, &str),
        model: Option<&str>,
        sha256: &str,
    ) -> Result<(PartName, PartEntry), FleetError> {
        let (all, _) = self.all().await?;
        let is_meant = |name: &PartName| name.sensor == sensor && name.class == class && model.is_none_or(|m| m == name.model);
        let mut found = all.into_iter().filter(|(name, _)| is_meant(name));
        let lacking = || FleetError::Record(format!("there is no part of the class {class} from the sensor {sensor}"));
        let (name, _) = found.next().ok_or_else(lacking)?;
        if found.next().is_some() {
            return Err(FleetError::Record(format!(
                "several models have a part of the class {class} from {sensor}; give --model"
            )));
        }
        let (entry, revision) = self.entry(&name).await?;
        let mut entry = entry.ok_or_else(lacking)?;
        if entry.state != PartState::Candidate {
            let reason = entry.reason.map_or_else(String::new, |reason| format!(": {reason}"));
            return Err(FleetError::Record(format!("the part is {}, not a candidate{reason}", state_word(entry.state))));
        }
        if !entry.sha256.starts_with(sha256) {
            return Err(FleetError::Record(format!("another part has come since: its SHA-256 is {}", entry.sha256)));
        }
        entry.state = PartState::Approved;
        self.write(&name, &entry, revision).await?;
        Ok((name, entry))
    }
}

/// Name of a state.
pub fn state_word(state: PartState) -> &'static str {
    match state {
        PartState::Candidate => "candidate",
        PartState::Approved => "approved",
        PartState::Published => "published",
        PartState::Refused => "refused",
    }
}
