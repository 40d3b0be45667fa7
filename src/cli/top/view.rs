//! Drawing of `spiked top`, in any terminal of 40 columns or more: without colour, selection and titles are shown in reverse video.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::cli::Exit;
use crate::export::grouped;
use crate::stream::UnknownReason;

use super::state::{COLUMNS, State};
use super::ui::{Cover, Form, List, TextScreen, Ui};

/// How the terminal is drawn on.
#[derive(Clone, Copy)]
pub struct Theme {
    pub colour: bool,
    /// Whether the terminal shows the block characters of sparklines.
    pub unicode: bool,
}

impl Theme {
    fn style(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Columns of a sparkline from lowest to highest; the first is 0.
    fn bars(self) -> [char; 9] {
        if self.unicode {
            [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        } else {
            [' ', '.', ':', '-', '=', '+', '*', '%', '#']
        }
    }
}

/// What is shown beside the state of the traffic.
pub struct Header<'a> {
    /// The interfaces or captures.
    pub source: &'a str,
    pub model: &'a str,
    pub classes: usize,
    /// Since the start.
    pub elapsed: Duration,
    /// Packets that were dropped before they could be read.
    pub dropped: u64,
}

const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, state: &State, ui: &Ui, header: &Header<'_>, theme: Theme) {
    let [title, counts, streams, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    bar(frame, title, &format!("spiked top  {}", header.source), &format!("{} ({})", header.model, header.classes));
    frame.render_widget(counts_line(state, header, theme), counts);
    frame.render_widget(streams_line(state, header, theme), streams);
    let help = match &ui.cover {
        Cover::Overview => {
            overview(frame, body, state, ui, theme);
            "Enter explain  t teach  Tab list  Up/Down select  q quit"
        }
        Cover::Busy(what) => {
            bar(frame, first_row(body), &format!("{what} ..."), "");
            "Esc back  Ctrl-C quit"
        }
        Cover::Text(screen) => {
            text(frame, body, screen);
            match (&screen.stream, &screen.refused) {
                (Some(_), _) => "t teach from this stream  Up/Down scroll  Esc back",
                (_, Some(_)) => "f write it nevertheless  Up/Down scroll  Esc back",
                _ => "Up/Down scroll  Esc back",
            }
        }
        Cover::Form(form) => {
            draw_form(frame, body, form, theme);
            "Enter learn  Tab other field  Esc cancel"
        }
    };
    frame.render_widget(Line::styled(help, BOLD), keys);
}

fn counts_line(state: &State, header: &Header<'_>, theme: Theme) -> Line<'static> {
    let counts = format!(
        "{} packets {:.0}/s   {} {}/s   ",
        grouped(state.packets),
        state.rates.packets,
        bytes(state.bytes as f64),
        bytes(state.rates.bytes)
    );
    let dropped = format!("{} dropped", grouped(header.dropped));
    let style = if header.dropped > 0 { theme.style(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
    let mut spans = vec![counts.into(), Span::styled(dropped, style)];
    if state.undecodable > 0 {
        spans.push(format!("   {} skipped", grouped(state.undecodable)).into());
    }
    if state.evicted > 0 {
        spans.push(format!("   {} streams cut short", grouped(state.evicted)).into());
    }
    Line::from(spans)
}

fn streams_line(state: &State, header: &Header<'_>, theme: Theme) -> Line<'static> {
    let seconds = header.elapsed.as_secs();
    let mut spans = vec![
        format!(
            "{} streams named   {} unknown   {} open   {}:{:02}:{:02}",
            grouped(state.named),
            grouped(state.unnamed),
            grouped(state.live() as u64),
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
        .into(),
    ];
    if let Some((exit, failure)) = state.failures.last() {
        let colour = if *exit == Exit::Ok { Color::Yellow } else { Color::Red };
        spans.push(Span::styled(format!("   {failure}"), theme.style(colour)));
    } else if state.ended {
        spans.push(Span::styled("   read to the end", theme.style(Color::Green)));
    }
    Line::from(spans)
}

/// Classes beside episodes and unknown streams, above detections.
fn overview(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui, theme: Theme) {
    let [above, below] = Layout::vertical([Constraint::Percentage(55), Constraint::Min(0)]).areas(area);
    let [left, _, right] =
        Layout::horizontal([Constraint::Percentage(47), Constraint::Length(1), Constraint::Min(0)]).areas(above);
    classes(frame, left, state, theme);
    let shown = state.episodes.len().clamp(1, 4.max(usize::from(right.height) / 3)) as u16;
    let [top, bottom] = Layout::vertical([Constraint::Length(shown + 1), Constraint::Min(0)]).areas(right);
    episodes(frame, top, state, theme);
    unknown(frame, bottom, state, ui, theme);
    detections(frame, below, state, ui, theme);
}

fn classes(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    bar(frame, first_row(area), "classes", &state.span());
    let width = usize::from(area.width);
    let rows = state.classes();
    let longest = rows.iter().map(|(class, _)| class.chars().count()).max().unwrap_or(0).max(16);
    let name = width.saturating_sub(COLUMNS + 11).clamp(6, longest);
    let fits = usize::from(area.height.saturating_sub(1));
    for (number, (class, row)) in rows.iter().enumerate().take(fits) {
        let line = if number + 1 == fits && rows.len() > fits {
            Line::from(format!("{} more classes", rows.len() - number))
        } else {
            Line::from(vec![
                Span::styled(format!("{:<name$}", cut(class, name)), theme.style(Color::Cyan)),
                format!(" {:>9} ", grouped(row.streams)).into(),
                Span::styled(sparkline(&row.history, theme), theme.style(Color::Green)),
            ])
        };
        frame.render_widget(line, row_of(area, number + 1));
    }
    if rows.is_empty() {
        frame.render_widget(Line::from("no stream has a class so far"), row_of(area, 1));
    }
}

fn episodes(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    bar(frame, first_row(area), "episodes", "");
    for (number, episode) in state.episodes.iter().enumerate() {
        let mark = if episode.lasts { "* " } else { "  " };
        let style = if episode.lasts { theme.style(Color::Red) } else { Style::new() };
        frame.render_widget(Line::styled(format!("{mark}{}", episode.text), style), row_of(area, number + 1));
    }
    if state.episodes.is_empty() {
        frame.render_widget(Line::from("none"), row_of(area, 1));
    }
}

fn unknown(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui, theme: Theme) {
    let selected = (ui.list == List::Unknown).then(|| ui.group(state));
    bar(frame, first_row(area), "unknown, by server", if selected.is_some() { "<" } else { "" });
    let rows = state.unknown_rows();
    for (line, number) in visible(rows.len(), selected, area).enumerate() {
        let row = rows[number];
        let colour = if row.reason == UnknownReason::NoPayload { Color::DarkGray } else { Color::Yellow };
        let text = format!("{:>8}  {:<10}  {}", grouped(row.streams), row.reason.name(), row.server);
        list_row(frame, row_of(area, line + 1), vec![Span::styled(text, theme.style(colour))], selected == Some(number));
    }
    if rows.is_empty() {
        frame.render_widget(Line::from("no stream has ended without a class"), row_of(area, 1));
    }
}

fn detections(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui, theme: Theme) {
    let selected = (ui.list == List::Detections).then(|| ui.detection(state));
    bar(frame, first_row(area), "detections, newest first", if selected.is_some() { "<" } else { "" });
    for (line, number) in visible(state.detections.len(), selected, area).enumerate() {
        let row = &state.detections[number];
        let seconds = row.time.0 / 1_000_000_000 % 86_400;
        let time = format!("{:02}:{:02}:{:02}  ", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let spans = vec![
            time.into(),
            Span::styled(format!("{:<16}", cut(&row.class, 16)), theme.style(Color::Cyan)),
            format!("  {:.3}  {}", row.confidence, row.stream.text).into(),
        ];
        list_row(frame, row_of(area, line + 1), spans, selected == Some(number));
    }
    if state.detections.is_empty() {
        frame.render_widget(Line::from("none so far"), row_of(area, 1));
    }
}

fn text(frame: &mut Frame<'_>, area: Rect, screen: &TextScreen) {
    bar(frame, first_row(area), &screen.title, "");
    let width = usize::from(area.width).max(1);
    let wrapped = screen.lines.iter().skip(screen.scroll).flat_map(|line| wrap(line, width, if width > 20 { 4 } else { 0 }));
    for (number, line) in wrapped.enumerate().take(usize::from(area.height.saturating_sub(1))) {
        frame.render_widget(Line::from(line), row_of(area, number + 1));
    }
}

fn draw_form(frame: &mut Frame<'_>, area: Rect, form: &Form, theme: Theme) {
    bar(frame, first_row(area), &format!("teach from {}", form.stream.text), "");
    for (number, name) in ["class", "model file"].into_iter().enumerate() {
        let row = row_of(area, 2 + number);
        let style = if form.at == number { BOLD } else { Style::new() };
        frame.render_widget(Line::styled(format!("{name:<12}{}", form.fields[number]), style), row);
        if form.at == number {
            let at = 12 + form.fields[number].chars().count() as u16;
            frame.set_cursor_position((row.x + at.min(row.width.saturating_sub(1)), row.y));
        }
    }
    frame.render_widget(Line::styled(form.wrong.clone(), theme.style(Color::Red)), row_of(area, 5));
    let about = "The stream's first packets with payload teach the class. Before the model is written, the class is checked on the streams of \
                 other classes that are built into the program, and on those of the capture.";
    for (number, line) in wrap(about, usize::from(area.width).max(1), 0).into_iter().enumerate() {
        frame.render_widget(Line::from(line), row_of(area, 7 + number));
    }
}

/// Rows of a list that fit below its title, around the selected one.
fn visible(rows: usize, selected: Option<usize>, area: Rect) -> std::ops::Range<usize> {
    let fits = usize::from(area.height.saturating_sub(1));
    let start = selected.map_or(0, |at| (at + 1).saturating_sub(fits));
    start..rows.min(start + fits)
}

/// A row of a list, with a mark where it is selected.
fn list_row(frame: &mut Frame<'_>, area: Rect, mut spans: Vec<Span<'_>>, selected: bool) {
    spans.insert(0, if selected { ">" } else { " " }.into());
    let line = if selected {
        let text: String = spans.iter().map(|span| span.content.as_ref()).collect();
        Line::styled(format!("{text:<0$}", usize::from(area.width)), REVERSED)
    } else {
        Line::from(spans)
    };
    frame.render_widget(line, area);
}

/// A title in reverse video, over the whole width.
fn bar(frame: &mut Frame<'_>, area: Rect, left: &str, right: &str) {
    let width = usize::from(area.width);
    let left = cut(left, width.saturating_sub(right.chars().count() + 1));
    let fill = width.saturating_sub(left.chars().count() + right.chars().count());
    frame.render_widget(Line::styled(format!("{left}{:fill$}{right}", ""), REVERSED), area);
}

fn first_row(area: Rect) -> Rect {
    row_of(area, 0)
}

/// One row of an area; an empty one where the area is not so high.
fn row_of(area: Rect, number: usize) -> Rect {
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    if number >= area.height {
        return Rect { height: 0, ..area };
    }
    Rect { y: area.y + number, height: 1, ..area }
}

/// The first `width` characters, the last of them `~` if there are more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('~');
    cut
}

/// The lines that a text takes in a width; continued lines are indented by less than that.
fn wrap(line: &str, width: usize, indent: usize) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), line.to_string());
    while rest.chars().count() > width {
        let end = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
        let at = rest[..end].rfind(' ').filter(|&at| at > indent).unwrap_or(end);
        lines.push(rest[..at].to_string());
        rest = format!("{:indent$}{}", "", rest[at..].trim_start());
    }
    lines.push(rest);
    lines
}

fn sparkline(history: &[u64; COLUMNS], theme: Theme) -> String {
    let (bars, most) = (theme.bars(), history.iter().copied().max().unwrap_or(0).max(1));
    history.iter().map(|&count| bars[(count * 8).div_ceil(most) as usize]).collect()
}

/// Bytes in the largest decimal unit: `251 kB`.
fn bytes(count: f64) -> String {
    let mut scaled = count;
    for unit in ["B", "kB", "MB", "GB"] {
        if scaled < 1000.0 {
            let digits = usize::from(unit != "B" && scaled < 10.0);
            return format!("{scaled:.digits$} {unit}");
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.1} TB")
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
