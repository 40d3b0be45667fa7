//! The events of the fleet, each once, in the order of the stream.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer::DeliverPolicy, consumer::pull};
use futures_util::StreamExt as _;

use super::connection::{Connection, FleetError};
use super::ids::SeenIds;
use super::{EVENTS_STREAM, EVENTS_SUBJECT};

/// Which events to read.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Name of a sensor; `None`: all.
    pub sensor: Option<String>,
    /// Type of events; `None`: all.
    pub event: Option<String>,
    /// Begins with the oldest event that the stream has, not with the next that arrives.
    pub from_start: bool,
    /// Ends with the last event that the stream has now.
    pub until_now: bool,
}

/// Calls `each` with the text of every event; ends when it returns false.
///
/// # Errors
/// The stream can't be read, or the connection was lost for longer than the client waits.
pub async fn tail(connection: &Connection, selection: &Selection, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), FleetError> {
    let context = jetstream::new(connection.client.clone());
    let stream = context.get_stream(EVENTS_STREAM).await.map_err(|error| connection.explain(error))?;
    let part = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".into());
    let consumer = stream
        .create_consumer(pull::OrderedConfig {
            filter_subject: format!("{EVENTS_SUBJECT}.{}.{}", part(&selection.sensor), part(&selection.event)),
            deliver_policy: if selection.from_start { DeliverPolicy::All } else { DeliverPolicy::New },
            ..Default::default()
        })
        .await
        .map_err(|error| connection.explain(error))?;
    let mut left = consumer.cached_info().num_pending;
    if selection.until_now && left == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(|error| connection.explain(error))?;
    let mut seen = SeenIds::default();
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            violation = connection.errors.violation() => return Err(violation),
        };
        let Some(message) = message else { return Ok(()) };
        let message = message.map_err(|error| connection.explain(error))?;
        if seen.insert(id(message.headers.as_ref())) && !each(&message.payload) {
            return Ok(());
        }
        left = left.saturating_sub(1);
        if selection.until_now && left == 0 {
            return Ok(());
        }
    }
}

/// The id of a message; empty without one.
fn id(headers: Option<&HeaderMap>) -> &str {
    headers.and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID)).map_or("", |id| id.as_str())
}
