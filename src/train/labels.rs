//! Label files in CSV: the class of each stream in captures.
//!
//! Columns `capture,proto,src_ip,src_port,dst_ip,dst_port,label` label one bidirectional stream a row; columns
//! `capture,host,label` label all that a host sends and receives. The key of the model follows from the columns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::model::{MAX_CLASSES, is_class_name};
use crate::packet::{KeyKind, StreamKey};
use crate::snn::ClassId;

/// Reason why a label file is rejected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields of the messages")]
pub enum LabelError {
    /// The file cannot be read.
    #[error("{path}: can't read the label file: {source}")]
    Read { path: PathBuf, source: csv::Error },
    /// A column of a label file is missing.
    #[error(
        "{path}: column '{column}' is missing; a label file has the columns capture,proto,src_ip,src_port,dst_ip,dst_port,label (streams) or capture,host,label (hosts)"
    )]
    Column { path: PathBuf, column: &'static str },
    /// A column of a file of names is missing.
    #[error("{path}: column '{column}' is missing; a file of names has the columns label,class")]
    Rename { path: PathBuf, column: &'static str },
    /// A row is invalid.
    #[error("{path}, line {line}: {what}")]
    Row { path: PathBuf, line: u64, what: String },
    /// Label files for streams and for hosts are mixed.
    #[error("{path}: labels {this}, but an earlier label file labels {other}; train the two kinds apart")]
    Mixed { path: PathBuf, this: &'static str, other: &'static str },
    /// There are no rows.
    #[error("the label files have no rows")]
    Empty,
    /// There are more classes than a model may have: their number.
    #[error(
        "the labels name {0} classes; a model has at most {MAX_CLASSES} (does the label column hold a different value for each stream?)"
    )]
    Classes(usize),
    /// A class name has control characters.
    #[error("the class name {0:?} contains control characters, for example a line break; rename the class")]
    Name(String),
}

/// Name of a stream in label files; independent of direction and VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variant describes its fields")]
pub enum StreamName {
    /// Both ends of a flow, the smaller first; ports are 0 where the protocol has none.
    Flow { proto: String, a: (String, u16), b: (String, u16) },
    /// Address of a host.
    Host(String),
}

impl StreamName {
    fn flow(proto: &str, a: (String, u16), b: (String, u16)) -> Self {
        let mut proto = proto.to_ascii_uppercase();
        if matches!(proto.as_str(), "ICMPV6" | "IPV6-ICMP" | "ICMP6") {
            proto = "ICMP".into();
        }
        let ported = matches!(proto.as_str(), "TCP" | "UDP" | "SCTP");
        let end = |(address, port): (String, u16)| (canonical(&address), if ported { port } else { 0 });
        let (a, b) = (end(a), end(b));
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        Self::Flow { proto, a, b }
    }

    /// The name of the stream of `key` in label files.
    pub fn of(key: &StreamKey) -> Self {
        match key.host() {
            Some(host) => Self::Host(canonical(&host)),
            None => {
                // Label files have port 0 for protocols without ports; the key of ICMP has type and code there.
                let port = |port| if key.has_ports() { port } else { 0 };
                let (a, b) = (key.addr_a().to_string(), key.addr_b().to_string());
                Self::flow(&key.proto_name(), (a, port(key.port_a())), (b, port(key.port_b())))
            }
        }
    }
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow { proto, a, b } => write!(f, "{proto} {}:{} {}:{}", a.0, a.1, b.0, b.1),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

fn canonical(address: &str) -> String {
    let bare = address.split('%').next().unwrap_or(address);
    bare.parse::<IpAddr>().map_or_else(|_| bare.to_ascii_lowercase(), |ip| ip.to_string())
}

/// Labels of one capture.
#[derive(Debug, Default)]
pub struct CaptureLabels {
    /// Classes of the streams that have a row.
    pub streams: HashMap<StreamName, ClassId>,
    /// The class of every other stream.
    pub every: Option<ClassId>,
}

impl CaptureLabels {
    /// The class of a stream, if it has one.
    pub fn class_of(&self, name: &StreamName) -> Option<ClassId> {
        self.streams.get(name).copied().or(self.every)
    }
}

/// All rows of the label files.
#[derive(Debug)]
pub struct Labels {
    /// Kind of stream that the labels are for.
    pub key: KeyKind,
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// The labels of each capture, by its path in the label files, in file order.
    pub captures: Vec<(String, CaptureLabels)>,
    /// Number of rows.
    pub rows: usize,
    /// Number of rows that label a stream differently from an earlier row; the earlier row applies.
    pub conflicts: usize,
}

/// Reads label files of one kind, streams or hosts.
///
/// # Errors
/// A file can't be read, lacks a column or has an invalid row; the files are of both kinds or have no rows; there are more classes
/// than a model may have, or a class name is invalid.
pub fn read(files: &[PathBuf]) -> Result<Labels, LabelError> {
    let mut key = None;
    let mut rows: Vec<(String, StreamName, String)> = Vec::new();
    for path in files {
        let kind = read_file(path, &mut rows)?;
        let word = |k| if k == KeyKind::Host { "hosts" } else { "streams" };
        match key {
            Some(other) if other != kind => {
                return Err(LabelError::Mixed { path: path.clone(), this: word(kind), other: word(other) });
            }
            _ => key = Some(kind),
        }
    }
    let mut classes: Vec<String> = rows.iter().map(|r| r.2.clone()).collect();
    classes.sort();
    classes.dedup();
    check_class_names(&classes)?;
    let mut captures: Vec<(String, CaptureLabels)> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    let mut conflicts = 0;
    let count = rows.len();
    for (capture, name, label) in rows {
        let at = *place.entry(capture.clone()).or_insert_with(|| {
            captures.push((capture, CaptureLabels::default()));
            captures.len() - 1
        });
        let class = ClassId::from_index(classes.binary_search(&label).unwrap_or(0));
        let was = *captures[at].1.streams.entry(name).or_insert(class);
        conflicts += usize::from(was != class);
    }
    Ok(Labels { key: key.filter(|_| count > 0).ok_or(LabelError::Empty)?, classes, captures, rows: count, conflicts })
}

/// Checks the number of classes and their names against the limits of a model.
fn check_class_names(classes: &[String]) -> Result<(), LabelError> {
    if classes.len() > MAX_CLASSES {
        return Err(LabelError::Classes(classes.len()));
    }
    match classes.iter().find(|c| !is_class_name(c)) {
        Some(class) => Err(LabelError::Name(class.clone())),
        None => Ok(()),
    }
}

/// Labels that give every stream of a capture the same class, from `(class, capture)` pairs.
///
/// # Errors
/// There is no pair, or a class name is invalid.
pub fn of_whole_captures(pairs: &[(String, PathBuf)]) -> Result<Labels, LabelError> {
    let mut classes: Vec<String> = pairs.iter().map(|p| p.0.clone()).collect();
    classes.sort();
    classes.dedup();
    check_class_names(&classes)?;
    let captures = pairs
        .iter()
        .map(|(class, capture)| {
            let every = classes.binary_search(class).ok().map(ClassId::from_index);
            (capture.display().to_string(), CaptureLabels { every, ..CaptureLabels::default() })
        })
        .collect();
    if pairs.is_empty() {
        return Err(LabelError::Empty);
    }
    Ok(Labels { key: KeyKind::Flow, classes, captures, rows: pairs.len(), conflicts: 0 })
}

impl Labels {
    /// Renames labels after a CSV file with columns `label,class`; an empty class removes the label.
    ///
    /// # Errors
    /// The file can't be read or lacks a column, or a class name is invalid.
    pub fn rename(&mut self, path: &Path) -> Result<(), LabelError> {
        let broken = |source| LabelError::Read { path: path.to_path_buf(), source };
        let (mut reader, header) = open_table(path)?;
        let column = |name| find(&header, name).ok_or_else(|| LabelError::Rename { path: path.to_path_buf(), column: name });
        let (from, to) = (column("label")?, column("class")?);
        let mut names: HashMap<String, String> = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(broken)?;
            names.insert(record.get(from).unwrap_or("").into(), record.get(to).unwrap_or("").into());
        }
        let renamed: Vec<&str> = self.classes.iter().map(|c| names.get(c).unwrap_or(c).as_str()).collect();
        let mut classes: Vec<String> = renamed.iter().filter(|c| !c.is_empty()).map(ToString::to_string).collect();
        classes.sort();
        classes.dedup();
        check_class_names(&classes)?;
        let place: Vec<Option<ClassId>> =
            renamed.iter().map(|&c| classes.iter().position(|k| k == c).map(ClassId::from_index)).collect();
        for (_, labels) in &mut self.captures {
            labels.every = labels.every.and_then(|c| place[c.index()]);
            labels.streams.retain(|_, class| {
                place[class.index()].is_some_and(|new| {
                    *class = new;
                    true
                })
            });
        }
        self.captures.retain(|(_, labels)| labels.every.is_some() || !labels.streams.is_empty());
        self.classes = classes;
        Ok(())
    }
}

/// Opens a CSV file and reads the names of its columns.
fn open_table(path: &Path) -> Result<(csv::Reader<std::fs::File>, csv::StringRecord), LabelError> {
    let broken = |source| LabelError::Read { path: path.to_path_buf(), source };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(broken)?;
    let header = reader.headers().map_err(broken)?.clone();
    Ok((reader, header))
}

/// Index of a column; case does not matter.
fn find(header: &csv::StringRecord, name: &str) -> Option<usize> {
    header.iter().position(|column| column.eq_ignore_ascii_case(name))
}

fn read_file(path: &Path, rows: &mut Vec<(String, StreamName, String)>) -> Result<KeyKind, LabelError> {
    let broken = |source| LabelError::Read { path: path.to_path_buf(), source };
    let (mut reader, header) = open_table(path)?;
    let column = |name| find(&header, name).ok_or_else(|| LabelError::Column { path: path.to_path_buf(), column: name });
    let (capture, label) = (column("capture")?, column("label")?);
    let host = column("host").ok();
    let flow = match host {
        Some(_) => [0; 5],
        None => [column("proto")?, column("src_ip")?, column("src_port")?, column("dst_ip")?, column("dst_port")?],
    };
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |i: usize| record.get(i).unwrap_or("");
        let port = |i: usize| match cell(i) {
            "" => Ok(0),
            text => text.parse().map_err(|_| LabelError::Row {
                path: path.to_path_buf(),
                line,
                what: format!("'{text}' is not a valid port number (0 to 65535)"),
            }),
        };
        if cell(label).is_empty() || cell(capture).is_empty() {
            let what = "the capture or the label is empty".into();
            return Err(LabelError::Row { path: path.to_path_buf(), line, what });
        }
        let name = match host {
            Some(i) => StreamName::Host(canonical(cell(i))),
            None => {
                StreamName::flow(cell(flow[0]), (cell(flow[1]).into(), port(flow[2])?), (cell(flow[3]).into(), port(flow[4])?))
            }
        };
        rows.push((cell(capture).into(), name, cell(label).into()));
    }
    Ok(if host.is_some() { KeyKind::Host } else { KeyKind::Flow })
}
