//! Log output: text or JSON on standard error, or the systemd journal. A reload can change the level.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Handle that changes the log level.
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
        // Fails only if the subscriber is gone: then there is no level to set.
        let _ = self.0.reload(filter(level));
    }
}

/// Writer that escapes control characters: names of files and classes are not trusted, and must neither start a new line nor control
/// a terminal. An event is written in one call, with the newline at its end.
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

/// Starts logging. A second call (in tests) has no effect.
///
/// # Errors
/// The journal is not available.
pub(super) fn start(log: LogConfig) -> io::Result<Level> {
    let (level, handle) = reload::Layer::new(filter(log.level));
    let to_stderr = || tracing_subscriber::fmt::layer().with_writer(|| OneLine(io::stderr())).with_target(false).with_ansi(false);
    let layer: Box<dyn Layer<_> + Send + Sync> = match log.format {
        // The journal adds its own timestamps to standard error.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => Box::new(to_stderr().without_time()),
        LogFormat::Text => Box::new(to_stderr()),
        LogFormat::Json => Box::new(to_stderr().json().flatten_event(true)),
        LogFormat::Journald => Box::new(tracing_journald::layer()?),
    };
    let _ = tracing::subscriber::set_global_default(Registry::default().with(level).with(layer));
    Ok(Level(handle))
}
