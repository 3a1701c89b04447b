//! Reads lines with a line editor on a terminal.

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

use crate::interrupt::SignalGuard;
use crate::output::note;

const PROMPT: &str = "> ";
/// Interval at which the editor is interrupted again, because it may not have installed its handler yet.
const RESEND_INTERVAL: Duration = Duration::from_millis(50);

/// A line editor.
pub(crate) struct Editor {
    editor: DefaultEditor,
    /// Whether the editor is reading a line.
    is_reading: Arc<AtomicBool>,
}

impl Editor {
    pub(super) fn new(guard: &SignalGuard<'_>) -> anyhow::Result<Self> {
        let is_reading = Arc::new(AtomicBool::new(false));
        let (wake, exits) = (guard.wake_stream(&[SIGTERM, SIGHUP])?, guard.exit_flag());
        let reading = Arc::clone(&is_reading);
        thread::spawn(move || end_reading(wake, &reading, &exits));
        Ok(Self { editor: DefaultEditor::new()?, is_reading })
    }

    pub(super) fn next(&mut self, guard: &SignalGuard<'_>) -> anyhow::Result<Option<String>> {
        let mut interrupted = false;
        loop {
            // Drops a Ctrl-C that arrived after the end of the last answer.
            guard.clear_interrupt();
            self.is_reading.store(true, Ordering::SeqCst);
            let line =
                if guard.is_terminated() { Err(ReadlineError::Eof) } else { self.editor.readline(PROMPT) };
            self.is_reading.store(false, Ordering::SeqCst);
            match line {
                Ok(line) => {
                    self.editor.add_history_entry(&line)?;
                    return Ok(Some(line));
                }
                Err(_) if guard.is_terminated() => return Ok(None),
                Err(ReadlineError::Interrupted) if !interrupted => {
                    interrupted = true;
                    note("(Press Ctrl-C again or Ctrl-D to exit.)");
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Interrupts the reading of a line on SIGTERM and SIGHUP. The editor only handles SIGINT, so that is sent instead.
fn end_reading(mut wake: UnixStream, is_reading: &AtomicBool, exits: &AtomicBool) {
    while wake.read_exact(&mut [0]).is_ok() {
        while is_reading.load(Ordering::SeqCst) {
            // If the editor has no handler yet, ours must not count this as a second signal.
            exits.store(false, Ordering::SeqCst);
            if kill_process(getpid(), Signal::INT).is_err() {
                return;
            }
            thread::sleep(RESEND_INTERVAL);
        }
    }
}
