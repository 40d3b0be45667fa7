//! In which order, and with which slots silent, is the corpus shown?
//!
//! Slot dropout: each packet is shown whole and once without each group of slots, so that neurons lean on the whole header
//! and know a protocol on an unknown port too.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::encode::{Group, MAX_ACTIVE, SILENT, Volley};
use crate::snn::Presentations;

use super::{Corpus, Settings};

/// Groups that are silenced together, one set a presentation.
const DROPOUT: [&[Group]; 6] = [
    &[Group::Ports],
    &[Group::Network, Group::Ttl],
    &[Group::Transport, Group::Options],
    &[Group::Payload],
    &[Group::Length],
    &[Group::Context],
];

/// Shows the chosen streams of a corpus.
pub struct Teacher<'a> {
    corpus: &'a Corpus,
    /// (volley, class) of every packet shown.
    packets: Vec<(u32, u16)>,
    silent: Vec<Vec<u16>>,
    gains: Vec<(f32, f32)>,
    seed: u64,
}

impl<'a> Teacher<'a> {
    /// `shown` gives the class that the teacher forces for a stream, or `None` to leave the stream out.
    pub fn new(corpus: &'a Corpus, settings: &Settings, seed: u64, mut shown: impl FnMut(usize) -> Option<u16>) -> Self {
        let classes = corpus.classes.len();
        let mut packets = Vec::new();
        let mut streams = vec![0u32; classes];
        for (i, stream) in corpus.streams.iter().enumerate() {
            if let Some(class) = shown(i) {
                streams[class as usize] += 1;
                packets.extend((stream.first..stream.first + stream.kept).map(|v| (v as u32, class)));
            }
        }
        let mut silent = vec![Vec::new()];
        for groups in DROPOUT {
            let slots: Vec<u16> = groups.iter().flat_map(|&g| corpus.layout.group(g)).collect();
            if !slots.is_empty() {
                silent.push(slots);
            }
        }
        // Rare classes learn more from each of their own packets, so that floods don't drown them.
        let mean = packets.len() as f32 / classes.max(1) as f32;
        let mut shown_packets = vec![0u32; classes];
        for &(_, class) in &packets {
            shown_packets[class as usize] += 1;
        }
        let gains =
            shown_packets.iter().map(|&n| ((mean / n.max(1) as f32).powf(settings.balance).clamp(0.5, 4.0), 1.0)).collect();
        Self { corpus, packets, silent, gains, seed }
    }

    /// Presentations a pass.
    pub fn len(&self) -> usize {
        self.packets.len() * self.silent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

impl Presentations for Teacher<'_> {
    fn order(&self, pass: u32) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(pass));
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        for i in (1..order.len()).rev() {
            // Multiply-shift: an unbiased choice is not needed, a repeatable one is.
            let j = (u64::from(random.next_u32()) * (i as u64 + 1)) >> 32;
            order.swap(i, j as usize);
        }
        order
    }

    fn present(&self, index: u32, active: &mut [u32; MAX_ACTIVE]) -> (usize, u16) {
        let (variants, packets) = (self.silent.len(), &self.packets);
        let (volley_index, class) = packets[index as usize / variants];
        let slots = self.corpus.volley(volley_index as usize);
        let mut volley = Volley::default();
        volley.slots[..slots.len()].copy_from_slice(slots);
        for &slot in &self.silent[index as usize % variants] {
            volley.slots[slot as usize] = SILENT;
        }
        (self.corpus.layout.inputs(&volley, active), class)
    }

    fn gain(&self, class: u16) -> (f32, f32) {
        self.gains[class as usize]
    }
}
