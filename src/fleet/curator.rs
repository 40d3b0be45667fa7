//! The curator of a group: tries the parts that sensors publish, and puts the approved ones into the group's model.
//!
//! ```text
//! part (stream) ──> gate ──> votes ──> entry: candidate ──> approval ──> join, gate ──> signed version of the group's model ──> entry: published
//! ```
//! One process curates a group; others wait for its [`Lease`]. Each entry and record is written only if nobody has changed it since it was
//! read, so a process that has lost the lease without noticing changes nothing.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Message, kv};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;

use crate::config::is_token;
use crate::model::Model;

use super::connection::{Connection, FleetError};
use super::gate::{PartGate, PassedPart, is_better};
use super::lease::Lease;
use super::models::{Buckets, ModelRecord, sha256};
use super::parts::{
    ENTRIES, FIGURES_HEADER, PARTS_STREAM, PARTS_SUBJECT, PartEntries, PartEntry, PartFigures, PartName, PartState,
};
use super::sign::SigningKey;
use super::verify::TrustedKeys;
use super::votes::{Votes, poll, verdict};

/// Interval at which all parts and entries are looked at again: the group's model may have changed.
const AGAIN: Duration = Duration::from_secs(60);
/// Time until another attempt after an error.
const RETRY: Duration = Duration::from_secs(2);

/// What a curator works with.
pub struct CuratorSettings {
    /// Group of sensors.
    pub group: String,
    /// Name of this process in the lease.
    pub holder: String,
    /// Share of the sensors, in percent, that get a new version.
    pub percent: u8,
    /// Lowest accuracy at which a part that passed the gate is approved without a person; `None`: never.
    pub auto: Option<f64>,
    /// Fewest votes of sensors that have enough streams with which a part becomes a candidate.
    pub votes: usize,
    /// Time for which it waits for votes.
    pub vote_time: Duration,
    /// Signs the versions.
    pub key: SigningKey,
    /// One of them must have signed the group's model.
    pub trusted: TrustedKeys,
}

/// Writes a line on what the curator does.
pub type Log = dyn Fn(&str);

/// The group's model, its record and the record's revision.
struct Base {
    record: ModelRecord,
    revision: u64,
    model: Arc<Model>,
}

/// A curator that has the lease.
struct Curator<'a> {
    settings: &'a CuratorSettings,
    gate: Arc<PartGate>,
    entries: &'a PartEntries,
    connection: &'a Connection,
    buckets: Buckets,
    log: &'a Log,
}

/// Curates a group while this process has the lease, and waits for it otherwise.
///
/// # Errors
/// The server does not allow it. Other errors are logged, and it tries again.
pub async fn curate(
    connection: &Connection,
    settings: &CuratorSettings,
    gate: PartGate,
    log: &Log,
) -> Result<Infallible, FleetError> {
    let entries = PartEntries::open(connection).await?;
    let gate = Arc::new(gate);
    let key = format!("lease.{}", settings.group);
    loop {
        let waiting = |other: &str| log(&format!("waiting: {other} curates the group {}", settings.group));
        let error = match Lease::acquire(connection, &entries.store, &key, &settings.holder, waiting).await {
            Err(error) => error,
            Ok(mut lease) => {
                log(&format!("curating the group {}", settings.group));
                tokio::select! {
                    error = lease.keep() => error,
                    Err(error) = sessions(connection, settings, (&gate, &entries), log) => error,
                }
            }
        };
        if matches!(error, FleetError::Permission(_)) {
            return Err(error);
        }
        log(&format!("interrupted: {error}"));
        tokio::time::sleep(RETRY).await;
    }
}

/// Works until an error.
async fn sessions(
    connection: &Connection,
    settings: &CuratorSettings,
    (gate, entries): (&Arc<PartGate>, &PartEntries),
    log: &Log,
) -> Result<Infallible, FleetError> {
    loop {
        let buckets = Buckets::open(connection).await?;
        let curator = Curator { settings, gate: Arc::clone(gate), entries, connection, buckets, log };
        curator.session(connection).await?;
    }
}

impl Curator<'_> {
    /// Looks at all parts and approvals, and at new ones for [`AGAIN`].
    async fn session(&self, connection: &Connection) -> Result<(), FleetError> {
        let stream = jetstream::new(connection.client.clone()).get_stream(PARTS_STREAM).await;
        let stream = stream.map_err(|error| connection.explain(error))?;
        let config = pull::OrderedConfig {
            filter_subject: format!("{PARTS_SUBJECT}.>"),
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| connection.explain(error))?;
        let mut parts = consumer.messages().await.map_err(|error| connection.explain(error))?;
        let approvals = self.entries.store.watch_with_history(format!("{ENTRIES}>")).await;
        let mut approvals = approvals.map_err(|error| connection.explain(error))?;
        let end = tokio::time::sleep(AGAIN);
        tokio::pin!(end);
        let closed = || FleetError::Connection("the connection was closed".into());
        loop {
            tokio::select! {
                biased;
                entry = approvals.next() => {
                    let entry = entry.ok_or_else(closed)?.map_err(|error| connection.explain(error))?;
                    self.on_entry(&entry).await?;
                }
                message = parts.next() => {
                    let message = message.ok_or_else(closed)?.map_err(|error| connection.explain(error))?;
                    self.on_part(&message).await?;
                }
                violation = connection.errors.violation() => return Err(violation),
                () = &mut end => return Ok(()),
            }
        }
    }

    /// Publishes an approved part.
    async fn on_entry(&self, entry: &kv::Entry) -> Result<(), FleetError> {
        let Some(name) = PartName::of_key(&entry.key) else { return Ok(()) };
        let read = serde_json::from_slice::<PartEntry>(&entry.value).ok();
        match read.filter(|read| read.state == PartState::Approved && read.figures.group == self.settings.group) {
            Some(_) => self.publish(&name).await,
            None => Ok(()),
        }
    }

    /// Tries a part, unless it was tried on the same model.
    async fn on_part(&self, message: &Message) -> Result<(), FleetError> {
        let named = PartName::of_subject(&message.subject);
        let Some(name) = named.filter(|name| is_token(&name.model) && is_token(&name.class) && is_token(&name.sensor)) else {
            (self.log)(&format!("{}: ignored, not a valid subject", message.subject));
            return Ok(());
        };
        let header = message.headers.as_ref().and_then(|headers| headers.get(FIGURES_HEADER));
        let Some(figures) = header.and_then(|header| serde_json::from_str::<PartFigures>(header.as_str()).ok()) else {
            (self.log)(&format!("{}: ignored, it has no valid figures", message.subject));
            return Ok(());
        };
        if figures.group != self.settings.group {
            return Ok(());
        }
        if self.entries.entry(&name).await?.0.is_some_and(|entry| entry.state == PartState::Approved) {
            self.publish(&name).await?;
        }
        let base = self.base(&name.model).await?;
        let sum = sha256(&message.payload);
        let tried = format!("{sum} {}", base.as_ref().map_or("", |base| base.record.current.sha256.as_str()));
        let (present, revision) = self.entries.entry(&name).await?;
        if present
            .as_ref()
            .is_some_and(|entry| entry.tried == tried || (entry.sha256 == sum && entry.state >= PartState::Approved))
        {
            return Ok(());
        }
        let mut entry = PartEntry {
            state: PartState::Candidate,
            sha256: sum,
            tried,
            figures,
            reference: None,
            reason: None,
            version: None,
            message: Some(STANDARD.encode(&message.payload)),
            votes: Votes::new(),
        };
        let result = match base {
            Ok(base) => self.try_part(base.model, &name, message.payload.to_vec()).await.map(|passed| passed.figures),
            Err(reason) => Err(reason),
        };
        match result {
            Ok(reference) => {
                entry.reference = Some(reference);
                self.vote(&name, &mut entry, &message.payload).await?;
                if entry.state != PartState::Refused {
                    self.compare(&name, &mut entry).await?;
                }
            }
            Err(reason) => refuse(&mut entry, reason),
        }
        self.settle(&name, entry, present, revision).await
    }

    /// Has the sensors of the group try a part that passed the gate.
    async fn vote(&self, name: &PartName, entry: &mut PartEntry, message: &[u8]) -> Result<(), FleetError> {
        let CuratorSettings { group, votes, vote_time, .. } = self.settings;
        entry.votes = poll(self.connection, group, *vote_time, name, message).await?;
        if let Some(refusal) = verdict(&entry.votes, *votes) {
            refuse(entry, refusal.reason);
            if !refusal.is_final {
                entry.tried.clear();
            }
        }
        Ok(())
    }

    /// Writes the entry of a part that was tried. A refused part leaves the entry of an earlier one that was not.
    async fn settle(
        &self,
        name: &PartName,
        mut entry: PartEntry,
        present: Option<PartEntry>,
        revision: u64,
    ) -> Result<(), FleetError> {
        let what = format!("{} of {} from {}", name.class, name.model, name.sensor);
        if entry.state == PartState::Refused {
            let reason = entry.reason.clone().unwrap_or_default();
            (self.log)(&format!("{what}: refused: {reason}"));
            if let Some(mut present) =
                present.filter(|present| present.state != PartState::Refused && present.sha256 != entry.sha256)
            {
                present.reason = Some(format!("a later part was refused: {reason}"));
                present.tried = entry.tried;
                return self.entries.write(name, &present, revision).await;
            }
            return self.entries.write(name, &entry, revision).await;
        }
        let accuracy = entry.figures.accuracy;
        let recognised = entry.reference.as_ref().filter(|r| r.streams > 0).map(|r| r.named as f64 / r.streams as f64);
        if self.settings.auto.is_some_and(|least| accuracy >= least && recognised.is_none_or(|share| share >= least)) {
            entry.state = PartState::Approved;
            (self.log)(&format!("{what}: approved by rule"));
        } else {
            (self.log)(&format!("{what}: a candidate, {}", describe(&entry)));
        }
        self.entries.write(name, &entry, revision).await
    }

    /// Compares a part that passed the gate with those of the same model and class: only the best stays.
    async fn compare(&self, name: &PartName, entry: &mut PartEntry) -> Result<(), FleetError> {
        let (all, _) = self.entries.all().await?;
        let same = |(other, present): &(PartName, PartEntry)| {
            other.model == name.model && other.class == name.class && present.figures.group == self.settings.group
        };
        for (other, mut present) in all.into_iter().filter(same) {
            if present.state == PartState::Refused || present.sha256 == entry.sha256 && other == *name {
                continue;
            }
            let own_candidate = other == *name && present.state == PartState::Candidate;
            if own_candidate && !is_better(&present, entry) {
                continue;
            }
            if !is_better(entry, &present) {
                let reason =
                    format!("not better than the part of {}: {}; it has {}", other.sensor, describe(&present), describe(entry));
                refuse(entry, reason);
                return Ok(());
            }
            if present.state == PartState::Candidate && other != *name {
                let (_, revision) = self.entries.entry(&other).await?;
                refuse(&mut present, format!("the part of {} is better: {}", name.sensor, describe(entry)));
                self.entries.write(&other, &present, revision).await?;
            }
        }
        Ok(())
    }

    /// Joins an approved part to the group's model and publishes it.
    async fn publish(&self, name: &PartName) -> Result<(), FleetError> {
        let (entry, revision) = self.entries.entry(name).await?;
        let Some(mut entry) = entry.filter(|entry| entry.state == PartState::Approved) else { return Ok(()) };
        let what = format!("{} of {} from {}", name.class, name.model, name.sensor);
        let result = match (self.base(&name.model).await?, entry.bytes().filter(|bytes| sha256(bytes) == entry.sha256)) {
            (Err(reason), _) => Err(reason),
            (_, None) => Err("its entry has no complete message".into()),
            (Ok(base), Some(_)) if base.record.percent < 100 => {
                let (version, percent) = (base.record.current.version, base.record.percent);
                (self.log)(&format!("{what}: waits, version {version} is only for {percent} % of the sensors; promote it first"));
                return Ok(());
            }
            (Ok(base), Some(bytes)) => match self.try_part(Arc::clone(&base.model), name, bytes).await {
                Ok(passed) => Ok(self.publish_model(name, base, &passed).await?),
                Err(reason) => Err(reason),
            },
        };
        match result {
            Ok(version) => {
                (self.log)(&format!("{what}: published in version {version} for {} % of the sensors", self.settings.percent));
                (entry.state, entry.version, entry.reason, entry.message) = (PartState::Published, Some(version), None, None);
                self.replace_others(name, version).await?;
            }
            Err(reason) => {
                (self.log)(&format!("{what}: refused: {reason}"));
                refuse(&mut entry, reason);
            }
        }
        self.entries.write(name, &entry, revision).await
    }

    /// Signs and publishes a model; returns its version.
    async fn publish_model(&self, name: &PartName, base: Base, passed: &PassedPart) -> Result<u64, FleetError> {
        let bytes = passed.model.to_bytes();
        if sha256(&bytes) == base.record.current.sha256 {
            // Published before an earlier curator could write so.
            return Ok(base.record.current.version);
        }
        let signature = self.settings.key.sign(&name.model, &bytes).map_err(FleetError::Server)?;
        let (key, present) = ((self.settings.group.as_str(), name.model.as_str()), (Some(base.record), base.revision));
        self.buckets.publish_onto(key, present, &bytes, Some(signature), self.settings.percent).await
    }

    /// Marks the other parts of the class that were in the model.
    async fn replace_others(&self, name: &PartName, version: u64) -> Result<(), FleetError> {
        let (all, _) = self.entries.all().await?;
        let same = |other: &PartName| other != name && other.model == name.model && other.class == name.class;
        for (other, mut present) in all {
            if same(&other) && present.state == PartState::Published && present.figures.group == self.settings.group {
                let (_, revision) = self.entries.entry(&other).await?;
                refuse(&mut present, format!("replaced in version {version} by the part of {}", name.sensor));
                self.entries.write(&other, &present, revision).await?;
            }
        }
        Ok(())
    }

    /// The group's model, or why there is none.
    async fn base(&self, name: &str) -> Result<Result<Base, String>, FleetError> {
        let group = &self.settings.group;
        let Some((record, revision)) = self.buckets.record(group, name).await? else {
            return Ok(Err(format!("the group {group} has no model {name}; publish one with `spiked fleet publish`")));
        };
        let Some(bytes) = self.buckets.file(&record.current.sha256).await? else {
            return Ok(Err(format!("the file of version {} of {name} is missing", record.current.version)));
        };
        if let Err(refusal) = self.settings.trusted.verify(name, &record.current, &bytes) {
            let version = record.current.version;
            return Ok(Err(format!("version {version} of {name}, {}: {}", refusal.reason, refusal.details)));
        }
        let model = Model::from_bytes(&bytes, Path::new(name)).map(Arc::new).map_err(|error| error.to_string());
        Ok(model.map(|model| Base { record, revision, model }))
    }

    /// Tries a part beside this thread, which keeps the lease meanwhile.
    async fn try_part(&self, base: Arc<Model>, name: &PartName, bytes: Vec<u8>) -> Result<PassedPart, String> {
        let (gate, name) = (Arc::clone(&self.gate), name.clone());
        let tried = tokio::task::spawn_blocking(move || gate.try_part(&base, &name, &bytes)).await;
        tried.unwrap_or_else(|_| Err("the attempt to try it failed".into()))
    }
}

fn refuse(entry: &mut PartEntry, reason: String) {
    (entry.state, entry.reason, entry.message) = (PartState::Refused, Some(reason), None);
}

/// The figures of a part in words.
pub fn describe(entry: &PartEntry) -> String {
    let PartFigures { streams, held_back, accuracy, .. } = &entry.figures;
    let stated = format!("accuracy {accuracy:.3} on {held_back} held-back streams, trained on {streams}");
    let Some(reference) = &entry.reference else { return stated };
    let own = match reference.streams {
        0 => String::new(),
        streams => format!("names {} of {streams} streams, ", reference.named),
    };
    format!("{stated}; on the reference {own}claims {} of {} others", reference.claimed, reference.others)
}
