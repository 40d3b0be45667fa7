//! A sink that publishes events to a JetStream stream, through the spool.
//!
//! ```text
//! sink's thread: lines ──append──> [ spool ] ── thread `nats-publisher` ──> server
//!                                     └──── removed on acknowledgement <──────┘
//! ```
//! Up to [`WINDOW`] events are on their way at once. After the first failure the connection is closed, and all events that are not
//! acknowledged are sent again with the same ids. Acknowledged events count as written; if the spool is full, lines stay in the sink's
//! queue, and those that find it full are dropped and counted there.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::FleetConfig;
use crate::fleet::connection::{self, Connection, FleetError, TIMEOUT};
use crate::fleet::event_subject;
use crate::fleet::spool::{Record, Spool};

use super::{Delivery, Line, Sink, WriteFailure};

/// Maximum number of events that are sent and not acknowledged.
const WINDOW: usize = 1024;
/// Backoff after the first failure, doubled with each further failure up to [`MAX_BACKOFF`].
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Maximum backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// While closing, the time for events that are on their way.
const CLOSE: Duration = Duration::from_millis(1500);
/// Error code of JetStream: the message is larger than the stream allows.
const TOO_LARGE: u64 = 10_054;

/// What the sink's thread and the publisher share.
struct SpoolShared {
    spool: Mutex<Spool>,
    delivery: Arc<Delivery>,
    /// There is something to read in the spool, or the sink closes.
    wake: Notify,
    closing: AtomicBool,
}

/// The sink: appends lines to the spool, and owns the publisher.
pub(super) struct Nats {
    shared: Arc<SpoolShared>,
    publisher: Option<JoinHandle<()>>,
}

impl Nats {
    /// Opens the spool and starts the publisher. A server that can't be reached is not an error.
    pub fn open(config: &FleetConfig) -> io::Result<Self> {
        let folder = config.spool.as_deref().ok_or_else(|| io::Error::other("fleet.spool is not set"))?;
        let spool = Spool::open(folder, config.spool_mib << 20)?;
        let delivery = Arc::new(Delivery::default());
        delivery.backlog(spool.backlog());
        let shared =
            Arc::new(SpoolShared { spool: Mutex::new(spool), delivery, wake: Notify::new(), closing: AtomicBool::new(false) });
        let publisher = Publisher { config: config.clone(), shared: Arc::clone(&shared), backoff: INITIAL_BACKOFF };
        let runtime = connection::runtime()?;
        let thread = thread::Builder::new().name("nats-publisher".into()).spawn(move || runtime.block_on(publisher.run()))?;
        Ok(Self { shared, publisher: Some(thread) })
    }
}

impl Sink for Nats {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        let (written, error) = {
            let mut spool = self.shared.spool.lock();
            let done = spool.append(lines.iter().map(|line| (line.event, line.text.as_str())));
            self.shared.delivery.backlog(spool.backlog());
            done
        };
        self.shared.wake.notify_one();
        match error {
            None => Ok(()),
            Some(error) => {
                let because = self.shared.delivery.last_error().map_or_else(String::new, |cause| format!("; {cause}"));
                Err(WriteFailure::after(written, io::Error::new(error.kind(), format!("{error}{because}"))))
            }
        }
    }

    fn delivery(&self) -> Option<Arc<Delivery>> {
        Some(Arc::clone(&self.shared.delivery))
    }
}

impl Drop for Nats {
    /// Waits for the events that are on their way; the rest stays in the spool.
    fn drop(&mut self) {
        self.shared.closing.store(true, Relaxed);
        self.shared.wake.notify_one();
        let end = std::time::Instant::now() + CLOSE;
        while self.publisher.as_ref().is_some_and(|thread| !thread.is_finished()) && std::time::Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        if let Some(thread) = self.publisher.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

/// An acknowledgement that is awaited.
struct InFlight {
    sent: Instant,
    acknowledgement: Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>,
}

/// The reader of the spool, on a thread of its own.
struct Publisher {
    config: FleetConfig,
    shared: Arc<SpoolShared>,
    backoff: Duration,
}

impl Publisher {
    async fn run(mut self) {
        loop {
            let error = match self.session().await {
                Ok(()) => return,
                Err(error) => error.to_string(),
            };
            self.shared.spool.lock().rewind();
            if self.shared.delivery.failed(&error) {
                tracing::warn!("can't publish events, will retry: {error}");
            }
            let end = Instant::now() + self.backoff;
            while Instant::now() < end {
                if self.shared.closing.load(Relaxed) {
                    return;
                }
                // New events wake it too.
                let _ = timeout_at(end, self.shared.wake.notified()).await;
            }
            self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Publishes over one connection, until it fails or the sink is closed and the spool empty.
    async fn session(&mut self) -> Result<(), FleetError> {
        let connection = Connection::open(&self.config, &self.config.sensor).await?;
        // The time limit is that of `InFlight::sent`: the client's begins when the acknowledgement is awaited.
        let context =
            ContextBuilder::new().ack_timeout(TIMEOUT * 2).max_ack_inflight(2 * WINDOW).build(connection.client.clone());
        let mut window: VecDeque<InFlight> = VecDeque::with_capacity(WINDOW);
        loop {
            while window.len() < WINDOW
                && let Some(record) = self.next_record()?
            {
                window.push_back(self.send(&context, record).await?);
            }
            let Some(first) = window.front_mut() else {
                if self.shared.closing.load(Relaxed) {
                    return Ok(());
                }
                tokio::select! {
                    () = self.shared.wake.notified() => continue,
                    violation = connection.errors.violation() => return Err(violation),
                }
            };
            tokio::select! {
                answer = timeout_at(first.sent + TIMEOUT, &mut first.acknowledgement) => {
                    let answer = answer.map_err(|_| FleetError::Connection("no acknowledgement within 5 s".into()))?;
                    window.pop_front();
                    self.settle(answer).map_err(|error| connection.errors.take().unwrap_or(error))?;
                }
                violation = connection.errors.violation() => return Err(violation),
            }
        }
    }

    fn next_record(&self) -> Result<Option<Record>, FleetError> {
        self.shared.spool.lock().next_record().map_err(spool_error)
    }

    async fn send(&self, context: &Context, record: Record) -> Result<InFlight, FleetError> {
        let subject = event_subject(&self.config.sensor, &record.event);
        let id = format!("{}-{}", self.config.sensor, record.id);
        let message = PublishMessage::build().message_id(id).payload(record.text.into());
        let sent = Instant::now();
        let acknowledgement = match timeout(TIMEOUT, context.send_publish(subject, message)).await {
            Ok(Ok(acknowledgement)) => acknowledgement.into_future(),
            Ok(Err(error)) => Box::pin(std::future::ready(Err(error))),
            Err(_) => return Err(FleetError::Connection("the server takes no events".into())),
        };
        Ok(InFlight { sent, acknowledgement })
    }

    /// Removes the first event from the spool if it was acknowledged or can never be.
    fn settle(&mut self, answer: Result<PublishAck, PublishError>) -> Result<(), FleetError> {
        match answer {
            Ok(_) => {
                if self.shared.delivery.delivered() {
                    tracing::info!("publishing events again");
                }
                self.backoff = INITIAL_BACKOFF;
            }
            Err(error) if is_too_large(&error) => {
                tracing::warn!("event dropped: {}", connection::chain(&error));
                self.shared.delivery.refused();
            }
            Err(error) => return Err(connection::publish_error(&error)),
        }
        let mut spool = self.shared.spool.lock();
        let removed = spool.acknowledge();
        self.shared.delivery.backlog(spool.backlog());
        removed.map_err(spool_error)
    }
}

fn spool_error(error: io::Error) -> FleetError {
    FleetError::Server(format!("the spool can't be read: {error}"))
}

/// Whether an event can never be published.
fn is_too_large(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::MaxPayloadExceeded
        || connection::answer(error).is_some_and(|answer| answer.error_code().0 == TOO_LARGE)
}
