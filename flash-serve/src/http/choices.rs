//! The generations of one answer as one stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::time::{Instant, timeout_at};

use crate::engine::{EngineError, Event, Generation};
use crate::metrics::GenerationTimer;

/// Generations that are answered together: one, or several if a client asked for several choices. Dropping them cancels.
pub(crate) struct Choices {
    generations: Vec<Option<Generation>>,
    /// Polled first, so that one fast choice does not delay the others.
    next_idx: usize,
    peeked: Option<(usize, Event)>,
    timer: GenerationTimer,
}

impl Choices {
    pub(crate) fn new(generations: Vec<Generation>, timer: GenerationTimer) -> Self {
        Self { generations: generations.into_iter().map(Some).collect(), next_idx: 0, peeked: None, timer }
    }

    /// Returns the number of choices.
    pub(crate) fn len(&self) -> usize {
        self.generations.len()
    }

    /// Returns the next event and the index of its choice; `None` when all choices are complete. After an error, the other
    /// choices are cancelled.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        if let Some(event) = self.peeked.take() {
            return Some(event);
        }
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Waits for the first event until `deadline`, and fails if it is an error. It stays the next event. Returns whether it
    /// came.
    pub(crate) async fn started(&mut self, deadline: Instant) -> Result<bool, EngineError> {
        match timeout_at(deadline, self.next()).await {
            Ok(Some((_, Event::Error(error)))) => Err(error),
            Ok(event) => {
                self.peeked = event;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        if let Some(event) = self.peeked.take() {
            return Poll::Ready(Some(event));
        }
        let n_choices = self.generations.len();
        let mut is_complete = true;
        for offset in 0..n_choices {
            let idx = (self.next_idx + offset) % n_choices;
            let Some(generation) = &mut self.generations[idx] else { continue };
            is_complete = false;
            let Poll::Ready(event) = Pin::new(generation).poll_next(context) else { continue };
            let event = event.unwrap_or(Event::Error(EngineError::Stopped));
            self.timer.observe(&event);
            match &event {
                Event::Done(_) => self.generations[idx] = None,
                Event::Error(_) => self.generations.iter_mut().for_each(|generation| *generation = None),
                _ => {}
            }
            self.next_idx = idx + 1;
            return Poll::Ready(Some((idx, event)));
        }
        if is_complete { Poll::Ready(None) } else { Poll::Pending }
    }
}
