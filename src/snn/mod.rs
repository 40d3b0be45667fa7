//! What does the network say, and how does it learn?
//!
//! Input: the active inputs of a volley. Output: membrane potentials. Knows no packets, files, settings or metrics.

mod ids;
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "vector loads and stores go through pointers"))]
mod kernel;
mod machine;
mod network;
mod one_shot;
mod stdp;

pub use ids::{ClassId, NeuronId};
pub use machine::Machine;
pub use network::{Network, Potentials};
pub use one_shot::{OneShot, POTENTIATION, firing_weight};
pub use stdp::{NeuronSpec, Presentations, Shown, Stdp, train};
