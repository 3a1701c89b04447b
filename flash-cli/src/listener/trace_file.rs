//! A trace of a run, in the Trace Event Format of Chrome and Perfetto.
//!
//! An array of events, one a line; those with `"ph": "X"` have a beginning and a duration in microseconds. Readers take an array
//! without its end, so a run that was killed leaves a trace.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use flash_model::{Event, EventKind};
use serde_json::{Value, json};

/// Each row of the picture, by its number.
const ROWS: [(Row, &str); 4] =
    [(Row::Pass, "tokens"), (Row::Compute, "compute"), (Row::Wait, "waiting for reads"), (Row::Read, "disk")];

#[derive(Debug, Clone, Copy)]
enum Row {
    Pass,
    Compute,
    Wait,
    Read,
}

/// A file that events go to as they happen.
#[derive(Debug)]
pub(super) struct TraceFile {
    file: BufWriter<File>,
    bundles: Vec<String>,
    disk_free_from: Duration,
}

impl TraceFile {
    /// Begins a trace of a model whose bundles have these names.
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

/// The event as JSON. Reads are asked for ahead and done one behind the other: a read begins when the one before it has
/// ended, at `disk_free_from`. Some events are no part of a trace.
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
            let asked_for_us = micros(start - event.start);
            (Row::Read, bundle(idx).to_owned(), json!({ "bytes": bytes, "queued_us": asked_for_us }))
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
