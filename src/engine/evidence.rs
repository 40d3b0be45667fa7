//! Which packets are handed on whole? Those of named streams, as evidence, and a sample for learning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_channel::Sender;

use crate::capture::{Frame, LinkType, Nanos};
use crate::model::Model;
use crate::packet::{Direction, KeyKind, StreamKey};

use super::EvidencePacket;
use super::scorer::{EvidenceRow, ScoredStream};
use crate::stream::Stream;

/// Octets of undecided streams' packets that one model keeps in one shard.
const MOST_OCTETS: usize = 32 << 20;

/// A packet of a stream that is not decided yet.
#[derive(Debug)]
struct BufferedPacket {
    packet: u64,
    timestamp: Nanos,
    link: LinkType,
    wire_len: u32,
    bytes: Vec<u8>,
}

impl BufferedPacket {
    fn of(packet: u64, frame: &Frame<'_>) -> Self {
        let Frame { timestamp, link, wire_len, bytes } = *frame;
        Self { packet, timestamp, link, wire_len, bytes: bytes.to_vec() }
    }

    fn named(self, model: usize, named: &Arc<Model>, stream: &Stream<ScoredStream>) -> Option<EvidencePacket> {
        let leader = stream.state.leader()?;
        Some(EvidencePacket {
            packet: self.packet,
            timestamp: self.timestamp,
            link: self.link,
            wire_len: self.wire_len,
            bytes: self.bytes,
            key: stream.key,
            model,
            named: Arc::clone(named),
            class: named.decision.class(&leader)?,
            confidence: named.decision.confidence(&leader),
        })
    }
}

/// The first packets of undecided streams, by evidence row.
#[derive(Debug, Default)]
pub(super) struct EvidenceBuffer {
    rows: Vec<Vec<BufferedPacket>>,
    octets: usize,
}

impl EvidenceBuffer {
    /// Keeps a packet of the undecided stream that has the row; whether there was room.
    pub fn push(&mut self, row: EvidenceRow, packet: u64, frame: &Frame<'_>) -> bool {
        if self.octets + frame.bytes.len() > MOST_OCTETS {
            return false;
        }
        self.octets += frame.bytes.len();
        let row = row.index();
        if row >= self.rows.len() {
            self.rows.resize_with(row + 1, Vec::new);
        }
        self.rows[row].push(BufferedPacket::of(packet, frame));
        true
    }

    /// Takes the row's packets out.
    fn take(&mut self, row: EvidenceRow) -> Vec<BufferedPacket> {
        let taken = self.rows.get_mut(row.index()).map(std::mem::take).unwrap_or_default();
        self.octets -= taken.iter().map(|w| w.bytes.len()).sum::<usize>();
        taken
    }

    /// Forgets the row's packets: its stream was given up.
    pub fn forget(&mut self, row: EvidenceRow) {
        self.take(row);
    }

    /// Hands on the row's packets: its stream was given a class.
    pub fn hand_on(
        &mut self,
        row: EvidenceRow,
        model: usize,
        named: &Arc<Model>,
        stream: &Stream<ScoredStream>,
        out: &mut Vec<EvidencePacket>,
    ) {
        out.extend(self.take(row).into_iter().filter_map(|w| w.named(model, named, stream)));
    }
}

/// A later packet of a named stream.
pub(super) fn later(
    packet: u64,
    frame: &Frame<'_>,
    model: usize,
    named: &Arc<Model>,
    stream: &Stream<ScoredStream>,
) -> Option<EvidencePacket> {
    BufferedPacket::of(packet, frame).named(model, named, stream)
}

/// One volley for learning.
#[derive(Clone, Debug)]
pub struct TapSample {
    pub model: usize,
    /// The model whose layout made the volley.
    pub named: Arc<Model>,
    pub key: StreamKey,
    /// Number of the stream's first packet: with the key it tells streams apart.
    pub stream: u64,
    pub first_direction: Direction,
    /// Packets of the stream before this one.
    pub position: u8,
    /// Slot values, as [`crate::encode::Volley::slots`] has them.
    pub slots: Vec<u16>,
}

/// Where learning listens in: the first packets of some streams.
#[derive(Clone, Debug)]
pub struct Tap {
    /// What the reader is too slow for is counted, not waited for.
    pub samples: Sender<TapSample>,
    /// One stream in so many, by its hash; 0: none. The reader may change it at any time.
    pub one_in: Arc<AtomicU32>,
    /// Packets of a stream, from its first, by kind of key.
    pub packets: [u8; KeyKind::COUNT],
}

impl Tap {
    /// Whether the packet is one of the sample.
    #[inline]
    pub(super) fn wants(&self, kind: KeyKind, hash: u32, position: u8) -> bool {
        position < self.packets[kind as usize] && {
            let one_in = self.one_in.load(Relaxed);
            one_in != 0 && hash.is_multiple_of(one_in)
        }
    }
}
