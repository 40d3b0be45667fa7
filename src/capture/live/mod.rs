//! Live capture from network interfaces through libpcap, with one or more threads per interface.
//!
//! Input: interfaces. Output: a [`Source`] that ends only when it is stopped. Sockets are opened before the threads start, so that
//! privileges can be dropped in between. An interface that disappears is reopened when it returns; the others are not affected.

mod queue;
mod settings;
mod socket;
mod thread;

pub use queue::QueueDepth;
pub use settings::{InterfaceSettings, LiveSettings};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::warn;

use super::{CaptureError, FrameBatch, InputCounters, InterfaceId, Nanos, Source};
use queue::QueueConsumer;
use thread::CaptureThread;

/// Longest wait for a batch, so that the engine can expire streams in between.
const WAIT: Duration = Duration::from_millis(50);

/// Live interfaces as a source.
pub struct LiveSource {
    consumer: QueueConsumer,
    opened: Vec<CaptureThread>,
    running: Vec<JoinHandle<()>>,
    counters: Vec<Arc<InputCounters>>,
    stop: Arc<AtomicBool>,
}

impl LiveSource {
    /// Opens the interfaces. An interface that does not exist yet is opened when it appears.
    ///
    /// # Errors
    /// If the permission to capture is missing, or a filter is invalid for its interface.
    pub fn open(interfaces: &[InterfaceSettings], settings: &LiveSettings, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let threads = interfaces.iter().map(|i| i.threads.max(1)).sum();
        // Each capture thread may hold one batch while it fills it.
        let (consumer, producers) = queue::queue(settings.queue + threads, threads, settings.batch);
        let mut producers = producers.into_iter();
        let (mut opened, mut counters) = (Vec::new(), Vec::new());
        for (index, interface) in interfaces.iter().enumerate() {
            let shared = Arc::new(InputCounters::new(&interface.name, interface.filter.as_deref()));
            counters.push(Arc::clone(&shared));
            for (number, mut producer) in (0..interface.threads.max(1)).zip(&mut producers) {
                producer.interface = InterfaceId::from_index(index);
                let socket = match socket::open(interface, settings.batch) {
                    Ok(socket) => Some(socket),
                    Err(error @ CaptureError::Interface { .. }) => {
                        if number == 0 {
                            warn!(interface = interface.name, %error, "can't open the interface; will retry");
                        }
                        shared.set_last_error(Some(error.to_string()));
                        None
                    }
                    Err(error) => return Err(error),
                };
                if socket.is_some() {
                    shared.up.store(true, Relaxed);
                }
                opened.push(CaptureThread {
                    interface: interface.clone(),
                    first: number == 0,
                    socket,
                    counters: Arc::clone(&shared),
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
    /// If a thread can't be created.
    pub fn start(&mut self) -> std::io::Result<()> {
        for thread in self.opened.drain(..) {
            let name = format!("capture-{}", thread.interface.name);
            self.running.push(std::thread::Builder::new().name(name).spawn(move || thread.run())?);
        }
        Ok(())
    }

    /// Counters, one for each interface.
    pub fn counters(&self) -> &[Arc<InputCounters>] {
        &self.counters
    }

    /// A view of how full the queue to the engine is.
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
