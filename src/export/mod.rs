//! Who is told? Verdicts as events for programs (JSON lines) and as tables for people.

mod event;
mod table;

pub use event::{Context, event};
pub use table::Summary;
