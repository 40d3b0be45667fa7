//! Label files as they are found: opened, decompressed, and told apart by their first line into tables (CSV with any separator, Zeek's
//! TSV) and JSON lines.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use crate::capture::decompress;
use crate::packet::KeyKind;

use super::row::{Field, LabelRow, row};
use super::{LabelError, WrongLines};

/// Separators that are recognized; the one that occurs most often in the header is the file's.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// How IoT-23 separates the columns that it appends to Zeek's logs, which have tabs elsewhere.
const SPACES: &str = "   ";

/// Where the rows of a file go.
pub(super) struct Rows<'a> {
    pub path: &'a Path,
    /// The column or JSON field that holds the label; `None` for the format's own.
    pub column: Option<&'a str>,
    pub rows: &'a mut Vec<LabelRow>,
    pub wrong: &'a mut WrongLines,
}

impl Rows<'_> {
    fn read_error(&self, source: io::Error) -> LabelError {
        LabelError::Read { path: self.path.to_path_buf(), source: source.into() }
    }

    fn names(&self, field: Field) -> Vec<&str> {
        match self.column {
            Some(column) if field == Field::Label => vec![column],
            _ => field.names().to_vec(),
        }
    }

    fn add(&mut self, line: u64, row: Result<Option<LabelRow>, String>) {
        match row {
            Ok(row) => self.rows.extend(row),
            Err(what) => self.wrong.push(self.path, line, what),
        }
    }

    /// Reads the file; returns the kind of key that it labels.
    pub fn read(mut self) -> Result<KeyKind, LabelError> {
        let mut reader = open(self.path).map_err(|error| self.read_error(error))?;
        let mut first = Vec::new();
        reader.read_until(b'\n', &mut first).map_err(|error| self.read_error(error))?;
        let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&first);
        if text.starts_with(b"{") {
            self.json(Cursor::new(text.to_vec()).chain(reader))?;
            return Ok(KeyKind::Flow);
        }
        if text.starts_with(b"#separator") {
            self.zeek(reader)?;
            return Ok(KeyKind::Flow);
        }
        let header = text.to_vec();
        self.table(&header, Cursor::new(header.clone()).chain(reader))
    }

    /// A CSV file: a label file, nDPI's or spiked's own events.
    fn table(mut self, header: &[u8], text: impl Read) -> Result<KeyKind, LabelError> {
        let separator = separator(header);
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).flexible(true).trim(csv::Trim::All).from_reader(text);
        let broken = |source| LabelError::Read { path: self.path.to_path_buf(), source };
        let header = reader.headers().map_err(broken)?.clone();
        let names: Vec<String> = header.iter().map(normalized).collect();
        let has = |name: &str| names.iter().any(|n| n == name);
        let host = has("host") && !has("event_type");
        let log = has("ndpi_proto") || has("event_type");
        let at = self.columns(&names, host)?;
        let mut record = csv::StringRecord::new();
        loop {
            let read = reader.read_record(&mut record);
            let line = |position: Option<&csv::Position>| position.map_or(0, csv::Position::line);
            match read {
                Ok(false) => break,
                Ok(true) if !log && record.len() != header.len() => {
                    let what = format!("{} columns instead of the {} of the header", record.len(), header.len());
                    self.add(line(record.position()), Err(what));
                }
                Ok(true) => {
                    let cell = |field: Field| at[field as usize].and_then(|i| record.get(i)).map(Cow::Borrowed);
                    self.add(line(record.position()), row(cell, !log, host));
                }
                Err(error) if error.is_io_error() => {
                    return Err(LabelError::Read { path: self.path.to_path_buf(), source: error });
                }
                Err(error) => self.add(line(error.position()), Err("is not valid UTF-8".into())),
            }
        }
        Ok(if host { KeyKind::Host } else { KeyKind::Flow })
    }

    /// Column of each field, by the names of all columns.
    fn columns(&self, names: &[String], host: bool) -> Result<[Option<usize>; Field::ALL.len()], LabelError> {
        let mut at = [None; Field::ALL.len()];
        for field in Field::ALL {
            let position = |name: &&str| names.iter().position(|n| *n == normalized(name));
            at[field as usize] = self.names(field).iter().find_map(position);
        }
        let flow = [Field::Proto, Field::SrcIp, Field::SrcPort, Field::DstIp, Field::DstPort];
        let needed = [Field::Label].into_iter().chain(flow.into_iter().filter(|_| !host));
        for field in needed {
            if at[field as usize].is_none() {
                let column = self.names(field)[0].to_string();
                return Err(LabelError::Column { path: self.path.to_path_buf(), column });
            }
        }
        Ok(at)
    }

    /// Zeek's log as tab-separated values, whose first line was read.
    fn zeek(&mut self, reader: impl BufRead) -> Result<(), LabelError> {
        let mut at = None;
        // IoT-23 separates its columns by spaces, so that they are one column with Zeek's last.
        let split = |line: &str| -> Vec<String> {
            line.split('\t').flat_map(|cell| cell.split(SPACES)).map(|c| c.trim().to_string()).collect()
        };
        for (number, line) in (2..).zip(reader.split(b'\n')) {
            let line = line.map_err(|error| self.read_error(error))?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if let Some(fields) = line.strip_prefix("#fields") {
                let names: Vec<String> = split(fields.trim_start()).iter().map(|name| normalized(name)).collect();
                at = Some((self.columns(&names, false)?, names.iter().position(|name| name == "ts")));
            }
            let Some((at, ts)) = at.as_ref().filter(|_| !line.starts_with('#') && !line.is_empty()) else { continue };
            let cells = split(line);
            let cell = |field: Field| {
                let place = if field == Field::Start { *ts } else { at[field as usize] };
                place.and_then(|i| cells.get(i)).map(|cell| Cow::Borrowed(cell.as_str()))
            };
            self.add(number, row(cell, false, false));
        }
        match at {
            Some(_) => Ok(()),
            None => Err(LabelError::Column { path: self.path.to_path_buf(), column: "#fields".into() }),
        }
    }

    /// JSON lines: Suricata's EVE, Zeek's logs, spiked's own events.
    fn json(&mut self, reader: impl BufRead) -> Result<(), LabelError> {
        let mut labelled = false;
        for (number, line) in (1..).zip(reader.split(b'\n')) {
            let line = line.map_err(|error| self.read_error(error))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value: serde_json::Value = match serde_json::from_slice(&line) {
                Ok(value) => value,
                Err(_) => {
                    self.add(number, Err("is not valid JSON".into()));
                    continue;
                }
            };
            let zeek = value.get("id.orig_h").is_some();
            let cell = |field: Field| match field {
                Field::Start if zeek => json_text(&value, "ts"),
                Field::Host => None,
                field => self.names(field).iter().find_map(|name| json_text(&value, name)),
            };
            labelled |= cell(Field::Label).is_some();
            let row = row(cell, false, false);
            self.add(number, row);
        }
        match self.column {
            Some(column) if !labelled => Err(LabelError::Column { path: self.path.to_path_buf(), column: column.into() }),
            _ => Ok(()),
        }
    }
}

/// Opens a label file, compressed or not; `-` is standard input.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut reader: Box<dyn Read + Send> =
        if path.as_os_str() == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut start = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut start)?;
    Ok(Box::new(BufReader::new(decompress(&start.clone(), Cursor::new(start).chain(reader))?)))
}

/// The separator of the columns of a header.
fn separator(header: &[u8]) -> u8 {
    let count = |separator: &u8| header.iter().filter(|b| *b == separator).count();
    // The first of several with the same number, so that a file of one column counts as CSV.
    SEPARATORS.into_iter().rev().max_by_key(count).unwrap_or(b',')
}

/// A column's name in the spelling of [`Field::names`]: nDPI's header is a comment.
fn normalized(name: &str) -> String {
    name.trim().trim_start_matches(['\u{feff}', '#']).to_ascii_lowercase().replace([' ', '-'], "_")
}

/// A field of an object as text; `flow.start` is the field of that name, or else the field `start` of `flow`.
fn json_text<'a>(value: &'a serde_json::Value, name: &str) -> Option<Cow<'a, str>> {
    let nested = || name.split('.').try_fold(value, |value, part| value.get(part));
    match value.get(name).or_else(nested)? {
        serde_json::Value::String(text) => Some(text.as_str().into()),
        serde_json::Value::Number(number) => Some(number.to_string().into()),
        serde_json::Value::Bool(value) => Some(value.to_string().into()),
        // Suricata lists several values of a field, of which the first counts.
        serde_json::Value::Array(values) => values.first()?.as_str().map(Into::into),
        _ => None,
    }
}
