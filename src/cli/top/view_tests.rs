//! Tests of the screen: what is drawn of a capture, and what the keys do, without a terminal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::super::reader::Reader;
use super::super::state::UnknownRow;
use super::super::ui::{Action, Lesson};
use super::*;
use crate::cli::intake::IntakeOptions;
use crate::engine::EngineSettings;
use crate::model::Model;

const PLAIN: Theme = Theme { colour: false, unicode: false };

/// The fixture with several protocols, read to its end.
fn mixed() -> Reader {
    let captures = [PathBuf::from("fixtures/captures/mixed.pcapng")];
    let settings = EngineSettings::new(vec![Arc::new(Model::built_in().unwrap())]);
    let reader = Reader::open(&captures, &[], None, settings).unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while !reader.state.lock().ended {
        assert!(Instant::now() < limit, "the capture is not read");
        std::thread::sleep(Duration::from_millis(5));
    }
    reader
}

fn drawn(state: &State, ui: &Ui, (width, height): (u16, u16), theme: Theme) -> Buffer {
    let header =
        Header { source: "mixed.pcapng", model: "protocols", classes: 124, elapsed: Duration::from_secs(61), dropped: 0 };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, ui, &header, theme)).unwrap();
    terminal.backend().buffer().clone()
}

fn text_of(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    cells.chunks(width).map(|row| row.concat().trim_end().to_string() + "\n").collect()
}

fn press(ui: &mut Ui, state: &State, code: KeyCode) -> Action {
    ui.key(KeyEvent::new(code, KeyModifiers::NONE), state)
}

#[test]
fn a_capture_at_80_by_24_without_colour() {
    let reader = mixed();
    let (state, ui) = (reader.state.lock(), Ui::new("mine.safetensors".into()));
    let buffer = drawn(&state, &ui, (80, 24), PLAIN);
    let text = text_of(&buffer);
    for shown in [
        "spiked top  mixed.pcapng",
        "protocols (124)",
        "1,746 packets",
        "267 kB",
        "0 dropped",
        "91 streams named   216 unknown   0 open   0:01:01   read to the end",
        "classes",
        "dns",
        "unknown, by server",
        "      16  unlike_any  10.12.2.1:4730 TCP",
        "     200  no_payload  10.12.2.1",
        "detections, newest first",
        "q quit",
    ] {
        assert!(text.contains(shown), "{shown}\n{text}");
    }
    assert_eq!(text.lines().count(), 24);
    assert_eq!(text.lines().filter(|line| line.starts_with('>')).count(), 1, "the selected detection\n{text}");
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset), "colours");
    assert!(text.is_ascii(), "{text}");
}

#[test]
fn colours_and_blocks_where_the_terminal_has_them() {
    let reader = mixed();
    let (state, ui) = (reader.state.lock(), Ui::new("mine.safetensors".into()));
    let buffer = drawn(&state, &ui, (120, 40), Theme { colour: true, unicode: true });
    assert!(buffer.content.iter().any(|cell| cell.fg == Color::Cyan));
    assert!(text_of(&buffer).contains('█'), "{}", text_of(&buffer));
}

#[test]
fn any_size_is_drawn() {
    let reader = mixed();
    let (state, mut ui) = (reader.state.lock(), Ui::new("mine.safetensors".into()));
    for code in [KeyCode::Null, KeyCode::Char('t')] {
        press(&mut ui, &state, code);
        for size in [(1, 1), (3, 2), (20, 5), (40, 10), (80, 3), (200, 60)] {
            drawn(&state, &ui, size, PLAIN);
        }
    }
}

#[test]
fn the_selection_stays_on_its_stream() {
    let reader = mixed();
    let (mut state, mut ui) = (reader.state.lock(), Ui::new("mine.safetensors".into()));
    press(&mut ui, &state, KeyCode::Down);
    press(&mut ui, &state, KeyCode::Down);
    let selected = state.detections[2].id;
    let mut newer = state.detections[0].clone();
    newer.id += 1;
    state.detections.push_front(newer);
    assert_eq!(state.detections[ui.detection(&state)].id, selected);
    press(&mut ui, &state, KeyCode::Home);
    assert_eq!(ui.detection(&state), 0);
    for _ in 0..50 {
        press(&mut ui, &state, KeyCode::PageDown);
    }
    assert_eq!(ui.detection(&state), state.detections.len() - 1);
    assert!(text_of(&drawn(&state, &ui, (80, 24), PLAIN)).contains("\n>"), "the selected row is in view");
}

#[test]
fn groups_of_one_server_are_selected_one_after_the_other() {
    let reader = mixed();
    let (mut state, mut ui) = (reader.state.lock(), Ui::new("mine.safetensors".into()));
    let row = state.unknown_rows()[0];
    let unsure = UnknownRow { server: row.server.clone(), reason: UnknownReason::Unsure, streams: 1, last: row.last.clone() };
    state.unknown.insert((unsure.server.clone(), unsure.reason as usize), unsure);
    press(&mut ui, &state, KeyCode::Tab);
    let rows = state.unknown_rows().len();
    for at in 1..rows {
        press(&mut ui, &state, KeyCode::Down);
        assert_eq!(ui.group(&state), at);
    }
}

#[test]
fn enter_explains_and_t_teaches() {
    let reader = mixed();
    let (state, folder) = (reader.state.lock(), tempfile::tempdir().unwrap());
    let out = folder.path().join("mine.safetensors");
    let mut ui = Ui::new(out.clone());
    let finder = reader.finder();
    let Action::Explain(stream) = press(&mut ui, &state, KeyCode::Enter) else { panic!("no stream is selected") };
    let found = finder.explain(&Model::built_in().unwrap(), stream.clone());
    ui.show(found.screen);
    let text = text_of(&drawn(&state, &ui, (80, 24), PLAIN));
    let class = &state.detections[0].class;
    for shown in [&format!("why: {}", stream.text), &format!("  {class}; nearest class {class}"), "potential"] {
        assert!(text.contains(shown), "{shown}\n{text}");
    }
    press(&mut ui, &state, KeyCode::Esc);
    press(&mut ui, &state, KeyCode::Tab);
    press(&mut ui, &state, KeyCode::Char('t'));
    assert_eq!(press(&mut ui, &state, KeyCode::Enter), Action::Nothing, "no class was typed");
    assert!(text_of(&drawn(&state, &ui, (80, 24), PLAIN)).contains("the class needs a name"));
    "gearman".chars().for_each(|c| _ = press(&mut ui, &state, KeyCode::Char(c)));
    let action = press(&mut ui, &state, KeyCode::Enter);
    let Action::Teach(lesson) = action else { panic!("{action:?}") };
    assert_eq!((lesson.class.as_str(), &lesson.out, lesson.force), ("gearman", &out, false));
    assert!(lesson.stream.text.contains(":4730"), "{lesson:?}");
    let taught = finder.teach(std::path::Path::new("protocols"), lesson.clone(), IntakeOptions::default());
    let lines = taught.screen.lines.join("\n");
    assert_eq!(taught.learned.as_ref(), Some(&out), "{lines}");
    assert!(lines.contains("built-in reference: claims 0 of"), "{lines}");
    assert!(lines.contains("16 streams are named gearman"), "{lines}");
    assert_eq!(Model::open(&out).unwrap().classes.len(), Model::built_in().unwrap().classes.len() + 1);
    let again = finder.teach(std::path::Path::new("protocols"), lesson, IntakeOptions::default());
    assert!(again.learned.is_none() && again.screen.lines[0].contains("exists already"), "{:?}", again.screen);
}

#[test]
fn a_lesson_without_payload_is_refused_unless_forced() {
    let reader = mixed();
    let (state, folder) = (reader.state.lock(), tempfile::tempdir().unwrap());
    let rows = state.unknown_rows();
    let silent = rows.iter().find(|row| row.reason == UnknownReason::NoPayload).unwrap();
    let out = folder.path().join("harm.safetensors");
    let lesson = Lesson { stream: silent.last.clone(), class: "knock".into(), out: out.clone(), force: false };
    let finder = reader.finder();
    let refused = finder.teach(std::path::Path::new("protocols"), lesson, IntakeOptions::default());
    assert!(refused.learned.is_none() && !out.exists());
    let mut ui = Ui::new(out.clone());
    ui.show(refused.screen);
    assert!(text_of(&drawn(&state, &ui, (80, 24), PLAIN)).contains("f write it nevertheless"));
    let Action::Teach(forced) = press(&mut ui, &state, KeyCode::Char('f')) else { panic!("not repeated") };
    assert!(forced.force);
    assert_eq!(finder.teach(std::path::Path::new("protocols"), forced, IntakeOptions::default()).learned, Some(out));
}
