//! Observer of the engine: updates metrics, applies policies, and sends events to the sinks.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::config::{AlertsConfig, EventType, Severity, SinkConfig};
use crate::engine::{Event, EvidencePacket, Observer, Output, Progress, Verdict};
use crate::export::evidence::CommentedPacket;
use crate::export::sink::{self, Line};
use crate::export::{EventContext, EventWriter, Metrics};
use crate::packet::StreamKey;

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
    pub writer: EventWriter,
    alerting: AlertDispatch,
    /// Types of events of each sink, in the order of the sinks.
    wanted: Vec<Vec<EventType>>,
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
        ready: Box<dyn FnOnce()>,
    ) -> Self {
        Self {
            state,
            metrics,
            new_policies,
            policies,
            limiter: Limiter::new(alerts),
            writer: EventWriter::default(),
            alerting: AlertDispatch::default(),
            wanted: sinks.iter().map(|s| s.events.clone()).collect(),
            text: Vec::new(),
            ready: Some(ready),
        }
    }

    fn send(&mut self, verdict: &Verdict, event: EventType, alert: Option<Severity>) {
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
            class: verdict.class.map(|c| verdict.model.classes[c.index()].as_str().into()),
        });
        for (sink, _) in self.state.sinks.lock().iter().zip(&self.wanted).filter(|(_, w)| w.contains(&event)) {
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
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.verdict(verdict),
            Output::Packet(packet) => self.packet(packet),
            Output::Progress(progress) => self.progress(progress),
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
            let admitted = self.limiter.admits(verdict);
            self.state.alerts.count(&verdict.model.name, &verdict.model.classes[class.index()], admitted);
            if admitted {
                self.send(verdict, EventType::Alert, Some(severity));
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
            self.limiter.set(alerts);
        }
        if let Some(metrics) = &self.metrics {
            metrics.progress(progress);
        }
    }
}
