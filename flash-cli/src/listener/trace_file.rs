//! A trace of a run, in the Trace Event Format of Chrome and Perfetto.
//!
//! The file is an array with one event per line; events with `"ph": "X"` have a start and a duration in microseconds.
//! Readers accept an array without its closing bracket, so the trace of a killed run is readable.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use flash_model::{Event, EventKind};
use serde_json::{Value, json};

/// Rows of the timeline, with their names.
const ROWS: [(Row, &str); 4] =
    [(Row::Pass, "tokens"), (Row::Compute, "compute"), (Row::Wait, "waiting for reads"), (Row::Read, "disk")];

/// A row of the timeline; its discriminant is the thread id in the trace.
#[derive(Debug, Clone, Copy)]
enum Row {
    Pass,
    Compute,
    Wait,
    Read,
}

/// A trace file being written.
#[derive(Debug)]
pub(super) struct TraceFile {
    file: BufWriter<File>,
    bundles: Vec<String>,
    disk_free_from: Duration,
}

impl TraceFile {
    /// Creates the file. `bundles` are the bundle names of the model.
    pub(super) fn create(path: &Path, bundles: Vec<String>) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        for (nth, (row, name)) in ROWS.into_iter().enumerate() {
            let line = json!({
                "ph": "M", "name": "thread_name", "pid": 1, "tid": row as u8, "args": { "name": name },
            });
            write!(file, "{}{line}", if nth == 0 { "[\n" } else { ",\n" })?;
        }
        Ok(Self { file, bundles, disk_free_from: Duration::ZERO })
    }

    pub(super) fn add(&mut self, event: &Event) -> io::Result<()> {
        match line(event, &self.bundles, &mut self.disk_free_from) {
            Some(line) => write!(self.file, ",\n{line}"),
            None => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.write_all(b"\n]\n")?;
        self.file.flush()
    }
}

/// Formats an event as JSON; none for events that are not traced.
///
/// Reads are queued ahead and served in order, so a read starts when the previous one has ended, at `disk_free_from`.
fn line(event: &Event, bundles: &[String], disk_free_from: &mut Duration) -> Option<Value> {
    let bundle = |idx: usize| bundles.get(idx).map_or("?", String::as_str);
    let mut start = event.start;
    let (row, name, args) = match event.kind {
        EventKind::Pass { tokens: 1 } => (Row::Pass, "1 token".to_owned(), json!({})),
        EventKind::Pass { tokens } => (Row::Pass, format!("{tokens} tokens"), json!({})),
        EventKind::Compute { first, last } if first == last => {
            (Row::Compute, bundle(first).to_owned(), json!({}))
        }
        EventKind::Compute { first, last } => {
            (Row::Compute, format!("{} … {}", bundle(first), bundle(last)), json!({}))
        }
        EventKind::Wait { bundle: idx } => (Row::Wait, bundle(idx).to_owned(), json!({})),
        EventKind::Read { bundle: idx, bytes } => {
            start = start.max(*disk_free_from).min(event.end);
            *disk_free_from = event.end.max(*disk_free_from);
            let queued_us = micros(start - event.start);
            (Row::Read, bundle(idx).to_owned(), json!({ "bytes": bytes, "queued_us": queued_us }))
        }
        _ => return None,
    };
    Some(json!({
        "ph": "X", "name": name, "pid": 1, "tid": row as u8,
        "ts": micros(start), "dur": micros(event.end - start), "args": args,
    }))
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
