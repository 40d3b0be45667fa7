//! Tap of slot values for learning: the first packets of a sample of streams, sent to the learning thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_channel::Sender;

use crate::model::Model;
use crate::packet::{Direction, KeyKind, StreamKey};

/// Slot values of one packet.
#[derive(Clone, Debug)]
pub struct TapSample {
    /// Index of the model in [`super::EngineSettings::models`].
    pub model_index: usize,
    /// The model whose layout encoded the packet.
    pub model: Arc<Model>,
    /// Key of the packet's stream.
    pub key: StreamKey,
    /// Number of the stream's first packet, which distinguishes streams of the same key.
    pub stream: u64,
    /// Direction of the stream's first packet.
    pub first_direction: Direction,
    /// Packets of the stream before this one.
    pub position: u8,
    /// Slot values, `[slot]`, as in [`crate::encode::Volley::slots`].
    pub slots: Vec<u16>,
}

/// Selects the packets whose slot values are sent to the learning thread.
#[derive(Clone, Debug)]
pub struct Tap {
    /// Receives the samples. When it is full, samples are dropped and counted ([`super::Counters::dropped_samples`]).
    pub samples: Sender<TapSample>,
    /// One stream in this many is sampled, chosen by its hash; 0 samples none. It may be changed at any time.
    pub one_in: Arc<AtomicU32>,
    /// Packets sampled of each stream, from its first, by kind of key.
    pub packets: [u8; KeyKind::COUNT],
}

impl Tap {
    /// Whether the packet is sampled. `hash`: of the stream's key; `position`: packets of the stream before this one.
    #[inline]
    pub(super) fn wants(&self, kind: KeyKind, hash: u32, position: u8) -> bool {
        position < self.packets[kind as usize] && {
            let one_in = self.one_in.load(Relaxed);
            one_in != 0 && hash.is_multiple_of(one_in)
        }
    }
}
