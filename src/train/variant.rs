//! Variants of calibration streams: the same stream on other ports, without content, captured from the middle, or with random content.
//!
//! Confidence that is calibrated only on streams as they were captured is wrong for streams on ports that the training captures do not
//! have. Each held-out stream is therefore scored again in every variant.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::encode::NO_PREVIOUS;

use super::Corpus;
use super::ports::PortPool;
use super::random::{below, randomise_payload};

/// How a calibration stream differs from the captured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// As captured.
    AsIs,
    /// The server's port is a random unprivileged one.
    OddPort,
    /// The ports are those of another class's stream.
    OtherPorts,
    /// No packet with content was captured.
    Handshake,
    /// The same, with the ports of another class's stream: the first packets of a connection to a port show no more than that somebody
    /// tried the port.
    HandshakeOtherPorts,
    /// The capture starts after the stream's first packets.
    Middle,
    /// All payload bytes are random, so that nothing but ports and headers shows the class: a stream of no class.
    RandomPayload,
}

/// The variants of a flow; a host has connections on many ports, and is calibrated as captured.
const FLOW: [Variant; 7] = [
    Variant::AsIs,
    Variant::OddPort,
    Variant::OtherPorts,
    Variant::Handshake,
    Variant::HandshakeOtherPorts,
    Variant::Middle,
    Variant::RandomPayload,
];

/// Maximum number of packets that [`Variant::Middle`] removes.
const MOST_SKIPPED: usize = 4;

/// Weight of [`Variant::RandomPayload`].
const RANDOM: f32 = 0.15;
/// Weight of [`Variant::HandshakeOtherPorts`], ten times that of [`Variant::Handshake`]: most connections without payload that a sensor sees
/// are attempts to find out whether a port is open.
const KNOCKS: f32 = 3.0;

/// One packet: its slot values, and its direction.
type Packet = (Vec<u16>, u8);

impl Variant {
    /// All variants of streams of this kind, the captured one first.
    pub fn all(corpus: &Corpus) -> &'static [Self] {
        if corpus.by_content() { &FLOW } else { &FLOW[..1] }
    }

    /// Number of streams that one calibration stream counts for. Streams on uninformative or misleading ports count as much as those on
    /// usual ports: the contribution of the ports is a feature of confidence, which separates them.
    pub fn weight(self) -> f32 {
        match self {
            Self::AsIs | Self::OddPort | Self::OtherPorts => 1.0,
            Self::HandshakeOtherPorts => KNOCKS,
            Self::Handshake | Self::Middle => 0.3,
            Self::RandomPayload => RANDOM,
        }
    }

    /// Whether the stream still shows its class.
    pub fn shows_class(self) -> bool {
        self != Self::RandomPayload
    }

    /// The slot values of the first `most` packets of a stream in this variant; `None` if the stream has no such variant.
    pub fn packets(self, corpus: &Corpus, stream: usize, most: usize, pool: &PortPool, seed: u64) -> Option<Vec<Vec<u16>>> {
        let s = &corpus.streams[stream];
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((stream as u64) << 3 | self as u64);
        let volleys = s.first..s.first + s.kept.min(most);
        let mut packets: Vec<Packet> = volleys.map(|v| (corpus.volley(v).to_vec(), corpus.part(v))).collect();
        if matches!(self, Self::Handshake | Self::HandshakeOtherPorts) {
            let all = packets.len();
            packets.retain(|(values, _)| !corpus.layout.is_content(values));
            if packets.len() == all {
                return None;
            }
        }
        match self {
            Self::AsIs | Self::Handshake => {}
            Self::OddPort | Self::OtherPorts | Self::HandshakeOtherPorts => {
                let (transport, values, direction) =
                    packets.iter().find_map(|(values, direction)| Some((pool.transport_of(values)?, values, *direction)))?;
                let ports = match self {
                    Self::OddPort => pool.odd(transport, values, direction, &mut random),
                    _ => pool.other(transport, s.class, &mut random)?,
                };
                for (values, direction) in packets.iter_mut().filter(|(values, _)| pool.transport_of(values) == Some(transport)) {
                    pool.set(transport, ports, *direction, values);
                }
            }
            Self::RandomPayload => {
                let mut any = false;
                for (values, _) in packets.iter_mut().filter(|(values, _)| pool.transport_of(values).is_some()) {
                    any |= randomise_payload(&corpus.layout, values, &mut random);
                }
                if !any {
                    return None;
                }
            }
            Self::Middle => {
                let skipped = 1 + below(packets.len().saturating_sub(1).clamp(1, MOST_SKIPPED), &mut random);
                packets.drain(..skipped.min(packets.len()));
                reposition(corpus, &mut packets);
            }
        }
        (!packets.is_empty()).then(|| packets.into_iter().map(|(values, _)| values).collect())
    }
}

/// Streams of a corpus on other ports, for evaluation: the same variants that calibration uses.
pub struct PortVariants {
    pool: PortPool,
    seed: u64,
}

impl PortVariants {
    /// Variants with the ports of the corpus's own streams; `seed` chooses among them.
    pub fn new(corpus: &Corpus, seed: u64) -> Self {
        let packets: Vec<_> = (0..corpus.streams.len()).flat_map(|i| corpus.packets_of(i)).collect();
        Self { pool: PortPool::new(corpus, &packets), seed }
    }

    /// The slot values of a stream's packets with a random unprivileged port in place of the server's; `None` for a stream without ports.
    pub fn odd(&self, corpus: &Corpus, stream: usize) -> Option<Vec<Vec<u16>>> {
        Variant::OddPort.packets(corpus, stream, usize::MAX, &self.pool, self.seed)
    }

    /// The slot values of a stream's packets with the ports of a stream of another class; `None` for a stream without ports, or if no other
    /// class of the corpus uses its transport.
    pub fn other(&self, corpus: &Corpus, stream: usize) -> Option<Vec<Vec<u16>>> {
        Variant::OtherPorts.packets(corpus, stream, usize::MAX, &self.pool, self.seed)
    }
}

/// Sets the context slots to those of a stream that begins with the first of the packets.
fn reposition(corpus: &Corpus, packets: &mut [Packet]) {
    let slot = |name: &str| corpus.layout.slots().iter().position(|s| s.name == name);
    let (position, direction, previous) = (slot("stream.position"), slot("stream.direction"), slot("stream.previous"));
    let reversed = packets.first().is_some_and(|(_, direction)| *direction == 1);
    for (number, (values, _)) in packets.iter_mut().enumerate() {
        if let Some(at) = position {
            values[at] = number.min(15) as u16;
        }
        if let Some(at) = direction.filter(|_| reversed) {
            values[at] = 1 - values[at];
        }
        match previous {
            Some(at) if number == 0 => values[at] = u16::from(NO_PREVIOUS),
            // The direction of the packet before is in the top bit.
            Some(at) if reversed => values[at] ^= 0x80,
            _ => {}
        }
    }
}
