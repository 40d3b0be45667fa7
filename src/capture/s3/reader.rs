//! A reader of an object: a task requests its bytes, a blocking reader takes them as they come. Some blocks wait between them, never the
//! whole object.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::client::{Location, client, explain, runtime, wait};
use super::{ObjectState, OpenObject, ReadFailure};

/// Blocks that wait for the reader. The connection gives blocks of up to some hundred KiB.
const QUEUE: usize = 8;
/// How long a reader waits for bytes before it asks whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// Times that a broken transfer goes on without a byte in between, and the pause before each.
const RESUMES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes of an object from a position on, which end with an error if some are missing.
struct ObjectReader {
    runtime: &'static Handle,
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    block: Bytes,
    stopped: Box<dyn Fn() -> bool + Send>,
    failure: ReadFailure,
}

/// Opens an object. Reading ends early, without an error, once `stopped` returns `true`; it is called ten times a second while nothing
/// comes. The thread that reads must not be one of a runtime.
///
/// # Errors
/// There is no such object, or the server can't be reached or does not allow it.
pub fn open(path: &Path, stopped: impl Fn() -> bool + Send + 'static) -> io::Result<OpenObject> {
    let Location { bucket, key, .. } = Location::parse(path)?;
    let (client, runtime) = (client(&bucket)?, runtime()?);
    let mut transfer = Transfer { client, bucket, key, etag: None, rest: 0..0 };
    let (transfer, first) = wait(async move {
        let first = transfer.get(GetOptions::default()).await?;
        (transfer.etag, transfer.rest) = (first.meta.e_tag.clone(), 0..first.meta.size);
        Ok((transfer, first))
    })?;
    let state = ObjectState::of(&first.meta);
    let (sender, blocks) = mpsc::channel(QUEUE);
    runtime.spawn(transfer.run(first, sender));
    let failure = ReadFailure::default();
    let stopped = Box::new(stopped);
    let reader = ObjectReader { runtime, blocks, block: Bytes::new(), stopped, failure: Arc::clone(&failure) };
    Ok(OpenObject { reader: Box::new(reader), state, failure })
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The readers around this one may read on after an error.
        if let Some(reason) = self.failure.get() {
            return Err(io::Error::other(reason.clone()));
        }
        while self.block.is_empty() {
            let next = self.runtime.block_on(async { tokio::time::timeout(WAIT, self.blocks.recv()).await });
            match next {
                Ok(Some(Ok(block))) => self.block = block,
                Ok(Some(Err(error))) => {
                    self.failure.get_or_init(|| error.to_string());
                    return Err(error);
                }
                Ok(None) => return Ok(0),
                Err(_) if (self.stopped)() => return Ok(0),
                Err(_) => {}
            }
        }
        let length = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The rest of an object that is to be read.
struct Transfer {
    client: Arc<AmazonS3>,
    bucket: String,
    key: Key,
    etag: Option<String>,
    rest: Range<u64>,
}

impl Transfer {
    async fn get(&self, options: GetOptions) -> io::Result<GetResult> {
        self.client.get_opts(&self.key, options).await.map_err(|error| explain(&self.bucket, &error))
    }

    /// Sends the blocks of an object. A connection that breaks is replaced by another one that goes on where it broke, as long as the
    /// object is the same.
    async fn run(mut self, first: GetResult, sender: mpsc::Sender<io::Result<Bytes>>) {
        let mut blocks = first.into_stream();
        let mut resumes = 0;
        while !self.rest.is_empty() {
            let error = match blocks.next().await {
                Some(Ok(block)) => {
                    resumes = 0;
                    self.rest.start += block.len() as u64;
                    // The reader has been dropped.
                    if sender.send(Ok(block)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(error)) => explain(&self.bucket, &error),
                None => io::ErrorKind::UnexpectedEof.into(),
            };
            let resumed = if resumes < RESUMES { self.resume(&mut resumes).await } else { Err(error) };
            match resumed {
                Ok(result) => blocks = result.into_stream(),
                Err(error) => {
                    let text = format!("{error} ({} bytes are missing)", self.rest.end - self.rest.start);
                    let _ = sender.send(Err(io::Error::new(error.kind(), text))).await;
                    return;
                }
            }
        }
    }

    async fn resume(&self, resumes: &mut u32) -> io::Result<GetResult> {
        *resumes += 1;
        tokio::time::sleep(PAUSE).await;
        let options = GetOptions {
            if_match: self.etag.clone(),
            range: Some(GetRange::Bounded(self.rest.clone())),
            ..GetOptions::default()
        };
        self.get(options).await
    }
}
