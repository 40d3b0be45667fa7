//! Where do live frames come from? Network interfaces, a thread or more each, through libpcap.
//!
//! Input: interfaces. Output: a [`Source`] that never ends of itself. Sockets are opened before threads start, so that privileges
//! can be dropped in between. An interface that goes is opened anew when it is back; the others do not notice.

mod counters;
mod queue;
mod socket;
mod thread;

pub use counters::InputCounters;
pub use queue::QueueDepth;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{CaptureError, FrameBatch, Nanos, Source};
use queue::QueueConsumer;
use thread::CaptureThread;

/// How long the engine waits for a batch before it looks after its streams.
const WAIT: Duration = Duration::from_millis(50);

/// A network interface that is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSettings {
    pub name: String,
    /// BPF expression.
    pub filter: Option<String>,
    pub promiscuous: bool,
    /// Octets of each frame that are kept.
    pub snap_length: u32,
    /// Kernel's buffer, in MiB, for each capture thread.
    pub buffer_mib: u32,
    /// Capture threads, among which the kernel shares out the flows.
    pub threads: usize,
}

impl InterfaceSettings {
    /// The interface with every other setting at its default.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), filter: None, promiscuous: true, snap_length: 512, buffer_mib: 64, threads: 1 }
    }
}

/// Between the kernel and the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// Batches of 256 frames that may wait for the engine, over all interfaces; beyond it frames are dropped and counted.
    pub queue: usize,
    /// A batch is handed on after this time even if it is not full.
    pub batch: Duration,
    /// Longest pause between attempts to open an interface that has gone.
    pub retry_max: Duration,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self { queue: 256, batch: Duration::from_millis(100), retry_max: Duration::from_secs(30) }
    }
}

/// Live interfaces as a source.
pub struct LiveSource {
    consumer: QueueConsumer,
    opened: Vec<CaptureThread>,
    running: Vec<JoinHandle<()>>,
    counters: Vec<Arc<InputCounters>>,
    stop: Arc<AtomicBool>,
}

impl LiveSource {
    /// Opens the interfaces; those that are not there are opened when they appear.
    ///
    /// # Errors
    /// Where the privilege to capture is lacking, or a filter has no sense on its interface.
    pub fn open(interfaces: &[InterfaceSettings], settings: &LiveSettings, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let threads = interfaces.iter().map(|i| i.threads.max(1)).sum();
        // Each capture thread may hold one batch while it fills it.
        let (consumer, producers) = queue::queue(settings.queue + threads, threads, settings.batch);
        let mut producers = producers.into_iter();
        let (mut opened, mut counters) = (Vec::new(), Vec::new());
        for interface in interfaces {
            let mine = Arc::new(InputCounters::new(&interface.name, interface.filter.as_deref()));
            counters.push(Arc::clone(&mine));
            for (number, producer) in (0..interface.threads.max(1)).zip(&mut producers) {
                let socket = match socket::open(interface, settings.batch) {
                    Ok(socket) => Some(socket),
                    Err(error @ CaptureError::Interface { .. }) => {
                        mine.set_trouble(Some(error.to_string()));
                        None
                    }
                    Err(error) => return Err(error),
                };
                if socket.is_some() {
                    mine.up.store(true, Relaxed);
                }
                opened.push(CaptureThread {
                    interface: interface.clone(),
                    first: number == 0,
                    socket,
                    counters: Arc::clone(&mine),
                    producer,
                    settings: settings.clone(),
                    stop: Arc::clone(stop),
                });
            }
        }
        Ok(Self { consumer, opened, running: Vec::new(), counters, stop: Arc::clone(stop) })
    }

    /// Starts the capture threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(&mut self) -> std::io::Result<()> {
        for thread in self.opened.drain(..) {
            let name = format!("capture-{}", thread.interface.name);
            self.running.push(std::thread::Builder::new().name(name).spawn(move || thread.run())?);
        }
        Ok(())
    }

    /// One for each interface.
    pub fn counters(&self) -> &[Arc<InputCounters>] {
        &self.counters
    }

    pub fn depth(&self) -> QueueDepth {
        self.consumer.depth()
    }
}

impl Source for LiveSource {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        Ok(self.consumer.take(batch, WAIT).unwrap_or(true))
    }

    /// The wall clock.
    fn clock(&self) -> Option<Nanos> {
        Some(socket::now())
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.running.drain(..) {
            let _ = thread.join();
        }
    }
}
