//! What happened when, as it happens: for a trace.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::stream::bundle::BundleIdx;
use crate::stream::meter::Group;

/// Something that took time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What it was.
    pub kind: EventKind,
    /// From when on, since the engine was made.
    pub start: Duration,
    /// Until when.
    pub end: Duration,
}

/// What takes time. Bundles are counted in execution order, as [`Model::bundles`](crate::Model::bundles) does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Tokens passed through the model.
    Pass {
        /// How many.
        tokens: usize,
    },
    /// So much of a prompt was passed through the model, counted in tokens although it is layers: of that, `start` is the
    /// beginning, and `end` now. Sent after each part of a pass of several tokens.
    Prompt {
        /// What is done, in tokens.
        tokens_done: usize,
        /// Tokens of the prompt.
        tokens: usize,
    },
    /// Bundles were computed with, from the first to the last.
    Compute {
        /// The first.
        first: usize,
        /// The last; the same for one.
        last: usize,
    },
    /// Nothing was computed for want of a bundle.
    Wait {
        /// Which one.
        bundle: usize,
    },
    /// A bundle was asked for, and read.
    Read {
        /// Which one.
        bundle: usize,
        /// Its bytes, alignment included.
        bytes: u64,
    },
}

/// Tells of events, if someone wants to know.
#[derive(Debug)]
pub(crate) struct Recorder {
    listener: Option<Sender<Event>>,
    start: Instant,
}

impl Recorder {
    pub(crate) fn new(listener: Option<Sender<Event>>) -> Self {
        Self { listener, start: Instant::now() }
    }

    pub(crate) fn add(&mut self, kind: EventKind, start: Instant, end: Instant) {
        let since = |at: Instant| at.saturating_duration_since(self.start);
        let event = Event { kind, start: since(start), end: since(end) };
        if self.listener.as_ref().is_some_and(|listener| listener.send(event).is_err()) {
            // Nobody listens any more.
            self.listener = None;
        }
    }

    pub(crate) fn add_group(&mut self, group: &Group) {
        if let [BundleIdx(first), ..] = group.bundles[..]
            && let [.., BundleIdx(last)] = group.bundles[..]
        {
            self.add(EventKind::Compute { first, last }, group.start.at, group.end.at);
        }
    }
}
