//! How are captures read as if they were traffic? At their own pace, at a multiple of it, or flat out; once or again and again.
//!
//! Time goes on: a capture that begins before the one before it has ended, and each further round, is moved to a later time, so that
//! its streams are streams of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::live::InputCounters;
use super::{CaptureError, CaptureFile, Filtered, FrameBatch, Nanos, Source, expand};

/// How long the engine waits at most before it looks after its streams.
const WAIT: Duration = Duration::from_millis(50);
/// Pause after a capture could not be opened for want of descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(200);

/// Captures read as if they were traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaySettings {
    /// Files and folders.
    pub captures: Vec<PathBuf>,
    /// Multiple of the captures' own pace; 0: as fast as it goes.
    pub speed: f64,
    /// How often all of them are read; 0: without end.
    pub repeat: u64,
    /// BPF expression.
    pub filter: Option<String>,
}

/// The capture that is being read.
struct Open {
    file: Filtered<CaptureFile>,
    name: String,
    /// What is added to its frames' times, once its first frame is known.
    shift: Option<u64>,
    /// When its first frame went out, and that frame's time.
    began: Option<(Instant, Nanos)>,
}

/// Captures as a source.
pub struct ReplaySource {
    settings: ReplaySettings,
    captures: Vec<PathBuf>,
    /// Between captures that had to be moved: longer than a stream may be quiet.
    gap: Duration,
    next: usize,
    round: u64,
    /// Frames seen in the current round: a round without any is the last.
    round_frames: u64,
    open: Option<Open>,
    pending: FrameBatch,
    at: usize,
    last: Nanos,
    /// When `last` was handed out.
    last_at: Instant,
    counters: Arc<InputCounters>,
    stop: Arc<AtomicBool>,
}

impl ReplaySource {
    /// Finds the captures; `idle` is how long a stream may be quiet.
    ///
    /// # Errors
    /// Where there is no capture, or the filter is mistaken.
    pub fn open(settings: &ReplaySettings, idle: Duration, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let captures = expand(&settings.captures)?.captures;
        let counters = InputCounters::new("replay", settings.filter.as_deref());
        counters.set_trouble(None);
        Ok(Self {
            settings: settings.clone(),
            captures,
            gap: idle + Duration::from_secs(1),
            next: 0,
            round: 0,
            round_frames: 0,
            open: None,
            pending: FrameBatch::new(),
            at: 0,
            last: Nanos(0),
            last_at: Instant::now(),
            counters: Arc::new(counters),
            stop: Arc::clone(stop),
        })
    }

    pub fn counters(&self) -> &Arc<InputCounters> {
        &self.counters
    }

    /// The time that the captures have come to.
    fn now(&self) -> Nanos {
        let since = u64::try_from(self.last_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let passed = if self.settings.speed > 0.0 { (since as f64 * self.settings.speed) as u64 } else { 0 };
        Nanos(self.last.0.saturating_add(passed))
    }

    /// Opens the next capture; `false`: there is none left.
    fn advance(&mut self) -> bool {
        loop {
            let Some(path) = self.captures.get(self.next) else {
                self.round += 1;
                if self.round_frames == 0 || (self.settings.repeat > 0 && self.round >= self.settings.repeat) {
                    return false;
                }
                (self.next, self.round_frames) = (0, 0);
                continue;
            };
            self.next += 1;
            let name = path.display().to_string();
            let file = CaptureFile::open_unmapped(path).and_then(|f| Filtered::new(f, self.settings.filter.as_deref()));
            match file {
                Ok(file) => {
                    self.counters.set_trouble(None);
                    self.open = Some(Open { file, name, shift: None, began: None });
                    return true;
                }
                Err(error) if error.is_shortage() => {
                    if self.counters.set_trouble(Some(error.to_string())) {
                        warn!(capture = name, %error, "capture can't be opened for now, trying again");
                    }
                    self.next -= 1;
                    std::thread::sleep(SHORTAGE);
                    if self.stop.load(Relaxed) {
                        return false;
                    }
                }
                Err(error) => {
                    self.counters.captures_refused.fetch_add(1, Relaxed);
                    warn!(capture = name, %error, "capture can't be read");
                }
            }
        }
    }

    /// Reads the next frames into `pending`; `false`: there are none left.
    fn refill(&mut self) -> Result<bool, CaptureError> {
        self.at = 0;
        loop {
            if self.open.is_none() && !self.advance() {
                return Ok(false);
            }
            let Some(open) = &mut self.open else { return Ok(false) };
            if open.file.fill(&mut self.pending)? {
                if self.pending.is_empty() {
                    continue;
                }
                self.counters.capture_index.begin(self.counters.frames.load(Relaxed), &open.name);
                self.round_frames += self.pending.len() as u64;
                let first = self.pending.frame(0).timestamp;
                let (last, gap) = (self.last, u64::try_from(self.gap.as_nanos()).unwrap_or(u64::MAX));
                let shift = *open
                    .shift
                    .get_or_insert_with(|| if first >= last { 0 } else { last.0.saturating_add(gap).saturating_sub(first.0) });
                self.pending.delay(shift);
                return Ok(true);
            }
            self.counters.captures_read.fetch_add(1, Relaxed);
            match open.file.cut() {
                Some(cut) => warn!(capture = open.name, frames = open.file.frames(), %cut, "capture read to where it is cut"),
                None => info!(capture = open.name, frames = open.file.frames(), "capture read"),
            }
            self.open = None;
        }
    }

    fn handed_on(&mut self, batch: &FrameBatch) {
        if !batch.is_empty() {
            self.last = self.last.max(batch.frame(batch.len() - 1).timestamp);
            self.last_at = Instant::now();
            self.counters.frames.fetch_add(batch.len() as u64, Relaxed);
        }
    }

    /// When a frame is due.
    fn due(&mut self, time: Nanos) -> Instant {
        let Some(open) = &mut self.open else { return Instant::now() };
        let (began, first) = *open.began.get_or_insert_with(|| (Instant::now(), time));
        let after = time.0.saturating_sub(first.0) as f64 / self.settings.speed;
        began + Duration::from_nanos(after as u64)
    }
}

impl Source for ReplaySource {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if self.stop.load(Relaxed) {
            return Ok(false);
        }
        if self.settings.speed == 0.0 {
            let more = self.refill()?;
            std::mem::swap(batch, &mut self.pending);
            self.handed_on(batch);
            return Ok(more);
        }
        let give_up = Instant::now() + WAIT;
        while !batch.is_full() {
            if self.at == self.pending.len() && !(batch.is_empty() && self.refill()?) {
                break;
            }
            let time = self.pending.frame(self.at).timestamp;
            let (due, now) = (self.due(time), Instant::now());
            if due > now {
                if !batch.is_empty() || now >= give_up {
                    break;
                }
                std::thread::sleep(due.min(give_up) - now);
                continue;
            }
            let frame = self.pending.frame(self.at);
            batch.push(frame.timestamp, frame.link, frame.wire_len, frame.bytes);
            self.at += 1;
        }
        self.handed_on(batch);
        Ok(!batch.is_empty() || self.at < self.pending.len())
    }

    fn clock(&self) -> Option<Nanos> {
        Some(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures").join(name)
    }

    fn replay(name: &str, speed: f64, rounds: u64) -> (Vec<(u64, Vec<u8>)>, Duration) {
        let settings = ReplaySettings { captures: vec![fixture(name)], speed, repeat: rounds, filter: None };
        let mut source = ReplaySource::open(&settings, Duration::from_secs(600), &Arc::default()).expect("a fixture");
        let (mut frames, mut batch, began) = (Vec::new(), FrameBatch::new(), Instant::now());
        while source.fill(&mut batch).expect("a fixture") {
            frames.extend(batch.iter().map(|f| (f.timestamp.0, f.bytes.to_vec())));
        }
        assert_eq!(source.counters().frames.load(Relaxed), frames.len() as u64);
        (frames, began.elapsed())
    }

    #[test]
    fn any_pace_gives_the_same_frames() {
        let (flat_out, _) = replay("dns-1.pcap", 0.0, 1);
        let length = Duration::from_nanos(flat_out[flat_out.len() - 1].0 - flat_out[0].0);
        let speed = length.as_secs_f64() / 0.3;
        let (paced, took) = replay("dns-1.pcap", speed, 1);
        assert!(flat_out == paced, "frames differ");
        // No bound above: the machine may be busy.
        assert!(took >= Duration::from_millis(299), "{took:?} is too fast for {length:?} at {speed}");
    }

    #[test]
    fn each_round_is_later_than_the_one_before() {
        let (once, _) = replay("dns-1.pcap", 0.0, 1);
        let (thrice, _) = replay("dns-1.pcap", 0.0, 3);
        assert_eq!(thrice.len(), once.len() * 3);
        let second = once.len();
        assert!(thrice[second].0 - thrice[second - 1].0 >= 601_000_000_000);
        assert_eq!(thrice[second + 1].0 - thrice[second].0, once[1].0 - once[0].0);
    }
}
