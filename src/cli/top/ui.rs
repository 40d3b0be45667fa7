//! What the keys do: the selection, the screen that is open, and what the program is asked for. Independent of the terminal.

use std::path::{Path, PathBuf};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{State, StreamRef, UnknownRow};
use crate::stream::UnknownReason;

/// A list whose rows can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Detections,
    Unknown,
}

/// A text that covers the overview.
#[derive(Clone, Debug, Default)]
pub struct TextScreen {
    pub title: String,
    pub lines: Vec<String>,
    /// First line shown.
    pub scroll: usize,
    /// A refused lesson, which `f` repeats without the harm check.
    pub refused: Option<Lesson>,
    /// The stream that it explains, which `t` teaches from.
    pub stream: Option<StreamRef>,
}

/// What is to be learned from a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    pub stream: StreamRef,
    pub class: String,
    pub out: PathBuf,
    /// Writes the model even if the class does harm.
    pub force: bool,
}

/// The form that asks what a stream's class is called and where the model is written.
#[derive(Clone, Debug)]
pub struct Form {
    pub stream: StreamRef,
    /// Class and file.
    pub fields: [String; 2],
    /// The field that is edited.
    pub at: usize,
    /// Why the fields can't be used.
    pub wrong: String,
}

/// What covers the screen.
#[derive(Clone, Debug)]
pub enum Cover {
    Overview,
    /// Work in progress, with its name.
    Busy(String),
    Text(TextScreen),
    Form(Form),
}

/// What a key asks the program to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Nothing,
    Quit,
    Explain(StreamRef),
    Teach(Lesson),
}

/// The state of the screen.
pub struct Ui {
    pub list: List,
    /// The selected detection by its number; `None` for the newest, which is the first of the list.
    detection: Option<u64>,
    /// The selected group of unknown streams by its server and reason; `None` for the first.
    group: Option<(String, UnknownReason)>,
    pub cover: Cover,
    /// The file that a taught model is written to, unless another is typed; after a lesson the file of that lesson, which the next extends.
    pub out: PathBuf,
}

impl Ui {
    /// The overview, with the newest detection selected.
    pub fn new(out: PathBuf) -> Self {
        Self { list: List::Detections, detection: None, group: None, cover: Cover::Overview, out }
    }

    /// Index of the selected detection; the newest in the place of one that is no longer kept.
    pub fn detection(&self, state: &State) -> usize {
        self.detection.and_then(|id| state.detections.iter().position(|row| row.id == id)).unwrap_or(0)
    }

    /// Index of the selected group of unknown streams.
    pub fn group(&self, state: &State) -> usize {
        let rows = state.unknown_rows();
        let is = |row: &UnknownRow, (server, reason): &(String, UnknownReason)| row.server == *server && row.reason == *reason;
        self.group.as_ref().and_then(|group| rows.iter().position(|row| is(row, group))).unwrap_or(0)
    }

    /// The selected stream; of a group of unknown streams the most recent one.
    fn stream(&self, state: &State) -> Option<StreamRef> {
        match self.list {
            List::Detections => state.detections.get(self.detection(state)).map(|row| row.stream.clone()),
            List::Unknown => state.unknown_rows().get(self.group(state)).map(|row| row.last.clone()),
        }
    }

    /// Shows a text.
    pub fn show(&mut self, screen: TextScreen) {
        self.cover = Cover::Text(screen);
    }

    /// Handles a key.
    pub fn key(&mut self, key: KeyEvent, state: &State) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        match &mut self.cover {
            Cover::Overview => self.overview_key(key.code, state),
            // The work can't be interrupted. After Esc the result of an explanation is not shown, that of a lesson is.
            Cover::Busy(_) => {
                if matches!(key.code, KeyCode::Esc | KeyCode::Char('q')) {
                    self.cover = Cover::Overview;
                }
                Action::Nothing
            }
            Cover::Text(screen) => {
                let action = text_key(screen, key.code);
                match (action, &screen.stream) {
                    (TextAction::Close, _) => self.cover = Cover::Overview,
                    (TextAction::Teach, Some(stream)) => self.cover = form(stream.clone(), &self.out),
                    (TextAction::Force, _) => {
                        if let Some(lesson) = screen.refused.take() {
                            return self.teach(Lesson { force: true, ..lesson });
                        }
                    }
                    (TextAction::Scroll | TextAction::Teach, _) => {}
                }
                Action::Nothing
            }
            Cover::Form(form) => match form_key(form, key) {
                FormAction::Edit => Action::Nothing,
                FormAction::Close => {
                    self.cover = Cover::Overview;
                    Action::Nothing
                }
                FormAction::Learn(lesson) => self.teach(lesson),
            },
        }
    }

    fn teach(&mut self, lesson: Lesson) -> Action {
        self.cover = Cover::Busy(format!("learning {}", lesson.class));
        Action::Teach(lesson)
    }

    fn overview_key(&mut self, code: KeyCode, state: &State) -> Action {
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
                self.list = if self.list == List::Detections { List::Unknown } else { List::Detections };
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(state, -1),
            KeyCode::Down | KeyCode::Char('j') => self.select(state, 1),
            KeyCode::PageUp => self.select(state, -10),
            KeyCode::PageDown => self.select(state, 10),
            KeyCode::Home => (self.detection, self.group) = (None, None),
            KeyCode::Enter => {
                if let Some(stream) = self.stream(state) {
                    self.cover = Cover::Busy("explaining".into());
                    return Action::Explain(stream);
                }
            }
            KeyCode::Char('t') => {
                if let Some(stream) = self.stream(state) {
                    self.cover = form(stream, &self.out);
                }
            }
            _ => {}
        }
        Action::Nothing
    }

    /// Moves the selection by rows.
    fn select(&mut self, state: &State, by: isize) {
        match self.list {
            List::Detections => {
                let at = moved(self.detection(state), by, state.detections.len());
                // The newest stays selected when others arrive.
                self.detection = if at == 0 { None } else { state.detections.get(at).map(|row| row.id) };
            }
            List::Unknown => {
                let rows = state.unknown_rows();
                let at = moved(self.group(state), by, rows.len());
                self.group = if at == 0 { None } else { rows.get(at).map(|row| (row.server.clone(), row.reason)) };
            }
        }
    }
}

/// An index moved within a list.
fn moved(at: usize, by: isize, length: usize) -> usize {
    at.saturating_add_signed(by).min(length.saturating_sub(1))
}

fn form(stream: StreamRef, out: &Path) -> Cover {
    Cover::Form(Form { stream, fields: [String::new(), out.display().to_string()], at: 0, wrong: String::new() })
}

/// What a key does on a text.
#[derive(Clone, Copy)]
enum TextAction {
    Scroll,
    Close,
    Teach,
    Force,
}

fn text_key(screen: &mut TextScreen, code: KeyCode) -> TextAction {
    let by = match code {
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => return TextAction::Close,
        KeyCode::Char('t') => return TextAction::Teach,
        KeyCode::Char('f') => return TextAction::Force,
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -10,
        KeyCode::PageDown | KeyCode::Char(' ') => 10,
        _ => 0,
    };
    screen.scroll = moved(screen.scroll, by, screen.lines.len());
    TextAction::Scroll
}

/// What a key does in the form.
enum FormAction {
    Edit,
    Close,
    Learn(Lesson),
}

fn form_key(form: &mut Form, key: KeyEvent) -> FormAction {
    let field = &mut form.fields[form.at];
    match key.code {
        KeyCode::Esc => return FormAction::Close,
        KeyCode::Tab | KeyCode::BackTab | KeyCode::Up | KeyCode::Down => form.at = 1 - form.at,
        KeyCode::Backspace => _ = field.pop(),
        KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => field.clear(),
        KeyCode::Char(c) if !c.is_control() && !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => {
            field.push(c);
        }
        KeyCode::Enter => {
            let [class, out] = form.fields.clone().map(|field| field.trim().to_string());
            if class.is_empty() {
                form.at = 0;
                form.wrong = "the class needs a name".into();
            } else if out.is_empty() {
                form.at = 1;
                form.wrong = "the model needs a file".into();
            } else {
                return FormAction::Learn(Lesson { stream: form.stream.clone(), class, out: out.into(), force: false });
            }
        }
        _ => {}
    }
    FormAction::Edit
}
