//! The summary table of `spiked read`: a row per class, then unknown streams, and notes on skipped or truncated input.

use std::fmt;

use crate::engine::{Counters, Event, Verdict};
use crate::model::Model;
use crate::packet::Undecodable;
use crate::stream::UnknownReason;

/// Totals of one row: streams, packets and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct TableTotal {
    streams: u64,
    packets: u64,
    bytes: u64,
}

/// The table of one model.
#[derive(Debug)]
struct ModelTable {
    model: String,
    classes: Vec<String>,
    /// Totals of each class, followed by those of unknown streams by [`UnknownReason`].
    sums: Vec<TableTotal>,
}

/// Totals by class over one or more captures.
#[derive(Debug, Default)]
pub struct Summary {
    models: Vec<ModelTable>,
    captures: u64,
    counters: Counters,
    notes: Vec<String>,
}

impl Summary {
    /// An empty summary for `models`.
    pub fn new<'a>(models: impl Iterator<Item = &'a Model>) -> Self {
        let table = |m: &Model| ModelTable {
            model: m.name.clone(),
            classes: m.classes.clone(),
            sums: vec![TableTotal::default(); m.classes.len() + UnknownReason::ALL.len()],
        };
        Self { models: models.map(table).collect(), ..Self::default() }
    }

    /// Counts a stream that has ended; other events are ignored.
    pub fn count(&mut self, verdict: &Verdict) {
        if verdict.event == Event::Stream {
            let table = &mut self.models[verdict.model_index];
            let reason = verdict.unknown_reason().map_or(0, |reason| reason as usize);
            let sum = &mut table.sums[verdict.class.map_or(table.classes.len() + reason, usize::from)];
            sum.streams += 1;
            sum.packets += verdict.packets;
            sum.bytes += verdict.bytes;
        }
    }

    /// Adds the streams of another summary of the same models.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.models.iter_mut().zip(&other.models).flat_map(|(a, b)| a.sums.iter_mut().zip(&b.sums)) {
            sum.streams += more.streams;
            sum.packets += more.packets;
            sum.bytes += more.bytes;
        }
    }

    /// Adds the counters of one capture.
    pub fn capture(&mut self, counters: &Counters) {
        self.captures += 1;
        self.counters.add(counters);
    }

    /// Adds a note about skipped or truncated input, shown below the table.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The notes about skipped or truncated input, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The name of a row of unknown streams.
fn unknown_row(reason: UnknownReason) -> &'static str {
    match reason {
        UnknownReason::NoPayload => "unknown: no payload",
        UnknownReason::Unsure => "unknown: unsure",
        UnknownReason::UnlikeAny => "unknown: unlike any",
    }
}

/// Width of the longest of them.
const UNKNOWN_WIDTH: usize = 19;

/// Formats 1234567 as "1,234,567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ModelTable { model, classes, sums }) in self.models.iter().enumerate() {
            if self.models.len() > 1 {
                writeln!(f, "{}model {model}", if i > 0 { "\n" } else { "" })?;
            }
            let mut known: Vec<(&String, &TableTotal)> = classes.iter().zip(sums).filter(|(_, sum)| sum.streams > 0).collect();
            known.sort_by(|a, b| b.1.streams.cmp(&a.1.streams).then_with(|| a.0.cmp(b.0)));
            let width = known.iter().map(|(class, _)| class.chars().count()).max().unwrap_or(0).max(UNKNOWN_WIDTH);
            writeln!(f, "{:<width$} {:>10} {:>12} {:>16}", "class", "streams", "packets", "bytes")?;
            let mut line = |class: &str, sum: &TableTotal| {
                let (streams, packets, bytes) = (grouped(sum.streams), grouped(sum.packets), grouped(sum.bytes));
                writeln!(f, "{class:<width$} {streams:>10} {packets:>12} {bytes:>16}")
            };
            for (class, sum) in known {
                line(class, sum)?;
            }
            let unknown = UnknownReason::ALL.into_iter().zip(&sums[classes.len()..]);
            for (reason, sum) in unknown.filter(|(_, sum)| sum.streams > 0) {
                line(unknown_row(reason), sum)?;
            }
        }
        let counters = &self.counters;
        let captures = if self.captures == 1 { "1 capture".into() } else { format!("{} captures", grouped(self.captures)) };
        writeln!(f, "\n{} packets, {} bytes in {captures}", grouped(counters.frames), grouped(counters.bytes))?;
        for (reason, &count) in &counters.undecodable {
            let what = match reason {
                Undecodable::UnsupportedLink(link) => format!("link type {} is not supported", link),
                Undecodable::Truncated => "truncated within the link header".into(),
                Undecodable::NoPacket(link) => format!("frames of link type {link} without a packet that can be read"),
            };
            writeln!(f, "skipped: {} packets: {what}", grouped(count))?;
        }
        for (count, what) in [
            (counters.evicted, "streams ended early: the stream table was full (--streams)"),
            (counters.dropped_undecided, "streams left undecided early: too many were undecided at once (--streams)"),
            (counters.panic_lost_streams, "streams lost: a worker panicked; please report this"),
            (counters.panic_lost_packets, "packets lost: a worker panicked; please report this"),
        ] {
            if count > 0 {
                writeln!(f, "{} {what}", grouped(count))?;
            }
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}
