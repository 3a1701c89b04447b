//! Consumers of engine events: a trace file, and a progress bar for long prompts on a terminal.

mod progress;
mod trace_file;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use flash_model::Event;

use progress::Progress;
use trace_file::TraceFile;

/// A thread that receives engine events.
#[derive(Debug)]
pub(crate) struct Listener {
    trace: Option<PathBuf>,
    thread: JoinHandle<io::Result<()>>,
}

impl Listener {
    /// Starts the thread if standard error is a terminal, or there is a file to `trace` to. `bundles` are the bundle
    /// names of the model.
    pub(crate) fn start(
        trace: Option<PathBuf>,
        bundles: impl Iterator<Item = String>,
    ) -> anyhow::Result<Option<(Self, Sender<Event>)>> {
        let progress = io::stderr().is_terminal().then(Progress::default);
        if trace.is_none() && progress.is_none() {
            return Ok(None);
        }
        let file = match &trace {
            Some(path) => {
                Some(TraceFile::create(path, bundles.collect()).with_context(|| cannot_write(path))?)
            }
            None => None,
        };
        let (sender, events) = channel();
        let thread = thread::spawn(move || listen(&events, file, progress));
        Ok(Some((Self { trace, thread }, sender)))
    }

    /// Waits until all events are written. All senders must have been dropped.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Self { trace, thread } = self;
        let outcome = thread.join().unwrap_or_else(|_| Err(io::Error::other("its writer panicked")));
        outcome.with_context(|| trace.as_deref().map_or_else(String::new, cannot_write))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

fn listen(
    events: &Receiver<Event>,
    mut file: Option<TraceFile>,
    mut progress: Option<Progress>,
) -> io::Result<()> {
    for event in events {
        if let Some(file) = &mut file {
            file.add(&event)?;
        }
        if let Some(progress) = &mut progress {
            progress.add(&event);
        }
    }
    file.map_or(Ok(()), TraceFile::finish)
}
