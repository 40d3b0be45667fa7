//! Which streams does one model follow in one shard? Files their packets, and has those scored of streams that are not decided.

use std::sync::Arc;

use crate::capture::{Frame, Nanos};
use crate::encode::Context;
use crate::model::Model;
use crate::packet::Headers;
use crate::snn::ClassId;
use crate::stream::{Arrival, EndReason, Stream, StreamIndex, StreamLimits, StreamTable, SweptStream};

use super::evidence;
use super::output::BatchOutput;
use super::scorer::{NO_ROW, PendingPacket, ScoredStream, Scorer, StreamSnapshot};
use super::shard::RoutedBatch;
use super::{Counters, EngineSettings, SpikeCounts, Tap, TapSample};

/// A packet on its way to the worker that owns its stream.
#[derive(Debug)]
pub(super) struct RoutedPacket {
    pub packet: Arrival,
    /// Index into the batch.
    pub frame: u32,
}

/// Records that a sweep looks at in vain before it stops, and streams that it ends at most: at least so many, and the share of all.
const SWEEP: (usize, usize) = (512, 256);

/// One model within one shard.
pub(super) struct ModelShard {
    table: StreamTable<ScoredStream>,
    scorer: Scorer,
    keep_packets: u64,
    tap: Option<Tap>,
}

impl ModelShard {
    pub fn new(
        model: Arc<Model>,
        number: usize,
        limits: StreamLimits,
        settings: &EngineSettings,
        live: bool,
        hasher: foldhash::fast::RandomState,
    ) -> Self {
        Self {
            scorer: Scorer::new(model, number, limits.streams, settings.every_packet, live),
            table: StreamTable::new(limits, hasher),
            keep_packets: u64::from(settings.keep_packets),
            tap: settings.tap.clone(),
        }
    }

    pub fn live(&self) -> usize {
        self.table.live()
    }

    /// The spikes since it was last asked; `None` where there were none.
    pub fn take_spikes(&mut self) -> Option<SpikeCounts> {
        self.scorer.take_spikes()
    }

    /// Takes over another model of the same key; whether it could. Where its classes are others, streams that are named keep their
    /// name where the model still knows it, and undecided ones begin anew.
    pub fn adopt(&mut self, model: &Arc<Model>) -> bool {
        let old = &self.scorer.model;
        if model.key != old.key {
            return false;
        }
        if model.classes != old.classes {
            let place = |class: ClassId| model.classes.iter().position(|c| *c == old.classes[class.index()]);
            self.table.iter_mut().for_each(|stream| stream.state.renamed(|class| place(class).map(ClassId::from_index)));
        }
        self.scorer.adopt(model);
        true
    }

    /// Ends streams that have been quiet for too long, a few at a time.
    pub fn sweep(&mut self, now: Nanos, packet: u64, counters: &mut Counters, out: &mut BatchOutput) {
        let looks = SWEEP.0.max(self.table.live() / SWEEP.1);
        for _ in 0..looks {
            let Some(SweptStream { stream, at, moved }) = self.table.sweep(now, looks) else { break };
            if moved.is_some() {
                self.scorer.rows.moved(self.table.get(at).state.row, at);
            }
            counters.timed_out += 1;
            self.scorer.end(stream, packet, out);
        }
    }

    /// Handles a shard's packets of one batch, whose first has the number `first`.
    pub fn packets(&mut self, routed: &RoutedBatch, shard: usize, first: u64, counters: &mut Counters, out: &mut BatchOutput) {
        let items = &routed.items[shard][self.scorer.model.key as usize];
        for item in items {
            self.table.prefetch_index(item.packet.hash);
        }
        for item in items {
            self.table.prefetch_record(item.packet.hash);
        }
        for item in items {
            let packet = first + u64::from(item.frame);
            if self.table.is_full() {
                // Who makes room hangs on what is known of all.
                self.scorer.catch_up(&mut self.table, out);
            }
            let keep = |s: &ScoredStream| s.told || s.row != NO_ROW;
            let seen = self.table.packet(&item.packet, packet, keep, || ScoredStream::NEW);
            if let Some((mut stream, why)) = seen.ended {
                match why {
                    EndReason::Timeout => counters.timed_out += 1,
                    EndReason::Evicted => counters.evicted += 1,
                }
                match self.scorer.waiting.take_if(|w| w.at == seen.at) {
                    Some(waiting) => self.scorer.score(&mut stream, &waiting.snapshot, out),
                    None => self.scorer.catch_up(&mut self.table, out),
                }
                self.scorer.end(stream, packet, out);
            }
            // Of most packets the frame is not looked at: it lies where it was decoded, in another core's cache may be.
            let whole = || (routed.batch.frame(item.frame as usize), &routed.headers[item.frame as usize]);
            if let Some(tap) = &self.tap
                && tap.wants(self.scorer.model.key, item.packet.hash, seen.context.position)
            {
                counters.untapped += u64::from(!self.sample(seen.at, seen.context, whole()));
            }
            let stream = self.table.get(seen.at);
            let opened = seen.context.position == 0 && stream.number == packet;
            counters.opened += u64::from(opened);
            if opened || stream.state.row != NO_ROW {
                // The packet that waits comes first in all that follows: it may settle this one's stream, or leave its row to it.
                self.scorer.look(seen.context, whole());
                self.scorer.catch_up(&mut self.table, out);
            }
            if opened {
                let table = &self.table;
                let evidence = |owner| table.get(owner).state.evidence();
                let (row, robbed) = self.scorer.rows.take(seen.at, evidence);
                self.table.get_mut(seen.at).state.row = row;
                if let Some(robbed) = robbed.filter(|&r| r != seen.at) {
                    self.table.get_mut(robbed).state.row = NO_ROW;
                    self.scorer.kept.forget(row);
                    counters.hurried += 1;
                }
            }
            let stream = self.table.get(seen.at);
            if stream.packets <= self.keep_packets {
                let (frame, _) = whole();
                if stream.state.told {
                    out.packets.extend(evidence::later(packet, &frame, self.scorer.number, &self.scorer.model, stream));
                } else if stream.state.row != NO_ROW && !self.scorer.kept.push(stream.state.row, packet, &frame) {
                    counters.unkept += 1;
                }
            }
            if stream.state.row == NO_ROW || !self.scorer.counts(&stream.state) {
                continue;
            }
            counters.scored += 1;
            self.scorer.wait(PendingPacket { at: seen.at, snapshot: StreamSnapshot::of(stream, packet, item.packet.timestamp) });
        }
        self.scorer.catch_up(&mut self.table, out);
    }

    /// Hands the packet to the tap; whether there was room.
    fn sample(&mut self, at: StreamIndex, context: Context, packet: (Frame<'_>, &Headers)) -> bool {
        let Some(tap) = self.tap.as_ref().filter(|tap| !tap.samples.is_full()) else { return false };
        let slots = self.scorer.encode(context, packet).to_vec();
        let (scorer, stream) = (&self.scorer, self.table.get(at));
        let sample = TapSample {
            model: scorer.number,
            named: Arc::clone(&scorer.model),
            key: stream.key,
            stream: stream.number,
            first_direction: stream.first_direction,
            position: context.position,
            slots,
        };
        tap.samples.try_send(sample).is_ok()
    }

    /// Tells of a stream that has ended.
    pub fn end(&mut self, stream: Stream<ScoredStream>, packet: u64, out: &mut BatchOutput) {
        self.scorer.end(stream, packet, out);
    }

    /// All streams, in the order in which they began; the model_shard has none then.
    pub fn take(&mut self) -> Vec<Stream<ScoredStream>> {
        let mut streams = self.table.take();
        streams.sort_by(|a, b| (a.number, &a.key).cmp(&(b.number, &b.key)));
        streams
    }

    /// Ends all streams.
    pub fn finish(&mut self, out: &mut BatchOutput) {
        self.take().into_iter().for_each(|stream| self.end(stream, u64::MAX, out));
    }
}
