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
    let sources = Role::Target.least_sources(true);
    let mut out = format!(
        "<p>The second layer of the model has one leaky neuron for each host, class and role: the source begins the flows, the target receives \
         them. Each strip is one neuron over the time of the packets. A spike (a tick below the strip) is a flow of the class, with a confidence \
         of {MIN_CONFIDENCE} or more, or one whose packets go on; it adds its confidence to the potential (the line). Between spikes the potential \
         decays, to 37 % in the time constant tau. When it reaches the threshold (dashed), the neuron fires (the dot){}: an episode begins. The \
         bar goes from the first flow of the episode to its last. The episode ends when no flow has come for tau, and the potential returns \
         to 0. Heights are logarithmic: log(1 + potential / threshold).</p>\n",
        if model.episodes.iter().any(both) {
            format!(", a target's only if {sources} sources or more have excited it where the class has neurons of both roles")
        } else {
            String::new()
        },
    );
    let _ = write!(
        out,
        "<p>{}: {} of its {} neurons with spikes, those with an episode first, then those with the highest potentials.",
        name(capture),
        picture.neurons.len(),
        thousands(trace.neurons.len() as u64)
    );
    if trace.neurons_left_out > 0 {
        let _ = write!(
            out,
            " Neurons with low potentials were left out {} times, because there were too many.",
            thousands(trace.neurons_left_out)
        );
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
    /// A picture of the first neurons of the trace, from their first spike until the last has decayed or the capture ends.
    fn new(model: &'a Model, trace: &'a EpisodeTrace) -> Self {
        let neurons = &trace.neurons[..trace.neurons.len().min(NEURONS)];
        let from = neurons.iter().filter_map(|n| n.groups.first()).map(|group| group.first).min().unwrap_or_default();
        let last = |neuron: &NeuronTrace| {
            let last = neuron.groups.last()?.last;
            Some(end_of(last, &model.episodes[neuron.rule]).min(trace.end).max(last))
        };
        // Spikes at one time still need a width.
        let to = neurons.iter().filter_map(last).max().unwrap_or(from).max(Nanos(from.0.saturating_add(1_000_000)));
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
        let ticks = groups.iter().fold(String::new(), |path, group| path + &format!("M{:.1} {:.1}v{TICK}", self.x(group.first), top + STRIP));
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
            ("s", format!("threshold {}, tau {} s", rule.threshold, rule.tau)),
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
        "<div class=\"wide\" role=\"region\" aria-label=\"Episodes\" tabindex=\"0\"><table><caption>Its episodes, as the events of \
         <code>spiked read --events episodes</code> have them at their end; seconds are those of the picture</caption><thead><tr>\
         <th scope=\"col\">class</th><th scope=\"col\">role</th><th scope=\"col\">host</th><th scope=\"col\">peer</th>\
         <th scope=\"col\">start</th><th scope=\"col\" class=\"n\">seconds</th><th scope=\"col\">end</th><th scope=\"col\" class=\"n\">seconds</th>",
    );
    for column in ["flows", "peers", "ports", "packets", "confidence"] {
        let _ = write!(out, "<th scope=\"col\" class=\"n\">{column}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    let seconds = |time: Nanos| time.0.saturating_sub(trace.start.0) as f64 / 1e9;
    for TracedEpisode { episode, .. } in &trace.episodes {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{:.1}</td><td>{}</td><td class=\"n\">{:.1}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3}</td></tr>",
            name(&model.classes[episode.class.index()]),
            episode.role.name(),
            Text(episode.host.to_string()),
            episode.peer.map_or_else(|| "–".into(), |peer| Text(peer.to_string()).to_string()),
            time_text(episode.start),
            seconds(episode.start),
            time_text(episode.end),
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

/// A time in UTC, to the second.
fn time_text(time: Nanos) -> String {
    jiff::Timestamp::from_second((time.0 / 1_000_000_000) as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
