//! What `spiked top` shows: counts, classes over time, detections, unknown streams, episodes. Independent of the terminal.
//!
//! Input: the engine's output. All lists are bounded.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::Nanos;
use crate::cli::Exit;
use crate::engine::{EpisodeOutput, Event, Progress, Verdict};
use crate::episode::EpisodeState;
use crate::export;
use crate::packet::StreamKey;
use crate::stream::UnknownReason;

/// Detections that are kept.
const MAX_DETECTIONS: usize = 500;
/// Episodes that are kept.
const MAX_EPISODES: usize = 100;
/// Groups of unknown streams that are kept; streams of further groups are only counted.
const MAX_GROUPS: usize = 4096;
/// Columns of a history.
pub const COLUMNS: usize = 15;
/// Seconds of a live history's column: the whole history is a minute.
const LIVE_COLUMN: u64 = 60 / COLUMNS as u64;
/// Time over which rates are averaged.
const RATE_OVER: Duration = Duration::from_secs(2);

/// What is needed to find a stream again.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRef {
    pub key: StreamKey,
    /// Time of its first packet.
    pub first: Nanos,
    /// The capture; `None` for a source that is recorded.
    pub capture: Option<Arc<Path>>,
    /// Its ends, as shown.
    pub text: String,
}

/// A stream that was given a class.
#[derive(Clone, Debug)]
pub struct DetectionRow {
    /// Number of the detection, from 0.
    pub id: u64,
    pub time: Nanos,
    pub class: String,
    /// 0 to 1.
    pub confidence: f32,
    pub stream: StreamRef,
}

/// Unknown streams of one server.
#[derive(Clone, Debug)]
pub struct UnknownRow {
    pub server: String,
    pub reason: UnknownReason,
    pub streams: u64,
    /// The last of them.
    pub last: StreamRef,
}

/// An episode, as last seen.
#[derive(Clone, Debug)]
pub struct EpisodeRow {
    pub lasts: bool,
    pub text: String,
    key: (String, Nanos),
}

/// Detections of a class.
#[derive(Clone, Debug, Default)]
pub struct ClassRow {
    pub streams: u64,
    /// Detections by time, `[column]`; the columns are those of [`Axis`].
    pub history: [u64; COLUMNS],
}

/// The time that the columns of all histories cover.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Second at which the first column begins; `None` before the first detection.
    start: Option<u64>,
    /// Seconds of a column.
    width: u64,
    /// Whether old columns leave, as for live sources. Otherwise columns become wider, so that all time is shown.
    slides: bool,
}

/// Rates of packets and bytes, averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub packets: f64,
    pub bytes: f64,
}

/// All that is shown of the traffic.
pub struct State {
    pub packets: u64,
    pub bytes: u64,
    /// Streams that were given a class, and those that ended without one.
    pub named: u64,
    pub unnamed: u64,
    /// Streams open in each worker.
    live: Vec<usize>,
    pub undecodable: u64,
    /// Streams that ended early because a table was full.
    pub evicted: u64,
    pub rates: Rates,
    samples: VecDeque<(Duration, u64, u64)>,
    axis: Axis,
    pub classes: BTreeMap<String, ClassRow>,
    /// Newest first.
    pub detections: VecDeque<DetectionRow>,
    next_id: u64,
    pub unknown: BTreeMap<(String, usize), UnknownRow>,
    /// Newest first.
    pub episodes: VecDeque<EpisodeRow>,
    /// Whether the source has ended.
    pub ended: bool,
    /// What could not be read, with the exit codes it leads to.
    pub failures: Vec<(Exit, String)>,
}

impl State {
    /// Nothing seen yet. `live`: histories show the last minute.
    pub fn new(live: bool) -> Self {
        Self {
            packets: 0,
            bytes: 0,
            named: 0,
            unnamed: 0,
            live: Vec::new(),
            undecodable: 0,
            evicted: 0,
            rates: Rates::default(),
            samples: VecDeque::new(),
            axis: Axis { start: None, width: if live { LIVE_COLUMN } else { 1 }, slides: live },
            classes: BTreeMap::new(),
            detections: VecDeque::new(),
            next_id: 0,
            unknown: BTreeMap::new(),
            episodes: VecDeque::new(),
            ended: false,
            failures: Vec::new(),
        }
    }

    /// Forgets what was seen, before captures are read again.
    pub fn reset(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::new(self.axis.slides) };
    }

    /// Counts a detection, or a stream that has ended without a class.
    pub fn verdict(&mut self, verdict: &Verdict, capture: Option<&Arc<Path>>) {
        match (verdict.event, verdict.class) {
            (Event::Detection, Some(class)) => self.detection(verdict, &verdict.model.classes[class.index()], capture),
            (Event::Stream, None) => self.unknown(verdict, capture),
            _ => {}
        }
    }

    fn detection(&mut self, verdict: &Verdict, class: &str, capture: Option<&Arc<Path>>) {
        self.named += 1;
        let column = self.column(verdict.timestamp);
        let row = self.classes.entry(class.into()).or_default();
        row.streams += 1;
        row.history[column] += 1;
        self.detections.push_front(DetectionRow {
            id: self.next_id,
            time: verdict.timestamp,
            class: class.into(),
            confidence: verdict.confidence,
            stream: stream_ref(verdict, capture),
        });
        self.next_id += 1;
        self.detections.truncate(MAX_DETECTIONS);
    }

    fn unknown(&mut self, verdict: &Verdict, capture: Option<&Arc<Path>>) {
        let Some(reason) = verdict.unknown_reason() else { return };
        self.unnamed += 1;
        let key = (export::unknown_server(verdict, reason), reason as usize);
        if let Some(row) = self.unknown.get_mut(&key) {
            row.streams += 1;
            row.last = stream_ref(verdict, capture);
        } else if self.unknown.len() < MAX_GROUPS {
            let row = UnknownRow { server: key.0.clone(), reason, streams: 1, last: stream_ref(verdict, capture) };
            self.unknown.insert(key, row);
        }
    }

    /// Shows an episode, in the place of what was shown of it before.
    pub fn episode(&mut self, output: &EpisodeOutput) {
        let (episode, class) = (&output.episode, &output.model.classes[output.episode.class.index()]);
        let key = (format!("{} {class}", episode.host), episode.start);
        let row = EpisodeRow { lasts: episode.state != EpisodeState::End, text: export::describe_episode(episode, class), key };
        match self.episodes.iter_mut().find(|old| old.key == row.key) {
            Some(old) => *old = row,
            None => self.episodes.push_front(row),
        }
        self.episodes.truncate(MAX_EPISODES);
    }

    /// Adds the counters of a worker.
    pub fn progress(&mut self, progress: &Progress<'_>) {
        let counters = progress.counters;
        self.packets += counters.frames;
        self.bytes += counters.bytes;
        self.undecodable += counters.undecodable.values().sum::<u64>();
        self.evicted += counters.evicted + counters.dropped_undecided;
        if self.live.len() <= progress.worker {
            self.live.resize(progress.worker + 1, 0);
        }
        self.live[progress.worker] = progress.live;
        if let Some(clock) = progress.clock {
            self.column(clock);
        }
    }

    /// Updates the rates. `elapsed`: since the start.
    pub fn tick(&mut self, elapsed: Duration) {
        self.samples.push_back((elapsed, self.packets, self.bytes));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(at, ..)| elapsed.saturating_sub(*at) >= RATE_OVER) {
            self.samples.pop_front();
        }
        let Some(&(since, packets, bytes)) = self.samples.front() else { return };
        let seconds = elapsed.saturating_sub(since).as_secs_f64();
        if seconds > 0.0 {
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            self.rates = Rates { packets: rate(self.packets, packets), bytes: rate(self.bytes, bytes) };
        }
    }

    /// Streams that are open now.
    pub fn live(&self) -> usize {
        self.live.iter().sum()
    }

    /// Classes by their numbers of streams, most first.
    pub fn classes(&self) -> Vec<(&String, &ClassRow)> {
        let mut rows: Vec<_> = self.classes.iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.streams));
        rows
    }

    /// Groups of unknown streams: those that carry payload first, since these can be taught; most streams first.
    pub fn unknown_rows(&self) -> Vec<&UnknownRow> {
        let mut rows: Vec<_> = self.unknown.values().collect();
        rows.sort_by_key(|row| (row.reason == UnknownReason::NoPayload, std::cmp::Reverse(row.streams)));
        rows
    }

    /// What time the histories cover, as a text.
    pub fn span(&self) -> String {
        let seconds = self.axis.width * COLUMNS as u64;
        if self.axis.slides { "last minute".into() } else { format!("over {}", duration(seconds)) }
    }

    /// The column of a time; moves or widens the columns until they include it. Times before the first column are in the first.
    fn column(&mut self, time: Nanos) -> usize {
        let second = time.0 / 1_000_000_000;
        let columns = COLUMNS as u64;
        let mut start = *self.axis.start.get_or_insert_with(|| {
            let before = if self.axis.slides { self.axis.width * (columns - 1) } else { 0 };
            second.saturating_sub(before)
        });
        if self.axis.slides {
            let over = (second.saturating_sub(start) / self.axis.width + 1).saturating_sub(columns);
            if over > 0 {
                let by = usize::try_from(over).unwrap_or(COLUMNS).min(COLUMNS);
                for row in self.classes.values_mut() {
                    row.history.rotate_left(by);
                    row.history[COLUMNS - by..].fill(0);
                }
                start += over * self.axis.width;
            }
        }
        while second.saturating_sub(start) / self.axis.width >= columns {
            for row in self.classes.values_mut() {
                row.history = halved(&row.history);
            }
            self.axis.width *= 2;
        }
        self.axis.start = Some(start);
        (second.saturating_sub(start) / self.axis.width) as usize
    }
}

/// A history with columns of twice the width.
fn halved(history: &[u64; COLUMNS]) -> [u64; COLUMNS] {
    let mut wide = [0; COLUMNS];
    history.iter().enumerate().for_each(|(column, count)| wide[column / 2] += count);
    wide
}

fn stream_ref(verdict: &Verdict, capture: Option<&Arc<Path>>) -> StreamRef {
    StreamRef { key: verdict.key, first: verdict.first, capture: capture.cloned(), text: export::ends(verdict) }
}

/// A duration in its largest unit: `90 s`, `15 min`, `3 h`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Nanos {
        Nanos(n * 1_000_000_000)
    }

    fn count(state: &mut State, time: Nanos) {
        let column = state.column(time);
        state.classes.entry("dns".into()).or_default().history[column] += 1;
    }

    #[test]
    fn a_capture_s_history_widens() {
        let mut state = State::new(false);
        for n in 0..60 {
            count(&mut state, second(1000 + n));
        }
        let history = state.classes["dns"].history;
        assert_eq!((history[0], history.iter().sum::<u64>()), (4, 60), "{history:?}");
        assert_eq!(state.span(), "over 60 s");
        count(&mut state, second(1000 + 86_400));
        assert_eq!(state.classes["dns"].history.iter().sum::<u64>(), 61);
        count(&mut state, second(3));
        assert_eq!(state.classes["dns"].history.iter().sum::<u64>(), 62, "time before the first");
    }

    #[test]
    fn a_live_history_slides() {
        let mut state = State::new(true);
        count(&mut state, second(1000));
        assert_eq!(state.classes["dns"].history[COLUMNS - 1], 1);
        count(&mut state, second(1004));
        assert_eq!(state.classes["dns"].history[COLUMNS - 2..], [1, 1]);
        state.column(second(1063));
        assert_eq!(state.classes["dns"].history.iter().sum::<u64>(), 1);
        state.column(second(9_000_000));
        assert_eq!(state.classes["dns"].history, [0; COLUMNS]);
    }

    #[test]
    fn rates_are_of_the_last_two_seconds() {
        let mut state = State::new(true);
        for n in 0..40 {
            state.tick(Duration::from_millis(250 * n));
            state.packets += 250;
        }
        assert!((state.rates.packets - 1000.0).abs() < 1.0, "{:?}", state.rates);
    }
}
