//! `spiked read`: classifies the streams of captures.

use std::fs::File;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use parking_lot::Mutex;

use crate::capture::{self, CaptureError, CaptureFile, Filter, Filtered};
use crate::engine::{
    self, EngineSettings, Event, EvidencePacket, Models, NewVerdictWriter, Observer, Output, Verdict, VerdictWriter,
};
use crate::export::pcapng::{self, PcapngWriter};
use crate::export::{self, EventFormat, Summary, evidence};
use crate::model::Model;
use crate::packet::Decoder;

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
}

/// Classifies the streams in captures
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked read capture.pcap                         streams by class\n  \
    spiked read --format jsonl captures/ > eve.json  all detections in a folder of captures\n  \
    spiked read --events streams --format csv x.pcap  all streams as a table for spreadsheets\n  \
    spiked read --events streams --format jsonl x.pcap | jq 'select(.spiked.class == null)'\n  \
    tcpdump -w - | spiked read -                     standard input\n  \
    spiked read --write named.pcapng x.pcap          first packets of classified streams, with comments for Wireshark\n  \
    spiked read --mask ports x.pcap                  classify without looking at ports")]
pub struct Args {
    /// Captures (pcap, pcapng; plain, gzip, zstd), folders of them, or - for standard input
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Model file; repeat it to read with several [default: the built-in protocols model]
    #[arg(long, short, value_name = "FILE")]
    model: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Which events to write, with any --format but table
    #[arg(long, value_enum, default_value = "detections")]
    events: Events,
    /// Reads only packets that match this BPF filter (tcpdump syntax)
    #[arg(long, short, value_name = "BPF")]
    filter: Option<String>,
    /// Ignores these slots: a group (link, network, ttl, ports, transport, options, length, payload, context) or a field (tcp.window)
    #[arg(long, value_name = "SLOTS", value_delimiter = ',')]
    mask: Vec<String>,
    /// Does not decapsulate GRE, VXLAN and IP-in-IP tunnels
    #[arg(long)]
    no_tunnels: bool,
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
    /// Prints only errors
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    let mut models = Vec::new();
    for path in &args.model {
        let model = Model::load(path)?;
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
    settings.decoder = Decoder { open_tunnels: !args.no_tunnels };
    settings.limits.streams = args.streams.max(1);
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
    let inputs = capture::expand(&args.captures)?;
    let models = settings.models.load_full();
    let wanted = if args.events == Events::Detections { Event::Detection } else { Event::Stream };
    // The table is printed from the summary.
    let events = args.format.of_events().map(|format| (format, wanted));
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
    let mut observer = ReadObserver { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), packets_to, written: Ok(()) };
    if args.format == Format::Csv {
        writeln!(observer.out, "{}", export::CSV_HEADER)?;
    }
    // Outcomes of captures that could not be read completely.
    let mut ends = Vec::new();
    let (mut read, mut packets) = (0, 0);
    for path in &inputs.captures {
        let mut source = match open(args, path) {
            Ok(source) => source,
            Err(error) => {
                ends.push(Exit::of_capture(&error));
                eprintln!("spiked: {error}");
                continue;
            }
        };
        let name = path.display().to_string();
        let settings = EngineSettings { writer: Some(line_writers(events, &name, &summary, &models)), ..settings.clone() };
        let counters = engine::run(&settings, &mut source, &mut observer);
        std::mem::replace(&mut observer.written, Ok(()))?;
        let mut summary = summary.lock();
        match counters {
            Ok(counters) => summary.capture(&counters),
            Err(error) => {
                ends.push(Exit::of_capture(&error));
                eprintln!("spiked: {error}");
            }
        }
        read += 1;
        packets += source.frames();
        if source.frames() == 0 {
            summary.note(format!("{name}: no packets"));
        }
        if let Some(cut) = source.truncation() {
            ends.push(Exit::Partly);
            summary.note(format!("{name}: {cut}"));
        }
        if source.refused() > 0 {
            summary.note(format!("{name}: {} packets did not match the filter", source.refused()));
        }
    }
    let exit = end(&ends, packets);
    if read == 0 {
        eprintln!("spiked: {}: no capture could be read", exit.name());
        return Ok(exit);
    }
    let ReadObserver { mut out, packets_to, .. } = observer;
    if let (Some(mut packets_to), Some(path)) = (packets_to, &args.write) {
        packets_to.get_mut().flush().with_context(|| OutputError::to(path, "packets"))?;
    }
    let mut summary = summary.lock();
    for path in &inputs.skipped {
        summary.note(format!("skipped: {}: not a capture", path.display()));
    }
    match args.format {
        Format::Table => write!(out, "{summary}")?,
        _ if args.quiet => {}
        _ => summary.notes().iter().for_each(|note| eprintln!("spiked: {note}")),
    }
    out.flush()?;
    Ok(exit)
}

/// Writes events to standard output and packets to the `--write` file.
struct ReadObserver<'a> {
    out: BufWriter<StdoutLock<'a>>,
    packets_to: Option<PcapngWriter<BufWriter<File>>>,
    /// The first write error; nothing is written after it.
    written: io::Result<()>,
}

impl Observer for ReadObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        if self.written.is_err() {
            return;
        }
        match output {
            Output::Verdict { text, .. } => self.written = self.out.write_all(text),
            Output::Packet(packet) => self.written = self.write_packet(packet),
            Output::Progress(_) => {}
        }
    }
}

impl ReadObserver<'_> {
    fn write_packet(&mut self, packet: &EvidencePacket) -> io::Result<()> {
        let Some(writer) = &mut self.packets_to else { return Ok(()) };
        let EvidencePacket { timestamp, link, wire_len, ref bytes, .. } = *packet;
        writer.packet(&pcapng::PcapngPacket { timestamp, link, wire_len, bytes, comment: &evidence::comment(packet) })
    }
}

/// Writes one worker's events of a capture, one line each, and counts all streams.
struct LineWriter {
    /// The event that is written; `None` to count only.
    wanted: Option<Event>,
    capture: Arc<str>,
    writer: export::EventWriter,
    summary: Summary,
    /// The summary of all workers, to which this one's is added when the worker ends.
    total: Arc<Mutex<Summary>>,
}

impl VerdictWriter for LineWriter {
    fn write(&mut self, verdict: &Verdict, out: &mut Vec<u8>) {
        self.summary.count(verdict);
        if Some(verdict.event) == self.wanted {
            self.writer.write(verdict, export::EventContext { capture: Some(&self.capture), ..Default::default() }, out);
            out.push(b'\n');
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.total.lock().add(&self.summary);
    }
}

/// Creates the writers of a capture's events.
fn line_writers(
    events: Option<(EventFormat, Event)>,
    capture: &str,
    total: &Arc<Mutex<Summary>>,
    models: &Arc<Models>,
) -> NewVerdictWriter {
    let (capture, total, models): (Arc<str>, _, _) = (capture.into(), Arc::clone(total), Arc::clone(models));
    Arc::new(move || {
        Box::new(LineWriter {
            wanted: events.map(|(_, wanted)| wanted),
            capture: Arc::clone(&capture),
            writer: export::EventWriter::new(events.map_or(EventFormat::default(), |(format, _)| format)),
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

fn open(args: &Args, path: &std::path::Path) -> Result<Filtered<CaptureFile>, CaptureError> {
    Filtered::new(CaptureFile::open(path)?, args.filter.as_deref())
}
