//! A range of packet times in front of any source.

use std::str::FromStr;

use jiff::Timestamp;

use super::{CaptureError, FrameBatch, Nanos, Source};

/// Packet times from `from` on and before `to`, as editcap's -A and -B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The first time in the range.
    pub from: Nanos,
    /// The first time after the range.
    pub to: Nanos,
}

/// Why a text is not a range of times.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeRangeError {
    /// There is no `..`.
    #[error("'{0}' has no '..' between its start and its end (START..END, START.. or ..END)")]
    NoRange(String),
    /// Neither RFC 3339 nor seconds.
    #[error("'{0}' is not a valid time (seconds since 1970, or 2026-01-31T12:00:00Z)")]
    Time(String),
    /// Nothing is in the range.
    #[error("'{0}' ends before it starts")]
    Empty(String),
}

impl FromStr for TimeRange {
    type Err = TimeRangeError;

    /// Reads `START..END`; either may be left out. A time is in RFC 3339, with its offset, or in seconds since 1970.
    fn from_str(text: &str) -> Result<Self, TimeRangeError> {
        let (from, to) = text.split_once("..").ok_or_else(|| TimeRangeError::NoRange(text.into()))?;
        let time = |text: &str, open| match text.trim() {
            "" => Ok(open),
            text => time(text).ok_or_else(|| TimeRangeError::Time(text.into())),
        };
        let range = Self { from: time(from, Nanos(0))?, to: time(to, Nanos(u64::MAX))? };
        if range.from >= range.to { Err(TimeRangeError::Empty(text.into())) } else { Ok(range) }
    }
}

fn time(text: &str) -> Option<Nanos> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return u64::try_from(time.as_nanosecond()).ok().map(Nanos);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos).map(Nanos)
}

/// A source behind an optional range of packet times. It is read to its end, since packets may be out of order.
pub struct InTimeRange<S> {
    source: S,
    range: Option<TimeRange>,
    outside: u64,
}

impl<S> InTimeRange<S> {
    /// Puts `range`, if there is one, in front of `source`.
    pub fn new(source: S, range: Option<TimeRange>) -> Self {
        Self { source, range, outside: 0 }
    }

    /// Number of frames outside the range.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// The source behind the range.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: Source> Source for InTimeRange<S> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        if let Some(TimeRange { from, to }) = self.range {
            self.outside += batch.retain(|frame| from <= frame.timestamp && frame.timestamp < to);
        }
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_time() {
        let range = |text: &str| text.parse::<TimeRange>();
        let noon = 1_769_860_800_000_000_000;
        for text in ["2026-01-31T12:00:00Z..", "2026-01-31T13:00:00+01:00..", "1769860800..", "1769860800.0..", " 1769860800 .. "]
        {
            assert_eq!(range(text), Ok(TimeRange { from: Nanos(noon), to: Nanos(u64::MAX) }), "{text}");
        }
        assert_eq!(range("..1769860800.000000001"), Ok(TimeRange { from: Nanos(0), to: Nanos(noon + 1) }));
        assert_eq!(range("1.5..2.25"), Ok(TimeRange { from: Nanos(1_500_000_000), to: Nanos(2_250_000_000) }));
    }

    #[test]
    fn mistakes() {
        let range = |text: &str| text.parse::<TimeRange>().unwrap_err();
        assert_eq!(range("5"), TimeRangeError::NoRange("5".into()));
        for text in ["noon", "-1", "1.0000000001", "2026-01-31T12:00:00", "99999999999999", "."] {
            assert_eq!(range(&format!("{text}..")), TimeRangeError::Time(text.into()));
        }
        assert_eq!(range("2..2"), TimeRangeError::Empty("2..2".into()));
    }
}
