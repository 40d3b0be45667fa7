//! The terminal: raw mode and the alternate screen, left again however the program ends.

use std::io::{self, Write as _};
use std::panic;
use std::thread::ThreadId;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

/// A terminal in raw mode on the alternate screen, until it is dropped.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<io::Stdout>>,
}

impl Screen {
    /// Enters raw mode and the alternate screen.
    ///
    /// # Errors
    /// If standard output is not a terminal that can do it.
    pub fn open() -> io::Result<Self> {
        restore_on_panic(std::thread::current().id());
        enable_raw_mode()?;
        let screen = || -> io::Result<Self> {
            execute!(io::stdout(), EnterAlternateScreen)?;
            Ok(Self { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))? })
        };
        screen().inspect_err(|_| restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Leaves raw mode and the alternate screen. Errors are ignored: there is no other terminal to report them to.
fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = io::stdout().flush();
}

/// Restores the terminal before a panic of the thread `ui` is printed. The message of any other thread's panic would end up on the screen
/// and is left out: the engine counts what its workers lose.
fn restore_on_panic(ui: ThreadId) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == ui {
            restore();
            print(info);
        }
    }));
}
