//! What is remembered of what was heard, and when is a neuron made of it?

use std::collections::BTreeMap;

use crate::encode::{Layout, SILENT};
use crate::model::{Model, PartsError, Provenance};
use crate::packet::KeyKind;
use crate::snn::{self, Network};
use crate::train::{self, Corpus, Teacher};

use super::gate::{self, Accuracy};
use super::{Reservoir, Sampled};

/// What is taught, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    pub class: String,
    /// Slots that the class's neuron does not look at, as [`Layout::without`] takes them: what the teacher goes by would be all it
    /// learns.
    pub without: Vec<String>,
    /// Eta of the rule.
    pub eta: f32,
    /// Learn nothing for the time being.
    pub freeze: bool,
}

/// Bounds of a learner.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Volleys remembered to learn from; a quarter as many are held back.
    pub volleys: usize,
    /// Mean of own and foreign streams right among those held back, below which a neuron is not taken over.
    pub gate: f64,
    pub seed: u64,
    pub threads: usize,
}

/// One stream in so many is held back.
const HELD_BACK: u64 = 4;
/// Streams of each label that stay among those held back, so that nobody can talk the gate into something by and by.
const ANCHORS: usize = 32;
/// Own streams to learn from and held back before there is a neuron.
const LEAST: (usize, usize) = (3, 1);
/// What one stream less counts for in the prequential accuracy than the next (Gama, Sebastião, Rodrigues, *On evaluating stream
/// learning algorithms*, Machine Learning 90, 2013).
const FADING: f64 = 0.99;

/// What became of a stream that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
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

/// The neurons that were learned, each a model of one class.
#[derive(Clone, Debug, Default)]
pub struct Learned(BTreeMap<String, Model>);

impl Learned {
    /// The neurons of a part.
    pub fn of(part: &Model) -> Self {
        let others = |class: &String| part.classes.iter().filter(|c| *c != class).cloned().collect::<Vec<_>>();
        let alone = |class: &String| Some((class.clone(), part.without_classes(&others(class)).ok()?));
        Self(part.classes.iter().filter_map(alone).collect())
    }

    /// All of them side by side; `None` where there are none.
    pub fn part(&self) -> Option<Model> {
        let mut neurons = self.0.values();
        let first = neurons.next()?.clone();
        neurons.try_fold(first, |part, neuron| part.with_part(neuron)).ok()
    }

    /// A model with them.
    ///
    /// # Errors
    /// A model of another key or layout than what was learned.
    pub fn applied(&self, model: &Model) -> Result<Model, PartsError> {
        self.part().map_or_else(|| Ok(model.clone()), |part| model.with_part(&part))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Share of streams right before they were taught, fading.
#[derive(Clone, Copy, Debug, Default)]
struct Prequential {
    right: f64,
    all: f64,
}

/// Learns the taught classes of one model.
pub struct Learner {
    lessons: Vec<Lesson>,
    settings: Settings,
    key: KeyKind,
    layout: Layout,
    shown: Reservoir,
    held: Reservoir,
    /// Streams heard of each label.
    heard: BTreeMap<String, u64>,
    prequential: BTreeMap<String, Prequential>,
    learned: Learned,
    /// Something was heard since the last try.
    news: bool,
    tries: u64,
}

impl Learner {
    pub fn new(model: &Model, lessons: Vec<Lesson>, settings: Settings, learned: Learned) -> Self {
        let slots = settings.volleys * model.layout.slots().len();
        Self {
            lessons,
            key: model.key,
            layout: model.layout.clone(),
            shown: Reservoir::new(slots, 0, settings.seed),
            held: Reservoir::new(slots / HELD_BACK as usize, ANCHORS, settings.seed ^ 1),
            heard: BTreeMap::new(),
            prequential: BTreeMap::new(),
            learned,
            news: false,
            tries: 0,
            settings,
        }
    }

    /// Other lessons from now on; what was heard and learned stays.
    pub fn set_lessons(&mut self, lessons: Vec<Lesson>) {
        self.prequential.retain(|class, _| lessons.iter().any(|l| l.class == *class));
        self.lessons = lessons;
        self.news = true;
    }

    /// Whether what is remembered is of this model's making.
    pub fn fits(&self, model: &Model) -> bool {
        self.key == model.key && self.layout == model.layout
    }

    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Hears a stream: of lesson number `taught`, or of nobody's.
    pub fn hear(&mut self, model: &Model, slots: Sampled, taught: Option<usize>) -> Heard {
        let name = gate::named(model, &slots);
        let label = match taught.map(|lesson| &self.lessons[lesson]) {
            Some(lesson) => {
                let score = self.prequential.entry(lesson.class.clone()).or_default();
                score.right = score.right * FADING + f64::from(u8::from(name == Some(&lesson.class)));
                score.all = score.all * FADING + 1.0;
                if lesson.freeze {
                    return Heard::Frozen;
                }
                lesson.class.clone()
            }
            None => match name.filter(|name| !self.lessons.iter().any(|l| l.class == *name)) {
                Some(name) => name.to_string(),
                None => return Heard::Unknown,
            },
        };
        let heard = self.heard.entry(label.clone()).or_insert(0);
        *heard += 1;
        let hold = heard.is_multiple_of(HELD_BACK);
        let (reservoir, outcome) = if hold { (&mut self.held, Heard::HeldBack) } else { (&mut self.shown, Heard::Shown) };
        if !reservoir.offer(&label, slots) {
            return Heard::Full;
        }
        self.news = true;
        outcome
    }

    /// Share of the streams of a taught class that the model named right before they were taught; the last hundred or so count.
    pub fn prequential(&self, class: &str) -> Option<f64> {
        self.prequential.get(class).map(|p| p.right / p.all.max(1.0))
    }

    /// The same over all taught classes.
    pub fn prequential_mean(&self) -> Option<f64> {
        let (right, all) = self.prequential.values().fold((0.0, 0.0), |(r, a), p| (r + p.right, a + p.all));
        (all > 0.0).then(|| right / all)
    }

    /// Streams remembered of a class: to learn from, and held back.
    pub fn remembered(&self, class: &str) -> (usize, usize) {
        (self.shown.of(class).len(), self.held.of(class).len())
    }

    /// Whether there is something to learn from that was not there the last time.
    pub fn is_ready(&self) -> bool {
        self.news && self.lessons.iter().any(|lesson| self.can_learn(lesson))
    }

    fn can_learn(&self, lesson: &Lesson) -> bool {
        let (shown, held) = self.remembered(&lesson.class);
        let foreign = self.shown.iter().any(|(label, streams)| label != lesson.class && !streams.is_empty());
        !lesson.freeze && shown >= LEAST.0 && held >= LEAST.1 && foreign
    }

    /// Makes neurons of what is remembered, and takes over those that do no worse. Returns the model with them, where there are
    /// any, and how each try went. It takes seconds where much is remembered.
    pub fn learn(&mut self, model: &Model) -> (Option<Model>, Vec<Attempt>) {
        self.news = false;
        self.tries += 1;
        let ready: Vec<Lesson> = self.lessons.iter().filter(|lesson| self.can_learn(lesson)).cloned().collect();
        let mut groups: Vec<Vec<Lesson>> = Vec::new();
        for lesson in ready {
            let alike = |group: &&mut Vec<Lesson>| group[0].without == lesson.without && group[0].eta == lesson.eta;
            match groups.iter_mut().find(alike) {
                Some(group) => group.push(lesson),
                None => groups.push(vec![lesson]),
            }
        }
        let (mut current, mut attempts, mut taken_over) = (model.clone(), Vec::new(), false);
        for group in groups {
            let (network, packets) = self.train(&group);
            for (number, lesson) in group.iter().enumerate() {
                let neuron = self.neuron(&current, lesson, network.joined(&[number], None), packets[number]);
                let Ok((neuron, candidate)) = self.calibrated(&current, neuron) else { continue };
                let attempt = self.judged(&current, &candidate, &lesson.class);
                if attempt.outcome == Outcome::TakenOver {
                    self.learned.0.insert(lesson.class.clone(), neuron);
                    // All of them anew, so that the order of the classes stays.
                    if let Ok(model) = self.learned.applied(&current) {
                        current = model;
                        taken_over = true;
                    }
                }
                attempts.push(attempt);
            }
        }
        (taken_over.then_some(current), attempts)
    }

    /// One neuron a lesson, and how many packets each was shown of its own.
    fn train(&self, group: &[Lesson]) -> (Network, Vec<u64>) {
        let own: Vec<String> = group.iter().map(|l| l.class.clone()).collect();
        let others = self.shown.iter().map(|(label, _)| label).filter(|label| !own.iter().any(|c| c == label));
        let classes: Vec<String> = own.iter().cloned().chain(others.map(str::to_string)).collect();
        let silent = silenced(&self.layout, &group[0].without);
        let width = self.layout.slots().len();
        let mut corpus = Corpus::new(self.key, self.layout.clone(), classes.clone());
        for (class, label) in (0u16..).zip(&classes) {
            for stream in self.shown.of(label) {
                let mut slots = stream.clone();
                for volley in slots.chunks_exact_mut(width) {
                    silent.iter().for_each(|&slot| volley[usize::from(slot)] = SILENT);
                }
                corpus.push(class, &slots);
            }
        }
        let seed = self.settings.seed.wrapping_add(self.tries);
        let mut settings = train::Settings::new(self.key, seed);
        settings.rule.eta = group[0].eta;
        let teacher = Teacher::new(&corpus, &settings, seed, |i| Some(corpus.streams[i].class));
        let inputs = self.layout.input_count();
        let weights = snn::train_neurons(settings.rule, inputs, 0..own.len(), self.settings.threads, &teacher, &|| ());
        let packets = (0..own.len() as u16).map(|c| corpus.streams.iter().filter(|s| s.class == c).map(|s| s.kept as u64).sum());
        (Network::quantise(&weights, own.len()), packets.collect())
    }

    fn neuron(&self, model: &Model, lesson: &Lesson, network: Network, packets: u64) -> Model {
        let mut decision = model.decision.clone();
        decision.theta = vec![snn::Stdp::default().theta];
        decision.accept = vec![1.0];
        Model {
            name: model.name.clone(),
            key: self.key,
            classes: vec![lesson.class.clone()],
            layout: self.layout.clone(),
            network,
            decision,
            provenance: Provenance {
                trained_with: env!("CARGO_PKG_VERSION").into(),
                seed: self.settings.seed,
                labels: vec!["live".into()],
                captures: 0,
                streams: vec![self.shown.of(&lesson.class).len() as u64],
                packets: vec![packets],
                reference: Vec::new(),
            },
        }
    }

    /// The neuron with its acceptance, and the model with the neuron.
    fn calibrated(&self, model: &Model, mut neuron: Model) -> Result<(Model, Model), PartsError> {
        let mut candidate = model.with_part(&neuron)?;
        let last = candidate.classes.len() - 1;
        let accept = gate::acceptance(&candidate, last as u16, &self.held);
        neuron.decision.accept[0] = accept;
        candidate.decision.accept[last] = accept;
        Ok((neuron, candidate))
    }

    fn judged(&self, before: &Model, with: &Model, class: &str) -> Attempt {
        let known = before.classes.iter().any(|c| c == class);
        let of = |model: &Model, anchors| Accuracy::of(model, class, &self.held, anchors);
        let (after, old) = (of(with, false), known.then(|| of(before, false)));
        let outcome = if after.mean() < self.settings.gate {
            Outcome::BelowGate
        } else if let Some(old) = old {
            // A neuron that came with the model gives way to a better one only.
            let shipped = !self.learned.0.contains_key(class);
            let worse = after.mean() < old.mean() || of(with, true).mean() < of(before, true).mean();
            if worse || (shipped && after.mean() <= old.mean()) { Outcome::Worse } else { Outcome::TakenOver }
        } else {
            Outcome::TakenOver
        };
        Attempt { class: class.into(), outcome, with: after, before: old }
    }
}

fn silenced(layout: &Layout, without: &[String]) -> Vec<u16> {
    let mut layout = layout.clone();
    // Names were checked where they came from; one that this layout has no slot for silences none.
    without.iter().for_each(|name| _ = layout.without(name));
    layout.silenced().to_vec()
}
