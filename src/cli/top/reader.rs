//! The thread that reads and classifies for `spiked top`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use anyhow::Result;
use parking_lot::Mutex;

use crate::capture::live::LiveSource;
use crate::capture::{self, CaptureError, CaptureFile, Duplicates, Filtered, InputCounters, InterfaceNames, Source, printable};
use crate::cli::Exit;
use crate::cli::intake::is_file;
use crate::cli::live::{Interfaces, Limited, Limits};
use crate::engine::{self, EngineSettings, Observer, Output};
use crate::export::grouped;
use crate::model::Model;

use super::state::State;
use super::tape::{Recorded, Tape};
use super::work::Finder;

/// Nanoseconds without a packet after which a stream of a live source ends, and after which a closed one does. They are shorter than the
/// engine's, because a stream without a class is shown when it ends.
const LIVE_IDLE: u64 = 60_000_000_000;
const LIVE_CLOSED: u64 = 5_000_000_000;

/// What is read.
enum Input {
    Captures(Arc<[PathBuf]>),
    Interfaces(Vec<Arc<InputCounters>>),
}

/// The reading thread and what it shares with the screen.
pub struct Reader {
    pub settings: EngineSettings,
    pub state: Arc<Mutex<State>>,
    /// First packets of streams that can't be read again.
    pub tape: Arc<Mutex<Tape>>,
    /// Numbers of the interfaces that captures name.
    interfaces: Arc<InterfaceNames>,
    /// Interfaces or captures, for the title.
    pub name: String,
    filter: Option<String>,
    input: Input,
    /// Ends the reading.
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Opens captures or interfaces and starts to read.
    ///
    /// # Errors
    /// If a capture or none of the interfaces can be opened.
    pub fn open(captures: &[PathBuf], interfaces: &[String], filter: Option<&str>, mut settings: EngineSettings) -> Result<Self> {
        let live = !interfaces.is_empty() || captures.iter().any(|path| !is_file(path));
        if live {
            (settings.limits.idle, settings.limits.closed) = (LIVE_IDLE, LIVE_CLOSED);
        }
        let mut state = State::new(live);
        let kind = settings.models.load()[0].key;
        let tape = Arc::new(Mutex::new(Tape::new(kind, settings.intake)));
        let (input, name, opened);
        if interfaces.is_empty() {
            let expanded = capture::expand(captures)?;
            for path in expanded.captures.iter().filter(|path| is_file(path)) {
                CaptureFile::open(path)?;
            }
            name = match expanded.captures.as_slice() {
                [only] => printable(only),
                all => format!("{} captures", grouped(all.len() as u64)),
            };
            (input, opened) = (Input::Captures(expanded.captures.into()), None);
        } else {
            let (open, errors) = Interfaces::open(interfaces, filter)?;
            let failures = errors.iter().map(|error| (Exit::Partly, error.clone()));
            state.failures.extend(failures);
            let Some(open) = open else {
                let why = errors.join("; ");
                return Err(CaptureError::Interface { name: interfaces.join(", "), why }.into());
            };
            name = open.names.join(", ");
            input = Input::Interfaces(open.source.counters().to_vec());
            opened = Some((open.source, open.stop));
        }
        let mut reader = Self {
            settings,
            state: Arc::new(Mutex::new(state)),
            tape,
            interfaces: Arc::default(),
            name,
            filter: filter.map(Into::into),
            input,
            stop: Arc::default(),
            thread: None,
        };
        reader.start(opened)?;
        Ok(reader)
    }

    fn start(&mut self, interfaces: Option<(LiveSource, Arc<AtomicBool>)>) -> Result<()> {
        let thread = ReadingThread {
            settings: self.settings.clone(),
            state: Arc::clone(&self.state),
            tape: Arc::clone(&self.tape),
            interfaces: Arc::clone(&self.interfaces),
            filter: self.filter.clone(),
            stop: Arc::clone(&self.stop),
        };
        let captures = if let Input::Captures(captures) = &self.input { Arc::clone(captures) } else { Arc::new([]) };
        let body = move || match interfaces {
            Some((source, stop)) => thread.interfaces(source, stop),
            None => thread.captures(&captures),
        };
        self.thread = Some(std::thread::Builder::new().name("spiked-reader".into()).spawn(body)?);
        Ok(())
    }

    /// Finds the packets of its streams.
    pub fn finder(&self) -> Finder {
        Finder { tape: Arc::clone(&self.tape), intake: self.settings.intake, interfaces: Arc::clone(&self.interfaces) }
    }

    /// Packets that were dropped since they came too fast.
    pub fn dropped(&self) -> u64 {
        let Input::Interfaces(counters) = &self.input else { return 0 };
        let of =
            |c: &Arc<InputCounters>| c.kernel_drops.load(Relaxed) + c.interface_drops.load(Relaxed) + c.queue_drops.load(Relaxed);
        counters.iter().map(of).sum()
    }

    /// Goes on with another model; captures are read again. Returns what was done.
    pub fn go_on_with(&mut self, model: Model) -> &'static str {
        self.settings.models.store(Arc::new(vec![Arc::new(model)]));
        match &self.input {
            Input::Captures(captures) if captures.iter().all(|path| is_file(path)) => {
                self.wait();
                self.stop.store(false, Relaxed);
                self.state.lock().reset();
                match self.start(None) {
                    Ok(()) => "read again with the new model",
                    Err(_) => "can't be read again: no thread can be started",
                }
            }
            _ => "the new model classifies from now on",
        }
    }

    /// Ends the reading.
    fn wait(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Ends the reading and reports what could not be read on standard error. Returns the exit code.
    pub fn close(&mut self) -> Exit {
        self.wait();
        let state = self.state.lock();
        for (_, failure) in &state.failures {
            eprintln!("spiked: {failure}");
        }
        match state.failures.iter().map(|(exit, _)| *exit).max() {
            Some(worst) if state.packets == 0 => worst,
            Some(_) => Exit::Partly,
            None if state.packets == 0 && state.ended => Exit::Nothing,
            None => Exit::Ok,
        }
    }
}

/// What the reading thread works with.
struct ReadingThread {
    settings: EngineSettings,
    state: Arc<Mutex<State>>,
    tape: Arc<Mutex<Tape>>,
    interfaces: Arc<InterfaceNames>,
    filter: Option<String>,
    stop: Arc<AtomicBool>,
}

impl ReadingThread {
    fn captures(&self, captures: &[PathBuf]) {
        for path in captures {
            if self.stop.load(Relaxed) {
                return;
            }
            if let Err(error) = self.capture(path) {
                self.fail(Exit::of_capture(&error), error.to_string());
            }
        }
        self.state.lock().ended = true;
    }

    fn capture(&self, path: &Path) -> Result<(), CaptureError> {
        let stop = Arc::clone(&self.stop);
        let source = CaptureFile::open_live(path, move || stop.load(Relaxed))?.with_interfaces(&self.interfaces);
        let source = Filtered::new(source, self.filter.as_deref())?;
        let mut source = Duplicates::new(source, self.settings.intake.drop_duplicates);
        if is_file(path) {
            self.read(&mut source, Some(path.into()), None)?;
            if let Some(cut) = source.source().truncation().filter(|_| !self.stop.load(Relaxed)) {
                self.fail(Exit::Partly, format!("{}: {cut}", printable(path)));
            }
            return Ok(());
        }
        self.read(&mut Recorded { source, tape: Arc::clone(&self.tape) }, None, None)
    }

    fn interfaces(&self, source: LiveSource, stop: Arc<AtomicBool>) {
        let source = Duplicates::new(source, self.settings.intake.drop_duplicates);
        let mut source = Recorded { source, tape: Arc::clone(&self.tape) };
        if let Err(error) = self.read(&mut source, None, Some(stop)) {
            self.fail(Exit::of_capture(&error), error.to_string());
        }
    }

    fn read(
        &self,
        source: &mut dyn Source,
        capture: Option<Arc<Path>>,
        stop: Option<Arc<AtomicBool>>,
    ) -> Result<(), CaptureError> {
        let mut limits = Limits::new(Arc::clone(&self.stop), None, None);
        let mut limited = Limited { source, limits: &mut limits, stop };
        let mut observer = StateObserver { state: &self.state, capture };
        engine::run(&self.settings, &mut limited, &mut observer).map(drop)
    }

    fn fail(&self, exit: Exit, why: String) {
        self.state.lock().failures.push((exit, why));
    }
}

/// Puts the engine's output into the state.
struct StateObserver<'a> {
    state: &'a Mutex<State>,
    capture: Option<Arc<Path>>,
}

impl Observer for StateObserver<'_> {
    fn observe(&mut self, output: Output<'_>) {
        match output {
            Output::Verdict { verdict, .. } => self.state.lock().verdict(verdict, self.capture.as_ref()),
            Output::Episode(episode) => self.state.lock().episode(episode),
            Output::Progress(progress) => self.state.lock().progress(progress),
            Output::Packet(_) | Output::Spike { .. } => {}
        }
    }
}
