//! Objects of S3 buckets as captures: paths that begin with `s3://`.
//!
//! Input: `s3://BUCKET/KEY`, the key as the server has it, without percent-encoding. Without the cargo feature `fleet` all functions fail
//! with an error that names the feature.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

#[cfg(feature = "fleet")]
mod client;
#[cfg(feature = "fleet")]
mod reader;

#[cfg(feature = "fleet")]
pub use client::{expand, state};
#[cfg(feature = "fleet")]
pub(super) use reader::open;

/// How paths of objects begin.
const SCHEME: &str = "s3://";

/// Whether a path names an object or a folder of an S3 bucket.
pub fn is_s3(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(SCHEME.as_bytes())
}

/// The content of an object, as far as a request for its metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: u64,
    /// Entity tag (RFC 9110, section 8.8.3), which changes with the content; `None` if the server gives none.
    pub etag: Option<String>,
}

/// What a path expands to.
#[derive(Debug, Default)]
pub struct ExpandedObjects {
    /// The captures: the object itself, or those below the folder, sorted by key.
    pub captures: Vec<PathBuf>,
    /// Objects below the folder that are not captures.
    pub skipped: Vec<PathBuf>,
}

/// Why the last bytes of an object could not be read; unset while none are missing.
pub(super) type ReadFailure = Arc<OnceLock<String>>;

/// An object that is being read.
pub(super) struct OpenObject {
    /// The content from its first byte on.
    pub reader: Box<dyn io::Read + Send>,
    /// Its state when it was opened; reads of other content fail.
    pub state: ObjectState,
    /// Set by the reader when it fails.
    pub failure: ReadFailure,
}

#[cfg(not(feature = "fleet"))]
mod absent {
    use super::{ExpandedObjects, OpenObject, Path, io};

    fn error<T>() -> io::Result<T> {
        let why = "this build can't read from S3; build it with `cargo build --release --features fleet`";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    pub fn open(_: &Path, _: impl Fn() -> bool + Send + 'static) -> io::Result<OpenObject> {
        error()
    }

    /// Expands a path.
    ///
    /// # Errors
    /// Always: the feature is missing.
    pub fn expand(_: &Path) -> io::Result<ExpandedObjects> {
        error()
    }
}

#[cfg(not(feature = "fleet"))]
pub use absent::expand;
#[cfg(not(feature = "fleet"))]
pub(super) use absent::open;
