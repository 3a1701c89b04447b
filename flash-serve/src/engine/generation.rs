//! The channel from an engine's thread to a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Event;

/// A reason why an event was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The client does not read fast enough; the event comes back.
    #[error("the client reads slower than the engine writes")]
    Full(Box<Event>),
    /// The client has left.
    #[error("the client has left")]
    Cancelled,
}

/// The engine's end of a [`Generation`].
#[derive(Debug, Clone)]
pub struct EventSender {
    events: Sender<Event>,
}

impl EventSender {
    /// Sends an event without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] if the client reads too slowly, so that its request should pause; [`SendError::Cancelled`] if it
    /// has left.
    pub fn try_send(&self, event: Event) -> Result<(), SendError> {
        self.events.try_send(event).map_err(|error| match error {
            TrySendError::Full(event) => SendError::Full(Box::new(event)),
            TrySendError::Closed(_) => SendError::Cancelled,
        })
    }

    /// Sends an event, waiting until the client has read enough. Engines that serve several clients from one thread must
    /// not wait for one of them, and use [`try_send`](Self::try_send).
    ///
    /// # Errors
    /// [`SendError::Cancelled`] if the client has left.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime.
    pub fn blocking_send(&self, event: Event) -> Result<(), SendError> {
        self.events.blocking_send(event).map_err(|_| SendError::Cancelled)
    }

    /// Returns how many events can be sent before the client reads one.
    pub fn free_capacity(&self) -> usize {
        self.events.capacity()
    }

    /// Returns whether the client has left.
    pub fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }
}

/// The stream of events of one request. Dropping it cancels the request.
pub struct Generation {
    events: Receiver<Event>,
    on_drop: Option<Box<dyn FnOnce() + Send>>,
}

impl Generation {
    /// Creates a generation whose engine may be `capacity` events ahead of its client.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn channel(capacity: usize) -> (EventSender, Self) {
        let (sender, events) = mpsc::channel(capacity);
        (EventSender { events: sender }, Self { events, on_drop: None })
    }

    /// Calls `on_drop` when the generation is dropped, complete or not. It wakes up an engine that would otherwise learn of
    /// the cancellation at its next event.
    #[must_use]
    pub fn on_drop(mut self, on_drop: impl FnOnce() + Send + 'static) -> Self {
        self.on_drop = Some(Box::new(on_drop));
        self
    }
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Closed first, so that `EventSender::is_cancelled` holds when the callback runs.
        self.events.close();
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn dropping_a_generation_cancels_before_the_callback_runs() {
        let (sender, generation) = Generation::channel(1);
        let (seen, saw) = channel();
        let of_callback = sender.clone();
        let generation = generation.on_drop(move || seen.send(of_callback.is_cancelled()).unwrap());
        assert!(!sender.is_cancelled());
        drop(generation);
        assert!(saw.recv().unwrap());
        assert!(matches!(sender.try_send(Event::CallEnd), Err(SendError::Cancelled)));
    }

    #[test]
    fn an_event_for_a_slow_client_comes_back() {
        let (sender, _generation) = Generation::channel(1);
        sender.try_send(Event::Reasoning("a".to_owned())).unwrap();
        assert_eq!(sender.free_capacity(), 0);
        let error = sender.try_send(Event::Reasoning("b".to_owned())).unwrap_err();
        let SendError::Full(event) = error else { panic!("{error}") };
        assert!(matches!(*event, Event::Reasoning(text) if text == "b"));
    }
}
