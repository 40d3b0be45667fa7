//! Who hears what the engine finds? Metrics count it, policies judge it, sinks are told.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::config::{AlertsConfig, EventType, Severity, SinkConfig};
use crate::engine::{Event, EvidencePacket, Observer, Progress, Verdict};
use crate::export::evidence::CommentedPacket;
use crate::export::sink::{self, Line};
use crate::export::{EventContext, EventWriter, Metrics};
use crate::packet::StreamKey;

use super::alerts::Limiter;
use super::mailbox::Mailbox;
use super::policy::{Judgement, Policies};
use super::state::{DaemonState, lock};

/// Streams of alerting classes remembered, so that their later packets are kept as evidence; the oldest is forgotten first.
const ALERTING: usize = 65_536;

/// The streams whose packets are evidence.
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
    /// What a reload leaves: the observer has policies for itself.
    pub mailbox: Arc<Mailbox<(Policies, AlertsConfig)>>,
    pub policies: Policies,
    pub limiter: Limiter,
    pub writer: EventWriter,
    alerting: AlertDispatch,
    /// Which events each sink is told, in the order of the sinks.
    wanted: Vec<Vec<EventType>>,
    text: Vec<u8>,
    /// Called when the first batch is through.
    ready: Option<Box<dyn FnOnce()>>,
}

impl EventObserver {
    pub fn new(
        state: Arc<DaemonState>,
        metrics: Option<Arc<Metrics>>,
        mailbox: Arc<Mailbox<(Policies, AlertsConfig)>>,
        (policies, alerts): (Policies, AlertsConfig),
        sinks: &[SinkConfig],
        ready: Box<dyn FnOnce()>,
    ) -> Self {
        Self {
            state,
            metrics,
            mailbox,
            policies,
            limiter: Limiter::new(alerts),
            writer: EventWriter::default(),
            alerting: AlertDispatch::default(),
            wanted: sinks.iter().map(|s| s.events.clone()).collect(),
            text: Vec::new(),
            ready: Some(ready),
        }
    }

    fn tell(&mut self, verdict: &Verdict, event: EventType, alert: Option<Severity>) {
        if !self.wanted.iter().any(|w| w.contains(&event)) {
            return;
        }
        let capture = self.state.counters.first().and_then(|c| c.capture_index.of(verdict.packet));
        let context = EventContext { capture: capture.as_deref(), sensor: Some(&self.state.sensor), alert: alert.map(word) };
        self.text.clear();
        self.writer.write(verdict, context, &mut self.text);
        let line = Arc::new(Line {
            text: String::from_utf8_lossy(&self.text).into_owned(),
            timestamp: verdict.timestamp,
            severity: match alert {
                None => sink::Severity::Informational,
                Some(Severity::Low) => sink::Severity::Notice,
                Some(Severity::Medium) => sink::Severity::Warning,
                Some(Severity::High) => sink::Severity::Error,
                Some(Severity::Critical) => sink::Severity::Critical,
            },
            event: match event {
                EventType::Detection => "detection",
                EventType::Alert => "alert",
                EventType::Stream => "stream",
            },
            class: verdict.class.map(|c| verdict.named.classes[c.index()].as_str().into()),
        });
        for (sink, _) in lock(&self.state.sinks).iter().zip(&self.wanted).filter(|(_, w)| w.contains(&event)) {
            sink.offer(&line);
        }
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

impl Observer for EventObserver {
    fn verdict(&mut self, verdict: &Verdict) {
        if let Some(metrics) = &self.metrics {
            metrics.verdict(verdict);
        }
        let judgement = self.policies.judge(verdict);
        if judgement == Judgement::Ignore {
            return;
        }
        if verdict.event == Event::Stream {
            self.tell(verdict, EventType::Stream, None);
            return;
        }
        self.state.detections.fetch_add(1, Relaxed);
        self.tell(verdict, EventType::Detection, None);
        if let (Judgement::Alert(severity), Some(class)) = (judgement, verdict.class) {
            self.alerting.add((verdict.model, verdict.key));
            let told = self.limiter.admits(verdict);
            self.state.alerts.count(&verdict.named.name, &verdict.named.classes[class.index()], told);
            if told {
                self.tell(verdict, EventType::Alert, Some(severity));
            }
        }
    }

    fn packet(&mut self, packet: &EvidencePacket) {
        if self.alerting.known.contains(&(packet.model, packet.key))
            && let Some(evidence) = &*lock(&self.state.evidence)
        {
            evidence.offer(CommentedPacket::from(packet));
        }
    }

    fn progress(&mut self, progress: &Progress<'_>) {
        self.state.heartbeat.beat(progress.worker);
        if let Some(ready) = self.ready.take() {
            ready();
        }
        if let Some((policies, alerts)) = self.mailbox.take() {
            self.policies = policies;
            self.limiter.set(alerts);
        }
        if let Some(metrics) = &self.metrics {
            metrics.progress(progress);
        }
    }
}
