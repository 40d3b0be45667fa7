//! Scorer of one model in one shard: active inputs to potentials, evidence of the packet's stream, and its verdict.
//!
//! A packet is prepared, then queued, and scored when the next packet is prepared: by then its weights are in the cache. At most one
//! packet is pending. [`Scorer::score_pending`] must run before anything that depends on its result.
//!
//! Packets of a TCP handshake are [deferred](DeferredPackets) where their evidence can be reported only at the end of their stream.

use std::sync::Arc;

use crate::encode::{ActiveInputs, Context, Volley};
use crate::model::Model;
use crate::packet::{Address, Decoder};
use crate::stream::{Leader, Stream, StreamIndex, StreamTable};

use super::batch::ShardPacket;
use super::deferred::DeferredPackets;
use super::episodes::{exciting, is_open};
use super::evidence::{EvidenceBuffer, evidence_packet};
use super::evidence_rows::EvidenceRows;
use super::evidence_scorer::EvidenceScorer;
use super::output::{BatchOutput, Spike};
use super::stream_state::{StreamSnapshot, StreamState};
use super::tunnels::TunnelTable;
use super::{Event, OuterHeaders, SpikeCounts, TapSample, Verdict};

/// A packet whose active inputs are known and whose weights are being fetched into the cache.
struct PendingPacket {
    /// Its stream's record.
    at: StreamIndex,
    snapshot: StreamSnapshot,
    /// Its bytes on the wire.
    wire_len: u32,
}

/// A model, with the evidence of the undecided streams of one shard.
pub(super) struct Scorer {
    evidence: EvidenceScorer,
    /// Index of the model in the settings.
    number: usize,
    every_packet: bool,
    rows: EvidenceRows,
    deferred: DeferredPackets,
    buffer: EvidenceBuffer,
    volley: Volley,
    /// Inputs of the packet that was prepared last.
    prepared: Box<ActiveInputs>,
    /// Whether they are found.
    is_ready: bool,
    /// Inputs of the pending packet.
    active: Box<ActiveInputs>,
    pending: Option<PendingPacket>,
    /// Inputs of a deferred or later packet while it is scored.
    late: Box<ActiveInputs>,
    /// What the streams are wrapped in.
    tunnels: TunnelTable,
    /// Evidence of a packet that is scored on its own.
    sums: Vec<f32>,
}

impl Scorer {
    /// A scorer for at most `streams` streams. `every_packet`: score named streams too; `live`: count spikes. Deferred packets that are never
    /// scored have none.
    pub fn new(model: Arc<Model>, number: usize, streams: usize, every_packet: bool, live: bool) -> Self {
        let deferred = DeferredPackets::new(model.layout.slots().len(), model.decision.max_packets);
        let evidence = EvidenceScorer::new(model, live);
        Self {
            number,
            every_packet,
            rows: EvidenceRows::new(evidence.width(), streams),
            evidence,
            deferred,
            buffer: EvidenceBuffer::default(),
            volley: Volley::default(),
            prepared: Box::default(),
            is_ready: false,
            active: Box::default(),
            pending: None,
            late: Box::default(),
            tunnels: TunnelTable::new(streams),
            sums: Vec::new(),
        }
    }

    pub fn model(&self) -> &Arc<Model> {
        self.evidence.model()
    }

    /// Whether the evidence so far can be continued with another model.
    pub fn keeps_evidence(&self, model: &Model) -> bool {
        self.evidence.has_evidence_of(model)
    }

    /// Replaces the model by one of the same kind of key. All evidence is reset unless it can be [continued](Scorer::keeps_evidence). No packet
    /// may be pending or deferred.
    pub fn replace_model(&mut self, model: &Arc<Model>, number: usize) {
        // The spikes so far were reported with the previous batch.
        let evidence = EvidenceScorer::new(Arc::clone(model), self.evidence.counts_spikes());
        if !self.keeps_evidence(model) {
            self.rows.reset(evidence.width());
        }
        self.number = number;
        self.evidence = evidence;
        self.deferred = DeferredPackets::new(model.layout.slots().len(), model.decision.max_packets);
    }

    /// The spikes since the last call; `None` if there were none.
    pub fn take_spikes(&mut self) -> Option<SpikeCounts> {
        self.evidence.take_spikes()
    }

    /// The slot values of a packet, for learning.
    pub fn sample(&mut self, packet: ShardPacket<'_>, context: Context, stream: &Stream<StreamState>) -> TapSample {
        self.encode(packet, context);
        TapSample {
            model_index: self.number,
            model: Arc::clone(self.model()),
            key: stream.key,
            stream: stream.number,
            first_direction: stream.first_direction(),
            position: context.position,
            slots: self.volley.slots[..self.model().layout.slots().len()].to_vec(),
        }
    }

    fn encode(&mut self, packet: ShardPacket<'_>, context: Context) {
        self.evidence.model().layout.encode(packet.headers(), packet.frame().bytes, context, packet.traces(), &mut self.volley);
    }

    /// Whether packets without content may be deferred: their evidence is discarded when content arrives, and until then no one asks for it.
    /// Flows of an episode are reported earlier.
    fn may_defer(&self) -> bool {
        let model = self.model();
        model.decision.content_first && model.episodes.is_empty()
    }

    /// Encodes a packet of a stream with this state, finds its active inputs and prefetches their weights, unless they may not be needed.
    pub fn prepare(&mut self, packet: ShardPacket<'_>, context: Context, state: &StreamState) {
        self.encode(packet, context);
        let content = self.volley.content;
        self.is_ready = content || (!self.may_defer() && self.counts(state, content));
        if self.is_ready {
            let model = self.evidence.model();
            model.layout.inputs_by_part(&self.volley, &mut self.prepared);
            model.network.prefetch(self.prepared.all());
        }
    }

    /// Whether a packet adds to the evidence of its stream.
    fn counts(&self, state: &StreamState, content: bool) -> bool {
        self.model().decision.counts(state.leader().as_ref(), content)
    }

    /// Makes the packet that was prepared last pending, or defers it, if it adds to the evidence of its stream. Returns whether it does. No
    /// other packet may be pending.
    pub fn accept(&mut self, at: StreamIndex, packet: ShardPacket<'_>, table: &mut StreamTable<StreamState>) -> bool {
        let stream = table.get_mut(at);
        let content = self.volley.content;
        let Some(row) = stream.state.row().filter(|_| self.counts(&stream.state, content)) else { return false };
        if !self.is_ready {
            if self.may_defer() && stream.state.leader().is_none() {
                if self.deferred.push(row, &self.volley) {
                    return true;
                }
                self.score_deferred(stream);
                if !self.counts(&stream.state, content) {
                    return false;
                }
            }
            self.evidence.model().layout.inputs_by_part(&self.volley, &mut self.prepared);
        }
        std::mem::swap(&mut self.active, &mut self.prepared);
        let snapshot = StreamSnapshot::new(stream, packet.number, packet.arrival.timestamp);
        self.pending = Some(PendingPacket { at, snapshot, wire_len: packet.arrival.wire_len });
        true
    }

    /// Scores the deferred packets of a stream.
    pub fn score_deferred(&mut self, stream: &mut Stream<StreamState>) {
        let Some(row) = stream.state.row() else { return };
        for number in 0..self.deferred.count(row) {
            self.evidence.model().layout.inputs_by_part(&self.deferred.volley(row, number), &mut self.late);
            let (sums, before) = (self.rows.sums(row), stream.state.leader());
            let leader = self.evidence.add(&self.late, sums, before);
            leader.into_iter().for_each(|leader| stream.state.set_leader(leader));
        }
        self.deferred.clear(row);
    }

    /// Gives a new stream a row of evidence. When the rows are exhausted, another stream loses its row and stays undecided; returns
    /// whether one did. No packet may be pending, because it needs the row of its stream.
    pub fn open(&mut self, at: StreamIndex, table: &mut StreamTable<StreamState>) -> bool {
        // Which stream loses its row depends on the evidence of all packets.
        let candidates: Vec<StreamIndex> = self.rows.candidates().collect();
        candidates.into_iter().for_each(|owner| self.score_deferred(table.get_mut(owner)));
        let (row, previous_owner) = self.rows.allocate(at, |owner| table.get(owner).state.evidence());
        self.deferred.clear(row);
        table.get_mut(at).state.assign_row(row);
        let Some(previous_owner) = previous_owner.filter(|&owner| owner != at) else { return false };
        table.get_mut(previous_owner).state.take_row();
        self.buffer.discard(row);
        true
    }

    /// Remembers what the stream that a packet opens is wrapped in. Returns whether there was room.
    pub fn keep_tunnels(&mut self, decoder: &Decoder, packet: ShardPacket<'_>, stream: &Stream<StreamState>) -> bool {
        let own = packet.arrival.direction == stream.first_direction();
        let tunnels = OuterHeaders::of(decoder, packet.headers(), &packet.frame(), own);
        tunnels.is_none_or(|tunnels| self.tunnels.insert(stream, tunnels))
    }

    /// Keeps a packet as evidence: in the output if its stream is named, in the buffer while it is undecided. Returns whether there
    /// was room.
    pub fn keep_evidence(&mut self, packet: ShardPacket<'_>, stream: &Stream<StreamState>, out: &mut BatchOutput) -> bool {
        if stream.state.is_named() {
            out.packets.extend(evidence_packet(packet.number, &packet.frame(), self.number, self.evidence.model(), stream));
            return true;
        }
        stream.state.row().is_none_or(|row| self.buffer.push(row, packet.number, &packet.frame()))
    }

    /// Scores the pending packet, if any.
    pub fn score_pending(&mut self, table: &mut StreamTable<StreamState>, out: &mut BatchOutput) {
        if let Some(pending) = self.pending.take() {
            self.score(table.get_mut(pending.at), &pending, out);
        }
    }

    /// Whether later packets of a stream are scored again.
    pub fn scores_again(&self) -> bool {
        self.model().layout.has_packet_rates()
    }

    /// Scores a later packet of a stream on its own. It excites the neuron of the stream's host again, and makes a stream that is not named
    /// part of an episode that follows; it names no stream by itself. `since`: packets of the flow since the last that was scored.
    pub fn score_again(
        &mut self,
        packet: ShardPacket<'_>,
        context: Context,
        since: u32,
        at: StreamIndex,
        table: &mut StreamTable<StreamState>,
        out: &mut BatchOutput,
    ) {
        self.score_pending(table, out);
        self.encode(packet, context);
        self.evidence.model().layout.inputs_by_part(&self.volley, &mut self.late);
        self.sums.clear();
        self.sums.resize(self.evidence.width(), 0.0);
        let leader = self.evidence.add(&self.late, &mut self.sums, None);
        let Some(leader) = leader else { return };
        let Some(confidence) = exciting(self.model(), &leader) else { return };
        let stream = table.get_mut(at);
        // Each pair of hosts is a flow of its own in the stream of a host's ARP requests.
        let arp_hosts = packet.headers().arp_hosts(packet.frame().bytes).map(|hosts| hosts.map(Address::from));
        let again = stream.state.has_spiked() && arp_hosts.is_none();
        stream.state.set_spiked();
        if arp_hosts.is_none() && !stream.state.is_named() && !stream.state.is_scored() {
            stream.state.set_later_leader(leader);
        }
        let mut snapshot = StreamSnapshot::new(stream, packet.number, packet.arrival.timestamp);
        if again || arp_hosts.is_some() {
            // Bytes of a stream are known in total only: those of the packets since are taken as of its mean length.
            let packets = u64::from(since).min(snapshot.packets);
            snapshot.bytes = snapshot.bytes * packets / snapshot.packets.max(1);
            snapshot.packets = packets;
        }
        let verdict = Verdict { leader: Some(leader), ..self.verdict(Event::Detection, stream, &snapshot, confidence) };
        out.spikes.push(Spike { verdict, arp_hosts, again, replaces: 0.0 });
    }

    /// Ends a stream whose record `at` the table has given to another stream, after scoring the pending packet.
    pub fn retire(
        &mut self,
        mut stream: Stream<StreamState>,
        at: StreamIndex,
        packet: u64,
        table: &mut StreamTable<StreamState>,
        out: &mut BatchOutput,
    ) {
        match self.pending.take_if(|pending| pending.at == at) {
            Some(pending) => self.score(&mut stream, &pending, out),
            None => self.score_pending(table, out),
        }
        self.end(stream, packet, out);
    }

    /// Adds the pending packet's margins to the evidence of its stream, and reports the stream when that decides it.
    fn score(&mut self, stream: &mut Stream<StreamState>, pending: &PendingPacket, out: &mut BatchOutput) {
        let snapshot = &pending.snapshot;
        let row = stream.state.row().expect("the stream of a pending packet has a row");
        if self.active.has_content() {
            self.deferred.clear(row);
        }
        let (sums, before) = (self.rows.sums(row), stream.state.leader());
        let leader = self.evidence.add(&self.active, sums, before);
        let Some(leader) = leader else { return };
        let model = self.evidence.model();
        stream.state.set_leader(leader);
        // A named stream that stays scored changes no further.
        if stream.state.is_named() && self.every_packet {
            return;
        }
        let excites = exciting(model, &leader);
        if stream.state.has_spiked()
            && let Some(before) = before
            && let Some(replaces) = exciting(model, &before)
        {
            let confidence = excites.filter(|_| leader.class == before.class).unwrap_or(0.0);
            out.spikes.push(self.replacing_spike(stream, pending, before, confidence, replaces));
            if confidence == 0.0 {
                stream.state.clear_spiked();
            }
        }
        if !stream.state.has_spiked()
            && let Some(confidence) = excites
        {
            stream.state.set_spiked();
            let verdict = self.verdict(Event::Detection, stream, snapshot, confidence);
            out.spikes.push(Spike { verdict, arp_hosts: None, again: false, replaces: 0.0 });
        }
        let Some(confidence) = model.decision.settled(&leader) else { return };
        if !stream.state.is_named() {
            let detection = self.verdict(Event::Detection, stream, snapshot, confidence);
            if detection.class.is_some() {
                stream.state.set_named();
                self.buffer.release(row, self.number, self.evidence.model(), stream, false, &mut out.packets);
                out.verdicts.push(detection);
            }
        }
        if !self.every_packet {
            self.release_row(stream);
        }
    }

    /// The spike by which a stream adds `confidence` instead of what it added as one of the class of `before`: the confidence in that class now, 0 if
    /// another leads or the confidence is too low.
    fn replacing_spike(
        &self,
        stream: &Stream<StreamState>,
        &PendingPacket { ref snapshot, wire_len, .. }: &PendingPacket,
        before: Leader,
        confidence: f32,
        replaces: f32,
    ) -> Spike {
        // A stream that is no longer of the class takes back all packets but this one.
        let own = u64::from(wire_len);
        let [packets, bytes] =
            if confidence > 0.0 { [1, own] } else { [snapshot.packets.saturating_sub(1), snapshot.bytes.saturating_sub(own)] };
        let verdict = self.verdict(Event::Detection, stream, snapshot, confidence);
        Spike { verdict: Verdict { leader: Some(before), packets, bytes, ..verdict }, arp_hosts: None, again: true, replaces }
    }

    /// Ends a stream that has left the table, at the packet `packet`. None of its packets may be pending.
    pub fn end(&mut self, mut stream: Stream<StreamState>, packet: u64, out: &mut BatchOutput) {
        self.score_deferred(&mut stream);
        let confidence = stream.state.leader().map_or(0.0, |l| self.model().decision.confidence(&l));
        let snapshot = StreamSnapshot::new(&stream, packet, stream.last);
        let end = self.verdict(Event::Stream, &stream, &snapshot, confidence);
        let open = is_open(&end);
        if (open || end.class.is_some() && !stream.state.is_named())
            && let Some(row) = stream.state.row()
        {
            self.buffer.release(row, self.number, self.evidence.model(), &stream, open, &mut out.packets);
        }
        if end.class.is_some() && !stream.state.is_named() {
            out.verdicts.push(Verdict { event: Event::Detection, ..end.clone() });
        }
        self.release_row(&mut stream);
        self.tunnels.remove(&stream);
        out.verdicts.push(end);
    }

    /// Ends the scoring of a stream: its row and its buffered packets are freed.
    fn release_row(&mut self, stream: &mut Stream<StreamState>) {
        if let Some(row) = stream.state.take_row() {
            self.buffer.discard(row);
            self.deferred.clear(row);
            self.rows.release(row);
        }
    }

    /// Follows a stream whose record the table has moved to `at`. No packet may be pending.
    pub fn moved(&mut self, at: StreamIndex, table: &StreamTable<StreamState>) {
        if let Some(row) = table.get(at).state.row() {
            self.rows.set_owner(row, at);
        }
    }

    fn verdict(&self, event: Event, stream: &Stream<StreamState>, snapshot: &StreamSnapshot, confidence: f32) -> Verdict {
        let leader = stream.state.leader();
        Verdict {
            event,
            model_index: self.number,
            model: Arc::clone(self.model()),
            key: stream.key,
            number: stream.number,
            packet: snapshot.packet,
            timestamp: snapshot.timestamp,
            first: stream.first,
            last: snapshot.last,
            packets: snapshot.packets,
            bytes: snapshot.bytes,
            own_packets: snapshot.own_packets,
            own_bytes: snapshot.own_bytes,
            first_direction: stream.first_direction(),
            interface: stream.interface,
            tunnel: self.tunnels.get(stream).map(|tunnels| Box::new(*tunnels)),
            leader,
            class: leader
                .filter(|_| !stream.state.is_led_by_later_packet())
                .and_then(|l| self.model().decision.class_at(&l, confidence)),
            by_episode: false,
            confidence,
        }
    }
}
