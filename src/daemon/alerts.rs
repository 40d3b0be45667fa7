//! Rate limit of alerts: a number per minute for each class and host; the rest is counted and not sent.
//!
//! The table is bounded: hosts that do not fit share one entry per class. So neither one host nor a flood of hosts can suppress the
//! alerts of a class for good, and the number of alerts per minute is bounded by the size of the table.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::capture::Nanos;
use crate::config::AlertsConfig;
use crate::export::status;
use crate::packet::Address;
use crate::snn::ClassId;

const MINUTE: u64 = 60_000_000_000;

/// Model, class, and the source of the stream or the host of the episode; `None`: all hosts that do not fit the table.
type Pair = (usize, ClassId, Option<Address>);

/// Rate limiter of alerts.
pub struct Limiter {
    settings: AlertsConfig,
    minute: u64,
    sent: HashMap<Pair, u32, foldhash::fast::RandomState>,
}

impl Limiter {
    pub fn new(settings: AlertsConfig) -> Self {
        Self { settings, minute: 0, sent: HashMap::default() }
    }

    /// Replaces the limits, after a reload.
    pub fn set(&mut self, settings: AlertsConfig) {
        self.settings = settings;
    }

    /// Whether an alert of this time about a class of a model and a host is within the limit; counts it.
    pub fn admits(&mut self, time: Nanos, model_index: usize, class: ClassId, host: Address) -> bool {
        if self.settings.per_minute == 0 {
            return true;
        }
        // With several capture threads and reordered packets, time may step back a little across the end of a minute: that does
        // not start a new minute.
        let minute = time.0 / MINUTE;
        if minute > self.minute || minute + 1 < self.minute {
            self.minute = minute;
            self.sent.clear();
        }
        let mut pair = (model_index, class, Some(host));
        if self.sent.len() >= self.settings.hosts && !self.sent.contains_key(&pair) {
            pair.2 = None;
        }
        let sent = self.sent.entry(pair).or_insert(0);
        *sent = sent.saturating_add(1);
        *sent <= self.settings.per_minute
    }
}

/// Numbers of alerts sent and suppressed, by model and class.
#[derive(Debug, Default)]
pub struct AlertCounts(Mutex<BTreeMap<(String, String), (u64, u64)>>);

impl AlertCounts {
    pub fn count(&self, model: &str, class: &str, sent: bool) {
        let mut counts = self.0.lock();
        let count = counts.entry((model.into(), class.into())).or_default();
        if sent {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }

    pub fn status(&self) -> Vec<status::AlertCounts> {
        let counts = self.0.lock();
        let one = |((model, class), (sent, suppressed)): (&(String, String), &(u64, u64))| status::AlertCounts {
            model: model.clone(),
            class: class.clone(),
            sent: *sent,
            suppressed: *suppressed,
        };
        counts.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an alert of some host in some second is admitted.
    fn admits(limiter: &mut Limiter, host: u32, second: u64) -> bool {
        let host = Address::from(std::net::IpAddr::from(host.to_be_bytes()));
        limiter.admits(Nanos(second * 1_000_000_000), 0, ClassId::new(0), host)
    }

    #[test]
    fn each_host_has_its_share_every_minute() {
        let mut limiter = Limiter::new(AlertsConfig { per_minute: 2, hosts: 10 });
        let mut admits = |host, second| admits(&mut limiter, host, second);
        assert_eq!([admits(1, 600), admits(1, 610), admits(1, 659)], [true, true, false]);
        assert_eq!([admits(2, 659), admits(2, 659), admits(2, 659)], [true, true, false]);
        assert_eq!([admits(1, 660), admits(1, 661), admits(1, 662)], [true, true, false], "a new minute");
        // A packet that comes late, of the minute before, opens no third one.
        assert_eq!([admits(1, 659), admits(1, 663), admits(1, 659), admits(1, 664)], [false; 4]);
        assert!(admits(1, 60), "a clock that was set back does not silence it");
    }

    #[test]
    fn a_flood_of_hosts_is_bounded_and_does_not_suppress_earlier_hosts() {
        let settings = AlertsConfig { per_minute: 3, hosts: 100 };
        let mut limiter = Limiter::new(settings.clone());
        assert!(admits(&mut limiter, 7, 600));
        let flood = (1_000_000..1_050_000).filter(|&host| admits(&mut limiter, host, 610)).count();
        // One alert of each of those that it had room for, and the share of the one entry for all others.
        assert_eq!(flood, settings.hosts - 1 + 3);
        assert!(limiter.sent.len() <= settings.hosts + 1, "{} entries", limiter.sent.len());
        assert!(admits(&mut limiter, 7, 611) && admits(&mut limiter, 7, 612));
        assert!(!admits(&mut limiter, 7, 613));
    }

    #[test]
    fn a_limit_of_zero_admits_all() {
        let mut limiter = Limiter::new(AlertsConfig { per_minute: 0, hosts: 1 });
        assert!((0..1000).all(|_| admits(&mut limiter, 1, 600)));
    }
}
