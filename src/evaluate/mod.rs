//! How good is it? Outcomes of labelled streams, and what follows from them.

mod metrics;
mod validate;

pub use metrics::{ClassReport, Outcome, Report};
pub use validate::{cross_validate, held_out, outcomes};
