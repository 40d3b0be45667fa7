//! Who is told? Verdicts as events for programs (JSON lines) and as tables for people; Prometheus and browsers how all is.

mod event;
pub mod evidence;
mod families;
pub mod http;
mod json;
mod metrics;
mod overview;
pub mod pcapng;
mod recent;
pub mod sink;
pub mod status;
mod table;

pub use event::{EventContext, EventWriter, event};
pub use families::StatusProvider;
pub use metrics::Metrics;
pub use table::Summary;
