//! Where does the log go? To standard error as text or JSON, or to systemd's journal; its level changes with a reload.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Changes the level.
pub(super) struct Level(reload::Handle<LevelFilter, Registry>);

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl Level {
    pub fn set(&self, level: LogLevel) {
        // Fails where the log is gone, and then there is nothing to set.
        let _ = self.0.reload(filter(level));
    }
}

/// Keeps what is logged on its line: names of files and classes come from others, and must neither begin a line of their own nor
/// steer a terminal. An event comes in one piece, its line's end at its end.
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (text, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
        if text.iter().any(u8::is_ascii_control) {
            let escape = |&b: &u8| if b.is_ascii_control() { b.escape_ascii().collect() } else { vec![b] };
            let whole: Vec<u8> = text.iter().flat_map(escape).chain(end.iter().copied()).collect();
            self.0.write_all(&whole)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Begins to log. A second call, as tests make it, changes nothing.
///
/// # Errors
/// Where the journal is wanted and is not there.
pub(super) fn start(log: LogConfig) -> io::Result<Level> {
    let (level, handle) = reload::Layer::new(filter(log.level));
    let to_stderr = || tracing_subscriber::fmt::layer().with_writer(|| OneLine(io::stderr())).with_target(false).with_ansi(false);
    let layer: Box<dyn Layer<_> + Send + Sync> = match log.format {
        // The journal, where it catches standard error, has its own time.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => Box::new(to_stderr().without_time()),
        LogFormat::Text => Box::new(to_stderr()),
        LogFormat::Json => Box::new(to_stderr().json().flatten_event(true)),
        LogFormat::Journald => Box::new(tracing_journald::layer()?),
    };
    let _ = tracing::subscriber::set_global_default(Registry::default().with(level).with(layer));
    Ok(Level(handle))
}
