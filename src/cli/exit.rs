//! Exit codes, the same for every command, offline and as a service.

use std::path::Path;
use std::process::ExitCode;
use std::{fmt, io};

use crate::capture::CaptureError;
use crate::daemon::DaemonError;
#[cfg(feature = "fleet")]
use crate::fleet::connection::FleetError;
use crate::model::ModelError;

/// How a command ended, in order of severity. The number is the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// Success.
    Ok = 0,
    /// Done, but part of the input was cut short, unreadable or missing, or a requested threshold was missed. The rest was processed.
    Partly = 1,
    /// Wrong usage, or an invalid setting, filter, model or label file. Nothing was done.
    Misconfigured = 2,
    /// No input: no capture in the folder, no packet in the captures, or no stream to explain.
    Nothing = 3,
    /// No capture could be read, or an interface, address or output could not be opened.
    Unreadable = 4,
    /// Missing privilege to capture, to read or to write.
    NoPrivilege = 5,
}

/// Exit codes as `--help` and the man page list them.
pub const HELP: &str = "Exit codes, the same for every command:\n  \
    0  ok\n  \
    1  done in part: something was cut short, unreadable or missing; the rest was processed\n  \
    2  misconfigured: wrong usage, setting, filter, model or label file; nothing was done\n  \
    3  no input: no capture in the folder, no packet in the captures, no stream to explain\n  \
    4  unreadable: no capture could be read, or an interface, address or output could not be opened\n  \
    5  no privilege: capturing, reading or writing is not permitted";

/// Context that marks an error as an output error, as opposed to one of reading: "FILE: can't write the page".
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
    /// The exit code for an error.
    pub fn of(error: &anyhow::Error) -> Self {
        let mut output = error.is::<OutputError>() || is_of_standard_output(error);
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
            #[cfg(feature = "fleet")]
            if let Some(error) = cause.downcast_ref::<FleetError>() {
                return Self::of_fleet(error);
            }
            output |= matches!(cause.downcast_ref(), Some(ModelError::Write { .. }));
            let denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
            if cause.downcast_ref().is_some_and(denied) {
                return Self::NoPrivilege;
            }
        }
        if output { Self::Unreadable } else { Self::Misconfigured }
    }

    #[cfg(feature = "fleet")]
    fn of_fleet(error: &FleetError) -> Self {
        match error {
            FleetError::Permission(_) => Self::NoPrivilege,
            FleetError::Connection(_) | FleetError::Server(_) | FleetError::Record(_) => Self::Unreadable,
            FleetError::File { .. } | FleetError::OldServer(_) => Self::Misconfigured,
        }
    }

    /// The exit code for a capture error that is the only one.
    pub fn of_capture(error: &CaptureError) -> Self {
        match error {
            CaptureError::Open { source, .. } | CaptureError::Read { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::NoPrivilege,
                _ => Self::Unreadable,
            },
            CaptureError::Empty { .. } | CaptureError::EmptyFolder { .. } => Self::Nothing,
            CaptureError::NotACapture { .. }
            | CaptureError::CutHeader { .. }
            | CaptureError::Interface { .. }
            | CaptureError::Panicked { .. } => Self::Unreadable,
            CaptureError::Privilege { .. } => Self::NoPrivilege,
            CaptureError::Filter { .. } => Self::Misconfigured,
        }
    }

    /// Name of the outcome in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partly => "done in part",
            Self::Misconfigured => "misconfigured",
            Self::Nothing => "no input",
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

/// Whether the error comes from writing to standard output, as an I/O error without context does: input has error types of its own.
pub fn is_of_standard_output(error: &anyhow::Error) -> bool {
    error.chain().next().is_some_and(|e| e.is::<io::Error>() || e.is::<csv::Error>())
}

/// `println!` that ends the program with a message and [`Exit::Unreadable`] where standard output can't be written, instead of panicking.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::exit::check_output(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*))))
    };
}

/// Ends the program if standard output could not be written.
pub(super) fn check_output(written: io::Result<()>) {
    if let Err(error) = written {
        eprintln!("spiked: standard output: {error}");
        std::process::exit(Exit::Unreadable as i32);
    }
}
