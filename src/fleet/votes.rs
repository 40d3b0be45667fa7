//! Votes: sensors of a group try a candidate part on their own streams.
//!
//! ```text
//! curator ── spiked.trials.GROUP (the part) ──> sensors ── spiked.votes.SENSOR.BALLOT (numbers) ──> curator
//! ```
//! These messages are not stored by the servers: a sensor that is away does not vote. The curator waits for the sensors that have reported
//! that they run the model, for a bounded time, and keeps the votes in the part's entry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::config::is_token;
use crate::evaluate::{MAX_CLAIMED, MAX_SILENCED};
use crate::model::Model;
use crate::train::live::{StreamSlots, named};

use super::connection::{Connection, FleetError};
use super::gate::read_part;
use super::models::{STATUS_BUCKET, SensorReport, entries, sha256};
use super::parts::{PartName, unpack};

/// Subjects of a curator's requests begin with it: `spiked.trials.GROUP`, with the part as payload.
pub const TRIALS_SUBJECT: &str = "spiked.trials";
/// Subjects of votes begin with it: `spiked.votes.SENSOR.BALLOT`.
pub const VOTES_SUBJECT: &str = "spiked.votes";
/// Header of a request with its [`Trial`] as JSON.
const TRIAL_HEADER: &str = "Spiked-Trial";
/// Fewest streams with which a vote counts.
const MIN_STREAMS: u64 = 20;
/// Digits of the part's SHA-256 in the name of a ballot.
const BALLOT_DIGITS: usize = 16;

/// What a curator asks sensors to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Last token of the votes' subjects.
    pub ballot: String,
    /// The part.
    #[serde(flatten)]
    pub part: PartName,
}

/// What a sensor found about a part: numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Recent streams that the sensor's running model gives other classes than the part's.
    pub streams: u64,
    /// Of these, those that the part claims.
    pub claimed: u64,
    /// Of these, those that keep their class.
    pub agreed: u64,
}

/// Votes by sensor.
pub type Votes = BTreeMap<String, Vote>;

impl Vote {
    /// The vote of a sensor with a running model and recent streams; no streams if the part does not fit the model.
    pub fn of(running: &Model, part: &Model, class: &str, streams: &[Arc<StreamSlots>]) -> Self {
        let mut vote = Self::default();
        let Ok(with) = running.with_part(part) else { return vote };
        // A frequent flow may be there several times.
        let mut known: HashMap<&[u16], (bool, bool)> = HashMap::new();
        for stream in streams {
            let Some(before) = named(running, stream).filter(|before| *before != class) else { continue };
            let (claims, agrees) = *known.entry(stream).or_insert_with(|| {
                let after = named(&with, stream);
                (after == Some(class), after == Some(before))
            });
            vote.streams += 1;
            vote.claimed += u64::from(claims);
            vote.agreed += u64::from(agrees);
        }
        vote
    }

    /// Whether the sensor has enough streams.
    pub fn counts(&self) -> bool {
        self.streams >= MIN_STREAMS
    }

    /// Whether the part claims or silences more streams of other classes than the gate's limits.
    pub fn is_harmful(&self) -> bool {
        let streams = self.streams as f64;
        let lost = self.streams.saturating_sub(self.agreed) as f64;
        self.counts() && (self.claimed as f64 > MAX_CLAIMED * streams || lost > MAX_SILENCED * streams)
    }
}

/// Asks the sensors of a group to try a part. Ends when all that have reported that they run the model have voted, or after `patience`.
///
/// # Errors
/// The server can't be reached or does not allow it.
pub async fn poll(
    connection: &Connection,
    group: &str,
    patience: Duration,
    name: &PartName,
    message: &[u8],
) -> Result<Votes, FleetError> {
    let (reports, _) = entries::<SensorReport>(connection, STATUS_BUCKET, "").await?;
    let runs = |report: &SensorReport| report.group == group && report.models.iter().any(|model| model.name == name.model);
    let mut missing: BTreeSet<String> = reports.into_iter().filter(|entry| runs(&entry.value)).map(|entry| entry.key).collect();
    let mut votes = Votes::new();
    if missing.is_empty() {
        return Ok(votes);
    }
    let ballot: String = sha256(message).chars().take(BALLOT_DIGITS).collect();
    let answers = connection.client.subscribe(format!("{VOTES_SUBJECT}.*.{ballot}")).await;
    let mut answers = answers.map_err(|error| connection.explain(error))?;
    let trial = Trial { ballot, part: name.clone() };
    let mut headers = HeaderMap::new();
    headers.insert(TRIAL_HEADER, serde_json::to_string(&trial).map_err(|error| connection.explain(error))?);
    let subject = format!("{TRIALS_SUBJECT}.{group}");
    let sent = connection.client.publish_with_headers(subject, headers, message.to_vec().into()).await;
    sent.map_err(|error| connection.explain(error))?;
    let all = async {
        while !missing.is_empty() {
            let answer = connection.answer(answers.next()).await?;
            let answer = answer.ok_or_else(|| FleetError::Connection("the connection was closed".into()))?;
            let sensor = answer.subject.split('.').nth(2).unwrap_or_default().to_string();
            if let Ok(vote) = serde_json::from_slice::<Vote>(&answer.payload) {
                missing.remove(&sensor);
                votes.insert(sensor, vote);
            }
        }
        Ok(())
    };
    // After that time the votes so far count.
    tokio::time::timeout(patience, all).await.unwrap_or(Ok(()))?;
    Ok(votes)
}

/// Why the votes refuse a part; `None`: they do not. A part that too few sensors have tried may be tried again.
pub fn verdict(votes: &Votes, least: usize) -> Option<VoteRefusal> {
    if let Some((sensor, vote)) = votes.iter().find(|(_, vote)| vote.is_harmful()) {
        let Vote { streams, claimed, agreed } = vote;
        let reason =
            format!("claims {claimed} of {streams} streams of other classes on the sensor {sensor}; {agreed} keep their class");
        return Some(VoteRefusal { reason, is_final: true });
    }
    let count = votes.values().filter(|vote| vote.counts()).count();
    let reason =
        || format!("{count} votes of sensors with {MIN_STREAMS} streams or more, {least} are needed; tried again every minute");
    (count < least).then(|| VoteRefusal { reason: reason(), is_final: false })
}

/// Why votes refuse a part.
pub struct VoteRefusal {
    /// The reason.
    pub reason: String,
    /// Whether another trial of the same part would be useless.
    pub is_final: bool,
}

/// A sensor's answer to a request: subject and payload; `None`: it is not a valid request.
pub(super) fn answer(
    sensor: &str,
    request: &Message,
    running: impl Fn(&str) -> Option<Arc<Model>>,
    streams: impl Fn(&Model) -> Vec<Arc<StreamSlots>>,
) -> Option<(String, Vec<u8>)> {
    let header = request.headers.as_ref()?.get(TRIAL_HEADER)?;
    let trial: Trial = serde_json::from_str(header.as_str()).ok().filter(|trial: &Trial| is_token(&trial.ballot))?;
    let part = unpack(&request.payload).map_err(|error| error.to_string()).and_then(|file| read_part(&trial.part, &file)).ok()?;
    let vote = running(&trial.part.model)
        .map_or_else(Vote::default, |running| Vote::of(&running, &part, &trial.part.class, &streams(&running)));
    let payload = serde_json::to_vec(&vote).ok()?;
    Some((format!("{VOTES_SUBJECT}.{sensor}.{}", trial.ballot), payload))
}

#[cfg(test)]
mod tests {
    use super::super::canary::tests::streams;
    use super::*;

    #[test]
    fn a_vote_counts_the_streams_that_a_part_claims() {
        let model = Model::built_in().unwrap();
        let streams = streams(&model);
        let others: Vec<String> = model.classes.iter().filter(|class| *class != "dns").cloned().collect();
        let mut part = model.without_classes(&others).unwrap();
        let own = Vote::of(&model, &part, "dns", &streams);
        assert!(!own.is_harmful() && own.streams > 100 && own.agreed == own.streams, "{own:?}");
        part.classes = vec!["greedy".into()];
        part.decision.theta.fill(-100.0);
        let stolen = Vote::of(&model, &part, "greedy", &streams);
        assert!(stolen.is_harmful() && stolen.claimed > 0, "{stolen:?}");
        let few = Vote { streams: MIN_STREAMS - 1, claimed: 10, agreed: 0 };
        let votes = |votes: &[(&str, Vote)]| votes.iter().map(|(sensor, vote)| ((*sensor).to_string(), *vote)).collect::<Votes>();
        let refused = verdict(&votes(&[("a", own), ("b", stolen), ("c", few)]), 0).unwrap();
        assert!(refused.is_final && refused.reason.contains(" on the sensor b; "), "{}", refused.reason);
        assert!(verdict(&votes(&[("a", own), ("c", few)]), 1).is_none() && verdict(&Votes::new(), 0).is_none());
        assert!(!verdict(&votes(&[("a", own), ("c", few)]), 2).unwrap().is_final);
    }
}
