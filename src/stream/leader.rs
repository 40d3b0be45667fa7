//! The leading class of a stream, and the features from which its confidence is computed.

use super::approximate::ln;
use crate::snn::ClassId;

/// Flag of a [`Leader`]: the evidence comes from packets with content.
const CONTENT: u32 = 1;
/// Flag of a [`Leader`]: without the ports the neuron would not have reached its threshold.
const BY_PORTS: u32 = 2;

/// Flag of a [`Leader`]: a packet had payload bytes.
const PAYLOAD: u32 = 4;
/// Bits of the flags.
const FLAG_BITS: u32 = 3;
/// Largest number of packets that a [`Leader`] holds.
const MOST_PACKETS: u32 = u32::MAX >> FLAG_BITS;

/// Number of [`Leader::features`].
pub const FEATURES: usize = 21;

/// Features of streams with content and of those without, each; the others are of streams with payload bytes alone.
const SHARED_FEATURES: usize = 9;

/// Features of streams with payload bytes alone.
const PAYLOAD_FEATURES: usize = FEATURES - 2 * SHARED_FEATURES;

/// Number of features of one stream: the shared ones and those of payload.
const TERMS: usize = SHARED_FEATURES + PAYLOAD_FEATURES;
const _: () = assert!(TERMS == 12, "they are added in four lanes of three");

/// The features that are constant: of streams with content, and of streams without.
pub const CONSTANT_FEATURES: [usize; 2] = [0, SHARED_FEATURES];

/// The class with the largest evidence in a stream so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leader {
    /// The class.
    pub class: ClassId,
    /// Evidence of the class: the sum of its margins over the stream's packets, in units of the threshold theta.
    pub evidence: f32,
    /// Difference between this evidence and the second largest.
    pub lead: f32,
    /// Packets that the evidence comes from, and below them the flags: in one word because there may be millions of streams.
    packets_and_flags: u32,
    /// Contribution of the last packet's ports to the potential of the class's first neuron.
    ports: Contribution,
    /// Contribution of the payload bytes, the largest of the stream's packets since the class leads.
    payload: Contribution,
}

/// A contribution to a potential, -2 to 2 (values outside saturate), in steps of 1/64 so that it fits in one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Contribution(i8);

impl Contribution {
    const STEPS: f32 = 64.0;

    fn new(value: f32) -> Self {
        // `f32::round`, without its call: the largest number below one half is added, and the conversion cuts the rest.
        let steps = value * Self::STEPS;
        Self((steps + 0.5f32.next_down().copysign(steps)) as i8)
    }

    fn get(self) -> f32 {
        f32::from(self.0) / Self::STEPS
    }
}

impl Leader {
    /// The leader of a stream without packets.
    pub const NONE: Self = Self {
        class: ClassId::new(0),
        evidence: 0.0,
        lead: 0.0,
        packets_and_flags: 0,
        ports: Contribution(0),
        payload: Contribution(0),
    };

    /// A leader whose evidence comes from content, and to which neither ports nor payload contribute.
    pub fn new(class: ClassId, evidence: f32, lead: f32, packets: u32) -> Self {
        let packets_and_flags = packets.min(MOST_PACKETS) << FLAG_BITS | CONTENT;
        Self { class, evidence, lead, packets_and_flags, ..Self::NONE }
    }

    /// A leader that is ahead of another class with the evidence `second`, which is -infinity if there is none.
    #[inline(always)]
    pub(super) fn ahead_of(second: f32, class: ClassId, evidence: f32, packets: u32) -> Self {
        let lead = if second.is_finite() { evidence - second } else { evidence.max(0.0) };
        Self::new(class, evidence, lead, packets)
    }

    /// Packets that the evidence comes from.
    pub fn packets(&self) -> u32 {
        self.packets_and_flags >> FLAG_BITS
    }

    fn with_flag(self, flag: u32, set: bool) -> Self {
        let others = self.packets_and_flags & !flag;
        Self { packets_and_flags: if set { others | flag } else { others }, ..self }
    }

    /// Whether the evidence comes from packets with content ([`Decision::content_first`](super::Decision::content_first)).
    pub fn content(&self) -> bool {
        self.packets_and_flags & CONTENT != 0
    }

    /// Whether the class's first neuron would not have reached its threshold at the last packet without the packet's ports.
    pub fn by_ports(&self) -> bool {
        self.packets_and_flags & BY_PORTS != 0
    }

    /// The same leader, with evidence from packets with content or from packets without.
    #[must_use]
    pub fn with_content(self, content: bool) -> Self {
        self.with_flag(CONTENT, content)
    }

    /// The same leader with what the ports of the last packet contribute, in units of the threshold theta.
    #[must_use]
    pub(super) fn with_ports(self, contribution: f32, by_ports: bool) -> Self {
        Self { ports: Contribution::new(contribution), ..self.with_flag(BY_PORTS, by_ports) }
    }

    /// The same leader with what the payload bytes of the last packet contribute, in units of the threshold theta; `None` for a packet without
    /// payload bytes. `before` is the leader before that packet.
    #[must_use]
    pub(super) fn with_payload(self, before: Option<&Self>, contribution: Option<f32>) -> Self {
        let before = before.filter(|before| before.class == self.class && before.has_payload()).map(|before| before.payload);
        let now = contribution.map(Contribution::new);
        let Some(payload) = before.into_iter().chain(now).max_by_key(|c| c.0) else { return self };
        Self { payload, ..self.with_flag(PAYLOAD, true) }
    }

    /// Whether a packet had payload bytes since the class leads.
    pub fn has_payload(&self) -> bool {
        self.packets_and_flags & PAYLOAD != 0
    }

    /// The features of the confidence: constant, lead, mean evidence, packets, evidence, contributions of ports and payload. Streams with
    /// and without content have weights of their own, so the features of the others are zero.
    pub fn features(&self) -> [f32; FEATURES] {
        let mut all = [0.0; FEATURES];
        all[self.first_shared()..][..SHARED_FEATURES].copy_from_slice(&self.shared_features());
        all[2 * SHARED_FEATURES..].copy_from_slice(&self.payload_features());
        all
    }

    /// The sum of the [features](Leader::features), each multiplied by its weight. Missing weights are zero.
    pub(super) fn weighted_features(&self, weights: &[f32]) -> f32 {
        if let Some(all) = weights.first_chunk() {
            return self.weighted_by_all(all);
        }
        let mut all = [0.0; FEATURES];
        all[..weights.len()].copy_from_slice(weights);
        self.weighted_by_all(&all)
    }

    #[inline]
    fn weighted_by_all(&self, weights: &[f32; FEATURES]) -> f32 {
        let (shared, payload) = (self.shared_features(), self.payload_features());
        let mut terms = [0.0; TERMS];
        for i in 0..SHARED_FEATURES {
            terms[i] = weights[self.first_shared() + i] * shared[i];
        }
        for i in 0..PAYLOAD_FEATURES {
            terms[SHARED_FEATURES + i] = weights[2 * SHARED_FEATURES + i] * payload[i];
        }
        // One after the other, each addition would wait for the one before.
        let lane = |i: usize| terms[i] + terms[i + 4] + terms[i + 8];
        (lane(0) + lane(1)) + (lane(2) + lane(3))
    }

    /// Number of the first of the features that a stream with or without content has.
    fn first_shared(&self) -> usize {
        if self.content() { 0 } else { SHARED_FEATURES }
    }

    /// The features that streams with and without content have.
    #[inline(always)]
    fn shared_features(&self) -> [f32; SHARED_FEATURES] {
        let n = self.packets().max(1) as f32;
        let (lead, share, ports) = (self.lead.max(0.0), 1.0 / n, self.ports.get());
        let mean = self.evidence * share;
        [
            1.0,
            ln(1.0 + lead),
            lead * share,
            mean,
            mean.min(0.0),
            ln(n),
            ln(1.0 + self.evidence.max(0.0)),
            ports.max(0.0),
            ports.min(0.0),
        ]
    }

    /// The features of a stream with payload bytes; zero for others.
    fn payload_features(&self) -> [f32; PAYLOAD_FEATURES] {
        let payload = self.payload.get();
        if self.content() && self.has_payload() { [1.0, payload.max(0.0), payload.min(0.0)] } else { [0.0; PAYLOAD_FEATURES] }
    }
}

#[cfg(test)]
mod tests {
    use super::{Contribution, FEATURES, Leader};
    use crate::snn::ClassId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_contribution_is_the_nearest_step(value in -3f32..3.0) {
            prop_assert_eq!(Contribution::new(value).0, (value * Contribution::STEPS).round() as i8);
        }

        #[test]
        fn weighted_features_are_the_product_of_weights_and_features(
            weights in prop::collection::vec(-4f32..4.0, 0..=FEATURES),
            (evidence, lead, packets, ports, payload) in (-9f32..9.0, 0f32..9.0, 1u32..40, -2f32..2.0, prop::option::of(-2f32..2.0)),
            content: bool,
        ) {
            let leader = Leader::new(ClassId::new(0), evidence, lead, packets).with_ports(ports, false).with_payload(None, payload);
            let leader = leader.with_content(content);
            let products = weights.iter().zip(leader.features()).map(|(w, x)| f64::from(*w) * f64::from(x));
            let product = leader.weighted_features(&weights);
            prop_assert!((f64::from(product) - products.sum::<f64>()).abs() < 1e-4);
        }
    }
}
