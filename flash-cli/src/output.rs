//! Writing to standard output and standard error.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// A line for the person, beside what the program puts out. Styles are kept on terminals only.
pub(crate) fn note(line: &str) {
    // There is nowhere left to say that standard error is gone.
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// A whole answer. Styles are kept on terminals only.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A whole answer as one JSON object in one line.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Text that goes to standard output piece by piece, each at once.
///
/// When nobody reads any more, it asks the work to stop.
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

    /// Ends the last line.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.push("\n");
        self.failed.map_or(Ok(()), Err)
    }
}
