//! Card of one class: receptive fields, strongest weights, contributions of fields, the class it is most easily confused with.

use std::fmt::Write as _;

use crate::evaluate::{Contribution, Reliance};
use crate::model::Model;
use crate::packet::KeyKind;
use crate::snn::ClassId;

use super::Measurements;
use super::markup::{Text, name, percent};
use super::receptive::{ReceptiveFields, Strongest, reading};

/// Largest number of fields listed in a card.
const FIELDS: usize = 6;

/// Headings of the neurons of a class that has two.
fn directions(key: KeyKind) -> [&'static str; 2] {
    match key {
        KeyKind::Flow => ["What its streams' first sender sends", "What comes back"],
        KeyKind::Host => ["What its hosts send", "What they receive"],
    }
}

/// The content of one card.
pub struct Card<'a> {
    pub class: &'a str,
    pub number: ClassId,
    /// For each of its neurons the heading, the strongest fields and the picture.
    neurons: Vec<(&'a str, Vec<Strongest>, String)>,
    carried: Vec<Contribution>,
    reliance: Option<&'a Reliance>,
    /// The class that most of its misclassified streams were nearest to, their number, and the number of streams of this class.
    taken_for: Option<(&'a str, usize, usize)>,
    alike: Option<(&'a str, f64)>,
}

impl<'a> Card<'a> {
    pub fn new(
        model: &'a Model,
        receptive: &ReceptiveFields<'_>,
        measured: Option<&'a Measurements>,
        alike: &[Option<(ClassId, f64)>],
        number: ClassId,
    ) -> Self {
        let class = model.classes[number.index()].as_str();
        let neuron = |(neuron, stands_for)| {
            let weights = receptive.weights(neuron);
            (stands_for, receptive.strongest(&weights), receptive.draw(class, &weights))
        };
        let taken_for = measured.and_then(|m| {
            let streams = m.report.classes.iter().find(|c| c.class == class)?.streams;
            let (_, best, n) = m.report.confusions.iter().find(|c| c.0 == class)?;
            Some((best.as_str(), *n, streams))
        });
        Self {
            class,
            number,
            neurons: model.decision.assignments.neurons_of(number).zip(directions(model.key)).map(neuron).collect(),
            carried: measured.map_or(Vec::new(), |m| by_field(receptive, &m.carried[number.index()])),
            reliance: measured.and_then(|m| m.reliance.iter().find(|r| r.class == class)),
            taken_for,
            alike: alike[number.index()].map(|(other, cosine)| (model.classes[other.index()].as_str(), cosine)),
        }
    }

    /// The class that it is most easily confused with, and the evidence for it.
    pub fn nearest(&self) -> String {
        let alike = self.alike.map(|(other, cosine)| format!("{} (alike {cosine:.2})", name(other)));
        match (self.taken_for, alike) {
            (Some((other, n, of)), _) => format!("{} ({n} of {of} streams taken for it)", name(other)),
            (None, Some(alike)) => alike,
            (None, None) => "–".into(),
        }
    }

    /// The field whose weights alone can make a neuron spike, if there is one and reliance was not measured.
    pub fn suspicion(&self) -> Option<String> {
        let first = self.neurons.iter().filter_map(|(_, strongest, _)| strongest.first());
        let s = first.max_by(|a, b| a.weight.total_cmp(&b.weight)).filter(|s| s.weight >= 1.0 && self.reliance.is_none())?;
        Some(format!("{} ({} = {})", name(self.class), Text(&s.field), Text(reading(&s.field, &s.values))))
    }

    pub fn draw(&self) -> String {
        let mut out = format!("<article class=\"card\" id=\"c{}\">\n<h3>{}</h3>\n<p>", self.number, name(self.class));
        if let Some(r) = self.reliance {
            let _ = write!(out, "{} % of its streams right. ", percent(r.recall));
        }
        let _ = write!(out, "Most easily confused with {}.", self.nearest());
        for (field, left) in self.reliance.into_iter().flat_map(Reliance::alone) {
            let (field, left) = (Text(field), left * 100.0);
            let _ = write!(out, " <span class=\"warn\">⚠ Relies on {field} alone: without it {left:.0} % are right.</span>");
        }
        if self.suspicion().is_some() {
            out.push_str(" <span class=\"warn\">⚠ The first field below alone can make its neuron spike.</span>");
        }
        out.push_str("</p>\n");
        for (stands_for, strongest, picture) in &self.neurons {
            if self.neurons.len() > 1 {
                let _ = writeln!(out, "<h4>{stands_for}</h4>");
            }
            out.push_str(picture);
            out.push_str(
                "<table><caption>Strongest weights, in per cent of the threshold</caption><thead><tr><th scope=\"col\">field</th>\
                 <th scope=\"col\">value</th><th scope=\"col\" class=\"n\">excites %</th></tr></thead><tbody>\n",
            );
            for s in strongest.iter().take(FIELDS).filter(|s| s.weight > 0.0) {
                let _ = writeln!(
                    out,
                    "<tr><td>{}</td><td>{}</td><td class=\"n\">{:.0}</td></tr>",
                    Text(&s.field),
                    Text(reading(&s.field, &s.values)),
                    s.weight * 100.0
                );
            }
            out.push_str("</tbody></table>\n");
        }
        if !self.carried.is_empty() {
            out.push_str(
                "<table><caption>What distinguishes its streams, mean per packet</caption><thead><tr><th scope=\"col\">field</th>\
                 <th scope=\"col\">values</th><th scope=\"col\" class=\"n\">potential</th><th scope=\"col\" class=\"n\">lead</th></tr></thead><tbody>\n",
            );
            for c in self.carried.iter().take(FIELDS) {
                let _ = writeln!(
                    out,
                    "<tr><td>{}</td><td>{}{}</td><td class=\"n\">{:+.2}</td><td class=\"n\">{:+.2}</td></tr>",
                    Text(&c.name),
                    Text(c.values.join(" ")),
                    if c.more { " …" } else { "" },
                    c.potential,
                    c.lead
                );
            }
            out.push_str("</tbody></table>\n");
        }
        out + "</article>\n"
    }
}

/// Contributions with those of the bytes of one number, and of their coincidence, added up under the name of the field.
fn by_field(receptive: &ReceptiveFields<'_>, parts: &[Contribution]) -> Vec<Contribution> {
    let number = |slot: &str| {
        let field = slot.split('[').next().unwrap_or(slot);
        receptive.fields.iter().find(|f| f.name == field && f.slots.len() == 2).map_or(slot, |f| f.name.as_str()).to_string()
    };
    let mut all: Vec<Contribution> = Vec::new();
    for part in parts {
        let names: Vec<String> = part.name.split(" & ").map(number).collect();
        let both = names.len() == 2 && names[0] == names[1];
        let name = if both { names[0].clone() } else { names.join(" & ") };
        let at = all.iter().position(|c| c.name == name).unwrap_or_else(|| {
            let empty = Contribution { name: name.clone(), values: Vec::new(), more: false, potential: 0.0, lead: 0.0 };
            all.push(empty);
            all.len() - 1
        });
        let of = &mut all[at];
        of.potential += part.potential;
        of.lead += part.lead;
        // The values come from the coincidence of both bytes: a single byte does not identify a number.
        if names.len() == 2 || name == part.name {
            let read = |value: &String| {
                let bytes: Option<Vec<u8>> = value.split('&').map(|v| v.parse().ok()).collect();
                bytes.filter(|_| both || names.len() == 1).map_or_else(|| value.clone(), |bytes| reading(&name, &bytes))
            };
            of.values = part.values.iter().map(read).collect();
            of.more = part.more;
        }
    }
    all.sort_by(|a, b| b.lead.abs().total_cmp(&a.lead.abs()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_number_count_together() {
        let model = Model::built_in().unwrap();
        let part = |name: &str, value: &str, lead: f32| {
            let values = vec![value.to_string()];
            Contribution { name: name.into(), values, more: false, potential: lead, lead }
        };
        let parts = [
            part("tcp.dstport[0]", "1", 0.25),
            part("ip.ttl", "64", 0.75),
            part("tcp.dstport[0] & tcp.dstport[1]", "1&187", 0.5),
            part("payload[0]", "22", 0.125),
            part("ip.proto & ip.ttl", "6&64", -0.25),
            part("tcp.dstport[1]", "187", 0.25),
        ];
        let got: Vec<(String, String, f32)> =
            by_field(&ReceptiveFields::new(&model), &parts).into_iter().map(|c| (c.name, c.values.join(" "), c.lead)).collect();
        let want = [
            ("tcp.dstport", "443", 1.0),
            ("ip.ttl", "64", 0.75),
            ("ip.proto & ip.ttl", "6&64", -0.25),
            ("payload[0]", "22", 0.125),
        ];
        assert_eq!(got, want.map(|(name, value, lead)| (name.to_string(), value.to_string(), lead)));
    }
}
