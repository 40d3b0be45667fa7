//! Reader of a pipe that another process writes to, which can be stopped while it waits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a reader waits for bytes before it asks whether to stop.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long a stopped reader still reads, since the writer may have been stopped by the same signal and write its last bytes.
const DRAIN: Duration = Duration::from_secs(1);

/// A pipe, or standard input. Once it is stopped, it ends as soon as nothing comes for a moment.
pub(super) struct PipeReader {
    pipe: File,
    stopped: Box<dyn Fn() -> bool + Send>,
    /// When it ends, since it was stopped.
    end: Option<Instant>,
}

impl PipeReader {
    pub fn new(pipe: OwnedFd, stopped: Box<dyn Fn() -> bool + Send>) -> Self {
        Self { pipe: pipe.into(), stopped, end: None }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.end.is_none() && (self.stopped)() {
                self.end = Some(Instant::now() + DRAIN);
            }
            if self.end.is_some_and(|end| Instant::now() >= end) {
                return Ok(0);
            }
            let fd = self.pipe.as_fd();
            match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&WAIT)) {
                Ok(0) if self.end.is_some() => return Ok(0),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.pipe.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
