//! Labels: the class of each stream in captures, from label files, logs of other programs, folders and filters.
//!
//! A label file is a table (CSV, with `,`, `;`, `|` or tabs). Columns `capture,proto,src_ip,src_port,dst_ip,dst_port,label` label one
//! bidirectional stream a row, columns `capture,host,label` all that a host sends and receives; the key of the model follows from the
//! columns. Columns `start` and `end` limit a row to a time, for streams that use the same addresses and ports again. Zeek's conn.log (TSV
//! and JSON), Suricata's eve.json, nDPI's CSV and spiked's own events label streams too; those that do not name the capture label the
//! streams of every capture.

mod input;
mod name;
mod row;
mod wrong_lines;

pub use name::StreamName;
pub use wrong_lines::WrongLines;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::capture::{self, CaptureError, Filter, Nanos};
use crate::model::{MAX_CLASSES, is_class_name};
use crate::packet::KeyKind;
use crate::snn::ClassId;

use input::Rows;
use row::{LabelRow, RowSpan};

/// Reason why a label file is rejected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields of the messages")]
pub enum LabelError {
    /// The file cannot be read.
    #[error("{path}: can't read the label file: {source}")]
    Read { path: PathBuf, source: csv::Error },
    /// A column of a label file is missing.
    #[error(
        "{path}: column '{column}' is missing; a label file has the columns capture,proto,src_ip,src_port,dst_ip,dst_port,label (streams) or capture,host,label (hosts); --label-column names another label"
    )]
    Column { path: PathBuf, column: String },
    /// A column of a file of names is missing.
    #[error("{path}: column '{column}' is missing; a file of names has the columns label,class")]
    Rename { path: PathBuf, column: &'static str },
    /// Lines are invalid.
    #[error("{0}")]
    Rows(WrongLines),
    /// A folder cannot be read or has no captures, or a filter is invalid.
    #[error("{0}")]
    Capture(#[from] CaptureError),
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

/// A label that applies at a time only.
#[derive(Clone, Copy, Debug)]
pub struct LabelSpan {
    /// Earliest time of the stream's first packet.
    from: Nanos,
    /// Latest time of the stream's first packet, inclusive.
    to: Nanos,
    /// The class.
    class: ClassId,
}

/// Logs give times to the millisecond or microsecond; a packet this many nanoseconds outside a span is in it.
const TOLERANCE: u64 = 1_000_000;

/// Labels of one capture.
#[derive(Debug, Default)]
pub struct CaptureLabels {
    /// Classes of the streams that have a row.
    pub streams: HashMap<StreamName, ClassId>,
    /// Classes of the streams that have rows with a time, for each row.
    pub spans: HashMap<StreamName, Vec<LabelSpan>>,
    /// The class of every other stream.
    pub every: Option<ClassId>,
    /// BPF filter: only packets that match it are read.
    pub filter: Option<String>,
}

impl CaptureLabels {
    /// The class of a stream whose first packet has the time `first`, if it has one.
    pub fn class_of(&self, name: &StreamName, first: Nanos) -> Option<ClassId> {
        let within = |span: &&LabelSpan| {
            first.0.saturating_add(TOLERANCE) >= span.from.0 && first.0 <= span.to.0.saturating_add(TOLERANCE)
        };
        // Of spans that touch, the later one: it is the one that begins with this packet.
        let span = self.spans.get(name).and_then(|spans| spans.iter().filter(within).max_by_key(|span| span.from));
        span.map(|span| span.class).or_else(|| self.streams.get(name).copied()).or(self.every)
    }

    /// Names of all streams that have a row.
    pub fn names(&self) -> impl Iterator<Item = &StreamName> {
        self.streams.keys().chain(self.spans.keys().filter(|name| !self.streams.contains_key(name)))
    }

    /// Whether the stream has a row.
    pub fn has(&self, name: &StreamName) -> bool {
        self.streams.contains_key(name) || self.spans.contains_key(name)
    }

    fn is_empty(&self) -> bool {
        self.every.is_none() && self.streams.is_empty() && self.spans.is_empty()
    }

    /// Adds a row. Returns whether it contradicts an earlier one, which then applies.
    fn add(&mut self, name: StreamName, class: ClassId, span: Option<RowSpan>) -> bool {
        let Some(RowSpan { from, to }) = span else {
            return *self.streams.entry(name).or_insert(class) != class;
        };
        let spans = self.spans.entry(name).or_default();
        let contradicts = spans.iter().any(|s| (s.from, s.to) == (from, to) && s.class != class);
        if !contradicts {
            spans.push(LabelSpan { from, to, class });
        }
        contradicts
    }

    /// Renumbers the classes; `None` drops the label.
    fn renumber(&mut self, place: &[Option<ClassId>]) {
        let renumber = |class: &mut ClassId| {
            place[class.index()].is_some_and(|new| {
                *class = new;
                true
            })
        };
        self.every = self.every.and_then(|c| place[c.index()]);
        self.streams.retain(|_, class| renumber(class));
        self.spans.values_mut().for_each(|spans| spans.retain_mut(|span| renumber(&mut span.class)));
        self.spans.retain(|_, spans| !spans.is_empty());
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
    /// Labels of streams in whichever capture they are, from files that do not name it.
    pub anywhere: CaptureLabels,
    /// Number of rows.
    pub rows: usize,
    /// Number of rows that label a stream differently from an earlier row; the earlier row applies.
    pub conflicts: usize,
}

/// How label files are read.
#[derive(Clone, Debug)]
pub struct LabelOptions {
    /// The column or JSON field (`alert.category`) that holds the label; `None` for the format's own.
    pub column: Option<String>,
    /// The folder that captures are relative to, or one capture. Rows that do not name a capture label the streams of every capture in it.
    pub captures: PathBuf,
}

impl Default for LabelOptions {
    fn default() -> Self {
        Self { column: None, captures: ".".into() }
    }
}

/// Reads label files of one kind, streams or hosts, by their own columns; see [`LabelOptions::read`].
///
/// # Errors
/// As [`LabelOptions::read`].
pub fn read(files: &[PathBuf]) -> Result<Labels, LabelError> {
    LabelOptions::default().read(files)
}

impl LabelOptions {
    /// Reads label files and logs of one kind, streams or hosts; `-` is standard input.
    ///
    /// # Errors
    /// A file can't be read, lacks a column or has wrong lines; the files are of both kinds or have no rows; there are more classes
    /// than a model may have, or a class name is invalid.
    pub fn read(&self, files: &[PathBuf]) -> Result<Labels, LabelError> {
        let mut key = None;
        let (mut rows, mut wrong) = (Vec::new(), WrongLines::default());
        for path in files {
            let kind = Rows { path, column: self.column.as_deref(), rows: &mut rows, wrong: &mut wrong }.read()?;
            let word = |k| if k == KeyKind::Host { "hosts" } else { "streams" };
            match key {
                Some(other) if other != kind => {
                    return Err(LabelError::Mixed { path: path.clone(), this: word(kind), other: word(other) });
                }
                _ => key = Some(kind),
            }
        }
        if !wrong.is_empty() {
            return Err(LabelError::Rows(wrong));
        }
        self.file(key.filter(|_| !rows.is_empty()).ok_or(LabelError::Empty)?, rows)
    }

    /// Files the rows under their captures.
    fn file(&self, key: KeyKind, rows: Vec<LabelRow>) -> Result<Labels, LabelError> {
        let mut classes: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
        classes.sort();
        classes.dedup();
        check_class_names(&classes)?;
        let mut labels =
            Labels { key, classes, captures: Vec::new(), anywhere: CaptureLabels::default(), rows: rows.len(), conflicts: 0 };
        let mut place: HashMap<String, usize> = HashMap::new();
        for LabelRow { capture, name, label, span } in rows {
            let class = ClassId::from_index(labels.classes.binary_search(&label).unwrap_or(0));
            let labelled = match capture {
                Some(capture) => {
                    let at = *place.entry(capture.clone()).or_insert_with(|| {
                        labels.captures.push((capture, CaptureLabels::default()));
                        labels.captures.len() - 1
                    });
                    &mut labels.captures[at].1
                }
                None => &mut labels.anywhere,
            };
            labels.conflicts += usize::from(labelled.add(name, class, span));
        }
        if !labels.anywhere.is_empty() {
            for capture in captures_below(&self.captures, Path::new(""))? {
                if !place.contains_key(&capture) {
                    labels.captures.push((capture, CaptureLabels::default()));
                }
            }
        }
        Ok(labels)
    }
}

/// The captures at `path`, which is relative to `folder`, by names relative to `folder`: the capture itself, or those of a folder.
fn captures_below(folder: &Path, path: &Path) -> Result<Vec<String>, CaptureError> {
    let at = if path.as_os_str().is_empty() { folder.to_path_buf() } else { folder.join(path) };
    if !at.is_dir() {
        // `--captures` itself may be a capture: an absolute path is not changed by what it is relative to.
        let name = if path.as_os_str().is_empty() { std::path::absolute(&at).unwrap_or(at) } else { path.to_path_buf() };
        return Ok(vec![name.display().to_string()]);
    }
    let relative = |capture: PathBuf| match capture.strip_prefix(folder) {
        Ok(relative) => relative.display().to_string(),
        Err(_) => std::path::absolute(&capture).unwrap_or(capture).display().to_string(),
    };
    Ok(capture::expand(&[at])?.captures.into_iter().map(relative).collect())
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

/// A class given by a capture, a folder of captures, or the packets of a capture that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeClass {
    /// Name of the class.
    pub class: String,
    /// Capture or folder, relative to the folder of the captures.
    pub path: PathBuf,
    /// BPF filter.
    pub filter: Option<String>,
}

impl WholeClass {
    /// Parses `NAME=CAPTURE`, `NAME=FOLDER` or `NAME=CAPTURE:FILTER`. A path below `folder` that exists with its colons has no filter; `None` if
    /// the text is not of one of these forms.
    pub fn parse(text: &str, folder: &Path) -> Option<Self> {
        let (class, rest) = text.split_once('=').filter(|(class, rest)| !class.is_empty() && !rest.is_empty())?;
        let exists = |path: &str| path == "-" || folder.join(path).exists();
        let colon = rest.match_indices(':').map(|(at, _)| at).find(|&at| exists(&rest[..at]));
        let (path, filter) = match colon {
            Some(at) if !exists(rest) => (&rest[..at], Some(rest[at + 1..].trim().to_string())),
            _ => (rest, None),
        };
        Some(Self { class: class.into(), path: path.into(), filter: filter.filter(|filter| !filter.is_empty()) })
    }
}

/// Labels that give every stream of a capture, of the captures in a folder, or of the packets that match a filter the same class.
///
/// # Errors
/// There is no class, a class name or filter is invalid, or a folder has no capture.
pub fn of_classes(given: &[WholeClass], folder: &Path) -> Result<Labels, LabelError> {
    let mut classes: Vec<String> = given.iter().map(|g| g.class.clone()).collect();
    classes.sort();
    classes.dedup();
    check_class_names(&classes)?;
    let mut captures = Vec::new();
    for WholeClass { class, path, filter } in given {
        filter.as_deref().map(Filter::new).transpose()?;
        let every = classes.binary_search(class).ok().map(ClassId::from_index);
        for capture in captures_below(folder, path)? {
            captures.push((capture, CaptureLabels { every, filter: filter.clone(), ..CaptureLabels::default() }));
        }
    }
    if captures.is_empty() {
        return Err(LabelError::Empty);
    }
    let rows = captures.len();
    Ok(Labels { key: KeyKind::Flow, classes, captures, anywhere: CaptureLabels::default(), rows, conflicts: 0 })
}

impl Labels {
    /// Whether labels have times, so that the same addresses and ports may be several streams.
    pub fn has_times(&self) -> bool {
        !self.anywhere.spans.is_empty() || self.captures.iter().any(|(_, labels)| !labels.spans.is_empty())
    }

    /// Renames labels after a CSV file with columns `label,class`; an empty class removes the label.
    ///
    /// # Errors
    /// The file can't be read, lacks a column or has lines that contradict each other, or a class name is invalid.
    pub fn rename(&mut self, path: &Path) -> Result<(), LabelError> {
        let broken = |source| LabelError::Read { path: path.to_path_buf(), source };
        let (mut reader, header) = open_table(path)?;
        let column = |name| find(&header, name).ok_or_else(|| LabelError::Rename { path: path.to_path_buf(), column: name });
        let (from, to) = (column("label")?, column("class")?);
        let (mut names, mut wrong) = (HashMap::new(), WrongLines::default());
        for record in reader.records() {
            let record = record.map_err(broken)?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |column| record.get(column).unwrap_or("").to_string();
            let (label, class) = (cell(from), cell(to));
            let (first, earlier) = names.entry(label.clone()).or_insert_with(|| (line, class.clone()));
            if *earlier != class {
                let what =
                    format!("label '{label}' has class '{class}', but class '{earlier}' in line {first}; remove one of the two");
                wrong.push(path, line, what);
            }
        }
        if !wrong.is_empty() {
            return Err(LabelError::Rows(wrong));
        }
        let renamed: Vec<&str> = self.classes.iter().map(|c| names.get(c).map_or(c.as_str(), |(_, class)| class)).collect();
        let mut classes: Vec<String> = renamed.iter().filter(|c| !c.is_empty()).map(ToString::to_string).collect();
        classes.sort();
        classes.dedup();
        check_class_names(&classes)?;
        let place: Vec<Option<ClassId>> =
            renamed.iter().map(|&c| classes.iter().position(|k| k == c).map(ClassId::from_index)).collect();
        self.captures.iter_mut().for_each(|(_, labels)| labels.renumber(&place));
        self.anywhere.renumber(&place);
        let anywhere = !self.anywhere.is_empty();
        self.captures.retain(|(_, labels)| anywhere || !labels.is_empty());
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
