//! Decoded batches: the frames of a batch, the headers of their packets, and each packet filed under the shard that owns its stream.
//!
//! A frame of a tunnel holds several packets: one in each IP packet around the innermost, and that. Each is of a stream of its own, and is
//! filed and traced in this order. All other frames hold one packet.
//!
//! One worker fills and routes a batch, then every worker reads its own shard's packets from it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::capture::{CaptureError, Frame, FrameBatch, Nanos, Source};
use crate::encode::has_content;
use crate::packet::{Headers, KeyKind, StreamKey};
use crate::stream::{Arrival, FragmentTable, is_fragment};

use super::in_order::Turn;
use super::{Counters, EngineSettings};
use crate::trace::{TraceTable, TraceValues};

/// What all frames of a batch are routed by.
#[derive(Clone, Copy)]
pub(super) struct Routing<'a> {
    pub settings: &'a EngineSettings,
    /// The kinds of key to file by, as indices of [`KeyKind`].
    pub kinds: [bool; KeyKind::COUNT],
    pub hasher: &'a foldhash::fast::RandomState,
}

/// A packet of one stream, on its way to the shard that owns the stream.
#[derive(Debug)]
pub(super) struct RoutedPacket {
    pub arrival: Arrival,
    /// Index of its frame in the batch.
    frame: u32,
    /// Index of its headers in [`RoutedBatch::layers`].
    layer: u32,
}

/// One packet of a frame: the innermost, or an IP packet around it.
#[derive(Clone, Copy)]
struct Layer {
    headers: Headers,
    /// Index of the frame in the batch.
    frame: u32,
}

/// One shard's packets, by the kind of their key.
type PacketsByKind = [Vec<RoutedPacket>; KeyKind::COUNT];

/// A decoded batch, with the packets of each shard.
pub(super) struct RoutedBatch {
    batch: FrameBatch,
    /// The time at which the batch was complete, for live sources.
    pub clock: Option<Nanos>,
    /// The packets of each frame, outermost first; none of a frame that can't be decoded.
    layers: Vec<Layer>,
    /// Traces of the hosts of each layer; empty if no model uses them.
    traces: Vec<TraceValues>,
    /// Bit of each layer with trace values after the first packets of its flow. Few have some, so the values of the others are not fetched
    /// into the cache to find out.
    later: Vec<u64>,
    /// Packets by shard and kind of key. A layer has one packet for each stream that it belongs to.
    packets: Vec<PacketsByKind>,
    /// The worker that fills the batch.
    pub owner: usize,
}

impl RoutedBatch {
    /// An empty batch that the worker `owner` fills, for `shards` shards.
    pub fn new(shards: usize, owner: usize) -> Self {
        let packets = (0..shards).map(|_| Default::default()).collect();
        Self { batch: FrameBatch::new(), clock: None, layers: Vec::new(), traces: Vec::new(), later: Vec::new(), packets, owner }
    }

    /// Reads the next frames from a source that has delivered `after` packets so far. Returns `false` at its end. A panic of the
    /// source counts as an error.
    pub fn fill(&mut self, source: &mut dyn Source, after: u64) -> Result<bool, CaptureError> {
        catch_unwind(AssertUnwindSafe(|| source.fill(&mut self.batch))).unwrap_or(Err(CaptureError::Panicked { after }))
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Removes all routed packets; the frames stay.
    pub fn clear_packets(&mut self) {
        self.layers.clear();
        self.clear_traces();
        self.packets.iter_mut().flatten().for_each(Vec::clear);
    }

    /// Decodes all frames and files each packet under its streams' shards.
    pub fn route(&mut self, routing: &Routing<'_>, fragments: Turn<'_, FragmentTable>, counters: &mut Counters) {
        self.clear_packets();
        let Self { batch, layers, packets, .. } = self;
        let decoder = &routing.settings.intake.decoder;
        let mut filing = Filing { routing, fragments, lone_fragments: 0, layers, packets };
        for (number, frame) in (0u32..).zip(batch.iter()) {
            counters.frames += 1;
            counters.bytes += u64::from(frame.wire_len);
            match decoder.decode(frame.link, frame.bytes) {
                Ok(headers) => {
                    if headers.tunnel_depth > 0 {
                        filing.file_outer(headers.tunnel_depth, &frame, number);
                    }
                    filing.file_layer(headers, &frame, number);
                }
                Err(reason) => *counters.undecodable.entry(reason).or_default() += 1,
            }
        }
        counters.lone_fragments += filing.lone_fragments;
    }

    /// Counts all packets in the traces of their hosts and notes the values. Batches must be traced in their order.
    pub fn trace(&mut self, table: &mut TraceTable) {
        let Self { batch, layers, traces, later, .. } = self;
        traces.clear();
        later.clear();
        later.resize(layers.len().div_ceil(64), 0);
        for (number, layer) in layers.iter().enumerate() {
            let frame = batch.frame(layer.frame as usize);
            let values = table.observe(&layer.headers, frame.bytes, frame.timestamp);
            later[number / 64] |= u64::from(values.later().is_some()) << (number % 64);
            traces.push(values);
        }
    }

    /// Removes all traces.
    pub fn clear_traces(&mut self) {
        self.traces.clear();
        self.later.clear();
    }

    /// One shard's packets by one kind of key, in the order of the frames, those of one frame outermost first.
    pub fn packets(&self, shard: usize, kind: KeyKind) -> &[RoutedPacket] {
        &self.packets[shard][kind as usize]
    }

    /// Number of one shard's packets, over all kinds of key.
    pub fn count(&self, shard: usize) -> u64 {
        self.packets[shard].iter().map(|packets| packets.len() as u64).sum()
    }

    /// Time of the last frame.
    pub fn last_timestamp(&self) -> Option<Nanos> {
        self.batch.len().checked_sub(1).map(|last| self.batch.frame(last).timestamp)
    }
}

/// Files the packets of a batch's frames.
struct Filing<'a, 'b> {
    routing: &'a Routing<'a>,
    fragments: Turn<'b, FragmentTable>,
    lone_fragments: u64,
    layers: &'a mut Vec<Layer>,
    packets: &'a mut [PacketsByKind],
}

impl Filing<'_, '_> {
    /// Files the IP packets around the innermost packet of a frame, which is within `depth` tunnels.
    #[cold]
    fn file_outer(&mut self, depth: u8, frame: &Frame<'_>, number: u32) {
        for headers in self.routing.settings.intake.decoder.outer(frame.link, frame.bytes, depth) {
            self.file_layer(headers, frame, number);
        }
    }

    /// Files a packet of the frame `number` of the batch under its streams.
    #[inline(always)]
    fn file_layer(&mut self, headers: Headers, frame: &Frame<'_>, number: u32) {
        let Routing { settings, kinds, .. } = *self.routing;
        let layer = self.layers.len() as u32;
        if kinds[KeyKind::Flow as usize] {
            let (mut key, mut direction) = StreamKey::flow(&headers, frame.bytes);
            if is_fragment(&headers, frame.bytes) {
                match self.fragments.value().stream(key, direction, &headers, frame) {
                    Some(first) => (key, direction) = first,
                    None => self.lone_fragments += 1,
                }
            }
            let key = settings.intake.key(key, frame.interface);
            self.file(key, Arrival::new(key, self.routing.hasher, direction, &headers, frame), number, layer);
        }
        if kinds[KeyKind::Host as usize] {
            let hosts = StreamKey::of(KeyKind::Host, &headers, frame.bytes);
            for (key, direction) in hosts.into_iter().flatten() {
                self.file(key, Arrival::new(key, self.routing.hasher, direction, &headers, frame), number, layer);
            }
        }
        self.layers.push(Layer { headers, frame: number });
    }

    /// Files a packet under its stream's shard. Inlined, so that the key stays in registers: a processor can't forward several stores to one
    /// wider load, as a copy of the key would be.
    #[inline(always)]
    fn file(&mut self, key: StreamKey, arrival: Arrival, frame: u32, layer: u32) {
        // The upper half of a 32 x 32 bit product maps equal ranges of the hash to the shards.
        let shard = ((u64::from(arrival.hash) * self.packets.len() as u64) >> 32) as usize;
        self.packets[shard][key.kind() as usize].push(RoutedPacket { arrival, frame, layer });
    }
}

/// One packet as a model's shard handles it.
#[derive(Clone, Copy)]
pub(super) struct ShardPacket<'a> {
    /// Number of the frame in the source, from 0.
    pub number: u64,
    pub arrival: &'a Arrival,
    /// Index of the frame in the batch.
    frame: usize,
    /// Index of the packet in [`RoutedBatch::layers`].
    layer: usize,
    routed: &'a RoutedBatch,
}

impl<'a> ShardPacket<'a> {
    /// A packet of a batch whose first frame has the number `first`.
    #[inline]
    pub fn new(routed: &'a RoutedBatch, packet: &'a RoutedPacket, first: u64) -> Self {
        let RoutedPacket { ref arrival, frame, layer } = *packet;
        Self { number: first + u64::from(frame), arrival, frame: frame as usize, layer: layer as usize, routed }
    }

    /// The frame. Most packets are handled without it, because it may lie in another core's cache.
    #[inline]
    pub fn frame(&self) -> Frame<'a> {
        self.routed.batch.frame(self.frame)
    }

    /// The packet's headers; see [`ShardPacket::frame`] for their cost.
    #[inline]
    pub fn headers(&self) -> &'a Headers {
        &self.routed.layers[self.layer].headers
    }

    /// Traces of the packet's hosts.
    pub fn traces(&self) -> &'a TraceValues {
        self.routed.traces.get(self.layer).unwrap_or(&TraceValues::NONE)
    }

    /// The packets of the flow since its last trace values, if the packet is scored again ([`TraceValues::later`]).
    #[inline]
    pub fn later(&self) -> Option<u32> {
        let bits = self.routed.later.get(self.layer / 64)?;
        if bits >> (self.layer % 64) & 1 == 0 { None } else { self.traces().later() }
    }

    /// Whether the packet shows what its stream carries.
    pub fn has_content(&self) -> bool {
        has_content(self.headers(), self.frame().bytes)
    }
}
