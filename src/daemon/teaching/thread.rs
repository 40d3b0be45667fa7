//! What does the teaching thread do next? It hears samples; from time to time it makes neurons of what it remembers.

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
use crate::packet::KeyKind;
use crate::train::live::{Learner, LearnerSettings, LearningTask, Outcome, SampleOutcome};

use super::super::policy::StreamFilter;
use super::super::state::DaemonState;
use super::SharedLearning;
use super::streams::{SampledStream, SampledStreams};

/// Samples that may wait; what comes beyond is dropped and counted.
const WAITING: usize = 4096;
/// How often the thread looks up from hearing.
const TICK: Duration = Duration::from_millis(100);
/// After so long without a full queue twice as many streams are sampled again.
const RELAX: Duration = Duration::from_secs(5);
/// The rarest sampling: one stream in so many.
const RAREST: u32 = 1 << 10;
/// Packets of a stream that are sampled, by kind of key: as many as training shows, as far as a tap can count.
const PACKETS: [u8; KeyKind::COUNT] = [crate::train::FLOW_PACKETS as u8, u8::MAX];
/// Learning may take one in so many parts of one CPU's time.
const SHARE: u32 = 10;
/// How often what was heard is kept: a file of some megaoctets.
const KEEP: Duration = Duration::from_secs(600);
/// Seconds' worth of a teacher's rate that may come at once.
const BURST: f64 = 10.0;
/// Niceness: whatever else there is to do goes first.
const NICE: i32 = 10;

/// The desk at which the thread sits: what it needs of the daemon.
pub(in crate::daemon) struct LearningContext {
    pub config: config::LearningConfig,
    pub teachers: Vec<config::TeacherConfig>,
    pub models: Arc<ArcSwap<Models>>,
    pub teaching: Arc<SharedLearning>,
    pub state: Arc<DaemonState>,
    pub metrics: Option<Arc<Metrics>>,
}

/// A teacher at work.
struct ActiveTeacher {
    config: config::TeacherConfig,
    filter: StreamFilter,
    /// Packets that may be taught now.
    tokens: f64,
    filled: Instant,
}

impl ActiveTeacher {
    fn new(config: config::TeacherConfig) -> Result<Self, CaptureError> {
        let (filter, tokens) = (StreamFilter::new(&config.filter)?, config.rate * BURST);
        Ok(Self { config, filter, tokens, filled: Instant::now() })
    }

    fn may_teach(&mut self, packets: usize) -> bool {
        let (now, most) = (Instant::now(), self.config.rate * BURST);
        // One stream at least, however slow the rate: then there is a longer wait for the next.
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
    desk: LearningContext,
    teachers: Vec<ActiveTeacher>,
    /// By the model's name, with the number of streams and tries by outcome for each class.
    learners: BTreeMap<String, (Learner, BTreeMap<String, status::LearningTaskStatus>)>,
    streams: SampledStreams,
    frame: Vec<u8>,
    one_in: Arc<AtomicU32>,
    crowded_since: Instant,
    next: Instant,
    /// When what was heard is kept next; `None`: nothing was heard since.
    keep: Option<Instant>,
}

/// Starts the thread, which ends when the tap is dropped.
///
/// # Errors
/// Where no thread can be started.
pub(in crate::daemon) fn start(desk: LearningContext) -> io::Result<(Tap, JoinHandle<()>)> {
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
        crowded_since: now,
        next: now,
        keep: None,
        desk,
    };
    let teachers = std::mem::take(&mut thread.desk.teachers);
    thread.set_teachers(teachers);
    let handle = std::thread::Builder::new().name("spiked-teacher".into()).spawn(move || thread.run(&taken))?;
    Ok((tap, handle))
}

impl TeachingThread {
    fn run(mut self, samples: &Receiver<TapSample>) {
        // Of a thread, on Linux. That it stays as nice as the others costs a little speed and nothing else.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut tick = Instant::now() + TICK;
        loop {
            match samples.recv_deadline(tick) {
                Ok(sample) => {
                    let packets = usize::from(PACKETS[sample.key.kind() as usize]);
                    if let Some(stream) = self.streams.add(sample, packets) {
                        self.hear(stream);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() < tick {
                continue;
            }
            if let Some(teachers) = self.desk.teaching.new_teachers.take() {
                self.set_teachers(*teachers);
            }
            self.sample_rarer_or_more(samples.len());
            for stream in self.streams.quiet(false) {
                self.hear(stream);
            }
            if Instant::now() >= self.next {
                self.learn();
            }
            if self.keep.is_some_and(|keep| Instant::now() >= keep) {
                self.keep();
            }
            self.tell();
            tick = Instant::now() + TICK;
        }
        for stream in self.streams.quiet(true) {
            self.hear(stream);
        }
        // Who asked for the end does not wait for a last lesson; a capture that has ended may teach it.
        if !self.desk.state.stop.load(Relaxed) {
            self.learn();
        }
        self.keep();
        self.tell();
    }

    /// Keeps what was heard since it was last kept.
    fn keep(&mut self) {
        let Some(folder) = self.desk.config.folder.as_ref().filter(|_| self.keep.take().is_some()) else { return };
        for (name, (learner, _)) in &self.learners {
            if let Err(error) = learner.keep_heard(folder, name) {
                warn!("what was heard is not kept: {error}");
            }
        }
    }

    fn set_teachers(&mut self, teachers: Vec<config::TeacherConfig>) {
        self.teachers.clear();
        for teacher in teachers {
            match ActiveTeacher::new(teacher) {
                Ok(teacher) => self.teachers.push(teacher),
                Err(error) => warn!("a teacher can't teach: {error}"),
            }
        }
        let (models, learners) = (self.desk.models.load_full(), &mut self.learners);
        for (name, (learner, _)) in learners {
            learner.set_lessons(lessons(&self.teachers, &models, name));
        }
        self.one_in.store(u32::from(!self.teachers.is_empty()), Relaxed);
    }

    /// Where samples come faster than they are heard, fewer streams are sampled, whole ones.
    fn sample_rarer_or_more(&mut self, waiting: usize) {
        let (one_in, now) = (self.one_in.load(Relaxed), Instant::now());
        if one_in == 0 {
            return;
        }
        if waiting > WAITING / 2 {
            self.crowded_since = now;
            self.one_in.store((one_in * 2).min(RAREST), Relaxed);
        } else if one_in > 1 && now.duration_since(self.crowded_since) > RELAX {
            self.crowded_since = now;
            self.one_in.store(one_in / 2, Relaxed);
        }
    }

    /// Hears a stream, whole or as far as it went.
    fn hear(&mut self, stream: SampledStream) {
        let models = self.desk.models.load_full();
        let Some(model) = models.get(stream.model).filter(|m| m.layout == stream.named.layout && m.key == stream.named.key)
        else {
            return;
        };
        let lessons = lessons(&self.teachers, &models, &model.name);
        if lessons.is_empty() {
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
        let may = teacher.is_none_or(|t| t.may_teach(packets));
        if self.learners.get(&model.name).is_some_and(|(learner, _)| !learner.fits(model)) {
            warn!(model = model.name, "the model has another layout now; what was heard for it is forgotten");
            self.learners.remove(&model.name);
        }
        let (learner, told) = self.learners.entry(model.name.clone()).or_insert_with(|| {
            let learned = self.desk.teaching.learned.lock().get(&model.name).cloned().unwrap_or_default();
            let mut learner = Learner::new(model, lessons.clone(), settings(&self.desk.config), learned);
            match self.desk.config.folder.as_ref().map(|folder| learner.recall(folder, &model.name)) {
                Some(Ok(true)) => info!(model = model.name, "what was heard before is remembered"),
                Some(Err(error)) => warn!("what was heard before is forgotten: {error}"),
                _ => {}
            }
            (learner, BTreeMap::new())
        });
        self.keep = self.keep.or_else(|| Some(Instant::now() + KEEP));
        let outcome = if may {
            let taught = class.as_ref().and_then(|class| lessons.iter().position(|l| l.class == *class));
            match learner.hear(model, stream.slots, taught) {
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
            *told.entry(class).or_default().streams.entry(outcome).or_default() += 1;
        }
    }

    /// Makes better neurons where there is something new to make them of.
    fn learn(&mut self) {
        let begun = Instant::now();
        let models = self.desk.models.load_full();
        for (name, (learner, told)) in &mut self.learners {
            let Some(model) = models.iter().find(|m| m.name == *name).filter(|_| learner.is_ready()) else { continue };
            let (with, attempts) = learner.learn(model);
            for attempt in attempts {
                let outcome = match attempt.outcome {
                    Outcome::TakenOver => "taken_over",
                    Outcome::BelowGate => "below_gate",
                    Outcome::Worse => "worse",
                };
                info!(
                    model = name,
                    class = attempt.class,
                    outcome,
                    own = attempt.with.own,
                    foreign = attempt.with.foreign,
                    before = attempt.before.map(|a| a.mean()),
                    "a neuron was made of what was heard"
                );
                let lesson = told.entry(attempt.class).or_default();
                *lesson.attempts.entry(outcome).or_default() += 1;
                let running = if attempt.outcome == Outcome::TakenOver { Some(attempt.with) } else { attempt.before };
                lesson.held_back = running.map(|a| a.mean());
            }
            if with.is_some() {
                self.desk.publish(name, learner);
            }
        }
        self.next = Instant::now() + self.desk.config.every.max(begun.elapsed() * (SHARE - 1));
    }

    /// Leaves word of how it goes.
    fn tell(&self) {
        let mut lessons = Vec::new();
        for (model, (learner, told)) in &self.learners {
            for (class, lesson) in told {
                let (shown, held) = learner.remembered(class);
                let accuracy = learner.prequential(class);
                let (model, class) = (model.clone(), class.clone());
                lessons.push(status::LearningTaskStatus { model, class, accuracy, shown, held, ..lesson.clone() });
            }
            for loaded in self.desk.state.loaded.lock().iter_mut().filter(|l| l.model.name == *model) {
                loaded.learning_accuracy = learner.prequential_mean();
            }
        }
        let mut status = self.desk.teaching.status.lock();
        status.tasks = lessons;
        status.one_in = self.one_in.load(Relaxed);
        status.buffer_full = self.streams.crowded;
    }
}

impl LearningContext {
    /// Puts a model with all that was learned in the place of the one that runs, and keeps what was learned.
    fn publish(&self, name: &str, learner: &Learner) {
        let mut all = self.teaching.learned.lock();
        let mut models = Models::clone(&self.models.load());
        let Some(model) = models.iter_mut().find(|m| m.name == name) else { return };
        match learner.learned().applied(model) {
            Ok(with) => *model = Arc::new(with),
            Err(error) => {
                warn!("what was learned does not fit the model: {error}");
                return;
            }
        }
        for loaded in self.state.loaded.lock().iter_mut().filter(|l| l.model.name == name) {
            loaded.model = Arc::clone(model);
        }
        if let Some(metrics) = &self.metrics {
            metrics.models(&models);
        }
        self.models.store(Arc::new(models));
        all.insert(name.into(), learner.learned().clone());
        drop(all);
        let trouble = self.config.folder.as_ref().and_then(|folder| learner.learned().save(folder, name).err());
        if let Some(trouble) = &trouble {
            warn!("what was learned is not kept: {trouble}");
        }
        self.teaching.status.lock().last_error = trouble.map(|trouble| trouble.to_string());
    }
}

/// Whether a teacher's model is the one of that name.
fn learns(teacher: &config::TeacherConfig, models: &Models, name: &str) -> bool {
    match &teacher.model {
        Some(model) => model == name,
        None => models.first().is_some_and(|first| first.name == name),
    }
}

/// What is taught to the model of that name: one lesson a class, as its first teacher has it.
fn lessons(teachers: &[ActiveTeacher], models: &Models, name: &str) -> Vec<LearningTask> {
    let mut lessons: Vec<LearningTask> = Vec::new();
    for teacher in teachers.iter().map(|t| &t.config).filter(|t| learns(t, models, name)) {
        if !lessons.iter().any(|l| l.class == teacher.class) {
            let config::TeacherConfig { class, mask, learning_rate, freeze, .. } = teacher.clone();
            lessons.push(LearningTask { class, without: mask, eta: learning_rate as f32, freeze });
        }
    }
    lessons
}

fn settings(config: &config::LearningConfig) -> LearnerSettings {
    LearnerSettings { volleys: config.volleys, gate: config.min_accuracy, seed: 1, threads: 1 }
}
