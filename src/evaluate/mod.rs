//! Evaluation of models: outcomes of labelled streams, and figures computed from them.
//!
//! Input: a model or training settings, and a [`crate::train::Corpus`]. Output: [`StreamOutcome`]s and a [`Report`].

mod contribution;
mod episode_trace;
mod harm;
mod hyperactive;
mod interval;
mod learning;
mod metrics;
mod on_ports;
mod reference;
mod reliance;
mod trace;
mod validate;

pub use contribution::{Contribution, contributions};
pub use episode_trace::{EpisodeTrace, NeuronTrace, SpikeGroup, TracedEpisode, join_groups, trace_episodes};
pub use harm::{Before, Harm, MAX_CLAIMED, MAX_SILENCED, harm_on_reference, names_of};
pub use hyperactive::{Claims, HyperactiveNeuron, hyperactive};
pub use interval::{Interval, ResamplingUnit, macro_f1_interval, wilson};
pub use learning::{LearningPoint, learning_curve, learning_passes};
pub use metrics::{Bin, ClassReport, NamedBy, PortClassReport, PortReport, Report, StreamOutcome};
pub use on_ports::{EvaluatedNetwork, Evaluation, PortView};
pub use reference::reference;
pub use reliance::{Reliance, reliance};
pub use trace::{StreamTrace, TracePacket, trace_streams};
pub use validate::{Split, cross_validate, cross_validate_on_ports, held_out, outcomes, silent_classes};
