//! Trials on a sensor's own streams: of a new version of a model before it runs (canary), and of a candidate part (vote).
//!
//! Input: recent streams of the sensor, as the running model names them now. Output: numbers only, which may leave the sensor.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::config::CanaryConfig;
use crate::evaluate::MAX_CLAIMED;
use crate::export::status::{CanaryOutcome, CanaryStatus};
use crate::model::Model;
use crate::train::live::{StreamSlots, named};

use super::parts::PartName;

/// Classes that the reason of a refusal names.
const LISTED: usize = 4;

/// Subjects of a curator's requests begin with it: `spiked.trials.GROUP`, with the part as payload.
pub const TRIALS_SUBJECT: &str = "spiked.trials";
/// Subjects of votes begin with it: `spiked.votes.SENSOR.BALLOT`.
pub const VOTES_SUBJECT: &str = "spiked.votes";
/// Header of a request with its [`Trial`] as JSON.
pub const TRIAL_HEADER: &str = "Spiked-Trial";

/// What a canary found, and why it refuses the model if it does.
pub struct Canary {
    /// The figures.
    pub status: CanaryStatus,
    /// Why the model is refused; `None`: it may run.
    pub refusal: Option<String>,
}

/// Compares a new version of a model with the running one on recent streams. A stream is lost if the running model names it and the new one
/// gives it another class or none.
pub fn canary(config: &CanaryConfig, version: u64, (running, new): (&Model, &Model), streams: &[Arc<StreamSlots>]) -> Canary {
    let mut by_class: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for stream in streams {
        let Some(class) = named(running, stream) else { continue };
        let (all, lost) = by_class.entry(class).or_default();
        *all += 1;
        *lost += u64::from(named(new, stream) != Some(class));
    }
    let (all, lost) = by_class.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let outcome = if all < config.min_streams {
        CanaryOutcome::NotEnoughStreams
    } else if lost as f64 > config.max_loss * all as f64 {
        CanaryOutcome::Refused
    } else {
        CanaryOutcome::Passed
    };
    let status = CanaryStatus { version, outcome, streams: all, lost };
    let refusal = (outcome == CanaryOutcome::Refused).then(|| {
        let mut worst: Vec<_> = by_class.into_iter().filter(|(_, (_, lost))| *lost > 0).collect();
        worst.sort_by_key(|(_, (_, lost))| std::cmp::Reverse(*lost));
        let more = if worst.len() > LISTED { ", ..." } else { "" };
        let worst: Vec<String> =
            worst.iter().take(LISTED).map(|(class, (all, lost))| format!("{class} {lost} of {all}")).collect();
        let limit = config.max_loss * 100.0;
        format!("loses {lost} of {all} streams that the running model names (limit {limit} %): {}{more}", worst.join(", "))
    });
    Canary { status, refusal }
}

/// What a curator asks sensors to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Name of the request, the last token of the votes' subjects.
    pub ballot: String,
    /// The sensor that learned the part.
    pub sensor: String,
    /// The model.
    pub model: String,
    /// The class.
    pub class: String,
}

impl Trial {
    /// Reads the header of a request.
    pub fn of_headers(headers: Option<&HeaderMap>) -> Option<Self> {
        serde_json::from_str(headers?.get(TRIAL_HEADER)?.as_str()).ok()
    }

    /// The name of the part.
    pub fn part(&self) -> PartName {
        PartName { sensor: self.sensor.clone(), model: self.model.clone(), class: self.class.clone() }
    }
}

/// What a sensor found about a part: numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Streams that the sensor's running model gives other classes than the part's.
    pub streams: u64,
    /// Of these, those that the part claims.
    pub claimed: u64,
    /// Of these, those that keep their class.
    pub agreed: u64,
}

/// Fewest streams with which a vote counts.
pub const MIN_STREAMS: u64 = 20;

impl Vote {
    /// The vote of a sensor with a running model and recent streams; `None`: the part does not fit the model.
    pub fn of(running: &Model, part: &Model, class: &str, streams: &[Arc<StreamSlots>]) -> Option<Self> {
        let with = running.with_part(part).ok()?;
        let mut vote = Self::default();
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
        Some(vote)
    }

    /// Whether the sensor has enough streams.
    pub fn counts(&self) -> bool {
        self.streams >= MIN_STREAMS
    }

    /// Whether the part claims more streams of other classes than the gate's limit.
    pub fn is_harmful(&self) -> bool {
        self.counts() && self.claimed as f64 > MAX_CLAIMED * self.streams as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::reference;

    /// Streams of the built-in reference: up to ten of each class.
    fn streams(model: &Model) -> Vec<Arc<StreamSlots>> {
        let corpus = reference(&model.layout);
        let mut count = BTreeMap::new();
        let few = corpus.streams.iter().enumerate().filter(|(_, stream)| {
            let count = count.entry(stream.class.index()).or_insert(0);
            *count += 1;
            *count <= 10
        });
        few.map(|(_, stream)| Arc::new(corpus.volleys_of(stream).flatten().copied().collect())).collect()
    }

    #[test]
    fn a_model_that_loses_streams_is_refused_and_the_same_one_is_not() {
        let (model, config) = (Model::built_in().unwrap(), CanaryConfig::default());
        let streams = streams(&model);
        let same = canary(&config, 2, (&model, &model), &streams);
        assert_eq!((same.status.outcome, same.status.lost), (CanaryOutcome::Passed, 0));
        assert!(same.status.streams > 100, "{:?}", same.status);
        let mut permuted = model.clone();
        permuted.classes.rotate_left(1);
        let refused = canary(&config, 2, (&model, &permuted), &streams);
        assert_eq!((refused.status.outcome, refused.status.lost), (CanaryOutcome::Refused, refused.status.streams));
        let reason = refused.refusal.unwrap();
        assert!(reason.starts_with("loses ") && reason.ends_with(", ..."), "{reason}");
        let few = canary(&config, 2, (&model, &permuted), &streams[..10]);
        assert_eq!((few.status.outcome, few.refusal), (CanaryOutcome::NotEnoughStreams, None));
        let lenient = CanaryConfig { max_loss: 1.0, ..config };
        assert_eq!(canary(&lenient, 2, (&model, &permuted), &streams).status.outcome, CanaryOutcome::Passed);
    }

    #[test]
    fn a_vote_counts_the_streams_that_a_part_claims() {
        let model = Model::built_in().unwrap();
        let streams = streams(&model);
        let others: Vec<String> = model.classes.iter().filter(|class| *class != "dns").cloned().collect();
        let mut part = model.without_classes(&others).unwrap();
        let own = Vote::of(&model, &part, "dns", &streams).unwrap();
        assert!(!own.is_harmful() && own.streams > 100 && own.agreed == own.streams, "{own:?}");
        part.classes = vec!["greedy".into()];
        let stolen = Vote::of(&model, &part, "greedy", &streams).unwrap();
        assert!(stolen.is_harmful() && stolen.claimed > 0, "{stolen:?}");
        let few = Vote { streams: MIN_STREAMS - 1, claimed: 10, agreed: 0 };
        assert!(!few.is_harmful());
    }
}
