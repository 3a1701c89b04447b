//! Collection of pieces, with the rules on white space and on the text of unfinished calls.

use std::mem;

use super::piece::{BrokenCall, Piece, push_merged};

/// Collects the pieces of an output.
///
/// White space next to a marker belongs to the marker: models write newlines around reasoning and calls that are not
/// part of the answer. It is therefore held back until the text after it is known.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pieces: Vec<Piece>,
    /// White space at the end of the text or of the reasoning.
    space: String,
    /// Whether the last thing was a marker, so that white space is dropped.
    is_after_marker: bool,
    is_reasoning: bool,
    /// Text of the call that is being parsed, from its first marker on.
    call_text: String,
    is_started: bool,
}

impl Sink {
    /// Returns the pieces so far.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        mem::take(&mut self.pieces)
    }

    /// Adds a character of text or reasoning.
    pub(super) fn char(&mut self, c: char) {
        if matches!(c, ' ' | '\n' | '\r' | '\t') {
            if !self.is_after_marker {
                self.space.push(c);
            }
            return;
        }
        self.is_after_marker = false;
        let mut text = mem::take(&mut self.space);
        text.push(c);
        self.add_text(text);
    }

    /// Starts or ends reasoning, at a marker.
    pub(super) fn set_reasoning(&mut self, is_reasoning: bool) {
        self.marker();
        self.is_reasoning = is_reasoning;
    }

    /// Drops the white space before and after a marker.
    pub(super) fn marker(&mut self) {
        self.space.clear();
        self.is_after_marker = true;
    }

    /// Emits the white space at the end of the output.
    pub(super) fn finish(&mut self) {
        let space = mem::take(&mut self.space);
        if !space.is_empty() {
            self.add_text(space);
        }
    }

    fn add_text(&mut self, text: String) {
        let piece = if self.is_reasoning { Piece::Reasoning } else { Piece::Text };
        push_merged(&mut self.pieces, piece(text));
    }

    /// Records text of the call that is being parsed.
    pub(super) fn record(&mut self, text: &str) {
        self.call_text.push_str(text);
    }

    /// Removes the last recorded character, which turned out not to belong to the call.
    pub(super) fn unrecord(&mut self) {
        self.call_text.pop();
    }

    /// Returns whether a call was started and not ended.
    pub(super) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Starts a call.
    pub(super) fn start_call(&mut self, name: &str, id: Option<String>) {
        self.marker();
        self.is_started = true;
        self.pieces.push(Piece::CallStart { name: name.to_owned(), id });
    }

    /// Adds a part of the arguments of the call that was started.
    pub(super) fn arguments(&mut self, text: &str) {
        if let Some(Piece::CallArguments(last)) = self.pieces.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.pieces.push(Piece::CallArguments(text.to_owned()));
        }
    }

    /// Ends the call that was started.
    pub(super) fn end_call(&mut self) {
        self.marker();
        self.call_text.clear();
        self.is_started = false;
        self.pieces.push(Piece::CallEnd);
    }

    /// Adds a whole call.
    pub(super) fn call(&mut self, name: &str, id: Option<String>, arguments: &str) {
        self.start_call(name, id);
        self.arguments(arguments);
        self.end_call();
    }

    /// Emits the text of the call that was being parsed as text: it is none.
    pub(super) fn not_a_call(&mut self) {
        for c in mem::take(&mut self.call_text).chars() {
            self.char(c);
        }
    }

    /// Discards the record of markers that stand outside of a call.
    pub(super) fn end_of_markers(&mut self) {
        self.marker();
        self.call_text.clear();
    }

    /// Emits the text of the call that was being parsed as a broken call.
    pub(super) fn broken(&mut self, reason: String) {
        let space = mem::take(&mut self.space);
        if !space.is_empty() {
            self.add_text(space);
        }
        self.is_after_marker = true;
        self.is_started = false;
        let text = mem::take(&mut self.call_text);
        self.pieces.push(Piece::Broken(BrokenCall { text, reason }));
    }
}
