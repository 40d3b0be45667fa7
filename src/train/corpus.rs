//! Corpus of labelled streams: labelled captures, decoded, tracked and encoded to volleys as in inference.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, Duplicates, Filtered, Nanos, Source};
use crate::encode::{Layout, Volley};
use crate::packet::{Address, Headers, KeyKind, Network, StreamKey};
use crate::snn::ClassId;
use crate::stream::{Intake, Stream, StreamLimits, StreamTracker};
use crate::trace::{TraceTable, TraceValues};

use super::labels::{Labels, StreamName};

/// Factors on the time between packets of traces that training sees besides those of the capture: ten times slower and faster.
pub(super) const STRETCHES: [f64; 2] = [10.0, 0.1];

/// Besides the later packets that are scored again, training sees every 32nd packet of a flow, up to its 2,048th: a flood that is one flow
/// has few others.
const EXTRA: (u64, u64) = (32, 2048);

/// A table of traces that training sees besides those of the capture.
struct OtherTraces {
    table: TraceTable,
    /// Whether it sees ARP.
    sees_arp: bool,
}

impl OtherTraces {
    /// The tables: at other paces, and of a sensor behind a router, which sees no ARP. `new` makes an empty table, if the layout has traces.
    fn all(new: impl Fn() -> Option<TraceTable>) -> Vec<Self> {
        let table = |stretch, sees_arp| Some(Self { table: new()?.stretched(stretch), sees_arp });
        let stretched = STRETCHES.iter().map(|&stretch| table(stretch, true));
        stretched.chain([table(1.0, false)]).flatten().collect()
    }

    /// Counts a packet. Returns its trace values, [`TraceValues::NONE`] unless `due`; `None` if the table does not see the packet.
    fn follow(&mut self, headers: &Headers, frame: &[u8], now: Nanos, due: bool) -> Option<TraceValues> {
        let seen = self.sees_arp || headers.network != Network::Arp;
        seen.then(|| self.table.follow(headers, frame, now, due))
    }
}

/// Where and when a flow began.
#[derive(Clone, Debug)]
pub struct FlowStart {
    /// The sender of the first packet.
    pub source: Address,
    /// The receiver of the first packet.
    pub target: Address,
    /// Time of the first packet.
    pub time: Nanos,
}

impl FlowStart {
    /// The begin of a flow; `None` for other streams.
    pub(super) fn of<T>(stream: &Stream<T>) -> Option<Self> {
        let [(source, _), (target, _)] = stream.key.ends(stream.first_direction());
        (stream.key.kind() == KeyKind::Flow).then_some(Self { source, target, time: stream.first })
    }
}

/// One stream of the corpus.
#[derive(Clone, Debug)]
pub struct LabelledStream {
    /// Index into [`Corpus::captures`].
    pub capture: u32,
    /// Class of the stream.
    pub class: ClassId,
    /// Name of the stream.
    pub name: StreamName,
    /// All packets of the stream, also those that are not stored.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Whether the stream is used for calibration only: no network is trained on it.
    pub reference: bool,
    /// Index of the first volley, for [`Corpus::volley`].
    pub first: usize,
    /// Number of volleys stored.
    pub kept: usize,
    /// Where and when the flow began; `None` if that is not known, and for later packets that only training sees.
    pub start: Option<FlowStart>,
    /// Volleys behind those that show the same packets with other traces: at another pace, or without ARP. Only training uses them.
    pub other_traces: usize,
    /// Whether this is a later packet of a flow whose first packets are another stream of the corpus. Such a packet is scored on its own.
    pub later: bool,
}

/// Volleys of labelled streams, `[volley][slot]` in one allocation.
#[derive(Debug)]
pub struct Corpus {
    /// Kind of stream.
    pub key: KeyKind,
    /// Layout of the slot values.
    pub layout: Layout,
    /// Names of the classes, `[class]`.
    pub classes: Vec<String>,
    /// Names of the captures.
    pub captures: Vec<String>,
    /// Number of captures at the end of `captures` that are used for calibration only.
    pub reference_captures: usize,
    /// The streams.
    pub streams: Vec<LabelledStream>,
    /// Limits that end a stream while a capture is read. [`StreamLimits::NONE`] unless set: a label names an address pair or a host of a
    /// capture, so all packets of that key are one labelled stream, where the engine would begin another after a pause or a closed
    /// connection: in the captures of the shipped flow model 6,255 streams in place of 6,071.
    pub limits: StreamLimits,
    slots: Vec<u16>,
    /// The slot that holds the direction of a packet.
    direction: Option<usize>,
}

/// A capture with labelled streams.
#[derive(Clone, Copy, Debug)]
pub struct LabelledFile<'a> {
    /// The folder that the capture is relative to.
    pub folder: &'a Path,
    /// Path of the capture; `-` is standard input.
    pub capture: &'a str,
    /// BPF filter: only packets that match it are read.
    pub filter: Option<&'a str>,
}

/// Labels and captures that could not be used.
#[derive(Debug, Default)]
pub struct GatherReport {
    /// Captures that could not be read, with the reason.
    pub unreadable: Vec<String>,
    /// Captures that are cut short, with the reason.
    pub cut: Vec<String>,
    /// Labelled streams that were not found in their capture.
    pub missing: Vec<String>,
}

impl GatherReport {
    /// Adds what another call could not use.
    pub fn append(&mut self, other: Self) {
        self.unreadable.extend(other.unreadable);
        self.cut.extend(other.cut);
        self.missing.extend(other.missing);
    }

    /// Whether all labels could be used.
    pub fn is_whole(&self) -> bool {
        self.unreadable.is_empty() && self.cut.is_empty() && self.missing.is_empty()
    }
}

/// Reason why no corpus could be built.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// None of the labelled streams was found: their number, the folder of the captures, and the captures that could not be read.
    #[error(
        "none of the {0} labelled streams was found in its capture below {1}; check --captures (paths in label files are relative to it){lines}",
        lines = .2.iter().map(|error| format!("\n  {error}")).collect::<String>()
    )]
    Nothing(usize, PathBuf, Vec<String>),
    /// A capture cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Slot values of packets, `[packet][slot]`, and of the same with [`OtherTraces`], `[packet][traces][slot]`.
#[derive(Default)]
struct Volleys {
    slots: Vec<u16>,
    other_traces: Vec<u16>,
}

impl Volleys {
    fn append(&mut self, other: &Self) {
        self.slots.extend_from_slice(&other.slots);
        self.other_traces.extend_from_slice(&other.other_traces);
    }
}

/// A stream of a capture that is being read.
struct OpenStream {
    class: Option<ClassId>,
    name: StreamName,
    first: Volleys,
    /// Later packets, with the times of those that are scored again.
    later: Vec<(Option<Nanos>, Volleys)>,
    content: bool,
}

impl OpenStream {
    fn new(key: &StreamKey) -> Self {
        Self { class: None, name: StreamName::of(key), first: Volleys::default(), later: Vec::new(), content: false }
    }
}

impl Corpus {
    /// Reads all labelled captures below `folder`, at most `packets_per_stream` volleys of each stream. Calls `tick` once per capture.
    /// Captures and streams that are missing are listed in [`GatherReport`]; the others are used.
    ///
    /// # Errors
    /// No labelled stream was found, or a capture can't be read to its end.
    pub fn gather(
        labels: &Labels,
        folder: &Path,
        layout: Layout,
        packets_per_stream: usize,
        intake: &Intake,
        tick: &dyn Fn(),
    ) -> Result<(Self, GatherReport), CorpusError> {
        let mut corpus = Self::new(labels.key, layout, labels.classes.clone());
        if labels.has_times() {
            // The same addresses and ports may be several streams, which the engine's limits tell apart.
            corpus.limits = StreamLimits::default();
        }
        let mut gathered = GatherReport::default();
        let mut found_anywhere = HashSet::new();
        for (capture, known) in &labels.captures {
            tick();
            let mut found = HashSet::new();
            let class_of = &mut |name: &StreamName, first: Nanos| {
                if known.has(name) {
                    found.insert(name.clone());
                } else if labels.anywhere.has(name) {
                    found_anywhere.insert(name.clone());
                }
                known.class_of(name, first).or_else(|| labels.anywhere.class_of(name, first))
            };
            let file = LabelledFile { folder, capture, filter: known.filter.as_deref() };
            if !corpus.read_file(&file, packets_per_stream, intake, &mut gathered, class_of)? {
                continue;
            }
            let mut missing: Vec<_> = known.names().filter(|n| !found.contains(n)).collect();
            missing.sort();
            gathered.missing.extend(missing.iter().map(|name| format!("{capture}: no stream {name}")));
        }
        let mut missing: Vec<_> = labels.anywhere.names().filter(|n| !found_anywhere.contains(n)).collect();
        missing.sort();
        gathered.missing.extend(missing.iter().map(|name| format!("{}: no stream {name} in any capture", folder.display())));
        if corpus.streams.is_empty() {
            return Err(CorpusError::Nothing(labels.rows, folder.to_path_buf(), gathered.unreadable));
        }
        Ok((corpus, gathered))
    }

    /// Adds the streams of a capture for which `class_of` returns a class. A file that can't be opened or is cut
    /// short is listed in `gathered`. Returns whether the file was opened.
    ///
    /// # Errors
    /// As [`Corpus::read_capture`].
    pub fn read_file(
        &mut self,
        file: &LabelledFile<'_>,
        packets_per_stream: usize,
        intake: &Intake,
        gathered: &mut GatherReport,
        class_of: &mut dyn FnMut(&StreamName, Nanos) -> Option<ClassId>,
    ) -> Result<bool, CaptureError> {
        let LabelledFile { folder, capture, filter } = *file;
        let path = if capture == "-" { capture.into() } else { folder.join(capture) };
        let file = match intake.open(&path).and_then(|file| Filtered::new(file, filter)) {
            Ok(file) => file,
            Err(error) => {
                gathered.unreadable.push(error.to_string());
                return Ok(false);
            }
        };
        let number = self.captures.len() as u32;
        self.captures.push(capture.into());
        let mut file = Duplicates::new(file, intake.drop_duplicates);
        self.read_capture(&mut file, number, packets_per_stream, intake, class_of)?;
        if let Some(cut) = file.source().truncation() {
            gathered.cut.push(format!("{capture}: {cut}"));
        }
        Ok(true)
    }

    /// Whether streams are recognised by what they carry: flows, unless the network sees traces, which show what hosts do before they send
    /// content and on any port.
    pub fn by_content(&self) -> bool {
        self.key == KeyKind::Flow && !self.layout.has_traces()
    }

    /// An empty corpus, to be filled with [`Corpus::read_capture`].
    pub fn new(key: KeyKind, layout: Layout, classes: Vec<String>) -> Self {
        let direction = layout.slots().iter().position(|s| s.name == "stream.direction");
        Self {
            key,
            layout,
            classes,
            captures: Vec::new(),
            reference_captures: 0,
            streams: Vec::new(),
            limits: StreamLimits::NONE,
            slots: Vec::new(),
            direction,
        }
    }

    /// Adds a stream without a name, given the slot values of its volleys, `[volley][slot]`.
    pub fn push(&mut self, class: ClassId, slots: &[u16]) {
        let width = self.layout.slots().len();
        let (first, kept) = (self.slots.len() / width, slots.len() / width);
        let name = StreamName::Host(String::new());
        self.streams.push(LabelledStream {
            capture: 0,
            class,
            name,
            packets: kept as u64,
            bytes: 0,
            reference: false,
            first,
            kept,
            start: None,
            other_traces: 0,
            later: false,
        });
        self.slots.extend_from_slice(slots);
    }

    /// Adds the streams of one capture for which `class_of` returns a class.
    ///
    /// # Errors
    /// The capture can't be read to its end.
    pub fn read_capture(
        &mut self,
        source: &mut dyn Source,
        capture: u32,
        packets_per_stream: usize,
        intake: &Intake,
        class_of: &mut dyn FnMut(&StreamName, Nanos) -> Option<ClassId>,
    ) -> Result<(), CaptureError> {
        let width = self.layout.slots().len();
        let (layout, mut volley) = (&self.layout, Volley::default());
        let traces = || Some(layout.traces()?.by_vlan(intake.vlan_in_key));
        let mut tracker = StreamTracker::new(self.key, intake, self.limits).with_traces(traces());
        let by_content = self.by_content();
        let mut others = OtherTraces::all(traces);
        let mut extra_traces = traces().filter(|_| layout.has_packet_rates());
        tracker.visit(source, OpenStream::new, |packet| {
            if packet.stream.packets == 1 {
                packet.stream.state.class = class_of(&packet.stream.state.name, packet.stream.first);
            }
            let (headers, bytes, time) = (packet.headers, packet.frame.bytes, packet.frame.timestamp);
            let (every, most) = EXTRA;
            let extra = extra_traces.is_some() && packet.stream.packets.is_multiple_of(every) && packet.stream.packets <= most;
            // Not the segments that open a connection again: with them floods, scans and guessing are taken for each other more often.
            let again = packet.traces.later().is_some_and(|since| since > 1 || headers.network == Network::Arp);
            let due = packet.traces != TraceValues::NONE || extra;
            let extra_values = extra_traces.as_mut().map(|table| table.follow(headers, bytes, time, due));
            let others: Vec<TraceValues> =
                others.iter_mut().filter_map(|other| other.follow(headers, bytes, time, due)).collect();
            if packet.stream.state.class.is_none() {
                return ControlFlow::Continue(());
            }
            let first = packet.stream.state.first.slots.len() < packets_per_stream * width;
            let later = (again || extra) && layout.has_packet_rates();
            if !first && !later {
                return ControlFlow::Continue(());
            }
            let mut volleys = Volleys::default();
            let traces = if packet.traces == TraceValues::NONE { extra_values.unwrap_or(packet.traces) } else { packet.traces };
            layout.encode(headers, bytes, packet.context, &traces, &mut volley);
            volleys.slots.extend_from_slice(&volley.slots[..width]);
            let content = volley.content;
            for traces in &others {
                layout.encode(headers, bytes, packet.context, traces, &mut volley);
                volleys.other_traces.extend_from_slice(&volley.slots[..width]);
            }
            let stream = &mut packet.stream.state;
            // Packets without payload add nothing to a flow that has content already.
            if first && (!by_content || content || !stream.content) {
                stream.first.append(&volleys);
                stream.content |= content;
            }
            if later {
                stream.later.push((again.then_some(time), volleys));
            }
            ControlFlow::Continue(())
        })?;
        for stream in tracker.finish() {
            let start = FlowStart::of(&stream);
            let Some(class) = stream.state.class else { continue };
            let OpenStream { name, first, later, .. } = stream.state;
            let of = LabelledStream {
                capture,
                class,
                name,
                packets: stream.packets,
                bytes: stream.bytes,
                reference: false,
                first: 0,
                kept: 0,
                start: start.clone(),
                other_traces: 0,
                later: false,
            };
            self.push_volleys(of.clone(), &first);
            for (time, volleys) in &later {
                let start = start.clone().zip(*time).map(|(start, time)| FlowStart { time, ..start });
                self.push_volleys(LabelledStream { start, later: true, ..of.clone() }, volleys);
            }
        }
        Ok(())
    }

    fn push_volleys(&mut self, stream: LabelledStream, volleys: &Volleys) {
        let width = self.layout.slots().len();
        let (first, kept, other_traces) =
            (self.slots.len() / width, volleys.slots.len() / width, volleys.other_traces.len() / width);
        self.streams.push(LabelledStream { first, kept, other_traces, ..stream });
        self.slots.extend_from_slice(&volleys.slots);
        self.slots.extend_from_slice(&volleys.other_traces);
    }

    /// Removes the classes with fewer than `streams` streams; returns their names.
    pub fn keep_classes(&mut self, streams: usize) -> Vec<String> {
        let mut count = vec![0; self.classes.len()];
        self.streams.iter().for_each(|s| count[s.class.index()] += 1);
        let mut place = Vec::new();
        let (mut kept, mut left_out) = (Vec::new(), Vec::new());
        for (class, count) in std::mem::take(&mut self.classes).into_iter().zip(count) {
            place.push((count >= streams.max(1)).then(|| ClassId::from_index(kept.len())));
            if count >= streams.max(1) { kept.push(class) } else { left_out.push(class) }
        }
        self.classes = kept;
        self.streams.retain_mut(|s| {
            place[s.class.index()].is_some_and(|new| {
                s.class = new;
                true
            })
        });
        left_out
    }

    /// Appends the streams of another corpus of the same layout, for calibration only. Streams of classes that this corpus lacks are left
    /// out; returns their number.
    pub fn append_reference(&mut self, reference: &Self) -> usize {
        let class_of: Vec<Option<ClassId>> =
            reference.classes.iter().map(|class| self.classes.iter().position(|c| c == class).map(ClassId::from_index)).collect();
        let (captures, width, mut left_out) = (self.captures.len() as u32, self.layout.slots().len(), 0);
        for stream in &reference.streams {
            let Some(class) = class_of[stream.class.index()] else {
                left_out += 1;
                continue;
            };
            let (first, capture) = (self.slots.len() / width, captures + stream.capture);
            self.slots.extend(reference.volleys_of(stream).flatten());
            self.streams.push(LabelledStream { capture, class, reference: true, first, other_traces: 0, ..stream.clone() });
        }
        self.captures.extend(reference.captures.iter().cloned());
        self.reference_captures += reference.captures.len();
        left_out
    }

    /// Renumbers the classes: those of `first` in that order, with or without streams, then those that only the corpus has.
    pub fn arrange(&mut self, first: &[String]) {
        let own = std::mem::replace(&mut self.classes, first.to_vec());
        let place: Vec<ClassId> = own
            .into_iter()
            .map(|class| {
                let at = self.classes.iter().position(|c| *c == class).unwrap_or(self.classes.len());
                if at == self.classes.len() {
                    self.classes.push(class);
                }
                ClassId::from_index(at)
            })
            .collect();
        self.streams.iter_mut().for_each(|s| s.class = place[s.class.index()]);
    }

    /// Number of streams of a class that networks are trained on, and number of their volleys.
    pub fn shown(&self, class: ClassId) -> (u64, u64) {
        self.streams
            .iter()
            .filter(|s| s.class == class && !s.reference)
            .fold((0, 0), |(streams, volleys), s| (streams + u64::from(!s.later), volleys + s.kept as u64))
    }

    /// The indices of a stream's volleys for training, each with the stream's class.
    pub(super) fn packets_of(&self, stream: usize) -> impl Iterator<Item = (u32, ClassId)> + use<> {
        let s = &self.streams[stream];
        let class = s.class;
        (s.first..s.first + s.kept + s.other_traces).map(move |v| (v as u32, class))
    }

    /// The slot values of a stream's volleys.
    pub fn volleys_of(&self, stream: &LabelledStream) -> impl Iterator<Item = &[u16]> {
        (stream.first..stream.first + stream.kept).map(|v| self.volley(v))
    }

    /// The slot values of one volley.
    pub fn volley(&self, index: usize) -> &[u16] {
        let width = self.layout.slots().len();
        &self.slots[index * width..][..width]
    }

    /// The part of its class that a volley belongs to: the direction of its packet in the stream, 0 or 1.
    pub fn part(&self, index: usize) -> u8 {
        self.direction.map_or(0, |slot| u8::from(self.volley(index)[slot] == 1))
    }
}
