//! Sinks that write to a reader through a pipe or a Unix stream socket.
//!
//! Writes are small enough for the system to accept them whole or not at all: up to PIPE_BUF bytes for pipes (POSIX), and what fits one
//! socket buffer for Unix sockets. If a socket accepts part of a line all the same, the rest of the line is sent first as soon as there
//! is room. If the connection breaks in the middle of a line, the whole line is sent again over the next connection.
//! Lines that a reader had not read when it died are lost, since a socket does not report what was read.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::lines::{chunk, whole};
use super::{Line, Sink, WriteFailure};

/// PIPE_BUF on Linux, in bytes: a write of at most this length to a pipe is never split.
const PIPE_CHUNK: usize = 4096;
/// Maximum length in bytes of a send to a Unix socket; a socket buffer of the kernel holds more.
const SOCKET_CHUNK: usize = 16 << 10;
/// A write that finds no room for this long fails, and the reader counts as slow.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// Standard output if it is a pipe or a terminal. A write blocks until the reader has made room.
pub(super) struct Pipe {
    pipe: File,
    buffer: Vec<u8>,
}

impl Pipe {
    pub fn new(pipe: File) -> Self {
        Self { pipe, buffer: Vec::new() }
    }
}

impl Sink for Pipe {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        let mut taken = 0;
        while taken < lines.len() {
            let lines = chunk(&lines[taken..], PIPE_CHUNK, &mut self.buffer);
            self.pipe.write_all(&self.buffer).map_err(|error| WriteFailure::after(taken, error))?;
            taken += lines;
        }
        Ok(())
    }
}

/// A Unix stream socket on which a reader listens, connected when there is something to send.
pub(super) struct StreamSocket {
    path: PathBuf,
    connection: Option<UnixStream>,
    /// Number of bytes of the next line that this connection has already accepted.
    partial: usize,
    buffer: Vec<u8>,
}

impl StreamSocket {
    pub fn new(path: PathBuf) -> Self {
        Self { path, connection: None, partial: 0, buffer: Vec::new() }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let connection = UnixStream::connect(&self.path)?;
        connection.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(connection)
    }
}

impl Sink for StreamSocket {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        let mut taken = 0;
        while taken < lines.len() {
            if self.connection.is_none() {
                self.partial = 0;
                self.connection = Some(self.connect().map_err(|error| WriteFailure::after(taken, error))?);
            }
            let Some(connection) = &mut self.connection else { continue };
            chunk(&lines[taken..], SOCKET_CHUNK, &mut self.buffer);
            match connection.write(&self.buffer[self.partial..]) {
                Ok(written) => {
                    let (whole_lines, whole) = whole(&self.buffer[..self.partial + written]);
                    taken += whole_lines;
                    self.partial = self.partial + written - whole;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.connection = None;
                    }
                    return Err(WriteFailure::after(taken, error));
                }
            }
        }
        Ok(())
    }
}
