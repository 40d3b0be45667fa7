//! Tables of the page: classes, reliance on fields, confusions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::evaluate::{ClassReport, NamedBy, PortReport, Reliance, Report, StreamOutcome};

use super::markup::{Text, name, percent};

/// Largest number of classes in the confusion matrix.
const CONFUSED: usize = 30;

/// A table cell with a share as a number over a bar.
pub fn bar(share: f64) -> String {
    format!("<td class=\"n b\" style=\"--p:{:.0}%\">{}</td>", (share * 100.0).clamp(0.0, 100.0), percent(share))
}

/// The confusion matrix: labels in rows, nearest classes in columns. Classes that are not confused are left out.
pub fn confusion_matrix(report: &Report, outcomes: &[StreamOutcome]) -> String {
    let mut weight: BTreeMap<&str, usize> = BTreeMap::new();
    for (truth, best, n) in &report.confusions {
        *weight.entry(truth).or_default() += n;
        *weight.entry(best).or_default() += n;
    }
    if weight.is_empty() {
        return "<p>The nearest class of every stream is right.</p>\n".into();
    }
    let mut order: Vec<(&str, usize)> = weight.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let all = order.len();
    let shown: BTreeSet<&str> = order.into_iter().take(CONFUSED).map(|c| c.0).collect();
    let mut cells: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for o in outcomes.iter().filter(|o| o.known) {
        *cells.entry((&o.label, o.best.as_deref().unwrap_or("(none)"))).or_default() += 1;
    }
    let mut out = String::from(
        "<p class=\"note\">Streams by their label (rows) and their nearest class (columns); blue is right, orange wrong.</p>\n\
         <div class=\"wide\" role=\"region\" aria-label=\"Confusion matrix\" tabindex=\"0\"><table class=\"matrix\" aria-label=\"Confusion matrix\">\n\
         <thead><tr><th scope=\"col\">label</th>",
    );
    for column in &shown {
        let _ = write!(out, "<th scope=\"col\" class=\"up\"><span>{}</span></th>", name(column));
    }
    out.push_str("<th scope=\"col\" class=\"up\"><span>streams</span></th></tr></thead>\n<tbody>\n");
    let streams: BTreeMap<&str, usize> = report.classes.iter().map(|c| (c.class.as_str(), c.streams)).collect();
    for row in shown.iter().filter(|row| streams.contains_key(**row)) {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", name(row));
        let total = streams[row];
        for column in &shown {
            let n = cells.get(&(row, column)).copied().unwrap_or(0);
            let level = (n as f64 / total as f64 * 5.0).ceil() as usize;
            let kind = if row == column { "e" } else { "i" };
            match n {
                0 => out.push_str("<td></td>"),
                n => _ = write!(out, "<td class=\"{kind}{level}\">{n}</td>"),
            }
        }
        let _ = writeln!(out, "<td class=\"n\">{total}</td></tr>");
    }
    out.push_str("</tbody></table></div>\n");
    let right = report.classes.iter().filter(|c| !shown.contains(c.class.as_str())).map(|c| name(&c.class));
    let right: Vec<String> = right.collect();
    if all > CONFUSED {
        let _ = writeln!(out, "<p>The {CONFUSED} most confused classes of {all}.</p>");
    } else if !right.is_empty() {
        let _ = writeln!(out, "<p>Not confused, so not in the matrix: {}.</p>", right.join(", "));
    }
    out
}

/// A table of pairs with their numbers of streams.
pub fn pairs(caption: &str, columns: [&str; 2], list: &[(String, String, usize)]) -> String {
    const MOST: usize = 12;
    let mut out = format!(
        "<div><table><caption>{caption}</caption><thead><tr><th scope=\"col\">{}</th><th scope=\"col\">{}</th>\
         <th scope=\"col\" class=\"n\">streams</th></tr></thead><tbody>\n",
        columns[0], columns[1]
    );
    for (a, b, n) in list.iter().take(MOST) {
        let _ = writeln!(out, "<tr><td>{}</td><td>{}</td><td class=\"n\">{n}</td></tr>", name(a), name(b));
    }
    out.push_str("</tbody></table>\n");
    if list.len() > MOST {
        let _ = writeln!(out, "<p class=\"note\">and {} more pairs</p>", list.len() - MOST);
    }
    out + "</div>\n"
}

/// The table of figures on other ports; each row has the ports, the number of streams, and the shares nearest, named and precision.
pub fn on_ports(rows: &[(&str, usize, [f64; 3])]) -> String {
    let mut out = String::from(
        "<div class=\"wide\" role=\"region\" aria-label=\"Other ports\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">ports</th>\
         <th scope=\"col\" class=\"n\">streams</th><th scope=\"col\" class=\"n\">nearest %</th><th scope=\"col\" class=\"n\">named %</th>\
         <th scope=\"col\" class=\"n\">precision %</th></tr></thead><tbody>\n",
    );
    for (ports, streams, shares) in rows {
        let cells = shares.map(bar).concat();
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td class=\"n\">{streams}</td>{cells}</tr>", Text(ports));
    }
    out + "</tbody></table></div>\n"
}

/// A table of streams by basis or reason.
pub fn kinds(caption: &str, kinds: &[NamedBy]) -> String {
    let mut out = format!(
        "<div><table><caption>{caption}</caption><thead><tr><th scope=\"col\"></th><th scope=\"col\" class=\"n\">streams</th>\
         <th scope=\"col\" class=\"n\">nearest class right</th></tr></thead><tbody>\n"
    );
    for NamedBy { name, streams, right } in kinds {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\"><code>{name}</code></th><td class=\"n\">{streams}</td><td class=\"n\">{right}</td></tr>"
        );
    }
    out + "</tbody></table></div>\n"
}

/// One row of [`classes`].
pub struct ClassLine<'a> {
    pub class: &'a str,
    /// Number of its card.
    pub card: usize,
    /// Number of training streams.
    pub trained: u64,
    /// Acceptance threshold.
    pub accept: f32,
    pub tested: Option<&'a ClassReport>,
    /// The class that it is most easily confused with, as HTML.
    pub nearest: String,
}

/// The table of classes, with their figures on other ports.
pub fn classes(lines: &[ClassLine<'_>], on_ports: &[PortReport]) -> String {
    let tested = lines.iter().any(|l| l.tested.is_some());
    let mut out = String::from(
        "<div class=\"wide\" role=\"region\" aria-label=\"Classes\" tabindex=\"0\"><table class=\"classes\">\n<thead><tr><th scope=\"col\">class</th>\
         <th scope=\"col\" class=\"n\">training streams</th>",
    );
    if tested {
        for column in ["streams tested", "precision %", "nearest %", "named %", "F1 %"] {
            let _ = write!(out, "<th scope=\"col\" class=\"n\">{column}</th>");
        }
        for ports in on_ports {
            let title = Text(ports.ports.title());
            let _ =
                write!(out, "<th scope=\"col\" class=\"n\">{title}: nearest %</th><th scope=\"col\" class=\"n\">named %</th>");
        }
    }
    out.push_str("<th scope=\"col\" class=\"n\">named from confidence</th><th scope=\"col\">most easily confused with</th></tr></thead>\n<tbody>\n");
    for line in lines {
        let _ = write!(
            out,
            "<tr><th scope=\"row\"><a href=\"#c{}\">{}</a></th><td class=\"n\">{}</td>",
            line.card,
            name(line.class),
            line.trained
        );
        if tested {
            out += &class_figures(line, on_ports);
        }
        let _ = writeln!(out, "<td class=\"n\">{:.2}</td><td>{}</td></tr>", line.accept, line.nearest);
    }
    out + "</tbody></table></div>\n"
}

/// A cell without a figure.
const NO_FIGURE: &str = "<td class=\"n\">–</td>";

/// The measured cells of a class.
fn class_figures(line: &ClassLine<'_>, on_ports: &[PortReport]) -> String {
    let mut out = match line.tested {
        Some(c) => format!("<td class=\"n\">{}</td>", c.streams) + &[c.precision, c.recall, c.named, c.f1].map(bar).concat(),
        None => NO_FIGURE.repeat(5),
    };
    for ports in on_ports {
        match ports.class(line.class) {
            Some(c) => out.extend([c.recall, c.named].map(bar)),
            None => out += &NO_FIGURE.repeat(2),
        }
    }
    out
}

/// The table of recall with single fields silent.
pub fn reliance(all: &[Reliance]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let mut out = String::from(
        "<div class=\"wide\" role=\"region\" aria-label=\"Reliance on single fields\" tabindex=\"0\"><table class=\"matrix rest\">\n\
         <caption>Streams right in per cent, as is and with one field silent; a deeper orange marks a larger loss.</caption>\n\
         <thead><tr><th scope=\"col\">class</th><th scope=\"col\">as is</th>",
    );
    for (field, _) in &first.without {
        let _ = write!(out, "<th scope=\"col\">without {}</th>", Text(field));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for class in all {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th><td>{:.0}</td>", name(&class.class), class.recall * 100.0);
        let alone: Vec<&str> = class.alone().map(|a| a.0).collect();
        for (field, recall) in &class.without {
            let lost = if class.recall > 0.0 { (class.recall - recall) / class.recall } else { 0.0 };
            let level = (lost * 5.0).ceil().clamp(0.0, 5.0) as usize;
            let mark = if alone.contains(field) { " ⚠" } else { "" };
            let _ = write!(
                out,
                "<td{}>{:.0}{mark}</td>",
                if level > 0 { format!(" class=\"i{level}\"") } else { String::new() },
                recall * 100.0
            );
        }
        out.push_str("</tr>\n");
    }
    out + "</tbody></table></div>\n"
}
