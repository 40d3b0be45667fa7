//! One shard of the streams: those of one hash range, for each model, with the counters of the work on them.
//!
//! A worker routes a batch, which decodes it and files its packets by shard, and handles its own shard's packets of every batch. If a panic
//! loses packets or streams, they are counted, and the worker goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::Nanos;
use crate::packet::KeyKind;
use crate::stream::FragmentTable;
use crate::trace::TraceTable;

use super::batch::{RoutedBatch, Routing};
use super::in_order::InOrder;
use super::model_shard::ModelShard;
use super::output::BatchOutput;
use super::{Counters, EngineSettings, Models, Observer, Output, Progress, VerdictWriter};

/// The work of one worker since its last report; the fields are those of [`Progress`].
pub(super) struct WorkerReport {
    worker: usize,
    pub counters: Counters,
    live: usize,
    queue: usize,
    busy: Duration,
    idle: Duration,
    clock: Option<Nanos>,
    lag: Option<Duration>,
}

impl WorkerReport {
    /// Passes the report to the observer, as [`Progress`].
    pub fn emit(&self, observer: &mut dyn Observer) {
        observer.observe(Output::Progress(&Progress {
            worker: self.worker,
            counters: &self.counters,
            live: self.live,
            queue: self.queue,
            busy: self.busy,
            idle: self.idle,
            clock: self.clock,
            lag: self.lag,
        }));
    }
}

/// Tables that all shards share, each used in the order of the batches.
pub(super) struct SharedTables {
    /// First fragments of IP packets.
    fragments: InOrder<FragmentTable>,
    /// Counts of each host's recent events, which decay.
    traces: InOrder<TraceTable>,
}

impl SharedTables {
    pub fn new(settings: &EngineSettings) -> Self {
        Self { fragments: InOrder::default(), traces: InOrder::new(Self::empty_traces(settings)) }
    }

    fn empty_traces(settings: &EngineSettings) -> TraceTable {
        TraceTable::new(settings.hosts).by_vlan(settings.intake.vlan_in_key)
    }
}

/// The shard of one worker.
pub(super) struct Shard<'a> {
    number: usize,
    settings: &'a EngineSettings,
    live: bool,
    hasher: foldhash::fast::RandomState,
    models: Arc<Models>,
    shared: Arc<SharedTables>,
    /// One for each model.
    model_shards: Vec<ModelShard>,
    writer: Option<Box<dyn VerdictWriter>>,
    /// Counters since the last report, which was at `reported`.
    counters: Counters,
    reported: Instant,
    /// Time spent waiting since the last report.
    idle: Duration,
}

/// Which kinds of key the models use, as indices of [`KeyKind`].
fn kinds(models: &Models) -> [bool; KeyKind::COUNT] {
    let mut kinds = [false; KeyKind::COUNT];
    models.iter().for_each(|m| kinds[m.key as usize] = true);
    kinds
}

impl<'a> Shard<'a> {
    /// Shard `number`, without streams. `live`: the source's frames arrive as they are captured; `hasher`: the same for all shards, with a seed
    /// of this run.
    pub fn new(
        number: usize,
        settings: &'a EngineSettings,
        live: bool,
        hasher: foldhash::fast::RandomState,
        shared: Arc<SharedTables>,
    ) -> Self {
        let mut shard = Self {
            number,
            settings,
            live,
            hasher,
            shared,
            models: settings.models.load_full(),
            model_shards: Vec::new(),
            writer: settings.writer.as_ref().map(|new_writer| new_writer()),
            counters: Counters::default(),
            reported: Instant::now(),
            idle: Duration::ZERO,
        };
        shard.model_shards = shard.new_model_shards();
        shard
    }

    /// Number of the shard and its worker, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether the source's frames arrive as they are captured.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Counts time that the worker spent waiting.
    pub fn add_idle(&mut self, idle: Duration) {
        self.idle += idle;
    }

    fn new_model_shards(&self) -> Vec<ModelShard> {
        (0..self.models.len()).map(|number| self.new_model_shard(number)).collect()
    }

    fn new_model_shard(&self, number: usize) -> ModelShard {
        let model = Arc::clone(&self.models[number]);
        let mut limits = self.settings.limits;
        limits.streams = limits.streams.div_ceil(self.settings.workers.max(1));
        let limits = limits.for_key(model.key);
        ModelShard::new(model, number, limits, self.settings, self.live, self.hasher.clone())
    }

    /// Decodes the batch `number` and files its packets by shard. If that panics, the batch is lost and counted. Each batch takes its turn at
    /// the shared tables, even one that does not need them, because the next one waits for it.
    pub fn route(&mut self, routed: &mut RoutedBatch, number: u64) {
        let kinds = kinds(&self.settings.models.load());
        let routing = Routing { settings: self.settings, kinds, hasher: &self.hasher };
        let (fragments, counters) = (self.shared.fragments.begin(number), &mut self.counters);
        if catch_unwind(AssertUnwindSafe(|| routed.route(&routing, fragments, counters))).is_err() {
            self.counters.panic_lost_packets += routed.len() as u64;
            routed.clear_packets();
        }
        self.trace(routed, number);
    }

    /// Counts a routed batch in the traces of its hosts, if a model uses traces. A host's flows lie in many shards, so there is one table for
    /// all. If that panics, the traces of all hosts begin again and the batch has none.
    fn trace(&mut self, routed: &mut RoutedBatch, number: u64) {
        let mut turn = self.shared.traces.begin(number);
        if !self.settings.models.load().iter().any(|model| model.layout.has_traces()) {
            return;
        }
        let table = turn.value();
        if catch_unwind(AssertUnwindSafe(|| routed.trace(table))).is_err() {
            routed.clear_traces();
            *table = SharedTables::empty_traces(self.settings);
        }
        self.counters.evicted_hosts += table.take_evicted();
    }

    /// Switches to the models that the settings hold now, if they have changed. A model keeps the streams of the one of its name, or else of one
    /// whose name is gone. A batch that was routed before has no packets for a kind of key that only the new models use, and no traces for the
    /// first model that uses them.
    fn update_models(&mut self, out: &mut BatchOutput) {
        let models = self.settings.models.load();
        if Arc::ptr_eq(&models, &self.models) {
            return;
        }
        self.models = Arc::clone(&models);
        let mut old: Vec<_> = self.model_shards.drain(..).map(Some).collect();
        let named = |shard: &Option<ModelShard>, name: &str| shard.as_ref().is_some_and(|shard| shard.model().name == name);
        let mut kept: Vec<_> =
            models.iter().map(|model| old.iter_mut().find(|shard| named(shard, &model.name))?.take()).collect();
        // A model that has another name now, such as that of a later version.
        let mut renamed = old.into_iter().flatten();
        for shard in kept.iter_mut().filter(|shard| shard.is_none()) {
            *shard = renamed.next();
        }
        let mut ended: Vec<_> = renamed.collect();
        for (number, mut shard) in kept.into_iter().enumerate() {
            if let Some(kept) = &mut shard
                && !kept.replace_model(&models[number], number)
            {
                ended.extend(shard.take());
            }
            self.model_shards.push(shard.unwrap_or_else(|| self.new_model_shard(number)));
        }
        ended.iter_mut().for_each(|shard| shard.end_all(&mut self.counters, out));
    }

    /// Handles this shard's packets of a batch whose first frame has the number `first`. If that panics, the shard's streams and
    /// its packets of the batch are lost and counted, for all models; the worker continues with an empty shard.
    pub fn handle(&mut self, routed: &RoutedBatch, first: u64, out: &mut BatchOutput) {
        self.update_models(out);
        let (shard, model_shards, counters) = (self.number, &mut self.model_shards, &mut self.counters);
        let handled = catch_unwind(AssertUnwindSafe(|| {
            for model_shard in model_shards.iter_mut() {
                model_shard.handle(routed, shard, first, counters, out);
                if let Some(now) = routed.clock {
                    model_shard.sweep(now, first, counters, out);
                }
            }
        }));
        if handled.is_err() {
            self.counters.panic_lost_streams += self.model_shards.iter().map(|m| m.live() as u64).sum::<u64>();
            self.counters.panic_lost_packets += routed.count(shard);
            self.model_shards = self.new_model_shards();
        }
        out.complete(self.writer.as_deref_mut());
    }

    /// Ends all streams of the shard, in the order in which they began, and passes the output to `send` in parts, so that the end of a capture
    /// takes no more memory than its middle.
    pub fn finish(&mut self, mut send: impl FnMut(&mut BatchOutput)) {
        let mut streams: Vec<_> = self.model_shards.iter_mut().map(|m| m.take_streams().into_iter().peekable()).collect();
        let mut out = BatchOutput::default();
        loop {
            let firsts = streams
                .iter_mut()
                .enumerate()
                .filter_map(|(model, streams)| Some((streams.peek().map(|s| (s.number, s.key))?, model)));
            let next = firsts.min().and_then(|(_, model)| Some((model, streams[model].next()?)));
            if out.is_full() || next.is_none() {
                out.complete(self.writer.as_deref_mut());
                send(&mut out);
            }
            let Some((model, stream)) = next else { break };
            self.model_shards[model].end(stream, u64::MAX, &mut out);
        }
    }

    /// The work since the last report, whose counters begin again. `queue`: batches that wait for the worker; `clock`: the time by a live source's clock; `lag`: the
    /// worker's delay behind it.
    pub fn report(&mut self, queue: usize, clock: Option<Nanos>, lag: Option<Duration>) -> WorkerReport {
        let mut counters = std::mem::take(&mut self.counters);
        counters.spikes = self.model_shards.iter_mut().filter_map(ModelShard::take_spikes).collect();
        let (elapsed, idle) = (self.reported.elapsed(), std::mem::take(&mut self.idle));
        self.reported = Instant::now();
        let live = self.model_shards.iter().map(ModelShard::live).sum();
        WorkerReport { worker: self.number, counters, live, queue, busy: elapsed.saturating_sub(idle), idle, clock, lag }
    }
}
