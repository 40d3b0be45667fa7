//! Spiking neural networks: how they score a volley, and the two rules by which they learn.
//!
//! Input: the active inputs of a volley. Output: membrane potentials. This folder uses no packets, files, settings or metrics.
//!
//! [`Network`] scores; [`train`] learns weights from many presentations by teacher-gated STDP; [`OneShot`] is a neuron that learns from one
//! presentation per pattern, as in Davies et al. 2025, and [`SpinnakerNeuron`] is the same in the arithmetic of their machine.

mod ids;
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "vector loads and stores go through pointers"))]
mod kernel;
mod network;
mod one_shot;
mod spinnaker;
mod stdp;

pub use ids::{ClassId, NeuronId};
pub use network::{EachRow, LANES, Network, NeuronGroups, Potentials, Synapse, largest_weights};
pub use one_shot::{OneShot, POTENTIATION, firing_weight};
pub use spinnaker::SpinnakerNeuron;
pub use stdp::{NeuronSpec, Presentation, Presentations, Stdp, train};
