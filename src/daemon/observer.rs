//! Observer of the engine: updates metrics, applies policies, and sends events to the sinks.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::capture::InterfaceNames;
use crate::config::{AlertsConfig, EventFormat, EventType, Severity, SinkConfig};
use crate::engine::{EpisodeOutput, Event, EvidencePacket, Observer, Output, Progress, Verdict};
use crate::episode::{EpisodeState, Role};
use crate::export::evidence::CommentedPacket;
use crate::export::sink::{self, Line};
use crate::export::{EventContext, EventWriter, Metrics};
use crate::packet::{Address, StreamKey};
use crate::snn::ClassId;

use super::PendingUpdate;
use super::alerts::Limiter;
use super::policy::{Judgement, Policies};
use super::state::DaemonState;

/// Capacity of the set of alerting streams, whose later packets are kept as evidence; the oldest is removed first.
const ALERTING: usize = 65_536;

/// The alerting streams, whose packets are kept as evidence.
#[derive(Default)]
struct AlertDispatch {
    known: HashSet<(usize, StreamKey)>,
    order: VecDeque<(usize, StreamKey)>,
}

impl AlertDispatch {
    fn add(&mut self, stream: (usize, StreamKey)) {
        if self.known.insert(stream) {
            self.order.push_back(stream);
            if self.order.len() > ALERTING
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

pub(super) struct EventObserver {
    pub state: Arc<DaemonState>,
    pub metrics: Option<Arc<Metrics>>,
    /// Policies and alert limits of a reload that are not in use yet.
    pub new_policies: Arc<PendingUpdate<(Policies, AlertsConfig)>>,
    pub policies: Policies,
    pub limiter: Limiter,
    /// Of alerts about episodes, which those about streams must not suppress.
    episode_limiter: Limiter,
    /// One writer for each format in use.
    writers: Vec<(EventFormat, EventWriter)>,
    alerting: AlertDispatch,
    /// Episodes that last and are ignored, by model, class, host and role.
    ignored: HashSet<(usize, ClassId, Address, Role)>,
    /// Format and types of events of each sink, in the order of the sinks.
    wanted: Vec<(EventFormat, Vec<EventType>)>,
    /// Names of the interfaces that packets come in by.
    interfaces: Arc<InterfaceNames>,
    text: Vec<u8>,
    /// Called after the first batch.
    ready: Option<Box<dyn FnOnce()>>,
}

impl EventObserver {
    pub fn new(
        state: Arc<DaemonState>,
        metrics: Option<Arc<Metrics>>,
        new_policies: Arc<PendingUpdate<(Policies, AlertsConfig)>>,
        (policies, alerts): (Policies, AlertsConfig),
        sinks: &[SinkConfig],
        interfaces: Arc<InterfaceNames>,
        ready: Box<dyn FnOnce()>,
    ) -> Self {
        let formats: BTreeSet<EventFormat> = sinks.iter().map(|s| s.format).collect();
        Self {
            state,
            metrics,
            new_policies,
            policies,
            limiter: Limiter::new(alerts.clone()),
            episode_limiter: Limiter::new(alerts),
            writers: formats.into_iter().map(|format| (format, EventWriter::new(format))).collect(),
            alerting: AlertDispatch::default(),
            ignored: HashSet::new(),
            wanted: sinks.iter().map(|s| (s.format, s.events.clone())).collect(),
            interfaces,
            text: Vec::new(),
            ready: Some(ready),
        }
    }

    /// Offers an event of this type to the sinks that want it, in the format of each. `packet`: number of a packet of the capture that it
    /// names; `write` appends its text; `line` makes the line of the text.
    fn offer(
        &mut self,
        event: EventType,
        packet: u64,
        context: EventContext<'_>,
        write: impl Fn(&mut EventWriter, EventContext<'_>, &mut Vec<u8>),
        line: impl Fn(String) -> Line,
    ) {
        let Self { state, writers, wanted, text, .. } = self;
        for (format, writer) in writers {
            let wants = |(of, events): &(EventFormat, Vec<EventType>)| of == format && events.contains(&event);
            if !wanted.iter().any(wants) {
                continue;
            }
            let capture = state.counters.first().and_then(|c| c.capture_index.of(packet));
            text.clear();
            write(writer, EventContext { capture: capture.as_deref(), sensor: Some(&state.sensor), ..context }, text);
            let line = Arc::new(line(String::from_utf8_lossy(text).into_owned()));
            for (sink, _) in state.sinks.lock().iter().zip(&*wanted).filter(|(_, sink)| wants(sink)) {
                sink.offer(&line);
            }
        }
    }

    /// Sends an event about a stream.
    fn send(&mut self, verdict: &Verdict, event: EventType, alert: Option<Severity>) {
        let alert = alert.map(sink_severity);
        let interface = verdict.interface.and_then(|id| self.interfaces.name(id));
        let line = |text| Line {
            text,
            timestamp: verdict.timestamp,
            severity: alert.unwrap_or(sink::Severity::Informational),
            event: event_name(event),
            class: verdict.class.map(|c| verdict.model.classes[c.index()].as_str().into()),
        };
        let context = EventContext { interface: interface.as_deref(), alert, ..EventContext::default() };
        self.offer(event, verdict.number, context, |writer, context, text| writer.write(verdict, context, text), line);
    }

    /// Sends an event about an episode.
    fn send_episode(&mut self, output: &EpisodeOutput, event: EventType, alert: Option<Severity>) {
        let alert = alert.map(sink_severity);
        let line = |text| Line {
            text,
            timestamp: output.episode.time,
            severity: alert.unwrap_or(sink::Severity::Warning),
            event: event_name(event),
            class: Some(output.model.classes[output.episode.class.index()].as_str().into()),
        };
        let write =
            |writer: &mut EventWriter, context: EventContext<'_>, text: &mut Vec<u8>| writer.write_episode(output, context, text);
        self.offer(event, output.episode.packet, EventContext { alert, ..EventContext::default() }, write, line);
    }
}

fn event_name(event: EventType) -> &'static str {
    match event {
        EventType::Detection => "detection",
        EventType::Alert => "alert",
        EventType::Stream => "stream",
        EventType::Episode => "episode",
    }
}

fn sink_severity(severity: Severity) -> sink::Severity {
    match severity {
        Severity::Low => sink::Severity::Notice,
        Severity::Medium => sink::Severity::Warning,
        Severity::High => sink::Severity::Error,
        Severity::Critical => sink::Severity::Critical,
    }
}

impl Observer for EventObserver {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.verdict(verdict),
            Output::Packet(packet) => self.packet(packet),
            Output::Episode(episode) => self.episode(episode),
            Output::Progress(progress) => self.progress(progress),
            Output::Spike { .. } => {}
        }
    }
}

impl EventObserver {
    fn verdict(&mut self, verdict: &Verdict) {
        if let Some(metrics) = &self.metrics {
            metrics.verdict(verdict);
        }
        let judgement = self.policies.judge(verdict);
        if judgement == Judgement::Ignore {
            return;
        }
        if verdict.event == Event::Stream {
            self.send(verdict, EventType::Stream, None);
            return;
        }
        self.state.detections.fetch_add(1, Relaxed);
        self.send(verdict, EventType::Detection, None);
        if let (Judgement::Alert(severity), Some(class)) = (judgement, verdict.class) {
            self.alerting.add((verdict.model_index, verdict.key));
            let host = verdict.key.sender(verdict.first_direction);
            let admitted = self.limiter.admits(verdict.timestamp, verdict.model_index, class, host);
            self.state.alerts.count(&verdict.model.name, &verdict.model.classes[class.index()], admitted);
            if admitted {
                self.send(verdict, EventType::Alert, Some(severity));
            }
        }
    }

    fn episode(&mut self, output: &EpisodeOutput) {
        if let Some(metrics) = &self.metrics {
            metrics.episode(output);
        }
        let episode = &output.episode;
        let about = (output.model_index, episode.class, episode.host, episode.role);
        let judgement = self.policies.judge_episode(output);
        if judgement == Judgement::Ignore {
            self.ignored.insert(about);
        }
        if self.ignored.contains(&about) {
            if episode.state == EpisodeState::End {
                self.ignored.remove(&about);
            }
            return;
        }
        self.send_episode(output, EventType::Episode, None);
        if let Judgement::Alert(severity) = judgement {
            let admitted = self.episode_limiter.admits(episode.time, output.model_index, episode.class, episode.host);
            self.state.alerts.count(&output.model.name, &output.model.classes[episode.class.index()], admitted);
            if admitted {
                self.send_episode(output, EventType::Alert, Some(severity));
            }
        }
    }

    fn packet(&mut self, packet: &EvidencePacket) {
        if self.alerting.known.contains(&(packet.model_index, packet.key))
            && let Some(evidence) = &*self.state.evidence.lock()
        {
            evidence.offer(CommentedPacket::from(packet));
        }
    }

    fn progress(&mut self, progress: &Progress<'_>) {
        self.state.heartbeat.beat(progress.worker);
        if let Some(ready) = self.ready.take() {
            ready();
        }
        if let Some((policies, alerts)) = self.new_policies.take().map(|new| *new) {
            self.policies = policies;
            self.limiter.set(alerts.clone());
            self.episode_limiter.set(alerts);
        }
        if let Some(metrics) = &self.metrics {
            metrics.progress(progress);
        }
    }
}
