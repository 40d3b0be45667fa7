//! Learner of one model: stores sampled streams in a replay buffer and trains neurons on it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::encode::Layout;
use crate::model::{Model, Provenance};
use crate::packet::KeyKind;
use crate::snn::{self, ClassId, Network, NeuronId, NeuronSpec};
use crate::stream::Assignments;
use crate::stream::Decision;
use crate::train::{self, Corpus, TeachingSchedule};

use super::super::calibrate::MAX_ACCEPTANCE;
use super::gate::{self, Accuracy};
use super::learned::{LearnedError, LearnedNeurons, side_by_side};
use super::{Reservoir, StreamSlots, replay_buffer};

/// A class to learn, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningTask {
    /// Name of the class.
    pub class: String,
    /// Slots that are silent for the class's neuron, named as for [`Layout::mask`]. What the teacher's filter tests belongs here: the
    /// neuron would learn nothing else.
    pub mask: Vec<String>,
    /// Learning rate (eta of the rule).
    pub eta: f32,
    /// Whether learning is suspended.
    pub freeze: bool,
}

/// Settings of a learner.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerSettings {
    /// Capacity of the replay buffer in volleys, for training; a quarter as many are held back.
    pub volleys: usize,
    /// Lowest [`Accuracy::mean`] on the held-back streams with which a neuron is taken over, 0 to 1.
    pub min_accuracy: f64,
    /// Seed of all random choices.
    pub seed: u64,
    /// Threads of training.
    pub threads: usize,
}

/// One stream in this many is held back.
const HELD_BACK: u64 = 4;
/// Share of the negative held-back streams that a class may always claim.
const CLAIMS: f64 = 0.01;
/// Fewest positive streams, for training and held back, from which a neuron is trained.
const MIN_STREAMS: (usize, usize) = (3, 1);
/// Weight of a stream in the prequential accuracy relative to the next one (Gama, Sebastião, Rodrigues, *On evaluating stream
/// learning algorithms*, Machine Learning 90, 2013).
const FADING: f64 = 0.99;

/// Result of [`Learner::observe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleOutcome {
    /// Stored for training.
    Shown,
    /// Stored for the gate, and not trained on.
    HeldBack,
    /// Not stored: the buffer is full, and the random choice kept other streams.
    Full,
    /// The class is frozen.
    Frozen,
    /// No teacher labels it, and the model gives it no class, or a class that is being learned: its class is not known.
    Unknown,
}

/// One attempt to learn a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Name of the class.
    pub class: String,
    /// Outcome of the attempt.
    pub outcome: AttemptOutcome,
    /// Accuracy of the model with the new neuron on the held-back streams.
    pub with: Accuracy,
    /// Accuracy without it; `None` if the model does not have the class.
    pub before: Option<Accuracy>,
}

/// Outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The neuron was added to the model.
    Accepted,
    /// Its accuracy is below [`LearnerSettings::min_accuracy`].
    BelowMinAccuracy,
    /// It is worse than the present neuron of the class.
    Worse,
}

/// Weighted number of streams named correctly before they were trained on, and of all streams; older streams weigh less.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Prequential {
    right: f64,
    all: f64,
}

/// Sample of the observed streams.
pub(super) struct ReplayBuffer {
    pub key: KeyKind,
    pub layout: Layout,
    /// Streams for training.
    pub shown: Reservoir,
    /// Streams held back for the gate.
    pub held: Reservoir,
    /// Number of streams observed of each label.
    pub observed: BTreeMap<String, u64>,
    pub prequential: BTreeMap<String, Prequential>,
}

/// Learns classes of one model from sampled streams.
pub struct Learner {
    tasks: Vec<LearningTask>,
    settings: LearnerSettings,
    memory: ReplayBuffer,
    learned: LearnedNeurons,
    /// Whether a stream or a task was added since the last attempt.
    changed: bool,
    attempts_made: u64,
}

impl Learner {
    /// A learner for `tasks` that starts with the neurons in `learned`.
    pub fn new(model: &Model, tasks: Vec<LearningTask>, settings: LearnerSettings, learned: LearnedNeurons) -> Self {
        let slots = settings.volleys * model.layout.slots().len();
        Self {
            tasks,
            memory: ReplayBuffer {
                key: model.key,
                layout: model.layout.clone(),
                shown: Reservoir::new(slots, settings.seed),
                held: Reservoir::new(slots / HELD_BACK as usize, settings.seed ^ 1),
                observed: BTreeMap::new(),
                prequential: BTreeMap::new(),
            },
            learned,
            changed: false,
            attempts_made: 0,
            settings,
        }
    }

    /// Saves the replay buffer in a file beside the learned neurons.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn save_replay(&self, folder: &Path, model: &str) -> Result<(), LearnedError> {
        replay_buffer::save(&self.memory, folder, model)
    }

    /// Loads the replay buffer that [`Learner::save_replay`] saved. Returns whether there was one that fits the model.
    ///
    /// # Errors
    /// The file can't be read or is damaged; the buffer is then empty.
    pub fn load_replay(&mut self, folder: &Path, model: &str) -> Result<bool, LearnedError> {
        let found = replay_buffer::load(&mut self.memory, folder, model)?;
        self.changed |= found;
        Ok(found)
    }

    /// Replaces the tasks; the replay buffer and the learned neurons stay.
    pub fn set_tasks(&mut self, tasks: Vec<LearningTask>) {
        self.memory.prequential.retain(|class, _| tasks.iter().any(|t| t.class == *class));
        self.tasks = tasks;
        self.changed = true;
    }

    /// Whether the replay buffer has the key and the layout of this model.
    pub fn fits(&self, model: &Model) -> bool {
        self.memory.key == model.key && self.memory.layout == model.layout
    }

    /// The neurons learned so far.
    pub fn learned(&self) -> &LearnedNeurons {
        &self.learned
    }

    /// Observes a stream, labelled as of task number `task`, or by no teacher.
    pub fn observe(&mut self, model: &Model, slots: StreamSlots, task: Option<usize>) -> SampleOutcome {
        let name = gate::named(model, &slots);
        let label = match task.map(|task| &self.tasks[task]) {
            Some(task) => {
                let score = self.memory.prequential.entry(task.class.clone()).or_default();
                score.right = score.right * FADING + f64::from(u8::from(name == Some(&task.class)));
                score.all = score.all * FADING + 1.0;
                if task.freeze {
                    return SampleOutcome::Frozen;
                }
                task.class.clone()
            }
            None => match name.filter(|name| !self.tasks.iter().any(|t| t.class == *name)) {
                Some(name) => name.to_string(),
                None => return SampleOutcome::Unknown,
            },
        };
        let observed = self.memory.observed.entry(label.clone()).or_insert(0);
        *observed += 1;
        let hold = observed.is_multiple_of(HELD_BACK);
        let (reservoir, outcome) =
            if hold { (&mut self.memory.held, SampleOutcome::HeldBack) } else { (&mut self.memory.shown, SampleOutcome::Shown) };
        if !reservoir.offer(&label, slots) {
            return SampleOutcome::Full;
        }
        self.changed = true;
        outcome
    }

    /// Prequential accuracy of a class: the share of its streams that the model named correctly before they were trained on, 0 to 1. About
    /// the last hundred streams count. `None` before the first.
    pub fn prequential(&self, class: &str) -> Option<f64> {
        self.memory.prequential.get(class).map(|p| p.right / p.all.max(1.0))
    }

    /// Prequential accuracy over all classes.
    pub fn prequential_mean(&self) -> Option<f64> {
        let (right, all) = self.memory.prequential.values().fold((0.0, 0.0), |(r, a), p| (r + p.right, a + p.all));
        (all > 0.0).then(|| right / all)
    }

    /// Number of streams of a class in the replay buffer: for training, and held back.
    pub fn stored(&self, class: &str) -> (usize, usize) {
        (self.memory.shown.of(class).len(), self.memory.held.of(class).len())
    }

    /// Whether there is something new to learn from since the last attempt.
    pub fn is_ready(&self) -> bool {
        self.changed && self.tasks.iter().any(|task| self.can_learn(task))
    }

    fn can_learn(&self, task: &LearningTask) -> bool {
        let (shown, held) = self.stored(&task.class);
        let negative = self.memory.shown.iter().any(|(label, streams)| label != task.class && !streams.is_empty());
        !task.freeze && shown >= MIN_STREAMS.0 && held >= MIN_STREAMS.1 && negative
    }

    /// Trains neurons on the replay buffer and takes over those that pass the gate. Returns the model with them, `None` if no neuron
    /// passed, and all attempts. Takes seconds for a large buffer.
    pub fn learn(&mut self, model: &Model) -> (Option<Model>, Vec<Attempt>) {
        self.changed = false;
        self.attempts_made += 1;
        let ready: Vec<LearningTask> = self.tasks.iter().filter(|task| self.can_learn(task)).cloned().collect();
        let Some(before) = self.learned.as_judged(model) else { return (None, Vec::new()) };
        let twins = self.neurons(&before, &ready, false);
        let (attempts, twins) = self.judged(&before, twins);
        let taken: Vec<LearningTask> = ready.into_iter().filter(|task| twins.contains_key(&task.class)).collect();
        if taken.is_empty() {
            return (None, attempts);
        }
        let Some(with) = side_by_side(twins.values()).and_then(|part| before.with_part(&part).ok()) else {
            return (None, attempts);
        };
        // The final neurons are also trained on the held-back streams: a quarter of all is too much to leave out.
        for (class, mut neuron) in self.neurons(model, &taken, true) {
            let Some(twin) = twins.get(&class) else { continue };
            neuron.decision.accept.clone_from(&twin.decision.accept);
            self.learned.take_over(&class, neuron, twin.clone(), &with, self.memory.held.of(&class));
        }
        (self.learned.applied(model).ok(), attempts)
    }

    /// One neuron per task, by class, trained on the whole replay buffer (`all`) or without the held-back streams.
    fn neurons(&self, model: &Model, tasks: &[LearningTask], all: bool) -> BTreeMap<String, Model> {
        let mut groups: Vec<Vec<LearningTask>> = Vec::new();
        for task in tasks {
            let alike = |group: &&mut Vec<LearningTask>| group[0].mask == task.mask && group[0].eta == task.eta;
            match groups.iter_mut().find(alike) {
                Some(group) => group.push(task.clone()),
                None => groups.push(vec![task.clone()]),
            }
        }
        let mut neurons = BTreeMap::new();
        for group in groups {
            let (network, packets) = self.train(&group, all);
            for (number, (task, packets)) in NeuronId::first(group.len()).zip(group.iter().zip(packets)) {
                neurons.insert(task.class.clone(), self.neuron(model, task, network.joined(&[number], None), packets));
            }
        }
        neurons
    }

    /// The neurons of tasks with the same mask and learning rate, and the number of packets of each class.
    fn train(&self, group: &[LearningTask], all: bool) -> (Network, Vec<u64>) {
        let own: Vec<String> = group.iter().map(|t| t.class.clone()).collect();
        let mut others: Vec<String> =
            self.memory.shown.iter().chain(self.memory.held.iter()).map(|(label, _)| label.to_string()).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|label| !own.contains(label));
        let classes = [own.clone(), others].concat();
        let mut masked = self.memory.layout.clone();
        // Names are checked with the settings; a name for which this layout has no slot masks nothing.
        group[0].mask.iter().for_each(|name| _ = masked.mask(name));
        let width = self.memory.layout.slots().len();
        let mut corpus = Corpus::new(self.memory.key, masked, classes.clone());
        for (class, label) in ClassId::first(classes.len()).zip(&classes) {
            let held = if all { self.memory.held.of(label) } else { &[] };
            for stream in self.memory.shown.of(label).iter().chain(held) {
                let mut slots = stream.clone();
                slots.chunks_exact_mut(width).for_each(|volley| corpus.layout.apply_mask(volley));
                corpus.push(class, &slots);
            }
        }
        let seed = self.settings.seed.wrapping_add(self.attempts_made);
        let mut settings = train::TrainSettings::new(self.memory.key, seed);
        settings.rule.eta = group[0].eta;
        let teacher = TeachingSchedule::new(&corpus, &settings, seed, |i| Some(corpus.streams[i].class));
        let weights = teacher.train(settings.rule, &NeuronSpec::one_each(own.len()), self.settings.threads, &|| ());
        let packets = ClassId::first(own.len()).map(|class| corpus.shown(class).1).collect();
        (Network::quantise(&weights, own.len()), packets)
    }

    /// The model of one class that consists of `network`, with the decision of `model`.
    fn neuron(&self, model: &Model, task: &LearningTask, network: Network, packets: u64) -> Model {
        let mut decision = model.decision.clone();
        decision.theta = vec![snn::Stdp::default().theta];
        decision.accept = vec![1.0];
        decision.assignments = Assignments::one_each(1);
        Model {
            name: model.name.clone(),
            key: self.memory.key,
            classes: vec![task.class.clone()],
            layout: self.memory.layout.clone(),
            network,
            decision,
            episodes: Vec::new(),
            provenance: Provenance {
                trained_with: env!("CARGO_PKG_VERSION").into(),
                seed: self.settings.seed,
                labels: vec!["live".into()],
                captures: 0,
                streams: vec![self.memory.shown.of(&task.class).len() as u64],
                packets: vec![packets],
                ..Provenance::default()
            },
        }
    }

    /// The neurons that pass the gate, with their acceptance, and all attempts. All neurons are evaluated together; if some do not pass,
    /// the others are evaluated once more without them.
    fn judged(&self, before: &Model, mut neurons: BTreeMap<String, Model>) -> (Vec<Attempt>, BTreeMap<String, Model>) {
        let old = gate::GateAnswers::of(before, &self.memory.held);
        let own = before.classes.iter().zip(&before.decision.accept).filter(|(class, _)| !self.learned.has(class));
        let usual = own.map(|(_, accept)| *accept).fold(MAX_ACCEPTANCE, f32::min);
        let mut refused = Vec::new();
        loop {
            let part = side_by_side(neurons.values());
            let Some(with) = part.and_then(|part| before.with_part(&part).ok()) else { return (refused, BTreeMap::new()) };
            let new = gate::GateAnswers::of(&with, &self.memory.held);
            let mut accept = with.decision.accept.clone();
            for (class, level) in with.classes.iter().zip(&mut accept) {
                if let Some(neuron) = neurons.get_mut(class) {
                    *level = new.acceptance(class, usual);
                    neuron.decision.accept = vec![*level];
                }
            }
            let named = Model { decision: Decision { accept: accept.clone(), ..with.decision.clone() }, ..with.clone() };
            let attempt = |class: &String| {
                let known = before.classes.contains(class);
                let accuracy = new.accuracy(class, &accept);
                let was = known.then(|| old.accuracy(class, &before.decision.accept));
                let outcome = self.outcome(class, accuracy, was, (&named, before));
                Attempt { class: class.clone(), outcome, with: accuracy, before: was }
            };
            let attempts: Vec<Attempt> = neurons.keys().map(attempt).collect();
            let (taken, out): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|a| a.outcome == AttemptOutcome::Accepted);
            let stable = out.is_empty();
            out.iter().for_each(|a| _ = neurons.remove(&a.class));
            refused.extend(out);
            if stable || neurons.is_empty() {
                refused.extend(taken.into_iter().filter(|a| neurons.contains_key(&a.class)));
                return (refused, neurons);
            }
        }
    }

    /// Compares a model with the new neuron to the model before.
    fn outcome(&self, class: &str, with: Accuracy, was: Option<Accuracy>, (new, old): (&Model, &Model)) -> AttemptOutcome {
        if with.mean() < self.settings.min_accuracy {
            return AttemptOutcome::BelowMinAccuracy;
        }
        let Some(was) = was else { return AttemptOutcome::Accepted };
        // A neuron that came with the model is replaced only by a better one.
        let shipped = !self.learned.has(class);
        let anchors = self.learned.anchors_of(class);
        // Positive streams are whatever the teacher's filter admits, so junk among them must not justify claims on other streams: each
        // condition applies by itself. A difference of one positive stream is chance.
        let worse = with.mean() + 0.5 / f64::from(with.streams.max(1)) < was.mean()
            || with.claimed > was.claimed.max(CLAIMS)
            || gate::count_named(new, class, anchors)
                < gate::count_named(old, class, anchors).min(anchors.len() - anchors.len().div_ceil(10));
        if worse || (shipped && with.mean() <= was.mean()) { AttemptOutcome::Worse } else { AttemptOutcome::Accepted }
    }
}
