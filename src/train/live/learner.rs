//! What is remembered of what was heard, and when is a neuron made of it?

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

use super::super::calibrate::SUREST;
use super::gate::{self, Accuracy};
use super::learned::{LearnedError, LearnedNeurons, side_by_side};
use super::{Reservoir, StreamSlots, replay_buffer};

/// What is taught, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningTask {
    pub class: String,
    /// Slots that the class's neuron does not look at, as [`Layout::mask`] takes them: what the teacher goes by would be all it
    /// learns.
    pub without: Vec<String>,
    /// Eta of the rule.
    pub eta: f32,
    /// Learn nothing for the time being.
    pub freeze: bool,
}

/// Bounds of a learner.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerSettings {
    /// Volleys remembered to learn from; a quarter as many are held back.
    pub volleys: usize,
    /// Mean of own and foreign streams right among those held back, below which a neuron is not taken over.
    pub gate: f64,
    pub seed: u64,
    pub threads: usize,
}

/// One stream in so many is held back.
const HELD_BACK: u64 = 4;
/// Share of the other streams held back that a class may claim, whatever it claimed before.
const CLAIMS: f64 = 0.01;
/// Own streams to learn from and held back before there is a neuron.
const LEAST: (usize, usize) = (3, 1);
/// What one stream less counts for in the prequential accuracy than the next (Gama, Sebastião, Rodrigues, *On evaluating stream
/// learning algorithms*, Machine Learning 90, 2013).
const FADING: f64 = 0.99;

/// What became of a stream that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleOutcome {
    /// Shown from now on.
    Shown,
    HeldBack,
    /// There was no room, and the choice fell on others.
    Full,
    /// The class is frozen.
    Frozen,
    /// Nobody teaches it, and the model gives it no name, or that of a class that is taught: it may be anything.
    Unknown,
}

/// One class's try.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub class: String,
    pub outcome: Outcome,
    /// How the model does on streams held back with the new neuron, and how it did before.
    pub with: Accuracy,
    pub before: Option<Accuracy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The neuron is part of the model now.
    TakenOver,
    /// Not good enough yet.
    BelowGate,
    /// Worse than the one that there is.
    Worse,
}

/// Share of streams right before they were taught, fading.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Prequential {
    right: f64,
    all: f64,
}

/// What is remembered of the streams that were heard.
pub(super) struct ReplayBuffer {
    pub key: KeyKind,
    pub layout: Layout,
    pub shown: Reservoir,
    pub held: Reservoir,
    /// Streams heard of each label.
    pub heard: BTreeMap<String, u64>,
    pub prequential: BTreeMap<String, Prequential>,
}

/// Learns the taught classes of one model.
pub struct Learner {
    lessons: Vec<LearningTask>,
    settings: LearnerSettings,
    memory: ReplayBuffer,
    learned: LearnedNeurons,
    /// Something was heard since the last try.
    news: bool,
    tries: u64,
}

impl Learner {
    pub fn new(model: &Model, lessons: Vec<LearningTask>, settings: LearnerSettings, learned: LearnedNeurons) -> Self {
        let slots = settings.volleys * model.layout.slots().len();
        Self {
            lessons,
            memory: ReplayBuffer {
                key: model.key,
                layout: model.layout.clone(),
                shown: Reservoir::new(slots, settings.seed),
                held: Reservoir::new(slots / HELD_BACK as usize, settings.seed ^ 1),
                heard: BTreeMap::new(),
                prequential: BTreeMap::new(),
            },
            learned,
            news: false,
            tries: 0,
            settings,
        }
    }

    /// Keeps what is remembered, in a file beside what was learned.
    ///
    /// # Errors
    /// Where the folder can't be written.
    pub fn keep_heard(&self, folder: &Path, model: &str) -> Result<(), LearnedError> {
        replay_buffer::save(&self.memory, folder, model)
    }

    /// Remembers what [`Learner::keep_heard`] kept; whether there was anything that fits the model.
    ///
    /// # Errors
    /// A file that can't be read, or is damaged: then nothing is remembered.
    pub fn recall(&mut self, folder: &Path, model: &str) -> Result<bool, LearnedError> {
        let found = replay_buffer::load(&mut self.memory, folder, model)?;
        self.news |= found;
        Ok(found)
    }

    /// Other lessons from now on; what was heard and learned stays.
    pub fn set_lessons(&mut self, lessons: Vec<LearningTask>) {
        self.memory.prequential.retain(|class, _| lessons.iter().any(|l| l.class == *class));
        self.lessons = lessons;
        self.news = true;
    }

    /// Whether what is remembered is of this model's making.
    pub fn fits(&self, model: &Model) -> bool {
        self.memory.key == model.key && self.memory.layout == model.layout
    }

    pub fn learned(&self) -> &LearnedNeurons {
        &self.learned
    }

    /// Hears a stream: of lesson number `taught`, or of nobody's.
    pub fn hear(&mut self, model: &Model, slots: StreamSlots, taught: Option<usize>) -> SampleOutcome {
        let name = gate::named(model, &slots);
        let label = match taught.map(|lesson| &self.lessons[lesson]) {
            Some(lesson) => {
                let score = self.memory.prequential.entry(lesson.class.clone()).or_default();
                score.right = score.right * FADING + f64::from(u8::from(name == Some(&lesson.class)));
                score.all = score.all * FADING + 1.0;
                if lesson.freeze {
                    return SampleOutcome::Frozen;
                }
                lesson.class.clone()
            }
            None => match name.filter(|name| !self.lessons.iter().any(|l| l.class == *name)) {
                Some(name) => name.to_string(),
                None => return SampleOutcome::Unknown,
            },
        };
        let heard = self.memory.heard.entry(label.clone()).or_insert(0);
        *heard += 1;
        let hold = heard.is_multiple_of(HELD_BACK);
        let (reservoir, outcome) =
            if hold { (&mut self.memory.held, SampleOutcome::HeldBack) } else { (&mut self.memory.shown, SampleOutcome::Shown) };
        if !reservoir.offer(&label, slots) {
            return SampleOutcome::Full;
        }
        self.news = true;
        outcome
    }

    /// Share of the streams of a taught class that the model named right before they were taught; the last hundred or so count.
    pub fn prequential(&self, class: &str) -> Option<f64> {
        self.memory.prequential.get(class).map(|p| p.right / p.all.max(1.0))
    }

    /// The same over all taught classes.
    pub fn prequential_mean(&self) -> Option<f64> {
        let (right, all) = self.memory.prequential.values().fold((0.0, 0.0), |(r, a), p| (r + p.right, a + p.all));
        (all > 0.0).then(|| right / all)
    }

    /// Streams remembered of a class: to learn from, and held back.
    pub fn remembered(&self, class: &str) -> (usize, usize) {
        (self.memory.shown.of(class).len(), self.memory.held.of(class).len())
    }

    /// Whether there is something to learn from that was not there the last time.
    pub fn is_ready(&self) -> bool {
        self.news && self.lessons.iter().any(|lesson| self.can_learn(lesson))
    }

    fn can_learn(&self, lesson: &LearningTask) -> bool {
        let (shown, held) = self.remembered(&lesson.class);
        let foreign = self.memory.shown.iter().any(|(label, streams)| label != lesson.class && !streams.is_empty());
        !lesson.freeze && shown >= LEAST.0 && held >= LEAST.1 && foreign
    }

    /// Makes neurons of what is remembered, and takes over those that do no worse. Returns the model with them, where there are
    /// any, and how each try went. It takes seconds where much is remembered.
    pub fn learn(&mut self, model: &Model) -> (Option<Model>, Vec<Attempt>) {
        self.news = false;
        self.tries += 1;
        let ready: Vec<LearningTask> = self.lessons.iter().filter(|lesson| self.can_learn(lesson)).cloned().collect();
        let Some(before) = self.learned.as_judged(model) else { return (None, Vec::new()) };
        let twins = self.neurons(&before, &ready, false);
        let (attempts, twins) = self.judged(&before, twins);
        let taken: Vec<LearningTask> = ready.into_iter().filter(|lesson| twins.contains_key(&lesson.class)).collect();
        if taken.is_empty() {
            return (None, attempts);
        }
        let Some(with) = side_by_side(twins.values()).and_then(|part| before.with_part(&part).ok()) else {
            return (None, attempts);
        };
        // What was held back for the judgement is shown, too: a fourth of all is too much to do without.
        for (class, mut neuron) in self.neurons(model, &taken, true) {
            let Some(twin) = twins.get(&class) else { continue };
            neuron.decision.accept.clone_from(&twin.decision.accept);
            self.learned.take_over(&class, neuron, twin.clone(), &with, self.memory.held.of(&class));
        }
        (self.learned.applied(model).ok(), attempts)
    }

    /// One neuron a lesson, by class; of all that is remembered, or but for what is held back.
    fn neurons(&self, model: &Model, lessons: &[LearningTask], all: bool) -> BTreeMap<String, Model> {
        let mut groups: Vec<Vec<LearningTask>> = Vec::new();
        for lesson in lessons {
            let alike = |group: &&mut Vec<LearningTask>| group[0].without == lesson.without && group[0].eta == lesson.eta;
            match groups.iter_mut().find(alike) {
                Some(group) => group.push(lesson.clone()),
                None => groups.push(vec![lesson.clone()]),
            }
        }
        let mut neurons = BTreeMap::new();
        for group in groups {
            let (network, packets) = self.train(&group, all);
            for (number, (lesson, packets)) in NeuronId::first(group.len()).zip(group.iter().zip(packets)) {
                neurons.insert(lesson.class.clone(), self.neuron(model, lesson, network.joined(&[number], None), packets));
            }
        }
        neurons
    }

    /// The neurons of a group, and how many packets each was shown of its own.
    fn train(&self, group: &[LearningTask], all: bool) -> (Network, Vec<u64>) {
        let own: Vec<String> = group.iter().map(|l| l.class.clone()).collect();
        let mut others: Vec<String> =
            self.memory.shown.iter().chain(self.memory.held.iter()).map(|(label, _)| label.to_string()).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|label| !own.contains(label));
        let classes = [own.clone(), others].concat();
        let mut sparing = self.memory.layout.clone();
        // Names were checked where they came from; one that this layout has no slot for silences none.
        group[0].without.iter().for_each(|name| _ = sparing.mask(name));
        let width = self.memory.layout.slots().len();
        let mut corpus = Corpus::new(self.memory.key, self.memory.layout.clone(), classes.clone());
        for (class, label) in ClassId::first(classes.len()).zip(&classes) {
            let held = if all { self.memory.held.of(label) } else { &[] };
            for stream in self.memory.shown.of(label).iter().chain(held) {
                let mut slots = stream.clone();
                slots.chunks_exact_mut(width).for_each(|volley| sparing.apply_mask(volley));
                corpus.push(class, &slots);
            }
        }
        let seed = self.settings.seed.wrapping_add(self.tries);
        let mut settings = train::TrainSettings::new(self.memory.key, seed);
        settings.rule.eta = group[0].eta;
        let teacher = TeachingSchedule::new(&corpus, &settings, seed, |i| Some(corpus.streams[i].class));
        let (inputs, threads) = (self.memory.layout.input_count(), self.settings.threads);
        let weights = snn::train(settings.rule, inputs, &NeuronSpec::one_each(own.len()), threads, &teacher, &|| ());
        let packets = ClassId::first(own.len()).map(|class| corpus.shown(class).1).collect();
        (Network::quantise(&weights, own.len()), packets)
    }

    fn neuron(&self, model: &Model, lesson: &LearningTask, network: Network, packets: u64) -> Model {
        let mut decision = model.decision.clone();
        decision.theta = vec![snn::Stdp::default().theta];
        decision.accept = vec![1.0];
        decision.assignments = Assignments::one_each(1);
        Model {
            name: model.name.clone(),
            key: self.memory.key,
            classes: vec![lesson.class.clone()],
            layout: self.memory.layout.clone(),
            network,
            decision,
            provenance: Provenance {
                trained_with: env!("CARGO_PKG_VERSION").into(),
                seed: self.settings.seed,
                labels: vec!["live".into()],
                captures: 0,
                streams: vec![self.memory.shown.of(&lesson.class).len() as u64],
                packets: vec![packets],
                ..Provenance::default()
            },
        }
    }

    /// Which of the neurons are taken over, with their acceptance, and how each try went. All are judged side by side; where some
    /// fall out the others are judged again without them.
    fn judged(&self, before: &Model, mut neurons: BTreeMap<String, Model>) -> (Vec<Attempt>, BTreeMap<String, Model>) {
        let old = gate::GateAnswers::of(before, &self.memory.held);
        let own = before.classes.iter().zip(&before.decision.accept).filter(|(class, _)| !self.learned.has(class));
        let usual = own.map(|(_, accept)| *accept).fold(SUREST, f32::min);
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
            let (taken, out): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|a| a.outcome == Outcome::TakenOver);
            let stable = out.is_empty();
            out.iter().for_each(|a| _ = neurons.remove(&a.class));
            refused.extend(out);
            if stable || neurons.is_empty() {
                refused.extend(taken.into_iter().filter(|a| neurons.contains_key(&a.class)));
                return (refused, neurons);
            }
        }
    }

    fn outcome(&self, class: &str, with: Accuracy, was: Option<Accuracy>, (new, old): (&Model, &Model)) -> Outcome {
        if with.mean() < self.settings.gate {
            return Outcome::BelowGate;
        }
        let Some(was) = was else { return Outcome::TakenOver };
        // A neuron that came with the model gives way to a better one only.
        let shipped = !self.learned.has(class);
        let anchors = self.learned.anchors_of(class);
        // Own streams are what the teacher says, and junk among them must not buy a claim on others: each counts by itself.
        // One own stream more or less is chance.
        let worse = with.mean() + 0.5 / f64::from(with.streams.max(1)) < was.mean()
            || with.claimed > was.claimed.max(CLAIMS)
            || gate::right(new, class, anchors)
                < gate::right(old, class, anchors).min(anchors.len() - anchors.len().div_ceil(10));
        if worse || (shipped && with.mean() <= was.mean()) { Outcome::Worse } else { Outcome::TakenOver }
    }
}
