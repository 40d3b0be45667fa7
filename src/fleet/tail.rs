//! The events of the fleet, each once, in the order of the stream.

use async_nats::jetstream::{self, Message, consumer::DeliverPolicy, consumer::pull};
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
    let part = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".into());
    let stream = StreamPart {
        stream: EVENTS_STREAM,
        subject: format!("{EVENTS_SUBJECT}.{}.{}", part(&selection.sensor), part(&selection.event)),
        deliver: if selection.from_start { DeliverPolicy::All } else { DeliverPolicy::New },
        until_now: selection.until_now,
    };
    let mut seen = SeenIds::default();
    read(connection, &stream, |message| !seen.insert(message_id(message)) || each(&message.payload)).await
}

/// The messages of a stream with some subjects.
pub(super) struct StreamPart {
    pub stream: &'static str,
    /// Subjects, with wildcards.
    pub subject: String,
    /// The messages to begin with.
    pub deliver: DeliverPolicy,
    /// Ends with the last message that the stream has now.
    pub until_now: bool,
}

/// Calls `each` with every message, in the order of the stream; ends when it returns false.
///
/// # Errors
/// The stream can't be read, or the connection was lost for longer than the client waits.
pub(super) async fn read(
    connection: &Connection,
    part: &StreamPart,
    mut each: impl FnMut(&Message) -> bool,
) -> Result<(), FleetError> {
    let context = jetstream::new(connection.client.clone());
    let stream = context.get_stream(part.stream).await.map_err(|error| connection.explain(error))?;
    let consumer = stream
        .create_consumer(pull::OrderedConfig {
            filter_subject: part.subject.clone(),
            deliver_policy: part.deliver,
            ..Default::default()
        })
        .await
        .map_err(|error| connection.explain(error))?;
    let mut left = consumer.cached_info().num_pending;
    if part.until_now && left == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(|error| connection.explain(error))?;
    loop {
        let Some(message) = connection.answer(messages.next()).await? else { return Ok(()) };
        let message = message.map_err(|error| connection.explain(error))?;
        if !each(&message) {
            return Ok(());
        }
        left = left.saturating_sub(1);
        if part.until_now && left == 0 {
            return Ok(());
        }
    }
}

/// The id of a message; empty without one.
pub(super) fn message_id(message: &Message) -> &str {
    let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    id.map_or("", |id| id.as_str())
}
