//! What `spiked check` asks the servers: their version, and whether this sensor may publish.

use async_nats::jetstream::{self, ErrorCode, message::PublishMessage};

use crate::config::FleetConfig;

use super::connection::{Connection, FleetError, answer, publish_error};
use super::event_subject;
use super::parts::PartName;

/// Name of a stream that does not exist: a message that expects it is answered and never stored.
const NO_STREAM: &str = "SPIKED_CHECK";

/// Tries, without a trace, to publish an event of the sensor and parts of the classes that it may publish; returns the version of the server.
///
/// # Errors
/// No server can be reached, it is too old, it does not allow the publish, or no stream takes it.
pub async fn check(config: &FleetConfig) -> Result<String, FleetError> {
    let connection = Connection::open(config, &config.sensor).await?;
    may_publish(&connection, event_subject(&config.sensor, "detection")).await?;
    for class in &config.teaches {
        let name = PartName { sensor: config.sensor.clone(), model: "check".into(), class: class.clone() };
        may_publish(&connection, name.subject()).await?;
    }
    Ok(connection.client.server_info().version)
}

/// Whether the server lets this client publish to a subject and a stream takes it.
async fn may_publish(connection: &Connection, subject: String) -> Result<(), FleetError> {
    let context = jetstream::new(connection.client.clone());
    let message = PublishMessage::build().expected_stream(NO_STREAM).payload("{}".into());
    let result = match context.send_publish(subject, message).await {
        Ok(answer) => connection.answer(answer).await?,
        Err(error) => Err(error),
    };
    match result {
        Err(error) if is_expected(&error) => Ok(()),
        Err(error) => Err(publish_error(&error)),
        Ok(answer) => {
            Err(FleetError::Server(format!("the stream {} stored a message that it should have refused", answer.stream)))
        }
    }
}

/// Whether the answer is that the message expected another stream.
fn is_expected(error: &jetstream::context::PublishError) -> bool {
    answer(error).is_some_and(|answer| answer.error_code() == ErrorCode::STREAM_NOT_MATCH)
}
