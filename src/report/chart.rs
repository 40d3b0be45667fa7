//! Small SVG plots with axes, coloured by the style sheet.

use std::fmt::Write as _;

use super::markup::Text;

/// An axis: its title, and its ticks in ascending order.
pub struct Axis {
    pub title: &'static str,
    /// (value, label); the first and the last are the ends of the axis.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis of shares, 0 to 1, labelled in per cent.
    pub fn share(title: &'static str) -> Self {
        Self { title, ticks: (0..=5).map(|i| (f64::from(i) / 5.0, format!("{}", i * 20))).collect() }
    }

    /// An axis from 0 to a round number that is at least `largest`, in at most five steps; labels are multiplied by `scale`.
    pub fn upto(title: &'static str, largest: f64, scale: f64) -> Self {
        let largest = if largest > 0.0 { largest } else { 1.0 };
        let step = round_step(largest);
        let steps = (largest / step - 0.001).ceil().max(1.0) as usize;
        let places = if step * scale < 0.1 { 2 } else { usize::from((step * scale).fract() > 1e-9) };
        let ticks = (0..=steps).map(|i| i as f64 * step).map(|at| (at, format!("{:.places$}", at * scale))).collect();
        Self { title, ticks }
    }

    /// An axis with evenly spaced names.
    pub fn named(title: &'static str, names: impl IntoIterator<Item = String>) -> Self {
        Self { title, ticks: (0u32..).map(f64::from).zip(names).collect() }
    }

    /// Position of a value between the ends, 0 to 1. Values beyond an end are placed at that end.
    fn place(&self, value: f64) -> f64 {
        let ends = (self.ticks.first().map_or(0.0, |t| t.0), self.ticks.last().map_or(1.0, |t| t.0));
        if ends.1 <= ends.0 || !value.is_finite() {
            return 0.5;
        }
        ((value - ends.0) / (ends.1 - ends.0)).clamp(0.0, 1.0)
    }
}

/// The smallest round step with which at most five steps cover `range`, which must be above 0.
pub fn round_step(range: f64) -> f64 {
    let power = 10f64.powf((range / 5.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|s| s * power).into_iter().find(|s| s * 5.0 >= range * 0.999).unwrap_or(power)
}

/// A plot and its marks.
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    marks: String,
}

/// Size of the plot and margins of the plotted area, in units of the picture.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 50.0;

impl Chart {
    /// An empty plot; `title` is its text for screen readers.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self { title: title.into(), x, y, marks: String::new() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM))
    }

    /// Adds a line through points; `class` is a class of the style sheet.
    pub fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (i, (x, y)) in points.into_iter().enumerate() {
            let (x, y) = self.at(x, y);
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = writeln!(self.marks, "<path class=\"line {class}\" d=\"{path}\"/>");
    }

    /// Adds a dot with its interval and the tooltip `what`.
    pub fn dot(&mut self, (x, y): (f64, f64), interval: Option<(f64, f64)>, what: &str) {
        let (cx, cy) = self.at(x, y);
        if let Some((low, high)) = interval {
            let (low, high) = (self.at(x, low).1, self.at(x, high).1);
            let _ = writeln!(self.marks, "<path class=\"whisker\" d=\"M{cx:.1} {low:.1}V{high:.1}\"/>");
        }
        let _ = writeln!(self.marks, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4.5\"><title>{}</title></circle>", Text(what));
    }

    /// Adds a bar at the tick `x` of a named axis, with `value` above it.
    pub fn bar(&mut self, x: f64, y: f64, value: &str) {
        let steps = self.x.ticks.len() as f64;
        let width = ((WIDTH - LEFT - RIGHT) / steps * 0.72).max(1.0);
        let middle = LEFT + (self.x.place(x) * (steps - 1.0) + 0.5) / steps * (WIDTH - LEFT - RIGHT);
        let (top, bottom) = (self.at(x, y).1, self.at(x, 0.0).1);
        let _ = writeln!(
            self.marks,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\
             <text class=\"m\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"m\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>",
            middle - width / 2.0,
            (bottom - top).max(0.0),
            (top - 4.0).max(10.0),
            Text(value),
            bottom + 16.0,
            self.x.ticks.iter().find(|t| t.0 == x).map_or("", |t| t.1.as_str()),
        );
    }

    /// The plot as SVG; with `bars` the bars carry the labels of the first axis.
    pub fn draw(&self, bars: bool) -> String {
        let mut out =
            format!("<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", Text(&self.title));
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (place, label) in &self.y.ticks {
            let (_, y) = self.at(0.0, *place);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"e\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                Text(label)
            );
        }
        if !bars {
            for (place, label) in &self.x.ticks {
                let (x, _) = self.at(*place, 0.0);
                let _ = writeln!(
                    out,
                    "<path class=\"tick\" d=\"M{x:.1} {bottom}v5\"/><text class=\"m\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                    bottom + 18.0,
                    Text(label)
                );
            }
        }
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n\
             <text class=\"m t\" x=\"{}\" y=\"{}\">{}</text>\n\
             <text class=\"m t\" transform=\"translate(14 {}) rotate(-90)\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 10.0,
            Text(self.x.title),
            (TOP + bottom) / 2.0,
            Text(self.y.title)
        );
        out + &self.marks + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let labels = |largest, scale| -> Vec<String> { Axis::upto("", largest, scale).ticks.into_iter().map(|t| t.1).collect() };
        assert_eq!(labels(0.043, 100.0), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(labels(17.0, 1.0), ["0", "5", "10", "15", "20"]);
        assert_eq!(labels(0.0, 1.0).len(), 6);
    }

    proptest! {
        #[test]
        fn every_point_lies_within_the_plot(points in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 1..20), largest in 0.0f64..1e9) {
            let mut chart = Chart::new("t", Axis::share("x"), Axis::upto("y", largest, 1.0));
            chart.line("a", points.iter().copied());
            let path = chart.marks.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
            for pair in path.split(['M', 'L']).skip(1) {
                let (x, y) = pair.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                prop_assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{x} {y}");
            }
        }
    }
}
