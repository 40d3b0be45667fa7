//! How is a folder watched to which somebody else writes captures? Each is read once, in order, when its writer has finished.
//!
//! A capture is finished when its writer was seen to close it or to move it here (inotify). Where that can't be seen (it was there
//! before, another machine writes to a shared folder), it is finished when it has not changed for a while and is not empty.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::live::InputCounters;
use super::{CaptureError, CaptureFile, Filtered, FrameBatch, Nanos, Source};
use crate::atomic_write::replace;

/// How long the engine waits before it looks after its streams.
const WAIT: Duration = Duration::from_millis(50);
/// How often the folder is listed where nothing was seen to happen.
const LIST: Duration = Duration::from_secs(1);
/// Names that uploads give to what is not whole yet.
const UNFINISHED: [&str; 4] = [".tmp", ".part", ".partial", ".filepart"];
/// Remembers over restarts what was read and left.
const READ: &str = ".spiked-read";

/// What becomes of a capture that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    #[default]
    Leave,
    Move,
    Delete,
}

/// A folder whose captures are read as they are finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    pub folder: PathBuf,
    pub on_success: Disposition,
    /// Where captures that were read go, for [`Disposition::Move`].
    pub move_to: Option<PathBuf>,
    /// Where captures that can't be read go, each with its reason beside it.
    pub quarantine_folder: PathBuf,
    /// How long a capture must not have changed to count as finished, where nobody was seen to close it.
    pub settle: Duration,
    /// BPF expression.
    pub filter: Option<String>,
}

/// A file, as far as it tells whether it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct FileVersion {
    size: u64,
    modified: SystemTime,
}

#[derive(Debug)]
struct Observed {
    version: FileVersion,
    /// When it was first seen so.
    since: Instant,
}

/// What the kernel told of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterState {
    Writing,
    Finished,
}

/// A watched folder as a source.
pub struct WatchSource {
    settings: WatchSettings,
    events: Option<OwnedFd>,
    writer_states: BTreeMap<OsString, WriterState>,
    seen: BTreeMap<OsString, Observed>,
    read: BTreeMap<OsString, FileVersion>,
    open: Option<(Filtered<CaptureFile>, PathBuf)>,
    next_list: Instant,
    /// The time that the captures have come to: that of the one read last, were it older than another.
    last: Nanos,
    /// The open capture has given no frame yet.
    fresh: bool,
    last_at: Instant,
    counters: Arc<InputCounters>,
    stop: Arc<AtomicBool>,
}

impl WatchSource {
    /// Begins to watch.
    ///
    /// # Errors
    /// Where the folder can't be listed, or the filter is mistaken.
    pub fn open(settings: &WatchSettings, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let broken = |source| CaptureError::Open { path: settings.folder.display().to_string(), source };
        fs::read_dir(&settings.folder).map_err(broken)?;
        if let Some(filter) = &settings.filter {
            super::Filter::new(filter)?;
        }
        let events = follow(&settings.folder)
            .inspect_err(|error| {
                warn!(folder = %settings.folder.display(), %error, "can't follow the folder's changes; captures count as finished when they have not changed for settle_secs");
            })
            .ok();
        let counters = InputCounters::new("watch", settings.filter.as_deref());
        counters.set_trouble(None);
        let read = if settings.on_success == Disposition::Leave { recall(&settings.folder) } else { BTreeMap::new() };
        Ok(Self {
            settings: settings.clone(),
            events,
            writer_states: BTreeMap::new(),
            seen: BTreeMap::new(),
            read,
            open: None,
            next_list: Instant::now(),
            last: Nanos(0),
            fresh: true,
            last_at: Instant::now(),
            counters: Arc::new(counters),
            stop: Arc::clone(stop),
        })
    }

    pub fn counters(&self) -> &Arc<InputCounters> {
        &self.counters
    }

    /// The time that the captures have come to; it goes on while there is none.
    fn now(&self) -> Nanos {
        let since = u64::try_from(self.last_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.last.0.saturating_add(since))
    }

    /// Takes what the kernel told; returns whether there was anything.
    fn listen(&mut self) -> bool {
        let Some(events) = &self.events else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(events, &mut buffer);
        let mut any = false;
        while let Ok(event) = reader.next() {
            any = true;
            let Some(name) = event.file_name() else { continue };
            let name = std::ffi::OsStr::from_bytes(name.to_bytes()).to_os_string();
            if event.events().intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                self.writer_states.insert(name, WriterState::Finished);
            } else if event.events().intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
                self.writer_states.insert(name, WriterState::Writing);
            }
        }
        any
    }

    /// Lists the folder; returns the oldest capture that is finished and was not read.
    fn find(&mut self, now: Instant) -> io::Result<Option<PathBuf>> {
        let mut there = BTreeMap::new();
        for entry in fs::read_dir(&self.settings.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if text.starts_with('.') || UNFINISHED.iter().any(|ending| text.ends_with(ending)) {
                continue;
            }
            // A file that has just gone is no mistake.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                there.insert(name, FileVersion { size: metadata.len(), modified: metadata.modified()? });
            }
        }
        self.writer_states.retain(|name, _| there.contains_key(name));
        self.seen.retain(|name, _| there.contains_key(name));
        self.read.retain(|name, _| there.contains_key(name));
        let mut finished = Vec::new();
        for (name, version) in there {
            if self.read.get(&name) == Some(&version) {
                continue;
            }
            let seen = self.seen.entry(name.clone()).or_insert_with(|| {
                let age = version.modified.elapsed().unwrap_or_default();
                Observed { version, since: now.checked_sub(age).unwrap_or(now) }
            });
            if seen.version != version {
                *seen = Observed { version, since: now };
            }
            let settled = version.size > 0 && now.saturating_duration_since(seen.since) >= self.settings.settle;
            match self.writer_states.get(&name) {
                Some(WriterState::Finished) => finished.push((version.modified, name)),
                None if settled => finished.push((version.modified, name)),
                Some(WriterState::Writing) | None => {}
            }
        }
        Ok(finished.into_iter().min().map(|(_, name)| self.settings.folder.join(name)))
    }

    /// Opens the next finished capture; `false`: there is none.
    fn advance(&mut self, now: Instant) -> bool {
        let told = self.listen();
        if !told && now < self.next_list {
            return false;
        }
        let path = match self.find(now) {
            Ok(path) => {
                self.counters.set_trouble(None);
                path
            }
            Err(error) => {
                if self.counters.set_trouble(Some(format!("{}: {error}", self.settings.folder.display()))) {
                    warn!(folder = %self.settings.folder.display(), %error, "the watched folder can't be listed");
                }
                None
            }
        };
        let Some(path) = path else {
            self.next_list = now + LIST;
            return false;
        };
        match CaptureFile::open_unmapped(&path).and_then(|file| Filtered::new(file, self.settings.filter.as_deref())) {
            Ok(file) => {
                self.counters.capture_index.begin(self.counters.frames.load(Relaxed), &path.display().to_string());
                self.open = Some((file, path));
                self.fresh = true;
            }
            // It is this process that lacks something: the capture is as good as before.
            Err(error) if error.is_shortage() => {
                if self.counters.set_trouble(Some(error.to_string())) {
                    warn!(capture = %path.display(), %error, "capture can't be opened for now, trying again");
                }
                self.next_list = now + LIST;
                return false;
            }
            Err(error) => self.set_aside(&path, &error),
        }
        true
    }

    fn forget(&mut self, path: &Path) {
        if let Some(name) = path.file_name() {
            self.writer_states.remove(name);
            if let Some(seen) = self.seen.remove(name) {
                self.read.insert(name.to_os_string(), seen.version);
            }
        }
    }

    /// Puts a capture that can't be read where it does no harm, with the reason beside it.
    fn set_aside(&mut self, path: &Path, error: &CaptureError) {
        self.counters.captures_refused.fetch_add(1, Relaxed);
        self.forget(path);
        let folder = &self.settings.quarantine_folder;
        let moved = fs::create_dir_all(folder).and_then(|()| move_into(path, folder));
        match moved {
            Ok(to) => {
                warn!(capture = %path.display(), %error, to = %to.display(), "capture can't be read, set aside");
                let reason = PathBuf::from(format!("{}.reason", to.display()));
                if let Err(error) = fs::write(&reason, format!("{error}\n")) {
                    warn!(file = %reason.display(), %error, "can't write the reason");
                }
            }
            // It stays where it is, and is not tried again until it changes.
            Err(trouble) => {
                warn!(capture = %path.display(), %error, folder = %folder.display(), %trouble, "capture can't be read, and can't be set aside either");
            }
        }
    }

    /// Does with a capture that was read what the settings say.
    fn done(&mut self, file: &Filtered<CaptureFile>, path: &Path) {
        self.counters.captures_read.fetch_add(1, Relaxed);
        match file.cut() {
            Some(cut) => warn!(capture = %path.display(), frames = file.frames(), %cut, "capture read to where it is cut"),
            None => info!(capture = %path.display(), frames = file.frames(), "capture read"),
        }
        self.forget(path);
        let done = match (self.settings.on_success, &self.settings.move_to) {
            (Disposition::Leave, _) => remember(&self.settings.folder, &self.read),
            (Disposition::Delete, _) => fs::remove_file(path),
            (Disposition::Move, Some(folder)) => fs::create_dir_all(folder).and_then(|()| move_into(path, folder)).map(|_| ()),
            (Disposition::Move, None) => Ok(()),
        };
        if let Err(error) = done {
            let on_success = self.settings.on_success;
            warn!(capture = %path.display(), ?on_success, %error, "capture was read, but what should become of it failed");
        }
    }
}

fn follow(folder: &Path) -> io::Result<OwnedFd> {
    let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let what = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
    inotify::add_watch(&events, folder, what)?;
    Ok(events)
}

/// Moves a file into a folder, beside one of its name where there is one.
fn move_into(path: &Path, folder: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut to = folder.join(&name);
    for number in 1..10_000 {
        if !to.exists() {
            break;
        }
        to = folder.join(format!("{number}-{name}"));
    }
    match fs::rename(path, &to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(path, &to)?;
            fs::remove_file(path)?;
        }
        other => other?,
    }
    Ok(to)
}

fn recall(folder: &Path) -> BTreeMap<OsString, FileVersion> {
    let text = fs::read_to_string(folder.join(READ)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn remember(folder: &Path, read: &BTreeMap<OsString, FileVersion>) -> io::Result<()> {
    let lines: io::Result<Vec<String>> = read.iter().map(|entry| Ok(serde_json::to_string(&entry)? + "\n")).collect();
    replace(&folder.join(READ), 0o644, lines?.concat().as_bytes())
}

impl Source for WatchSource {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if self.stop.load(Relaxed) {
            return Ok(false);
        }
        let Some((file, path)) = &mut self.open else {
            if !self.advance(Instant::now()) {
                std::thread::sleep(WAIT);
            }
            return Ok(true);
        };
        let more = match file.fill(batch) {
            Ok(more) => more,
            Err(error) => {
                let path = path.clone();
                self.open = None;
                self.set_aside(&path, &error);
                return Ok(true);
            }
        };
        if more {
            self.counters.frames.fetch_add(batch.len() as u64, Relaxed);
            if !batch.is_empty() {
                let last = batch.frame(batch.len() - 1).timestamp;
                self.last = if self.fresh { last } else { self.last.max(last) };
                self.fresh = false;
            }
            self.last_at = Instant::now();
        } else if let Some((file, path)) = self.open.take() {
            self.done(&file, &path);
        }
        Ok(true)
    }

    fn clock(&self) -> Option<Nanos> {
        Some(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    struct Watched {
        _folder: tempfile::TempDir,
        settings: WatchSettings,
        watch: WatchSource,
    }

    fn watched(then: Disposition, settle: Duration) -> Watched {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = WatchSettings {
            folder: folder.path().join("in"),
            on_success: then,
            move_to: Some(folder.path().join("done")),
            quarantine_folder: folder.path().join("unreadable"),
            settle,
            filter: None,
        };
        fs::create_dir(&settings.folder).expect("a folder");
        let watch = WatchSource::open(&settings, &Arc::default()).expect("a folder");
        Watched { _folder: folder, settings, watch }
    }

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures").join(name)).expect("a fixture")
    }

    /// Reads the captures that are finished, until none is left; returns how many frames they had.
    fn frames(watch: &mut WatchSource) -> usize {
        let (mut batch, mut frames) = (FrameBatch::new(), 0);
        loop {
            watch.next_list = Instant::now();
            if watch.open.is_none() && !watch.advance(watch.next_list) {
                return frames;
            }
            if watch.open.is_some() {
                assert!(watch.fill(&mut batch).expect("never ends"));
                frames += batch.len();
            }
        }
    }

    fn count(name: &str) -> usize {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures").join(name);
        let (mut file, mut batch, mut frames) = (CaptureFile::open(&path).expect("a fixture"), FrameBatch::new(), 0);
        while file.fill(&mut batch).expect("a fixture") {
            frames += batch.len();
        }
        frames
    }

    #[test]
    fn a_capture_still_being_written_is_left_alone_until_it_is_closed() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Leave, Duration::ZERO);
        let octets = fixture("dns-1.pcap");
        let mut writer = File::create(settings.folder.join("a.pcap")).expect("a file");
        writer.write_all(&octets[..1000]).expect("written");
        assert_eq!(frames(&mut watch), 0);
        writer.write_all(&octets[1000..]).expect("written");
        assert_eq!(frames(&mut watch), 0);
        drop(writer);
        assert_eq!(frames(&mut watch), count("dns-1.pcap"));
        assert_eq!(frames(&mut watch), 0, "each capture is read once");
        // Nor after a restart.
        let mut watch = WatchSource::open(&settings, &Arc::default()).expect("a folder");
        assert_eq!(frames(&mut watch), 0);
    }

    #[test]
    fn captures_that_were_there_are_read_oldest_first_when_they_have_settled() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Delete, Duration::from_secs(3600));
        for (name, from, age) in [("b.pcap", "dns-1.pcap", 9000), ("a.pcap", "ntp-1.pcap", 8000), ("c.pcap", "ntp-1.pcap", 10)] {
            let path = settings.folder.join(name);
            fs::write(&path, fixture(from)).expect("written");
            let old = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&path).and_then(|f| f.set_modified(old)).expect("dated");
        }
        watch.events = None;
        assert_eq!(watch.find(Instant::now()).expect("listed").as_deref(), Some(settings.folder.join("b.pcap").as_path()));
        assert_eq!(frames(&mut watch), count("dns-1.pcap") + count("ntp-1.pcap"));
        let left: Vec<_> = fs::read_dir(&settings.folder).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["c.pcap"]);
    }

    #[test]
    fn a_capture_that_is_cut_while_it_is_read_is_read_to_where_it_is_cut() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Leave, Duration::from_secs(60));
        let (octets, path) = (fixture("ssh-1.pcap"), settings.folder.join("a.pcap"));
        let long = [&octets, octets[24..].repeat(100).as_slice()].concat();
        fs::write(&path, &long).expect("written");
        let mut batch = FrameBatch::new();
        while batch.is_empty() {
            assert!(watch.fill(&mut batch).expect("never ends"));
        }
        File::options().write(true).open(&path).and_then(|f| f.set_len(1000)).expect("cut");
        let rest = frames(&mut watch);
        assert!(rest > 0 && batch.len() + rest < 101 * count("ssh-1.pcap"), "{rest}");
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_with_its_reason_and_the_rest_is_moved() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Move, Duration::from_secs(60));
        fs::write(settings.folder.join("bad.pcap"), "no capture at all, this").expect("written");
        fs::write(settings.folder.join("good.pcap"), fixture("ntp-1.pcap")).expect("written");
        fs::write(settings.folder.join("part.pcap.part"), "not whole").expect("written");
        assert_eq!(frames(&mut watch), count("ntp-1.pcap"));
        let reason = fs::read_to_string(settings.quarantine_folder.join("bad.pcap.reason")).expect("a reason");
        assert!(reason.contains("not a pcap"), "{reason}");
        assert!(settings.quarantine_folder.join("bad.pcap").exists());
        assert!(settings.move_to.expect("set").join("good.pcap").exists());
        assert!(settings.folder.join("part.pcap.part").exists());
        assert_eq!((watch.counters.captures_read.load(Relaxed), watch.counters.captures_refused.load(Relaxed)), (1, 1));
    }
}
