//! Sections of the page, as HTML.

use std::fmt::Write as _;

use crate::evaluate::{Interval, Reliance, Report, ResamplingUnit, StreamOutcome, macro_f1_interval, wilson};
use crate::model::Model;

use super::Measurements;
use super::Raster;
use super::card::Card;
use super::chart::{Axis, Chart};
use super::markup::{Text, name, percent, thousands};
use super::tables::{self, ClassLine};

/// Adds one figure with its title, its interval if it has one, and an explanation.
fn tile(out: &mut String, value: &str, title: &str, interval: Option<(f64, Interval)>, what: &str) {
    let _ = write!(out, "<li><span>{title}</span><b>{value}</b>");
    if let Some((at, (low, high))) = interval {
        let _ = write!(
            out,
            "<svg class=\"range\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"all\" y=\"2\" width=\"100\" height=\"2\"/>\
             <rect class=\"part\" x=\"{:.2}\" y=\"1\" width=\"{:.2}\" height=\"4\"/><rect class=\"at\" x=\"{:.2}\" width=\"1\" height=\"6\"/></svg>\
             <small>95 %: {} – {}</small>",
            low * 100.0,
            (high - low) * 100.0,
            at * 99.0,
            percent(low),
            percent(high)
        );
    }
    let _ = writeln!(out, "<small>{what}</small></li>");
}

/// The figures of the evaluation.
pub fn figures(m: &Measurements) -> String {
    let r = &m.report;
    let mut out = format!(
        "<p>Measurements on {} streams of {} captures, {}. Figures are in per cent unless stated otherwise.</p>\n<ul class=\"tiles\">\n",
        thousands(r.streams as u64),
        thousands(m.captures as u64),
        m.labels.iter().map(|l| name(l)).collect::<Vec<_>>().join(", ")
    );
    let known = r.streams - r.unseen;
    let right = m.outcomes.iter().filter(|o| o.right()).count();
    let named = m.outcomes.iter().filter(|o| o.class.is_some()).count();
    let rightly = m.outcomes.iter().filter(|o| o.named_rightly()).count();
    let share = |part, whole, value| if whole > 0 { Some((value, wilson(part, whole))) } else { None };
    tile(
        &mut out,
        &percent(r.accuracy),
        "Accuracy",
        share(right, known, r.accuracy),
        &format!("{right} of {known} streams of known classes: the nearest class is right"),
    );
    let (interval, by) = macro_f1_interval(&m.outcomes, m.seed);
    let by = if by == ResamplingUnit::Captures { "captures" } else { "streams" };
    tile(
        &mut out,
        &percent(r.macro_f1),
        "Macro-F1",
        (known > 0).then_some((r.macro_f1, interval)),
        &format!("mean over {} classes; bootstrap over {by}", r.classes.len()),
    );
    tile(
        &mut out,
        &percent(r.precision),
        "Precision",
        share(rightly, named, r.precision),
        &format!("of {named} streams named, {rightly} are correct"),
    );
    tile(
        &mut out,
        &percent(r.recall),
        "Recall",
        share(rightly, known, r.recall),
        &format!("of {known} streams of known classes, named correctly"),
    );
    if r.unseen > 0 {
        let alarms = m.outcomes.iter().filter(|o| !o.known && o.class.is_some()).count();
        tile(
            &mut out,
            &percent(r.false_alarms),
            "False alarms",
            share(alarms, r.unseen, r.false_alarms),
            &format!("of {} streams of unseen classes, {alarms} were named", r.unseen),
        );
    }
    tile(
        &mut out,
        &format!("{:.3}", r.calibration_error),
        "Calibration error",
        None,
        "mean difference between confidence and the share that is right, 0 to 1",
    );
    tile(&mut out, &format!("{:.2}", r.packets_used), "Packets per stream", None, "scored until the decision, mean");
    out + "</ul>\n"
}

/// Figures of the model without labels.
pub fn model_alone(model: &Model) -> String {
    let mut out = String::from(
        "<p>No labelled captures were given; <code>--labels</code> and <code>--captures</code> add accuracy, \
         curves and confusions.</p>\n<ul class=\"tiles\">\n",
    );
    let d = &model.decision;
    let (_, _, weight) = model.network.sparse();
    let bounds = |values: &[f32]| values.iter().fold((f32::MAX, f32::MIN), |b, &v| (b.0.min(v), b.1.max(v)));
    let (low, high) = bounds(&d.accept);
    let neurons = if model.decision.assignments.is_one_each() {
        "one output neuron each".to_string()
    } else {
        format!("{} output neurons", thousands(model.network.neurons() as u64))
    };
    tile(&mut out, &thousands(model.classes.len() as u64), "Classes", None, &neurons);
    tile(&mut out, &thousands(weight.len() as u64), "Synapses", None, "weights other than zero, of 8 bits");
    let few = model.provenance.streams.iter().min().copied().unwrap_or(0);
    tile(
        &mut out,
        &thousands(model.provenance.streams.iter().sum()),
        "Training streams",
        None,
        &format!("the rarest class had {few}"),
    );
    tile(
        &mut out,
        &format!("{low:.2} – {high:.2}"),
        "Named from",
        None,
        "confidence that a stream must reach, calibrated per class",
    );
    let stop = if d.stop_confidence <= 1.0 { format!("{:.3}", d.stop_confidence) } else { "never".into() };
    tile(&mut out, &stop, "Stops scoring at", None, &format!("confidence, or after {} packets", d.max_packets));
    out + "</ul>\n"
}

/// Number of training streams below which a class gets a warning.
const FEW: u64 = 5;

/// Warnings about the model and the measurements; empty if there are none.
pub fn warnings(model: &Model, measured: Option<&Measurements>, cards: &[Card<'_>]) -> String {
    let mut all: Vec<String> = Vec::new();
    let few: Vec<String> = model
        .classes
        .iter()
        .zip(&model.provenance.streams)
        .filter(|(_, streams)| **streams < FEW)
        .map(|(class, streams)| format!("{} ({streams})", name(class)))
        .collect();
    if !few.is_empty() {
        all.push(format!("Trained on fewer than {FEW} streams; label more of them: {}", few.join(", ")));
    }
    if let Some(m) = measured {
        let trained: Vec<String> = m.labels.iter().filter(|l| model.provenance.labels.contains(l)).map(|l| name(l)).collect();
        if !trained.is_empty() {
            all.push(format!(
                "The model was trained on a label file named {}: these figures may be of training streams and do not show the accuracy on others",
                trained.join(", ")
            ));
        }
        all.extend(m.reliance.iter().flat_map(Reliance::warnings).map(|w| Text(w).to_string()));
    }
    let suspicions: Vec<String> = cards.iter().filter_map(Card::suspicion).collect();
    if !suspicions.is_empty() {
        all.push(format!(
            "In {} classes one field alone can make the neuron spike; labelled streams show whether the class relies on it: {}",
            suspicions.len(),
            suspicions.join(", ")
        ));
    }
    if let Some(m) = measured {
        let untested = model.classes.len() - m.report.classes.len();
        if untested > 0 {
            all.push(format!("{untested} of {} classes have no stream in the measured captures", model.classes.len()));
        }
    }
    if all.is_empty() {
        return String::new();
    }
    let items: String = all.iter().map(|w| format!("<li>{w}</li>\n")).collect();
    format!("<ul class=\"warnings\">\n{items}</ul>\n")
}

fn figure(chart: &str, title: &str, caption: &str) -> String {
    format!("<figure>\n<h3>{title}</h3>\n{chart}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// Risk and coverage, calibration, packets to decision, learning curve.
pub fn curves(m: &Measurements) -> String {
    let mut out = String::from("<div class=\"plots\">\n");
    let risks = &m.report.risk_coverage;
    let known: Vec<StreamOutcome> = m.outcomes.iter().filter(|o| o.known).cloned().collect();
    let known = Report::new(&known).risk_coverage;
    let highest = risks.iter().chain(&known).map(|r| r.1).fold(0.01, f64::max);
    let title = "Share wrong against share of streams covered, surest first";
    let mut chart =
        Chart::new(title, Axis::share("streams covered, surest first, %"), Axis::upto("of those wrong, %", highest, 100.0));
    let open = m.report.unseen > 0;
    if open {
        chart.line("second", known.iter().copied());
    }
    chart.line("", risks.iter().copied());
    let caption = if open {
        "Streams sorted by confidence; how many of the surest are wrong. Solid: all streams, where those of unseen classes count as wrong; dotted: streams of known classes only."
    } else {
        "Streams sorted by confidence; how many of the surest are wrong."
    };
    out += &figure(&chart.draw(false), "Risk against coverage", caption);

    let mut chart = Chart::new("Share right against confidence", Axis::share("confidence, %"), Axis::share("streams right, %"));
    chart.line("ideal", [(0.0, 0.0), (1.0, 1.0)]);
    for bin in m.report.calibration.iter().filter(|b| b.streams > 0) {
        let right = bin.right as f64 / bin.streams as f64;
        let what = format!("confidence {:.2}: {} of {} streams right", bin.confidence, bin.right, bin.streams);
        chart.dot((bin.confidence, right), Some(wilson(bin.right, bin.streams)), &what);
    }
    let caption = "Each dot holds the streams of one tenth of the confidence; whiskers are 95 % intervals. On the dashed line confidence equals the share that is right.";
    out += &figure(&chart.draw(false), "Calibration", caption);

    out += &packets(m);
    out += &learning(m);
    out + "</div>\n"
}

/// Largest number of bars of a histogram; with long labels, one bar in [`LABELLED`] has one.
const BARS: u32 = 16;
const LABELLED: u32 = 3;

fn packets(m: &Measurements) -> String {
    let most = m.outcomes.iter().map(|o| o.scored).max().unwrap_or(1).max(1);
    let step = most.div_ceil(BARS);
    let bars = most.div_ceil(step);
    let mut counts = vec![0usize; bars as usize];
    for o in m.outcomes.iter().filter(|o| o.scored > 0) {
        counts[((o.scored - 1) / step) as usize] += 1;
    }
    let label = |bar: u32| if step == 1 { format!("{}", bar + 1) } else { format!("–{}", (bar + 1) * step) };
    // Long labels would overlap, so only some bars have one, counted from the last.
    let labelled = |bar: u32| step == 1 || (bars - 1 - bar).is_multiple_of(LABELLED);
    let label = |bar: u32| if labelled(bar) { label(bar) } else { String::new() };
    let largest = counts.iter().copied().max().unwrap_or(1) as f64;
    let mut chart = Chart::new(
        "Streams by the packets they took to be decided",
        Axis::named("packets scored until decided", (0..bars).map(label)),
        Axis::upto("streams", largest, 1.0),
    );
    for (bar, &n) in counts.iter().enumerate() {
        chart.bar(bar as f64, n as f64, &if n > 0 { n.to_string() } else { String::new() });
    }
    let caption = "A stream is scored until its class is decided, it ends, or its number of packets reaches the limit.";
    figure(&chart.draw(true), "Packets to decision", caption)
}

fn learning(m: &Measurements) -> String {
    if m.learning.is_empty() {
        return String::new();
    }
    let names = m.learning.iter().map(|l| l.streams.to_string());
    let mut chart = Chart::new(
        "Share right against training streams",
        Axis::named("training streams per class", names),
        Axis::share("other captures' streams right, %"),
    );
    let share = |l: &crate::evaluate::LearningPoint| l.right as f64 / l.tested as f64;
    chart.line("", m.learning.iter().enumerate().map(|(i, l)| (i as f64, share(l))));
    for (i, l) in m.learning.iter().enumerate() {
        let what = format!("{} streams per class: {} of {} right", l.streams, l.right, l.tested);
        chart.dot((i as f64, share(l)), Some(wilson(l.right, l.tested)), &what);
    }
    let points: Vec<String> = m.learning.iter().map(|l| format!("{}: {}", l.streams, percent(share(l)))).collect();
    let caption = format!(
        "New networks, trained on this number of streams of each class in one half of the captures and tested on the other half. {}.",
        points.join("; ")
    );
    figure(&chart.draw(false), "Learning curve", &caption)
}

/// The confusion matrix and lists of the most frequent confusions.
pub fn confusions(m: &Measurements) -> String {
    let mut out = tables::confusion_matrix(&m.report, &m.outcomes);
    out.push_str("<div class=\"plots\">\n");
    if !m.report.confusions.is_empty() {
        out += &tables::pairs("Most confused", ["label", "nearest class"], &m.report.confusions);
    }
    if !m.report.alarms.is_empty() {
        out += &tables::pairs("Unseen classes, but named", ["label", "named"], &m.report.alarms);
    }
    if !m.report.false_names.is_empty() {
        out += &tables::pairs("Named wrongly", ["label", "named"], &m.report.false_names);
    }
    out + "</div>\n"
}

/// Totals of the same streams on other ports, and which classes are named wrongly there.
pub fn on_ports(m: &Measurements) -> String {
    if m.report.on_ports.is_empty() {
        return String::new();
    }
    let r = &m.report;
    let own = ("as captured", r.streams, [r.accuracy, r.recall, r.precision]);
    let other = r.on_ports.iter().map(|p| (p.ports.title(), p.streams, [p.accuracy, p.recall, p.precision]));
    let rows: Vec<_> = [own].into_iter().chain(other).collect();
    let mut out = String::from(
        "<p>The same streams without ports, with a random port in place of the server's, and with the ports of another class's stream. \
         Streams without ports are left out of the last two. The table of classes has the figures of each class.</p>\n",
    );
    out += &tables::on_ports(&rows);
    out.push_str("<div class=\"plots\">\n");
    for p in m.report.on_ports.iter().filter(|p| !p.false_names.is_empty()) {
        out += &tables::pairs(&format!("Named wrongly, {}", p.ports.title()), ["label", "named"], &p.false_names);
    }
    out + "</div>\n"
}

/// Named streams by basis, unknown streams by reason.
pub fn basis(m: &Measurements) -> String {
    let mut out = String::from("<div class=\"plots\">\n");
    for (caption, kinds) in [("Named streams by basis", &m.report.bases), ("Unknown streams by reason", &m.report.reasons)] {
        if !kinds.is_empty() {
            out += &tables::kinds(caption, kinds);
        }
    }
    out + "</div>\n"
}

/// The table of classes.
pub fn classes(model: &Model, measured: Option<&Measurements>, cards: &[Card<'_>]) -> String {
    let line = |card: &Card<'_>| ClassLine {
        class: &model.classes[card.number.index()],
        card: card.number.index(),
        trained: model.provenance.streams[card.number.index()],
        accept: model.decision.accept[card.number.index()],
        tested: measured.and_then(|m| m.report.classes.iter().find(|c| c.class == model.classes[card.number.index()])),
        nearest: card.nearest(),
    };
    tables::classes(&cards.iter().map(line).collect::<Vec<_>>(), measured.map_or(&[], |m| &m.report.on_ports))
}

/// The spike raster and the table of its streams.
pub fn raster(r: &Raster<'_>) -> String {
    if r.shown() == 0 {
        return format!("<p>No packet of {} could be decoded.</p>\n", name(&r.capture));
    }
    let mut out = format!(
        "<p>{}: {} of its {} scored packets, {} streams, at most three of a class. Each mark is the spike of one input: \
         <span class=\"key\"><span class=\"e5\">blue</span></span> excites the neuron of the stream's nearest class, \
         <span class=\"key\"><span class=\"i4\" style=\"color:#fff\">orange</span></span> inhibits it, grey has almost no effect. A filled ring ends a stream \
         that was named, an open ring a stream that stayed unknown. Below, each output neuron's potential (0 at the foot of the bars), its \
         threshold (dashed) and its spikes (dots).</p>\n<div class=\"wide\" role=\"region\" aria-label=\"Spike raster\" tabindex=\"0\">{}</div>\n",
        name(&r.capture),
        r.shown(),
        thousands(r.scored as u64),
        r.streams.len(),
        r.draw()
    );
    out.push_str(
        "<div class=\"wide\" role=\"region\" aria-label=\"Streams of the raster\" tabindex=\"0\"><table><caption>Its streams</caption><thead><tr>\
         <th scope=\"col\" class=\"n\">#</th><th scope=\"col\">stream</th><th scope=\"col\">named</th><th scope=\"col\" class=\"n\">confidence</th>\
         <th scope=\"col\">basis or reason</th><th scope=\"col\" class=\"n\">packets scored</th><th scope=\"col\" class=\"n\">of</th></tr></thead><tbody>\n",
    );
    for (number, stream) in r.streams.iter().enumerate() {
        let (class, confidence) = r.verdict(stream);
        let _ = writeln!(
            out,
            "<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{confidence:.3}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            number + 1,
            name(&stream.name.to_string()),
            class.map_or_else(|| "unknown".into(), name),
            r.basis_or_reason(stream),
            stream.scored.len(),
            stream.packets
        );
    }
    out + "</tbody></table></div>\n"
}

/// The cards of all classes.
pub fn fields(cards: &[Card<'_>]) -> String {
    let mut out = String::from(
        "<p>One card per class. Each cell is one byte of the header; its upper half shows the value that excites the class's neuron \
         most (<span class=\"key\"><span class=\"e2\">weakly</span> <span class=\"e5\">strongly</span></span>), its lower half the value that \
         inhibits it most (<span class=\"key\"><span class=\"i2\">weakly</span> <span class=\"i5\">strongly</span></span>). Colours are relative to the \
         neuron's strongest weight; weights below a tenth of it are left blank, headers without a strong weight are left out. In folded payload bytes \
         a–9 is any letter or digit.</p>\n<div class=\"cards\">\n",
    );
    for card in cards {
        out += &card.draw();
    }
    out + "</div>\n"
}

/// Explanations of the terms on the page.
pub fn how(measured: Option<&Measurements>) -> String {
    let mut out = String::from(
        "<ul>\n<li>A packet makes one input neuron spike for each header byte (slot) that it has, and one for each pair of neighbouring \
         slots (coincidence). A neuron's potential is the sum of its active synapses' weights; the excess over its threshold is \
         evidence, which is summed over the packets of a stream.</li>\n\
         <li>Masked, because they name a host or a flow: addresses except multicast groups, IP identification, checksums, sequence and \
         acknowledgement numbers, TCP timestamp values, the low byte of ephemeral ports.</li>\n\
         <li>“Alike” is the cosine between two neurons' excitatory weights: 1 if the same inputs excite both, 0 if no input excites both. It suggests \
         which classes may be confused; labelled streams show which are.</li>\n",
    );
    if measured.is_some() {
        out.push_str(
            "<li>Intervals are 95 % confidence intervals: Wilson's for shares, where each stream counts as one trial although streams of one capture are similar; \
             for macro-F1 the percentile bootstrap with 1000 resamples.</li>\n\
             <li>A class relies on one field alone if at least 80 % of its streams are right, and with that field silent at most a quarter of \
             those. TTL and ports often identify the hosts of one capture, but not those of other captures.</li>\n\
             <li>“Nearest” is the share of a class's streams whose nearest class is right, “named” the share that is given the class: its recall at \
             the confidence from which streams are named.</li>\n\
             <li>The basis of a name is <code>content</code> (payload), <code>headers</code> (headers alone, as of ARP) or \
             <code>ports</code> (without its ports the stream would not have the class). A stream is unknown because it carried \
             <code>no_payload</code>, because the confidence is too low (<code>unsure</code>), or because it is near no class (<code>unlike_any</code>).</li>\n\
             <li>“Lead” is what a field adds to the class's potential minus what it adds to that of the class it is most easily confused with.</li>\n",
        );
    }
    out + "</ul>\n"
}
