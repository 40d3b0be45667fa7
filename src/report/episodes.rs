//! Section about the episodes of a capture: the potentials of the leaky neurons over time, their input spikes and episodes, and a table.

use std::fmt::Write as _;

use crate::capture::Nanos;
use crate::episode::{EpisodeRule, MIN_CONFIDENCE, Role};
use crate::evaluate::{EpisodeTrace, NeuronTrace, SpikeGroup, TracedEpisode, join_groups};
use crate::model::Model;

use super::chart::round_step;
use super::markup::{Text, name, short, thousands};

/// Largest number of neurons shown.
const NEURONS: usize = 8;

/// Widths and heights, in units of the picture.
const LABEL: f64 = 210.0;
const WIDTH: f64 = 780.0;
const MARGIN: f64 = 12.0;
const STRIP: f64 = 46.0;
const TICK: f64 = 6.0;
const BAR: f64 = 4.0;
const GAP: f64 = 10.0;
/// Spikes within one column are drawn as one; a decaying potential has a point in each.
const COLUMN: f64 = 2.0;
/// Shortest time shown, in nanoseconds: 1 ms.
const SHORTEST: u64 = 1_000_000;
/// Highest potential of a strip, relative to the threshold, unless the neuron's is higher.
const HEADROOM: f32 = 1.25;

/// The section about the episodes of a capture.
pub fn section(model: &Model, capture: &str, trace: &EpisodeTrace) -> String {
    if trace.neurons.is_empty() {
        return format!("<p>No flow of {} excited a neuron of the model's episodes.</p>\n", name(capture));
    }
    let picture = Picture::new(model, trace);
    explanation(model, capture, &picture)
        + "<div class=\"wide\" role=\"region\" aria-label=\"Potentials of episodes\" tabindex=\"0\">"
        + &picture.draw(capture)
        + "</div>\n"
        + &table(model, trace)
}

/// How to read the picture, and what it leaves out.
fn explanation(model: &Model, capture: &str, picture: &Picture<'_>) -> String {
    let trace = picture.trace;
    let both = |rule: &EpisodeRule| model.episodes.iter().any(|other| other.class == rule.class && other.role != rule.role);
    let sources = if model.episodes.iter().any(both) {
        let least = Role::Target.least_sources(true);
        format!(" Where a class has neurons of both roles, a target's fires only after spikes from {least} sources.")
    } else {
        String::new()
    };
    let mut out = format!(
        "<p>An attack has many flows. The second layer of the model finds it with leaky neurons, one for each host, class and role: a source \
         begins flows, a target receives them. Each strip is one neuron over the time of the packets.</p>\n\
         <ul><li>A spike (tick below the strip) is a flow of the class, with a confidence of {MIN_CONFIDENCE} or more, or such a flow whose \
         packets go on. It adds its confidence to the potential (line). As that changes with the next packets of the flow, so does what it has added; \
         of a flow that is of another class by then, nothing stays.</li>\n\
         <li>Between spikes the potential decays, to 37 % within the time constant tau. Heights are logarithmic: log(1 + potential / threshold).</li>\n\
         <li>When the potential reaches the threshold (dashed), the neuron fires (dot): an episode begins.{sources}</li>\n\
         <li>The bar goes from the first flow of the episode to its last. The episode has ended when no flow has come for tau; the potential \
         is 0 then.</li></ul>\n"
    );
    let (shown, all) = (picture.neurons.len(), thousands(trace.neurons.len() as u64));
    let _ = match trace.neurons.len() {
        1 => write!(out, "<p>{}: the only neuron with spikes.", name(capture)),
        many if many == shown => write!(out, "<p>{}: all {shown} neurons with spikes.", name(capture)),
        _ => write!(
            out,
            "<p>{}: {shown} of {all} neurons with spikes, those with an episode first, then those with the highest potentials.",
            name(capture)
        ),
    };
    if trace.neurons_left_out > 0 {
        let left_out = thousands(trace.neurons_left_out);
        let _ = write!(out, " There were too many to trace all: {left_out} with low potentials are not counted.");
    }
    out + "</p>\n"
}

/// The strips of a capture's neurons over time.
struct Picture<'a> {
    model: &'a Model,
    trace: &'a EpisodeTrace,
    neurons: &'a [NeuronTrace],
    /// Ends of the time axis.
    from: Nanos,
    to: Nanos,
}

impl<'a> Picture<'a> {
    /// A picture of the first neurons of the trace, from just before their first spike. After the last spike the potentials decay for at most
    /// the time constant and as long as the spikes took, so that these fill at least half of the picture, or until the capture ends.
    fn new(model: &'a Model, trace: &'a EpisodeTrace) -> Self {
        let neurons = &trace.neurons[..trace.neurons.len().min(NEURONS)];
        let first = neurons.iter().filter_map(|neuron| neuron.groups.first()).map(|group| group.first).min().unwrap_or_default();
        let last = neurons.iter().filter_map(|neuron| neuron.groups.last()).map(|group| group.last).max().unwrap_or_default();
        // Spikes at one time still need a width.
        let span = last.0.saturating_sub(first.0).max(SHORTEST);
        let end = |neuron: &NeuronTrace| Some(end_of(neuron.groups.last()?.last, &model.episodes[neuron.rule]));
        let decayed = neurons.iter().filter_map(end).max().unwrap_or(last).min(trace.end).0;
        let to = Nanos(decayed.clamp(last.0, last.0.saturating_add(span)).max(first.0.saturating_add(SHORTEST)));
        let from = Nanos(first.0.saturating_sub(span / 40)).max(trace.start);
        Self { model, trace, neurons, from, to }
    }

    fn x(&self, time: Nanos) -> f64 {
        let span = self.to.0.saturating_sub(self.from.0) as f64;
        LABEL + (time.0.saturating_sub(self.from.0) as f64 / span).min(1.0) * WIDTH
    }

    /// The picture as SVG.
    fn draw(&self, capture: &str) -> String {
        let (mut out, mut y) = (String::new(), 8.0);
        for neuron in self.neurons {
            self.strip(&mut out, y, neuron);
            y += STRIP + TICK + BAR + GAP;
        }
        self.axis(&mut out, y);
        format!(
            "<svg class=\"raster\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"Potentials of the episodes of {}, which are in the table below\">\n{out}</svg>\n",
            LABEL + WIDTH + MARGIN,
            y + 44.0,
            Text(capture)
        )
    }

    /// Draws the potential, threshold, spikes and episodes of one neuron.
    fn strip(&self, out: &mut String, top: f64, neuron: &NeuronTrace) {
        let rule = &self.model.episodes[neuron.rule];
        let most = f64::from((neuron.highest / rule.threshold).max(HEADROOM)).ln_1p();
        let y = |potential: f32| top + STRIP - (f64::from(potential / rule.threshold).ln_1p() / most).clamp(0.0, 1.0) * STRIP;
        let mut groups = neuron.groups.clone();
        join_groups(&mut groups, |group| (self.x(group.first) / COLUMN) as u64);
        let threshold = y(rule.threshold);
        self.label(out, top, neuron, rule);
        let ticks = groups
            .iter()
            .fold(String::new(), |path, group| path + &format!("M{:.1} {:.1}v{TICK}", self.x(group.first), top + STRIP));
        let _ = write!(
            out,
            "<rect class=\"strip\" x=\"{LABEL}\" y=\"{top:.1}\" width=\"{WIDTH}\" height=\"{STRIP}\"/>\
             <path class=\"leak\" d=\"{}\"/><path class=\"theta\" d=\"M{LABEL} {threshold:.1}h{WIDTH}\"/><path class=\"tick\" d=\"{ticks}\"/>",
            self.curve(rule, &groups, &y)
        );
        for TracedEpisode { fired, episode } in &self.trace.episodes {
            if (episode.class, episode.role, episode.host) == (rule.class, rule.role, neuron.host) {
                let (start, end) = (self.x(episode.start), self.x(episode.end));
                let _ = write!(
                    out,
                    "<rect class=\"episode\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\
                     <circle class=\"named\" cx=\"{:.1}\" cy=\"{threshold:.1}\" r=\"2.6\"/>",
                    start,
                    top + STRIP + TICK + 1.0,
                    (end - start).max(COLUMN),
                    self.x(*fired)
                );
            }
        }
        out.push('\n');
    }

    fn label(&self, out: &mut String, top: f64, neuron: &NeuronTrace, rule: &EpisodeRule) {
        let spikes = if neuron.spikes == 1 { "1 spike".into() } else { format!("{} spikes", thousands(neuron.spikes)) };
        let lines = [
            ("s n", short(&self.model.classes[rule.class.index()], 32)),
            ("s", format!("{} {}", rule.role.name(), neuron.host)),
            ("s", format!("threshold {:.1}, tau {:.0} s", rule.threshold, rule.tau)),
            ("s", format!("{spikes}, highest potential {:.1}", neuron.highest)),
        ];
        for (line, (class, text)) in (0u32..).zip(lines) {
            let y = top + 9.0 + f64::from(line) * 12.0;
            let _ = write!(out, "<text class=\"{class}\" x=\"{}\" y=\"{y:.1}\">{}</text>", LABEL - 8.0, Text(text));
        }
    }

    /// The path of a potential: up at each spike, then down exponentially, and to 0 where an episode ends.
    fn curve(&self, rule: &EpisodeRule, groups: &[SpikeGroup], y: &dyn Fn(f32) -> f64) -> String {
        let mut path = format!("M{LABEL} {:.1}", y(0.0));
        for (number, group) in groups.iter().enumerate() {
            let (first, last) = (self.x(group.first), self.x(group.last));
            let _ = write!(path, "L{first:.1} {:.1}V{:.1}L{last:.1} {:.1}", y(group.before), y(group.highest), y(group.after));
            let next = groups.get(number + 1);
            let until = next.map_or(self.to, |next| next.first);
            // The episode may have ended before the next spike, which then finds no potential.
            let end = end_of(group.last, rule);
            let ends = group.lasting && end < until && next.is_none_or(|next| next.before == 0.0);
            self.decay(&mut path, rule, group, if ends { end } else { until }, y);
            if ends {
                let _ = write!(path, "V{:.1}H{:.1}", y(0.0), self.x(until));
            }
        }
        path
    }

    /// Adds the decay of a potential after a group of spikes, with a point in each column.
    fn decay(&self, path: &mut String, rule: &EpisodeRule, group: &SpikeGroup, until: Nanos, y: &dyn Fn(f32) -> f64) {
        let time = until.0.saturating_sub(group.last.0);
        let columns = ((self.x(until) - self.x(group.last)) / COLUMN).ceil() as u32;
        for column in 1..=columns {
            let at = Nanos(group.last.0 + (time as f64 * f64::from(column) / f64::from(columns)) as u64);
            let _ = write!(path, "L{:.1} {:.1}", self.x(at), y(group.after * rule.decay(group.last, at)));
        }
    }

    /// Draws the time axis, in seconds since the first packet of the capture.
    fn axis(&self, out: &mut String, y: f64) {
        let seconds = |time: Nanos| time.0.saturating_sub(self.trace.start.0) as f64 / 1e9;
        let (from, to) = (seconds(self.from), seconds(self.to));
        let step = round_step(to - from);
        let places = (-step.log10().floor()).max(0.0) as usize;
        let first = (from / step).ceil();
        for at in (0u32..8).map(|number| (first + f64::from(number)) * step).take_while(|&at| at <= to) {
            let x = LABEL + (at - from) / (to - from) * WIDTH;
            let _ = writeln!(
                out,
                "<path class=\"tick\" d=\"M{x:.1} {y:.1}v5\"/><text class=\"m\" x=\"{x:.1}\" y=\"{:.1}\">{at:.places$}</text>",
                y + 18.0
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"m t\" x=\"{:.1}\" y=\"{:.1}\">seconds since the first packet</text>",
            LABEL + WIDTH / 2.0,
            y + 36.0
        );
    }
}

/// When an episode ends after whose last flow no other comes.
fn end_of(last: Nanos, rule: &EpisodeRule) -> Nanos {
    Nanos(last.0.saturating_add((f64::from(rule.tau) * 1e9) as u64))
}

/// A table of the episodes, in the words of the events of `spiked read`.
fn table(model: &Model, trace: &EpisodeTrace) -> String {
    if trace.episodes.is_empty() {
        return "<p>No neuron fired: there is no episode.</p>\n".into();
    }
    let mut out = String::from(
        "<div class=\"wide\" role=\"region\" aria-label=\"Episodes\" tabindex=\"0\"><table class=\"episodes\"><caption>Its episodes, as the events of \
         <code>spiked read --events episodes</code> have them at their end</caption><thead><tr>\
         <th scope=\"col\">class</th><th scope=\"col\">role</th><th scope=\"col\">host</th><th scope=\"col\">peer</th>\
         <th scope=\"col\">start</th><th scope=\"col\">end</th><th scope=\"col\" class=\"n\">seconds in the picture</th>",
    );
    for column in ["flows", "peers", "ports", "packets", "confidence"] {
        let _ = write!(out, "<th scope=\"col\" class=\"n\">{column}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    let seconds = |time: Nanos| time.0.saturating_sub(trace.start.0) as f64 / 1e9;
    for TracedEpisode { episode, .. } in &trace.episodes {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{:.1} – {:.1}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3}</td></tr>",
            name(&model.classes[episode.class.index()]),
            episode.role.name(),
            Text(episode.host.to_string()),
            episode.peer.map_or_else(|| "–".into(), |peer| Text(peer.to_string()).to_string()),
            episode.start.to_second(),
            episode.end.to_second(),
            seconds(episode.start),
            seconds(episode.end),
            thousands(episode.flows),
            thousands(episode.peers as u64),
            thousands(episode.ports as u64),
            thousands(episode.packets),
            episode.confidence
        );
    }
    out.push_str("</tbody></table></div>\n");
    if trace.episodes_left_out > 0 {
        let _ = writeln!(out, "<p>{} later episodes are left out.</p>", thousands(trace.episodes_left_out));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::capture::CaptureFile;
    use crate::evaluate::trace_episodes;
    use crate::stream::Intake;

    fn behaviours() -> Arc<Model> {
        Arc::new(Model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/behaviours.safetensors")).unwrap())
    }

    fn trace(model: &Arc<Model>, capture: &str) -> EpisodeTrace {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/behaviours/train/{capture}.pcap.zst"));
        trace_episodes(model, &mut CaptureFile::open(&path).unwrap(), &Intake::default()).unwrap()
    }

    /// The ends of all marks of a picture.
    fn marks(picture: &str) -> Vec<(f64, f64)> {
        let mut marks = Vec::new();
        for path in picture.split(" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let (mut x, mut y) = (0.0, 0.0);
            for (at, command) in path.char_indices().filter(|(_, c)| c.is_ascii_alphabetic()) {
                let rest = path[at + 1..].split(|c: char| c.is_ascii_alphabetic()).next().unwrap();
                let numbers: Vec<f64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
                match command {
                    'M' | 'L' => (x, y) = (numbers[0], numbers[1]),
                    'H' => x = numbers[0],
                    'V' => y = numbers[0],
                    'h' => x += numbers[0],
                    'v' => y += numbers[0],
                    other => panic!("{other} in {path}"),
                }
                marks.push((x, y));
            }
        }
        let value = |tag: &str, name: &str| -> f64 {
            tag.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        for rect in picture.split("<rect").skip(1) {
            let (x, y) = (value(rect, "x"), value(rect, "y"));
            marks.extend([(x, y), (x + value(rect, "width"), y + value(rect, "height"))]);
        }
        marks.extend(picture.split("<circle").skip(1).map(|circle| (value(circle, "cx"), value(circle, "cy"))));
        marks
    }

    #[test]
    fn every_mark_lies_within_the_picture() {
        let model = behaviours();
        for capture in ["scan.port-1", "flood.syn-2", "slow.http-1", "beacon-1"] {
            let trace = trace(&model, capture);
            let picture = Picture::new(&model, &trace);
            assert!(trace.start <= picture.from && picture.to <= trace.end, "seconds are counted from the first packet");
            let drawn = picture.draw(capture);
            let size: Vec<f64> = drawn.split('"').nth(3).unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
            let marks = marks(&drawn);
            assert!(marks.len() > 50, "{} marks of {capture}", marks.len());
            for (x, y) in marks {
                assert!((LABEL..=size[2]).contains(&x) && (0.0..=size[3]).contains(&y), "{x} {y} of {capture} in {size:?}");
            }
            assert_eq!(drawn.matches("class=\"episode\"").count(), trace.episodes.len(), "{capture}");
            assert!(drawn.matches("class=\"strip\"").count() <= NEURONS);
        }
    }

    /// Two hours of spikes, far more than a picture has columns, and an episode that ended among them.
    #[test]
    fn long_captures_make_no_larger_pictures() {
        let model = behaviours();
        let mut trace = trace(&model, "beacon-1");
        let group = |seconds: u64| {
            let time = Nanos(trace.start.0 + seconds * 1_000_000_000);
            let lasting = seconds < 3600;
            SpikeGroup { first: time, last: time, spikes: 1, before: 0.0, highest: 1e30, after: 5.0, lasting }
        };
        trace.neurons[0].groups = (0..1800).chain(5000..7200).map(group).collect();
        trace.neurons = vec![trace.neurons[0].clone(); NEURONS + 5];
        trace.end = Nanos(trace.start.0 + 7_200_000_000_000);
        let picture = Picture::new(&model, &trace);
        assert_eq!((picture.from, picture.to), (trace.start, trace.end));
        let drawn = picture.draw("long");
        assert!(drawn.len() < NEURONS * 60_000, "{} bytes", drawn.len());
        assert_eq!(drawn.matches("class=\"strip\"").count(), NEURONS);
        for (x, y) in marks(&drawn) {
            assert!((LABEL..=LABEL + WIDTH + MARGIN).contains(&x) && y >= 0.0, "{x} {y}");
        }
    }

    #[test]
    fn captures_without_a_spike_say_so() {
        let model = behaviours();
        let section = section(&model, "<b>", &EpisodeTrace::default());
        assert!(section.contains("No flow of <bdi>&lt;b&gt;</bdi>"), "{section}");
    }
}
