//! Who is told? Verdicts as events for programs (JSON lines) and as tables for people; Prometheus and browsers how all is.

mod event;
mod json;
pub mod status;
mod table;

pub use event::{Context, EventWriter, event};
pub use table::Summary;
