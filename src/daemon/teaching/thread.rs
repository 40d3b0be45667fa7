//! Learning thread: adds sampled streams to the learners, and periodically trains neurons on them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tracing::{info, warn};

use crate::capture::CaptureError;
use crate::config;
use crate::engine::{Models, Tap, TapSample};
use crate::export::{Metrics, status};
use crate::model::Model;
use crate::packet::KeyKind;
use crate::train::live::{Attempt, AttemptOutcome, Learner, LearnerSettings, LearningTask, RecentStreams, SampleOutcome};

use super::super::policy::StreamFilter;
use super::super::state::DaemonState;
use super::SharedLearning;
use super::streams::{SampledStream, SampledStreams};

/// Capacity of the sample queue; samples that do not fit are dropped and counted.
const WAITING: usize = 4096;
/// Interval of the periodic work.
const TICK: Duration = Duration::from_millis(100);
/// Time without a crowded queue after which the sampling rate is doubled.
const RELAX: Duration = Duration::from_secs(5);
/// Lowest sampling rate: one stream in this many.
const RAREST: u32 = 1 << 10;
/// Recent streams that are taken in a second: each costs some hundred microseconds, and without teachers no others are sampled.
const RECENT: u32 = 32;
/// Time in which [`RECENT`] streams are taken.
const RECENT_WINDOW: Duration = Duration::from_secs(1);
/// Packets sampled of a stream, by [`KeyKind`] (flows, hosts): as many as `spiked train` uses, up to what the tap can count.
const PACKETS: [u8; KeyKind::COUNT] = [crate::train::FLOW_PACKETS as u8, u8::MAX];
/// Training may use this fraction (1/n) of the time of one CPU. While it trains, the thread takes no samples: those that the queue has no
/// room for are dropped and counted.
const SHARE: u32 = 10;
/// Interval of saving the replay buffer, a file of some megabytes.
const SAVE: Duration = Duration::from_secs(600);
/// Burst size of a teacher's token bucket, in seconds of its rate.
const BURST: f64 = 10.0;
/// Niceness of the thread: all other work has priority.
const NICE: i32 = 10;

/// What the learning thread needs of the daemon.
pub(in crate::daemon) struct LearningContext {
    pub config: config::LearningConfig,
    pub teachers: Vec<config::TeacherConfig>,
    pub models: Arc<ArcSwap<Models>>,
    pub teaching: Arc<SharedLearning>,
    pub state: Arc<DaemonState>,
    pub metrics: Option<Arc<Metrics>>,
    /// Called for each neuron that was accepted, once it is saved and runs; `None` if neurons are not published to a fleet.
    pub on_accepted: Option<OnAccepted>,
    /// Takes streams on which models of the fleet are tried; `None`: the sensor takes no models.
    pub recent: Option<Arc<RecentStreams>>,
}

/// Takes the model in which a neuron was learned, the attempt that it passed, and the neuron as a model of its class alone.
pub(in crate::daemon) type OnAccepted = Box<dyn Fn(&Model, &Attempt, &Model) + Send>;

/// A teacher with its compiled filter and token bucket.
struct ActiveTeacher {
    config: config::TeacherConfig,
    filter: StreamFilter,
    /// Packets that may be used for training now.
    tokens: f64,
    filled: Instant,
}

impl ActiveTeacher {
    fn new(config: config::TeacherConfig) -> Result<Self, CaptureError> {
        let (filter, tokens) = (StreamFilter::new(&config.filter)?, config.rate * BURST);
        Ok(Self { config, filter, tokens, filled: Instant::now() })
    }

    fn take_tokens(&mut self, packets: usize) -> bool {
        let (now, most) = (Instant::now(), self.config.rate * BURST);
        // A bucket that is smaller than this stream would never let it pass.
        let most = most.max(packets as f64);
        self.tokens = (self.tokens + self.config.rate * now.duration_since(self.filled).as_secs_f64()).min(most);
        self.filled = now;
        let may = self.tokens >= packets as f64;
        if may {
            self.tokens -= packets as f64;
        }
        may
    }
}

struct TeachingThread {
    context: LearningContext,
    teachers: Vec<ActiveTeacher>,
    /// Learner by model name, with the status of each class: numbers of streams and of training attempts by outcome.
    learners: BTreeMap<String, (Learner, BTreeMap<String, status::LearningTaskStatus>)>,
    streams: SampledStreams,
    /// Buffer of the synthetic frame that teachers' filters are applied to.
    frame: Vec<u8>,
    /// Of how many streams one is sampled; 0 without teachers and models of the fleet.
    one_in: Arc<AtomicU32>,
    /// Streams that were offered to the recent streams since `recent_since`.
    recent: u32,
    recent_since: Instant,
    /// When the queue was last crowded or the sampling rate last raised.
    rate_changed: Instant,
    /// When to train next.
    next: Instant,
    /// When to save the replay buffers next; `None` if no stream was offered to a learner since they were saved.
    save_at: Option<Instant>,
}

/// Starts the thread, which ends when the tap is dropped.
///
/// # Errors
/// The thread can't be started.
pub(in crate::daemon) fn start(context: LearningContext) -> io::Result<(Tap, JoinHandle<()>)> {
    let (samples, taken) = crossbeam_channel::bounded(WAITING);
    let one_in = Arc::new(AtomicU32::new(0));
    let tap = Tap { samples, one_in: Arc::clone(&one_in), packets: PACKETS };
    let now = Instant::now();
    let mut thread = TeachingThread {
        teachers: Vec::new(),
        learners: BTreeMap::new(),
        streams: SampledStreams::default(),
        frame: Vec::new(),
        one_in,
        recent: 0,
        recent_since: now,
        rate_changed: now,
        next: now,
        save_at: None,
        context,
    };
    let teachers = std::mem::take(&mut thread.context.teachers);
    thread.set_teachers(teachers);
    let handle = std::thread::Builder::new().name("spiked-teacher".into()).spawn(move || thread.run(&taken))?;
    Ok((tap, handle))
}

impl TeachingThread {
    fn run(mut self, samples: &Receiver<TapSample>) {
        // On Linux this applies to the thread. A failure costs some speed only, so it is ignored.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut tick = Instant::now() + TICK;
        loop {
            match samples.recv_deadline(tick) {
                Ok(sample) => {
                    let packets = usize::from(PACKETS[sample.key.kind() as usize]);
                    if let Some(stream) = self.streams.add(sample, packets) {
                        self.add_stream(stream);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() < tick {
                continue;
            }
            if let Some(teachers) = self.context.teaching.new_teachers.take() {
                self.set_teachers(*teachers);
            }
            self.adapt_sampling(samples.len());
            for stream in self.streams.timed_out(false) {
                self.add_stream(stream);
            }
            if Instant::now() >= self.next {
                self.learn();
            }
            if self.save_at.is_some_and(|at| Instant::now() >= at) {
                self.save();
            }
            self.update_status();
            tick = Instant::now() + TICK;
        }
        for stream in self.streams.timed_out(true) {
            self.add_stream(stream);
        }
        // A signal to stop does not wait for a last training run; the end of a capture file does.
        if !self.context.state.stop.load(Relaxed) {
            self.learn();
        }
        self.save();
        self.update_status();
    }

    /// Saves the replay buffers if there is something new in them.
    fn save(&mut self) {
        let something_new = self.save_at.take().is_some();
        let Some(folder) = self.context.config.folder.as_ref().filter(|_| something_new) else { return };
        for (name, (learner, _)) in &self.learners {
            if let Err(error) = learner.save_replay(folder, name) {
                warn!("can't save the replay buffer: {error}");
            }
        }
    }

    fn set_teachers(&mut self, teachers: Vec<config::TeacherConfig>) {
        self.teachers.clear();
        for teacher in teachers {
            match ActiveTeacher::new(teacher) {
                Ok(teacher) => self.teachers.push(teacher),
                Err(error) => warn!("teacher disabled: {error}"),
            }
        }
        let (models, learners) = (self.context.models.load_full(), &mut self.learners);
        for (name, (learner, _)) in learners {
            learner.set_tasks(tasks(&self.teachers, &models, name));
        }
        let sampling = !self.teachers.is_empty() || self.context.recent.is_some();
        self.one_in.store(u32::from(sampling), Relaxed);
    }

    /// Adapts the sampling rate of streams to the length of the sample queue, and to [`RECENT`] if there are no teachers.
    fn adapt_sampling(&mut self, waiting: usize) {
        let (one_in, now) = (self.one_in.load(Relaxed), Instant::now());
        if one_in == 0 {
            return;
        }
        let too_many = self.teachers.is_empty() && self.recent > RECENT;
        if too_many || now.duration_since(self.recent_since) >= RECENT_WINDOW {
            (self.recent, self.recent_since) = (0, now);
        }
        if too_many || waiting > WAITING / 2 {
            self.rate_changed = now;
            self.one_in.store((one_in * 2).min(RAREST), Relaxed);
        } else if one_in > 1 && now.duration_since(self.rate_changed) > RELAX {
            self.rate_changed = now;
            self.one_in.store(one_in / 2, Relaxed);
        }
    }

    /// Adds a sampled stream, complete or not, to the learner of its model: as an example of the class of the first teacher whose filter
    /// admits it, if that teacher's rate allows; without a teacher as a counterexample.
    fn add_stream(&mut self, stream: SampledStream) {
        let models = self.context.models.load_full();
        let then = &stream.model;
        let Some(model) = models.iter().find(|now| now.name == then.name && now.layout == then.layout && now.key == then.key)
        else {
            return;
        };
        if let Some(recent) = &self.context.recent {
            self.recent = self.recent.saturating_add(1);
            if self.recent <= RECENT {
                recent.add(model, &stream.slots);
            }
        }
        let tasks = tasks(&self.teachers, &models, &model.name);
        if tasks.is_empty() {
            return;
        }
        let frame = &mut self.frame;
        let mut teaches = |t: &mut &mut ActiveTeacher| {
            learns(&t.config, &models, &model.name) && t.filter.admits(&stream.key, stream.first_direction, frame)
        };
        let mut teacher = self.teachers.iter_mut();
        let teacher = teacher.find_map(|mut t| teaches(&mut t).then_some(t));
        let width = model.layout.slots().len();
        let packets = stream.slots.len() / width.max(1);
        let class = teacher.as_ref().map(|t| t.config.class.clone());
        let may = teacher.is_none_or(|t| t.take_tokens(packets));
        if self.learners.get(&model.name).is_some_and(|(learner, _)| !learner.fits(model)) {
            warn!(model = model.name, "the layout of the model has changed; its replay buffer is discarded");
            self.learners.remove(&model.name);
        }
        let (learner, classes) = self.learners.entry(model.name.clone()).or_insert_with(|| {
            let learned = self.context.teaching.learned.lock().get(&model.name).cloned().unwrap_or_default();
            let mut learner = Learner::new(model, tasks.clone(), settings(&self.context.config), learned);
            match self.context.config.folder.as_ref().map(|folder| learner.load_replay(folder, &model.name)) {
                Some(Ok(true)) => info!(model = model.name, "replay buffer loaded"),
                Some(Err(error)) => warn!("can't load the replay buffer, starting with an empty one: {error}"),
                _ => {}
            }
            (learner, BTreeMap::new())
        });
        self.save_at = self.save_at.or_else(|| Some(Instant::now() + SAVE));
        let outcome = if may {
            let taught = class.as_ref().and_then(|class| tasks.iter().position(|l| l.class == *class));
            match learner.observe(model, stream.slots, taught) {
                SampleOutcome::Shown => "shown",
                SampleOutcome::HeldBack => "held_back",
                SampleOutcome::Full => "full",
                SampleOutcome::Frozen => "frozen",
                SampleOutcome::Unknown => return,
            }
        } else {
            "rate"
        };
        if let Some(class) = class {
            *classes.entry(class).or_default().streams.entry(outcome).or_default() += 1;
        }
    }

    /// Trains neurons on the learners that have enough new streams, and installs those that are good enough.
    fn learn(&mut self) {
        let begun = Instant::now();
        let models = self.context.models.load_full();
        for (name, (learner, classes)) in &mut self.learners {
            let Some(model) = models.iter().find(|m| m.name == *name).filter(|_| learner.is_ready()) else { continue };
            let (with, attempts) = learner.learn(model);
            let installed = with.is_some() && self.context.save_and_install(name, learner);
            for attempt in attempts {
                let outcome = match attempt.outcome {
                    AttemptOutcome::Accepted => "accepted",
                    AttemptOutcome::BelowMinAccuracy => "below_min_accuracy",
                    AttemptOutcome::Worse => "worse",
                };
                info!(
                    model = name,
                    class = attempt.class,
                    outcome,
                    positive = attempt.with.positive,
                    negative = attempt.with.negative,
                    before = attempt.before.map(|a| a.mean()),
                    "neuron trained"
                );
                if let (Some(on_accepted), AttemptOutcome::Accepted) = (&self.context.on_accepted, attempt.outcome)
                    && let Some(neuron) = learner.learned().neuron(&attempt.class).filter(|_| installed)
                {
                    on_accepted(model, &attempt, neuron);
                }
                let task = classes.entry(attempt.class).or_default();
                *task.attempts.entry(outcome).or_default() += 1;
                let running = if attempt.outcome == AttemptOutcome::Accepted { Some(attempt.with) } else { attempt.before };
                task.held_back = running.map(|a| a.mean());
            }
        }
        self.next = Instant::now() + self.context.config.every.max(begun.elapsed() * (SHARE - 1));
    }

    /// Updates the status shared with the rest of the daemon.
    fn update_status(&self) {
        let mut tasks = Vec::new();
        for (model, (learner, classes)) in &self.learners {
            for (class, task) in classes {
                let (shown, held) = learner.stored(class);
                let accuracy = learner.prequential(class);
                let (model, class) = (model.clone(), class.clone());
                tasks.push(status::LearningTaskStatus { model, class, accuracy, shown, held, ..task.clone() });
            }
            for loaded in self.context.state.loaded.lock().iter_mut().filter(|l| l.model.name == *model) {
                loaded.learning_accuracy = learner.prequential_mean();
            }
        }
        let mut status = self.context.teaching.status.lock();
        status.tasks = tasks;
        status.one_in = self.one_in.load(Relaxed);
        status.buffer_full = self.streams.crowded;
    }
}

impl LearningContext {
    /// Saves the learned neurons and replaces the running model with one that contains them. They are saved first, so that what runs, and what
    /// a fleet then gets, outlives the process; if that fails, they run all the same, and the status has the error. Returns whether they run.
    fn save_and_install(&self, name: &str, learner: &Learner) -> bool {
        // A reload holds this lock too while it replaces models.
        let mut all = self.teaching.learned.lock();
        let mut models = Models::clone(&self.models.load());
        let Some(model) = models.iter_mut().find(|m| m.name == name) else { return false };
        match learner.learned().applied(model) {
            Ok(with) => *model = Arc::new(with),
            Err(error) => {
                warn!("the learned neurons do not fit the model: {error}");
                return false;
            }
        }
        let error = self.config.folder.as_ref().and_then(|folder| learner.learned().save(folder, name).err());
        if let Some(error) = &error {
            warn!("can't save the learned neurons: {error}");
        }
        self.teaching.status.lock().last_error = error.map(|error| error.to_string());
        for loaded in self.state.loaded.lock().iter_mut().filter(|l| l.model.name == name) {
            loaded.model = Arc::clone(model);
        }
        if let Some(metrics) = &self.metrics {
            metrics.models(&models);
        }
        self.models.store(Arc::new(models));
        all.insert(name.into(), learner.learned().clone());
        true
    }
}

/// Whether the teacher is for the model of this name.
fn learns(teacher: &config::TeacherConfig, models: &Models, name: &str) -> bool {
    match &teacher.model {
        Some(model) => model == name,
        None => models.first().is_some_and(|first| first.name == name),
    }
}

/// Learning tasks for a model: one per class, with the settings of the class's first teacher. A class has one neuron, so it has one mask and one
/// learning rate; `spiked check` warns of teachers of one class that differ in them.
fn tasks(teachers: &[ActiveTeacher], models: &Models, name: &str) -> Vec<LearningTask> {
    let mut tasks: Vec<LearningTask> = Vec::new();
    for teacher in teachers.iter().map(|t| &t.config).filter(|t| learns(t, models, name)) {
        if !tasks.iter().any(|l| l.class == teacher.class) {
            let config::TeacherConfig { class, mask, learning_rate, freeze, .. } = teacher.clone();
            tasks.push(LearningTask { class, mask, eta: learning_rate as f32, freeze });
        }
    }
    tasks
}

fn settings(config: &config::LearningConfig) -> LearnerSettings {
    LearnerSettings { volleys: config.volleys, min_accuracy: config.min_accuracy, seed: 1, threads: 1 }
}
