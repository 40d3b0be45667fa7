//! `spiked read`: classifies the streams of captures.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use parking_lot::Mutex;

use crate::capture::{
    self, CaptureError, CaptureFile, Duplicates, ExpandedPaths, Filter, Filtered, FrameBatch, InTimeRange, LinkType, Nanos,
    Source, TimeRange, printable,
};
use crate::engine::{
    self, Counters, EngineSettings, EpisodeOutput, Event, EvidencePacket, Models, NewVerdictWriter, Observer, Output, Verdict,
    VerdictWriter,
};
use crate::export::pcapng::{self, PcapngWriter};
use crate::export::{self, EventFormat, Summary, evidence};
use crate::model::Model;
use crate::packet::{Decoder, MAX_TUNNEL_DEPTH, Tunnel, TunnelSettings, UdpTunnel, Undecodable};

use super::live::{self, Interfaces, Limited, Limits};
use super::read_progress::{Measured, ReadProgress};
use super::{Exit, OutputError, mask};

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
    spiked read --mask ports x.pcap                  classify without looking at ports")]
pub struct Args {
    /// Captures (pcap, pcapng; plain, gzip, zstd), folders of them, or - for standard input
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
    /// Model file; repeat it to read with several [default: the built-in protocols model]
    #[arg(long, short, value_name = "FILE")]
    model: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Which events to write, with any --format but table
    #[arg(long, value_enum, default_value = "detections")]
    events: Events,
    /// Lists the streams without a class instead of the table: ends, packets, reason, nearest class, confidence
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
    /// Does not decapsulate tunnels (GRE, VXLAN, GTP-U, IP-in-IP and others)
    #[arg(long)]
    no_tunnels: bool,
    /// Opens at most N tunnels within each other [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=i64::from(MAX_TUNNEL_DEPTH)), conflicts_with = "no_tunnels")]
    tunnel_depth: Option<u8>,
    /// Does not open tunnels of these kinds: gre, vxlan, geneve, gtp, teredo, ip-in-ip and others, see tunnels.exclude in spiked.toml
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = tunnel_kind)]
    exclude_tunnel: Vec<Tunnel>,
    /// Opens tunnels at another UDP port too, such as vxlan=9000; kinds: vxlan, vxlan-gpe, geneve, lisp, mpls, tzsp, gtp, l2tp, capwap,
    /// teredo
    #[arg(long, value_name = "KIND=PORT", value_parser = tunnel_port)]
    tunnel_port: Vec<(UdpTunnel, u16)>,
    /// Leaves VLANs out of the key of streams: packets with the same addresses and ports are one stream in whichever VLAN they are
    #[arg(long)]
    ignore_vlan: bool,
    /// Leaves out copies of one of the 5 frames before, as editcap -d: equal but for VLAN tags, at most 50 ms apart (mirror ports)
    #[arg(long)]
    drop_duplicates: bool,
    /// Size of the stream table, per model
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    streams: usize,
    /// Worker threads [default: one per allowed CPU]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
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

/// The value of `--exclude-tunnel`.
fn tunnel_kind(name: &str) -> Result<Tunnel, String> {
    Tunnel::from_name(name).ok_or_else(|| format!("not a valid kind of tunnel; give one of {}", Tunnel::names()))
}

/// The value of `--tunnel-port`.
fn tunnel_port(argument: &str) -> Result<(UdpTunnel, u16), String> {
    let (name, port) = argument.split_once('=').ok_or("has no '='; give KIND=PORT, such as vxlan=9000")?;
    let names = || UdpTunnel::ALL.map(UdpTunnel::name).join(", ");
    let kind =
        UdpTunnel::from_name(name).ok_or_else(|| format!("'{name}' is not a valid kind of tunnel; give one of {}", names()))?;
    let port = port.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("'{port}' is out of range (1 to 65535)"))?;
    Ok((kind, port))
}

impl Args {
    /// Which tunnels are opened.
    fn tunnels(&self) -> Result<TunnelSettings> {
        let depth = if self.no_tunnels { 0 } else { self.tunnel_depth.unwrap_or(MAX_TUNNEL_DEPTH) };
        let settings = self.exclude_tunnel.iter().fold(TunnelSettings::DEFAULT, |settings, &kind| settings.without(kind));
        let ports = self.tunnel_port.iter().try_fold(settings, |settings, &(kind, port)| settings.with_port(kind, port));
        Ok(ports.context("--tunnel-port")?.with_depth(depth))
    }
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
    for model in &mut models {
        mask(&mut model.layout, &args.mask)?;
    }
    let mut settings = EngineSettings::new(models.into_iter().map(Arc::new).collect());
    settings.decoder = Decoder::with_tunnels(args.tunnels()?);
    settings.limits.streams = args.streams.max(1);
    settings.vlan_in_key = !args.ignore_vlan;
    settings.pin = args.pin;
    settings.every_packet = args.every_packet;
    settings.keep_packets = if args.write.is_some() { args.write_packets } else { 0 };
    if let Some(workers) = args.workers {
        if workers == 0 {
            bail!("--workers 0 is out of range (1 or more)");
        }
        settings.workers = workers;
    }
    read(args, &settings)
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
    let lines = match (format, args.events) {
        (Some(format), Events::Detections) => Lines::Events(format, Event::Detection),
        (Some(format), Events::Streams) => Lines::Events(format, Event::Stream),
        (None, _) if args.unknown => Lines::Unknown,
        (None, _) | (Some(_), Events::Episodes) => Lines::None,
    };
    if args.events == Events::Episodes && args.format == Format::Csv {
        bail!("--events episodes has no --format csv; use jsonl, suricata or ecs");
    }
    let packets_to = match &args.write {
        Some(path) => {
            let same = |capture: &PathBuf| path.canonicalize().is_ok_and(|p| capture.canonicalize().is_ok_and(|c| c == p));
            if inputs.captures.iter().any(same) {
                bail!("--write {}: is one of the captures to read", path.display());
            }
            let file = File::create(path).with_context(|| OutputError::to(path, "packets"))?;
            Some(PcapngWriter::new(BufWriter::new(file))?)
        }
        None => None,
    };
    let summary = Arc::new(Mutex::new(Summary::new(models.iter().map(Arc::as_ref))));
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut observer = ReadObserver {
        out,
        live: false,
        packets_to,
        episodes: None,
        capture: None,
        summary: Arc::clone(&summary),
        written: Ok(()),
    };
    if args.events == Events::Episodes {
        observer.episodes = format.map(export::EventWriter::new);
    }
    if args.format == Format::Csv {
        writeln!(observer.out, "{}", export::CSV_HEADER)?;
    }
    if args.unknown {
        writeln!(observer.out, "{}", export::UNKNOWN_HEADER)?;
    }
    let limits = Limits::new(live::stop_on_signals(), args.count, args.duration.map(Duration::from_secs));
    let mut reading = Reading {
        args,
        settings,
        models: &models,
        lines,
        summary: &summary,
        observer,
        limits,
        progress: ReadProgress::new(
            &inputs.captures,
            args.quiet || (format.is_some() || args.unknown) && io::stdout().is_terminal(),
        ),
        ends: Vec::new(),
        read: 0,
        packets: 0,
    };
    for path in &inputs.skipped {
        eprintln!("spiked: {}: skipped: not a capture", printable(path));
    }
    if !args.interface.is_empty() {
        reading.interfaces()?;
    }
    for path in &inputs.captures {
        if reading.limits.are_reached() {
            break;
        }
        reading.capture(path)?;
    }
    reading.progress.finish();
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
    if let (Some(mut packets_to), Some(path)) = (packets_to, &args.write) {
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
    summary: &'a Arc<Mutex<Summary>>,
    observer: ReadObserver<'a>,
    limits: Limits,
    progress: ReadProgress,
    /// Outcomes of sources that could not be read completely.
    ends: Vec<Exit>,
    /// Number of sources that were read.
    read: usize,
    packets: u64,
}

impl Reading<'_> {
    /// Reports a source that can't be read, or no further.
    fn fail(&mut self, error: &CaptureError) {
        self.ends.push(Exit::of_capture(error));
        self.progress.message(&format!("spiked: {error}"));
    }

    /// Reads one capture, or standard input.
    fn capture(&mut self, path: &Path) -> Result<()> {
        let limits = self.limits.clone();
        let stopped = move || limits.are_reached() || live::output_is_closed();
        let source = CaptureFile::open_live(path, stopped);
        let source = source.and_then(|source| Filtered::new(source, self.args.filter.as_deref()));
        let mut source = match source {
            Ok(source) => Duplicates::new(InTimeRange::new(source, self.args.time_range), self.args.drop_duplicates),
            // A pipe that was stopped before its first byte.
            Err(CaptureError::Empty { .. }) if self.limits.are_reached() => return Ok(()),
            Err(error) => {
                self.fail(&error);
                return Ok(());
            }
        };
        let origin = Origin { capture: Some(path.display().to_string().into()), interfaces: Arc::default() };
        let progress = self.progress.clone();
        self.source(&mut Measured { source: &mut source, progress: &progress }, origin, None)?;
        let (copies, source) = (source.found(), source.source());
        let (outside, source) = (source.outside(), source.source());
        self.progress.next(source.frames());
        let name = printable(path);
        self.note_copies(copies, source.frames());
        let mut summary = self.summary.lock();
        self.packets += source.frames();
        if source.frames() == 0 {
            summary.note(format!("{name}: no packets"));
        }
        if let Some(cut) = source.truncation().filter(|_| !self.limits.are_reached()) {
            self.ends.push(Exit::Partly);
            summary.note(format!("{name}: {cut}"));
        }
        if source.refused() > 0 {
            summary.note(format!("{name}: {} packets did not match the filter", source.refused()));
        }
        if outside > 0 {
            summary.note(format!("{name}: {outside} packets are outside the time range"));
        }
        Ok(())
    }

    /// Reads from the interfaces until a limit is reached.
    fn interfaces(&mut self) -> Result<()> {
        let (open, errors) = Interfaces::open(&self.args.interface, self.args.filter.as_deref())?;
        for error in errors {
            self.ends.push(Exit::Unreadable);
            eprintln!("spiked: {error}");
        }
        let Some(Interfaces { source, stop, names }) = open else { return Ok(()) };
        let mut source = Duplicates::new(source, self.args.drop_duplicates);
        let origin = Origin { capture: None, interfaces: names.into() };
        let frames = self.source(&mut source, origin, Some(stop))?;
        self.packets += frames;
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
            let hint = if self.args.drop_duplicates { "were left out" } else { "--drop-duplicates leaves them out" };
            let of = if examined < packets { format!(" of {examined} that were compared") } else { String::new() };
            self.summary.lock().note(format!("{copies} packets{of} are copies of one before (mirror port); {hint}"));
        }
    }

    /// Reports the link types of a source that are not supported, each with its first packet.
    fn unsupported(&mut self, name: &str, counters: &Counters, first: &BTreeMap<LinkType, u64>) {
        for (reason, &count) in &counters.undecodable {
            let &Undecodable::UnsupportedLink(link) = reason else { continue };
            self.ends.push(Exit::Partly);
            // Packets that a filter, a time range or the option left out before have no number here.
            let all = self.args.filter.is_none() && self.args.time_range.is_none() && !self.args.drop_duplicates;
            let from = first.get(&link).filter(|_| all).map(|number| format!(", from packet {number} on")).unwrap_or_default();
            self.progress.message(&format!("spiked: {name}: link type {link} is not supported: {count} packets skipped{from}"));
        }
    }

    /// Reads a source to its end or a limit; returns the number of packets. `stop` stops a live source.
    fn source(&mut self, source: &mut dyn Source, origin: Origin, stop: Option<Arc<AtomicBool>>) -> Result<u64> {
        self.observer.capture.clone_from(&origin.capture);
        let name = origin.name();
        let writer = Some(line_writers(self.lines, origin, self.summary, self.models));
        let settings = EngineSettings { writer, ..self.settings.clone() };
        self.observer.live = source.is_live();
        let mut numbered = FirstOfLinks { source, numbers: BTreeMap::new(), last: None, frames: 0 };
        let mut source = Limited { source: &mut numbered, limits: &mut self.limits, stop };
        let counters = engine::run(&settings, &mut source, &mut self.observer);
        std::mem::replace(&mut self.observer.written, Ok(()))?;
        self.read += 1;
        match counters {
            Ok(counters) => {
                self.unsupported(&name, &counters, &numbered.numbers);
                let mut summary = self.summary.lock();
                summary.capture(&counters);
                if counters.lone_fragments > 0 {
                    summary.note(format!("{} fragments came without their first fragment", counters.lone_fragments));
                }
                Ok(counters.frames)
            }
            Err(error) => {
                self.fail(&error);
                Ok(0)
            }
        }
    }
}

/// A source that remembers the number of the first packet of each link type, from 1.
struct FirstOfLinks<'a> {
    source: &'a mut dyn Source,
    numbers: BTreeMap<LinkType, u64>,
    /// Link type of the last packet.
    last: Option<LinkType>,
    frames: u64,
}

impl Source for FirstOfLinks<'_> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        for frame in batch.iter() {
            self.frames += 1;
            if self.last != Some(frame.link) {
                self.last = Some(frame.link);
                self.numbers.entry(frame.link).or_insert(self.frames);
            }
        }
        Ok(more)
    }

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

/// Writes events to standard output and packets to the `--write` file.
struct ReadObserver<'a> {
    out: BufWriter<StdoutLock<'a>>,
    /// Whether packets arrive as they are captured, so that events are written at once.
    live: bool,
    packets_to: Option<PcapngWriter<BufWriter<File>>>,
    /// Writes episodes; `None` if they are not wanted.
    episodes: Option<export::EventWriter>,
    /// Path of the capture that is read.
    capture: Option<Arc<str>>,
    summary: Arc<Mutex<Summary>>,
    /// The first write error; nothing is written after it.
    written: io::Result<()>,
}

impl Observer for ReadObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        if self.written.is_err() {
            return;
        }
        match output {
            Output::Verdict { text, .. } => {
                self.written = self.out.write_all(text);
                if self.live && self.written.is_ok() {
                    self.written = self.out.flush();
                }
            }
            Output::Packet(packet) => self.written = self.write_packet(packet),
            Output::Episode(episode) => self.written = self.episode(episode),
            Output::Progress(_) => {}
        }
    }
}

impl ReadObserver<'_> {
    fn episode(&mut self, episode: &EpisodeOutput) -> io::Result<()> {
        self.summary.lock().episode(episode);
        let Some(writer) = &self.episodes else { return Ok(()) };
        let mut text = Vec::new();
        let context = export::EventContext { capture: self.capture.as_deref(), ..Default::default() };
        writer.write_episode(episode, context, &mut text);
        text.push(b'\n');
        self.out.write_all(&text)?;
        if self.live { self.out.flush() } else { Ok(()) }
    }

    fn write_packet(&mut self, packet: &EvidencePacket) -> io::Result<()> {
        let Some(writer) = &mut self.packets_to else { return Ok(()) };
        let EvidencePacket { timestamp, link, wire_len, ref bytes, .. } = *packet;
        writer.packet(&pcapng::PcapngPacket { timestamp, link, wire_len, bytes, comment: &evidence::comment(packet) })
    }
}

/// Where packets come from, for events.
#[derive(Clone)]
struct Origin {
    /// The capture as given.
    capture: Option<Arc<str>>,
    /// Names of the interfaces.
    interfaces: Arc<[String]>,
}

impl Origin {
    /// The capture or the interfaces, for messages.
    fn name(&self) -> String {
        self.capture.as_deref().map_or_else(|| self.interfaces.join(", "), |capture| printable(Path::new(capture)).to_string())
    }

    /// The live interface of a stream.
    fn interface(&self, verdict: &Verdict) -> Option<&str> {
        verdict.interface.and_then(|id| self.interfaces.get(id.index())).map(String::as_str)
    }
}

/// What is written of each stream.
#[derive(Clone, Copy)]
enum Lines {
    /// Nothing: streams are counted for the table.
    None,
    /// An event in a format.
    Events(EventFormat, Event),
    /// A line about each stream that ends without a class.
    Unknown,
}

/// Writes one worker's lines of a source, or counts its streams for the table.
struct LineWriter {
    lines: Lines,
    origin: Origin,
    writer: export::EventWriter,
    summary: Summary,
    /// The summary of all workers, to which this one's is added when the worker ends.
    total: Arc<Mutex<Summary>>,
}

impl VerdictWriter for LineWriter {
    fn write(&mut self, verdict: &Verdict, out: &mut Vec<u8>) {
        match self.lines {
            Lines::None => self.summary.count(verdict),
            Lines::Events(_, wanted) if verdict.event == wanted => {
                let context = export::EventContext {
                    capture: self.origin.capture.as_deref(),
                    interface: self.origin.interface(verdict),
                    ..Default::default()
                };
                self.writer.write(verdict, context, out);
                out.push(b'\n');
            }
            Lines::Unknown if verdict.event == Event::Stream => {
                if let Some(reason) = verdict.unknown_reason() {
                    let source = self.origin.capture.as_deref().or_else(|| self.origin.interface(verdict)).unwrap_or("-");
                    let source = printable(Path::new(source));
                    out.extend_from_slice(export::unknown_line(verdict, reason, &source).as_bytes());
                }
            }
            Lines::Events(..) | Lines::Unknown => {}
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.total.lock().add(&self.summary);
    }
}

/// Creates the writers of a capture's events.
fn line_writers(lines: Lines, origin: Origin, total: &Arc<Mutex<Summary>>, models: &Arc<Models>) -> NewVerdictWriter {
    let (total, models) = (Arc::clone(total), Arc::clone(models));
    Arc::new(move || {
        Box::new(LineWriter {
            lines,
            origin: origin.clone(),
            writer: export::EventWriter::new(if let Lines::Events(format, _) = lines { format } else { EventFormat::default() }),
            summary: Summary::new(models.iter().map(Arc::as_ref)),
            total: Arc::clone(&total),
        })
    })
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
