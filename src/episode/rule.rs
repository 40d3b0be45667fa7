//! Rules of episodes: which hosts a class's flows excite, and when their neurons fire.

use serde::{Deserialize, Serialize};

use crate::capture::Nanos;
use crate::snn::ClassId;

/// Confidence in a class from which a flow excites the neurons of its episodes. It is lower than what a flow needs to be named: one such
/// flow may be a mistake, and many are none.
pub const MIN_CONFIDENCE: f32 = 0.5;

/// Whom an episode is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The host that begins the flows, such as a scanner.
    Source,
    /// The host that the flows are sent to, such as the victim of a flood.
    Target,
}

/// Sources from which the neuron of a target fires if the class has a rule for sources too: with fewer, those of the sources do.
const MANY_SOURCES: usize = 3;

impl Role {
    /// The smallest number of sources for which a neuron of this role fires. `both`: the class has rules for both roles.
    pub fn least_sources(self, both: bool) -> usize {
        if both && self == Self::Target { MANY_SOURCES } else { 1 }
    }

    /// Of two values, one of the source and one of the target of a flow, that of the host in this role.
    pub fn of<T>(self, source: T, target: T) -> T {
        match self {
            Role::Source => source,
            Role::Target => target,
        }
    }

    /// The word for the role in events.
    pub fn name(self) -> &'static str {
        match self {
            Role::Source => "source",
            Role::Target => "target",
        }
    }
}

/// The leaky neuron of one class and role, the same for every host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeRule {
    /// The class.
    pub class: ClassId,
    /// The host that a flow of the class excites.
    pub role: Role,
    /// Time constant of the potential, seconds. An episode without a flow for so long has ended.
    pub tau: f32,
    /// Potential from which the neuron fires; a flow adds its confidence, 0 to 1.
    pub threshold: f32,
}

impl EpisodeRule {
    /// The factor by which a potential decays between two times; 1 if the clock was set back.
    pub fn decay(&self, from: Nanos, to: Nanos) -> f32 {
        (-(to.0.saturating_sub(from.0) as f32 / 1e9) / self.tau).exp()
    }

    /// Whether the numbers are such that the neuron can work.
    pub fn is_valid(&self, classes: usize) -> bool {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        self.class.index() < classes && positive(self.tau) && positive(self.threshold)
    }
}
