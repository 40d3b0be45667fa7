//! One capture of a job of a fleet, read as `spiked read` does.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use parking_lot::Mutex;

use crate::capture::{CaptureError, Filter};
use crate::export::{EventFormat, Summary};
use crate::model::Model;

use super::super::Exit;
use super::super::live::Limits;
use super::{Args, ReadObserver, Reading, end, engine_settings, lines};

/// The command line of `spiked read` in a job of a fleet.
#[derive(clap::Parser)]
#[command(name = "spiked read", no_binary_name = true)]
struct JobCommand {
    #[command(flatten)]
    args: Args,
}

/// Options of `spiked read` in a job of a fleet: those that change what is read from a capture and which events are written.
pub struct JobOptions(Args);

/// One capture that was read for a job.
pub struct JobReading {
    /// The outcome, as the exit code of `spiked read`.
    pub exit: Exit,
    /// Why the capture could not be read; what was read before is not to be used.
    pub failure: Option<CaptureError>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// The summary of the capture.
    pub summary: Summary,
}

impl JobOptions {
    /// Parses options and checks that each belongs to a job.
    ///
    /// # Errors
    /// One is not valid, or is the worker's or the reader's to choose.
    pub fn parse(options: &[String]) -> Result<Self> {
        let args = Self::with(options, Path::new("capture"))?;
        if let Some(expression) = &args.filter {
            Filter::new(expression)?;
        }
        let settings = engine_settings(&args, vec![Arc::new(Model::built_in()?)])?;
        lines(&args, &settings.models.load(), args.format.of_events())?;
        Ok(Self(args))
    }

    fn with(options: &[String], capture: &Path) -> Result<Args> {
        let words = options.iter().map(Into::into).chain(["--".into(), capture.as_os_str().to_owned()]);
        let JobCommand { args } = clap::Parser::try_parse_from(words).map_err(|error| {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            anyhow::anyhow!("options of `spiked read`: {text}")
        })?;
        let foreign = [
            (!args.interface.is_empty(), "--interface"),
            (args.count.is_some(), "--count"),
            (args.duration.is_some(), "--duration"),
            (!args.model.is_empty(), "--model"),
            (args.unknown, "--unknown"),
            (args.each_file, "--each-file"),
            (args.workers.is_some(), "--workers"),
            (args.pin, "--pin"),
            (args.write.is_some(), "--write"),
            (args.quiet, "--quiet"),
        ];
        if let Some((_, name)) = foreign.iter().find(|(given, _)| *given) {
            bail!("{name} is not an option of a job");
        }
        if args.captures.len() != 1 {
            bail!("the options of a job name a capture: {}", args.captures[0].display());
        }
        Ok(args)
    }

    /// The format of events; `None`: the job has a table only.
    pub fn format(&self) -> Option<EventFormat> {
        self.0.format.of_events()
    }

    /// Reads a capture as `spiked read` does, with `workers` threads; writes the events to `out` and counts the streams.
    ///
    /// # Errors
    /// The events can't be written, or an option does not fit the models.
    pub fn read(
        options: &[String],
        capture: &Path,
        models: Vec<Arc<Model>>,
        workers: u16,
        out: Box<dyn Write + '_>,
        stop: Arc<AtomicBool>,
    ) -> Result<JobReading> {
        let args = Args { each_file: true, quiet: true, workers: Some(workers), ..Self::with(options, capture)? };
        let settings = engine_settings(&args, models)?;
        let models = settings.models.load_full();
        let summary = Arc::new(Mutex::new(Summary::new(models.iter().map(Arc::as_ref))));
        let mut reading = Reading {
            args: &args,
            settings: &settings,
            models: &models,
            lines: lines(&args, &models, args.format.of_events())?,
            counted: true,
            summary: &summary,
            observer: ReadObserver::new(&args, out, &summary),
            limits: Limits::new(stop, None, None),
            progress_hidden: true,
            ends: Vec::new(),
            failures: Vec::new(),
            read: 0,
            packets: 0,
        };
        reading.captures(&[capture.into()])?;
        reading.observer.out.flush()?;
        let Reading { limits, ends, failures, packets, .. } = reading;
        let summary = std::mem::take(&mut *summary.lock());
        Ok(JobReading { exit: end(&ends, packets), failure: failures.into_iter().next(), stopped: limits.are_reached(), summary })
    }
}
