//! Writing to standard output and standard error.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Writes a line to standard error. Styles are kept on terminals only.
pub(crate) fn note(line: &str) {
    // A closed standard error leaves nowhere to report the failure.
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Writes text to standard output. Styles are kept on terminals only.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a value to standard output as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes text to standard output piece by piece, flushing each.
///
/// If writing fails, it sets the flag that stops the work.
#[derive(Debug)]
pub(crate) struct TextStream {
    stop: Arc<AtomicBool>,
    failed: Option<io::Error>,
}

impl TextStream {
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, failed: None }
    }

    pub(crate) fn push(&mut self, piece: &str) {
        if self.failed.is_some() {
            return;
        }
        let mut stdout = io::stdout();
        if let Err(error) = stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()) {
            self.failed = Some(error);
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a line end, and returns the first error of any write.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.push("\n");
        self.failed.map_or(Ok(()), Err)
    }
}
