//! What does a model say of a packet, and what follows for its stream? One packet behind, so that its weights are in the cache by then.

use std::sync::Arc;

use crate::capture::{Frame, Nanos};
use crate::encode::{Context, MAX_ACTIVE, Volley};
use crate::model::Model;
use crate::packet::Headers;
use crate::snn::{ClassId, Potentials};
use crate::stream::{Leader, Stream, StreamIndex, StreamTable};
use crate::typed_index::typed_index;

use super::evidence::EvidenceBuffer;
use super::output::BatchOutput;
use super::{Event, SpikeCounts, Verdict};

typed_index! {
    /// A row of evidence, by its place in its [`EvidenceRows`], or [`NO_ROW`].
    EvidenceRow(u32)
}

/// No evidence row: the stream is decided, or was given up.
pub(super) const NO_ROW: EvidenceRow = EvidenceRow::new(u32::MAX);

/// Undecided streams that keep evidence at once, as a share of all.
const ROWS_SHARE: usize = 16;
/// EvidenceRows looked at to find one that is taken from its stream.
const ROWS_LOOKED_AT: usize = 16;
/// Octets of evidence that one model keeps in one shard: a model of 16,384 classes would take gigaoctets else.
const MOST_EVIDENCE: usize = 256 << 20;

/// What a model_shard keeps of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoredStream {
    /// Of no meaning before the first packet was scored: its `packets` is 0 then.
    leader: Leader,
    /// Of evidence, or [`NO_ROW`].
    pub row: EvidenceRow,
    pub told: bool,
}

impl ScoredStream {
    pub const NEW: Self = Self { leader: Leader::NONE, row: NO_ROW, told: false };

    /// What is known of it after the classes have changed, where its own has the number `place` now: nothing where it has none, or
    /// was not decided.
    pub fn renamed(&mut self, place: impl FnOnce(ClassId) -> Option<ClassId>) {
        match place(self.leader.class) {
            Some(class) if self.row == NO_ROW => self.leader.class = class,
            _ => self.leader = Self::NEW.leader,
        }
    }

    /// Of the class in front.
    pub fn evidence(&self) -> f32 {
        self.leader.evidence
    }

    /// The class in front, once a packet was scored.
    pub fn leader(&self) -> Option<Leader> {
        Some(self.leader).filter(|l| l.packets > 0)
    }
}

// What a million streams cost is promised to users.
const _: () = assert!(StreamTable::<ScoredStream>::octets_per_stream() <= 128);

/// Evidence of the undecided streams: one row of sums a stream, as many rows as were ever needed at once, bounded.
pub(super) struct EvidenceRows {
    width: usize,
    most: usize,
    sums: Vec<f32>,
    /// The record that owns each row.
    owner: Vec<StreamIndex>,
    free: Vec<EvidenceRow>,
    hand: usize,
}

impl EvidenceRows {
    /// None yet, for `width` classes and at most `streams` streams, decided or not.
    fn new(width: usize, streams: usize) -> Self {
        let room = MOST_EVIDENCE / (width.max(1) * size_of::<f32>());
        let most = (streams / ROWS_SHARE).min(room).clamp(64, NO_ROW.index() - 1);
        Self { width, most, sums: Vec::new(), owner: Vec::new(), free: Vec::new(), hand: 0 }
    }

    /// Forgets all sums: there are other classes.
    fn rebuild(&mut self, width: usize) {
        self.width = width;
        self.sums.clear();
        self.sums.resize(self.owner.len() * width, 0.0);
    }

    /// The record that owns a row has moved.
    pub fn moved(&mut self, row: EvidenceRow, owner: StreamIndex) {
        if row != NO_ROW {
            self.owner[row.index()] = owner;
        }
    }

    fn row(&mut self, row: EvidenceRow) -> &mut [f32] {
        &mut self.sums[row.index() * self.width..][..self.width]
    }

    /// A cleared row for the record `owner`, and whose row it was where none was free: of some looked at in turn the one whose
    /// stream is least like any class, as what a flood consists of is.
    pub fn take(&mut self, owner: StreamIndex, evidence: impl Fn(StreamIndex) -> f32) -> (EvidenceRow, Option<StreamIndex>) {
        let (row, robbed) = if let Some(row) = self.free.pop() {
            (row, None)
        } else if self.owner.len() < self.most {
            self.owner.push(owner);
            self.sums.resize(self.owner.len() * self.width, 0.0);
            (EvidenceRow::from_index(self.owner.len() - 1), None)
        } else {
            let looked_at = (0..ROWS_LOOKED_AT).map(|step| (self.hand + step) % self.most);
            let least = |a: &usize, b: &usize| evidence(self.owner[*a]).total_cmp(&evidence(self.owner[*b]));
            let row = looked_at.min_by(least).unwrap_or(self.hand);
            self.hand = (self.hand + ROWS_LOOKED_AT) % self.most;
            (EvidenceRow::from_index(row), Some(self.owner[row]))
        };
        self.owner[row.index()] = owner;
        self.row(row).fill(0.0);
        (row, robbed)
    }

    fn release(&mut self, row: EvidenceRow) {
        if row != NO_ROW {
            self.free.push(row);
        }
    }
}

/// When something may be said of a stream, and what was counted of it by then.
pub(super) struct StreamSnapshot {
    packet: u64,
    timestamp: Nanos,
    last: Nanos,
    packets: u64,
    bytes: u64,
}

impl StreamSnapshot {
    /// Now, with the packet of that number.
    pub fn of(stream: &Stream<ScoredStream>, packet: u64, timestamp: Nanos) -> Self {
        Self { packet, timestamp, last: stream.last, packets: stream.packets, bytes: stream.bytes }
    }
}

/// A packet whose active inputs are known, while the cache is asked for their weights. It is scored when the next one is as far.
pub(super) struct PendingPacket {
    /// Its stream's record.
    pub at: StreamIndex,
    pub snapshot: StreamSnapshot,
}

/// ActiveInputs inputs.
struct ActiveInputs {
    inputs: Box<[u32; MAX_ACTIVE]>,
    count: usize,
    /// Those that depend on the packet's ports.
    ports: Box<[u32; MAX_ACTIVE]>,
    port_count: usize,
    /// Whether the packet has content.
    content: bool,
}

impl ActiveInputs {
    fn new() -> Self {
        Self { inputs: Box::new([0; MAX_ACTIVE]), count: 0, ports: Box::new([0; MAX_ACTIVE]), port_count: 0, content: true }
    }
}

/// What one model has heard of the undecided streams of one shard.
pub(super) struct Scorer {
    pub model: Arc<Model>,
    /// Place among the models.
    pub number: usize,
    every_packet: bool,
    pub rows: EvidenceRows,
    pub kept: EvidenceBuffer,
    /// Counts of spikes, for live sources.
    spikes: Option<Vec<u64>>,
    volley: Volley,
    /// Of the packet looked at last, and of the one that waits.
    next: ActiveInputs,
    active: ActiveInputs,
    pub waiting: Option<PendingPacket>,
    potentials: Potentials,
}

impl Scorer {
    /// For at most `streams` streams.
    pub fn new(model: Arc<Model>, number: usize, streams: usize, every_packet: bool, live: bool) -> Self {
        Self {
            number,
            every_packet,
            rows: EvidenceRows::new(model.classes.len(), streams),
            kept: EvidenceBuffer::default(),
            spikes: live.then(|| vec![0; model.network.neurons()]),
            volley: Volley::default(),
            next: ActiveInputs::new(),
            active: ActiveInputs::new(),
            waiting: None,
            potentials: model.network.buffer(),
            model,
        }
    }

    /// Takes over another model. Where its classes are others, all evidence is forgotten.
    pub fn adopt(&mut self, model: &Arc<Model>) {
        if model.classes != self.model.classes {
            self.rows.rebuild(model.classes.len());
        }
        // What was counted was taken with the batch before.
        self.spikes = self.spikes.as_ref().map(|_| vec![0; model.network.neurons()]);
        self.potentials = model.network.buffer();
        self.model = Arc::clone(model);
    }

    /// The spikes since it was last asked; `None` where there were none.
    pub fn take_spikes(&mut self) -> Option<SpikeCounts> {
        let spikes = self.spikes.as_mut().filter(|counts| counts.iter().any(|&n| n > 0))?;
        let neurons = std::mem::replace(spikes, vec![0; self.model.network.neurons()]);
        let mut counts = vec![0; self.model.classes.len()];
        let classes = self.model.decision.assignments.classes_of_neurons();
        classes.iter().zip(neurons).for_each(|(class, n)| counts[class.index()] += n);
        Some(SpikeCounts { model: Arc::clone(&self.model), counts })
    }

    /// The slot values of a packet.
    pub fn encode(&mut self, context: Context, (frame, headers): (Frame<'_>, &Headers)) -> &[u16] {
        self.model.layout.encode(headers, frame.bytes, context, &mut self.volley);
        &self.volley.slots[..self.model.layout.slots().len()]
    }

    /// Finds the active inputs of a packet and asks the cache for their weights.
    pub fn look(&mut self, context: Context, packet: (Frame<'_>, &Headers)) {
        self.encode(context, packet);
        let layout = &self.model.layout;
        self.next.count = layout.inputs(&self.volley, &mut self.next.inputs);
        self.next.port_count = layout.port_inputs(&self.volley, &mut self.next.ports);
        self.next.content = self.volley.content;
        self.model.network.prefetch(&self.next.inputs[..self.next.count]);
    }

    /// Whether the packet looked at last adds to the evidence of its stream.
    pub fn counts(&self, stream: &ScoredStream) -> bool {
        self.model.decision.counts(stream.leader().as_ref(), self.next.content)
    }

    /// The packet looked at last waits from now on; none did.
    pub fn wait(&mut self, waiting: PendingPacket) {
        std::mem::swap(&mut self.active, &mut self.next);
        self.waiting = Some(waiting);
    }

    /// Scores the packet that waits, if any.
    pub fn catch_up(&mut self, table: &mut StreamTable<ScoredStream>, out: &mut BatchOutput) {
        if let Some(waiting) = self.waiting.take() {
            self.score(table.get_mut(waiting.at), &waiting.snapshot, out);
        }
    }

    /// Adds the packet that waited to the evidence of its stream, which has a row for it.
    pub fn score(&mut self, stream: &mut Stream<ScoredStream>, snapshot: &StreamSnapshot, out: &mut BatchOutput) {
        let model = &self.model;
        model.network.potentials(&self.active.inputs[..self.active.count], &mut self.potentials);
        if let Some(spikes) = &mut self.spikes {
            model.decision.count_spikes(&model.network, &self.potentials, spikes);
        }
        let row = stream.state.row;
        let evidence = self.rows.row(row);
        let before = stream.state.leader();
        let content = self.active.content;
        let leader = model.decision.accumulate(&model.network, &self.potentials, evidence, before.as_ref(), content);
        let Some(leader) = leader else { return };
        let neuron = model.decision.assignments.first_of(leader.class);
        let ports = model.network.weight_sum(&self.active.ports[..self.active.port_count], neuron);
        let leader = model.decision.with_ports(leader, ports);
        stream.state.leader = leader;
        // Of a stream that has its name and is scored on and on nothing hangs on its being settled.
        if stream.state.told && self.every_packet {
            return;
        }
        let confidence = model.decision.confidence(&leader);
        if !model.decision.enough(&leader, confidence) {
            return;
        }
        if !stream.state.told {
            let verdict = verdict(model, self.number, Event::Detection, stream, snapshot, confidence);
            if verdict.class.is_some() {
                stream.state.told = true;
                self.kept.hand_on(row, self.number, model, stream, &mut out.packets);
                out.verdicts.push(verdict);
            }
        }
        if !self.every_packet {
            self.kept.forget(row);
            self.rows.release(row);
            stream.state.row = NO_ROW;
        }
    }

    /// Tells of a stream that has ended.
    pub fn end(&mut self, stream: Stream<ScoredStream>, packet: u64, out: &mut BatchOutput) {
        let row = stream.state.row;
        let confidence = stream.state.leader().map_or(0.0, |l| self.model.decision.confidence(&l));
        let snapshot = StreamSnapshot::of(&stream, packet, stream.last);
        let end = verdict(&self.model, self.number, Event::Stream, &stream, &snapshot, confidence);
        if end.class.is_some() && !stream.state.told {
            self.kept.hand_on(row, self.number, &self.model, &stream, &mut out.packets);
            out.verdicts.push(Verdict { event: Event::Detection, ..end.clone() });
        }
        self.kept.forget(row);
        self.rows.release(row);
        out.verdicts.push(end);
    }
}

fn verdict(
    model: &Arc<Model>,
    number: usize,
    event: Event,
    stream: &Stream<ScoredStream>,
    snapshot: &StreamSnapshot,
    confidence: f32,
) -> Verdict {
    let leader = stream.state.leader();
    Verdict {
        event,
        model: number,
        named: Arc::clone(model),
        key: stream.key,
        number: stream.number,
        packet: snapshot.packet,
        timestamp: snapshot.timestamp,
        first: stream.first,
        last: snapshot.last,
        packets: snapshot.packets,
        bytes: snapshot.bytes,
        first_direction: stream.first_direction,
        leader,
        class: leader.and_then(|l| model.decision.earned(&l, confidence)),
        confidence,
    }
}
