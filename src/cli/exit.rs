//! How does a command end? One exit code for each kind of end, the same for every command, offline and as a service.

use std::io;
use std::process::ExitCode;

use crate::capture::CaptureError;
use crate::daemon::DaemonError;

/// Kinds of end, the later the worse; the number is the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// All went well.
    Fine = 0,
    /// Done, but a part of the input was cut short, unreadable or missing, or a wanted threshold was missed; what was good was used.
    Partly = 1,
    /// Misconfigured: the usage, a setting, a filter, a model or a label file is wrong. Nothing was done.
    Misconfigured = 2,
    /// Nothing in it: no capture in the folder, no packet in the captures.
    Nothing = 3,
    /// Unreadable: none of the captures could be read, or what was to be captured from or written to is not there.
    Unreadable = 4,
    /// The privilege is lacking: to capture, to read a file, to write one.
    NoPrivilege = 5,
}

/// What `--help` and the man page say of it.
pub const HELP: &str = "Exit codes, the same for every command:\n  \
    0  fine\n  \
    1  done, but something was cut short, unreadable or missing; what was good was used\n  \
    2  misconfigured: wrong usage, setting, filter, model or label file; nothing was done\n  \
    3  nothing in it: no capture in the folder, no packet in the captures\n  \
    4  unreadable: no capture could be read, no interface opened, no output written\n  \
    5  no privilege to capture, to read or to write";

impl Exit {
    /// The end that an error means.
    pub fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(error) = cause.downcast_ref::<CaptureError>() {
                return Self::of_capture(error);
            }
            if let Some(DaemonError::Capture(error)) = cause.downcast_ref::<DaemonError>() {
                return Self::of_capture(error);
            }
            if let Some(DaemonError::Sink(_)) = cause.downcast_ref::<DaemonError>() {
                return Self::Unreadable;
            }
            if let Some(error) = cause.downcast_ref::<io::Error>()
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                return Self::NoPrivilege;
            }
        }
        Self::Misconfigured
    }

    /// The end that a capture's error means, where it is the only one.
    pub fn of_capture(error: &CaptureError) -> Self {
        match error {
            CaptureError::Open { source, .. } | CaptureError::Read { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::NoPrivilege,
                _ => Self::Unreadable,
            },
            CaptureError::Empty { .. } | CaptureError::EmptyFolder { .. } => Self::Nothing,
            CaptureError::NotACapture { .. } | CaptureError::Interface { .. } => Self::Unreadable,
            CaptureError::Privilege { .. } => Self::NoPrivilege,
            CaptureError::Filter { .. } => Self::Misconfigured,
        }
    }

    /// Its name, as messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Partly => "done in part",
            Self::Misconfigured => "misconfigured",
            Self::Nothing => "nothing in it",
            Self::Unreadable => "unreadable",
            Self::NoPrivilege => "no privilege",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
