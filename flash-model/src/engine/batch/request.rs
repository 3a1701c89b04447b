//! The two ends of a request: the answer that a caller reads, and what the driver keeps of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Request;
use super::driver::InPass;
use crate::ModelError;
use crate::engine::Generation;

/// Pieces of text that may wait to be read before the answer pauses.
pub(super) const UNREAD_PIECES: usize = 32;

/// Why a request has no answer, or none any more.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The model failed.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// A pass panicked; the batch has stopped.
    #[error("a pass panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The batch has stopped.
    #[error("the batch has stopped")]
    Stopped,
}

/// Why a batch could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError<E> {
    /// The engine could not be loaded.
    #[error("{0}")]
    Load(E),
    /// Loading panicked.
    #[error("loading the model panicked")]
    Panicked,
    /// The system gave no thread.
    #[error("the thread of a batch cannot be started: {0}")]
    Thread(io::Error),
}

impl From<ModelError> for BatchError {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

/// A piece of an answer, or its end.
#[derive(Debug)]
pub(super) enum Event {
    Text(String),
    End(Result<Box<Generation>, BatchError>),
}

/// An answer: an iterator over the pieces of its text as they are generated.
///
/// An answer whose pieces are not read is paused after some of them; others are not. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    events: Receiver<Event>,
    is_cancelled: Arc<AtomicBool>,
    in_pass: Arc<InPass>,
    end: Option<Result<Box<Generation>, BatchError>>,
}

/// A request on its way to the driver.
#[derive(Debug)]
pub(super) struct Submission {
    pub request: Request,
    pub events: Sender<Event>,
    pub is_cancelled: Arc<AtomicBool>,
}

impl Answer {
    pub(super) fn new(request: Request, in_pass: Arc<InPass>) -> (Self, Submission) {
        // The driver pauses a request before its channel is long.
        let (sender, events) = unbounded();
        let is_cancelled = Arc::default();
        let submission = Submission { request, events: sender, is_cancelled: Arc::clone(&is_cancelled) };
        (Self { events, is_cancelled, in_pass, end: None }, submission)
    }

    /// Ends the answer: at once if it has a pass for itself, else after the pass in progress. What was generated is
    /// returned by [`finish`](Self::finish).
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.in_pass.interrupt_if_cancelled();
    }

    /// Reads the rest of the answer, and returns all of it.
    ///
    /// # Errors
    /// The error that ended the answer.
    pub fn finish(mut self) -> Result<Generation, BatchError> {
        self.by_ref().for_each(drop);
        match self.end.take() {
            Some(end) => end.map(|generation| *generation),
            None => Err(BatchError::Stopped),
        }
    }
}

impl Iterator for Answer {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.end.is_some() {
            return None;
        }
        match self.events.recv() {
            Ok(Event::Text(text)) => Some(text),
            Ok(Event::End(end)) => {
                self.end = Some(end);
                None
            }
            Err(_) => {
                self.end = Some(Err(BatchError::Stopped));
                None
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.end.is_none() {
            self.cancel();
        }
    }
}
