//! Canary: the trial of a new version of a model on a sensor's own streams, before it runs.
//!
//! Input: recent streams of the sensor, as the running model names them now. Output: numbers only, which may leave the sensor.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::CanaryConfig;
use crate::export::status::{CanaryOutcome, CanaryStatus};
use crate::model::Model;
use crate::train::live::{StreamSlots, named};

/// Classes that the reason of a refusal names.
const LISTED: usize = 4;

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::evaluate::reference;

    /// Streams of the built-in reference: up to ten of each class.
    pub fn streams(model: &Model) -> Vec<Arc<StreamSlots>> {
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
}
