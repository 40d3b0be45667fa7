//! Replay of captures as if they were live traffic: at their own pace, at a multiple of it, or as fast as possible; once or repeatedly.
//!
//! Time never goes backwards: a capture that begins before the end of its predecessor, and each further round, is shifted to a later
//! time, so that its streams are separate streams.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{CaptureError, CaptureFile, Filtered, FrameBatch, InputCounters, InterfaceNames, Nanos, Source, expand};

/// Longest wait for a frame, so that the engine can expire streams in between.
const WAIT: Duration = Duration::from_millis(50);
/// Wait after a capture could not be opened for lack of descriptors or memory.
const SHORTAGE_BACKOFF: Duration = Duration::from_millis(200);

/// Settings of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaySettings {
    /// Files and folders.
    pub captures: Vec<PathBuf>,
    /// Multiple of the captures' own pace; 0 is as fast as possible.
    pub speed: f64,
    /// How often all captures are read; 0 is without end.
    pub repeat: u64,
    /// BPF filter.
    pub filter: Option<String>,
}

/// The capture that is being replayed.
struct Open {
    file: Filtered<CaptureFile>,
    name: String,
    /// Nanoseconds added to its timestamps; known from its first frame on.
    shift: Option<u64>,
    /// When its first frame was handed out, and that frame's timestamp.
    began: Option<(Instant, Nanos)>,
}

/// A replay as a source.
pub struct ReplaySource {
    settings: ReplaySettings,
    captures: Vec<PathBuf>,
    /// Time between a shifted capture and its predecessor: longer than the idle timeout of streams.
    gap: Duration,
    next: usize,
    round: u64,
    /// Frames of the current round; a round without frames is the last.
    round_frames: u64,
    open: Option<Open>,
    /// Frames read and not handed out yet, from `at` on.
    pending: FrameBatch,
    at: usize,
    /// Timestamp of the last frame handed out.
    last: Nanos,
    /// When that frame was handed out.
    last_at: Instant,
    interfaces: Arc<InterfaceNames>,
    counters: Arc<InputCounters>,
    stop: Arc<AtomicBool>,
}

impl ReplaySource {
    /// Finds the captures; `idle` is the idle timeout of streams.
    ///
    /// # Errors
    /// If a folder can't be read or holds no capture.
    pub fn open(settings: &ReplaySettings, idle: Duration, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let captures = expand(&settings.captures)?.captures;
        let counters = InputCounters::new("replay", settings.filter.as_deref());
        counters.set_last_error(None);
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
            interfaces: Arc::default(),
            counters: Arc::new(counters),
            stop: Arc::clone(stop),
        })
    }

    /// Counters of the input.
    pub fn counters(&self) -> &Arc<InputCounters> {
        &self.counters
    }

    /// Names of the interfaces that the captures name.
    pub fn interfaces(&self) -> &Arc<InterfaceNames> {
        &self.interfaces
    }

    /// The current time of the replay.
    fn now(&self) -> Nanos {
        let since = u64::try_from(self.last_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let elapsed = if self.settings.speed > 0.0 { (since as f64 * self.settings.speed) as u64 } else { 0 };
        Nanos(self.last.0.saturating_add(elapsed))
    }

    /// Opens the next capture; `false` if there is none left.
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
            let file = CaptureFile::open_unmapped(path).map(|file| file.with_interfaces(&self.interfaces));
            match file.and_then(|file| Filtered::new(file, self.settings.filter.as_deref())) {
                Ok(file) => {
                    self.counters.set_last_error(None);
                    self.open = Some(Open { file, name, shift: None, began: None });
                    return true;
                }
                Err(error) if error.is_shortage() => {
                    if self.counters.set_last_error(Some(error.to_string())) {
                        warn!(capture = name, %error, "capture can't be opened for now; will retry");
                    }
                    self.next -= 1;
                    std::thread::sleep(SHORTAGE_BACKOFF);
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

    /// Reads the next frames into `pending`; `false` if there are none left.
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
            match open.file.truncation() {
                Some(why) => {
                    warn!(capture = open.name, frames = open.file.frames(), %why, "capture read up to where it is truncated")
                }
                None => info!(capture = open.name, frames = open.file.frames(), "capture read"),
            }
            self.open = None;
        }
    }

    /// Notes that `batch` is handed out.
    fn handed_on(&mut self, batch: &FrameBatch) {
        if !batch.is_empty() {
            self.last = self.last.max(batch.frame(batch.len() - 1).timestamp);
            self.last_at = Instant::now();
            self.counters.frames.fetch_add(batch.len() as u64, Relaxed);
        }
    }

    /// When a frame with this timestamp is due.
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
        let timeout = Instant::now() + WAIT;
        while !batch.is_full() {
            if self.at == self.pending.len() && !(batch.is_empty() && self.refill()?) {
                break;
            }
            let time = self.pending.frame(self.at).timestamp;
            let (due, now) = (self.due(time), Instant::now());
            if due > now {
                if !batch.is_empty() || now >= timeout {
                    break;
                }
                std::thread::sleep(due.min(timeout) - now);
                continue;
            }
            let frame = self.pending.frame(self.at);
            batch.push(frame.timestamp, frame.link, frame.wire_len, frame.bytes);
            batch.set_interface(frame.interface);
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

    fn replay(name: &str, speed: f64, repeat: u64) -> (Vec<(u64, Vec<u8>)>, Duration) {
        let settings = ReplaySettings { captures: vec![fixture(name)], speed, repeat, filter: None };
        let mut source =
            ReplaySource::open(&settings, Duration::from_secs(600), &Arc::default()).expect("the fixture can be read");
        let (mut frames, mut batch, began) = (Vec::new(), FrameBatch::new(), Instant::now());
        while source.fill(&mut batch).expect("the fixture can be read") {
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
