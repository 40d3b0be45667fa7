//! Writers of the watched folder's files, as inotify(7) reports them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// What the writer of a file did last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterState {
    /// It created or changed the file.
    Writing,
    /// It closed the file, or moved it into the folder.
    Finished,
}

/// The files of a folder whose writers were seen.
pub(super) struct Writers {
    events: OwnedFd,
    states: BTreeMap<OsString, WriterState>,
}

impl Writers {
    /// Starts to observe a folder.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the user's inotify watches are used up.
    pub(super) fn observe(folder: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, folder, flags)?;
        Ok(Self { events, states: BTreeMap::new() })
    }

    /// Reads the events that are pending; returns whether there were any.
    pub(super) fn update(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        let mut any = false;
        while let Ok(event) = reader.next() {
            any = true;
            let Some(name) = event.file_name() else { continue };
            let name = OsStr::from_bytes(name.to_bytes()).to_os_string();
            if event.events().intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                self.states.insert(name, WriterState::Finished);
            } else if event.events().intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
                self.states.insert(name, WriterState::Writing);
            }
        }
        any
    }

    /// What was seen of a file's writer; `None` if nothing.
    pub(super) fn state(&self, name: &OsStr) -> Option<WriterState> {
        self.states.get(name).copied()
    }

    /// Forgets the files that `keep` returns `false` for.
    pub(super) fn retain(&mut self, keep: impl Fn(&OsStr) -> bool) {
        self.states.retain(|name, _| keep(name));
    }
}
