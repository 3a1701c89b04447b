//! Timed events of an engine, for traces.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::stream::bundle::BundleIdx;
use crate::stream::meter::Group;

/// A timed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Kind of the event.
    pub kind: EventKind,
    /// Start, since the creation of the engine.
    pub start: Duration,
    /// End, since the creation of the engine.
    pub end: Duration,
}

/// Kinds of events. Bundles are indexed in execution order, as by [`Model::bundles`](crate::Model::bundles).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A pass of tokens through the model.
    Pass {
        /// Number of tokens.
        tokens: usize,
    },
    /// Progress of a pass of several tokens, sent after each chunk of each layer. `start` is the start of the pass and
    /// `end` is now. Progress is counted in layers and scaled to tokens.
    Prompt {
        /// Tokens done.
        tokens_done: usize,
        /// Tokens of the prompt.
        tokens: usize,
    },
    /// Compute with consecutive bundles.
    Compute {
        /// Index of the first bundle.
        first: usize,
        /// Index of the last bundle; equal to `first` for a single one.
        last: usize,
    },
    /// A stall of compute on a bundle.
    Wait {
        /// Index of the bundle.
        bundle: usize,
    },
    /// A read of a bundle, from request to completion.
    Read {
        /// Index of the bundle.
        bundle: usize,
        /// Bytes read, including alignment.
        bytes: u64,
    },
}

/// Sends events to the listener, if there is one.
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
            // The listener is gone.
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
