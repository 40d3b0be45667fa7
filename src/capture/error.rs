//! Errors of sources: why no frames, or no further frames, can be read.

use std::io;

/// Why a source can't be opened or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields of the messages")]
pub enum CaptureError {
    /// The capture cannot be opened.
    #[error("{path}: can't open the capture: {source}")]
    Open { path: String, source: io::Error },
    /// The file has no bytes.
    #[error("{}", empty(path))]
    Empty { path: String },
    /// The file has an unknown format.
    #[error("{path}: begins with {begins}: not a pcap, pcapng, snoop or ERF file, nor one compressed with gzip, zstd, xz or lz4")]
    NotACapture { path: String, begins: String },
    /// The file ends within the file header of its format.
    #[error("{path}: ends after {bytes} bytes, within its file header; is the capture still being written?")]
    CutHeader { path: String, bytes: usize },
    /// The BPF filter cannot be compiled.
    #[error("'{expression}' is not a valid BPF filter: {why}; see `man pcap-filter` for the syntax")]
    Filter { expression: String, why: String },
    /// The folder has no captures.
    #[error("{path}: the folder holds no capture")]
    EmptyFolder { path: String },
    /// The interface cannot be opened.
    #[error("{name}: can't capture on the interface: {why}")]
    Interface { name: String, why: String },
    /// The process may not capture on the interface.
    #[error("{name}: no permission to capture on the interface ({why}); run as root or grant CAP_NET_RAW")]
    Privilege { name: String, why: String },
    /// The capture cannot be read any further.
    #[error("{path}: can't read the capture: {source}")]
    Read { path: String, source: io::Error },
    /// The thread of the source panicked after this many packets.
    #[error(
        "the packet source panicked after packet {after}; this is a bug in spiked: please report it with the panic message above"
    )]
    Panicked { after: u64 },
}

fn empty(path: &str) -> String {
    match path {
        "-" => "standard input is empty (0 bytes); did the program that writes to it fail?".into(),
        _ => format!("{path}: the file is empty (0 bytes); is the capture still being written?"),
    }
}

impl CaptureError {
    /// Whether this process or machine is short of descriptors or memory: the capture itself may be good, so a retry is worthwhile.
    pub(super) fn is_shortage(&self) -> bool {
        let (Self::Open { source, .. } | Self::Read { source, .. }) = self else { return false };
        matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
    }
}
