//! Requests to S3: clients by bucket, listings, metadata, and what their errors mean.
//!
//! Settings come from the environment, as of the aws command: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`,
//! `AWS_ENDPOINT_URL`; web identities, container and instance credentials too. Its files (`~/.aws`) are not read.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientConfigKey, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::super::format::Format;
use super::super::paths::has_capture_name;
use super::{ExpandedObjects, ObjectState, SCHEME};

/// Times that a request is sent again, and the time after which it is not.
const RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses between them: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Time without a byte after which a connection is taken to be dead.
const SILENCE: &str = "20s";
/// Bound on a whole request. A large capture takes hours, and its silence is bounded anyway.
const WHOLE_REQUEST: &str = "30days";
/// Bytes of an object whose name does not show whether it is a capture, and how many of these objects are looked at at once.
const START: u64 = 4;
const STARTS_AT_ONCE: usize = 16;

/// An object, or a folder of objects.
pub(super) struct Location {
    /// The path as given.
    pub name: String,
    pub bucket: String,
    /// Key of the object, or the folder's without its last slash; empty for the whole bucket.
    pub key: Key,
    /// Whether it can only be a folder: it ends with a slash, or has no key.
    is_folder: bool,
}

impl Location {
    /// # Errors
    /// The path is not UTF-8, names no bucket, or its key has parts that this program can't request: empty, `.` or `..`.
    pub fn parse(path: &Path) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let name = path.to_str().ok_or_else(|| invalid("the name is not UTF-8".into()))?;
        let rest = name.strip_prefix(SCHEME).unwrap_or_default();
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(invalid("has no bucket; give s3://BUCKET/KEY".into()));
        }
        let is_folder = key.is_empty() || key.ends_with('/');
        let key = Key::parse(key).map_err(|error| invalid(format!("not a valid key: {error}")))?;
        Ok(Self { name: name.into(), bucket: bucket.into(), key, is_folder })
    }

    fn path_of(&self, key: &Key) -> PathBuf {
        format!("{SCHEME}{}/{key}", self.bucket).into()
    }
}

/// The runtime of all requests, on a thread of its own: readers are plain threads, and workers of a fleet run in another runtime.
pub(super) fn runtime() -> io::Result<&'static Handle> {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock();
    if let Some(handle) = RUNTIME.get() {
        return Ok(handle);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("spiked-s3".into()).spawn(run)?;
    Ok(RUNTIME.get_or_init(|| handle))
}

/// Waits for a request, on any thread.
pub(super) fn wait<T: Send + 'static>(request: impl Future<Output = io::Result<T>> + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    runtime()?.spawn(async move { sender.send(request.await) });
    receiver.recv().map_err(io::Error::other)?
}

/// The client of a bucket. All objects of a bucket share its connections.
pub(super) fn client(bucket: &str) -> io::Result<Arc<AmazonS3>> {
    static CLIENTS: Mutex<Option<HashMap<String, Arc<AmazonS3>>>> = Mutex::new(None);
    let mut clients = CLIENTS.lock();
    let clients = clients.get_or_insert_default();
    if let Some(client) = clients.get(bucket) {
        return Ok(Arc::clone(client));
    }
    // Fails if the program has a provider, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    let client = AmazonS3Builder::from_env()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ReadTimeout), SILENCE)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), WHOLE_REQUEST)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT })
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| explain(bucket, &error))?;
    let client = Arc::new(client);
    clients.insert(bucket.into(), Arc::clone(&client));
    Ok(client)
}

/// The value of an environment variable, if it has one.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The innermost cause of an error.
fn root<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

/// The error code in the XML of an answer, such as NoSuchBucket.
fn code(answer: &str) -> Option<&str> {
    answer.split_once("<Code>")?.1.split_once("</Code>").map(|(code, _)| code)
}

/// Codes of answers about credentials whose status is not 403.
const CREDENTIALS: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];

/// Whether the server denied access. Errors of listings have no variant of their own.
fn is_denied(error: &object_store::Error, text: &str, code: Option<&str>) -> bool {
    matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. })
        || text.contains("status code: 403")
        || code.is_some_and(|code| CREDENTIALS.contains(&code))
}

/// What an error of a request to a bucket means, and what to do. `PermissionDenied`, `NotFound` and `InvalidInput` are the server's last
/// word; others may pass.
pub(super) fn explain(bucket: &str, error: &object_store::Error) -> io::Error {
    let text = error.to_string();
    let code = code(&text);
    let of_code = code.map_or_else(String::new, |code| format!(" ({code})"));
    let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")).or_else(|| variable("AWS_ENDPOINT"));
    let (kind, message) = match error {
        _ if code == Some("NoSuchBucket") => {
            (io::ErrorKind::NotFound, format!("there is no bucket '{bucket}'; check the name, AWS_REGION and AWS_ENDPOINT_URL"))
        }
        object_store::Error::NotFound { .. } => (io::ErrorKind::NotFound, "there is no such object".into()),
        _ if is_denied(error, &text, code) => (
            io::ErrorKind::PermissionDenied,
            format!(
                "access denied{of_code}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and that they allow \
                 s3:GetObject and s3:ListBucket"
            ),
        ),
        object_store::Error::Precondition { .. } => (io::ErrorKind::Other, "the object has changed while it was read".into()),
        _ if text.contains("169.254.") => (
            io::ErrorKind::PermissionDenied,
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
                .into(),
        ),
        _ if text.contains("redirect without LOCATION") => {
            (io::ErrorKind::InvalidInput, format!("bucket '{bucket}' is in another region; set AWS_REGION"))
        }
        _ if endpoint.as_ref().is_some_and(|url| url.starts_with("http://")) && variable("AWS_ALLOW_HTTP").is_none() => (
            io::ErrorKind::InvalidInput,
            "AWS_ENDPOINT_URL is plain http, which is not encrypted; set AWS_ALLOW_HTTP=true to use it all the same".into(),
        ),
        _ => {
            let to = endpoint.unwrap_or_else(|| format!("region {}", region()));
            let what = code.map_or_else(|| root(error).to_string().trim_end_matches([':', ' ']).to_string(), Into::into);
            (
                io::ErrorKind::Other,
                format!("the request to {to} failed: {what}; check AWS_ENDPOINT_URL, AWS_REGION and the network"),
            )
        }
    };
    io::Error::new(kind, message)
}

/// The region that requests go to.
fn region() -> String {
    variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into())
}

impl ObjectState {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let modified = meta.last_modified.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok());
        Self { size: meta.size, modified: modified.unwrap_or(0), etag: meta.e_tag.clone() }
    }
}

/// The state of an object.
///
/// # Errors
/// There is none, or the server can't be reached or does not allow it.
pub fn state(path: &Path) -> io::Result<ObjectState> {
    let location = Location::parse(path)?;
    let client = client(&location.bucket)?;
    wait(async move { head(&client, &location).await })
}

async fn head(client: &AmazonS3, location: &Location) -> io::Result<ObjectState> {
    match client.head(&location.key).await {
        Ok(meta) => Ok(ObjectState::of(&meta)),
        Err(error) => Err(explain(&location.bucket, &error)),
    }
}

/// Expands a path as folders on disk are: an object is itself, a folder is every capture below it, by first bytes or by name. An object
/// that does not exist is itself too.
///
/// # Errors
/// The server can't be reached or does not allow it, or there is no such bucket.
pub fn expand(path: &Path) -> io::Result<ExpandedObjects> {
    let location = Location::parse(path)?;
    let client = client(&location.bucket)?;
    wait(async move {
        let itself = || ExpandedObjects { captures: vec![location.name.clone().into()], skipped: Vec::new() };
        if !location.is_folder {
            match head(&client, &location).await {
                Ok(_) => return Ok(itself()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
        let below = list(&client, &location).await?;
        Ok(if below.captures.is_empty() && below.skipped.is_empty() && !location.is_folder { itself() } else { below })
    })
}

async fn list(client: &AmazonS3, folder: &Location) -> io::Result<ExpandedObjects> {
    let failed = |error| explain(&folder.bucket, &error);
    let prefix = Some(&folder.key).filter(|key| !key.as_ref().is_empty());
    let objects: Vec<ObjectMeta> = client.list(prefix).try_collect().await.map_err(failed)?;
    // An object without a byte whose name is not a capture's marks a folder.
    let objects = objects.into_iter().filter(|object| object.size > 0 || has_capture_name(Path::new(object.location.as_ref())));
    let judged = futures_util::stream::iter(objects).map(|object| async move {
        let is_capture = has_capture_name(Path::new(object.location.as_ref())) || {
            let start = client.get_range(&object.location, 0..START.min(object.size)).await.map_err(failed)?;
            Format::is_capture(&start)
        };
        Ok::<_, io::Error>((folder.path_of(&object.location), is_capture))
    });
    let mut judged: Vec<(PathBuf, bool)> = judged.buffered(STARTS_AT_ONCE).try_collect().await?;
    judged.sort();
    let mut expanded = ExpandedObjects::default();
    for (path, is_capture) in judged {
        if is_capture { expanded.captures.push(path) } else { expanded.skipped.push(path) }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_objects() {
        let parse = |path: &str| Location::parse(Path::new(path));
        let location = parse("s3://captures/2026/a b%20.pcap").expect("valid");
        assert_eq!((location.bucket.as_str(), location.key.as_ref()), ("captures", "2026/a b%20.pcap"));
        assert!(!location.is_folder);
        assert_eq!(location.path_of(&location.key), Path::new("s3://captures/2026/a b%20.pcap"));
        for folder in ["s3://captures", "s3://captures/", "s3://captures/2026/"] {
            assert!(parse(folder).is_ok_and(|location| location.is_folder && location.bucket == "captures"), "{folder}");
        }
        for invalid in ["s3://", "s3:///x.pcap", "s3://captures/a//b.pcap", "s3://captures/../b.pcap"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn codes_of_answers() {
        assert_eq!(code("404: <Error><Code>NoSuchBucket</Code><Message>x</Message></Error>"), Some("NoSuchBucket"));
        assert_eq!(code("HTTP error: connection refused"), None);
    }
}
