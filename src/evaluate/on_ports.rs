//! Evaluation on other ports: the outcomes of the same streams without ports, on a random port, and on another class's port.
//!
//! Labelled captures hold most services on their usual ports, so figures of streams as captured do not show what a class is recognised by.

use serde::Serialize;

use crate::encode::Layout;
use crate::model::Classifier;
use crate::packet::KeyKind;
use crate::snn::Network;
use crate::stream::{Decision, Leader};
use crate::train::{Corpus, PortVariants};

use super::StreamOutcome;

/// The ports on which streams are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortView {
    /// The ports are masked.
    Without,
    /// The server's port is a random unprivileged one.
    Odd,
    /// The ports are those of a stream of another class.
    Other,
}

impl PortView {
    /// All views, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Without, Self::Odd, Self::Other];

    /// The heading of its columns.
    pub fn title(self) -> &'static str {
        match self {
            Self::Without => "without ports",
            Self::Odd => "odd port",
            Self::Other => "others' ports",
        }
    }
}

/// Outcomes of streams on their own ports, and in each [`PortView`]. Streams without ports have outcomes only in the first and in
/// [`PortView::Without`]; hosts, which use many ports, likewise.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Outcomes of the streams as captured.
    pub outcomes: Vec<StreamOutcome>,
    /// Outcomes in each view; a view that the model does not admit is left out.
    pub on_ports: Vec<(PortView, Vec<StreamOutcome>)>,
}

impl Evaluation {
    /// Adds the outcomes of another evaluation.
    pub fn extend(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        for (view, outcomes) in other.on_ports {
            match self.on_ports.iter_mut().find(|(v, _)| *v == view) {
                Some((_, all)) => all.extend(outcomes),
                None => self.on_ports.push((view, outcomes)),
            }
        }
    }
}

/// A network and its decision, to be evaluated on the streams of a corpus.
pub struct EvaluatedNetwork<'a> {
    /// The labelled streams.
    pub corpus: &'a Corpus,
    /// The network.
    pub network: &'a Network,
    /// Its decision.
    pub decision: &'a Decision,
    /// Its classes.
    pub classes: &'a [String],
    /// Its layout; masked slots count as silent.
    pub layout: &'a Layout,
    /// Whether the model was trained on a label.
    pub known: &'a dyn Fn(&str) -> bool,
}

impl EvaluatedNetwork<'_> {
    /// Classifies the streams `which` as inference would.
    pub fn outcomes(&self, which: impl Iterator<Item = usize>) -> Vec<StreamOutcome> {
        let mut classifier = Classifier::new(self.network, self.decision, self.layout);
        let volleys = |i: usize| self.corpus.volleys_of(&self.corpus.streams[i]);
        which.map(|i| self.outcome(i, classifier.classify(volleys(i)))).collect()
    }

    /// Classifies the streams `which` as captured, and in every view if there are `variants`.
    pub fn evaluate(&self, which: &[usize], variants: Option<&PortVariants>) -> Evaluation {
        // Later packets of a stream are no streams of their own.
        let which: Vec<usize> = which.iter().copied().filter(|&i| !self.corpus.streams[i].later).collect();
        let mut evaluation = Evaluation { outcomes: self.outcomes(which.iter().copied()), on_ports: Vec::new() };
        if let Some(variants) = variants {
            let views = PortView::ALL.into_iter();
            evaluation.on_ports = views.filter_map(|view| Some((view, self.view(view, &which, variants)?))).collect();
        }
        evaluation
    }

    /// The outcomes in one view; `None` if the layout has no ports, or for hosts, whose ports are not replaced.
    fn view(&self, view: PortView, which: &[usize], variants: &PortVariants) -> Option<Vec<StreamOutcome>> {
        let replaced = |replace: &dyn Fn(usize) -> Option<Vec<Vec<u16>>>| {
            let mut classifier = Classifier::new(self.network, self.decision, self.layout);
            let outcome = |&i: &usize| {
                let volleys = replace(i)?;
                Some(self.outcome(i, classifier.classify(volleys.iter().map(Vec::as_slice))))
            };
            which.iter().filter_map(outcome).collect()
        };
        match view {
            PortView::Without => {
                let mut layout = self.layout.clone();
                layout.mask("ports").ok()?;
                Some(EvaluatedNetwork { layout: &layout, ..*self }.outcomes(which.iter().copied()))
            }
            PortView::Odd | PortView::Other if self.corpus.key == KeyKind::Host => None,
            PortView::Odd => Some(replaced(&|i| variants.odd(self.corpus, i))),
            PortView::Other => Some(replaced(&|i| variants.other(self.corpus, i))),
        }
    }

    pub(super) fn outcome(&self, stream: usize, leader: Option<Leader>) -> StreamOutcome {
        let (decision, stream) = (self.decision, &self.corpus.streams[stream]);
        let label = self.corpus.classes[stream.class.index()].clone();
        let class = leader.and_then(|l| decision.class(&l));
        StreamOutcome {
            known: (self.known)(&label),
            label,
            class: class.map(|c| self.classes[c.index()].clone()),
            best: leader.map(|l| self.classes[l.class.index()].clone()),
            confidence: leader.map_or(0.0, |l| decision.confidence(&l)),
            scored: leader.map_or(0, |l| l.packets()),
            capture: stream.capture,
            basis: class.and(leader).and_then(|l| decision.basis(&l)),
            reason: class.is_none().then(|| decision.unknown_reason(leader.as_ref())),
        }
    }
}
