//! Rows of label files of every format: which columns or JSON fields name a stream, its time and its class.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::capture::Nanos;

use super::StreamName;

/// What a row may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Capture,
    Host,
    Proto,
    SrcIp,
    SrcPort,
    DstIp,
    DstPort,
    Start,
    End,
    Duration,
    Label,
}

impl Field {
    /// All fields; a field's position is its discriminant.
    pub const ALL: [Self; 11] = [
        Self::Capture,
        Self::Host,
        Self::Proto,
        Self::SrcIp,
        Self::SrcPort,
        Self::DstIp,
        Self::DstPort,
        Self::Start,
        Self::End,
        Self::Duration,
        Self::Label,
    ];

    /// Names of the field, the first present one counts: spiked's label files first, then those of Suricata's EVE, Zeek's conn.log,
    /// nDPI's CSV and the Elastic Common Schema. A column without any of them is reported by the first name.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Capture => &["capture", "pcap_filename", "log.file.path"],
            Self::Host => &["host"],
            Self::Proto => &["proto", "protocol", "network.transport"],
            Self::SrcIp => &["src_ip", "id.orig_h", "source.ip"],
            Self::SrcPort => &["src_port", "id.orig_p", "source.port"],
            Self::DstIp => &["dst_ip", "dest_ip", "id.resp_h", "destination.ip"],
            Self::DstPort => &["dst_port", "dest_port", "id.resp_p", "destination.port"],
            Self::Start => &["start", "first_seen", "flow.start", "event.start"],
            Self::End => &["end", "last_seen", "flow.end", "event.end"],
            Self::Duration => &["duration"],
            Self::Label => &["label", "spiked.class", "ndpi_proto", "app_proto", "service"],
        }
    }
}

/// Time of the stream that a row names, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowSpan {
    pub from: Nanos,
    pub to: Nanos,
}

/// A row with a label.
#[derive(Debug)]
pub(super) struct LabelRow {
    /// The capture; `None` for logs, which do not say it: any capture.
    pub capture: Option<String>,
    pub name: StreamName,
    pub label: String,
    /// `None` for all time.
    pub span: Option<RowSpan>,
}

/// Builds the row of the fields that `cell` returns. Returns `None` for a row of a log without a label or an address. `strict`: the file
/// is a label file, in which every row has a label and a capture.
///
/// # Errors
/// What is wrong with the row.
pub(super) fn row<'a>(
    cell: impl Fn(Field) -> Option<Cow<'a, str>>,
    strict: bool,
    host: bool,
) -> Result<Option<LabelRow>, String> {
    let given = |field| cell(field).filter(|text| !is_unset(text));
    let (capture, label) = (given(Field::Capture), given(Field::Label));
    if strict && (label.is_none() || (cell(Field::Capture).is_some() && capture.is_none())) {
        return Err("the capture or the label is empty".into());
    }
    // The words of Suricata and nDPI for a protocol that they did not find.
    let Some(label) = label.filter(|label| strict || !matches!(&**label, "failed" | "Unknown")) else { return Ok(None) };
    let name = if host {
        StreamName::host(&cell(Field::Host).unwrap_or_default())
    } else {
        let port = |field| match given(field) {
            None => Ok(0),
            Some(text) => text.parse().map_err(|_| format!("'{text}' is not a valid port number (0 to 65535)")),
        };
        let (source, destination) = (cell(Field::SrcIp), cell(Field::DstIp));
        if !strict && (source.is_none() || destination.is_none()) {
            return Ok(None);
        }
        let (source, destination) = (source.unwrap_or_default(), destination.unwrap_or_default());
        let proto = cell(Field::Proto).unwrap_or_default();
        StreamName::flow(&proto, (&source, port(Field::SrcPort)?), (&destination, port(Field::DstPort)?))
    };
    let span = span(given(Field::Start), given(Field::End), given(Field::Duration))?;
    Ok(Some(LabelRow { capture: capture.map(Cow::into_owned), name, label: label.into_owned(), span }))
}

/// Whether a cell has no value: empty, or as Zeek writes it.
fn is_unset(text: &str) -> bool {
    matches!(text, "" | "-" | "(empty)")
}

fn span(
    start: Option<Cow<'_, str>>,
    end: Option<Cow<'_, str>>,
    duration: Option<Cow<'_, str>>,
) -> Result<Option<RowSpan>, String> {
    let from = start.map(|text| time(&text)).transpose()?;
    let to = match (end, from, duration) {
        (Some(end), ..) => Some(time(&end)?),
        // Zeek gives the duration; of a single packet it gives none.
        (None, Some(from), Some(duration)) => {
            Some(Nanos(from.0.saturating_add(seconds(&duration).ok_or_else(|| wrong(&duration))?)))
        }
        _ => None,
    };
    Ok((from.is_some() || to.is_some()).then(|| RowSpan { from: from.unwrap_or_default(), to: to.unwrap_or(Nanos(u64::MAX)) }))
}

fn wrong(text: &str) -> String {
    format!("'{text}' is not a valid time (seconds since 1970, or 2026-01-31T12:00:00Z)")
}

/// A time: seconds since 1970, or ISO 8601, in UTC if without an offset.
fn time(text: &str) -> Result<Nanos, String> {
    let iso = || {
        let with_offset = text.parse::<Timestamp>().ok();
        let time =
            with_offset.or_else(|| text.parse::<DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp()));
        time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
    };
    seconds(text).or_else(iso).map(Nanos).ok_or_else(|| wrong(text))
}

/// Nanoseconds of a decimal number of seconds. A float would be exact to a few hundred nanoseconds only.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if text.bytes().any(|b| !b.is_ascii_digit() && b != b'.') {
        // Exponents, as JSON writers use them for small numbers.
        let seconds: f64 = text.parse().ok()?;
        return (0.0..1e10).contains(&seconds).then_some((seconds * 1e9) as u64);
    }
    let nanos: u64 = format!("{:0<9.9}", fraction).parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_iso_8601() {
        let expected = Ok(Nanos(1_795_000_000_500_000_000));
        for text in [
            "1795000000.5",
            "1795000000.500000",
            "2026-11-18T11:06:40.5Z",
            "2026-11-18T12:06:40.500+0100",
            "2026-11-18 11:06:40.5",
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        assert_eq!(seconds("0.000001"), Some(1000));
        assert_eq!(seconds("1e-6"), Some(1000));
        assert!(time("yesterday").is_err() && time("-5").is_err());
    }
}
