//! A lease in a key-value bucket: of several processes that ask for it, one has it, and another gets it some seconds after that one dies.
//!
//! The holder writes the key every second. Another process takes it if it has not changed for [`LEASE`] by its own clock, and the bucket
//! accepts a change only from the client that knows the last revision, so clocks need not agree.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;

use super::connection::{Connection, FleetError};

/// Time without a sign of the holder after which another process takes the lease.
pub const LEASE: Duration = Duration::from_secs(10);
/// Interval at which the holder writes the key and others read it.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a write of the holder has failed: well below [`LEASE`] with the interval.
const WRITE: Duration = Duration::from_secs(5);

/// A lease that this process has.
pub struct Lease {
    store: kv::Store,
    connection: Connection,
    key: String,
    holder: String,
    revision: u64,
}

impl Lease {
    /// Waits until the lease of a key is free and takes it; calls `waiting` with the name of another holder, once for each.
    ///
    /// # Errors
    /// The server can't be reached or does not allow it.
    pub async fn acquire(
        connection: &Connection,
        store: &kv::Store,
        key: &str,
        holder: &str,
        waiting: impl Fn(&str),
    ) -> Result<Self, FleetError> {
        let mut seen: Option<(u64, Instant)> = None;
        let mut named = String::new();
        loop {
            let entry = store.entry(key).await.map_err(|error| connection.explain(error))?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let other = entry.filter(|entry| entry.operation == kv::Operation::Put);
            let unchanged = seen.is_some_and(|(last, since)| last == revision && since.elapsed() >= LEASE);
            if other.is_none() || unchanged {
                // A failure means that another process was faster.
                if let Ok(revision) = store.update(key, holder.to_string().into(), revision).await {
                    let (store, connection) = (store.clone(), connection.clone());
                    return Ok(Self { store, connection, key: key.into(), holder: holder.into(), revision });
                }
                if let Some(error) = connection.errors.take() {
                    return Err(error);
                }
            }
            if let Some(other) = other.map(|other| String::from_utf8_lossy(&other.value).into_owned()).filter(|o| *o != named) {
                waiting(&other);
                named = other;
            }
            if seen.is_none_or(|(last, _)| last != revision) {
                seen = Some((revision, Instant::now()));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Keeps the lease; ends when it is lost.
    pub async fn keep(&mut self) -> FleetError {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let written = self.store.update(&self.key, self.holder.clone().into(), self.revision);
            match tokio::time::timeout(WRITE, written).await {
                Ok(Ok(revision)) => self.revision = revision,
                Ok(Err(error)) => return self.connection.explain(error),
                Err(_) => return FleetError::Connection("no server answers".into()),
            }
        }
    }
}
