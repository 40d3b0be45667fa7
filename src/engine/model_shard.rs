//! Streams of one model in one shard: files packets under their streams and has those of undecided streams scored.
//!
//! A shard is the part of the traffic that one worker handles; all packets of a stream are in one shard.

use std::sync::Arc;

use crate::capture::Nanos;
use crate::encode::Context;
use crate::model::Model;
use crate::packet::{Decoder, KeyKind};
use crate::snn::ClassId;
use crate::stream::{EndReason, PacketPlace, Stream, StreamIndex, StreamLimits, StreamTable, SweptStream};

use super::batch::{RoutedBatch, ShardPacket};
use super::output::BatchOutput;
use super::scorer::Scorer;
use super::stream_state::StreamState;
use super::{Counters, EngineSettings, SpikeCounts, Tap};

/// A sweep ends at most this many streams, or 1 in [`SWEEP_SHARE`] of all if that is more. It stops early when as many records in a row are of
/// streams that go on.
const MIN_SWEEP: usize = 512;
/// See [`MIN_SWEEP`].
const SWEEP_SHARE: usize = 256;

/// One model within one shard.
pub(super) struct ModelShard {
    table: StreamTable<StreamState>,
    scorer: Scorer,
    /// Number of packets of each stream, from its first, that are kept to be written with its detection.
    keep_packets: u64,
    decoder: Decoder,
    /// Queue of samples for live teaching.
    tap: Option<Tap>,
}

impl ModelShard {
    /// A shard without streams. `number`: index of the model in the settings; `limits`: of this shard's table; `live`: whether the source is
    /// live, so that spikes are counted for the metrics.
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
            decoder: settings.intake.decoder,
            tap: settings.tap.clone(),
        }
    }

    /// Number of live streams.
    pub fn live(&self) -> usize {
        self.table.live()
    }

    /// The spikes since the last call; `None` if there were none.
    pub fn take_spikes(&mut self) -> Option<SpikeCounts> {
        self.scorer.take_spikes()
    }

    /// The model in use.
    pub fn model(&self) -> &Arc<Model> {
        self.scorer.model()
    }

    /// Replaces the model, with the index `number` in the settings, and keeps the streams; no packet may be pending, as between batches. Returns `false`, without a change, if the new
    /// model has another kind of key (flow or host). Decided streams keep their class if the new model has it. The evidence of undecided
    /// streams is kept if the list of classes is the same, in the same order, and so are the groups of neurons; it is reset if not.
    pub fn replace_model(&mut self, model: &Arc<Model>, number: usize) -> bool {
        let old = self.scorer.model();
        if model.key != old.key {
            return false;
        }
        let (old, scorer) = (Arc::clone(old), &mut self.scorer);
        self.table.iter_mut().for_each(|stream| scorer.score_deferred(stream));
        if !scorer.keeps_evidence(model) {
            let new_id = |class: ClassId| model.classes.iter().position(|c| *c == old.classes[class.index()]);
            let new_id = |class: ClassId| new_id(class).map(ClassId::from_index);
            self.table.iter_mut().for_each(|stream| stream.state.remap_classes(new_id));
        }
        self.scorer.replace_model(model, number);
        true
    }

    /// Ends streams that have timed out at `now`, at most a small share of all. `packet`: number of the next packet.
    pub fn sweep(&mut self, now: Nanos, packet: u64, counters: &mut Counters, out: &mut BatchOutput) {
        let steps = MIN_SWEEP.max(self.table.live() / SWEEP_SHARE);
        for _ in 0..steps {
            let Some(SweptStream { stream, at, moved }) = self.table.sweep(now, steps) else { break };
            if moved.is_some() {
                self.scorer.moved(at, &self.table);
            }
            counters.timed_out += 1;
            self.scorer.end(stream, packet, out);
        }
    }

    /// Handles the packets of `shard` in a batch whose first frame has the number `first`.
    pub fn handle(&mut self, routed: &RoutedBatch, shard: usize, first: u64, counters: &mut Counters, out: &mut BatchOutput) {
        let packets = routed.packets(shard, self.scorer.model().key);
        for packet in packets {
            self.table.prefetch_index(packet.arrival.hash);
        }
        for packet in packets {
            self.table.prefetch_record(packet.arrival.hash);
        }
        for packet in packets {
            self.handle_packet(ShardPacket::new(routed, packet, first), counters, out);
        }
        self.scorer.score_pending(&mut self.table, out);
    }

    /// The way of one packet: to its stream, to the tap, to the packets kept of its stream, and to the scorer while its stream is undecided.
    ///
    /// The scorer is one packet behind: this packet's inputs are prepared, which fetches their weights into the cache, then the packet before
    /// is scored, then this one becomes pending if its stream is still undecided.
    #[inline]
    fn handle_packet(&mut self, packet: ShardPacket<'_>, counters: &mut Counters, out: &mut BatchOutput) {
        let (at, context) = self.look_up(packet, counters, out);
        self.sample(packet, at, context, counters);
        let stream = self.table.get(at);
        let opened = context.position == 0 && stream.number == packet.number;
        // A stream that lost its row of evidence to another before it had content gets a row when content arrives.
        let reopened = stream.state.is_dropped_before_content() && packet.has_content();
        if opened || reopened || stream.state.is_scored() {
            self.scorer.prepare(packet, context, &stream.state);
            // The pending packet is scored before this one is accepted: it may decide this packet's stream, or free its row of evidence.
            self.scorer.score_pending(&mut self.table, out);
        }
        counters.opened += u64::from(opened);
        if opened && packet.headers().tunnel_depth > 0 {
            let stream = self.table.get(at);
            let kept = stream.key.kind() != KeyKind::Flow || self.scorer.keep_tunnels(&self.decoder, packet, stream);
            counters.dropped_tunnels += u64::from(!kept);
        }
        if opened || reopened {
            counters.dropped_undecided += u64::from(self.scorer.open(at, &mut self.table));
        }
        let stream = self.table.get(at);
        if stream.packets <= self.keep_packets {
            counters.dropped_evidence += u64::from(!self.scorer.keep_evidence(packet, stream, out));
        }
        if stream.state.is_scored() {
            counters.scored += u64::from(self.scorer.accept(at, packet, &mut self.table));
        }
        // Models whose layout has packet rates score some later packets of a stream too, whether it is decided or not.
        if let Some(since) = packet.later().filter(|_| !opened && self.scorer.scores_again()) {
            counters.scored += 1;
            self.scorer.score_again(packet, context, since, at, &mut self.table, out);
        }
    }

    /// Files a packet under its stream, and ends the stream that had to make room for it. Returns the stream's record and the
    /// packet's context.
    #[inline]
    fn look_up(&mut self, packet: ShardPacket<'_>, counters: &mut Counters, out: &mut BatchOutput) -> (StreamIndex, Context) {
        if self.table.is_full() {
            // The choice of the stream to evict depends on what is decided by now.
            self.scorer.score_pending(&mut self.table, out);
        }
        // Of streams that could be evicted, those are preferred that are neither named nor can be any more.
        let worth_keeping = |state: &StreamState| state.is_named() || state.is_scored();
        let place = self.table.packet(packet.arrival, packet.number, worth_keeping, || StreamState::NEW);
        let PacketPlace { at, context, ended } = place;
        if let Some((stream, reason)) = ended {
            match reason {
                EndReason::Timeout => counters.timed_out += 1,
                EndReason::Evicted => counters.evicted += 1,
            }
            self.scorer.retire(stream, at, packet.number, &mut self.table, out);
        }
        (at, context)
    }

    /// Sends the packet's slot values to the tap if it is one of the sample; counts it if the tap's queue is full, which is looked up first
    /// because encoding costs more.
    #[inline]
    fn sample(&mut self, packet: ShardPacket<'_>, at: StreamIndex, context: Context, counters: &mut Counters) {
        let Some(tap) = &self.tap else { return };
        if !tap.wants(self.scorer.model().key, packet.arrival.hash, context.position) {
            return;
        }
        let stream = self.table.get(at);
        let sent = !tap.samples.is_full() && tap.samples.try_send(self.scorer.sample(packet, context, stream)).is_ok();
        counters.dropped_samples += u64::from(!sent);
    }

    /// Ends a stream that was taken from the table, at the packet `packet`.
    pub fn end(&mut self, stream: Stream<StreamState>, packet: u64, out: &mut BatchOutput) {
        self.scorer.end(stream, packet, out);
    }

    /// Removes and returns all streams, in the order in which they began.
    pub fn take_streams(&mut self) -> Vec<Stream<StreamState>> {
        let mut streams = self.table.take();
        streams.sort_by(|a, b| (a.number, &a.key).cmp(&(b.number, &b.key)));
        streams
    }

    /// Ends all streams, because the model is removed.
    pub fn end_all(&mut self, counters: &mut Counters, out: &mut BatchOutput) {
        counters.model_removed += self.live() as u64;
        self.take_streams().into_iter().for_each(|stream| self.end(stream, u64::MAX, out));
    }
}
