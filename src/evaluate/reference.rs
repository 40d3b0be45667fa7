//! The reference built into the program: a few streams of each class of the protocols model, and of the fixtures' scans and floods.
//!
//! Input: a layout. Output: a corpus of labelled streams, against which [`super::Harm`] checks changed models. `config/models/retrain.sh`
//! makes the file, a table of slot values without addresses.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::encode::{Layout, SILENT};
use crate::packet::KeyKind;
use crate::snn::ClassId;
use crate::train::Corpus;

/// Gzip-compressed CSV with a row per packet: the stream's number, its class, and one column per slot, empty where the slot is silent.
const REFERENCE: &[u8] = include_bytes!("../../config/models/reference.csv.gz");

/// The streams of the built-in reference, encoded for `layout`. Slots that the reference lacks, such as payload beyond its eight bytes, are
/// silent.
///
/// # Panics
/// If the program was built with a damaged reference.
pub fn reference(layout: &Layout) -> Corpus {
    let mut text = String::new();
    GzDecoder::new(REFERENCE).read_to_string(&mut text).expect("the reference is UTF-8 in gzip");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').skip(2).collect();
    let place = |slot: &str| layout.slots().iter().position(|s| s.name == slot);
    let places: Vec<Option<usize>> = header.into_iter().map(place).collect();
    let mut corpus = Corpus::new(KeyKind::Flow, layout.clone(), Vec::new());
    let (mut stream, mut open) = ("", None);
    let mut slots: Vec<u16> = Vec::new();
    for line in lines {
        let mut fields = line.split(',');
        let (number, class) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if number != stream {
            close(&mut corpus, open, &mut slots);
            (stream, open) = (number, Some(class_of(&mut corpus, class)));
        }
        let first = slots.len();
        slots.resize(first + layout.slots().len(), SILENT);
        for (place, value) in places.iter().zip(fields) {
            if let (Some(place), Ok(value)) = (place, value.parse()) {
                slots[first + place] = value;
            }
        }
        layout.apply_mask(&mut slots[first..]);
    }
    close(&mut corpus, open, &mut slots);
    corpus
}

fn class_of(corpus: &mut Corpus, class: &str) -> ClassId {
    let at = corpus.classes.iter().position(|c| c == class).unwrap_or(corpus.classes.len());
    if at == corpus.classes.len() {
        corpus.classes.push(class.into());
    }
    ClassId::from_index(at)
}

/// Adds the stream whose packets were read, if any.
fn close(corpus: &mut Corpus, class: Option<ClassId>, slots: &mut Vec<u16>) {
    if let Some(class) = class {
        corpus.push(class, slots);
        slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Report, outcomes};
    use crate::model::Model;

    #[test]
    fn the_reference_has_streams_of_every_class_which_the_built_in_model_names() {
        let model = Model::built_in().unwrap();
        let corpus = reference(&model.layout);
        assert!(model.classes.iter().all(|class| corpus.classes.contains(class)));
        let known = |label: &str| model.classes.iter().any(|c| c == label);
        let all = 0..corpus.streams.len();
        let outcomes = outcomes(&corpus, &model.network, &model.decision, &model.classes, &model.layout, &known, all);
        let report = Report::new(&outcomes);
        assert!(corpus.streams.len() > 1_000 && report.recall > 0.85, "{} of {}", report.recall, corpus.streams.len());
    }
}
