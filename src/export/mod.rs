//! Who is told? Verdicts as events for programs (JSON lines) and as tables for people; Prometheus and browsers how all is.

mod event;
pub mod status;
mod table;

pub use event::{Context, event};
pub use table::Summary;
