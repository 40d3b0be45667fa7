//! Receptive fields: the weights of a neuron's inputs, drawn over the header layout.
//!
//! Coincidence inputs are not drawn: their values are hashed and can't be read back from the weights.

use std::fmt::Write as _;
use std::ops::Range;

use crate::encode::{FOLDED, Group, SlotId, Volley, is_ephemeral};
use crate::model::Model;
use crate::snn::NeuronId;

use super::markup::Text;

/// Number of values of a slot.
const VALUES: usize = 256;

/// A header field: one slot, or one slot for each of its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub slots: Range<usize>,
}

impl Field {
    /// The slots, in order.
    fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.slots.clone().map(SlotId::from_index)
    }
}

/// The value of a field with the largest weight: the value of each byte, and the sum of their weights relative to the threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Strongest {
    pub field: String,
    pub values: Vec<u8>,
    pub weight: f32,
}

/// The receptive fields of a model's neurons.
pub struct ReceptiveFields<'a> {
    model: &'a Model,
    pub fields: Vec<Field>,
    /// The inputs of each slot and value, `[slot * VALUES + value]`.
    inputs: Vec<Vec<u32>>,
}

/// The weights of one neuron, relative to its threshold.
pub struct Weights {
    neuron: NeuronId,
    /// One unit of weight, relative to the threshold.
    unit: f32,
    /// `[slot * VALUES + value]`.
    of: Vec<f32>,
}

impl Weights {
    /// The values of a slot that excite and inhibit most, with their weights; weight 0 if there is none.
    pub fn extremes(&self, slot: SlotId) -> [(u8, f32); 2] {
        let of = &self.of[slot.index() * VALUES..][..VALUES];
        let mut extremes = [(0, 0.0f32), (0, 0.0f32)];
        for (value, &w) in (0u8..=255).zip(of) {
            if w > extremes[0].1 {
                extremes[0] = (value, w);
            }
            if w < extremes[1].1 {
                extremes[1] = (value, w);
            }
        }
        extremes
    }

    /// The largest weight of either sign.
    fn largest(&self) -> f32 {
        self.of.iter().fold(0.0, |l, w| l.max(w.abs()))
    }
}

impl<'a> ReceptiveFields<'a> {
    /// Groups the slots of the model's layout into fields.
    pub fn new(model: &'a Model) -> Self {
        let mut fields: Vec<Field> = Vec::new();
        for (i, slot) in model.layout.slots().iter().enumerate() {
            let name = slot.name.split('[').next().unwrap_or(&slot.name);
            match fields.last_mut() {
                Some(last) if last.name == name => last.slots.end = i + 1,
                _ => fields.push(Field { name: name.into(), slots: i..i + 1 }),
            }
        }
        let mut inputs = Vec::with_capacity(model.layout.slots().len() * VALUES);
        for slot in 0..model.layout.slots().len() {
            let mut volley = Volley::default();
            for value in 0..VALUES {
                volley.slots[slot] = value as u16;
                inputs.push(model.layout.inputs_of(&volley, slot));
            }
        }
        Self { model, fields, inputs }
    }

    /// The weights of one neuron.
    pub fn weights(&self, neuron: NeuronId) -> Weights {
        let theta = self.model.decision.theta[neuron.index()];
        let unit = self.model.network.scale()[neuron.index()] / if theta > 0.0 { theta } else { 1.0 };
        let of = self.inputs.iter().map(|inputs| self.sum(inputs, neuron) * unit).collect();
        Weights { neuron, unit, of }
    }

    fn sum(&self, inputs: &[u32], neuron: NeuronId) -> f32 {
        inputs.iter().map(|&i| f32::from(self.model.network.weight(i as usize, neuron))).sum()
    }

    /// The fields that excite most, strongest first. A field of two bytes counts as one number; each byte of a longer field counts by
    /// itself.
    pub fn strongest(&self, weights: &Weights) -> Vec<Strongest> {
        let slots = self.model.layout.slots();
        let mut all = Vec::new();
        for field in &self.fields {
            if field.slots.len() == 2 {
                all.push(self.pair(weights, field));
                continue;
            }
            for slot in field.slots() {
                let (value, weight) = weights.extremes(slot)[0];
                all.push(Strongest { field: slots[slot.index()].name.clone(), values: vec![value], weight });
            }
        }
        all.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        all
    }

    /// The number of a two-byte field with the largest weight: that of both bytes and of their coincidence, which separates numbers that
    /// occurred from combinations of bytes of different numbers.
    fn pair(&self, weights: &Weights, field: &Field) -> Strongest {
        let layout = &self.model.layout;
        let (high, low) = (field.slots.start, field.slots.start + 1);
        let is_pair = |&(a, b): &(SlotId, SlotId)| (a.index(), b.index()) == (high, low);
        let both = layout.coincidences().iter().position(is_pair).map(|at| layout.slots().len() + at);
        let weight = |slot: usize, value: u8| weights.of[slot * VALUES + usize::from(value)];
        let candidates = |slot: usize| {
            let mut values: Vec<u8> = (0..=255).filter(|&v| weight(slot, v) > 0.0).collect();
            values.sort_by(|&a, &b| weight(slot, b).total_cmp(&weight(slot, a)));
            values.truncate(CANDIDATES);
            values
        };
        let (mut best, mut volley) =
            (Strongest { field: field.name.clone(), values: vec![0, 0], weight: 0.0 }, Volley::default());
        for &h in &candidates(high) {
            if layout.slots()[high].group == Group::Ports && is_ephemeral(h) {
                // The low byte of ephemeral ports is masked.
                if weight(high, h) > best.weight {
                    best = Strongest { values: vec![h], weight: weight(high, h), ..best };
                }
                continue;
            }
            for &l in &candidates(low) {
                (volley.slots[high], volley.slots[low]) = (h.into(), l.into());
                let joint = both.map_or(0.0, |at| self.sum(&layout.inputs_of(&volley, at), weights.neuron) * weights.unit);
                let weight = weight(high, h) + weight(low, l) + joint;
                if weight > best.weight {
                    best = Strongest { values: vec![h, l], weight, ..best };
                }
            }
        }
        best
    }

    /// The picture as SVG: a row per header, a cell per slot, with the value that excites most above the one that inhibits most.
    pub fn draw(&self, class: &str, weights: &Weights) -> String {
        let largest = weights.largest().max(f32::MIN_POSITIVE);
        let mut rows: Vec<(&str, Vec<&Field>)> = Vec::new();
        for field in &self.fields {
            let header = header(&field.name);
            match rows.last_mut() {
                Some(last) if last.0 == header => last.1.push(field),
                _ => rows.push((header, vec![field])),
            }
        }
        let loud = |slot: SlotId| weights.extremes(slot).iter().any(|e| e.1.abs() >= LOUD * largest);
        rows.retain(|(_, fields)| fields.iter().any(|f| f.slots().any(loud)));
        let (mut y, mut cells) = (0.0, String::new());
        for (header, fields) in rows {
            let _ = writeln!(cells, "<text class=\"h\" x=\"0\" y=\"{}\">{}</text>", y + CELL_Y + 4.0, Text(header));
            let mut column = 0;
            for field in fields {
                let label = field.name.split_once('.').map_or(field.name.as_str(), |n| n.1);
                for part in field.slots().collect::<Vec<_>>().chunks(ROW) {
                    if column + part.len() > ROW {
                        (column, y) = (0, y + STEP);
                    }
                    let x = LABEL + column as f64 * CELL_X;
                    for (i, &slot) in part.iter().enumerate() {
                        self.cell(
                            &mut cells,
                            x + i as f64 * CELL_X,
                            y,
                            slot,
                            weights.extremes(slot).map(|(v, w)| (v, w / largest)),
                        );
                    }
                    let room = part.len() as f64 * CELL_X - 2.0;
                    let squeeze = if label.chars().count() as f64 * 4.6 > room {
                        format!(" textLength=\"{room}\" lengthAdjust=\"spacingAndGlyphs\"")
                    } else {
                        String::new()
                    };
                    let _ = writeln!(
                        cells,
                        "<text class=\"f\" x=\"{:.1}\" y=\"{:.1}\"{squeeze}>{}</text>",
                        x + 1.0,
                        y + 2.0 * CELL_Y + 9.0,
                        Text(label)
                    );
                    column += part.len();
                }
            }
            y += STEP;
        }
        let height = y.max(STEP);
        format!(
            "<svg class=\"field\" viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"Receptive field of {}; its strongest fields are in the table below\">\n{cells}</svg>\n",
            LABEL + ROW as f64 * CELL_X,
            Text(class)
        )
    }

    fn cell(&self, out: &mut String, x: f64, y: f64, slot: SlotId, extremes: [(u8, f32); 2]) {
        let _ = write!(out, "<path class=\"c\" d=\"M{x} {y}h{}v{}h-{0}z\"/>", CELL_X - 1.0, 2.0 * CELL_Y);
        for (sign, ((value, weight), top)) in ["e", "i"].iter().zip(extremes.into_iter().zip([y, y + CELL_Y])) {
            let level = (weight.abs() * 5.0).ceil().min(5.0);
            if weight.abs() < FAINT {
                continue;
            }
            let _ = write!(
                out,
                "<path class=\"{sign}{level}\" d=\"M{x} {top}h{}v{CELL_Y}h-{0}z\"/><text class=\"v{}\" x=\"{}\" y=\"{}\">{}</text>",
                CELL_X - 1.0,
                if level >= 4.0 { " w" } else { "" },
                x + (CELL_X - 1.0) / 2.0,
                top + CELL_Y - 3.5,
                Text(glyph(&self.model.layout.slots()[slot.index()].name, value)),
            );
        }
        out.push('\n');
    }
}

/// Number of values of each byte that are combined in the search of [`ReceptiveFields::pair`].
const CANDIDATES: usize = 12;
/// Largest number of cells in a row.
const ROW: usize = 16;
const LABEL: f64 = 50.0;
const CELL_X: f64 = 27.0;
const CELL_Y: f64 = 14.0;
const STEP: f64 = 42.0;
/// Weights below this share of the largest are not drawn.
const FAINT: f32 = 0.1;
/// Headers without a weight of at least this share of the largest are not drawn.
const LOUD: f32 = 0.3;

/// The header that a field belongs to.
fn header(field: &str) -> &str {
    match field.split('.').next().unwrap_or(field) {
        "eth" | "frame" => "link",
        _ if field == "tcp.options" => "options",
        other => other,
    }
}

/// Whether a slot holds a payload byte, folded or not.
fn is_payload(slot: &str) -> bool {
    slot.starts_with("payload[") || is_folded(slot)
}

/// Whether a slot holds a folded payload byte ([`Place::FoldedPayload`](crate::encode::Place::FoldedPayload)).
fn is_folded(slot: &str) -> bool {
    slot.starts_with("payload.folded[")
}

/// The value of a byte as a cell shows it: printable payload as a character, other values as numbers.
fn glyph(slot: &str, value: u8) -> String {
    match value {
        FOLDED if is_folded(slot) => "a–9".into(),
        _ if is_payload(slot) && value.is_ascii_graphic() => format!("‘{}’", value as char),
        _ => value.to_string(),
    }
}

/// The value of a field as a table shows it.
pub fn reading(field: &str, values: &[u8]) -> String {
    match (field, values) {
        ("tcp.flags", &[flags]) => {
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
            let set: Vec<&str> = (0..8).filter(|bit| flags >> bit & 1 == 1).map(|bit| names[bit]).collect();
            format!("{flags} ({})", set.join(" "))
        }
        ("eth.type", &[high, low]) => format!("0x{high:02x}{low:02x}"),
        ("ip.proto" | "ipv6.nxt", &[1]) => "1 (ICMP)".into(),
        ("ip.proto" | "ipv6.nxt", &[6]) => "6 (TCP)".into(),
        ("ip.proto" | "ipv6.nxt", &[17]) => "17 (UDP)".into(),
        ("ipv6.nxt", &[58]) => "58 (ICMPv6)".into(),
        ("icmp.type" | "icmp.code", &[255]) => "no message".into(),
        (field, &[FOLDED]) if is_folded(field) => "letter or digit".into(),
        (field, &[value]) if is_payload(field) && value.is_ascii_graphic() => format!("{value} ‘{}’", value as char),
        (field, &[high]) if field.ends_with("port") => format!("{} – {}", u16::from(high) << 8, u16::from(high) << 8 | 255),
        (_, &[value]) => value.to_string(),
        (_, &[high, low]) => (u16::from(high) << 8 | u16::from(low)).to_string(),
        (_, all) => all.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_the_weights() {
        let mut model = Model::built_in().unwrap();
        let layout = model.layout.clone();
        let (classes, inputs) = (model.classes.len(), layout.input_count());
        let slot = |name: &str| layout.slots().iter().position(|s| s.name == name).unwrap();
        let mut weights = vec![0i8; inputs * classes];
        let mut set = |slot: usize, value: usize, weight: i8| weights[(slot * VALUES + value) * classes + 3] = weight;
        set(slot("tcp.dstport[0]"), 1, 100);
        set(slot("tcp.dstport[1]"), 187, 27);
        set(slot("ip.ttl"), 64, -127);
        model.network = crate::snn::Network::from_parts(inputs, classes, &weights, vec![0.01; classes]);
        model.decision.theta = vec![2.0; classes];
        let receptive = ReceptiveFields::new(&model);
        let weights = receptive.weights(NeuronId::new(3));
        let first = &receptive.strongest(&weights)[0];
        assert_eq!((first.field.as_str(), reading(&first.field, &first.values).as_str()), ("tcp.dstport", "443"));
        assert_eq!(receptive.strongest(&receptive.weights(NeuronId::new(2)))[0].weight, 0.0);
        assert!((first.weight - 0.635).abs() < 1e-5, "100 + 27, times the scale, over the threshold");
        assert_eq!(weights.extremes(SlotId::from_index(slot("ip.ttl"))), [(0, 0.0), (64, -0.635)]);
        assert_eq!(receptive.weights(NeuronId::new(2)).largest(), 0.0);
        let picture = receptive.draw("a<b", &weights);
        assert!(picture.contains("a&lt;b") && picture.contains("class=\"i5\"") && picture.contains(">187<"));
        assert!(!picture.contains(">udp<"), "a header without weights is left out");
        assert!(receptive.draw("none", &receptive.weights(NeuronId::new(2))).contains("</svg>"));
    }

    #[test]
    fn values_are_written_as_is_usual_for_the_field() {
        assert_eq!(reading("tcp.flags", &[18]), "18 (SYN ACK)");
        assert_eq!(reading("tcp.srcport", &[0xc0]), "49152 – 49407");
        assert_eq!(reading("eth.type", &[8, 0]), "0x0800");
        assert_eq!(reading("payload[0]", b"<"), "60 ‘<’");
        assert_eq!(reading("payload.folded[8]", b"<"), "60 ‘<’");
        assert_eq!(reading("payload.folded[8]", b"x"), "letter or digit");
        assert_eq!(reading("ip.group", &[224, 0, 0, 251]), "224.0.0.251");
        assert_eq!(reading("icmp.type", &[255]), "no message");
    }
}
