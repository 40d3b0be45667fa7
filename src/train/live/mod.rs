//! How does a model go on learning from traffic? A teacher says which streams are of its class; their volleys, and those of streams
//! that the model gives other names, are remembered as a sample, and neurons are trained on it anew, beside the hot path.
//!
//! Input: sampled streams ([`Learner::hear`]). Output: one neuron for each taught class ([`Learner::learn`]), made exactly as
//! `spiked train` makes it: several passes, annealed, averaged, groups of slots dropped out. Neurons are independent, so no other
//! changes. Every fourth stream is held back: a neuron is taken over only where the model, with it, does no worse on those.

mod gate;
mod learned;
mod learner;
mod replay_buffer;
mod reservoir;

pub use gate::{Accuracy, named};
pub use learned::{LearnedError, LearnedNeurons};
pub use learner::{Attempt, Learner, LearnerSettings, LearningTask, Outcome, SampleOutcome};
pub use reservoir::{Reservoir, StreamSlots};
