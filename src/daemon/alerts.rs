//! How many alerts are too many? So many a minute for each class and host; the rest is counted.
//!
//! The table is bounded: hosts beyond it share one entry for each class, so that neither many hosts nor one can silence a class
//! for good, or make more alerts a minute than the table has room for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use crate::config::Alerts;
use crate::engine::Verdict;
use crate::export::status;
use crate::packet::Address;

const MINUTE: u64 = 60_000_000_000;

/// Model, class, and the host that sent the stream's first packet; none: one of those beyond the table.
type Pair = (usize, u16, Option<Address>);

/// The limiter.
pub struct Limiter {
    settings: Alerts,
    minute: u64,
    told: HashMap<Pair, u32, foldhash::fast::RandomState>,
}

impl Limiter {
    pub fn new(settings: Alerts) -> Self {
        Self { settings, minute: 0, told: HashMap::default() }
    }

    /// Takes the bounds that a reload has changed.
    pub fn set(&mut self, settings: Alerts) {
        self.settings = settings;
    }

    /// Whether the alert is told.
    pub fn admits(&mut self, verdict: &Verdict) -> bool {
        if self.settings.per_minute == 0 {
            return true;
        }
        let minute = verdict.timestamp.0 / MINUTE;
        if minute != self.minute {
            self.minute = minute;
            self.told.clear();
        }
        let class = verdict.class.unwrap_or(u16::MAX);
        let mut pair = (verdict.model, class, Some(verdict.key.sender(verdict.first_direction)));
        if self.told.len() >= self.settings.hosts && !self.told.contains_key(&pair) {
            pair.2 = None;
        }
        let told = self.told.entry(pair).or_insert(0);
        *told = told.saturating_add(1);
        *told <= self.settings.per_minute
    }
}

/// Alerts told and held back, by model and class: as many entries as classes.
#[derive(Debug, Default)]
pub struct AlertCounts(Mutex<BTreeMap<(String, String), (u64, u64)>>);

impl AlertCounts {
    pub fn count(&self, model: &str, class: &str, told: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((model.into(), class.into())).or_default();
        if told {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }

    pub fn status(&self) -> Vec<status::Alerts> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |((model, class), (sent, suppressed)): (&(String, String), &(u64, u64))| status::Alerts {
            model: model.clone(),
            class: class.clone(),
            sent: *sent,
            suppressed: *suppressed,
        };
        counts.iter().map(one).collect()
    }
}
