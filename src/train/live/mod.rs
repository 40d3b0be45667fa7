//! Learning from live traffic: streams labelled by teachers, and streams that the model gives other classes, are sampled into a replay
//! buffer, and neurons are trained on it outside the hot path.
//!
//! Input: sampled streams ([`Learner::observe`]). Output: one neuron for each class to learn ([`Learner::learn`]), trained as `spiked train`
//! trains it: several passes, annealed, averaged, with slot dropout. Neurons are independent, so no other neuron changes. Every fourth
//! stream is held back: a neuron is taken over only if the model with it is no worse on those streams (gate).

mod gate;
mod learned;
mod learner;
mod recent_streams;
mod replay_buffer;
mod reservoir;

pub use gate::{Accuracy, named};
pub use learned::{LearnedError, LearnedNeurons};
pub use learner::{Attempt, AttemptOutcome, Learner, LearnerSettings, LearningTask, SampleOutcome};
pub use recent_streams::RecentStreams;
pub use reservoir::{Reservoir, StreamSlots};
