//! The sensor's publisher of parts: a thread that sends the last learned neurons of each class until a server has acknowledged them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::FleetConfig;

use super::connection::{Connection, FleetError, publish_error, runtime};
use super::parts::{FIGURES_HEADER, PartFigures, PartName};

/// Shortest time between two parts of a class: live learning may take neurons over several times a second.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time until another attempt to send.
const RETRY: Duration = Duration::from_secs(2);
/// Time at the end of the daemon in which waiting parts are sent.
const LAST: Duration = Duration::from_secs(2);

/// The parts that wait to be sent: the last one of each name.
#[derive(Default)]
pub struct PartQueue {
    waiting: Mutex<BTreeMap<PartName, (PartFigures, Vec<u8>)>>,
    changed: Notify,
}

impl PartQueue {
    /// Replaces the waiting part of that name; never waits for a server.
    pub fn offer(&self, name: PartName, figures: PartFigures, message: Vec<u8>) {
        self.waiting.lock().insert(name, (figures, message));
        self.changed.notify_one();
    }

    fn first(&self) -> Option<(PartName, PartFigures, Vec<u8>)> {
        let waiting = self.waiting.lock();
        waiting.iter().next().map(|(name, (figures, message))| (name.clone(), figures.clone(), message.clone()))
    }

    /// Removes a part that was sent, unless a newer one has come.
    fn sent(&self, name: &PartName, message: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.get(name).is_some_and(|(_, newest)| newest == message) {
            waiting.remove(name);
        }
    }
}

/// The publisher's thread; it ends when this is dropped.
pub struct PartPublisher {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl PartPublisher {
    /// Starts the thread. A server that can't be reached is not an error.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(config: &FleetConfig) -> io::Result<(Self, Arc<PartQueue>)> {
        let (stop, queue) = (Arc::new(Notify::new()), Arc::new(PartQueue::default()));
        let (runtime, stopped, parts, config) = (runtime()?, Arc::clone(&stop), Arc::clone(&queue), config.clone());
        let thread = thread::Builder::new().name("fleet-parts".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(&config, &parts) => {}
                    () = stopped.notified() => {
                        let _ = tokio::time::timeout(LAST, send_all(&config, &parts)).await;
                    }
                }
            });
        })?;
        Ok((Self { stop, thread: Some(thread) }, queue))
    }
}

impl Drop for PartPublisher {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(config: &FleetConfig, queue: &PartQueue) {
    let mut last_error = None;
    loop {
        queue.changed.notified().await;
        while let Err(error) = send_all(config, queue).await {
            let error = error.to_string();
            if last_error.as_ref() != Some(&error) {
                warn!(%error, "learned neurons can't be published; they are sent later");
            }
            last_error = Some(error);
            tokio::time::sleep(RETRY).await;
        }
        last_error = None;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Sends the waiting parts over a connection of its own: hours may pass between two.
async fn send_all(config: &FleetConfig, queue: &PartQueue) -> Result<(), FleetError> {
    let mut connection = None;
    while let Some((name, figures, message)) = queue.first() {
        let connection = match &mut connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(config, &config.sensor).await?),
        };
        let most = connection.client.server_info().max_payload;
        if message.len() + 1024 > most {
            warn!(class = name.class, bytes = message.len(), most, "learned neurons are larger than the server's messages");
        } else {
            send(connection, &name, &figures, &message).await?;
            info!(model = name.model, class = name.class, bytes = message.len(), "learned neurons published");
        }
        queue.sent(&name, &message);
    }
    Ok(())
}

async fn send(connection: &Connection, name: &PartName, figures: &PartFigures, message: &[u8]) -> Result<(), FleetError> {
    let mut headers = HeaderMap::new();
    let figures = serde_json::to_string(figures).map_err(|error| FleetError::Server(error.to_string()))?;
    headers.insert(FIGURES_HEADER, figures);
    let context = jetstream::new(connection.client.clone());
    let sent = context.publish_with_headers(name.subject(), headers, message.to_vec().into()).await;
    let stored = connection.answer(sent.map_err(|error| publish_error(&error))?).await?;
    stored.map(drop).map_err(|error| publish_error(&error))
}
