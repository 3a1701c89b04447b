//! Matching of stop strings in streamed text.

use super::error::TextError;

/// Ends a streamed text before the first stop string.
///
/// The text stops as soon as a stop string is complete; of several that complete at once, the longest counts. The
/// emitted text does not depend on how the text is split into pieces. Only text that may still become a stop string is
/// held back. The cost of a byte does not depend on the length of the text.
///
/// ```
/// # use flash_text::StopMatcher;
/// let mut matcher = StopMatcher::new(vec!["</s>".to_owned()])?;
/// assert_eq!(matcher.push("Done.<").emit, "Done.");
/// assert_eq!(matcher.push("b>").emit, "<b>");
/// let last = matcher.push("</s> and more");
/// assert!(last.emit.is_empty() && last.stopped);
/// # Ok::<(), flash_text::TextError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
    is_stopped: bool,
}

/// The outcome of pushing a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is now certain to precede any stop string.
    pub emit: String,
    /// Whether a stop string is complete, which ends the text.
    pub stopped: bool,
}

impl StopMatcher {
    /// Creates a matcher of stop strings; without any, all text passes through.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`] if a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(TextError::EmptyStop { index });
        }
        let stops = stops.into_iter().map(|stop| Stop::new(stop.into_bytes())).collect();
        Ok(Self { stops, held: String::new(), is_stopped: false })
    }

    /// Adds a piece of text. Pieces after a stop string are discarded.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.is_stopped {
            return StopOutcome { emit: String::new(), stopped: true };
        }
        let n_held_before = self.held.len();
        self.held.push_str(piece);
        for (index, &byte) in piece.as_bytes().iter().enumerate() {
            let complete = self.stops.iter_mut().filter_map(|stop| stop.advance(byte)).max();
            if let Some(stop_bytes) = complete {
                self.held.truncate(n_held_before + index + 1 - stop_bytes);
                self.is_stopped = true;
                return StopOutcome { emit: std::mem::take(&mut self.held), stopped: true };
            }
        }
        // A stop string starts at a character boundary, so the text is split at one.
        let n_hold = self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0);
        let hold = self.held.split_off(self.held.len() - n_hold);
        StopOutcome { emit: std::mem::replace(&mut self.held, hold), stopped: false }
    }

    /// Ends the text, and returns the part that was held back.
    pub fn finish(self) -> String {
        self.held
    }
}

/// A stop string, matched byte by byte with the Knuth-Morris-Pratt algorithm.
#[derive(Clone, Debug)]
struct Stop {
    bytes: Vec<u8>,
    /// For each length of a matched prefix, from 1 on, the length of its longest proper suffix that is also a prefix.
    fallback: Vec<usize>,
    /// Length of the longest proper prefix of the stop string that the text ends with.
    n_matched: usize,
}

impl Stop {
    fn new(bytes: Vec<u8>) -> Self {
        let mut stop = Self { bytes, fallback: vec![0], n_matched: 0 };
        for index in 1..stop.bytes.len() {
            stop.step(stop.bytes[index]);
            stop.fallback.push(stop.n_matched);
        }
        stop.n_matched = 0;
        stop
    }

    /// Advances by a byte of text; returns the length of the stop string if the byte completes it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.step(byte);
        if self.n_matched < self.bytes.len() {
            return None;
        }
        self.n_matched = 0;
        Some(self.bytes.len())
    }

    fn step(&mut self, byte: u8) {
        while self.n_matched > 0 && self.bytes[self.n_matched] != byte {
            self.n_matched = self.fallback[self.n_matched - 1];
        }
        if self.bytes[self.n_matched] == byte {
            self.n_matched += 1;
        }
    }
}
