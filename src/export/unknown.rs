//! Streams without a class, for people: groups for the summary table, and one line for each stream.
//!
//! Streams without payload are grouped by who sends them where, so that a scan is one row; the others by the server, and unsure ones also by
//! their nearest class.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::engine::Verdict;
use crate::model::Model;
use crate::packet::{Address, KeyKind};
use crate::snn::ClassId;
use crate::stream::UnknownReason;

use super::event::{Endpoint, endpoints};
use super::table::TableTotal;

/// Capacity of the groups of one reason; streams of further groups are only summed. A scan of all ports of a host fits.
const GROUPS: usize = 1 << 16;
/// Number of different targets from which a client's streams without payload are one row, and of clients for a target.
const MANY: usize = 10;
/// Rows of one reason in the table.
pub(super) const ROWS: usize = 10;
/// Ports below this belong to services.
const FIRST_USER_PORT: u16 = 1024;
/// The column of the model in an [`UnknownList`], and those behind it.
const MODEL: &str = "model";
const COLUMNS: &str =
    "source                    destination               proto   packets  reason      nearest class     confidence  capture";

/// What the streams of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct GroupKey {
    /// The nearest class of unsure streams.
    nearest: Option<ClassId>,
    /// The client of streams without payload.
    client: Option<Address>,
    server: Endpoint,
    /// Empty for hosts.
    proto: Cow<'static, str>,
}

impl GroupKey {
    fn of(verdict: &Verdict, reason: UnknownReason) -> Self {
        let [client, server] = client_and_server(verdict);
        Self {
            nearest: verdict.leader.filter(|_| reason == UnknownReason::Unsure).map(|leader| leader.class),
            client: client.address.filter(|_| reason == UnknownReason::NoPayload),
            server,
            proto: if verdict.key.kind() == KeyKind::Flow { verdict.key.proto_name() } else { "".into() },
        }
    }
}

/// Client and server of a stream: its source is the client, unless only its own port is one of a service. Both are the
/// host for a stream of a host.
fn client_and_server(verdict: &Verdict) -> [Endpoint; 2] {
    let [source, destination] = endpoints(verdict);
    if verdict.key.kind() == KeyKind::Host {
        return [source, source];
    }
    let service = |end: &Endpoint| end.port.is_some_and(|port| port < FIRST_USER_PORT);
    if service(&source) && !service(&destination) { [destination, source] } else { [source, destination] }
}

/// The server of a stream without a class, as the table groups them: `10.0.0.1:6379 TCP`, with the nearest class if it is unsure. Without
/// payload it is the server's address alone, so that a scan is one group.
pub fn unknown_server(verdict: &Verdict, reason: UnknownReason) -> String {
    let [_, server] = client_and_server(verdict);
    if reason == UnknownReason::NoPayload {
        return name(server.address);
    }
    server_text(&GroupKey::of(verdict, reason), &verdict.model.classes)
}

/// Both ends of a stream and its protocol: `10.0.0.2:34398 > 10.0.0.1:6379 TCP`, the source first; a host's address.
pub fn ends(verdict: &Verdict) -> String {
    let [source, destination] = endpoints(verdict);
    match verdict.key.kind() {
        KeyKind::Host => source.to_string(),
        KeyKind::Flow => format!("{source} > {destination} {}", verdict.key.proto_name()),
    }
}

/// The server and protocol of a group, with the nearest class of unsure streams.
fn server_text(key: &GroupKey, classes: &[String]) -> String {
    let space = if key.proto.is_empty() { "" } else { " " };
    let place = format!("{}{space}{}", key.server, key.proto);
    let nearest = key.nearest.map(|class| format!(", near {}", classes[class.index()]));
    place + &nearest.unwrap_or_default()
}

/// Groups of the streams of one reason.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct UnknownGroups {
    #[serde(with = "crate::map_as_pairs")]
    groups: HashMap<GroupKey, TableTotal, foldhash::fast::RandomState>,
    /// Streams of groups beyond [`GROUPS`].
    others: TableTotal,
}

impl UnknownGroups {
    /// Counts a stream that has ended without a class for this reason.
    pub fn count(&mut self, verdict: &Verdict, reason: UnknownReason) {
        self.insert(GroupKey::of(verdict, reason), &TableTotal::of(verdict));
    }

    fn insert(&mut self, key: GroupKey, total: &TableTotal) {
        if self.groups.len() >= GROUPS && !self.groups.contains_key(&key) {
            self.others.add(total);
        } else {
            self.groups.entry(key).or_default().add(total);
        }
    }

    /// Adds the groups of another.
    pub fn add(&mut self, other: &Self) {
        other.groups.iter().for_each(|(key, total)| self.insert(key.clone(), total));
        self.others.add(&other.others);
    }

    /// Whether the nearest classes of all groups are among the first `classes`.
    pub fn fits(&self, classes: usize) -> bool {
        self.groups.keys().all(|key| key.nearest.is_none_or(|class| class.index() < classes))
    }

    /// The rows of the table, largest first, at most [`ROWS`] and one for all others.
    pub fn rows(&self, reason: UnknownReason, classes: &[String]) -> Vec<(String, TableTotal)> {
        let mut rows = if reason == UnknownReason::NoPayload { self.silent() } else { self.by_server(classes) };
        rows.sort_by(|a, b| Reverse(a.1.streams).cmp(&Reverse(b.1.streams)).then_with(|| a.0.cmp(&b.0)));
        let mut others = self.others;
        rows.drain(ROWS.min(rows.len())..).for_each(|(_, total)| others.add(&total));
        if others.streams > 0 {
            rows.push(("others".into(), others));
        }
        rows
    }

    fn by_server(&self, classes: &[String]) -> Vec<(String, TableTotal)> {
        let row = |(key, total): (&GroupKey, &TableTotal)| (server_text(key, classes), *total);
        self.groups.iter().map(row).collect()
    }

    /// Rows of streams without payload: first clients with many targets, then targets with many clients, then single pairs.
    fn silent(&self) -> Vec<(String, TableTotal)> {
        let mut clients: BTreeMap<String, Vec<(&GroupKey, &TableTotal)>> = BTreeMap::new();
        for (key, total) in &self.groups {
            clients.entry(name(key.client)).or_default().push((key, total));
        }
        let (scans, rest): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(_, groups)| groups.len() >= MANY);
        let scan = |(client, groups): (String, Vec<(&GroupKey, &TableTotal)>)| {
            (format!("{client} knocks on {}", targets(&groups)), sum(&groups))
        };
        let mut rows: Vec<(String, TableTotal)> = scans.into_iter().map(scan).collect();
        let mut servers: BTreeMap<String, Vec<(&GroupKey, &TableTotal)>> = BTreeMap::new();
        for group in rest.into_iter().flat_map(|(_, groups)| groups) {
            servers.entry(group.0.server.to_string()).or_default().push(group);
        }
        for (server, groups) in servers {
            if groups.len() >= MANY {
                rows.push((format!("{} hosts knock on {server}", groups.len()), sum(&groups)));
            } else {
                rows.extend(groups.iter().map(|(key, total)| (format!("{} to {server}", name(key.client)), **total)));
            }
        }
        rows
    }
}

fn name(address: Option<Address>) -> String {
    address.map_or_else(|| "-".into(), |address| address.to_string())
}

fn sum(groups: &[(&GroupKey, &TableTotal)]) -> TableTotal {
    let mut sum = TableTotal::default();
    groups.iter().for_each(|(_, total)| sum.add(total));
    sum
}

/// What a client sends to: ports of a host, hosts, or both.
fn targets(groups: &[(&GroupKey, &TableTotal)]) -> String {
    let hosts: BTreeSet<String> = groups.iter().map(|(key, _)| name(key.server.address)).collect();
    let ports: BTreeSet<Option<u16>> = groups.iter().map(|(key, _)| key.server.port).collect();
    match (hosts.first(), ports.first()) {
        (Some(host), _) if hosts.len() == 1 => format!("{} ports of {host}", ports.len()),
        (_, Some(Some(port))) if ports.len() == 1 => format!("port {port} of {} hosts", hosts.len()),
        _ => format!("{} ports of {} hosts", ports.len(), hosts.len()),
    }
}

/// Lists streams without a class, a line each. With several models, the model is the first column.
#[derive(Clone, Copy)]
pub struct UnknownList {
    /// Width of the column of the model; 0 without it.
    model_width: usize,
}

impl UnknownList {
    /// A list of the streams of `models`.
    pub fn new<'a>(models: impl ExactSizeIterator<Item = &'a Model>) -> Self {
        let several = models.len() > 1;
        let widest = models.map(|model| model.name.chars().count()).max().unwrap_or(0);
        Self { model_width: if several { widest.max(MODEL.len()) } else { 0 } }
    }

    /// The names of the columns, without a line feed.
    pub fn header(self) -> String {
        self.model_cell(MODEL) + COLUMNS
    }

    /// One line about a stream, with a line feed: its ends, packets, the reason, the nearest class and the confidence in it.
    pub fn line(self, verdict: &Verdict, reason: UnknownReason, capture: &str) -> String {
        let model = self.model_cell(&verdict.model.name);
        let [source, destination] = endpoints(verdict).map(|end| end.to_string());
        let flow = verdict.key.kind() == KeyKind::Flow;
        let proto = if flow { verdict.key.proto_name() } else { "-".into() };
        let destination = if flow { destination } else { "-".into() };
        let nearest = verdict.leader.map_or("-", |leader| verdict.model.classes[leader.class.index()].as_str());
        format!(
            "{model}{source:<25} {destination:<25} {proto:<6} {:>8}  {:<11} {nearest:<17} {:>10.4}  {capture}\n",
            verdict.packets,
            reason.name(),
            verdict.confidence
        )
    }

    /// The column of the model, empty with one model.
    fn model_cell(self, text: &str) -> String {
        let width = self.model_width;
        if width == 0 { String::new() } else { format!("{text:<width$} ") }
    }
}
