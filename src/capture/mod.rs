//! Where do frames come from? Capture files, plain, gzip or zstd, and standard input; live interfaces, replays, watched folders.
//!
//! Output: [`FrameBatch`]es. Sources implement [`Source`]; everything after them is the same for files and live interfaces.

mod batch;
mod capture_index;
mod decompress;
mod file;
mod filter;
mod format;
pub mod live;
mod paths;
pub mod replay;
pub mod watch;

pub use batch::{Frame, FrameBatch};
pub use capture_index::CaptureIndex;
pub use file::{CaptureFile, Truncation};
pub use filter::{Filter, Filtered};
pub use paths::{ExpandedPaths, expand};

use std::io;

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Nanos(pub u64);

/// A LINKTYPE_ value as capture files hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LinkType(pub u16);

impl std::fmt::Display for LinkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            0 => "loopback (null)",
            1 => "Ethernet",
            9 | 50 => "PPP",
            12 | 14 | 101 | 228 | 229 => "raw IP",
            105 => "802.11",
            108 => "loopback",
            113 => "Linux cooked v1",
            127 => "802.11 with radiotap",
            147..=162 => "user-defined",
            187 => "Bluetooth HCI",
            189 | 220 => "USB",
            195 => "802.15.4",
            227 => "CAN",
            276 => "Linux cooked v2",
            _ => "unknown",
        };
        write!(f, "{name} ({})", self.0)
    }
}

/// Why a capture can't be read at all.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("{path}: can't open the capture: {source}")]
    Open { path: String, source: io::Error },
    #[error("{path}: the file is empty (0 octets); is the capture still being written?")]
    Empty { path: String },
    #[error("{path}: begins with {begins}: not a pcap, pcapng, gzip or zstd file")]
    NotACapture { path: String, begins: String },
    #[error("the filter '{expression}' is no BPF expression: {why}; `man pcap-filter` has the syntax")]
    Filter { expression: String, why: String },
    #[error("{path}: the folder holds no capture")]
    EmptyFolder { path: String },
    #[error("{name}: can't listen to the interface: {why}")]
    Interface { name: String, why: String },
    #[error("{name}: no privilege to listen to the interface ({why}); run as root or with CAP_NET_RAW")]
    Privilege { name: String, why: String },
    #[error("{path}: can't read on: {source}")]
    Read { path: String, source: io::Error },
    #[error("what reads the packets failed after packet {after} (a mistake in spiked, told above): please report it")]
    Panicked { after: u64 },
}

impl CaptureError {
    /// It is this process, or this machine, that has too little of something just now; the capture is as good as before.
    fn is_shortage(&self) -> bool {
        let (Self::Open { source, .. } | Self::Read { source, .. }) = self else { return false };
        matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
    }
}

/// Where frames come from.
pub trait Source: Send {
    /// Fills `batch`, which it clears first. `Ok(false)`: the source has ended. A batch may be empty before that.
    ///
    /// # Errors
    /// Where nothing more can be had and nothing was had at all; what ends a source early is not an error but a [`Truncation`].
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError>;

    /// What time it is, for sources that live: quiet streams end by it though nothing comes. `None` for captures, whose time is
    /// that of their packets.
    fn clock(&self) -> Option<Nanos> {
        None
    }
}
