//! `spiked top`: a live view of an interface or a capture in the terminal.
//!
//! One thread reads and classifies; the main thread draws what the first has put into the [`state`], and handles keys. Explanations and
//! lessons run in a thread of their own.

mod reader;
mod state;
mod tape;
mod terminal;
mod ui;
mod view;
mod work;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::capture::Filter;
use crate::engine::EngineSettings;
use crate::model::Model;

use super::intake::IntakeOptions;
use super::{Exit, live};
use reader::Reader;
use terminal::Screen;
use ui::{Action, Cover, TextScreen, Ui};
use view::{Header, Theme};
use work::Finished;

/// Longest wait for a key, after which rates are drawn again and signals are noticed.
const WAIT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colour {
    /// Unless the environment variable NO_COLOR is set
    Auto,
    Always,
    Never,
}

/// Shows live what an interface or a capture carries, in the terminal
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked top -i eth0                      an interface\n  \
    spiked top capture.pcap                 a capture; the view stays when it has been read\n  \
    ssh sensor tcpdump -w - | spiked top -  standard input\n  \
    spiked top -i eth0 -f 'not port 22'     without the ssh session it runs in\n\n\
    Keys:\n  \
    Up, Down, PageUp, PageDown, Home  select a detection or a server; Tab changes the list\n  \
    Enter  explains the selected stream: the fields that decided its class, with their values\n  \
    t      teaches from the selected stream, as `spiked learn` does: asks for a class and a model file, shows the harm check,\n         \
    and goes on with the new model; captures are read again with it\n  \
    q      quits, as Ctrl-C does\n\n\
    Of an interface, the first 32 packets of each stream are kept for explanations and lessons, up to 64 MiB. A stream without a class\n\
    is listed when it ends: 5 seconds after it was closed, or 60 seconds after its last packet.")]
pub struct Args {
    /// Captures, folders of them, or - for standard input
    #[arg(required_unless_present = "interface", value_name = "CAPTURE", help_heading = "Input")]
    captures: Vec<PathBuf>,
    /// Listens on this interface; may be repeated
    #[arg(long, short, value_name = "NAME", conflicts_with = "captures", help_heading = "Input")]
    interface: Vec<String>,
    /// Reads only packets that match this BPF filter (tcpdump syntax)
    #[arg(long, short, value_name = "BPF", help_heading = "Input")]
    filter: Option<String>,
    #[command(flatten)]
    intake: IntakeOptions,
    /// Model: a file, or the name of a built-in model
    #[arg(long, short, value_name = "MODEL", default_value = "protocols", help_heading = "Model")]
    model: PathBuf,
    /// Colours
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    color: Colour,
}

pub fn run(args: &Args) -> Result<Exit> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal on standard output; `spiked read` writes tables and events");
    }
    if let Some(expression) = &args.filter {
        Filter::new(expression)?;
    }
    let model = Model::open(&args.model)?;
    let mut settings = EngineSettings::new(vec![Arc::new(model)]);
    settings.intake = args.intake.intake()?;
    let reader = Reader::open(&args.captures, &args.interface, args.filter.as_deref(), settings)?;
    let out = if Model::is_built_in(&args.model) { Path::new("mine.safetensors") } else { &args.model };
    let mut top = Top {
        reader,
        ui: Ui::new(out.into()),
        model: args.model.clone(),
        intake: args.intake.clone(),
        theme: theme(args.color),
        start: Instant::now(),
        work: None,
    };
    let shown = top.show();
    let exit = top.reader.close();
    shown.context("the terminal")?;
    Ok(exit)
}

/// Colours and characters for this terminal.
fn theme(colour: Colour) -> Theme {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_string_lossy().to_uppercase();
    Theme {
        colour: match colour {
            Colour::Auto => set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            Colour::Always => true,
            Colour::Never => false,
        },
        unicode: locale.contains("UTF-8") || locale.contains("UTF8"),
    }
}

/// An explanation or a lesson in progress.
struct Work {
    thread: JoinHandle<Finished>,
    /// Whether it is a lesson.
    teaches: bool,
}

/// The running program.
struct Top {
    reader: Reader,
    ui: Ui,
    /// The model that classifies: a file, or the name of a built-in model.
    model: PathBuf,
    /// How packets are read, for lessons.
    intake: IntakeOptions,
    theme: Theme,
    start: Instant,
    work: Option<Work>,
}

impl Top {
    /// Draws and handles keys until the user or a signal ends it.
    fn show(&mut self) -> io::Result<()> {
        let stop = live::stop_on_signals();
        let mut screen = Screen::open()?;
        while !stop.load(Relaxed) {
            self.finish_work();
            self.draw(&mut screen)?;
            if !event::poll(WAIT)? {
                continue;
            }
            // A resized terminal is drawn again like any other.
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let action = self.ui.key(key, &self.reader.state.lock());
            if action == Action::Quit {
                break;
            }
            self.act(action);
        }
        Ok(())
    }

    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        let elapsed = self.start.elapsed();
        let models = self.reader.settings.models.load();
        let mut state = self.reader.state.lock();
        state.tick(elapsed);
        let header = Header {
            source: &self.reader.name,
            model: &models[0].name,
            classes: models[0].classes.len(),
            elapsed,
            dropped: self.reader.dropped(),
        };
        screen.terminal.draw(|frame| view::draw(frame, &state, &self.ui, &header, self.theme))?;
        Ok(())
    }

    /// Starts what a key asked for. It takes the place of an explanation that nobody waits for any more, but not of a lesson.
    fn act(&mut self, action: Action) {
        let finder = self.reader.finder();
        let model = Arc::clone(&self.reader.settings.models.load()[0]);
        let (file, intake) = (self.model.clone(), self.intake.clone());
        let teaches = matches!(action, Action::Teach(_));
        if !matches!(action, Action::Nothing | Action::Quit) && self.work.as_ref().is_some_and(|work| work.teaches) {
            let lines = vec!["its result is shown when it has ended".into()];
            self.ui.show(TextScreen { title: "a class is being learned".into(), lines, ..TextScreen::default() });
            return;
        }
        let thread = match action {
            Action::Explain(stream) => std::thread::spawn(move || finder.explain(&model, stream)),
            Action::Teach(lesson) => std::thread::spawn(move || finder.teach(&file, lesson, intake)),
            Action::Nothing | Action::Quit => return,
        };
        self.work = Some(Work { thread, teaches });
    }

    /// Shows the result of an explanation or a lesson that has ended, and goes on with a new model.
    fn finish_work(&mut self) {
        let Some(work) = self.work.take_if(|work| work.thread.is_finished()) else { return };
        let Finished { mut screen, learned } = work.thread.join().unwrap_or_else(|_| Finished {
            screen: TextScreen { title: "a mistake in the program".into(), ..TextScreen::default() },
            learned: None,
        });
        if let Some(file) = learned {
            match Model::open(&file) {
                Ok(model) => {
                    screen.lines.push(String::new());
                    screen.lines.push(self.reader.go_on_with(model).into());
                    (self.ui.out, self.model) = (file.clone(), file);
                }
                Err(error) => screen.lines.push(error.to_string()),
            }
            self.ui.show(screen);
        } else if work.teaches || matches!(self.ui.cover, Cover::Busy(_)) {
            self.ui.show(screen);
        }
    }
}
