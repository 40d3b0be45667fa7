//! Sources of frames: capture files (plain or compressed), objects of S3 buckets, standard input, live interfaces, replays and watched folders.
//!
//! Output: [`FrameBatch`]es. Every source implements [`Source`], so that files and live interfaces look the same to what follows.

mod batch;
mod capture_index;
mod counters;
mod decompress;
mod duplicates;
mod error;
mod file;
mod filter;
mod format;
mod interface_names;
mod link_type;
pub mod live;
mod paths;
mod pipe;
pub mod replay;
pub mod s3;
mod source;
mod time_range;
pub mod watch;

pub use batch::{Frame, FrameBatch, InterfaceId, Nanos};
pub use capture_index::CaptureIndex;
pub use counters::InputCounters;
pub(crate) use decompress::decompress;
pub use duplicates::Duplicates;
pub use error::CaptureError;
pub use file::{CaptureFile, Truncation};
pub use filter::{Filter, Filtered};
pub use interface_names::InterfaceNames;
pub use link_type::LinkType;
pub use paths::{ExpandedPaths, expand, printable};
pub use source::Source;
pub use time_range::{InTimeRange, TimeRange};
