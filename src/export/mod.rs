//! Output for programs and people: events as JSON, summary tables, evidence captures, metrics, status and the page.

mod event;
pub mod evidence;
mod families;
pub(crate) mod family;
pub mod http;
mod instruments;
mod json;
mod metrics;
mod overview;
pub mod pcapng;
mod recent;
pub mod sink;
pub mod status;
mod table;
mod unknown;

pub use event::{CSV_HEADER, EventContext, EventFormat, EventWriter, event};
pub use families::StatusProvider;
pub use metrics::Metrics;
pub use table::{Summary, SummaryTotals, describe_episode, grouped};
pub use unknown::{UnknownList, ends, unknown_server};
