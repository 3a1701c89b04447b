//! Lines from an editor on a terminal.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::interrupt::Caught;
use crate::output::note;

const PROMPT: &str = "> ";
/// The editor may not listen yet when it is told to end.
const AGAIN: Duration = Duration::from_millis(50);

pub(in crate::cmd::chat) struct Editor {
    editor: DefaultEditor,
    /// Whether it waits for a line.
    is_reading: Arc<AtomicBool>,
}

impl Editor {
    pub(super) fn new(caught: &Caught<'_>) -> anyhow::Result<Self> {
        let is_reading = Arc::new(AtomicBool::new(false));
        let (wake, ends) = (caught.wake_by(&[SIGTERM, SIGHUP])?, caught.ends());
        let reading = Arc::clone(&is_reading);
        thread::spawn(move || end_reading(wake, &reading, &ends));
        Ok(Self { editor: DefaultEditor::new()?, is_reading })
    }

    pub(super) fn next(&mut self, caught: &Caught<'_>) -> anyhow::Result<Option<String>> {
        let mut interrupted = false;
        loop {
            // A Ctrl-C that came too late for the last answer.
            caught.resume();
            self.is_reading.store(true, Ordering::SeqCst);
            let line =
                if caught.is_terminated() { Err(ReadlineError::Eof) } else { self.editor.readline(PROMPT) };
            self.is_reading.store(false, Ordering::SeqCst);
            match line {
                Ok(line) => {
                    self.editor.add_history_entry(&line)?;
                    return Ok(Some(line));
                }
                Err(_) if caught.is_terminated() => return Ok(None),
                Err(ReadlineError::Interrupted) if !interrupted => {
                    interrupted = true;
                    note("(Ctrl-C again, or Ctrl-D, leaves.)");
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Ends the reading of a line when a signal comes. The editor returns for SIGINT alone, which it handles while it reads.
fn end_reading(mut wake: UnixStream, is_reading: &AtomicBool, ends: &AtomicBool) {
    while wake.read_exact(&mut [0]).is_ok() {
        while is_reading.load(Ordering::SeqCst) {
            // Should it not listen yet, our handler must not take this for a second signal.
            ends.store(false, Ordering::SeqCst);
            if kill_process(getpid(), Signal::INT).is_err() {
                return;
            }
            thread::sleep(AGAIN);
        }
    }
}
