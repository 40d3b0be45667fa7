//! Scoring of packets: from active inputs to potentials, margins and the leader of a stream.

use std::sync::Arc;

use crate::encode::ActiveInputs;
use crate::model::Model;
use crate::snn::Potentials;
use crate::stream::{CandidateScorer, Leader};

use super::SpikeCounts;

/// A model with buffers that are reused for each packet.
pub(super) struct EvidenceScorer {
    model: Arc<Model>,
    buffers: Buffers,
    /// Spikes of each neuron since they were last taken; `None` if they are not counted.
    spikes: Option<Vec<u64>>,
}

enum Buffers {
    /// All neurons are computed for each packet.
    All(Potentials),
    /// Those of classes that may lead.
    Candidates(Box<CandidateScorer>),
}

impl EvidenceScorer {
    /// A scorer of a model, with or without counts of spikes.
    pub fn new(model: Arc<Model>, counts_spikes: bool) -> Self {
        let candidates = CandidateScorer::new(&model.network, &model.decision).map(Box::new);
        let buffers = candidates.map_or_else(|| Buffers::All(model.network.buffer()), Buffers::Candidates);
        let spikes = counts_spikes.then(|| vec![0; model.network.neurons()]);
        Self { model, buffers, spikes }
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub fn counts_spikes(&self) -> bool {
        self.spikes.is_some()
    }

    /// Length of the evidence of a stream.
    pub fn width(&self) -> usize {
        match &self.buffers {
            Buffers::All(_) => self.model.classes.len(),
            Buffers::Candidates(candidates) => candidates.width(),
        }
    }

    /// Whether evidence that this scorer accumulated can be continued with another model: the same numbers are of the same classes.
    pub fn has_evidence_of(&self, model: &Model) -> bool {
        self.model.classes == model.classes && self.model.network.has_places_of(&model.network)
    }

    /// Adds a packet to the evidence of its stream, whose leader so far is `before`, and counts the neurons that spike. Returns the new leader.
    pub fn add(&mut self, active: &ActiveInputs, evidence: &mut [f32], before: Option<Leader>) -> Option<Leader> {
        let Model { network, decision, .. } = &*self.model;
        let (leader, potential) = match &mut self.buffers {
            Buffers::All(potentials) => {
                network.potentials(active.all(), potentials);
                if let Some(spikes) = &mut self.spikes {
                    decision.count_spikes(network, potentials, spikes);
                }
                let leader = decision.accumulate(network, potentials, evidence, before.as_ref(), active.has_content())?;
                let neuron = decision.assignments.first_of(leader.class).index();
                (leader, f32::from(potentials[neuron]) * network.scale()[neuron])
            }
            Buffers::Candidates(candidates) => {
                candidates.accumulate(network, decision, active, self.spikes.as_mut(), evidence, before.as_ref())?
            }
        };
        Some(decision.with_parts(leader, before.as_ref(), network, potential, active))
    }

    /// The spikes since the last call, by class; `None` if there were none.
    pub fn take_spikes(&mut self) -> Option<SpikeCounts> {
        let spikes = self.spikes.as_mut().filter(|counts| counts.iter().any(|&n| n > 0))?;
        let neurons = std::mem::replace(spikes, vec![0; self.model.network.neurons()]);
        let mut counts = vec![0; self.model.classes.len()];
        let classes = self.model.decision.assignments.classes_of_neurons();
        classes.iter().zip(neurons).for_each(|(class, n)| counts[class.index()] += n);
        Some(SpikeCounts { model: Arc::clone(&self.model), counts })
    }
}
