//! Reliance of classes on single fields: recall with one field silent at a time.

use std::collections::BTreeMap;

use crate::encode::Layout;
use crate::model::Model;
use crate::train::Corpus;

use super::{Report, outcomes};

/// Fields that often identify the streams of one capture by themselves, but not those of other captures.
const FIELDS: [&str; 8] = ["ip.ttl", "ipv6.hlim", "ports", "tcp.window", "payload", "options", "context", "length"];

/// Smallest recall of a class for which reliance is assessed.
const KNOWN: f64 = 0.8;
/// A class relies on a field if its recall without the field is at most this share of its recall.
const LOST: f64 = 0.25;

/// Recall of one class by the nearest class, 0 to 1, as it is and with single fields silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliance {
    /// Name of the class.
    pub class: String,
    /// Recall of the class with all fields, 0 to 1.
    pub recall: f64,
    /// The recall with each field silent.
    pub without: Vec<(&'static str, f64)>,
}

impl Reliance {
    /// The fields that the class relies on, with the recall that is left without each.
    pub fn alone(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let lost = |without: f64| self.recall >= KNOWN && without <= self.recall * LOST;
        self.without.iter().copied().filter(move |w| lost(w.1))
    }

    /// Warnings for the user, one per field that the class relies on.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.alone().map(|(field, without)| {
            let left = without * 100.0;
            format!("{}: rests on {field} alone (with it silent {left:.0} % of its streams are known)", self.class)
        })
    }
}

/// The reliance of each class that has streams in the corpus and is known to the model.
pub fn reliance(corpus: &Corpus, model: &Model) -> Vec<Reliance> {
    let recalls = |layout: &Layout| -> BTreeMap<String, f64> {
        let known = |label: &str| model.classes.iter().any(|c| c == label);
        let all = (0..corpus.streams.len()).filter(|&i| !corpus.streams[i].reference);
        let scored = outcomes(corpus, &model.network, &model.decision, &model.classes, layout, &known, all);
        Report::new(&scored).classes.into_iter().map(|c| (c.class, c.recall)).collect()
    };
    let whole = recalls(&model.layout);
    let mut all: Vec<_> = whole.into_iter().map(|(class, recall)| Reliance { class, recall, without: Vec::new() }).collect();
    for field in FIELDS {
        let mut layout = model.layout.clone();
        if layout.mask(field).is_err() {
            continue;
        }
        let without = recalls(&layout);
        for class in &mut all {
            class.without.push((field, without.get(&class.class).copied().unwrap_or(0.0)));
        }
    }
    all
}
