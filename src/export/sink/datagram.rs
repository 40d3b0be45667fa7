//! Sinks that send one datagram per line: syslog (RFC 5424) and journald (its native protocol). A datagram arrives whole or not at all.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Line, Sink, WriteFailure, stream::WRITE_TIMEOUT};

/// A Unix datagram socket, connected when there is something to send.
struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    buffer: Vec<u8>,
}

impl Datagrams {
    fn new(path: PathBuf) -> Self {
        Self { path, socket: None, buffer: Vec::new() }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(socket)
    }

    fn send(&mut self, lines: &[Arc<Line>], format: impl Fn(&Line, &mut Vec<u8>)) -> Result<(), WriteFailure> {
        for (taken, line) in lines.iter().enumerate() {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect().map_err(|error| WriteFailure::after(taken, error))?,
            };
            self.buffer.clear();
            format(line, &mut self.buffer);
            match socket.send(&self.buffer) {
                Ok(_) => self.socket = Some(socket),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.socket = Some(socket);
                    let error = io::Error::new(error.kind(), format!("{} bytes are too long for a datagram", self.buffer.len()));
                    return Err(WriteFailure { taken, error, discard: true });
                }
                // After any other error the next attempt opens a new socket.
                Err(error) => return Err(WriteFailure::after(taken, error)),
            }
        }
        Ok(())
    }
}

/// A sink that writes RFC 5424 messages.
pub(super) struct Syslog {
    datagrams: Datagrams,
    facility: u8,
    host: String,
    process: u32,
}

impl Syslog {
    pub fn new(socket: PathBuf, facility: u8) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
        let host = if host.is_empty() { "-".into() } else { host };
        Self { datagrams: Datagrams::new(socket), facility, host, process: std::process::id() }
    }
}

impl Sink for Syslog {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        let Self { datagrams, facility, host, process } = self;
        datagrams.send(lines, |line, out| {
            let priority = *facility * 8 + line.severity as u8;
            let time = Timestamp::from_nanosecond(i128::from(line.timestamp.0)).unwrap_or_default();
            let time = time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ");
            let header = format!("<{priority}>1 {time} {host} spiked {process} {} - ", line.event);
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(line.text.as_bytes());
        })
    }
}

/// A sink that writes journal entries with fields, so that `journalctl SPIKED_CLASS=ssh` finds the events of a class.
pub(super) struct Journald {
    datagrams: Datagrams,
}

impl Journald {
    pub fn new(socket: PathBuf) -> Self {
        Self { datagrams: Datagrams::new(socket) }
    }
}

impl Sink for Journald {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), WriteFailure> {
        self.datagrams.send(lines, |line, out| {
            field(out, "MESSAGE", &line.text);
            field(out, "PRIORITY", &(line.severity as u8).to_string());
            field(out, "SYSLOG_IDENTIFIER", "spiked");
            field(out, "SPIKED_EVENT", line.event);
            if let Some(class) = &line.class {
                field(out, "SPIKED_CLASS", class);
            }
        })
    }
}

/// Appends a field in journald's native protocol: `NAME=value`, or the name and the length in bytes (64 bit, little-endian) before a
/// value of several lines.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}
