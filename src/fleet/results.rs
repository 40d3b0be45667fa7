//! What workers have read: the ends of jobs, and the events and tables of the attempts that completed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::message::Message;

use crate::export::Summary;

use super::connection::{Connection, FleetError};
use super::jobs::{END, EVENTS, JobEnd, RESULTS_STREAM, RESULTS_SUBJECT, TABLE, latest};
use super::tail::{StreamPart, message_id, read};

/// Largest size of a block of events in bytes, decompressed.
const MAX_EVENTS: usize = 4 << 20;
/// Largest size of a table in bytes, decompressed.
const MAX_TABLE: usize = 256 << 20;

/// An end, and when the server stored it, in nanoseconds since 1970.
pub type StoredEnd = (JobEnd, i128);

fn part(name: &str) -> StreamPart {
    StreamPart {
        stream: RESULTS_STREAM,
        subject: format!("{RESULTS_SUBJECT}.*.{name}"),
        deliver: DeliverPolicy::All,
        until_now: true,
    }
}

/// The last end of each job that has one, in the order of their captures. Those that are not valid are left out.
///
/// # Errors
/// The stream can't be read.
pub async fn ends(connection: &Connection) -> Result<Vec<StoredEnd>, FleetError> {
    let mut stored = HashMap::new();
    let mut ends = Vec::new();
    read(connection, &part(END), |message| {
        if let Ok(end) = serde_json::from_slice::<JobEnd>(&message.payload) {
            let time = message.info().map_or(0, |info| info.published.unix_timestamp_nanos());
            stored.insert(end.attempt.clone(), time);
            ends.push(end);
        }
        true
    })
    .await?;
    let time = |end: &JobEnd| stored.get(&end.attempt).copied().unwrap_or(0);
    Ok(latest(ends).into_iter().map(|end| (time(&end), end)).map(|(time, end)| (end, time)).collect())
}

/// Ends by batch.
pub fn batches(ends: Vec<StoredEnd>) -> BTreeMap<String, Vec<StoredEnd>> {
    let mut batches: BTreeMap<String, Vec<StoredEnd>> = BTreeMap::new();
    for end in ends {
        batches.entry(end.0.job.batch()).or_default().push(end);
    }
    batches
}

/// Which messages belong to the attempts that completed, each once.
struct Wanted<'a> {
    /// What the ids of the messages begin with, up to the number, and the number of messages.
    attempts: HashMap<String, (&'a JobEnd, u64)>,
    seen: HashSet<String>,
}

impl<'a> Wanted<'a> {
    fn new(ends: &'a [JobEnd], part: &str, blocks: impl Fn(&JobEnd) -> u64) -> Self {
        let start = |end: &JobEnd| format!("{}-{}-{part}", end.job.id(), end.attempt);
        Self { attempts: ends.iter().map(|end| (start(end), (end, blocks(end)))).collect(), seen: HashSet::new() }
    }

    /// The end of the attempt that a message belongs to, and its number; `None` for messages of other attempts and doubles.
    fn take(&mut self, message: &Message) -> Option<(&'a JobEnd, u64)> {
        let id = message_id(message);
        let (start, number) = id.rsplit_once('-')?;
        let number = number.parse().ok()?;
        let &(end, blocks) = self.attempts.get(start)?;
        (number < blocks && self.seen.insert(id.into())).then_some((end, number))
    }

    /// Messages that did not come.
    fn missing(&self) -> u64 {
        let all: u64 = self.attempts.values().map(|(_, blocks)| blocks).sum();
        all - self.seen.len() as u64
    }
}

/// Calls `each` with the lines of every block of events of the attempts `ends`, in the order of the stream; ends when it returns false. Returns
/// the number of blocks that the stream does not have any more, or that are not valid.
///
/// # Errors
/// The stream can't be read.
pub async fn events(connection: &Connection, ends: &[JobEnd], mut each: impl FnMut(&[u8]) -> bool) -> Result<u64, FleetError> {
    let mut wanted = Wanted::new(ends, EVENTS, |end| end.event_blocks);
    let mut invalid = 0;
    if wanted.missing() > 0 {
        read(connection, &part(EVENTS), |message| {
            if wanted.take(message).is_none() {
                return true;
            }
            match zstd::bulk::decompress(&message.payload, MAX_EVENTS) {
                Ok(lines) => each(&lines),
                Err(_) => {
                    invalid += 1;
                    true
                }
            }
        })
        .await?;
    }
    Ok(wanted.missing() + invalid)
}

/// The sum of the tables of the attempts `ends`, of the same models, notes in the order of `ends`, and the number of captures without a valid
/// table.
///
/// # Errors
/// The stream can't be read.
pub async fn table(connection: &Connection, ends: &[JobEnd]) -> Result<(Summary, u64), FleetError> {
    let mut wanted = Wanted::new(ends, TABLE, |end| end.table_blocks);
    let order: HashMap<&str, usize> = ends.iter().enumerate().map(|(at, end)| (end.attempt.as_str(), at)).collect();
    let mut blocks: HashMap<usize, BTreeMap<u64, Vec<u8>>> = HashMap::new();
    let mut tables: BTreeMap<usize, Summary> = BTreeMap::new();
    read(connection, &part(TABLE), |message| {
        if let Some((end, number)) = wanted.take(message) {
            let at = order[end.attempt.as_str()];
            let present = blocks.entry(at).or_default();
            present.insert(number, message.payload.to_vec());
            if present.len() as u64 == end.table_blocks {
                let bytes = blocks.remove(&at).unwrap_or_default().into_values().collect::<Vec<_>>().concat();
                tables.extend(decode(&bytes).map(|table| (at, table)));
            }
        }
        true
    })
    .await?;
    let mut lacking = ends.len() as u64;
    let mut all: Option<Summary> = None;
    for table in tables.into_values() {
        match &mut all {
            None => all = Some(table),
            Some(all) => {
                if !all.merge(table) {
                    continue;
                }
            }
        }
        lacking -= 1;
    }
    Ok((all.unwrap_or_default(), lacking))
}

/// A table, if it is a valid one.
fn decode(bytes: &[u8]) -> Option<Summary> {
    let text = zstd::bulk::decompress(bytes, MAX_TABLE).ok()?;
    serde_json::from_slice(&text).ok().filter(Summary::is_valid)
}

/// Jobs a second that ended in the last `window`, or since the first of them if that is later; `None` with fewer than two.
pub fn rate(ends: &[StoredEnd], now: i128, window: Duration) -> Option<f64> {
    let from = now - window.as_nanos() as i128;
    let times: Vec<i128> = ends.iter().map(|(_, time)| *time).filter(|&time| time >= from).collect();
    let first = *times.iter().min()?;
    let seconds = (now - first) as f64 / 1e9;
    (times.len() > 1 && seconds > 0.0).then(|| (times.len() - 1) as f64 / seconds)
}
