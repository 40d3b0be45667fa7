//! Episodes: one attack or other behaviour of a host, found in the many flows of which it consists.
//!
//! Input: flows whose leading class has episodes, in the order of the packets ([`NamedFlow`]). Output: [`Episode`]s when they begin, at most
//! once a minute while they last, and when they end.
//!
//! The second layer of the network: for each host and class a leaky integrate-and-fire neuron for each role that the host can have, source or
//! target of the flows ([`Role`]). Every flow whose leading class it is adds a spike of
//! the weight of its confidence to the potential, which a further one replaces as the confidence changes with the flow's first packets, and another
//! whenever it is scored again because its packets go on. The potential decays with
//! the time constant of the class, `v <- v exp(-dt / tau) + w`. The
//! episode begins when the potential reaches the threshold, lasts while flows follow each other within the time constant, and ends
//! after it. Training sets threshold and time constant of each class and role ([`EpisodeRule`]). A class has rules for both roles where
//! some of its attacks come from a few hosts and others from forged or very many addresses.

mod layer;
mod rule;

pub use layer::{Episode, EpisodeLayer, EpisodeState, InputSpike, NamedFlow};
pub use rule::{EpisodeRule, MIN_CONFIDENCE, Role};
