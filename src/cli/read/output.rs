//! What `spiked read` writes: events, lists of unknown streams, and the packets of `--write`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;

use crate::capture::{InterfaceNames, printable};
use crate::engine::{EpisodeOutput, Event, EvidencePacket, Models, NewVerdictWriter, Observer, Output, Verdict, VerdictWriter};
use crate::export::pcapng::{self, PcapngWriter};
use crate::export::{self, EventFormat, Summary, UnknownList, evidence};

use super::super::OutputError;
use super::files::FileNames;
use super::{Args, Events};

/// Writes events, and packets to the `--write` file.
pub(super) struct ReadObserver<'a> {
    /// Writes events, and buffers them.
    pub(super) out: Box<dyn Write + 'a>,
    /// Whether packets arrive as they are captured, so that events are written at once.
    pub(super) live: bool,
    /// Writes packets to the file of this name.
    pub(super) packets_to: Option<(PcapngWriter<BufWriter<File>>, &'a Path)>,
    /// Writes episodes; `None` if they are not wanted.
    episodes: Option<export::EventWriter>,
    /// Names of the captures that are read.
    pub(super) captures: Option<Arc<FileNames>>,
    summary: Arc<Mutex<Summary>>,
    /// The first write error; nothing is written after it.
    pub(super) written: Result<()>,
}

impl Observer for ReadObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        if self.written.is_err() {
            return;
        }
        match output {
            Output::Verdict { text, .. } => {
                let written = self.out.write_all(text);
                self.written = written.and_then(|()| if self.live { self.out.flush() } else { Ok(()) }).map_err(Into::into);
            }
            Output::Packet(packet) => self.written = self.write_packet(packet),
            Output::Episode(episode) => self.written = self.episode(episode).map_err(Into::into),
            Output::Progress(_) | Output::Spike { .. } => {}
        }
    }
}

impl<'a> ReadObserver<'a> {
    pub(super) fn new(args: &Args, out: Box<dyn Write + 'a>, summary: &Arc<Mutex<Summary>>) -> Self {
        let episodes = args.format.of_events().filter(|_| args.events == Some(Events::Episodes)).map(export::EventWriter::new);
        Self { out, live: false, packets_to: None, episodes, captures: None, summary: Arc::clone(summary), written: Ok(()) }
    }

    fn episode(&mut self, episode: &EpisodeOutput) -> io::Result<()> {
        self.summary.lock().episode(episode);
        let Some(writer) = &self.episodes else { return Ok(()) };
        let mut text = Vec::new();
        let capture = self.captures.as_ref().and_then(|names| names.of(episode.episode.packet));
        let context = export::EventContext { capture: capture.as_deref(), ..Default::default() };
        writer.write_episode(episode, context, &mut text);
        text.push(b'\n');
        self.out.write_all(&text)?;
        if self.live { self.out.flush() } else { Ok(()) }
    }

    fn write_packet(&mut self, packet: &EvidencePacket) -> Result<()> {
        let Some((writer, path)) = &mut self.packets_to else { return Ok(()) };
        let EvidencePacket { timestamp, link, wire_len, ref bytes, .. } = *packet;
        let written =
            writer.packet(&pcapng::PcapngPacket { timestamp, link, wire_len, bytes, comment: &evidence::comment(packet) });
        written.with_context(|| OutputError::to(path, "packets"))
    }
}

/// Where packets come from, for events.
#[derive(Clone)]
pub(super) struct Origin {
    /// Names of the captures.
    pub(super) captures: Option<Arc<FileNames>>,
    /// Names of the interfaces.
    pub(super) interfaces: Arc<InterfaceNames>,
}

impl Origin {
    /// The capture of a stream's first packet, as given.
    fn capture(&self, verdict: &Verdict) -> Option<Arc<str>> {
        self.captures.as_ref().and_then(|names| names.of(verdict.number))
    }

    /// The interface of a stream, live or as the file names it.
    fn interface(&self, verdict: &Verdict) -> Option<Arc<str>> {
        verdict.interface.and_then(|id| self.interfaces.name(id))
    }
}

/// What is written of each stream.
#[derive(Clone, Copy)]
pub(super) enum Lines {
    /// Nothing: streams are counted for the table.
    None,
    /// An event in a format.
    Events(EventFormat, Event),
    /// A line about each stream that ends without a class.
    Unknown(UnknownList),
}

/// Writes one worker's lines of a source, or counts its streams for the table.
struct LineWriter {
    lines: Lines,
    /// Whether the streams are counted for the table.
    counted: bool,
    origin: Origin,
    writer: export::EventWriter,
    summary: Summary,
    /// The summary of all workers, to which this one's is added when the worker ends.
    total: Arc<Mutex<Summary>>,
}

impl VerdictWriter for LineWriter {
    fn write(&mut self, verdict: &Verdict, out: &mut Vec<u8>) {
        if self.counted {
            self.summary.count(verdict);
        }
        match self.lines {
            Lines::Events(_, wanted) if verdict.event == wanted => {
                let (capture, interface) = (self.origin.capture(verdict), self.origin.interface(verdict));
                let context =
                    export::EventContext { capture: capture.as_deref(), interface: interface.as_deref(), ..Default::default() };
                self.writer.write(verdict, context, out);
                out.push(b'\n');
            }
            Lines::Unknown(list) if verdict.event == Event::Stream => {
                if let Some(reason) = verdict.unknown_reason() {
                    let source = self.origin.capture(verdict).or_else(|| self.origin.interface(verdict));
                    let source = printable(Path::new(source.as_deref().unwrap_or("-")));
                    out.extend_from_slice(list.line(verdict, reason, &source).as_bytes());
                }
            }
            Lines::None | Lines::Events(..) | Lines::Unknown(_) => {}
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.total.lock().add(&self.summary);
    }
}

/// Creates the writers of a capture's events.
pub(super) fn line_writers(
    lines: Lines,
    counted: bool,
    origin: Origin,
    total: &Arc<Mutex<Summary>>,
    models: &Arc<Models>,
) -> NewVerdictWriter {
    let (total, models) = (Arc::clone(total), Arc::clone(models));
    Arc::new(move || {
        Box::new(LineWriter {
            lines,
            counted,
            origin: origin.clone(),
            writer: export::EventWriter::new(if let Lines::Events(format, _) = lines { format } else { EventFormat::default() }),
            summary: Summary::new(models.iter().map(Arc::as_ref)),
            total: Arc::clone(&total),
        })
    })
}
