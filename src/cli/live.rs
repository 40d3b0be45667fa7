//! Sources of `spiked read`: captures, pipes and interfaces, until they end, a limit is reached, a signal arrives, or the reader of the
//! output is gone.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capture::live::{InterfaceSettings, LiveSettings, LiveSource};
use crate::capture::{CaptureError, FrameBatch, Nanos, Source};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that SIGINT and SIGTERM set. The first call installs the handler, which a second signal does not reach: it ends the program.
#[expect(unsafe_code, reason = "installs a signal handler")]
pub fn stop_on_signals() -> Arc<AtomicBool> {
    extern "C" fn stop(_: libc::c_int) {
        if let Some(flag) = STOP.get() {
            flag.store(true, Relaxed);
        }
    }
    let flag = STOP.get_or_init(Arc::default);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid: no flags, an empty mask. The handler only loads and stores atomics, which is
        // async-signal-safe; the pointers are to locals or null.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = stop as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
    Arc::clone(flag)
}

/// Whether the reader of standard output, if it is a pipe, has closed it.
pub fn output_is_closed() -> bool {
    let output = std::io::stdout();
    let mut fds = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// An open source of interfaces.
pub struct Interfaces {
    pub source: LiveSource,
    /// Ends the source once the frames that the kernel holds are read.
    pub stop: Arc<AtomicBool>,
    /// Names of the interfaces, in the order of their numbers.
    pub names: Vec<String>,
}

impl Interfaces {
    /// Opens interfaces. Those that cannot be opened are left out, with their errors; `None` if no interface is left.
    ///
    /// # Errors
    /// If the permission to capture is missing or a filter is invalid, or a thread can't be created.
    pub fn open(names: &[String], filter: Option<&str>) -> Result<(Option<Self>, Vec<String>), CaptureError> {
        let mut names = names.to_vec();
        let mut errors = Vec::new();
        loop {
            let stop = Arc::default();
            let settings = |name: &String| InterfaceSettings { filter: filter.map(Into::into), ..InterfaceSettings::named(name) };
            let interfaces: Vec<InterfaceSettings> = names.iter().map(settings).collect();
            let mut source = LiveSource::open(&interfaces, &LiveSettings::default(), &stop)?;
            let down: Vec<String> = source.counters().iter().filter_map(|counters| counters.last_error()).collect();
            if down.is_empty() {
                let start = source.start();
                start.map_err(|error| CaptureError::Interface { name: names.join(", "), why: error.to_string() })?;
                return Ok((Some(Self { source, stop, names }), errors));
            }
            // Opened again without those that are down, which the source would wait for.
            let up = source.counters().iter().filter(|counters| counters.last_error().is_none());
            names = up.map(|counters| counters.name.clone()).collect();
            errors.extend(down);
            if names.is_empty() {
                return Ok((None, errors));
            }
        }
    }
}

/// When reading ends before its source does.
#[derive(Clone)]
pub struct Limits {
    /// Set by signals.
    pub stop: Arc<AtomicBool>,
    /// Frames that are still to be read; `None` for all.
    pub count: Option<u64>,
    /// `None` for never.
    pub end: Option<Instant>,
}

impl Limits {
    /// The limits from now on.
    pub fn new(stop: Arc<AtomicBool>, count: Option<u64>, duration: Option<Duration>) -> Self {
        Self { stop, count, end: duration.and_then(|duration| Instant::now().checked_add(duration)) }
    }

    /// Whether no further frame is to be read.
    pub fn are_reached(&self) -> bool {
        self.stop.load(Relaxed) || self.count == Some(0) || self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// A source that ends at limits. A live source is stopped, and ends when the frames that have arrived by then are read.
pub struct Limited<'a> {
    pub source: &'a mut dyn Source,
    pub limits: &'a mut Limits,
    /// Stops the source; `None` for captures, and for pipes, which stop by themselves.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Source for Limited<'_> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        let live = self.is_live();
        if self.limits.count == Some(0) || (live && output_is_closed()) || (!live && self.limits.are_reached()) {
            return Ok(false);
        }
        if let Some(stop) = self.stop.as_ref().filter(|_| self.limits.are_reached()) {
            stop.store(true, Relaxed);
        }
        let more = self.source.fill(batch)?;
        if let Some(left) = &mut self.limits.count {
            batch.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= batch.len() as u64;
        }
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}
