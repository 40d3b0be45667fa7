//! How good is it? Outcomes of labelled streams, and what follows from them.

mod contribution;
mod hyperactive;
mod interval;
mod learning;
mod metrics;
mod reliance;
mod trace;
mod validate;

pub use contribution::{Contribution, contributions};
pub use hyperactive::{Claims, HyperactiveNeuron, hyperactive};
pub use interval::{Interval, Resampled, macro_f1_interval, wilson};
pub use learning::{LearningPoint, learning_curve, learning_passes};
pub use metrics::{Bin, ClassReport, Outcome, Report};
pub use reliance::{Reliance, reliance};
pub use trace::{StreamTrace, TracePacket, trace_streams};
pub use validate::{Split, cross_validate, held_out, outcomes};
