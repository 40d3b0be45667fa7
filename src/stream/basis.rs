//! Basis of a classification, and the reason why a stream has no class.

use super::{Decision, Leader};

/// What a classification is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Bytes of payload.
    Content,
    /// Headers alone: no packet of the stream had payload bytes, as of ARP or OSPF, or they were not captured.
    Headers,
    /// The ports: without them the neuron would not have reached its threshold.
    Ports,
    /// An episode of the class that the stream is part of: alone it would have no class.
    Episode,
}

impl Basis {
    /// All bases: those of a stream alone, from the strongest to the weakest, and that of its episode.
    pub const ALL: [Self; 4] = [Self::Content, Self::Headers, Self::Ports, Self::Episode];

    /// The name in events and in the settings of policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Headers => "headers",
            Self::Ports => "ports",
            Self::Episode => "episode",
        }
    }
}

/// Why a stream has no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownReason {
    /// Its packets carried no payload.
    NoPayload,
    /// It resembles a class, but the confidence is too low.
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
    /// Basis of the classification as the leader's class; `None` for models that do not distinguish content from handshakes.
    pub fn basis(&self, leader: &Leader) -> Option<Basis> {
        if !self.content_first {
            return None;
        }
        Some(match leader.has_payload() {
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
