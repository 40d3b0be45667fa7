//! Packet rates of a flow: a leaky count of its packets in each direction, brought up to date only when the flow receives trace values.

use crate::capture::Nanos;

use super::host::{TAUS, level};

/// Time constants of a flow's counts: the first of [`TAUS`], 1 and 10 s.
pub(super) const RATE_TAUS: usize = 2;

/// Coded packet rates, `[direction][tau]`; direction 0 is that of the flow's first packet.
pub(super) type Levels = [[u8; RATE_TAUS]; 2];

/// Leaky counts of a flow's packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketRates {
    /// Time of the last update.
    updated: Nanos,
    /// Packets by direction since then.
    pending: [u32; 2],
    counts: [[f32; RATE_TAUS]; 2],
}

impl PacketRates {
    /// Rates of a flow that begins at `now`.
    pub fn new(now: Nanos) -> Self {
        Self { updated: now, pending: [0; 2], counts: [[0.0; RATE_TAUS]; 2] }
    }

    /// Counts a packet.
    pub fn add(&mut self, direction: usize) {
        self.pending[direction] = self.pending[direction].saturating_add(1);
    }

    /// Packets since the last update.
    pub fn pending(&self) -> u32 {
        self.pending[0].saturating_add(self.pending[1])
    }

    /// Time since the last update, nanoseconds.
    pub fn age(&self, now: Nanos) -> u64 {
        now.0.saturating_sub(self.updated.0)
    }

    /// Brings the counts up to date at a packet of `direction` that was counted already. Returns the number of packets since the last update,
    /// and the weights at `now` of those of direction 0, `[tau]`.
    ///
    /// The packets in between are taken as evenly spread, so that each weighs the mean of `exp(-t / tau)` over the time since the last
    /// update: one exponential per update instead of one per packet.
    pub fn update(&mut self, direction: usize, now: Nanos) -> (u32, [f32; TAUS.len()]) {
        let packets = self.pending();
        let passed = self.age(now) as f64 / 1e9;
        let mut before = self.pending;
        before[direction] = before[direction].saturating_sub(1);
        let mut weights = [[0f32; TAUS.len()]; 2];
        weights[direction] = [1.0; TAUS.len()];
        // At the time constants that the flow has no counts of, only packets before this one need an exponential.
        let taus = if before == [0; 2] { RATE_TAUS } else { TAUS.len() };
        for (tau, &seconds) in TAUS[..taus].iter().enumerate() {
            let steps = passed / f64::from(seconds);
            let left = (-steps).exp();
            let mean = if steps > 1e-6 { (1.0 - left) / steps } else { 1.0 };
            for ((weights, counts), &before) in weights.iter_mut().zip(&mut self.counts).zip(&before) {
                weights[tau] += (f64::from(before) * mean) as f32;
                if let Some(count) = counts.get_mut(tau) {
                    *count = *count * left as f32 + weights[tau];
                }
            }
        }
        (self.updated, self.pending) = (self.updated.max(now), [0; 2]);
        (packets, weights[0])
    }

    /// The counts, coded.
    pub fn levels(&self) -> Levels {
        self.counts.map(|counts| counts.map(level))
    }
}
