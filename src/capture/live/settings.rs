//! Settings of live capture.

use std::time::Duration;

/// A network interface to capture on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// Name of the interface.
    pub name: String,
    /// BPF filter.
    pub filter: Option<String>,
    /// Whether to put the interface into promiscuous mode.
    pub promiscuous: bool,
    /// Bytes of each frame that are captured.
    pub snap_length: u32,
    /// Kernel buffer of each capture thread, in MiB.
    pub buffer_mib: u32,
    /// Number of capture threads; the kernel distributes the flows among them.
    pub threads: usize,
}

impl InterfaceSettings {
    /// The interface `name` with every other setting at its default.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), filter: None, promiscuous: true, snap_length: 512, buffer_mib: 64, threads: 1 }
    }
}

/// Settings of the queue between the kernel and the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// Batches of 256 frames that may wait for the engine, over all interfaces. Frames beyond that are dropped and counted.
    pub queue: usize,
    /// A batch is handed on after this time even if it is not full.
    pub batch: Duration,
    /// Longest wait between attempts to reopen an interface.
    pub retry_max: Duration,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self { queue: 256, batch: Duration::from_millis(100), retry_max: Duration::from_secs(30) }
    }
}
