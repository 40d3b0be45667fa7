//! How are lines written to a reader, through a pipe or a stream socket?
//!
//! Chunks are so small that the system takes each as a whole or not at all: PIPE_BUF for pipes (POSIX), and what fits one socket buffer
//! for Unix sockets. Where a socket takes a part all the same, the rest of the line goes first as soon as there is room, and a
//! connection that ends with half a line is closed: the line is sent anew, whole, over the next.
//! What a reader had not read when it died is lost with it: a socket tells nobody what was read.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file::{chunk, whole};
use super::{Failure, Line, Sink};

/// PIPE_BUF of Linux: a write of so many octets to a pipe is never split.
const PIPE_CHUNK: usize = 4096;
/// Octets a send to a Unix socket; one buffer of the kernel holds more.
const SOCKET_CHUNK: usize = 16 << 10;
/// After so long without room the reader is called slow.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// Standard output, where it is a pipe or a terminal. A write waits for the reader.
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
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure> {
        let mut taken = 0;
        while taken < lines.len() {
            let lines = chunk(&lines[taken..], PIPE_CHUNK, &mut self.buffer);
            self.pipe.write_all(&self.buffer).map_err(|error| Failure::after(taken, error))?;
            taken += lines;
        }
        Ok(())
    }
}

/// A Unix stream socket that a reader listens on; connected to when there is something to tell.
pub(super) struct Socket {
    path: PathBuf,
    connection: Option<UnixStream>,
    /// Octets of the next line that this connection has already taken.
    begun: usize,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn new(path: PathBuf) -> Self {
        Self { path, connection: None, begun: 0, buffer: Vec::new() }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let connection = UnixStream::connect(&self.path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        connection.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(connection)
    }
}

impl Sink for Socket {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure> {
        let mut taken = 0;
        while taken < lines.len() {
            if self.connection.is_none() {
                self.begun = 0;
                self.connection = Some(self.connect().map_err(|error| Failure::after(taken, error))?);
            }
            let Some(connection) = &mut self.connection else { continue };
            chunk(&lines[taken..], SOCKET_CHUNK, &mut self.buffer);
            match connection.write(&self.buffer[self.begun..]) {
                Ok(written) => {
                    let (whole_lines, whole) = whole(&self.buffer[..self.begun + written]);
                    taken += whole_lines;
                    self.begun = self.begun + written - whole;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.connection = None;
                    }
                    return Err(Failure::after(taken, error));
                }
            }
        }
        Ok(())
    }
}
