//! What is to be said of one class? Its receptive field, its strongest fields, what carries it, what it is taken for.

use std::fmt::Write as _;

use crate::evaluate::{Contribution, Reliance};
use crate::model::Model;

use super::Measured;
use super::markup::{Text, name, percent};
use super::receptive::{Receptive, Strongest, reading};

/// Fields that a card lists.
const FIELDS: usize = 6;

/// All that the page says of one class.
pub struct Card<'a> {
    pub class: &'a str,
    pub number: usize,
    strongest: Vec<Strongest>,
    picture: String,
    carried: &'a [Contribution],
    reliance: Option<&'a Reliance>,
    /// The class most of its streams were taken for, and how many of how many.
    taken_for: Option<(&'a str, usize, usize)>,
    alike: Option<(&'a str, f64)>,
}

impl<'a> Card<'a> {
    pub fn new(
        model: &'a Model,
        receptive: &Receptive<'_>,
        measured: Option<&'a Measured>,
        alike: &[Option<(usize, f64)>],
        number: usize,
    ) -> Self {
        let class = model.classes[number].as_str();
        let weights = receptive.weights(number);
        let taken_for = measured.and_then(|m| {
            let streams = m.report.classes.iter().find(|c| c.class == class)?.streams;
            let (_, best, n) = m.report.confusions.iter().find(|c| c.0 == class)?;
            Some((best.as_str(), *n, streams))
        });
        Self {
            class,
            number,
            strongest: receptive.strongest(&weights),
            picture: receptive.draw(class, &weights),
            carried: measured.map_or(&[], |m| m.carried[number].as_slice()),
            reliance: measured.and_then(|m| m.reliance.iter().find(|r| r.class == class)),
            taken_for,
            alike: alike[number].map(|(other, cosine)| (model.classes[other].as_str(), cosine)),
        }
    }

    /// The class that it is nearest to, and how that is known.
    pub fn nearest(&self) -> String {
        let alike = self.alike.map(|(other, cosine)| format!("{} (alike {cosine:.2})", name(other)));
        match (self.taken_for, alike) {
            (Some((other, n, of)), _) => format!("{} ({n} of {of} streams taken for it)", name(other)),
            (None, Some(alike)) => alike,
            (None, None) => "–".into(),
        }
    }

    /// What one field's weights alone can do, where no streams said more.
    pub fn suspicion(&self) -> Option<String> {
        let s = self.strongest.first().filter(|s| s.weight >= 1.0 && self.reliance.is_none())?;
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
            let _ = write!(out, " <span class=\"warn\">⚠ Rests on {field} alone: without it {left:.0} % are known.</span>");
        }
        if self.suspicion().is_some() {
            out.push_str(" <span class=\"warn\">⚠ The first field below alone can make its neuron spike.</span>");
        }
        out.push_str("</p>\n");
        out.push_str(&self.picture);
        out.push_str(
            "<table><caption>Strongest weights, in per cent of the threshold</caption><thead><tr><th scope=\"col\">field</th>\
             <th scope=\"col\">value</th><th scope=\"col\" class=\"n\">excites %</th></tr></thead><tbody>\n",
        );
        for s in self.strongest.iter().take(FIELDS).filter(|s| s.weight > 0.0) {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td class=\"n\">{:.0}</td></tr>",
                Text(&s.field),
                Text(reading(&s.field, &s.values)),
                s.weight * 100.0
            );
        }
        out.push_str("</tbody></table>\n");
        if !self.carried.is_empty() {
            out.push_str(
                "<table><caption>What sets its own streams apart, a packet on average</caption><thead><tr><th scope=\"col\">field</th>\
                 <th scope=\"col\">values met</th><th scope=\"col\" class=\"n\">potential</th><th scope=\"col\" class=\"n\">lead</th></tr></thead><tbody>\n",
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
