//! Ctrl-C: the first one asks the work to stop, the next one ends the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// The exit status of a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// What Ctrl-C does, for as long as the program runs.
#[derive(Debug)]
pub(crate) struct CtrlC {
    /// Whether it ends the program.
    ends: Arc<AtomicBool>,
    /// What asks the work to stop.
    stop: Arc<AtomicBool>,
}

impl CtrlC {
    /// Ctrl-C ends the program, but [while](Self::catch) there is work to stop it sets `stop`.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(true));
        // In this order: what the second sets is what the first looks at.
        flag::register_conditional_shutdown(SIGINT, i32::from(EXIT_CODE), Arc::clone(&ends))?;
        flag::register(SIGINT, Arc::clone(&ends))?;
        flag::register(SIGINT, Arc::clone(&stop))?;
        Ok(Self { ends, stop })
    }

    /// Until the guard is dropped, one Ctrl-C only stops the work.
    pub(crate) fn catch(&self) -> Caught<'_> {
        self.stop.store(false, Ordering::SeqCst);
        self.ends.store(false, Ordering::SeqCst);
        Caught(self)
    }
}

/// Work that can be stopped.
#[derive(Debug)]
pub(crate) struct Caught<'a>(&'a CtrlC);

impl Drop for Caught<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::SeqCst);
        self.0.stop.store(false, Ordering::SeqCst);
    }
}
