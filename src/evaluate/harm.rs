//! Harm that a change to a model does: streams of other classes that it claims, and streams that it no longer names.
//!
//! Input: the model before and after (`learn`, `train`, `model join`, `model retrain`) and streams whose class is known: those of the
//! built-in reference, or those of a capture as the model before names them. Output: [`Harm`], counts by class, and whether they are small
//! enough to write the model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::Model;
use crate::packet::KeyKind;
use crate::train::labels::StreamName;
use crate::train::{Corpus, LabelledStream};

use super::{outcomes, reference};

/// Largest share of the other classes' streams that a changed model may claim: one in two hundred, the false alarms of one packet at the
/// default tolerance (`benches/one_packet.rs`) and as much again.
pub const MAX_CLAIMED: f64 = 0.005;
/// Largest share of the streams named before that a changed model may leave unnamed. Joined models average their confidence, so they name
/// fewer than their parts.
pub const MAX_SILENCED: f64 = 0.5;
/// A class of at least this many streams named before may not lose all of them, nor more than half to other classes.
const STREAMS: usize = 4;
/// Entries of a list that are printed.
const LISTED: usize = 6;

/// Streams that a model named before it was changed.
pub struct Before<'a> {
    corpus: &'a Corpus,
    /// The class of each stream; `None` if any class may claim it.
    labels: Vec<Option<String>>,
    /// Names that the models before gave each stream.
    named: Vec<Vec<Option<String>>>,
}

/// What a changed model does to streams of known classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Harm {
    /// Streams of other classes than those that claim, whether claimed or not.
    pub streams: usize,
    /// Number of falsely claimed streams, by claiming class and by their own class.
    pub claims: BTreeMap<String, BTreeMap<String, usize>>,
    /// Number of streams named correctly before and after, for each class with fewer after.
    pub silenced: BTreeMap<String, (usize, usize)>,
    /// Number of streams named correctly before and after, of all classes.
    pub named: (usize, usize),
}

impl<'a> Before<'a> {
    /// The labelled streams of `corpus` as the models name them.
    pub fn labelled(corpus: &'a Corpus, models: &[&Model]) -> Self {
        let labels = corpus.streams.iter().map(|s| Some(corpus.classes[s.class.index()].clone())).collect();
        Self { corpus, labels, named: models.iter().map(|model| names(model, corpus)).collect() }
    }

    /// The streams of a capture without labels, each with the class that the model gives it. Any class may claim unknown streams, and those
    /// of the classes that the model gives the streams `shown`: what the new class is taught was named so by mistake.
    pub fn unlabelled(corpus: &'a Corpus, model: &Model, shown: impl Fn(&StreamName) -> bool) -> Self {
        let named = names(model, corpus);
        let streams = corpus.streams.iter().zip(&named);
        let mistaken: BTreeSet<&String> = streams.filter(|(s, _)| shown(&s.name)).filter_map(|(_, name)| name.as_ref()).collect();
        let labels = named.iter().map(|name| name.clone().filter(|name| !mistaken.contains(name))).collect();
        Self { corpus, labels, named: vec![named] }
    }

    /// Number of streams that the changed model gives `class`, which no model before gave them.
    pub fn found(&self, after: &Model, class: &str) -> usize {
        let now = names(after, self.corpus);
        let new =
            |(i, name): &(usize, &Option<String>)| name.as_deref() == Some(class) && self.named.iter().all(|n| n[*i] != **name);
        now.iter().enumerate().filter(new).count()
    }

    /// Number of streams labelled `class` that the changed model gives that class, and of all streams with that label.
    pub fn recognised(&self, after: &Model, class: &str) -> (usize, usize) {
        if self.labels.iter().flatten().all(|label| label != class) {
            return (0, 0);
        }
        let now = names(after, self.corpus);
        let own = self.labels.iter().zip(&now).filter(|(label, _)| label.as_deref() == Some(class));
        own.fold((0, 0), |(named, all), (_, now)| (named + usize::from(now.as_deref() == Some(class)), all + 1))
    }

    /// The harm of a changed model.
    pub fn harm(&self, after: &Model) -> Harm {
        let (mut harm, mut by_class) = (Harm::default(), BTreeMap::<&str, (usize, usize)>::new());
        let mut claimants: Vec<&str> = Vec::new();
        let now = names(after, self.corpus);
        for (i, (label, now)) in self.labels.iter().zip(&now).enumerate() {
            let Some(label) = label else { continue };
            let was_right = self.named.iter().any(|named| named[i].as_ref() == Some(label));
            let is_right = now.as_ref() == Some(label);
            let count = by_class.entry(label).or_default();
            *count = (count.0 + usize::from(was_right), count.1 + usize::from(is_right));
            harm.named = (harm.named.0 + usize::from(was_right), harm.named.1 + usize::from(is_right));
            let Some(claimant) = now.as_ref().filter(|_| !is_right) else { continue };
            // Calibrating joined models anew also changes what they say of classes that neither knows; that is not harm to the other part.
            let is_joined = self.named.len() > 1;
            if was_right || (!is_joined && self.named.iter().all(|named| named[i].as_ref() != Some(claimant))) {
                *harm.claims.entry(claimant.clone()).or_default().entry(label.clone()).or_default() += 1;
                claimants.push(claimant);
            }
        }
        harm.streams = self.labels.iter().flatten().filter(|label| claimants.first().is_none_or(|c| c != label)).count();
        let fewer = by_class.into_iter().filter(|(_, (before, after))| after < before);
        harm.silenced = fewer.map(|(class, counts)| (class.to_string(), counts)).collect();
        harm
    }
}

/// The harm of a changed model on the built-in reference, `before` being the models that it was made of; `None` for a model of hosts, of
/// which the program has no reference.
pub fn harm_on_reference(before: &[&Model], after: &Model) -> Option<Harm> {
    (after.key == KeyKind::Flow).then(|| Before::labelled(&reference(&after.layout), before).harm(after))
}

/// The class that a model gives each stream of a corpus.
fn names(model: &Model, corpus: &Corpus) -> Vec<Option<String>> {
    names_of(model, corpus, |_| true)
}

/// The class that a model gives each of the streams of a corpus that `which` chooses; `None` for unknown.
pub fn names_of(model: &Model, corpus: &Corpus, which: impl Fn(&LabelledStream) -> bool) -> Vec<Option<String>> {
    let chosen = (0..corpus.streams.len()).filter(|&i| which(&corpus.streams[i]));
    let outcomes = outcomes(corpus, &model.network, &model.decision, &model.classes, &model.layout, &|_| true, chosen);
    outcomes.into_iter().map(|outcome| outcome.class).collect()
}

impl Harm {
    /// Number of streams claimed falsely.
    pub fn claimed(&self) -> usize {
        self.claims.values().flat_map(BTreeMap::values).sum()
    }

    /// Whether the changed model claims or silences too many streams.
    pub fn is_harmful(&self) -> bool {
        let (before, after) = self.named;
        let claimed = |class: &str| -> usize { self.claims.values().filter_map(|claims| claims.get(class)).sum() };
        let lost = |(class, &(before, after)): (&String, &(usize, usize))| {
            before >= STREAMS && (after == 0 || claimed(class) * 2 > before)
        };
        self.claimed() as f64 > MAX_CLAIMED * self.streams as f64
            || (before - after.min(before)) as f64 > MAX_SILENCED * before as f64
            || self.silenced.iter().any(lost)
    }

    /// The only class of which `class` claims streams.
    pub fn twin(&self, class: &str) -> Option<&str> {
        let claims = self.claims.get(class)?;
        let mut classes = claims.iter();
        match (classes.next(), classes.next()) {
            (Some((twin, _)), None) => Some(twin),
            _ => None,
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.claims.len() > 1;
        let mut claims: Vec<_> =
            self.claims.iter().map(|(class, claims)| (class, claims.values().sum::<usize>(), claims)).collect();
        claims.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        for (i, (claimant, count, claims)) in claims.iter().take(LISTED).enumerate() {
            let who = if several { format!("{claimant} ") } else { String::new() };
            let mut of: Vec<_> = claims.iter().collect();
            of.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let list: Vec<String> = of.iter().take(LISTED).map(|(class, n)| format!("{class} {n}")).collect();
            let rest = if of.len() > LISTED { ", ..." } else { "" };
            let separator = if i > 0 { "; " } else { "" };
            write!(f, "{separator}{who}claims {count} of {} streams of other classes: {}{rest}", self.streams, list.join(", "))?;
        }
        let mut silenced: Vec<_> = self.silenced.iter().collect();
        silenced.sort_by_key(|(_, (before, after))| std::cmp::Reverse(before - after));
        if silenced.is_empty() {
            return if claims.is_empty() { write!(f, "claims 0 of {} streams of other classes", self.streams) } else { Ok(()) };
        }
        let list: Vec<String> =
            silenced.iter().take(LISTED).map(|(class, (before, after))| format!("{class} {before} -> {after}")).collect();
        let rest = if silenced.len() > LISTED { ", ..." } else { "" };
        let separator = if claims.is_empty() { "" } else { "; " };
        write!(f, "{separator}streams named correctly: {}{rest}", list.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_does_itself_no_harm_and_one_without_classes_silences_them() {
        let model = Model::built_in().unwrap();
        let corpus = reference(&model.layout);
        let before = Before::labelled(&corpus, &[&model]);
        let same = before.harm(&model);
        assert!(!same.is_harmful() && same.silenced.is_empty(), "{same}");
        assert_eq!(same.claimed(), 0, "what the model named wrongly before is not its harm now: {same}");
        let without = model.without_classes(&["dns".into()]).unwrap();
        let harm = before.harm(&without);
        assert!(harm.is_harmful() && harm.silenced["dns"].1 == 0, "{harm}");
        let renamed = Model {
            classes: model.classes.iter().map(|c| if c == "dns" { "names".into() } else { c.clone() }).collect(),
            ..model
        };
        let harm = before.harm(&renamed);
        assert!(harm.is_harmful() && harm.twin("names") == Some("dns"), "{harm}");
        assert!(harm.to_string().starts_with("claims "), "{harm}");
    }
}
