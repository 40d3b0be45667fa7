//! What does the network say, and how does it learn?
//!
//! Input: the active inputs of a volley. Output: membrane potentials. Knows no packets, files, settings or metrics.

mod ids;
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "vector loads and stores go through pointers"))]
mod kernel;
mod network;
mod one_shot;
mod spinnaker;
mod stdp;

pub use ids::{ClassId, NeuronId};
pub use network::{Network, Potentials};
pub use one_shot::{OneShot, POTENTIATION, firing_weight};
pub use spinnaker::SpinnakerNeuron;
pub use stdp::{NeuronSpec, Presentation, Presentations, Stdp, train};
