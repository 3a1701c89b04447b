//! Stop strings over streamed text.

use super::error::TextError;

/// Ends a streamed text before the first stop string.
///
/// The text stops where a stop string is first complete; of several that are complete at once, the
/// longest counts. What is given out does not depend on how the text was cut into pieces. Held back
/// is only what may still become a stop string. Each byte costs the same however long the text is.
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

/// What became of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// The text that is now certain to come before any stop string.
    pub emit: String,
    /// Whether a stop string is complete: the text is over.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher of these stop strings; with none, text passes through.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`] if one of them is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(TextError::EmptyStop { index });
        }
        let stops = stops.into_iter().map(|stop| Stop::new(stop.into_bytes())).collect();
        Ok(Self { stops, held: String::new(), is_stopped: false })
    }

    /// Adds a piece of text. After the text has stopped, pieces are dropped.
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
        // The start of a stop string is the start of a character, so this cuts between characters.
        let n_hold = self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0);
        let hold = self.held.split_off(self.held.len() - n_hold);
        StopOutcome { emit: std::mem::replace(&mut self.held, hold), stopped: false }
    }

    /// Ends the text, and gives what was held back.
    pub fn finish(self) -> String {
        self.held
    }
}

/// One stop string, matched byte by byte (Knuth, Morris and Pratt).
#[derive(Clone, Debug)]
struct Stop {
    bytes: Vec<u8>,
    /// For each length of a matched prefix, from 1 on, its longest proper suffix that is also a prefix.
    fallback: Vec<usize>,
    /// How much of the stop string the text ends with, always less than all of it.
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

    /// Takes a byte of text; gives the length of the stop string if that completes it.
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
