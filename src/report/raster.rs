//! Spike raster of a capture: input spikes above, potentials of the output neurons below, packet by packet.

use std::fmt::Write as _;

use crate::encode::SILENT;
use crate::evaluate::{EpisodeTrace, StreamTrace, TracePacket};
use crate::model::Model;
use crate::snn::{ClassId, NeuronId};
use crate::stream::Basis;

use super::markup::{Text, short};

/// Largest numbers of packets, streams and output neurons shown.
const PACKETS: usize = 120;
const STREAMS: usize = 24;
const NEURONS: usize = 8;
/// Largest number of streams shown of one class, so that a frequent class leaves room for others.
const ALIKE: usize = 3;

/// Widths and heights, in units of the picture.
const LABEL: f64 = 150.0;
const COLUMN: f64 = 7.0;
const ROW: f64 = 9.0;
const STRIP: f64 = 46.0;
const GAP: f64 = 26.0;

/// A traced capture, ready to be drawn.
pub struct Raster<'a> {
    model: &'a Model,
    /// Name of the capture.
    pub capture: String,
    /// The streams shown, in the order of their first packets.
    pub streams: Vec<&'a StreamTrace>,
    /// (index into `streams`, packet), in the order of the capture.
    packets: Vec<(usize, &'a TracePacket)>,
    /// Number of packets of the capture that were scored, shown or not.
    pub scored: usize,
    /// Trace of the model's episodes; `None` if it has none.
    pub episodes: Option<&'a EpisodeTrace>,
}

impl<'a> Raster<'a> {
    /// Chooses the streams and packets of the traces `all` that are shown.
    pub fn new(model: &'a Model, capture: String, all: &'a [StreamTrace], episodes: Option<&'a EpisodeTrace>) -> Self {
        let mut of_class = vec![0usize; model.classes.len()];
        let few = |s: &&StreamTrace| {
            s.leader.is_some_and(|l| {
                of_class[l.class.index()] += 1;
                of_class[l.class.index()] <= ALIKE
            })
        };
        let mut streams: Vec<&StreamTrace> = all.iter().filter(few).take(STREAMS).collect();
        let mut packets: Vec<_> = streams.iter().enumerate().flat_map(|(i, s)| s.scored.iter().map(move |p| (i, p))).collect();
        packets.sort_by_key(|(_, p)| p.number);
        packets.truncate(PACKETS);
        streams.truncate(packets.iter().map(|p| p.0 + 1).max().unwrap_or(0));
        let scored = all.iter().map(|s| s.scored.len()).sum();
        Self { model, capture, streams, packets, scored, episodes }
    }

    /// Number of packets shown.
    pub fn shown(&self) -> usize {
        self.packets.len()
    }

    /// The class of a stream, `None` if unknown, and the confidence.
    pub fn verdict(&self, stream: &StreamTrace) -> (Option<&'a str>, f32) {
        let Some(leader) = stream.leader else { return (None, 0.0) };
        let class = self.model.decision.class(&leader).map(|c| self.model.classes[c.index()].as_str());
        (class, self.model.decision.confidence(&leader))
    }

    /// The basis of a stream's class, or the reason why it has none; `–` for models that do not distinguish bases.
    pub fn basis_or_reason(&self, stream: &StreamTrace) -> &'static str {
        let decision = &self.model.decision;
        match stream.leader {
            Some(leader) if decision.class(&leader).is_some() => decision.basis(&leader).map_or("–", Basis::name),
            leader => decision.unknown_reason(leader.as_ref()).name(),
        }
    }

    /// Potentials relative to the threshold, `[packet][class]`.
    fn potentials(&self) -> Vec<Vec<f32>> {
        let (theta, width) = (&self.model.decision.theta, self.model.layout.slots().len());
        let mut classifier = self.model.classifier();
        let of_classes = |(_, packet): &(usize, &TracePacket)| {
            let forward = classifier.forward(&packet.volley.slots[..width]);
            // The neurons of a class share one strip, which shows the larger potential.
            let mut of_class = vec![f32::NEG_INFINITY; self.model.classes.len()];
            for (neuron, class) in self.model.decision.assignments.classes_of_neurons().iter().enumerate() {
                let unit = if theta[neuron] > 0.0 { theta[neuron] } else { 1.0 };
                let most = &mut of_class[class.index()];
                *most = most.max(forward.potential(NeuronId::from_index(neuron)) / unit);
            }
            of_class
        };
        self.packets.iter().map(of_classes).collect()
    }

    /// The classes whose neurons are drawn: those nearest to streams first, then those with most spikes.
    fn classes_drawn(&self, potentials: &[Vec<f32>]) -> Vec<ClassId> {
        let classes = self.model.classes.len();
        let mut score = vec![0usize; classes];
        for stream in &self.streams {
            if let Some(leader) = stream.leader {
                score[leader.class.index()] += stream.scored.len() * PACKETS;
            }
        }
        for row in potentials {
            for (score, &u) in score.iter_mut().zip(row) {
                *score += usize::from(u >= 1.0);
            }
        }
        let mut order: Vec<ClassId> = ClassId::first(classes).filter(|c| score[c.index()] > 0).collect();
        order.sort_by_key(|&c| (std::cmp::Reverse(score[c.index()]), c));
        order.truncate(NEURONS);
        order
    }

    /// The raster as SVG.
    pub fn draw(&self) -> String {
        // The caption of the axis needs as much as 44 packets.
        let width = LABEL + self.packets.len().max(44) as f64 * COLUMN + 12.0;
        let x = |i: usize| LABEL + (i as f64 + 0.5) * COLUMN;
        let (mut y, mut out) = (14.0, String::new());
        out.push_str("<text class=\"t\" x=\"0\" y=\"10\">Streams</text>\n");
        y += self.rows_of_streams(&mut out, y + 6.0, &x) + GAP;
        let _ = writeln!(out, "<text class=\"t\" x=\"0\" y=\"{y}\">Input spikes, by slot</text>");
        y += self.rows_of_slots(&mut out, y + 8.0, &x) + GAP + 8.0;
        let _ = writeln!(out, "<text class=\"t\" x=\"0\" y=\"{y}\">Output neurons: potential, threshold, spikes</text>");
        let potentials = self.potentials();
        y += 10.0;
        for class in self.classes_drawn(&potentials) {
            self.strip(&mut out, y, class, &potentials, &x);
            y += STRIP + 8.0;
        }
        let start = self.packets.first().map_or(0, |p| p.1.time.0);
        for (i, (_, packet)) in self.packets.iter().enumerate().filter(|(i, _)| i % 10 == 0) {
            let seconds = packet.time.0.saturating_sub(start) as f64 / 1e9;
            let _ = writeln!(
                out,
                "<path class=\"tick\" d=\"M{:.1} {y}v5\"/><text class=\"m\" x=\"{:.1}\" y=\"{}\">{}</text>",
                x(i),
                x(i),
                y + 18.0,
                if seconds < 10.0 { format!("{seconds:.3}") } else { format!("{seconds:.1}") }
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"m t\" x=\"{:.1}\" y=\"{}\">scored packets, in order; seconds since the first at every tenth</text>",
            (LABEL + width) / 2.0,
            y + 36.0
        );
        format!(
            "<svg class=\"raster\" viewBox=\"0 0 {width:.0} {:.0}\" style=\"--width: {width:.0}\" role=\"img\" aria-label=\"Spike raster of {}; its streams are in the table below\">\n{out}</svg>\n",
            y + 44.0,
            Text(&self.capture)
        )
    }

    /// Draws a row per stream with a dot for each packet and a ring at its decision. Returns the height.
    fn rows_of_streams(&self, out: &mut String, top: f64, x: &dyn Fn(usize) -> f64) -> f64 {
        for (number, stream) in self.streams.iter().enumerate() {
            let y = top + number as f64 * ROW + ROW / 2.0;
            let (class, _) = self.verdict(stream);
            let at: Vec<usize> = (0..self.packets.len()).filter(|&i| self.packets[i].0 == number).collect();
            let dots: String = at.iter().fold(String::new(), |path, &i| path + &format!("M{:.1} {y:.1}h0", x(i)));
            let _ = writeln!(
                out,
                "<text class=\"s\" x=\"{}\" y=\"{:.1}\">{} {}</text><path class=\"dot\" d=\"{dots}\"/>",
                LABEL - 8.0,
                y + 3.0,
                number + 1,
                Text(short(class.unwrap_or("unknown"), 22))
            );
            if let Some(&last) = at.last().filter(|_| at.len() == stream.scored.len()) {
                let kind = if class.is_some() { "named" } else { "unnamed" };
                let _ = writeln!(out, "<circle class=\"{kind}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.4\"/>", x(last));
            }
        }
        self.streams.len() as f64 * ROW
    }

    /// Draws a row per slot that spiked. Returns the height.
    fn rows_of_slots(&self, out: &mut String, top: f64, x: &dyn Fn(usize) -> f64) -> f64 {
        let layout = &self.model.layout;
        let mut rows = 0;
        for (slot, of) in layout.slots().iter().enumerate() {
            if self.packets.iter().all(|(_, p)| p.volley.slots[slot] == SILENT) {
                continue;
            }
            let y = top + f64::from(rows) * ROW + ROW / 2.0;
            rows += 1;
            let mut marks = [String::new(), String::new(), String::new()];
            for (i, (stream, packet)) in self.packets.iter().enumerate() {
                let Some(leader) = self.streams[*stream].leader.filter(|_| packet.volley.slots[slot] != SILENT) else { continue };
                let neuron = self.model.decision.assignments.first_of(leader.class);
                let inputs = layout.inputs_of(&packet.volley, slot);
                let weight: i32 = inputs.iter().map(|&i| i32::from(self.model.network.weight(i as usize, neuron))).sum();
                let kind = if weight.abs() < QUIET { 1 } else { usize::from(weight > 0) * 2 };
                let _ = write!(marks[kind], "M{:.1} {:.1}h.1", x(i), y);
            }
            let _ = write!(out, "<text class=\"s\" x=\"{}\" y=\"{:.1}\">{}</text>", LABEL - 8.0, y + 3.0, Text(&of.name));
            for (kind, path) in ["in", "un", "ex"].iter().zip(marks).filter(|(_, path)| !path.is_empty()) {
                let _ = write!(out, "<path class=\"sp {kind}\" d=\"{path}\"/>");
            }
            out.push('\n');
        }
        f64::from(rows) * ROW
    }

    /// Draws the potential of a class's neurons over the packets, the threshold, and a mark at each spike.
    fn strip(&self, out: &mut String, top: f64, class: ClassId, potentials: &[Vec<f32>], x: &dyn Fn(usize) -> f64) {
        let values = potentials.iter().map(|row| row[class.index()].clamp(FLOOR, CEILING));
        let y = |u: f32| top + STRIP - f64::from((u - FLOOR) / (CEILING - FLOOR)) * STRIP;
        let right = x(potentials.len().max(20)) - COLUMN / 2.0;
        let (mut line, mut spikes) = (String::new(), String::new());
        for (i, u) in values.enumerate() {
            let _ = write!(line, "M{:.1} {:.1}V{:.1}", x(i), y(0.0), y(u));
            if u >= 1.0 {
                let _ = write!(spikes, "M{:.1} {:.1}h.1", x(i), y(u));
            }
        }
        let _ = writeln!(
            out,
            "<rect class=\"strip\" x=\"{LABEL}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{STRIP}\"/>\
             <text class=\"s n\" x=\"{}\" y=\"{:.1}\">{}</text><path class=\"pot\" d=\"{line}\"/>\
             <path class=\"theta\" d=\"M{LABEL} {:.1}H{right:.1}\"/><path class=\"spike\" d=\"{spikes}\"/>",
            right - LABEL,
            LABEL - 8.0,
            top + STRIP / 2.0 + 4.0,
            Text(short(&self.model.classes[class.index()], 22)),
            y(1.0)
        );
    }
}

/// Weights below this magnitude, of 127, are drawn in grey.
const QUIET: i32 = 6;
/// Range of potentials drawn, relative to the threshold; values beyond are drawn at the edge.
const FLOOR: f32 = -1.5;
const CEILING: f32 = 2.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::CaptureFile;
    use crate::evaluate::trace_streams;

    fn traces(model: &Model, most: usize) -> Vec<StreamTrace> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures/mixed.pcapng");
        trace_streams(model, &mut CaptureFile::open(&path).unwrap(), &crate::stream::Intake::default(), most).unwrap()
    }

    #[test]
    fn every_mark_lies_within_the_picture() {
        let model = Model::built_in().unwrap();
        let streams = traces(&model, usize::MAX);
        let raster = Raster::new(&model, "mixed".into(), &streams, None);
        assert!(raster.shown() > 50 && raster.shown() <= PACKETS && raster.streams.len() <= STREAMS);
        let picture = raster.draw();
        let size: Vec<f64> = picture.split('"').nth(3).unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        let mut marks = 0;
        for path in picture.split(" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            for mark in path.split('M').skip(1) {
                let at: Vec<f64> =
                    mark.split(|c: char| !c.is_ascii_digit() && c != '.').take(2).map(|n| n.parse().unwrap()).collect();
                assert!((LABEL..=size[2]).contains(&at[0]) && (0.0..=size[3]).contains(&at[1]), "{mark} in {size:?}");
                marks += 1;
            }
        }
        let spikes: usize = raster.packets.iter().map(|p| p.1.volley.slots.iter().filter(|v| **v != SILENT).count()).sum();
        assert!(marks > spikes, "{marks} marks, {spikes} input spikes");
    }

    #[test]
    fn traces_agree_with_inference_and_can_be_bounded() {
        let model = Model::built_in().unwrap();
        let streams = traces(&model, usize::MAX);
        let dns = streams.iter().find(|s| s.name.to_string().contains(":53 ")).unwrap();
        let raster = Raster::new(&model, "mixed".into(), &streams, None);
        assert_eq!(raster.verdict(dns).0, Some("dns"));
        assert_eq!(traces(&model, 7).iter().map(|s| s.scored.len()).sum::<usize>(), 7);
    }
}
