//! Report of a model as one self-contained page: figures, curves, tables, receptive fields, a spike raster, episodes.
//!
//! Input: a model, optionally with measurements. Output: HTML with its style and pictures embedded, and without scripts. All untrusted text
//! is escaped by `markup`.

mod card;
mod chart;
mod confusable;
mod episodes;
mod markup;
mod raster;
mod receptive;
mod sections;
mod tables;

pub use raster::Raster;

use std::fmt::Write as _;

use crate::encode::Volley;
use crate::evaluate::{self, Contribution, EvaluatedNetwork, LearningPoint, Reliance, Report, StreamOutcome};
use crate::model::Model;
use crate::packet::KeyKind;
use crate::snn::ClassId;
use crate::train::{Corpus, PortVariants};

use card::Card;
use confusable::nearest_by_weight;
use markup::{Text, name, thousands};
use receptive::ReceptiveFields;

const STYLE: &str = include_str!("style.css");

/// Measurements of the model on labelled captures.
pub struct Measurements {
    /// Names of the label files.
    pub labels: Vec<String>,
    /// Number of captures.
    pub captures: usize,
    /// Outcomes of the streams.
    pub outcomes: Vec<StreamOutcome>,
    /// Figures of the evaluation.
    pub report: Report,
    /// Recall of each class without each group of fields.
    pub reliance: Vec<Reliance>,
    /// For each class of the model the contributions of fields, relative to the class that it is confused with most.
    pub carried: Vec<Vec<Contribution>>,
    /// Points of the learning curve.
    pub learning: Vec<LearningPoint>,
    /// Seed of the bootstrap.
    pub seed: u64,
}

/// Largest number of packets of a class from which contributions are computed.
const SAMPLE: usize = 400;

impl Measurements {
    /// Classifies a corpus of labelled streams as inference would.
    pub fn new(model: &Model, corpus: &Corpus, labels: Vec<String>, learning: Vec<LearningPoint>, seed: u64) -> Self {
        let known = |label: &str| model.classes.iter().any(|c| c == label);
        let all: Vec<usize> = (0..corpus.streams.len()).collect();
        let Model { network, decision, classes, layout, .. } = model;
        let by = EvaluatedNetwork { corpus, network, decision, classes, layout, known: &known };
        let evaluation = by.evaluate(&all, Some(&PortVariants::new(corpus, seed)));
        let report = Report::of(&evaluation);
        let outcomes = evaluation.outcomes;
        let alike = nearest_by_weight(model);
        let place = |name: &str| model.classes.iter().position(|c| c == name).map(ClassId::from_index);
        let carried = |class: ClassId| {
            let name = &model.classes[class.index()];
            let taken = report.confusions.iter().find(|c| c.0 == *name).and_then(|c| place(&c.1));
            let rival = taken.or(alike[class.index()].map(|a| a.0));
            let volleys = volleys_of(corpus, name);
            if volleys.is_empty() { Vec::new() } else { evaluate::contributions(model, volleys.iter(), class, rival) }
        };
        Self {
            labels,
            captures: corpus.captures.len(),
            reliance: evaluate::reliance(corpus, model),
            carried: ClassId::first(model.classes.len()).map(carried).collect(),
            outcomes,
            report,
            learning,
            seed,
        }
    }
}

/// At most [`SAMPLE`] volleys of a class, evenly spaced over its streams.
fn volleys_of(corpus: &Corpus, class: &str) -> Vec<Volley> {
    let own = corpus.streams.iter().filter(|s| corpus.classes[s.class.index()] == class);
    let all: Vec<usize> = own.flat_map(|s| s.first..s.first + s.kept).collect();
    let sampled = all.iter().step_by(all.len().div_ceil(SAMPLE).max(1));
    let volley = |&at: &usize| {
        let mut volley = Volley::default();
        let slots = corpus.volley(at);
        volley.slots[..slots.len()].copy_from_slice(slots);
        volley
    };
    sampled.map(volley).collect()
}

/// The page as HTML.
pub fn page(model: &Model, measured: Option<&Measurements>, raster: Option<&Raster<'_>>) -> String {
    let alike = nearest_by_weight(model);
    let receptive = ReceptiveFields::new(model);
    let cards: Vec<Card> =
        ClassId::first(model.classes.len()).map(|c| Card::new(model, &receptive, measured, &alike, c)).collect();
    let mut sections: Vec<(&str, &str, String)> = Vec::new();
    let mut add = |id, title, body: String| {
        if !body.is_empty() {
            sections.push((id, title, body));
        }
    };
    match measured {
        Some(m) => add("figures", "Figures", sections::figures(m)),
        None => add("figures", "The model", sections::model_alone(model)),
    }
    add("warnings", "Warnings", sections::warnings(model, measured, &cards));
    if let Some(m) = measured {
        add("curves", "Curves", sections::curves(m));
        add("confusions", "Confusions", sections::confusions(m));
        add("ports", "Other ports", sections::on_ports(m));
        add("basis", "Basis and reason", sections::basis(m));
    }
    add("classes", "Classes", sections::classes(model, measured, &cards));
    if let Some(m) = measured {
        add("reliance", "Reliance on single fields", tables::reliance(&m.reliance));
    }
    if let Some(r) = raster {
        add("raster", "Spike raster", sections::raster(r));
        if let Some(trace) = r.episodes {
            add("episodes", "Episodes", episodes::section(model, &r.capture, trace));
        }
    }
    add("fields", "Receptive fields", sections::fields(&cards));
    add("how", "How to read this page", sections::how(measured));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{} – spiked report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n{}",
        Text(&model.name),
        lead(model)
    );
    out.push_str("<nav aria-label=\"Sections\"><ul>");
    for (id, title, _) in &sections {
        let _ = write!(out, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    out.push_str("</ul></nav>\n</header>\n<main>\n");
    for (id, title, body) in &sections {
        let _ = writeln!(out, "<section id=\"{id}\">\n<h2>{title}</h2>\n{body}</section>");
    }
    out + "</main>\n</body>\n</html>\n"
}

/// The name of the model and its provenance.
fn lead(model: &Model) -> String {
    let p = &model.provenance;
    let (streams, packets) = (p.streams.iter().sum(), p.packets.iter().sum());
    let labels: Vec<String> = p.labels.iter().map(|l| name(l)).collect();
    format!(
        "<h1>{}</h1>\n<p class=\"sub\">A spiking neural network that knows {} classes of {}: {} input neurons, {} slots of the header, \
         {} coincidences. Trained on {} packets of {} streams in {} captures ({}), with spiked {}, seed {}.</p>\n",
        name(&model.name),
        model.classes.len(),
        if model.key == KeyKind::Host { "hosts" } else { "flows" },
        thousands(model.network.inputs() as u64),
        model.layout.slots().len(),
        model.layout.coincidences().len(),
        thousands(packets),
        thousands(streams),
        thousands(p.captures as u64),
        if labels.is_empty() { "label files unknown".into() } else { labels.join(", ") },
        Text(&p.trained_with),
        p.seed
    )
}
