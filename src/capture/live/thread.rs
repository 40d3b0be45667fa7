//! Capture thread: moves frames from the kernel into batches, and reopens its interface after it was lost.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{info, warn};

use super::queue::QueueProducer;
use super::settings::{InterfaceSettings, LiveSettings};
use super::socket::{Socket, interface_error, open};
use crate::capture::{CaptureError, InputCounters, Nanos};

/// Frames read between two looks at the clock.
const DISPATCH: usize = 4096;
/// How often the kernel's counters are read.
const STATISTICS: Duration = Duration::from_secs(1);
/// Wait before the first attempt to reopen an interface; each further wait is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest time to empty the kernel's buffer after a stop.
const DRAIN: Duration = Duration::from_secs(1);

/// A capture thread, before it runs.
pub(super) struct CaptureThread {
    pub interface: InterfaceSettings,
    /// Whether this is the interface's first thread, which logs for the interface and counts the network card's drops.
    pub first: bool,
    pub socket: Option<Socket>,
    pub counters: Arc<InputCounters>,
    pub producer: QueueProducer,
    pub settings: LiveSettings,
    pub stop: Arc<AtomicBool>,
}

/// The kernel's counters since the socket was opened; they wrap at 32 bits.
#[derive(Clone, Copy, Default)]
struct KernelStats {
    dropped: u32,
    if_dropped: u32,
}

impl CaptureThread {
    /// Captures, and reopens the interface when it is lost, until it is stopped.
    pub fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        while !self.stop.load(Relaxed) {
            if let Some(socket) = self.socket.take() {
                backoff = FIRST_BACKOFF;
                let Err(error) = self.capture(socket) else { break };
                self.producer.hand_on();
                self.down(&error);
            }
            self.back_off(backoff);
            match open(&self.interface, self.settings.batch) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.up();
                }
                Err(error) => {
                    self.down(&error);
                    backoff = (backoff * 2).min(self.settings.retry_max);
                }
            }
        }
        self.producer.hand_on();
    }

    /// Notes that the interface is down.
    fn down(&self, error: &CaptureError) {
        if !self.first {
            return;
        }
        let was_up = self.counters.up.load(Relaxed);
        if was_up {
            self.counters.lost.fetch_add(1, Relaxed);
        }
        if self.counters.set_last_error(Some(error.to_string())) && was_up {
            warn!(interface = self.interface.name, %error, "interface lost; will reopen when it returns");
        }
    }

    /// Notes that the interface is open.
    fn up(&self) {
        if self.first {
            self.counters.set_last_error(None);
            if self.counters.lost.load(Relaxed) > 0 {
                self.counters.reopened.fetch_add(1, Relaxed);
            }
            info!(interface = self.interface.name, "interface opened");
        }
    }

    /// Sleeps for `backoff`, or until a stop.
    fn back_off(&self, backoff: Duration) {
        let until = Instant::now() + backoff;
        while !self.stop.load(Relaxed) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Captures until stopped, then reads the frames that the kernel still holds.
    fn capture(&mut self, mut socket: Socket) -> Result<(), CaptureError> {
        let mut seen = KernelStats::default();
        let mut next_statistics = Instant::now() + STATISTICS;
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(self.settings.batch.min(Duration::from_millis(999)).subsec_nanos()),
        };
        let mut end = None;
        loop {
            let taken = match self.dispatch(&mut socket) {
                Ok(taken) => taken,
                Err(error) => {
                    self.statistics(&mut socket, &mut seen);
                    return Err(error);
                }
            };
            self.producer.tick();
            let now = Instant::now();
            if now >= next_statistics {
                self.statistics(&mut socket, &mut seen);
                next_statistics = now + STATISTICS;
                // libpcap reports only an interface that has disappeared. The kernel still holds the last frames for a while.
                if taken == 0 && !socket.is_up(&self.interface.name) && !self.wait(&socket, &wait) {
                    return Err(CaptureError::Interface { name: self.interface.name.clone(), why: "it is set down".into() });
                }
            }
            if self.stop.load(Relaxed) {
                let end = *end.get_or_insert(now + DRAIN);
                // The kernel hands over a block of its ring only when the block's time is up, so that frames may still come.
                if now >= end || (taken == 0 && !self.wait(&socket, &wait)) {
                    self.statistics(&mut socket, &mut seen);
                    return Ok(());
                }
            } else if taken == 0 {
                self.wait(&socket, &wait);
            }
        }
    }

    /// Waits for frames; `false` if none arrives in `time`.
    fn wait(&self, socket: &Socket, time: &rustix::event::Timespec) -> bool {
        let fd = socket.capture.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        // An interrupted wait counts as a timeout: the caller looks again.
        poll(&mut fds, Some(time)).is_ok_and(|ready| ready > 0)
    }

    /// Moves frames that the kernel holds into batches; returns how many there were.
    fn dispatch(&mut self, socket: &mut Socket) -> Result<usize, CaptureError> {
        let (mut frames, mut dropped) = (0u64, 0u64);
        let (producer, link, joining) = (&mut self.producer, socket.link, socket.joining.clone());
        let taken = socket.capture.dispatch(Some(DISPATCH), |packet| {
            let ts = packet.header.ts;
            let time = Nanos(ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_usec.unsigned_abs());
            if joining.contains(&time) {
                return;
            }
            if producer.push(time, link, packet.header.len, packet.data) {
                frames += 1;
            } else {
                dropped += 1;
            }
        });
        self.counters.frames.fetch_add(frames, Relaxed);
        self.counters.queue_drops.fetch_add(dropped, Relaxed);
        taken.map_err(|error| interface_error(&self.interface.name, &error))
    }

    /// Adds what the kernel counted since the last call.
    fn statistics(&self, socket: &mut Socket, seen: &mut KernelStats) {
        let Ok(now) = socket.capture.stats() else { return };
        let grow = |counter: &AtomicU64, now: u32, before: u32| {
            counter.fetch_add(u64::from(now.wrapping_sub(before)), Relaxed);
        };
        grow(&self.counters.kernel_drops, now.dropped, seen.dropped);
        if self.first {
            grow(&self.counters.interface_drops, now.if_dropped, seen.if_dropped);
        }
        *seen = KernelStats { dropped: now.dropped, if_dropped: now.if_dropped };
    }
}
