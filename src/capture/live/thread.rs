//! What does a capture thread do? Takes frames from the kernel into batches; opens its interface anew when it has gone.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{info, warn};

use super::queue::QueueProducer;
use super::socket::{Socket, open};
use super::{InputCounters, InterfaceSettings, LiveSettings};
use crate::capture::{CaptureError, Nanos};

/// Frames taken before looking at the clock again.
const DISPATCH: usize = 4096;
/// How often the kernel's counters are read.
const STATISTICS: Duration = Duration::from_secs(1);
/// First pause before an interface that has gone is tried again; each next one is twice as long.
const RETRY: Duration = Duration::from_millis(100);
/// How long the rest of the kernel's buffer may take at the end.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) struct CaptureThread {
    pub interface: InterfaceSettings,
    /// The first thread of its interface tells of it and counts what the card dropped.
    pub first: bool,
    pub socket: Option<Socket>,
    pub counters: Arc<InputCounters>,
    pub producer: QueueProducer,
    pub settings: LiveSettings,
    pub stop: Arc<AtomicBool>,
}

/// What the kernel has counted since the socket was opened: 32 bits that wrap.
#[derive(Clone, Copy, Default)]
struct KernelStats {
    dropped: u32,
    if_dropped: u32,
}

impl CaptureThread {
    pub fn run(mut self) {
        let mut pause = RETRY;
        while !self.stop.load(Relaxed) {
            if let Some(socket) = self.socket.take() {
                pause = RETRY;
                let Err(error) = self.capture(socket) else { break };
                self.producer.hand_on();
                self.down(&error);
            }
            self.rest(pause);
            match open(&self.interface, self.settings.batch) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.up();
                }
                Err(error) => {
                    self.down(&error);
                    pause = (pause * 2).min(self.settings.retry_max);
                }
            }
        }
        self.producer.hand_on();
    }

    fn down(&self, error: &CaptureError) {
        if !self.first {
            return;
        }
        let was_up = self.counters.up.load(Relaxed);
        if was_up {
            self.counters.lost.fetch_add(1, Relaxed);
        }
        if self.counters.set_trouble(Some(error.to_string())) && was_up {
            warn!(interface = self.interface.name, %error, "interface lost; it is opened anew when it is back");
        }
    }

    fn up(&self) {
        if self.first {
            self.counters.set_trouble(None);
            if self.counters.lost.load(Relaxed) > 0 {
                self.counters.reopened.fetch_add(1, Relaxed);
            }
            info!(interface = self.interface.name, "interface opened");
        }
    }

    /// Sleeps, but not past a stop.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stop.load(Relaxed) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Takes frames until told to stop, then what the kernel still holds.
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
            }
            if self.stop.load(Relaxed) {
                let end = *end.get_or_insert(now + DRAIN);
                // The kernel closes a block of its ring when the block's time is up: nothing yet does not mean nothing.
                if now >= end || (taken == 0 && !self.wait(&socket, &wait)) {
                    self.statistics(&mut socket, &mut seen);
                    return Ok(());
                }
            } else if taken == 0 {
                self.wait(&socket, &wait);
            }
        }
    }

    /// Waits for frames; `false`: none came in time.
    fn wait(&self, socket: &Socket, time: &rustix::event::Timespec) -> bool {
        let fd = socket.capture.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        // An interrupted wait is as good as one that has ended: the caller looks again.
        poll(&mut fds, Some(time)).is_ok_and(|ready| ready > 0)
    }

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
        taken.map_err(|error| super::socket::trouble(&self.interface.name, &error))
    }

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
