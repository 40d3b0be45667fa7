//! Recent activity for the page: the last detections and episodes, rates over the last two minutes, and the workers' share of busy time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::capture::Nanos;
use crate::engine::Verdict;
use crate::episode::{Episode, EpisodeState, Role};
use crate::packet::{Address, Direction, StreamKey};
use crate::stream::Basis;

/// Number of detections kept.
const DETECTIONS: usize = 50;
/// Number of episodes kept. Of more, those that have ended are forgotten first.
const EPISODES: usize = 50;
/// Length of the history of rates, in seconds.
const SECONDS: usize = 120;
/// Number of whole seconds over which a rate is averaged.
const MEAN_OVER: usize = 5;

/// Time over which a worker's share of busy time is averaged.
const BUSY_RATIO_OVER: Duration = Duration::from_secs(5);

/// A detection as it is stored. It is formatted only on request, to keep that work off the path of verdicts.
struct LastDetection {
    timestamp: Nanos,
    key: StreamKey,
    first_direction: Direction,
    class: Arc<str>,
    model: Arc<str>,
    confidence: f32,
    basis: Option<Basis>,
    packets: u64,
}

/// A detection, formatted for the page.
#[derive(Debug, Serialize)]
pub struct Detection {
    /// Seconds since the Unix epoch.
    timestamp: f64,
    class: String,
    model: String,
    confidence: f32,
    /// What the class rests on; `None` for models that do not distinguish bases.
    basis: Option<&'static str>,
    /// Endpoint that sent the first packet, or the host.
    source: String,
    destination: Option<String>,
    proto: Option<String>,
    packets: u64,
}

/// An episode as it is stored.
struct LastEpisode {
    class: Arc<str>,
    model: Arc<str>,
    episode: Episode,
}

/// An episode, formatted for the page.
#[derive(Debug, Serialize)]
pub struct EpisodeSummary {
    class: String,
    model: String,
    host: String,
    role: &'static str,
    /// The other host, if there is only one.
    peer: Option<String>,
    /// As in its last event: `end` once it has ended.
    state: &'static str,
    /// Times of its first and of its last flow, in seconds since the Unix epoch.
    start: f64,
    end: f64,
    flows: u64,
    peers: usize,
    ports: usize,
    packets: u64,
    bytes: u64,
    confidence: f32,
}

/// Totals of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    frames: u64,
    bytes: u64,
    detections: u64,
}

/// Mean rates over the last whole seconds.
#[derive(Debug, Serialize)]
pub struct Rates {
    frames_per_second: f64,
    bytes_per_second: f64,
    detections_per_second: f64,
    /// Frames in each second of the history, oldest first.
    frames: Vec<u64>,
}

/// The history behind the page.
pub(super) struct Recent {
    started: Instant,
    /// Number (since `started`) and totals of the current second.
    now: (u64, Second),
    /// Totals of the seconds before it, oldest first.
    past: VecDeque<Second>,
    detected: VecDeque<LastDetection>,
    /// In the order in which they began.
    episodes: Vec<LastEpisode>,
}

impl Recent {
    pub fn new() -> Self {
        let (past, detected) = (VecDeque::with_capacity(SECONDS), VecDeque::with_capacity(DETECTIONS));
        Self { started: Instant::now(), now: (0, Second::default()), past, detected, episodes: Vec::new() }
    }

    /// Totals of the second of `now`, after moving seconds that have passed into the history.
    fn second(&mut self, now: Instant) -> &mut Second {
        let elapsed = now.saturating_duration_since(self.started).as_secs().max(self.now.0);
        // After a pause longer than the history only zeros remain.
        for _ in 0..(elapsed - self.now.0).min(SECONDS as u64) {
            if self.past.len() == SECONDS {
                self.past.pop_front();
            }
            self.past.push_back(std::mem::take(&mut self.now.1));
        }
        self.now.0 = elapsed;
        &mut self.now.1
    }

    /// Counts frames and their bytes.
    pub fn count(&mut self, now: Instant, frames: u64, bytes: u64) {
        let second = self.second(now);
        second.frames += frames;
        second.bytes += bytes;
    }

    /// Stores a detection of `class` by `model`.
    pub fn detection(&mut self, verdict: &Verdict, model: &Arc<str>, class: &Arc<str>) {
        self.second(Instant::now()).detections += 1;
        if self.detected.len() == DETECTIONS {
            self.detected.pop_front();
        }
        self.detected.push_back(LastDetection {
            timestamp: verdict.timestamp,
            key: verdict.key,
            first_direction: verdict.first_direction,
            class: class.clone(),
            model: model.clone(),
            confidence: verdict.confidence,
            basis: verdict.basis(),
            packets: verdict.packets,
        });
    }

    /// The last detections, newest first.
    pub fn detections(&self) -> Vec<Detection> {
        self.detected.iter().rev().map(LastDetection::format).collect()
    }

    /// Stores an episode of `class` by `model` when it begins, and what has come to it later.
    pub fn episode(&mut self, episode: &Episode, model: &Arc<str>, class: &Arc<str>) {
        let new = LastEpisode { class: class.clone(), model: model.clone(), episode: episode.clone() };
        if episode.state == EpisodeState::Begin {
            if self.episodes.len() == EPISODES {
                let ended = self.episodes.iter().position(|last| last.episode.state == EpisodeState::End);
                self.episodes.remove(ended.unwrap_or(0));
            }
            self.episodes.push(new);
        } else if let Some(last) = self.episodes.iter_mut().rev().find(|last| last.is_before(&new)) {
            *last = new;
        }
    }

    /// The last episodes: those that last, then those that have ended, each newest first.
    pub fn episodes(&self) -> Vec<EpisodeSummary> {
        let (ended, lasting): (Vec<_>, Vec<_>) =
            self.episodes.iter().rev().partition(|last| last.episode.state == EpisodeState::End);
        lasting.into_iter().chain(ended).map(LastEpisode::format).collect()
    }

    /// Mean rates, and frames per second over the history.
    pub fn rates(&mut self, now: Instant) -> Rates {
        self.second(now);
        let last = self.past.iter().rev().take(MEAN_OVER);
        let seconds = last.len().max(1) as f64;
        let sum = last.fold(Second::default(), |a, b| Second {
            frames: a.frames + b.frames,
            bytes: a.bytes + b.bytes,
            detections: a.detections + b.detections,
        });
        Rates {
            frames_per_second: sum.frames as f64 / seconds,
            bytes_per_second: sum.bytes as f64 / seconds,
            detections_per_second: sum.detections as f64 / seconds,
            frames: self.past.iter().map(|s| s.frames).collect(),
        }
    }
}

impl LastDetection {
    fn format(&self) -> Detection {
        let key = &self.key;
        let end = |address: String, port: u16| match (key.has_ports(), address.contains(':')) {
            (true, true) => format!("[{address}]:{port}"),
            (true, false) => format!("{address}:{port}"),
            _ => address,
        };
        let [source, destination] = key.ends(self.first_direction).map(|(address, port)| end(address.to_string(), port));
        let host = key.host();
        let flow = host.is_none();
        Detection {
            timestamp: self.timestamp.0 as f64 / 1e9,
            class: self.class.to_string(),
            model: self.model.to_string(),
            confidence: self.confidence,
            basis: self.basis.map(Basis::name),
            source: host.unwrap_or(source),
            destination: flow.then_some(destination),
            proto: flow.then(|| key.proto_name().into_owned()),
            packets: self.packets,
        }
    }
}

impl LastEpisode {
    /// Whether it lasts, and the other one is the same episode later.
    fn is_before(&self, later: &Self) -> bool {
        self.episode.state != EpisodeState::End && self.subject() == later.subject()
    }

    /// What tells it from other episodes that last: its class and model, the host and its role.
    fn subject(&self) -> (&str, &str, Address, Role) {
        (&self.class, &self.model, self.episode.host, self.episode.role)
    }

    fn format(&self) -> EpisodeSummary {
        let episode = &self.episode;
        EpisodeSummary {
            class: self.class.to_string(),
            model: self.model.to_string(),
            host: episode.host.to_string(),
            role: episode.role.name(),
            peer: episode.peer.map(|peer| peer.to_string()),
            state: episode.state.name(),
            start: episode.start.0 as f64 / 1e9,
            end: episode.end.0 as f64 / 1e9,
            flows: episode.flows,
            peers: episode.peers,
            ports: episode.ports,
            packets: episode.packets,
            bytes: episode.bytes,
            confidence: episode.confidence,
        }
    }
}

/// Share of its time that a worker was busy, averaged over [`BUSY_RATIO_OVER`].
#[derive(Default)]
pub(super) struct BusyRatio {
    busy: Duration,
    all: Duration,
    last: Option<f64>,
}

impl BusyRatio {
    /// Adds a worker's busy and idle time.
    pub fn add(&mut self, busy: Duration, idle: Duration) {
        self.busy += busy;
        self.all += busy + idle;
        if self.all >= BUSY_RATIO_OVER {
            *self = Self { last: Some(self.now()), ..Self::default() };
        }
    }

    fn now(&self) -> f64 {
        self.busy.as_secs_f64() / self.all.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The share (0 to 1) over the last full period, or until the first has passed over the time so far.
    pub fn get(&self) -> f64 {
        self.last.unwrap_or_else(|| self.now())
    }
}

#[cfg(test)]
mod tests {
    use crate::snn::ClassId;

    use super::*;

    #[test]
    fn a_pause_longer_than_the_history_leaves_zeros() {
        let mut recent = Recent::new();
        let start = recent.started;
        recent.count(start, 7, 700);
        let later = start + Duration::from_secs(2);
        assert_eq!(recent.rates(later).frames, [7, 0]);
        assert_eq!(recent.rates(later).frames_per_second, 3.5);
        let later = start + Duration::from_secs(100_002);
        recent.count(later, 1, 1);
        assert_eq!(recent.rates(later).frames, [0; SECONDS]);
        assert_eq!(recent.now.1.frames, 1);
    }

    #[test]
    fn episodes_that_last_come_first_and_are_kept_longest() {
        let (model, class) = (Arc::from("behaviours"), Arc::from("scan.port"));
        let episode = |host: u8, state, flows| Episode {
            state,
            class: ClassId::from_index(0),
            host: Address::from(std::net::IpAddr::from([10, 0, 0, host])),
            role: Role::Source,
            peer: None,
            start: Nanos(u64::from(host)),
            end: Nanos(u64::from(host) + 1),
            time: Nanos(u64::from(host) + 1),
            packet: 0,
            flows,
            peers: 1,
            ports: 1,
            packets: flows,
            bytes: flows,
            confidence: 1.0,
        };
        let mut recent = Recent::new();
        let mut add = |host, state, flows| recent.episode(&episode(host, state, flows), &model, &class);
        add(1, EpisodeState::Begin, 4);
        add(2, EpisodeState::Begin, 4);
        add(1, EpisodeState::Update, 7);
        add(2, EpisodeState::End, 5);
        add(2, EpisodeState::Begin, 6);
        add(3, EpisodeState::Update, 9);
        let shown = |recent: &Recent| recent.episodes().iter().map(|e| (e.host.clone(), e.state, e.flows)).collect::<Vec<_>>();
        let host = |number: u8| format!("10.0.0.{number}");
        assert_eq!(shown(&recent), [(host(2), "begin", 6), (host(1), "update", 7), (host(2), "end", 5)]);
        (10..58).for_each(|number| recent.episode(&episode(number, EpisodeState::Begin, 4), &model, &class));
        let hosts: Vec<_> = shown(&recent).into_iter().map(|(host, ..)| host).collect();
        assert_eq!((hosts.len(), &hosts[48..]), (EPISODES, [host(2), host(1)].as_slice()), "the ended one is forgotten");
        recent.episode(&episode(58, EpisodeState::Begin, 4), &model, &class);
        assert!(!shown(&recent).iter().any(|(of, ..)| *of == host(1)), "then the oldest");
    }

    #[test]
    fn busy_ratio_covers_the_last_period() {
        let mut ratio = BusyRatio::default();
        assert_eq!(ratio.get(), 0.0);
        let second = Duration::from_secs(1);
        ratio.add(second, second);
        assert_eq!(ratio.get(), 0.5);
        (0..10).for_each(|_| ratio.add(second, Duration::ZERO));
        assert_eq!(ratio.get(), 1.0);
        (0..8).for_each(|_| ratio.add(Duration::ZERO, second));
        assert_eq!(ratio.get(), 0.0);
    }
}
