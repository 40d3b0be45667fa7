//! What a classification rests on, and why a stream has none.

use super::{Decision, Leader};

/// What carries a stream's classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Packets that show what the stream carries.
    Content,
    /// Headers of packets without payload.
    Headers,
    /// The ports: without them the neuron would not have reached its threshold.
    Ports,
}

impl Basis {
    /// The name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Headers => "headers",
            Self::Ports => "ports",
        }
    }
}

/// Why a stream has no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownReason {
    /// Its packets carried no payload.
    NoPayload,
    /// It resembles a class, but not enough to be named.
    Unsure,
    /// It resembles no class: no neuron's potential was above its threshold on average.
    UnlikeAny,
}

impl UnknownReason {
    /// All reasons, in the order in which a table shows them.
    pub const ALL: [Self; 3] = [Self::NoPayload, Self::Unsure, Self::UnlikeAny];

    /// The name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPayload => "no_payload",
            Self::Unsure => "unsure",
            Self::UnlikeAny => "unlike_any",
        }
    }
}

impl Decision {
    /// What the classification as the leader's class rests on; `None` for models that do not tell content from handshakes.
    pub fn basis(&self, leader: &Leader) -> Option<Basis> {
        if !self.content_first {
            return None;
        }
        Some(match leader.content() {
            _ if leader.by_ports() => Basis::Ports,
            true => Basis::Content,
            false => Basis::Headers,
        })
    }

    /// Why a stream with this leader, or none, has no class.
    pub fn unknown_reason(&self, leader: Option<&Leader>) -> UnknownReason {
        match leader {
            Some(leader) if !leader.content() => UnknownReason::NoPayload,
            Some(leader) if leader.evidence > 0.0 => UnknownReason::Unsure,
            _ => UnknownReason::UnlikeAny,
        }
    }
}
