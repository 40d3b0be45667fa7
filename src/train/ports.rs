//! Substitute ports for a packet: those of another class's stream, or a random port.
//!
//! Training and calibration show streams with ports that are not their own, so that neurons rely on content and confidence holds on
//! any port. Ports of another class come from a packet of the same transport; the packet's direction decides which end is the server.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use crate::encode::{Group, SILENT, SlotId, is_ephemeral};
use crate::snn::ClassId;

use super::Corpus;
use super::random::below;

/// Slots of the ports of one transport: source and destination, each with its high and its low byte.
const SLOTS: usize = 4;

/// First and number of the ports that need no privileges, 1024 to 65535; common services use few of them.
const UNPRIVILEGED: (u32, usize) = (1024, 65_536 - 1024);

/// A packet's port slots: source high and low byte, destination high and low byte.
pub(super) type Ports = [u16; SLOTS];

/// The ports of a corpus's packets, by transport and class.
pub(super) struct PortPool {
    /// The four port slots of each transport.
    transports: Vec<[SlotId; SLOTS]>,
    /// For each transport the classes that use it, each with the ports of its packets in the direction of the stream's first sender.
    pools: Vec<Vec<(ClassId, Vec<Ports>)>>,
}

impl PortPool {
    /// Collects the ports of the given `(packet, class)` pairs.
    pub fn new(corpus: &Corpus, packets: &[(u32, ClassId)]) -> Self {
        let slots: Vec<SlotId> = corpus.layout.group(Group::Ports).collect();
        let (transports, _) = slots.as_chunks::<SLOTS>();
        let mut pool = Self { transports: transports.to_vec(), pools: vec![Vec::new(); transports.len()] };
        let mut by_class: Vec<BTreeMap<ClassId, Vec<Ports>>> = vec![Default::default(); pool.transports.len()];
        for &(packet, class) in packets {
            let values = corpus.volley(packet as usize);
            if let Some(transport) = pool.transport_of(values) {
                let ports = oriented(pool.ports(transport, values), corpus.part(packet as usize));
                by_class[transport].entry(class).or_default().push(ports);
            }
        }
        pool.pools = by_class.into_iter().map(|pool| pool.into_iter().collect()).collect();
        pool
    }

    /// Index of the transport whose port slots are set in a packet.
    pub fn transport_of(&self, values: &[u16]) -> Option<usize> {
        self.transports.iter().position(|t| t.iter().any(|&slot| values[slot.index()] != SILENT))
    }

    fn ports(&self, transport: usize, values: &[u16]) -> Ports {
        self.transports[transport].map(|slot| values[slot.index()])
    }

    /// Ports of a random packet of another class, in the direction of the stream's first sender; `None` if no other class uses the transport.
    pub fn other(&self, transport: usize, class: ClassId, random: &mut ChaCha8Rng) -> Option<Ports> {
        let pool = &self.pools[transport];
        let others = pool.len() - usize::from(pool.binary_search_by_key(&class, |(c, _)| *c).is_ok());
        if others == 0 {
            return None;
        }
        let at = below(others, random);
        let (_, ports) = pool.iter().filter(|(c, _)| *c != class).nth(at)?;
        Some(ports[below(ports.len(), random)])
    }

    /// The packet's own ports, in the direction of the stream's first sender, with a random unprivileged port in place of the server's.
    pub fn odd(&self, transport: usize, values: &[u16], direction: u8, random: &mut ChaCha8Rng) -> Ports {
        let mut ports = oriented(self.ports(transport, values), direction);
        let port = UNPRIVILEGED.0 + below(UNPRIVILEGED.1, random) as u32;
        let (high, low) = ((port >> 8) as u16, (port & 0xff) as u16);
        let server = if ports[2] <= ports[0] { 2 } else { 0 };
        ports[server] = high;
        ports[server + 1] = if is_ephemeral(high as u8) { SILENT } else { low };
        ports
    }

    /// Sets the ports of a packet that is sent in `direction`.
    pub fn set(&self, transport: usize, ports: Ports, direction: u8, values: &mut [u16]) {
        for (slot, value) in self.transports[transport].iter().zip(oriented(ports, direction)) {
            values[slot.index()] = value;
        }
    }
}

/// Converts the ports of a packet sent in `direction` to the direction of the stream's first sender, or back.
fn oriented(ports: Ports, direction: u8) -> Ports {
    let [a, b, c, d] = ports;
    if direction == 1 { [c, d, a, b] } else { ports }
}
