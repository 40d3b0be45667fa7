//! The summary table of `spiked read`: a row per class, then unknown streams by reason and group, and notes on skipped or truncated input.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::{Counters, EpisodeOutput, Event, Verdict};
use crate::episode::{Episode, EpisodeState, Role};
use crate::model::Model;
use crate::packet::Undecodable;
use crate::stream::UnknownReason;

use super::unknown::UnknownGroups;

/// Totals of one row: streams, packets and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct TableTotal {
    pub streams: u64,
    packets: u64,
    bytes: u64,
}

impl TableTotal {
    /// The total of one stream.
    pub fn of(verdict: &Verdict) -> Self {
        Self { streams: 1, packets: verdict.packets, bytes: verdict.bytes }
    }

    pub fn add(&mut self, other: &Self) {
        self.streams += other.streams;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// The table of one model.
#[derive(Debug, Serialize, Deserialize)]
struct ModelTable {
    model: String,
    classes: Vec<String>,
    /// Totals of each class, followed by those of unknown streams by [`UnknownReason`].
    sums: Vec<TableTotal>,
    /// Groups of the unknown streams, by [`UnknownReason`].
    unknown: [UnknownGroups; UnknownReason::ALL.len()],
}

/// Numbers of a [`Summary`] for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryTotals {
    /// Packets that were read.
    pub packets: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Streams over all models, named or not.
    pub streams: u64,
    /// Streams without a class.
    pub unknown: u64,
    /// Streams of each class that has any, by model.
    pub named: BTreeMap<String, BTreeMap<String, u64>>,
    /// What was skipped or lost, by reason: packets, streams or hosts.
    pub drops: BTreeMap<String, u64>,
}

/// Totals by class over one or more captures.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    models: Vec<ModelTable>,
    captures: u64,
    counters: Counters,
    /// Whether streams went through tunnels that are streams too, so that rows count packets again.
    #[serde(default)]
    tunnels: bool,
    notes: Vec<String>,
    /// Descriptions of the first episodes that ended.
    episodes: Vec<String>,
    /// Number of episodes that ended.
    ended_episodes: u64,
}

impl Summary {
    /// An empty summary for `models`.
    pub fn new<'a>(models: impl Iterator<Item = &'a Model>) -> Self {
        let table = |m: &Model| ModelTable {
            model: m.name.clone(),
            classes: m.classes.clone(),
            sums: vec![TableTotal::default(); m.classes.len() + UnknownReason::ALL.len()],
            unknown: Default::default(),
        };
        Self { models: models.map(table).collect(), ..Self::default() }
    }

    /// Counts a stream that has ended; other events are ignored.
    pub fn count(&mut self, verdict: &Verdict) {
        if verdict.event == Event::Stream {
            self.tunnels |= verdict.tunnel.as_ref().is_some_and(|tunnel| tunnel.ends().is_some());
            let table = &mut self.models[verdict.model_index];
            let reason = verdict.unknown_reason();
            let row = reason.map_or(0, |reason| reason as usize);
            table.sums[verdict.class.map_or(table.classes.len() + row, usize::from)].add(&TableTotal::of(verdict));
            if let Some(reason) = reason {
                table.unknown[row].count(verdict, reason);
            }
        }
    }

    /// Notes an episode that has ended; other states are ignored.
    pub fn episode(&mut self, output: &EpisodeOutput) {
        if output.episode.state != EpisodeState::End {
            return;
        }
        self.ended_episodes += 1;
        if self.episodes.len() < MAX_EPISODES {
            self.episodes.push(describe_episode(&output.episode, &output.model.classes[output.episode.class.index()]));
        }
    }

    /// Adds the streams of another summary of the same models.
    pub fn add(&mut self, other: &Self) {
        self.tunnels |= other.tunnels;
        for (table, more) in self.models.iter_mut().zip(&other.models) {
            table.sums.iter_mut().zip(&more.sums).for_each(|(sum, more)| sum.add(more));
            table.unknown.iter_mut().zip(&more.unknown).for_each(|(groups, more)| groups.add(more));
        }
    }

    /// Adds everything that another summary has, of other captures and the same models. Returns false, and adds nothing, if the models differ.
    pub fn merge(&mut self, other: Self) -> bool {
        let same = |(table, more): (&ModelTable, &ModelTable)| table.model == more.model && table.classes == more.classes;
        if self.models.len() != other.models.len() || !self.models.iter().zip(&other.models).all(same) {
            return false;
        }
        self.add(&other);
        self.counters.add(&other.counters);
        self.captures += other.captures;
        self.notes.extend(other.notes);
        self.episodes.extend(other.episodes);
        self.episodes.truncate(MAX_EPISODES);
        self.ended_episodes += other.ended_episodes;
        true
    }

    /// Whether a summary that was read can be shown: its rows are those of its classes.
    pub fn is_valid(&self) -> bool {
        let fits = |table: &ModelTable| {
            table.sums.len() == table.classes.len() + UnknownReason::ALL.len()
                && table.unknown.iter().all(|groups| groups.fits(table.classes.len()))
        };
        self.models.iter().all(fits) && self.ended_episodes >= self.episodes.len() as u64
    }

    /// Numbers of the summary for programs.
    pub fn totals(&self) -> SummaryTotals {
        let mut totals = SummaryTotals { packets: self.counters.frames, bytes: self.counters.bytes, ..SummaryTotals::default() };
        for table in &self.models {
            let (named, unknown) = table.sums.split_at(table.classes.len());
            let classes = table.classes.iter().zip(named).filter(|(_, sum)| sum.streams > 0);
            totals.named.insert(table.model.clone(), classes.map(|(class, sum)| (class.clone(), sum.streams)).collect());
            totals.streams += table.sums.iter().map(|sum| sum.streams).sum::<u64>();
            totals.unknown += unknown.iter().map(|sum| sum.streams).sum::<u64>();
        }
        for (&reason, &count) in &self.counters.undecodable {
            let reason = match reason {
                Undecodable::UnsupportedLink(_) => "unsupported_link",
                Undecodable::Truncated => "truncated",
                Undecodable::NoPacket(_) => "no_packet",
            };
            *totals.drops.entry(reason.into()).or_default() += count;
        }
        let counters = &self.counters;
        for (reason, count) in [
            ("evicted", counters.evicted),
            ("undecided", counters.dropped_undecided),
            ("tunnels", counters.dropped_tunnels),
            ("hosts", counters.evicted_hosts),
            ("panic_streams", counters.panic_lost_streams),
            ("panic_packets", counters.panic_lost_packets),
        ] {
            if count > 0 {
                totals.drops.insert(reason.into(), count);
            }
        }
        totals
    }

    /// Adds the counters of one capture.
    pub fn capture(&mut self, counters: &Counters) {
        self.counters.add(counters);
    }

    /// Counts captures that were read.
    pub fn files(&mut self, captures: u64) {
        self.captures += captures;
    }

    /// Adds a note about skipped or truncated input, shown below the table.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What was lost, and the notes about skipped or truncated input, one line each.
    pub fn notes(&self) -> Vec<String> {
        let counters = &self.counters;
        let losses = [
            (counters.evicted, "streams ended early: the stream table was full (--streams)"),
            (counters.dropped_undecided, "streams left undecided early: too many were undecided at once (--streams)"),
            (counters.dropped_tunnels, "streams in tunnels whose events do not name the tunnel: too many at once (--streams)"),
            (counters.evicted_hosts, "hosts whose traces were dropped early: the table of hosts was full"),
            (counters.panic_lost_streams, "streams lost: a worker panicked; please report this"),
            (counters.panic_lost_packets, "packets lost: a worker panicked; please report this"),
        ];
        let losses = losses.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", grouped(count)));
        losses.chain(self.notes.iter().cloned()).collect()
    }
}

/// What to do about unknown streams.
const NEXT: &str = "next: spiked read --unknown CAPTURE lists the unknown streams\n      \
                    spiked learn --from CAPTURE --stream ADDRESS:PORT --class NAME --out FILE teaches one";

/// A number and what it counts, such as "1 packet" and "1,746 packets".
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(count))
}

/// The name of a row of unknown streams.
fn unknown_row(reason: UnknownReason) -> &'static str {
    match reason {
        UnknownReason::NoPayload => "unknown: no payload",
        UnknownReason::Unsure => "unknown: unsure",
        UnknownReason::UnlikeAny => "unknown: unlike any",
    }
}

/// Number of episodes that are listed.
const MAX_EPISODES: usize = 50;

/// One line about an episode: `10.12.0.5: scan.port, 192 flows to 10.12.2.1, 192 ports, in 3 s from 2026-01-01T12:00:00Z`; without ports if
/// the protocols of the flows have none.
pub fn describe_episode(episode: &Episode, class: &str) -> String {
    let count = |n: u64, what: &str| format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" });
    let flows = count(episode.flows, "flow");
    let towards = if episode.role == Role::Source { "to" } else { "from" };
    let peers = episode.peer.map_or_else(|| count(episode.peers as u64, "host"), |peer| peer.to_string());
    let ports = if episode.ports == 0 { String::new() } else { format!(", {}", count(episode.ports as u64, "port")) };
    let seconds = episode.end.0.saturating_sub(episode.start.0).div_ceil(1_000_000_000).max(1);
    let start = episode.start.to_second();
    format!("{}: {class}, {flows} {towards} {peers}{ports}, in {} s from {start}", episode.host, grouped(seconds))
}

/// Formats 1234567 as "1,234,567".
pub fn grouped(n: u64) -> String {
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

/// Widest first column; a longer text moves the numbers of its row only.
const MAX_WIDTH: usize = 60;

impl ModelTable {
    /// The rows: classes by their numbers of streams, then unknown streams by reason, each with its groups.
    fn rows(&self) -> Vec<(String, TableTotal)> {
        let classes = self.classes.iter().cloned().zip(self.sums.iter().copied());
        let mut rows: Vec<(String, TableTotal)> = classes.filter(|(_, sum)| sum.streams > 0).collect();
        rows.sort_by(|a, b| b.1.streams.cmp(&a.1.streams).then_with(|| a.0.cmp(&b.0)));
        for (reason, sum) in UnknownReason::ALL.into_iter().zip(&self.sums[self.classes.len()..]).filter(|(_, s)| s.streams > 0) {
            rows.push((unknown_row(reason).into(), *sum));
            let groups = self.unknown[reason as usize].rows(reason, &self.classes);
            rows.extend(groups.into_iter().map(|(text, sum)| (format!("  {text}"), sum)));
        }
        rows
    }

    /// Streams that were given a class, those that carry payload and were not, and those without payload that were not.
    fn counts(&self) -> [u64; 3] {
        let (named, unknown) = self.sums.split_at(self.classes.len());
        let streams = |sums: &[TableTotal]| sums.iter().map(|sum| sum.streams).sum::<u64>();
        let silent = unknown[UnknownReason::NoPayload as usize].streams;
        [streams(named), streams(unknown) - silent, silent]
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = rows.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0).clamp("class".len(), MAX_WIDTH);
        writeln!(f, "{:<width$} {:>10} {:>12} {:>16}", "class", "streams", "packets", "bytes")?;
        for (text, sum) in rows {
            let (streams, packets, bytes) = (grouped(sum.streams), grouped(sum.packets), grouped(sum.bytes));
            writeln!(f, "{text:<width$} {streams:>10} {packets:>12} {bytes:>16}")?;
        }
        let [named, unnamed, silent] = self.counts();
        let all = named + unnamed;
        if all == 0 {
            writeln!(f, "\n{} streams, none with payload", grouped(silent))
        } else if silent > 0 {
            writeln!(f, "\n{} of {} streams named; {} more carry no payload", grouped(named), grouped(all), grouped(silent))
        } else {
            writeln!(f, "\n{} of {} streams named", grouped(named), grouped(all))
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.episodes.is_empty() {
            writeln!(f, "episodes")?;
            self.episodes.iter().try_for_each(|episode| writeln!(f, "  {episode}"))?;
            let more = self.ended_episodes - self.episodes.len() as u64;
            if more > 0 {
                writeln!(f, "  and {} more (--events episodes --format jsonl lists all)", grouped(more))?;
            }
            writeln!(f)?;
        }
        for (i, table) in self.models.iter().enumerate() {
            if self.models.len() > 1 {
                writeln!(f, "{}model {}", if i > 0 { "\n" } else { "" }, table.model)?;
            }
            table.write(f)?;
        }
        let counters = &self.counters;
        let [packets, captures] = [counted(counters.frames, "packet"), counted(self.captures, "capture")];
        writeln!(f, "\n{packets}, {} bytes in {captures}", grouped(counters.bytes))?;
        if self.tunnels {
            writeln!(f, "packets in tunnels are counted above in the tunnel's stream and in those that it carries")?;
        }
        for (reason, &count) in &counters.undecodable {
            let what = match reason {
                Undecodable::UnsupportedLink(link) => format!("link type {} is not supported", link),
                Undecodable::Truncated => "truncated within the link header".into(),
                Undecodable::NoPacket(link) => format!("frames of link type {link} without a packet that can be read"),
            };
            writeln!(f, "skipped: {}: {what}", counted(count, "packet"))?;
        }
        for note in self.notes() {
            writeln!(f, "{note}")?;
        }
        if self.models.iter().any(|table| table.counts()[1..] != [0, 0]) {
            writeln!(f, "\n{NEXT}")?;
        }
        Ok(())
    }
}
