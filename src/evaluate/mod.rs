//! How good is it? Outcomes of labelled streams, and what follows from them.

mod hearing;
mod interval;
mod metrics;
mod reliance;
mod validate;

pub use hearing::{Heard, HeardPacket, hear};
pub use interval::{Interval, Resampled, macro_f1_interval, wilson};
pub use metrics::{Bin, ClassReport, Outcome, Report, share};
pub use reliance::{Reliance, reliance};
pub use validate::{Split, cross_validate, held_out, outcomes};
