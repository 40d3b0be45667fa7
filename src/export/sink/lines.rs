//! Event lines, and their packing into writes of whole lines.
//!
//! A [`Line`] is one event without its line feed. [`chunk`] joins lines into one buffer for a write, and [`whole`] finds out how many
//! of them a partial write has delivered.

use std::sync::Arc;

use crate::capture::Nanos;

/// An event, formatted for output.
#[derive(Clone, Debug)]
pub struct Line {
    /// One JSON object, without a line feed.
    pub text: String,
    /// Time of the event, by the packets' clock.
    pub timestamp: Nanos,
    /// Severity for syslog and journald.
    pub severity: Severity,
    /// Event type: `detection`, `alert`, `stream` or `episode`.
    pub event: &'static str,
    /// Class of the stream; `None` if unknown.
    pub class: Option<Arc<str>>,
}

/// The severities of RFC 5424 (section 6.2.1) that events use, with their numerical codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Alerts of severity critical.
    Critical = 2,
    /// Alerts of severity high.
    Error = 3,
    /// Alerts of severity medium.
    Warning = 4,
    /// Alerts of severity low.
    Notice = 5,
    /// Events that are not alerts.
    Informational = 6,
}

impl Severity {
    /// Name of the severity in alerts and in the settings of policies.
    pub fn alert_name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Error => "high",
            Self::Warning => "medium",
            Self::Notice | Self::Informational => "low",
        }
    }
}

/// Fills `buffer` with the first lines that fit into `limit` bytes, each with its line feed, but always with at least one line.
/// Returns their number.
pub(super) fn chunk(lines: &[Arc<Line>], limit: usize, buffer: &mut Vec<u8>) -> usize {
    buffer.clear();
    let mut count = 0;
    for line in lines {
        if count > 0 && buffer.len() + line.text.len() + 1 > limit {
            break;
        }
        buffer.extend_from_slice(line.text.as_bytes());
        buffer.push(b'\n');
        count += 1;
    }
    count
}

/// Pads the last line in `buffer` with spaces, so that the buffer is `length` bytes long.
pub(super) fn pad_last_line(buffer: &mut Vec<u8>, length: usize) {
    buffer.pop();
    buffer.resize(length - 1, b' ');
    buffer.push(b'\n');
}

/// Returns the number of whole lines in `bytes`, and their total length in bytes.
pub(super) fn whole(bytes: &[u8]) -> (usize, usize) {
    let lines = bytes.iter().filter(|&&b| b == b'\n').count();
    (lines, bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1))
}
