//! The spool: events on disk that no server has acknowledged yet.
//!
//! Input: lines of the sink's queue, in order. Output: records with ids, in the same order, as often as the publisher rewinds.
//!
//! ```text
//! BOOT-NUMBER.events:  detection<TAB>{"event_type":"detection",...}<LF>     NUMBER is that of the first line
//! ```
//! A segment is removed when its last record is acknowledged, so the folder is empty while the servers keep up. Segments survive a
//! restart, and their records keep their ids: the id of the start that wrote them and their number. There is no fsync: what was written
//! survives the end of the process, but a crash of the machine only once the system has written it back.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

/// Size in bytes at which a new segment is started.
const SEGMENT: u64 = 4 << 20;
/// Number of bytes read at once.
const READ: u64 = 256 << 10;
/// Extension of segments.
const EXTENSION: &str = "events";

/// An event of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Start of the daemon that wrote it, and its number in that start, joined by `-`.
    pub id: String,
    /// Type of the event.
    pub event: String,
    /// One JSON object.
    pub text: Vec<u8>,
}

/// A file of records.
struct Segment {
    path: PathBuf,
    file: File,
    boot: String,
    /// Number of the first record.
    first: u64,
    /// Length of the whole records.
    bytes: u64,
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    offset: u64,
    /// Number of records before it in the segment.
    records: u64,
}

/// The folder of segments, locked while it is open.
pub struct Spool {
    folder: PathBuf,
    limit: u64,
    boot: String,
    /// Number of the next record that is appended.
    next: u64,
    segments: VecDeque<Segment>,
    /// First record of the first segment that is not acknowledged.
    acknowledged: Position,
    /// Segment, place in it and unread rest of the last read, of the next record to hand out.
    reading: (usize, Position),
    ahead: VecDeque<u8>,
    /// Lengths of the records that were handed out and not acknowledged.
    in_flight: VecDeque<u64>,
    /// Number of records that are not acknowledged.
    backlog: u64,
    _lock: File,
}

impl Spool {
    /// Opens the folder, which must exist; `limit` is its maximum size in bytes.
    ///
    /// # Errors
    /// The folder can't be read or written, or another process uses it.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(folder.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io::Error::new(io::Error::from(error).kind(), "another process uses this spool"))?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                paths.push(path);
            }
        }
        // Names begin with the time of the start and number with leading zeros.
        paths.sort();
        let (mut segments, mut backlog) = (VecDeque::new(), 0);
        for path in paths {
            let Some((boot, first)) = parse_name(&path) else { continue };
            let (file, bytes, records) = recover(&path)?;
            if records == 0 {
                fs::remove_file(&path)?;
                continue;
            }
            backlog += records;
            segments.push_back(Segment { path, file, boot, first, bytes });
        }
        Ok(Self {
            folder: folder.into(),
            limit,
            boot: boot_id(),
            next: 0,
            segments,
            acknowledged: Position::default(),
            reading: Default::default(),
            ahead: VecDeque::new(),
            in_flight: VecDeque::new(),
            backlog,
            _lock: lock,
        })
    }

    /// Number of records that are not acknowledged.
    pub fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Appends events, given by type and text; returns how many were written whole, and the error if not all were.
    pub fn append<'a>(&mut self, events: impl IntoIterator<Item = (&'a str, &'a str)>) -> (usize, Option<io::Error>) {
        let mut written = 0;
        let mut buffer = Vec::new();
        let mut events = events.into_iter().peekable();
        while let Some((event, text)) = events.peek() {
            buffer.clear();
            let room = self.limit.saturating_sub(self.segments.iter().map(|segment| segment.bytes).sum());
            if (event.len() + text.len() + 2) as u64 > room {
                return (written, Some(self.full()));
            }
            if let Err(error) = self.open_segment() {
                return (written, Some(error));
            }
            let mut records = 0;
            // A segment ends with the record that reaches its size.
            let end = SEGMENT - self.segments.back().map_or(0, |last| last.bytes);
            let fits =
                |length: u64, event: &str, text: &str| length < end && length + (event.len() + text.len() + 2) as u64 <= room;
            while let Some((event, text)) = events.next_if(|(event, text)| fits(buffer.len() as u64, event, text)) {
                buffer.extend_from_slice(event.as_bytes());
                buffer.push(b'\t');
                buffer.extend_from_slice(text.as_bytes());
                buffer.push(b'\n');
                records += 1;
            }
            if let Err(error) = self.write(&buffer, records) {
                return (written, Some(error));
            }
            written += records as usize;
        }
        (written, None)
    }

    fn full(&self) -> io::Error {
        io::Error::new(io::ErrorKind::StorageFull, format!("the spool has reached its maximum of {} MiB", self.limit >> 20))
    }

    /// Makes the last segment one that can be appended to.
    fn open_segment(&mut self) -> io::Result<()> {
        let fits = self.segments.back().is_some_and(|last| last.boot == self.boot && last.bytes < SEGMENT);
        if !fits {
            let path = self.folder.join(format!("{}-{:012}.{EXTENSION}", self.boot, self.next));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(&path)?;
            self.segments.push_back(Segment { path, file, boot: self.boot.clone(), first: self.next, bytes: 0 });
        }
        Ok(())
    }

    fn write(&mut self, buffer: &[u8], records: u64) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        // At the end of the whole records, over what a failed write may have left.
        last.file.write_all_at(buffer, last.bytes)?;
        last.bytes += buffer.len() as u64;
        self.next += records;
        self.backlog += records;
        Ok(())
    }

    /// Hands out the next record; `None` if all were handed out.
    ///
    /// # Errors
    /// A segment can't be read.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            let (index, at) = self.reading;
            let Some(segment) = self.segments.get(index) else { return Ok(None) };
            if let Some(end) = self.ahead.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                let length = line.len() as u64;
                let id = format!("{}-{}", segment.boot, segment.first + at.records);
                self.reading.1 = Position { offset: at.offset + length, records: at.records + 1 };
                self.in_flight.push_back(length);
                return Ok(Some(parse_record(id, &line)));
            }
            let from = at.offset + self.ahead.len() as u64;
            if from < segment.bytes {
                let mut chunk = vec![0; READ.min(segment.bytes - from) as usize];
                segment.file.read_exact_at(&mut chunk, from)?;
                self.ahead.extend(chunk);
            } else if index + 1 < self.segments.len() {
                self.reading = (index + 1, Position::default());
            } else {
                return Ok(None);
            }
        }
    }

    /// Hands out again, from the first, all records that are not acknowledged.
    pub fn rewind(&mut self) {
        self.reading = (0, self.acknowledged);
        self.ahead.clear();
        self.in_flight.clear();
    }

    /// Removes the first record that was handed out.
    ///
    /// # Errors
    /// A segment can't be removed; it will be handed out again after a restart.
    pub fn acknowledge(&mut self) -> io::Result<()> {
        let (Some(length), Some(first)) = (self.in_flight.pop_front(), self.segments.front()) else { return Ok(()) };
        self.backlog -= 1;
        self.acknowledged.offset += length;
        self.acknowledged.records += 1;
        if self.acknowledged.offset < first.bytes {
            return Ok(());
        }
        let done = self.segments.pop_front();
        self.acknowledged = Position::default();
        self.reading = match self.reading {
            (0, _) => (0, Position::default()),
            (index, at) => (index - 1, at),
        };
        done.map_or(Ok(()), |done| fs::remove_file(done.path))
    }
}

/// Identifies this start: its time in milliseconds and a random part, so that names of later starts sort behind.
fn boot_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let random = RandomState::new().hash_one(std::process::id()) & 0xffff;
    format!("{:012x}{random:04x}", now.as_millis())
}

fn parse_name(path: &Path) -> Option<(String, u64)> {
    let (boot, first) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((boot.into(), first.parse().ok()?))
}

fn parse_record(id: String, line: &[u8]) -> Record {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let tab = line.iter().position(|&byte| byte == b'\t').unwrap_or(0);
    let event = String::from_utf8_lossy(&line[..tab]).into_owned();
    Record { id, event, text: line.get(tab + 1..).unwrap_or_default().to_vec() }
}

/// Opens a segment of an earlier start and removes a partial last record; returns the file, its length and its number of records.
fn recover(path: &Path) -> io::Result<(File, u64, u64)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let content = fs::read(path)?;
    let whole = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let records = content[..whole].iter().filter(|&&byte| byte == b'\n').count();
    file.set_len(whole as u64)?;
    file.flush()?;
    Ok((file, whole as u64, records as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(spool: &mut Spool, texts: &[String]) -> (usize, Option<io::Error>) {
        spool.append(texts.iter().map(|text| ("detection", text.as_str())))
    }

    fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| format!("{{\"number\":{number}}}")).collect()
    }

    fn read(spool: &mut Spool) -> Vec<Record> {
        std::iter::from_fn(|| spool.next_record().expect("readable")).collect()
    }

    fn segments(folder: &Path) -> usize {
        let all = fs::read_dir(folder).expect("a folder").flatten();
        all.filter(|entry| entry.path().extension().is_some_and(|e| e == EXTENSION)).count()
    }

    #[test]
    fn unacknowledged_records_are_handed_out_again_with_their_ids() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
        assert!(append(&mut spool, &texts(0..10)).1.is_none());
        let first = read(&mut spool);
        assert_eq!(first.len(), 10);
        assert_eq!((first[3].event.as_str(), first[3].text.as_slice()), ("detection", &b"{\"number\":3}"[..]));
        (0..4).for_each(|_| spool.acknowledge().expect("acknowledged"));
        assert_eq!(spool.backlog(), 6);
        spool.rewind();
        assert_eq!(read(&mut spool), first[4..]);
        assert!(Spool::open(folder.path(), 1 << 20).is_err(), "it is locked");
        drop(spool);

        // As after a kill in the middle of a write.
        let path = fs::read_dir(folder.path()).expect("a folder").flatten().map(|e| e.path()).find(|p| p.extension().is_some());
        let mut file = OpenOptions::new().append(true).open(path.expect("a segment")).expect("opened");
        file.write_all(b"detection\t{\"num").expect("written");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
        assert_eq!(spool.backlog(), 10);
        assert!(append(&mut spool, &texts(10..12)).1.is_none());
        let again = read(&mut spool);
        assert_eq!(again[..10], first);
        assert_eq!(again.len(), 12);
        assert_ne!(again[10].id.split('-').next(), first[0].id.split('-').next(), "another start");
        (0..12).for_each(|_| spool.acknowledge().expect("acknowledged"));
        assert_eq!((spool.backlog(), segments(folder.path())), (0, 0));
        assert!(append(&mut spool, &texts(12..13)).1.is_none());
        assert_eq!(read(&mut spool).len(), 1);
    }

    #[test]
    fn the_limit_holds_and_acknowledgements_make_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 9 << 20).expect("opened");
        let long: Vec<String> = (0..12).map(|_| "x".repeat(1 << 20)).collect();
        let (written, error) = append(&mut spool, &long);
        assert_eq!((written, error.map(|e| e.kind())), (8, Some(io::ErrorKind::StorageFull)));
        assert!(segments(folder.path()) >= 2);
        for _ in 0..8 {
            assert!(spool.next_record().expect("readable").is_some());
            spool.acknowledge().expect("acknowledged");
        }
        assert_eq!(segments(folder.path()), 0);
        assert_eq!(append(&mut spool, &long[8..]).0, 4);
        assert_eq!(read(&mut spool).len(), 4);
    }
}
