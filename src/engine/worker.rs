//! What does one worker do next? Its shard of the batches, in order; else the next batch from the source.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::capture::{CaptureError, FrameBatch, Source};
use crate::packet::{Decoder, KeyKind, StreamKey};

use super::lane::{Item, Lane};
use super::{Settings, Tally, Verdict};

/// The source, and what is next from it.
pub(super) struct Feed<'a> {
    pub source: &'a mut dyn Source,
    pub next_batch: u64,
    pub next_packet: u64,
    pub error: Option<CaptureError>,
}

/// A batch, decoded, with each packet filed under the worker that owns its stream.
pub(super) struct Routed {
    pub batch: FrameBatch,
    /// For each worker and kind of key its packets.
    pub items: Vec<Vec<Vec<Item>>>,
}

/// What a worker finds in its inbox.
pub(super) enum Message {
    Batch {
        number: u64,
        first: u64,
        routed: Arc<Routed>,
    },
    /// The source has ended after so many batches.
    End {
        batches: u64,
    },
}

/// What a worker tells.
pub(super) enum Output {
    Batch { number: u64, verdicts: Vec<Verdict> },
    Ended { verdicts: Vec<Verdict>, tally: Tally },
}

pub(super) struct Worker<'a> {
    number: usize,
    settings: &'a Settings,
    kinds: &'a [KeyKind],
    hasher: foldhash::fast::RandomState,
    lanes: Vec<Lane>,
    others: Vec<Sender<Message>>,
    inbox: Receiver<Message>,
    pool: (Sender<Routed>, Receiver<Routed>),
    output: Sender<Output>,
    tally: Tally,
}

fn lanes(settings: &Settings, hasher: &foldhash::fast::RandomState) -> Vec<Lane> {
    let mut limits = settings.limits;
    limits.streams = limits.streams.div_ceil(settings.workers.max(1));
    let lane =
        |(number, model): (usize, &Arc<_>)| Lane::new(Arc::clone(model), number, limits, settings.every_packet, hasher.clone());
    settings.models.iter().enumerate().map(lane).collect()
}

impl<'a> Worker<'a> {
    #[expect(clippy::too_many_arguments, reason = "made in one place")]
    pub fn new(
        number: usize,
        settings: &'a Settings,
        kinds: &'a [KeyKind],
        hasher: foldhash::fast::RandomState,
        others: Vec<Sender<Message>>,
        inbox: Receiver<Message>,
        pool: (Sender<Routed>, Receiver<Routed>),
        output: Sender<Output>,
    ) -> Self {
        let lanes = lanes(settings, &hasher);
        Self { number, settings, kinds, hasher, lanes, others, inbox, pool, output, tally: Tally::default() }
    }

    pub fn run(mut self, feed: &Mutex<Feed<'_>>) {
        let mut ready: BTreeMap<u64, (u64, Arc<Routed>)> = BTreeMap::new();
        let mut next = 0;
        let mut batches = None;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                receive(message, &mut ready, &mut batches);
            }
            if let Some((first, routed)) = ready.remove(&next) {
                self.handle(next, first, routed);
                next += 1;
                continue;
            }
            if batches == Some(next) {
                break;
            }
            if batches.is_none()
                && let Ok(routed) = self.pool.1.try_recv()
            {
                self.pull(feed, routed);
                continue;
            }
            match self.inbox.recv() {
                Ok(message) => receive(message, &mut ready, &mut batches),
                Err(_) => break,
            }
        }
        let mut verdicts = Vec::new();
        for lane in &mut self.lanes {
            lane.finish(&mut verdicts);
        }
        let _ = self.output.send(Output::Ended { verdicts, tally: self.tally });
    }

    /// Takes the next batch from the source, decodes it and hands it to all.
    fn pull(&mut self, feed: &Mutex<Feed<'_>>, mut routed: Routed) {
        let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = feed.error.is_none() && {
            feed.source.fill(&mut routed.batch).unwrap_or_else(|error| {
                feed.error = Some(error);
                false
            })
        };
        if !filled {
            let batches = feed.next_batch;
            drop(feed);
            for other in &self.others {
                let _ = other.send(Message::End { batches });
            }
            return;
        }
        let (number, first) = (feed.next_batch, feed.next_packet);
        feed.next_batch += 1;
        feed.next_packet += routed.batch.len() as u64;
        drop(feed);
        let (hasher, decoder, kinds) = (&self.hasher, &self.settings.decoder, self.kinds);
        let tally = &mut self.tally;
        let decoded = catch_unwind(AssertUnwindSafe(|| route(&mut routed, decoder, kinds, hasher, tally)));
        if decoded.is_err() {
            self.tally.lost_packets += routed.batch.len() as u64;
            routed.items.iter_mut().flatten().for_each(Vec::clear);
        }
        let routed = Arc::new(routed);
        for other in &self.others {
            let _ = other.send(Message::Batch { number, first, routed: Arc::clone(&routed) });
        }
    }

    /// Handles this worker's shard of a batch. A panic costs the shard's streams, which are counted, and nothing else.
    fn handle(&mut self, number: u64, first: u64, routed: Arc<Routed>) {
        let mut verdicts = Vec::new();
        let mine = &routed.items[self.number];
        let (lanes, models, kinds) = (&mut self.lanes, &self.settings.models, self.kinds);
        let tally = &mut self.tally;
        let handled = catch_unwind(AssertUnwindSafe(|| {
            for (lane, model) in lanes.iter_mut().zip(models) {
                let kind = kinds.iter().position(|&k| k == model.key).expect("kinds come from the models");
                lane.packets(&routed.batch, first, &mine[kind], tally, &mut verdicts);
            }
        }));
        if handled.is_err() {
            self.tally.lost_streams += self.lanes.iter().map(|l| l.live() as u64).sum::<u64>();
            self.tally.lost_packets += mine.iter().map(|items| items.len() as u64).sum::<u64>();
            self.lanes = self::lanes(self.settings, &self.hasher);
        }
        if let Some(routed) = Arc::into_inner(routed) {
            let _ = self.pool.0.try_send(routed);
        }
        let _ = self.output.send(Output::Batch { number, verdicts });
    }
}

fn receive(message: Message, ready: &mut BTreeMap<u64, (u64, Arc<Routed>)>, batches: &mut Option<u64>) {
    match message {
        Message::Batch { number, first, routed } => {
            ready.insert(number, (first, routed));
        }
        Message::End { batches: all } => *batches = Some(all),
    }
}

/// Decodes a batch and files its packets.
fn route(routed: &mut Routed, decoder: &Decoder, kinds: &[KeyKind], hasher: &foldhash::fast::RandomState, tally: &mut Tally) {
    use std::hash::BuildHasher;
    let Routed { batch, items, .. } = routed;
    items.iter_mut().flatten().for_each(Vec::clear);
    let workers = items.len() as u64;
    for (number, frame) in (0u32..).zip(batch.iter()) {
        tally.frames += 1;
        tally.bytes += u64::from(frame.wire_len);
        let headers = match decoder.decode(frame.link.0, frame.bytes) {
            Ok(headers) => headers,
            Err(reason) => {
                *tally.undecodable.entry(reason).or_default() += 1;
                continue;
            }
        };
        for (place, &kind) in kinds.iter().enumerate() {
            for (key, direction) in StreamKey::of(kind, &headers, frame.bytes).into_iter().flatten() {
                let hash = hasher.hash_one(key);
                // The high half of a 32 x 32 bit product shares the hash range out evenly.
                let shard = (((hash >> 32) * workers) >> 32) as usize;
                items[shard][place].push(Item { key, hash, headers, frame: number, direction });
            }
        }
    }
}
