//! `spiked read`: classifies the streams of captures.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use parking_lot::Mutex;

use crate::capture::{
    self, CaptureError, CaptureFile, Duplicates, ExpandedPaths, Filter, Filtered, FrameBatch, InTimeRange, InterfaceNames, Nanos,
    Source, TimeRange, printable,
};
use crate::engine::{self, Counters, EngineSettings, Event, Models};
use crate::export::pcapng::PcapngWriter;
use crate::export::{self, EventFormat, Summary, UnknownList};
use crate::model::Model;
use crate::packet::Undecodable;

use super::intake::IntakeOptions;
use super::live::{self, Interfaces, Limited, Limits};
use super::{Exit, OutputError, mask};

mod files;
#[cfg(feature = "fleet")]
pub mod job;
mod output;
mod progress;

use files::{DatedPath, FileChain, FileEnd, LinkCounts};
use output::{Lines, Origin, ReadObserver, line_writers};
use progress::ReadProgress;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Summary for people: streams, packets and bytes per class
    Table,
    /// Events for programs: one JSON object per line, in the style of Suricata's EVE
    Jsonl,
    /// Events that Suricata's JSON schema allows: types alert and flow, all other fields in the object spiked
    Suricata,
    /// Events with the field names of the Elastic Common Schema
    Ecs,
    /// Events as comma-separated values, with a header
    Csv,
}

impl Format {
    /// The format of events; `None` for the table.
    fn of_events(self) -> Option<EventFormat> {
        match self {
            Self::Table => None,
            Self::Jsonl => Some(EventFormat::Jsonl),
            Self::Suricata => Some(EventFormat::Suricata),
            Self::Ecs => Some(EventFormat::Ecs),
            Self::Csv => Some(EventFormat::Csv),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Events {
    /// One event for each classified stream, as soon as it is decided
    Detections,
    /// One event for each stream when it ends, classified or not
    Streams,
    /// Events when an episode begins, every minute while it lasts, and when it ends
    Episodes,
}

/// Classifies the streams in captures
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked read capture.pcap                         streams by class\n  \
    spiked read --format jsonl captures/ > eve.json  all detections in a folder of captures\n  \
    spiked read --events streams --format csv x.pcap  all streams as a table for spreadsheets\n  \
    spiked read --unknown x.pcap                     streams without a class, one a line\n  \
    tcpdump -w - | spiked read -                     standard input, each event as soon as it is decided\n  \
    spiked read -i eth0 --duration 60 --format jsonl  an interface for a minute\n  \
    spiked read --write named.pcapng x.pcap          first packets of classified streams, with comments for Wireshark\n  \
    spiked read --time-range 2026-01-31T12:00:00Z..2026-01-31T12:05:00Z x.pcap  five minutes of a capture\n  \
    spiked read --mask ports x.pcap                  classify without looking at ports\n  \
    spiked read s3://captures/2026/                  captures below a folder of an S3 bucket, see AWS_ENDPOINT_URL\n\n\
    S3 takes its settings from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,\n\
    AWS_ENDPOINT_URL, and AWS_ALLOW_HTTP=true for an endpoint without TLS. This needs a build with the feature fleet.")]
pub struct Args {
    /// Captures (pcap, pcapng, snoop, ERF; plain, gzip, zstd, xz, lz4), folders of them, s3://BUCKET/KEY, or - for standard input
    #[arg(required_unless_present = "interface", value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Reads from this interface until a signal or a limit ends it; may be repeated
    #[arg(long, short, value_name = "NAME", conflicts_with = "captures")]
    interface: Vec<String>,
    /// Ends after N packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    duration: Option<u64>,
    /// Model file, or the name of a built-in model (`spiked model list`); repeat it to read with several [default: protocols]
    #[arg(long, short, value_name = "FILE")]
    model: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Which events to write, with any --format but table [default: detections]
    #[arg(long, value_enum)]
    events: Option<Events>,
    /// Lists the streams without a class instead of the table: ends, packets, reason, nearest class, confidence; of several models, the
    /// model first
    #[arg(long, conflicts_with_all = ["format", "events"])]
    unknown: bool,
    /// Reads only packets that match this BPF filter (tcpdump syntax)
    #[arg(long, short, value_name = "BPF")]
    filter: Option<String>,
    /// Reads only packets captured from START on and before END, as editcap -A and -B; RFC 3339 or seconds since 1970, either may be left
    /// out
    #[arg(long, value_name = "START..END", conflicts_with = "interface")]
    time_range: Option<TimeRange>,
    /// Ignores these slots: a group (link, network, ttl, ports, transport, options, length, payload, context) or a field (tcp.window)
    #[arg(long, value_name = "SLOTS", value_delimiter = ',')]
    mask: Vec<String>,
    #[command(flatten)]
    intake: IntakeOptions,
    /// Reads each file as a capture of its own, in the order given. Without it, files that follow each other in time are one capture, and
    /// streams go on from file to file
    #[arg(long, conflicts_with = "interface")]
    each_file: bool,
    /// Size of the stream table, per model
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// Worker threads [default: one per allowed CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Pins each worker to its own CPU
    #[arg(long)]
    pin: bool,
    /// Scores every packet, including those of decided streams
    #[arg(long)]
    every_packet: bool,
    /// Writes the first packets of each classified stream to this pcapng file, with class and confidence as packet comments
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Number of packets per stream that --write writes
    #[arg(long, value_name = "N", default_value_t = 20, requires = "write", value_parser = clap::value_parser!(u32).range(1..=1000))]
    write_packets: u32,
    /// Prints only errors, and no progress
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    let mut models = Vec::new();
    for path in &args.model {
        let model = Model::open(path)?;
        if models.iter().any(|m: &Model| m.name == model.name) {
            bail!("--model {}: two models would be called '{}' in events; rename one of the files", path.display(), model.name);
        }
        models.push(model);
    }
    if models.is_empty() {
        models.push(Model::built_in()?);
    }
    read(args, &engine_settings(args, models.into_iter().map(Arc::new).collect())?)
}

/// The engine's settings for reading with `models`.
fn engine_settings(args: &Args, mut models: Vec<Arc<Model>>) -> Result<EngineSettings> {
    if !args.mask.is_empty() {
        models.iter_mut().try_for_each(|model| mask(&mut Arc::make_mut(model).layout, &args.mask))?;
    }
    let mut settings = EngineSettings::new(models);
    settings.intake = args.intake.intake()?;
    settings.limits.streams = args.streams as usize;
    settings.pin = args.pin;
    settings.every_packet = args.every_packet;
    settings.keep_packets = if args.write.is_some() { args.write_packets } else { 0 };
    if let Some(workers) = args.workers {
        settings.workers = workers.into();
    }
    Ok(settings)
}

/// What is written of each stream with `format`.
fn lines(args: &Args, models: &Models, format: Option<EventFormat>) -> Result<Lines> {
    if args.events.is_some() && format.is_none() {
        bail!("--events needs --format jsonl, suricata, ecs or csv");
    }
    if args.events == Some(Events::Episodes) && args.format == Format::Csv {
        bail!("--events episodes has no --format csv; use jsonl, suricata or ecs");
    }
    if args.events == Some(Events::Episodes) && models.iter().all(|model| model.episodes.is_empty()) {
        bail!("--events episodes: no model has episodes; the built-in one is --model behaviours");
    }
    Ok(match (format, args.events) {
        (Some(format), None | Some(Events::Detections)) => Lines::Events(format, Event::Detection),
        (Some(format), Some(Events::Streams)) => Lines::Events(format, Event::Stream),
        (None, _) if args.unknown => Lines::Unknown(UnknownList::new(models.iter().map(Arc::as_ref))),
        (None, _) | (Some(_), Some(Events::Episodes)) => Lines::None,
    })
}

fn read(args: &Args, settings: &EngineSettings) -> Result<Exit> {
    if let Some(expression) = &args.filter {
        Filter::new(expression)?;
    }
    let mut inputs = ExpandedPaths::default();
    if args.interface.is_empty() {
        inputs = capture::expand(&args.captures)?;
    }
    let models = settings.models.load_full();
    // The table is printed from the summary.
    let format = args.format.of_events();
    let lines = lines(args, &models, format)?;
    let packets_to = match &args.write {
        Some(path) => {
            let same = |capture: &PathBuf| path.canonicalize().is_ok_and(|p| capture.canonicalize().is_ok_and(|c| c == p));
            if inputs.captures.iter().any(same) {
                bail!("--write {}: is one of the captures to read", path.display());
            }
            let writer = File::create(path).and_then(|file| PcapngWriter::new(BufWriter::new(file)));
            let writer = writer.with_context(|| OutputError::to(path, "packets"))?;
            Some((writer, path.as_path()))
        }
        None => None,
    };
    let summary = Arc::new(Mutex::new(Summary::new(models.iter().map(Arc::as_ref))));
    let mut observer = ReadObserver::new(args, Box::new(BufWriter::with_capacity(1 << 16, io::stdout().lock())), &summary);
    observer.packets_to = packets_to;
    if args.format == Format::Csv {
        writeln!(observer.out, "{}", export::CSV_HEADER)?;
    }
    if let Lines::Unknown(list) = lines {
        writeln!(observer.out, "{}", list.header())?;
    }
    let limits = Limits::new(live::stop_on_signals(), args.count, args.duration.map(Duration::from_secs));
    let mut reading = Reading {
        args,
        settings,
        models: &models,
        lines,
        counted: matches!(lines, Lines::None),
        summary: &summary,
        observer,
        limits,
        progress_hidden: args.quiet || (format.is_some() || args.unknown) && io::stdout().is_terminal(),
        ends: Vec::new(),
        failures: Vec::new(),
        read: 0,
        packets: 0,
    };
    for path in &inputs.skipped {
        eprintln!("spiked: {}: skipped: not a capture", printable(path));
    }
    if !args.interface.is_empty() {
        reading.interfaces()?;
    }
    reading.captures(&inputs.captures)?;
    let Reading { observer, limits, ends, read, packets, .. } = reading;
    let exit = match end(&ends, packets) {
        Exit::Ok if !inputs.skipped.is_empty() => Exit::Partly,
        exit => exit,
    };
    if read == 0 && !limits.are_reached() {
        eprintln!("spiked: {}: no capture could be read", exit.name());
        return Ok(exit);
    }
    let ReadObserver { mut out, packets_to, .. } = observer;
    if let Some((mut packets_to, path)) = packets_to {
        packets_to.get_mut().flush().with_context(|| OutputError::to(path, "packets"))?;
    }
    let summary = summary.lock();
    match args.format {
        Format::Table if !args.unknown => write!(out, "{summary}")?,
        _ if args.quiet => {}
        _ => summary.notes().iter().for_each(|note| eprintln!("spiked: {note}")),
    }
    out.flush()?;
    Ok(exit)
}

/// One run of the command, source by source.
struct Reading<'a> {
    args: &'a Args,
    settings: &'a EngineSettings,
    models: &'a Arc<Models>,
    lines: Lines,
    /// Whether the streams are counted for the table.
    counted: bool,
    summary: &'a Arc<Mutex<Summary>>,
    observer: ReadObserver<'a>,
    limits: Limits,
    progress_hidden: bool,
    /// Outcomes of sources that could not be read completely.
    ends: Vec<Exit>,
    /// Why captures could not be opened, or not be read to their end.
    failures: Vec<CaptureError>,
    /// Number of sources that were read.
    read: usize,
    packets: u64,
}

impl Reading<'_> {
    /// Reads captures and standard input.
    fn captures(&mut self, paths: &[PathBuf]) -> Result<()> {
        let limits = self.limits.clone();
        let (args, drop) = (self.args, self.settings.intake.drop_duplicates);
        let interfaces = Arc::<InterfaceNames>::default();
        let names = Arc::clone(&interfaces);
        let open = move |path: &Path| {
            let limits = limits.clone();
            let stopped = move || limits.are_reached() || live::output_is_closed();
            let source = CaptureFile::open_live(path, stopped)?.with_interfaces(&names);
            let source = Filtered::new(source, args.filter.as_deref())?;
            Ok(Duplicates::new(InTimeRange::new(source, args.time_range), drop))
        };
        let paths = if args.each_file { DatedPath::each(paths) } else { DatedPath::in_order(paths) };
        let in_order: Vec<PathBuf> = paths.iter().map(|dated| dated.path.clone()).collect();
        let progress = ReadProgress::new(&in_order, self.progress_hidden);
        let mut chain = FileChain::new(paths, self.settings.limits.idle, progress, Box::new(open));
        while !self.limits.are_reached()
            && let Some(names) = chain.begin()
        {
            let origin = Origin { captures: Some(names), interfaces: Arc::clone(&interfaces) };
            let counters = self.source(&mut chain, origin, None)?;
            chain.finish();
            self.files(&mut chain, counters.as_ref());
        }
        self.files(&mut chain, None);
        chain.progress.finish();
        Ok(())
    }

    /// Notes what there is to say about the files that were read as one source, and those that could not be opened.
    fn files(&mut self, chain: &mut FileChain<'_>, counters: Option<&Counters>) {
        let stopped = self.limits.are_reached();
        for error in chain.errors.drain(..) {
            // A pipe that was stopped before its first byte is no error.
            if !(stopped && matches!(error, CaptureError::Empty { .. })) {
                self.ends.push(Exit::of_capture(&error));
                chain.progress.message(&format!("spiked: {error}"));
                self.failures.push(error);
            }
        }
        self.summary.lock().files(chain.ends.len() as u64);
        for FileEnd { name, links, copies, frames, outside, refused, has_interfaces, truncation, failure } in chain.ends.drain(..)
        {
            if let Some(counters) = counters {
                self.unsupported(&name, counters, &links, &|line| chain.progress.message(line));
            }
            self.note_copies(copies, frames);
            self.packets += frames;
            self.failures.extend(failure);
            let mut summary = self.summary.lock();
            if frames == 0 {
                summary.note(format!("{name}: no packets"));
            }
            if let Some(truncation) = truncation.filter(|_| !stopped) {
                self.ends.push(Exit::Partly);
                summary.note(format!("{name}: {truncation}"));
            }
            if self.settings.intake.interface_in_key && !has_interfaces {
                summary.note(format!(
                    "{name}: the file does not name interfaces (pcapng does): --interface-in-key has no effect on it"
                ));
            }
            if refused > 0 {
                summary.note(format!("{name}: {refused} packets did not match the filter"));
            }
            if outside > 0 {
                summary.note(format!("{name}: {outside} packets are outside the time range"));
            }
        }
    }

    /// Reads from the interfaces until a limit is reached.
    fn interfaces(&mut self) -> Result<()> {
        let (open, errors) = Interfaces::open(&self.args.interface, self.args.filter.as_deref())?;
        for error in errors {
            self.ends.push(Exit::Unreadable);
            eprintln!("spiked: {error}");
        }
        let Some(Interfaces { source, stop, names }) = open else { return Ok(()) };
        let mut source = Duplicates::new(source, self.settings.intake.drop_duplicates);
        let name = names.join(", ");
        let origin = Origin { captures: None, interfaces: Arc::new(InterfaceNames::of(names.iter().map(String::as_str))) };
        let mut counted = CountedLinks { source: &mut source, links: LinkCounts::default() };
        let counters = self.source(&mut counted, origin, Some(stop))?;
        let links = counted.links;
        if let Some(counters) = &counters {
            self.unsupported(&name, counters, &links, &|line| eprintln!("{line}"));
        }
        let frames = counters.map_or(0, |counters| counters.frames);
        self.packets += frames;
        self.summary.lock().files(1);
        self.note_copies(source.found(), frames);
        let mut summary = self.summary.lock();
        for counters in source.source().counters() {
            let dropped = counters.kernel_drops.load(Relaxed) + counters.interface_drops.load(Relaxed);
            let dropped = dropped + counters.queue_drops.load(Relaxed);
            if dropped > 0 {
                self.ends.push(Exit::Partly);
                summary.note(format!(
                    "{}: {dropped} packets were dropped, since they came faster than they could be read",
                    counters.name
                ));
            }
        }
        Ok(())
    }

    /// Notes the copies that a source held.
    fn note_copies(&self, (copies, examined): (u64, u64), packets: u64) {
        if copies > 0 {
            let compared = if examined < packets { " that were compared" } else { "" };
            let hint = if self.settings.intake.drop_duplicates { "left out" } else { "--drop-duplicates leaves duplicates out" };
            self.summary.lock().note(format!(
                "duplicates: {copies} of {examined} packets{compared}, identical to one shortly before (a mirror port, or a program \
                 that repeats itself); {hint}"
            ));
        }
    }

    /// Reports the link types of a file or of interfaces that are not supported, each with its first packet.
    fn unsupported(&mut self, name: &str, counters: &Counters, links: &LinkCounts, message: &dyn Fn(&str)) {
        for reason in counters.undecodable.keys() {
            let &Undecodable::UnsupportedLink(link) = reason else { continue };
            let Some((first, count)) = links.of(link) else { continue };
            self.ends.push(Exit::Partly);
            // Packets that a filter, a time range or the option left out before have no number here.
            let all = self.args.filter.is_none() && self.args.time_range.is_none() && !self.settings.intake.drop_duplicates;
            let from = if all { format!(", from packet {first} on") } else { String::new() };
            message(&format!("spiked: {name}: link type {link} is not supported: {count} packets skipped{from}"));
        }
    }

    /// Reads a source to its end or a limit; returns its counters, or `None` after an error. `stop` stops a live source.
    fn source(&mut self, source: &mut dyn Source, origin: Origin, stop: Option<Arc<AtomicBool>>) -> Result<Option<Counters>> {
        self.observer.captures.clone_from(&origin.captures);
        let writer = Some(line_writers(self.lines, self.counted, origin, self.summary, self.models));
        let settings = EngineSettings { writer, ..self.settings.clone() };
        self.observer.live = source.is_live();
        let mut source = Limited { source, limits: &mut self.limits, stop };
        let counters = engine::run(&settings, &mut source, &mut self.observer);
        std::mem::replace(&mut self.observer.written, Ok(()))?;
        self.read += 1;
        match counters {
            Ok(counters) => {
                let mut summary = self.summary.lock();
                summary.capture(&counters);
                if counters.lone_fragments > 0 {
                    summary.note(format!("{} fragments came without their first fragment", counters.lone_fragments));
                }
                Ok(Some(counters))
            }
            Err(error) => {
                self.ends.push(Exit::of_capture(&error));
                eprintln!("spiked: {error}");
                self.failures.push(error);
                Ok(None)
            }
        }
    }
}

/// A source whose packets are counted by link type.
struct CountedLinks<'a> {
    source: &'a mut dyn Source,
    links: LinkCounts,
}

impl Source for CountedLinks<'_> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        self.links.add(batch);
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

/// The exit code, given the outcomes of failed captures and the number of packets read.
fn end(wrong: &[Exit], packets: u64) -> Exit {
    match wrong.iter().max() {
        None if packets == 0 => Exit::Nothing,
        None => Exit::Ok,
        Some(&worst) if packets == 0 => worst,
        Some(_) => Exit::Partly,
    }
}
