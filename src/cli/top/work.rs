//! Explanations of streams and lessons from them, for `spiked top`.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use crate::capture::{CaptureFile, InterfaceNames};
use crate::cli::harm::Refusal;
use crate::cli::intake::IntakeOptions;
use crate::cli::learn::Learned;
use crate::cli::{describe, learn, model};
use crate::evaluate::trace_streams;
use crate::model::Model;
use crate::stream::Intake;

use super::state::StreamRef;
use super::tape::{OneStream, Tape};
use super::ui::{Lesson, TextScreen};

/// Packets of a stream that an explanation reads.
const PACKETS: u32 = 256;
/// Fields of an explanation.
const FIELDS: usize = 24;
/// Characters of its columns "field" and "value": a row fits into 80 columns.
const WIDTHS: [usize; 2] = [32, 22];

/// What a thread has found.
pub struct Finished {
    pub screen: TextScreen,
    /// The model that was written.
    pub learned: Option<PathBuf>,
}

/// Finds the packets of streams: in their captures, or among those that were recorded.
pub struct Finder {
    pub tape: Arc<Mutex<Tape>>,
    pub intake: Intake,
    /// Numbers of the interfaces that captures name, as the reading thread has given them.
    pub interfaces: Arc<InterfaceNames>,
}

impl Finder {
    /// Explains a stream's class.
    pub fn explain(&self, model: &Model, stream: StreamRef) -> Finished {
        let lines = self.explanation(model, &stream).unwrap_or_else(|error| vec![describe(&error)]);
        let title = format!("why: {}", stream.text);
        Finished { screen: TextScreen { title, lines, stream: Some(stream), ..TextScreen::default() }, learned: None }
    }

    fn explanation(&self, model: &Model, stream: &StreamRef) -> Result<Vec<String>> {
        let (mut file, mut tape);
        let source: &mut dyn crate::capture::Source = if let Some(path) = &stream.capture {
            file = CaptureFile::open(path)?.with_interfaces(&self.interfaces);
            &mut file
        } else {
            tape = self.tape.lock().reader();
            &mut tape
        };
        let mut one = OneStream { source, intake: self.intake, key: stream.key, first: stream.first, left: PACKETS };
        // A frame may be of other streams too: those of the other host, or of a tunnel.
        let traced = trace_streams(model, &mut one, &self.intake, usize::MAX)?;
        let name = crate::train::labels::StreamName::of(&stream.key);
        let Some(trace) = traced.iter().find(|trace| trace.name == name) else {
            bail!("the stream's packets are no longer kept");
        };
        let Some(leader) = &trace.leader else { bail!("no packet of the stream was scored") };
        Ok(model::explanation(model, trace, leader, FIELDS, WIDTHS))
    }

    /// Teaches a class from a stream. `model`: the model it is added to.
    pub fn teach(&self, model: &Path, lesson: Lesson, intake: IntakeOptions) -> Finished {
        let mut lines = Vec::new();
        let title = format!("learn {}", lesson.class);
        match self.learn(model, &lesson, intake, &mut lines) {
            Ok(learned) => {
                lines.extend(learned.warning);
                Finished { screen: TextScreen { title, lines, ..TextScreen::default() }, learned: Some(lesson.out) }
            }
            Err(error) => {
                lines.push(describe(&error));
                let refused = error.is::<Refusal>().then_some(lesson);
                Finished { screen: TextScreen { title, lines, refused, ..TextScreen::default() }, learned: None }
            }
        }
    }

    fn learn(&self, model: &Path, lesson: &Lesson, intake: IntakeOptions, report: &mut Vec<String>) -> Result<Learned> {
        let Lesson { stream, class, out, force } = lesson;
        if out != model && out.exists() {
            bail!("{}: exists already; type another name", out.display());
        }
        // The packets that were recorded, as a capture.
        let recorded;
        let from = if let Some(path) = &stream.capture {
            path
        } else {
            recorded = tempfile::Builder::new().prefix("recorded-").suffix(".pcapng").tempfile()?;
            let reader = self.tape.lock().reader();
            reader.write(BufWriter::new(File::create(recorded.path())?)).context("the recorded packets")?;
            recorded.path()
        };
        // Numbers of interfaces are this program's own: the lesson reads the streams of all interfaces as one.
        let (key, intake) = (stream.key.without_interface(), intake.without_interface());
        let args = learn::Args::of_stream(from, key, class, model, out).with(intake, *force);
        learn::learn(&args, report)
    }
}
