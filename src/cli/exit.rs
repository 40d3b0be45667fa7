//! How does a command end? One exit code for each kind of end, the same for every command, offline and as a service.

use std::path::Path;
use std::process::ExitCode;
use std::{fmt, io};

use crate::capture::CaptureError;
use crate::daemon::DaemonError;
use crate::model::ModelError;

/// Kinds of end, the later the worse; the number is the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// Done, but a part of the input was cut short, unreadable or missing, or a wanted threshold was missed; what was good was used.
    Partly = 1,
    /// Misconfigured: the usage, a setting, a filter, a model or a label file is wrong. Nothing was done.
    Misconfigured = 2,
    /// Nothing in it: no capture in the folder, no packet in the captures.
    Nothing = 3,
    /// Unreadable: none of the captures could be read, or what was to be captured from, listened on or written to can't be had.
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
    4  unreadable: no capture could be read, no interface or address opened, no output written\n  \
    5  no privilege to capture, to read or to write";

/// Context of an error in writing what was asked for, which tells it from errors in reading: "FILE: can't write the page".
#[derive(Debug)]
pub struct OutputError(String);

impl OutputError {
    pub fn to(path: &Path, what: &str) -> Self {
        Self(format!("{}: can't write {what}", path.display()))
    }
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Exit {
    /// The end that an error means.
    pub fn of(error: &anyhow::Error) -> Self {
        // A bare one is standard output's: what is read has errors of its own.
        let bare = |e: &(dyn std::error::Error + 'static)| e.is::<io::Error>() || e.is::<csv::Error>();
        let mut output = error.is::<OutputError>() || error.chain().next().is_some_and(bare);
        for cause in error.chain() {
            if let Some(error) = cause.downcast_ref::<CaptureError>() {
                return Self::of_capture(error);
            }
            match cause.downcast_ref::<DaemonError>() {
                Some(DaemonError::Capture(error)) => return Self::of_capture(error),
                Some(
                    DaemonError::Sink(_)
                    | DaemonError::Http(_)
                    | DaemonError::Evidence { .. }
                    | DaemonError::Start(_)
                    | DaemonError::FolderReplaced(_),
                ) => {
                    output = true;
                }
                _ => {}
            }
            output |= matches!(cause.downcast_ref(), Some(ModelError::Write { .. }));
            let denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
            if cause.downcast_ref().is_some_and(denied) {
                return Self::NoPrivilege;
            }
        }
        if output { Self::Unreadable } else { Self::Misconfigured }
    }

    /// The end that a capture's error means, where it is the only one.
    pub fn of_capture(error: &CaptureError) -> Self {
        match error {
            CaptureError::Open { source, .. } | CaptureError::Read { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::NoPrivilege,
                _ => Self::Unreadable,
            },
            CaptureError::Empty { .. } | CaptureError::EmptyFolder { .. } => Self::Nothing,
            CaptureError::NotACapture { .. } | CaptureError::Interface { .. } | CaptureError::Panicked { .. } => Self::Unreadable,
            CaptureError::Privilege { .. } => Self::NoPrivilege,
            CaptureError::Filter { .. } => Self::Misconfigured,
        }
    }

    /// Its name, as messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "fine",
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

/// `println!`, but for what it does where standard output can't be written: a word on standard error and [`Exit::Unreadable`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::exit::check_output(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*))))
    };
}

/// Ends the program where standard output could not be written.
pub(super) fn check_output(written: io::Result<()>) {
    if let Err(error) = written {
        eprintln!("spiked: standard output: {error}");
        std::process::exit(Exit::Unreadable as i32);
    }
}
