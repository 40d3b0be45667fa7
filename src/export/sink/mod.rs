//! Event sinks: files, standard output, Unix sockets, syslog and journald, each behind a bounded queue and a thread of its own.
//!
//! ```text
//! capture ─ ... ─ observer ──offer──> SinkHandle [ queue ] ── thread ──> Sink (may block, may fail)
//!                              └── full: dropped and counted, with the reason why it is full
//! ```
//! [`SinkHandle::offer`] never blocks, so a slow or failing sink cannot delay capture. A write that fails is retried with exponential
//! backoff, and lines that were not written stay queued. A sink writes whole lines only; `file` and `stream` describe how.
//!
//! The process must ignore SIGPIPE, so that a reader that dies causes a write error here and does not end the process.

mod datagram;
mod delivery;
mod file;
mod handle;
mod lines;
#[cfg(feature = "fleet")]
mod nats;
mod stream;

pub use delivery::Delivery;
pub use handle::SinkHandle;
pub use lines::{Line, Severity};

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Destination of a sink's lines.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// JSON lines in a regular file; its folder must exist.
    File(PathBuf),
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines to a Unix stream socket on which a reader listens.
    Socket(PathBuf),
    /// RFC 5424 messages, one datagram each.
    Syslog {
        /// The syslog daemon's socket, [`DEV_LOG`] on most systems.
        socket: PathBuf,
        /// Numerical code of the facility (RFC 5424, section 6.2.1), 0 to 23.
        facility: u8,
    },
    /// Entries in journald's native protocol; journald listens on [`JOURNALD`].
    Journald(PathBuf),
    /// Messages to JetStream, through the spool of the settings.
    #[cfg(feature = "fleet")]
    Nats(Box<crate::config::FleetConfig>),
}

impl Target {
    fn open(&self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self {
            Self::File(path) => match file::LineFile::open(path) {
                Ok(file) => Box::new(file),
                Err(source) => return Err(SinkError::File { path: path.clone(), source }),
            },
            Self::Stdout => file::stdout().map_err(SinkError::Stdout)?,
            Self::Socket(path) => Box::new(stream::StreamSocket::new(path.clone())),
            Self::Syslog { socket, facility } => Box::new(datagram::Syslog::new(socket.clone(), *facility)),
            Self::Journald(path) => Box::new(datagram::Journald::new(path.clone())),
            #[cfg(feature = "fleet")]
            Self::Nats(config) => {
                let path = config.spool.clone().unwrap_or_default();
                Box::new(nats::Nats::open(config).map_err(|source| SinkError::File { path, source })?)
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Socket(path) | Self::Syslog { socket: path, .. } | Self::Journald(path) => {
                path.display().fmt(f)
            }
            Self::Stdout => f.write_str("standard output"),
            #[cfg(feature = "fleet")]
            Self::Nats(config) => config.spool.as_deref().unwrap_or("".as_ref()).display().fmt(f),
        }
    }
}

/// The socket on which syslog daemons listen.
pub const DEV_LOG: &str = "/dev/log";
/// The socket on which journald listens for entries with fields.
pub const JOURNALD: &str = "/run/systemd/journal/socket";

/// Why a line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The sink works, but lines arrived faster than it writes them.
    QueueFull,
    /// The disk or the quota is full, or the file has reached its maximum size.
    DiskFull,
    /// Nothing reads at the other end.
    Disconnected,
    /// The reader does not read, or reads too slowly.
    Slow,
    /// Any other error.
    Other,
}

impl DropReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::QueueFull, Self::DiskFull, Self::Disconnected, Self::Slow, Self::Other];

    /// The value of the metrics' label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DiskFull => "disk_full",
            Self::Disconnected => "disconnected",
            Self::Slow => "slow",
            Self::Other => "other",
        }
    }

    /// The reason for an error of a write.
    pub(in crate::export) fn from_error(error: &io::Error) -> Self {
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

/// A write that did not deliver all its lines.
#[derive(Debug)]
struct WriteFailure {
    /// Number of lines that were written, whole, before the error.
    taken: usize,
    error: io::Error,
    /// The line after those can never be written, so it must be dropped rather than retried.
    discard: bool,
}

impl WriteFailure {
    fn after(taken: usize, error: io::Error) -> Self {
        Self { taken, error, discard: false }
    }
}

/// The output of a sink. It runs on the sink's own thread, where it may block.
trait Sink: Send {
    /// Writes all lines, or returns how many were written before an error. Returns within a second or two where the system allows it.
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure>;

    /// Reopens the file by its path, for instance after logrotate has renamed it. Does nothing for sinks without a file.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What became of the lines later, for sinks that take lines before they are delivered.
    fn delivery(&self) -> Option<Arc<Delivery>> {
        None
    }
}

/// Why a sink could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file could not be opened.
    #[error("{}: can't write events there: {source}", path.display())]
    File {
        /// The file's path, as in the settings.
        path: PathBuf,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// Standard output could not be used.
    #[error("standard output: can't write events there: {0}")]
    Stdout(io::Error),
    /// The sink's thread could not be started.
    #[error("can't start the thread of the sink '{name}': {source}")]
    Thread {
        /// The sink's name.
        name: String,
        /// Why the thread could not be started.
        source: io::Error,
    },
}
