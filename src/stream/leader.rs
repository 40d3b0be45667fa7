//! The leading class of a stream, and the features from which its confidence is computed.

use crate::snn::ClassId;

/// Flag of a [`Leader`]: the evidence comes from packets with content.
const CONTENT: u8 = 1;
/// Flag of a [`Leader`]: without the ports the neuron would not have reached its threshold.
const BY_PORTS: u8 = 2;

/// Number of [`Leader::features`].
pub const FEATURES: usize = 18;

/// The class with the largest evidence in a stream so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leader {
    /// The class.
    pub class: ClassId,
    /// Evidence of the class: the sum of its margins over the stream's packets, in units of the threshold theta.
    pub evidence: f32,
    /// Difference between this evidence and the second largest.
    pub lead: f32,
    /// Packets that the evidence comes from.
    pub packets: u32,
    /// [`CONTENT`] and [`BY_PORTS`], in one byte because there may be millions of streams.
    flags: u8,
    /// Contribution of the last packet's ports to the potential of the class's first neuron.
    ports: PortContribution,
}

/// A contribution to a potential, -2 to 2 (values outside saturate), in steps of 1/64 so that it fits in one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PortContribution(i8);

impl PortContribution {
    const STEPS: f32 = 64.0;

    fn new(value: f32) -> Self {
        Self((value * Self::STEPS).round() as i8)
    }

    fn get(self) -> f32 {
        f32::from(self.0) / Self::STEPS
    }
}

impl Leader {
    /// The leader of a stream without packets.
    pub const NONE: Self =
        Self { class: ClassId::new(0), evidence: 0.0, lead: 0.0, packets: 0, flags: 0, ports: PortContribution(0) };

    /// A leader whose evidence comes from content, and to which the ports contribute nothing.
    pub fn new(class: ClassId, evidence: f32, lead: f32, packets: u32) -> Self {
        Self { class, evidence, lead, packets, flags: CONTENT, ..Self::NONE }
    }

    /// Whether the evidence comes from packets with content ([`Decision::content_first`](super::Decision::content_first)).
    pub fn content(&self) -> bool {
        self.flags & CONTENT != 0
    }

    /// Whether the class's first neuron would not have reached its threshold at the last packet without the packet's ports.
    pub fn by_ports(&self) -> bool {
        self.flags & BY_PORTS != 0
    }

    /// The same leader, with evidence from packets with content or from packets without.
    #[must_use]
    pub fn with_content(self, content: bool) -> Self {
        Self { flags: if content { self.flags | CONTENT } else { self.flags & !CONTENT }, ..self }
    }

    /// The same leader with what the ports of the last packet contribute, in units of the threshold theta.
    #[must_use]
    pub(super) fn with_ports(self, contribution: f32, by_ports: bool) -> Self {
        let flags = if by_ports { self.flags | BY_PORTS } else { self.flags & !BY_PORTS };
        Self { ports: PortContribution::new(contribution), flags, ..self }
    }

    /// The features of the confidence: constant, lead, mean evidence, packets, evidence and contribution of the ports. Streams with and
    /// without content have weights of their own, so one half of the features is zero.
    pub fn features(&self) -> [f32; FEATURES] {
        let n = self.packets.max(1) as f32;
        let (lead, mean, ports) = (self.lead.max(0.0), self.evidence / n, self.ports.get());
        let features: [f32; FEATURES / 2] = [
            1.0,
            lead.ln_1p(),
            lead / n,
            mean,
            mean.min(0.0),
            n.ln(),
            self.evidence.max(0.0).ln_1p(),
            ports.max(0.0),
            ports.min(0.0),
        ];
        let mut all = [0.0; FEATURES];
        let (content, handshake) = all.split_at_mut(FEATURES / 2);
        if self.content() { content } else { handshake }.copy_from_slice(&features);
        all
    }
}
