//! How does a line become a datagram, for syslog (RFC 5424) and for journald (its native protocol)? One datagram a line: whole or not.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::stream::WRITE_TIMEOUT;
use super::{Failure, Line, Sink};

/// A socket that datagrams go to; connected to when there is something to tell.
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
        socket.connect(&self.path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(socket)
    }

    fn send(&mut self, lines: &[Arc<Line>], format: impl Fn(&Line, &mut Vec<u8>)) -> Result<(), Failure> {
        for (taken, line) in lines.iter().enumerate() {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect().map_err(|error| Failure::after(taken, error))?,
            };
            self.buffer.clear();
            format(line, &mut self.buffer);
            match socket.send(&self.buffer) {
                Ok(_) => self.socket = Some(socket),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.socket = Some(socket);
                    let error = io::Error::new(error.kind(), format!("{} octets are too long for a datagram", self.buffer.len()));
                    return Err(Failure { taken, error, discard: true });
                }
                // Whatever else is wrong with it, the next try has a new socket.
                Err(error) => return Err(Failure::after(taken, error)),
            }
        }
        Ok(())
    }
}

/// RFC 5424 messages.
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
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure> {
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

/// Entries with fields: `journalctl SPIKED_CLASS=ssh`.
pub(super) struct Journald {
    datagrams: Datagrams,
}

impl Journald {
    pub fn new(socket: PathBuf) -> Self {
        Self { datagrams: Datagrams::new(socket) }
    }
}

impl Sink for Journald {
    fn write(&mut self, lines: &[Arc<Line>]) -> Result<(), Failure> {
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

/// A field as journald wants it: with its length where the value has several lines.
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
