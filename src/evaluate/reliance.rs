//! Which fields does each class rest on? Its streams are scored again with one field silent at a time.

use std::collections::BTreeMap;

use crate::encode::Layout;
use crate::model::Model;
use crate::train::Corpus;

use super::{Report, outcomes};

/// Fields that alone often tell a capture's streams apart, and yet say little about other captures.
const FIELDS: [&str; 8] = ["ip.ttl", "ipv6.hlim", "ports", "tcp.window", "payload", "options", "context", "length"];

/// From this recall on a class is known well enough to ask what it rests on,
const KNOWN: f64 = 0.8;
/// and below this share of it, it is known no more.
const LOST: f64 = 0.25;

/// How well the streams of one class are known: the share whose nearest class is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliance {
    pub class: String,
    pub recall: f64,
    /// The same with a field silent.
    pub without: Vec<(&'static str, f64)>,
}

impl Reliance {
    /// The fields without which the class is known no more, with what is left of its recall.
    pub fn alone(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let lost = |without: f64| self.recall >= KNOWN && without <= self.recall * LOST;
        self.without.iter().copied().filter(move |w| lost(w.1))
    }

    /// What a person should know of it.
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
        let said = outcomes(corpus, &model.network, &model.decision, &model.classes, layout, &known, all);
        Report::new(&said).classes.into_iter().map(|c| (c.class, c.recall)).collect()
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
