//! Queue of batches from capture threads to the engine. Batches come from a bounded pool and are recycled; capture never blocks.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::capture::{FrameBatch, InterfaceId, LinkType, Nanos};

/// Frames after which a batch is handed on: fewer than in a file's batches, since live frames are copied and wait for the batch to
/// fill.
const FRAMES: usize = 256;
const _: () = assert!(FRAMES <= FrameBatch::CAPACITY);

/// The engine's end.
#[derive(Debug)]
pub(super) struct QueueConsumer {
    full: Receiver<FrameBatch>,
    free: Sender<FrameBatch>,
}

/// A capture thread's end.
#[derive(Debug)]
pub(super) struct QueueProducer {
    full: Sender<FrameBatch>,
    free: Receiver<FrameBatch>,
    /// Where the frames come from.
    pub interface: Option<InterfaceId>,
    batch: Option<FrameBatch>,
    /// When the batch is handed on even if it is not full.
    due: Instant,
    timeout: Duration,
}

/// How full the queue is.
#[derive(Clone, Debug)]
pub struct QueueDepth(Receiver<FrameBatch>);

impl QueueDepth {
    /// Batches that wait for the engine.
    pub fn waiting(&self) -> usize {
        self.0.len()
    }

    /// Most batches that may wait.
    pub fn capacity(&self) -> usize {
        self.0.capacity().unwrap_or(usize::MAX)
    }
}

/// A pool of `batches` batches with `producers` ends for capture threads; a batch waits at most `timeout` to be filled.
pub(super) fn queue(batches: usize, producers: usize, timeout: Duration) -> (QueueConsumer, Vec<QueueProducer>) {
    let (full_in, full_out) = crossbeam_channel::bounded(batches);
    let (free_in, free_out) = crossbeam_channel::bounded(batches);
    for _ in 0..batches {
        free_in.send(FrameBatch::new()).expect("the pool has room for all its batches");
    }
    let producer = |_| QueueProducer {
        full: full_in.clone(),
        free: free_out.clone(),
        interface: None,
        batch: None,
        due: Instant::now(),
        timeout,
    };
    let producers = (0..producers).map(producer).collect();
    (QueueConsumer { full: full_out, free: free_in }, producers)
}

impl QueueConsumer {
    /// Swaps the next full batch into `batch`. Returns `None` if there is none within `wait`, and `Some(false)` if no capture thread
    /// is left.
    pub fn take(&self, batch: &mut FrameBatch, wait: Duration) -> Option<bool> {
        match self.full.recv_timeout(wait) {
            Ok(mut next) => {
                std::mem::swap(batch, &mut next);
                next.clear();
                let _ = self.free.try_send(next);
                Some(true)
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => None,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Some(false),
        }
    }

    /// A view of how full the queue is.
    pub fn depth(&self) -> QueueDepth {
        QueueDepth(self.full.clone())
    }
}

impl QueueProducer {
    /// Adds a frame to the batch. Returns `false` if no batch is free; the frame is then dropped.
    #[inline]
    pub fn push(&mut self, timestamp: Nanos, link: LinkType, wire_len: u32, bytes: &[u8]) -> bool {
        if self.batch.is_none() {
            let Ok(mut batch) = self.free.try_recv() else { return false };
            batch.interface = self.interface;
            self.batch = Some(batch);
            self.due = Instant::now() + self.timeout;
        }
        let Some(batch) = &mut self.batch else { return false };
        batch.push(timestamp, link, wire_len, bytes);
        if batch.len() >= FRAMES || batch.is_full() {
            self.hand_on();
        }
        true
    }

    /// Hands on the batch if its time is up.
    pub fn tick(&mut self) {
        if self.batch.is_some() && Instant::now() >= self.due {
            self.hand_on();
        }
    }

    /// Hands on the batch, if there is one.
    pub fn hand_on(&mut self) {
        if let Some(batch) = self.batch.take() {
            match self.full.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => unreachable!("the queue has room for every batch of the pool"),
                // The engine has ended first, so that nothing counts these frames.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(producer: &mut QueueProducer, count: usize) -> usize {
        (0..count).filter(|_| producer.push(Nanos(1), LinkType::ETHERNET, 60, &[0; 60])).count()
    }

    #[test]
    fn capture_never_waits_and_every_frame_is_taken_or_refused() {
        let (consumer, mut producers) = queue(2, 1, Duration::from_secs(60));
        let producer = &mut producers[0];
        assert_eq!(frames(producer, 1000), 2 * FRAMES);
        let mut batch = FrameBatch::new();
        assert_eq!(consumer.take(&mut batch, Duration::ZERO), Some(true));
        assert_eq!(batch.len(), FRAMES);
        // The batch that the engine returned for it is free again.
        assert_eq!(frames(producer, 1000), FRAMES);
    }

    #[test]
    fn a_batch_is_handed_on_after_its_timeout_and_the_end_is_reported() {
        let (consumer, mut producers) = queue(2, 1, Duration::ZERO);
        let mut batch = FrameBatch::new();
        assert_eq!(frames(&mut producers[0], 3), 3);
        assert_eq!(consumer.take(&mut batch, Duration::ZERO), None);
        producers[0].tick();
        assert_eq!((consumer.take(&mut batch, Duration::ZERO), batch.len()), (Some(true), 3));
        assert_eq!(frames(&mut producers[0], 1), 1);
        producers[0].hand_on();
        drop(producers);
        assert_eq!((consumer.take(&mut batch, Duration::ZERO), batch.len()), (Some(true), 1));
        assert_eq!(consumer.take(&mut batch, Duration::ZERO), Some(false));
    }
}
