//! The events of the fleet, each once, in the order of the stream.

use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode, Message, consumer::DeliverPolicy, consumer::pull};
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
    let stream = connection.request(|| context.get_stream(part.stream)).await?;
    let end = if part.until_now { last(connection, &stream, &part.subject).await? } else { None };
    if part.until_now && end.is_none() {
        return Ok(());
    }
    let consumer = || {
        stream.create_consumer(pull::OrderedConfig {
            filter_subject: part.subject.clone(),
            deliver_policy: part.deliver,
            ..Default::default()
        })
    };
    let consumer = connection.request(consumer).await?;
    let mut messages = consumer.messages().await.map_err(|error| connection.explain(error))?;
    loop {
        let Some(message) = connection.answer(messages.next()).await? else { return Ok(()) };
        let message = message.map_err(|error| connection.explain(error))?;
        let sequence = message.info().map_err(|error| FleetError::Record(error.to_string()))?.stream_sequence;
        if !each(&message) || end.is_some_and(|end| sequence >= end) {
            return Ok(());
        }
    }
}

/// Sequence number of the last message with a subject; `None` without any. The stream's leader knows it, whereas a consumer, which runs on any
/// of the servers that have a copy, may not have received the last messages yet.
async fn last(connection: &Connection, stream: &Stream, subject: &str) -> Result<Option<u64>, FleetError> {
    let request = || async {
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    connection.request(request).await
}

fn is_missing(error: &LastRawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(error) => error.error_code() == ErrorCode::NO_MESSAGE_FOUND,
        _ => false,
    }
}

/// The id of a message; empty without one.
pub(super) fn message_id(message: &Message) -> &str {
    let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    id.map_or("", |id| id.as_str())
}
