//! The curator's gate: what a part does to the group's model, on the built-in reference and on labelled captures.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::evaluate::{Before, reference};
use crate::model::{Model, ModelError};
use crate::packet::KeyKind;
use crate::train::Corpus;

use super::parts::{PartEntry, PartName, ReferenceFigures, unpack};

/// Reads the labelled streams of the curator's captures for a model; `None`: there are none for its kind of stream.
pub type GatherReference = Box<dyn Fn(&Model) -> Result<Option<Corpus>, String> + Send + Sync>;

/// The gate, with the references that it has read.
pub struct PartGate {
    gather: GatherReference,
    /// The references of a model, by its name.
    references: Mutex<BTreeMap<String, Arc<Vec<Corpus>>>>,
}

/// A part that passed the gate.
pub struct PassedPart {
    /// The group's model with it.
    pub model: Model,
    /// Its figures.
    pub figures: ReferenceFigures,
}

impl PartGate {
    /// A gate with the built-in reference and the labelled streams that `gather` returns.
    pub fn new(gather: GatherReference) -> Self {
        Self { gather, references: Mutex::default() }
    }

    /// Tries a part on the group's model.
    ///
    /// # Errors
    /// Why it is refused: the file is not a part like this, does not fit the model, or does harm.
    pub fn try_part(&self, base: &Model, name: &PartName, message: &[u8]) -> Result<PassedPart, String> {
        let file = unpack(message).map_err(|error| format!("unreadable: {error}"))?;
        let part = read_part(name, &file)?;
        let model = base.with_part(&part).map_err(|error| error.to_string())?;
        // The figures are those of the part, also where the group's model already has the class.
        let bare =
            if base.classes.contains(&name.class) { base.without_classes(std::slice::from_ref(&name.class)).ok() } else { None };
        let bare = bare.as_ref().unwrap_or(base);
        let references = self.references(base)?;
        if references.is_empty() {
            return Err("there is no reference for models of hosts; give labelled captures".into());
        }
        let mut figures = ReferenceFigures::default();
        for corpus in references.iter() {
            let harm = Before::labelled(corpus, &[base]).harm(&model);
            if harm.is_harmful() {
                return Err(format!("harmful: {harm}"));
            }
            let before = Before::labelled(corpus, &[bare]);
            let (harm, (named, streams)) = (before.harm(&model), before.recognised(&model, &name.class));
            figures.claimed += harm.claims.get(&name.class).map_or(0, |claims| claims.values().sum());
            figures.others += harm.streams;
            figures.named += named;
            figures.streams += streams;
        }
        Ok(PassedPart { model, figures })
    }

    /// The references of a model: the built-in one for flows, and the labelled captures.
    fn references(&self, model: &Model) -> Result<Arc<Vec<Corpus>>, String> {
        let known = self.references.lock().get(&model.name).cloned();
        if let Some(known) = known.filter(|known| known.iter().all(|corpus| corpus.layout == model.layout)) {
            return Ok(known);
        }
        let built_in = (model.key == KeyKind::Flow).then(|| reference(&model.layout));
        let references = Arc::new(built_in.into_iter().chain((self.gather)(model)?).collect::<Vec<_>>());
        self.references.lock().insert(model.name.clone(), Arc::clone(&references));
        Ok(references)
    }
}

/// Reads the file of a part: one class, one neuron.
pub(super) fn read_part(name: &PartName, bytes: &[u8]) -> Result<Model, String> {
    let part = Model::from_bytes(bytes, Path::new(&name.class)).map_err(|error| match error {
        ModelError::Damaged { what, .. } => format!("unreadable: {what}"),
        error => format!("unreadable: {error}"),
    })?;
    if part.classes != [name.class.clone()] {
        return Err(format!("its class is '{}', not '{}' as its subject says", part.classes.join("', '"), name.class));
    }
    if !part.decision.assignments.is_one_each() || !part.episodes.is_empty() {
        return Err("it has more than one neuron".into());
    }
    Ok(part)
}

/// Whether a part is better than another of the same class: it names more of the class's streams in the reference; of equals, it claims fewer
/// of the others; of equals, its sensor states a higher accuracy.
pub fn is_better(part: &PartEntry, other: &PartEntry) -> bool {
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let key = |entry: &PartEntry| {
        let figures = entry.reference.clone().unwrap_or_default();
        [share(figures.named, figures.streams), -share(figures.claimed, figures.others), entry.figures.accuracy]
    };
    let (part, other) = (key(part), key(other));
    part.into_iter().zip(other).map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne()).is_some_and(std::cmp::Ordering::is_gt)
}

#[cfg(test)]
mod tests {
    use super::super::parts::{PartFigures, PartState, pack};
    use super::*;

    fn entry(named: usize, claimed: usize, accuracy: f64) -> PartEntry {
        PartEntry {
            state: PartState::Candidate,
            sha256: String::new(),
            tried: String::new(),
            figures: PartFigures { accuracy, ..PartFigures::default() },
            reference: Some(ReferenceFigures { claimed, others: 100, named, streams: 10 }),
            reason: None,
            version: None,
            message: None,
            votes: BTreeMap::new(),
        }
    }

    #[test]
    fn the_better_part_names_more_then_claims_fewer_then_is_more_accurate() {
        assert!(is_better(&entry(9, 3, 0.1), &entry(8, 0, 1.0)));
        assert!(is_better(&entry(9, 0, 0.1), &entry(9, 3, 1.0)));
        assert!(is_better(&entry(9, 3, 0.9), &entry(9, 3, 0.8)));
        assert!(!is_better(&entry(9, 3, 0.9), &entry(9, 3, 0.9)), "of equals the first stays");
    }

    #[test]
    fn a_part_that_claims_the_streams_of_another_class_is_refused() {
        let gate = PartGate::new(Box::new(|_| Ok(None)));
        let base = Model::built_in().unwrap();
        let others: Vec<String> = base.classes.iter().filter(|class| *class != "dns").cloned().collect();
        let base = base.without_classes(&["dns".into()]).unwrap();
        let mut part = Model::built_in().unwrap().without_classes(&others).unwrap();
        let name = |class: &str| PartName { sensor: "a".into(), model: base.name.clone(), class: class.into() };
        let passed =
            gate.try_part(&base, &name("dns"), &pack(&part.to_bytes()).unwrap()).map_err(|error| panic!("{error}")).unwrap();
        assert!(passed.figures.named > 0 && passed.figures.streams >= passed.figures.named, "{:?}", passed.figures);
        let reason =
            |part: &Model, class: &str| gate.try_part(&base, &name(class), &pack(&part.to_bytes()).unwrap()).err().unwrap();
        assert!(reason(&part, "ntp").contains("its class is 'dns'"));
        part.classes = vec!["greedy".into()];
        part.decision.theta = vec![-100.0];
        assert!(reason(&part, "greedy").starts_with("harmful: "), "{}", reason(&part, "greedy"));
        let mut bytes = part.to_bytes();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        for message in [pack(&bytes).unwrap(), bytes, pack(b"not a model").unwrap()] {
            assert!(gate.try_part(&base, &name("greedy"), &message).err().unwrap().starts_with("unreadable: "));
        }
    }
}
