//! What does one model say of the packets of one shard? Its streams, their evidence, its verdicts.

use std::sync::Arc;

use crate::capture::{Frame, Nanos};
use crate::encode::{Context, MAX_ACTIVE, Volley};
use crate::model::Model;
use crate::packet::Headers;
use crate::snn::Potentials;
use crate::stream::{Arrival, Ended, Leader, Limits, Stream, StreamTable, Swept};

use super::keep::{self, Kept};
use super::shard::Routed;
use super::told::Told;
use super::{Event, Sample, Settings, Spikes, Tally, Tap, Verdict};

/// A packet on its way to the worker that owns its stream.
#[derive(Debug)]
pub(super) struct Item {
    pub packet: Arrival,
    /// Index into the batch.
    pub frame: u32,
}

/// No evidence row: the stream is decided, or was given up.
const NO_ROW: u32 = u32::MAX;
/// Records that a sweep looks at in vain before it stops, and streams that it ends at most: at least so many, and the share of all.
const SWEEP: (usize, usize) = (512, 256);
/// Undecided streams that keep evidence at once, as a share of all.
const ROWS_SHARE: usize = 16;
/// Rows looked at to find one that is taken from its stream.
const ROWS_LOOKED_AT: usize = 16;
/// Octets of evidence that one model keeps in one shard: a model of 16,384 classes would take gigaoctets else.
const MOST_EVIDENCE: usize = 256 << 20;

/// What a lane keeps of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    /// Of no meaning before the first packet was scored: its `packets` is 0 then.
    leader: Leader,
    row: u32,
    told: bool,
}

impl Scored {
    const NEW: Self = Self { leader: Leader { class: 0, evidence: 0.0, lead: 0.0, packets: 0 }, row: NO_ROW, told: false };

    /// The class in front, once a packet was scored.
    pub(super) fn leader(&self) -> Option<Leader> {
        Some(self.leader).filter(|l| l.packets > 0)
    }
}

// What a million streams cost is promised to users.
const _: () = assert!(StreamTable::<Scored>::octets_per_stream() <= 128);

/// Evidence of the undecided streams: one row of sums a stream, as many rows as were ever needed at once, bounded.
struct Rows {
    width: usize,
    most: usize,
    sums: Vec<f32>,
    /// The record that owns each row.
    owner: Vec<u32>,
    free: Vec<u32>,
    hand: usize,
}

impl Rows {
    fn row(&mut self, row: u32) -> &mut [f32] {
        &mut self.sums[row as usize * self.width..][..self.width]
    }

    /// A cleared row for the record `owner`, and whose row it was where none was free: of some looked at in turn the one whose
    /// stream is least like any class, as what a flood consists of is.
    fn take(&mut self, owner: u32, evidence: impl Fn(u32) -> f32) -> (u32, Option<u32>) {
        let (row, robbed) = if let Some(row) = self.free.pop() {
            (row, None)
        } else if self.owner.len() < self.most {
            self.owner.push(0);
            self.sums.resize(self.owner.len() * self.width, 0.0);
            (self.owner.len() as u32 - 1, None)
        } else {
            let looked_at = (0..ROWS_LOOKED_AT).map(|step| (self.hand + step) % self.most);
            let least = |a: &usize, b: &usize| evidence(self.owner[*a]).total_cmp(&evidence(self.owner[*b]));
            let row = looked_at.min_by(least).unwrap_or(self.hand);
            self.hand = (self.hand + ROWS_LOOKED_AT) % self.most;
            (row as u32, Some(self.owner[row]))
        };
        self.owner[row as usize] = owner;
        self.row(row).fill(0.0);
        (row, robbed)
    }

    fn release(&mut self, row: u32) {
        if row != NO_ROW {
            self.free.push(row);
        }
    }
}

/// One model within one shard.
pub(super) struct Lane {
    model: Arc<Model>,
    number: usize,
    every_packet: bool,
    keep_packets: u64,
    tap: Option<Tap>,
    table: StreamTable<Scored>,
    rows: Rows,
    kept: Kept,
    /// Counts of spikes, for live sources.
    spikes: Option<Vec<u64>>,
    volley: Volley,
    active: Box<[u32; MAX_ACTIVE]>,
    potentials: Potentials,
}

impl Lane {
    pub fn new(
        model: Arc<Model>,
        number: usize,
        limits: Limits,
        settings: &Settings,
        live: bool,
        hasher: foldhash::fast::RandomState,
    ) -> Self {
        let width = model.classes.len();
        let room = MOST_EVIDENCE / (width.max(1) * size_of::<f32>());
        let most = (limits.streams / ROWS_SHARE).min(room).clamp(64, NO_ROW as usize - 1);
        Self {
            number,
            every_packet: settings.every_packet,
            keep_packets: u64::from(settings.keep_packets),
            tap: settings.tap.clone(),
            kept: Kept::default(),
            spikes: live.then(|| vec![0; model.network.neurons()]),
            table: StreamTable::new(limits, hasher),
            rows: Rows { width, most, sums: Vec::new(), owner: Vec::new(), free: Vec::new(), hand: 0 },
            volley: Volley::default(),
            active: Box::new([0; MAX_ACTIVE]),
            potentials: model.network.buffer(),
            model,
        }
    }

    pub fn live(&self) -> usize {
        self.table.live()
    }

    /// The spikes since it was last asked; `None` where there were none.
    pub fn take_spikes(&mut self) -> Option<Spikes> {
        let spikes = self.spikes.as_mut().filter(|counts| counts.iter().any(|&n| n > 0))?;
        let neurons = std::mem::replace(spikes, vec![0; self.model.network.neurons()]);
        let mut counts = vec![0; self.model.classes.len()];
        neurons.iter().enumerate().for_each(|(neuron, n)| counts[self.model.decision.class_of(neuron)] += n);
        Some(Spikes { model: Arc::clone(&self.model), counts })
    }

    /// Takes over another model of the same key; whether it could. Where its classes are others, streams that are named keep their
    /// name where the model still knows it, and undecided ones begin anew.
    pub fn adopt(&mut self, model: &Arc<Model>) -> bool {
        if model.key != self.model.key {
            return false;
        }
        if model.classes != self.model.classes {
            let place = |class: u16| model.classes.iter().position(|c| *c == self.model.classes[class as usize]);
            for stream in self.table.iter_mut() {
                let state = &mut stream.state;
                match place(state.leader.class) {
                    Some(class) if state.row == NO_ROW => state.leader.class = class as u16,
                    _ => state.leader = Scored::NEW.leader,
                }
            }
            self.rows.width = model.classes.len();
            self.rows.sums.clear();
            self.rows.sums.resize(self.rows.owner.len() * self.rows.width, 0.0);
        }
        // What was counted was taken with the batch before.
        self.spikes = self.spikes.as_ref().map(|_| vec![0; model.network.neurons()]);
        self.potentials = model.network.buffer();
        self.model = Arc::clone(model);
        true
    }

    /// Ends streams that have been quiet for too long, a few at a time.
    pub fn sweep(&mut self, now: Nanos, packet: u64, tally: &mut Tally, out: &mut Told) {
        let looks = SWEEP.0.max(self.table.live() / SWEEP.1);
        for _ in 0..looks {
            let Some(Swept { stream, at, moved }) = self.table.sweep(now, looks) else { break };
            if moved.is_some() && self.table.get(at).state.row != NO_ROW {
                let row = self.table.get(at).state.row;
                self.rows.owner[row as usize] = at as u32;
            }
            tally.timed_out += 1;
            self.end(stream, packet, out);
        }
    }

    /// Handles a shard's packets of one batch, whose first has the number `first`.
    pub fn packets(&mut self, routed: &Routed, shard: usize, first: u64, tally: &mut Tally, out: &mut Told) {
        let items = &routed.items[shard][self.model.key as usize];
        for item in items {
            self.table.prefetch_index(item.packet.hash);
        }
        for item in items {
            self.table.prefetch_record(item.packet.hash);
        }
        for item in items {
            let packet = first + u64::from(item.frame);
            let keep = |s: &Scored| s.told || s.row != NO_ROW;
            let seen = self.table.packet(&item.packet, packet, keep, || Scored::NEW);
            if let Some((stream, why)) = seen.ended {
                match why {
                    Ended::Timeout => tally.timed_out += 1,
                    Ended::Evicted => tally.evicted += 1,
                }
                self.end(stream, packet, out);
            }
            // Of most packets the frame is not looked at: it lies where it was decoded, in another core's cache may be.
            let whole = || (routed.batch.frame(item.frame as usize), &routed.headers[item.frame as usize]);
            if let Some(tap) = &self.tap
                && tap.wants(self.model.key, item.packet.hash, seen.context.position)
            {
                tally.untapped += u64::from(!self.sample(seen.at, seen.context, whole()));
            }
            let stream = self.table.get_mut(seen.at);
            if seen.context.position == 0 && stream.number == packet {
                tally.opened += 1;
            } else if stream.state.row == NO_ROW {
                if stream.state.told && stream.packets <= self.keep_packets {
                    out.packets.extend(keep::later(packet, &whole().0, self.number, &self.model, stream));
                }
                continue;
            }
            if stream.state.row == NO_ROW {
                let table = &self.table;
                let (row, robbed) = self.rows.take(seen.at as u32, |owner| table.get(owner as usize).state.leader.evidence);
                self.table.get_mut(seen.at).state.row = row;
                if let Some(robbed) = robbed.filter(|&r| r as usize != seen.at) {
                    self.table.get_mut(robbed as usize).state.row = NO_ROW;
                    self.kept.forget(row);
                    tally.hurried += 1;
                }
            }
            let ((frame, headers), stream) = (whole(), self.table.get(seen.at));
            if stream.packets <= self.keep_packets {
                if stream.state.told {
                    out.packets.extend(keep::later(packet, &frame, self.number, &self.model, stream));
                } else if !self.kept.push(stream.state.row, packet, &frame) {
                    tally.unkept += 1;
                }
            }
            tally.scored += 1;
            self.score(seen.at, seen.context, headers, &frame, packet, out);
        }
    }

    /// Hands the packet to the tap; whether there was room.
    fn sample(&mut self, at: usize, context: Context, (frame, headers): (Frame<'_>, &Headers)) -> bool {
        let Some(tap) = self.tap.as_ref().filter(|tap| !tap.samples.is_full()) else { return false };
        self.model.layout.encode(headers, frame.bytes, context, &mut self.volley);
        let stream = self.table.get(at);
        let sample = Sample {
            model: self.number,
            named: Arc::clone(&self.model),
            key: stream.key,
            stream: stream.number,
            first_direction: stream.first_direction,
            position: context.position,
            slots: self.volley.slots[..self.model.layout.slots().len()].to_vec(),
        };
        tap.samples.try_send(sample).is_ok()
    }

    /// Adds a packet to the evidence of its stream, which has a row for it. No row of weights is prefetched: the often active ones
    /// are in the cache, and asking for all of them costs more than waiting for the others (measured).
    fn score(&mut self, at: usize, context: Context, headers: &Headers, frame: &Frame<'_>, packet: u64, out: &mut Told) {
        let (model, stream) = (&self.model, self.table.get_mut(at));
        model.layout.encode(headers, frame.bytes, context, &mut self.volley);
        let inputs = model.layout.inputs(&self.volley, &mut self.active);
        model.network.potentials(&self.active[..inputs], &mut self.potentials);
        if let Some(spikes) = &mut self.spikes {
            model.decision.count_spikes(&model.network, &self.potentials, spikes);
        }
        let row = stream.state.row;
        let evidence = self.rows.row(row);
        let before = stream.state.leader();
        let Some(leader) = model.decision.hear(&model.network, &self.potentials, evidence, before.as_ref()) else { return };
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
            let verdict = verdict(model, self.number, Event::Detection, stream, packet, frame.timestamp, confidence);
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
    pub fn end(&mut self, stream: Stream<Scored>, packet: u64, out: &mut Told) {
        let row = stream.state.row;
        let confidence = stream.state.leader().map_or(0.0, |l| self.model.decision.confidence(&l));
        let end = verdict(&self.model, self.number, Event::Stream, &stream, packet, stream.last, confidence);
        if end.class.is_some() && !stream.state.told {
            self.kept.hand_on(row, self.number, &self.model, &stream, &mut out.packets);
            out.verdicts.push(Verdict { event: Event::Detection, ..end.clone() });
        }
        self.kept.forget(row);
        self.rows.release(row);
        out.verdicts.push(end);
    }

    /// All streams, in the order in which they began; the lane has none then.
    pub fn take(&mut self) -> Vec<Stream<Scored>> {
        let mut streams = self.table.take();
        streams.sort_by(|a, b| (a.number, &a.key).cmp(&(b.number, &b.key)));
        streams
    }

    /// Ends all streams.
    pub fn finish(&mut self, out: &mut Told) {
        self.take().into_iter().for_each(|stream| self.end(stream, u64::MAX, out));
    }
}

fn verdict(
    model: &Arc<Model>,
    number: usize,
    event: Event,
    stream: &Stream<Scored>,
    packet: u64,
    timestamp: Nanos,
    confidence: f32,
) -> Verdict {
    let leader = stream.state.leader();
    Verdict {
        event,
        model: number,
        named: Arc::clone(model),
        key: stream.key,
        number: stream.number,
        packet,
        timestamp,
        first: stream.first,
        last: stream.last,
        packets: stream.packets,
        bytes: stream.bytes,
        first_direction: stream.first_direction,
        leader,
        class: leader.and_then(|l| model.decision.earned(&l, confidence)),
        confidence,
    }
}
