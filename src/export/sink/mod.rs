//! Where do events go? Files, standard output, sockets, syslog, journald: each behind a bounded queue and a thread of its own.
//!
//! ```text
//! capture ─ ... ─ observer ──offer──> SinkHandle [ queue ] ── thread ──> Sink (may block, may fail)
//!                              └── full: dropped and counted, with the reason why it is full
//! ```
//! [`SinkHandle::offer`] never waits, so nothing that happens to a sink reaches capture. A sink that fails is tried again with growing
//! pauses; what it had not taken is kept. Lines are whole or not there: see `file` and `stream` for how.
//!
//! Which reader of ours dies is its own affair: the process must ignore SIGPIPE.

mod datagram;
mod file;
mod handle;
mod stream;

pub use handle::SinkHandle;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::capture::Nanos;

/// An event on its way out.
#[derive(Clone, Debug)]
pub struct Line {
    /// One JSON object, without the line's end.
    pub text: String,
    pub timestamp: Nanos,
    pub severity: Severity,
    /// `detection`, `alert`, `stream`.
    pub event: &'static str,
    /// `None`: unknown.
    pub class: Option<Arc<str>>,
}

/// Severities of RFC 5424, those that events have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Informational = 6,
}

/// Where one sink's lines are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// JSON lines; the folder must exist.
    File(PathBuf),
    Stdout,
    /// JSON lines to a stream socket that a reader listens on.
    Socket(PathBuf),
    /// RFC 5424 datagrams; most systems listen on `/dev/log`. The facility is its number in RFC 5424.
    Syslog {
        socket: PathBuf,
        facility: u8,
    },
    /// journald's native protocol; it listens on [`JOURNALD`].
    Journald(PathBuf),
}

impl Target {
    fn open(&self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self {
            Self::File(path) => match file::LineFile::open(path) {
                Ok(file) => Box::new(file),
                Err(source) => return Err(SinkError::File { path: path.clone(), source }),
            },
            Self::Stdout => file::stdout().map_err(SinkError::Stdout)?,
            Self::Socket(path) => Box::new(stream::Socket::new(path.clone())),
            Self::Syslog { socket, facility } => Box::new(datagram::Syslog::new(socket.clone(), *facility)),
            Self::Journald(path) => Box::new(datagram::Journald::new(path.clone())),
        })
    }
}

/// Where systems listen for syslog messages.
pub const DEV_LOG: &str = "/dev/log";
/// Where journald listens for entries with fields.
pub const JOURNALD: &str = "/run/systemd/journal/socket";

/// Why a line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// More came at once than the queue holds, though the sink works.
    QueueFull,
    DiskFull,
    /// The reader is gone, or was never there.
    Disconnected,
    /// The reader is there and does not read, or not fast enough.
    Slow,
    Other,
}

impl Reason {
    pub const ALL: [Self; 5] = [Self::QueueFull, Self::DiskFull, Self::Disconnected, Self::Slow, Self::Other];

    /// Its label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DiskFull => "disk_full",
            Self::Disconnected => "disconnected",
            Self::Slow => "slow",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::DiskFull,
            Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::NotConnected | Kind::NotFound => {
                Self::Disconnected
            }
            Kind::WouldBlock | Kind::TimedOut => Self::Slow,
            _ if error.raw_os_error() == Some(libc::ENOBUFS) => Self::Slow,
            _ => Self::Other,
        }
    }
}

/// What stopped a sink in the middle of some lines.
#[derive(Debug)]
struct Failure {
    /// Lines that it took, whole, before.
    taken: usize,
    error: io::Error,
    /// Trying again is of no use: the line itself can't be taken.
    discard: bool,
}

impl Failure {
    fn after(taken: usize, error: io::Error) -> Self {
        Self { taken, error, discard: false }
    }
}

/// Where lines end up. Works on the handle's thread, where it may block.
trait Sink: Send {
    /// Takes all lines, or tells how many it took before it failed. Returns within a second or two where the system lets it.
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure>;

    /// Opens its file anew, since logrotate has moved it.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("{}: can't write events there: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("standard output: can't write events there: {0}")]
    Stdout(io::Error),
    #[error("can't start the thread of the sink '{name}': {source}")]
    Thread { name: String, source: io::Error },
}
