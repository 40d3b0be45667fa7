//! Traces of what one host does with one service of another: leaky counts of its flows, of those that are open, and of the replies to it, and
//! how regular the flows are.

use crate::capture::Nanos;

use super::bounded::Activity;
use super::host::{Decay, TAUS, half_octaves, level};

/// Flows that follow another within this many seconds belong to it: 0.2 s.
const BURST: f32 = 0.2;
/// A gap is regular if it differs from the mean gap by at most this share of it.
const TOLERANCE: f32 = 0.15;
/// Share of the newest gap in the mean.
const NEWEST: f32 = 0.25;
/// Regular gaps that are counted at most.
const MOST_REGULAR: u8 = 15;

/// Coded traces.
pub(super) struct Levels {
    /// Flows, `[tau]`.
    pub flows: [u8; TAUS.len()],
    /// Regular gaps in a row.
    pub regular: u8,
    /// Mean gap, two levels per octave of seconds from 1/8 s.
    pub gap: u8,
    /// Replies, `[tau]`.
    pub replies: [u8; TAUS.len()],
    /// Flows that were not closed.
    pub open: u8,
}

/// Flows from one host to one service (address, protocol and port) of another.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    flows: [f32; TAUS.len()],
    /// Payload of the service that follows payload of the host: a request that was answered.
    replies: [f32; TAUS.len()],
    /// Flows that no segment with FIN or RST has closed, at the slowest time constant, so that those that just cease are forgotten.
    open: f32,
    decay: Decay,
    /// Begin of the last burst of flows.
    last: Nanos,
    /// Mean of the gaps between bursts, seconds; 0 before the first gap.
    gap: f32,
    regular: u8,
    /// Whether a flow has begun. Apart from `last`, where it would take eight bytes.
    used: bool,
}

impl Service {
    /// Counts the begin of a flow.
    pub fn begin(&mut self, now: Nanos) {
        self.decay(now);
        self.flows.iter_mut().for_each(|v| *v += 1.0);
        self.open += 1.0;
        if !std::mem::replace(&mut self.used, true) {
            self.last = now;
            return;
        }
        let gap = now.0.saturating_sub(self.last.0) as f32 / 1e9;
        if gap < BURST {
            return;
        }
        self.last = now;
        if self.gap == 0.0 {
            self.gap = gap;
            return;
        }
        let regular = (gap - self.gap).abs() <= TOLERANCE * self.gap;
        self.regular = if regular { (self.regular + 1).min(MOST_REGULAR) } else { self.regular / 2 };
        self.gap += NEWEST * (gap - self.gap);
    }

    fn decay(&mut self, now: Nanos) {
        if let Some(factors) = self.decay.factors(now) {
            self.flows.iter_mut().zip(factors).for_each(|(v, factor)| *v *= factor);
            self.replies.iter_mut().zip(factors).for_each(|(v, factor)| *v *= factor);
            self.open *= factors[TAUS.len() - 1];
        }
    }

    /// Counts the end of a flow.
    pub fn close(&mut self, now: Nanos) {
        self.decay(now);
        self.open = (self.open - 1.0).max(0.0);
    }

    /// Counts replies.
    pub fn reply(&mut self, now: Nanos, replies: u8) {
        if replies > 0 {
            self.decay(now);
            self.replies.iter_mut().for_each(|v| *v += f32::from(replies));
        }
    }

    /// The traces at `now`, coded.
    pub fn levels(&mut self, now: Nanos) -> Levels {
        self.decay(now);
        Levels {
            flows: self.flows.map(level),
            regular: self.regular,
            gap: half_octaves(self.gap * 8.0),
            replies: self.replies.map(level),
            open: level(self.open),
        }
    }
}

impl Activity for Service {
    fn activity(&self) -> (u32, Nanos) {
        (u32::from(self.regular) + self.flows[2] as u32 / 4, self.decay.last())
    }
}
