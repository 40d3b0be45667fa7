//! Watched folder as a source: each capture that another program writes to it is read once, in order, when it is complete.
//!
//! A capture is complete when its writer was seen to close it or to move it into the folder (inotify). If that can't be seen (the file
//! was there before, or another machine writes to a shared folder), it is complete when it is not empty and has not changed for a while.

mod dispose;
mod read_list;
mod scan;
mod settings;
mod writers;

pub use settings::{Disposition, WatchSettings};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{CaptureError, CaptureFile, Filter, Filtered, FrameBatch, InputCounters, InterfaceNames, Nanos, Source};
use dispose::{move_into, quarantine};
use read_list::ReadList;
use scan::FolderScan;

/// Longest wait for a capture, so that the engine can expire streams in between.
const WAIT: Duration = Duration::from_millis(50);
/// How often the folder is listed while no change is seen.
const LIST: Duration = Duration::from_secs(1);

/// A watched folder as a source.
pub struct WatchSource {
    settings: WatchSettings,
    scan: FolderScan,
    open: Option<(Filtered<CaptureFile>, PathBuf)>,
    next_list: Instant,
    /// The latest timestamp of the last capture read, even if that capture is older than one before it.
    last: Nanos,
    /// Whether the open capture has given no frame yet.
    fresh: bool,
    /// When a batch was last read.
    last_at: Instant,
    interfaces: Arc<InterfaceNames>,
    counters: Arc<InputCounters>,
    stop: Arc<AtomicBool>,
}

impl WatchSource {
    /// Starts to watch a folder.
    ///
    /// # Errors
    /// If the folder can't be listed, or the filter is invalid.
    pub fn open(settings: &WatchSettings, stop: &Arc<AtomicBool>) -> Result<Self, CaptureError> {
        let open_error = |source| CaptureError::Open { path: settings.folder.display().to_string(), source };
        fs::read_dir(&settings.folder).map_err(open_error)?;
        if let Some(filter) = &settings.filter {
            Filter::new(filter)?;
        }
        let leave = settings.on_success == Disposition::Leave;
        let read = if leave { ReadList::load(&settings.folder) } else { ReadList::default() };
        let counters = InputCounters::new("watch", settings.filter.as_deref());
        counters.set_last_error(None);
        Ok(Self {
            settings: settings.clone(),
            scan: FolderScan::new(&settings.folder, settings.settle, read),
            open: None,
            next_list: Instant::now(),
            last: Nanos(0),
            fresh: true,
            last_at: Instant::now(),
            interfaces: Arc::default(),
            counters: Arc::new(counters),
            stop: Arc::clone(stop),
        })
    }

    /// Counters of the input.
    pub fn counters(&self) -> &Arc<InputCounters> {
        &self.counters
    }

    /// Names of the interfaces that the captures name.
    pub fn interfaces(&self) -> &Arc<InterfaceNames> {
        &self.interfaces
    }

    /// The current time: that of the captures, which goes on while there is none to read.
    fn now(&self) -> Nanos {
        let since = u64::try_from(self.last_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.last.0.saturating_add(since))
    }

    /// Opens the next complete capture; `false` if there is none.
    fn advance(&mut self, now: Instant) -> bool {
        let changed = self.scan.update();
        if !changed && now < self.next_list {
            return false;
        }
        let path = match self.scan.next_complete(now) {
            Ok(path) => {
                self.counters.set_last_error(None);
                path
            }
            Err(error) => {
                if self.counters.set_last_error(Some(format!("{}: {error}", self.settings.folder.display()))) {
                    warn!(folder = %self.settings.folder.display(), %error, "the watched folder can't be listed");
                }
                None
            }
        };
        let Some(path) = path else {
            self.next_list = now + LIST;
            return false;
        };
        let file = CaptureFile::open_unmapped(&path).map(|file| file.with_interfaces(&self.interfaces));
        match file.and_then(|file| Filtered::new(file, self.settings.filter.as_deref())) {
            Ok(file) => {
                self.counters.capture_index.begin(self.counters.frames.load(Relaxed), &path.display().to_string());
                self.open = Some((file, path));
                self.fresh = true;
            }
            Err(error) if error.is_shortage() => {
                if self.counters.set_last_error(Some(error.to_string())) {
                    warn!(capture = %path.display(), %error, "capture can't be opened for now; will retry");
                }
                self.next_list = now + LIST;
                return false;
            }
            Err(error) => self.refuse(&path, &error),
        }
        true
    }

    /// Quarantines a capture that can't be read.
    fn refuse(&mut self, path: &Path, error: &CaptureError) {
        self.counters.captures_refused.fetch_add(1, Relaxed);
        self.scan.mark_read(path);
        quarantine(path, &self.settings.quarantine_folder, error);
    }

    /// Leaves, moves or deletes a capture that was read, as the settings require.
    fn finish(&mut self, file: &Filtered<CaptureFile>, path: &Path) {
        self.counters.captures_read.fetch_add(1, Relaxed);
        match file.truncation() {
            Some(why) => {
                warn!(capture = %path.display(), frames = file.frames(), %why, "capture read up to where it is truncated")
            }
            None => info!(capture = %path.display(), frames = file.frames(), "capture read"),
        }
        self.scan.mark_read(path);
        let disposed = match (self.settings.on_success, &self.settings.move_to) {
            (Disposition::Leave, _) => self.scan.save_read_list(),
            (Disposition::Delete, _) => fs::remove_file(path),
            (Disposition::Move, Some(folder)) => move_into(path, folder).map(|_| ()),
            (Disposition::Move, None) => Ok(()),
        };
        if let Err(error) = disposed {
            let on_success = self.settings.on_success;
            warn!(capture = %path.display(), ?on_success, %error, "capture was read, but the on_success action failed");
        }
    }
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
                self.refuse(&path, &error);
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
            self.finish(&file, &path);
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
    use std::time::SystemTime;

    struct Watched {
        _folder: tempfile::TempDir,
        settings: WatchSettings,
        watch: WatchSource,
    }

    fn watched(on_success: Disposition, settle: Duration) -> Watched {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = WatchSettings {
            folder: folder.path().join("in"),
            on_success,
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

    /// Reads the captures that are complete, until none is left; returns how many frames they had.
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
        let bytes = fixture("dns-1.pcap");
        let mut writer = File::create(settings.folder.join("a.pcap")).expect("a file");
        writer.write_all(&bytes[..1000]).expect("written");
        assert_eq!(frames(&mut watch), 0);
        writer.write_all(&bytes[1000..]).expect("written");
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
        watch.scan.ignore_writers();
        assert_eq!(
            watch.scan.next_complete(Instant::now()).expect("listed").as_deref(),
            Some(settings.folder.join("b.pcap").as_path())
        );
        assert_eq!(frames(&mut watch), count("dns-1.pcap") + count("ntp-1.pcap"));
        let left: Vec<_> = fs::read_dir(&settings.folder).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["c.pcap"]);
    }

    #[test]
    fn a_capture_that_is_truncated_while_it_is_read_is_read_up_to_there() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Leave, Duration::from_secs(60));
        let (bytes, path) = (fixture("ssh-1.pcap"), settings.folder.join("a.pcap"));
        let long = [&bytes, bytes[24..].repeat(100).as_slice()].concat();
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
    fn interfaces_that_captures_name_have_one_number() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Delete, Duration::from_secs(60));
        let mut batch = FrameBatch::new();
        for name in ["a.pcapng", "b.pcapng"] {
            fs::write(settings.folder.join(name), fixture("mixed.pcapng")).expect("written");
            batch.clear();
            while batch.is_empty() {
                watch.next_list = Instant::now();
                assert!(watch.fill(&mut batch).expect("never ends"));
            }
            let interface = batch.frame(0).interface.expect("pcapng has interfaces");
            assert_eq!(interface.index(), 0);
            assert!(watch.interfaces().name(interface).is_some());
            frames(&mut watch);
        }
    }

    #[test]
    fn an_unreadable_capture_is_quarantined_with_its_reason_and_the_rest_is_moved() {
        let Watched { settings, mut watch, _folder } = watched(Disposition::Move, Duration::from_secs(60));
        fs::write(settings.folder.join("bad.pcap"), "this is not a capture").expect("written");
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
