//! Connections to the servers, and what the servers report about them beside the answers.
//!
//! The client tries to connect once and then returns why it could not: with `retry_on_initial_connect` it would hide a bad certificate
//! for ever. A forbidden publish gets no answer, only an error on the connection, which [`ServerErrors`] records.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{
    self,
    context::{PublishError, PublishErrorKind},
};
use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::{FleetConfig, is_token};

/// Time within which a connection must be established, and a request answered.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of pings, by which a dead connection is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Time for which a request is repeated while the servers elect a leader, and the pause before each repetition.
const ELECTION: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);
/// Part of the answer of servers that have no leader, as for some seconds after one of them has died.
const NO_LEADER: &str = "(code 503, error code 10008)";
/// Oldest version of the servers that is supported.
pub const OLDEST_SERVER: (i64, i64, i64) = (2, 10, 0);

/// Begin of the text of [`FleetError::Permission`].
pub const PERMISSION_DENIED: &str = "permission denied by the server";

/// Error of the fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No server could be reached, or the connection was lost.
    #[error("{0}")]
    Connection(String),
    /// A credentials or certificate file can't be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The server's permissions do not allow it.
    #[error("{denied}: {0}", denied = PERMISSION_DENIED)]
    Permission(String),
    /// The server is older than [`OLDEST_SERVER`].
    #[error("the server has version {0}; version 2.10 or later is needed")]
    OldServer(String),
    /// The server answered with an error.
    #[error("{0}")]
    Server(String),
    /// What another client has stored is not valid.
    #[error("{0}")]
    Record(String),
}

/// Violations of permissions that the server has reported on a connection.
#[derive(Debug, Default)]
pub struct ServerErrors {
    violation: Mutex<Option<String>>,
    reported: Notify,
}

impl ServerErrors {
    fn record(&self, event: &Event) {
        let Event::ServerError(error) = event else { return };
        let text = match error {
            ServerError::AuthorizationViolation => "authorization violation".to_string(),
            ServerError::Other(text) => text.clone(),
            ServerError::SlowConsumer(_) => return,
        };
        if text.to_ascii_lowercase().contains("violation") {
            *self.violation.lock() = Some(text.trim().trim_matches('\'').to_string());
            self.reported.notify_one();
        }
    }

    /// Takes the last violation, if there was one.
    pub fn take(&self) -> Option<FleetError> {
        self.violation.lock().take().map(FleetError::Permission)
    }

    /// Waits for a violation.
    pub async fn violation(&self) -> FleetError {
        loop {
            if let Some(error) = self.take() {
                return error;
            }
            self.reported.notified().await;
        }
    }
}

/// A connection, and the errors that its server reports.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Violations of permissions on the connection.
    pub errors: Arc<ServerErrors>,
}

impl Connection {
    /// Connects to one of the servers as `name`. Replies are sent to subjects that begin with `_INBOX.` and the user of a URL, or `name`.
    ///
    /// # Errors
    /// A file can't be read, no server can be reached within [`TIMEOUT`], none accepts the client, or the server is too old.
    pub async fn open(config: &FleetConfig, name: &str) -> Result<Self, FleetError> {
        let errors = Arc::new(ServerErrors::default());
        let options = options(config, name, &errors).await?;
        let connecting = tokio::time::timeout(TIMEOUT * 2, options.connect(&config.servers));
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(connect_error(config, &error)),
            Err(_) => return Err(FleetError::Connection(format!("{}: no server answers", hosts(config)))),
        };
        let (major, minor, patch) = OLDEST_SERVER;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(FleetError::OldServer(client.server_info().version));
        }
        Ok(Self { client, errors })
    }

    /// Waits for the answer to a request. A server does not answer one that it does not permit, but reports a violation.
    ///
    /// # Errors
    /// The server does not permit it.
    pub async fn answer<T>(&self, request: impl IntoFuture<Output = T>) -> Result<T, FleetError> {
        tokio::select! {
            answer = request.into_future() => Ok(answer),
            violation = self.errors.violation() => Err(violation),
        }
    }

    /// Sends a request, and again for up to [`ELECTION`] while the servers have no leader.
    ///
    /// # Errors
    /// The server does not permit it, or answers with another error.
    pub async fn request<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, FleetError>
    where
        E: std::error::Error,
        F: IntoFuture<Output = Result<T, E>>,
    {
        let end = Instant::now() + ELECTION;
        loop {
            match self.answer(request()).await?.map_err(|error| self.explain(error)) {
                Err(FleetError::Server(text)) if text.contains(NO_LEADER) && Instant::now() < end => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// The violation that explains a failed request, or the error itself.
    pub fn explain(&self, error: impl std::error::Error) -> FleetError {
        self.errors.take().unwrap_or_else(|| FleetError::Server(chain(&error)))
    }
}

async fn options(config: &FleetConfig, name: &str, errors: &Arc<ServerErrors>) -> Result<ConnectOptions, FleetError> {
    let mut options = ConnectOptions::new();
    // The client ignores the user of a URL.
    let addresses = config.servers.iter().filter_map(|server| server.parse::<ServerAddr>().ok());
    // Clients that share a user have the subjects of their replies in common too.
    let mut inbox = name.to_string();
    if let Some((user, password)) = addresses.filter(ServerAddr::has_user_pass).find_map(user_and_password) {
        if is_token(&user) {
            inbox.clone_from(&user);
        }
        options = options.user_and_password(user, password);
    }
    if let Some(path) = &config.credentials {
        options = options.credentials_file(path).await.map_err(|source| file_error(path, source))?;
    }
    if let Some(path) = &config.ca_certificate {
        options = options.add_root_certificates(readable(path)?.into());
    }
    if let Some((certificate, key)) = &config.client_certificate {
        options = options.add_client_certificate(readable(certificate)?.into(), readable(key)?.into());
    }
    let errors = Arc::clone(errors);
    Ok(options
        .name(format!("spiked {name}"))
        .custom_inbox_prefix(format!("_INBOX.{inbox}"))
        .connection_timeout(TIMEOUT)
        .request_timeout(Some(TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .event_callback(move |event| {
            errors.record(&event);
            std::future::ready(())
        }))
}

fn user_and_password(address: ServerAddr) -> Option<(String, String)> {
    Some((address.username()?.into(), address.password().unwrap_or_default().into()))
}

/// The servers without users and passwords, for messages.
pub(super) fn hosts(config: &FleetConfig) -> String {
    let host = |server: &String| match server.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
        None => server.clone(),
    };
    config.servers.iter().map(host).collect::<Vec<_>>().join(", ")
}

fn readable(path: &Path) -> Result<&Path, FleetError> {
    std::fs::File::open(path).map_err(|source| file_error(path, source))?;
    Ok(path)
}

fn file_error(path: &Path, source: io::Error) -> FleetError {
    FleetError::File { path: path.display().to_string(), source }
}

fn connect_error(config: &FleetConfig, error: &async_nats::ConnectError) -> FleetError {
    let text = chain(error);
    if matches!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation) {
        return FleetError::Permission(text);
    }
    FleetError::Connection(format!("{}: {text}", hosts(config)))
}

/// The server's answer to a message that it did not store.
pub fn answer(error: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// Why a message was not stored.
pub fn publish_error(error: &PublishError) -> FleetError {
    FleetError::Server(match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream takes the message; run `spiked fleet init`".into(),
        _ => chain(error),
    })
}

/// An error and its causes, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A runtime for one thread.
///
/// # Errors
/// The system has no more descriptors or memory for it.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
