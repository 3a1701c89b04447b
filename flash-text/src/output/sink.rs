//! Collection of pieces, with the rules on white space and on the text of unfinished calls.

use std::mem;

use super::call::is_space;
use super::piece::{BrokenCall, Piece, push_merged};

/// Collects the pieces of an output.
///
/// White space next to a marker belongs to the marker, because models write newlines around reasoning and calls that
/// are not part of the answer. Text that continues after a marker keeps the white space before the marker or, if there
/// is none, that after it, so that the joined text has no words run together.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pieces: Vec<Piece>,
    text: Channel,
    reasoning: Channel,
    is_reasoning: bool,
    /// Text of the call that is being parsed, from its first marker on.
    call_text: String,
    /// Whether the call that is being parsed was started.
    is_started: bool,
}

/// Text or reasoning.
#[derive(Debug, Default)]
struct Channel {
    /// White space that belongs to the text only if more text follows.
    space: String,
    has_text: bool,
    is_after_marker: bool,
    /// Whether white space after the marker counts.
    keeps_space: bool,
}

impl Channel {
    fn marker(&mut self) {
        if !self.has_text {
            self.space.clear();
        }
        self.is_after_marker = true;
        self.keeps_space = self.has_text && self.space.is_empty();
    }
}

impl Sink {
    /// Returns the pieces so far.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        mem::take(&mut self.pieces)
    }

    fn channel(&mut self) -> &mut Channel {
        if self.is_reasoning { &mut self.reasoning } else { &mut self.text }
    }

    /// Adds a character of text or reasoning.
    pub(super) fn char(&mut self, c: char) {
        let channel = self.channel();
        if is_space(c) {
            if !channel.is_after_marker || channel.keeps_space {
                channel.space.push(c);
            }
            return;
        }
        channel.is_after_marker = false;
        channel.has_text = true;
        let mut text = mem::take(&mut channel.space);
        text.push(c);
        self.add_text(text);
    }

    fn add_text(&mut self, text: String) {
        let piece = if self.is_reasoning { Piece::Reasoning } else { Piece::Text };
        push_merged(&mut self.pieces, piece(text));
    }

    /// Starts or ends reasoning, at a marker.
    pub(super) fn set_reasoning(&mut self, is_reasoning: bool) {
        self.marker();
        self.is_reasoning = is_reasoning;
    }

    /// Separates the text before and after a marker.
    pub(super) fn marker(&mut self) {
        self.text.marker();
        self.reasoning.marker();
    }

    /// Ends the output.
    pub(super) fn finish(&mut self) {
        let channel = self.channel();
        if !channel.is_after_marker {
            self.flush_space();
        }
    }

    fn flush_space(&mut self) {
        let space = mem::take(&mut self.channel().space);
        if !space.is_empty() {
            self.add_text(space);
        }
    }

    /// Records text of the call that is being parsed.
    pub(super) fn record(&mut self, text: &str) {
        self.call_text.push_str(text);
    }

    /// Removes the last recorded character, which does not belong to the call.
    pub(super) fn unrecord(&mut self) {
        self.call_text.pop();
    }

    /// Discards the record of a call that is complete.
    pub(super) fn clear_record(&mut self) {
        self.call_text.clear();
    }

    /// Starts a call.
    pub(super) fn start_call(&mut self, name: &str, id: Option<String>) {
        self.marker();
        self.is_started = true;
        self.pieces.push(Piece::CallStart { name: name.to_owned(), id });
    }

    /// Adds a part of the arguments of the call that was started.
    pub(super) fn arguments(&mut self, text: &str) {
        if !text.is_empty() {
            push_merged(&mut self.pieces, Piece::CallArguments(text.to_owned()));
        }
    }

    /// Ends the call that was started.
    pub(super) fn end_call(&mut self) {
        self.marker();
        self.call_text.clear();
        self.is_started = false;
        self.pieces.push(Piece::CallEnd);
    }

    /// Adds the pieces of complete calls.
    pub(super) fn calls(&mut self, pieces: Vec<Piece>) {
        self.marker();
        self.call_text.clear();
        self.pieces.extend(pieces);
    }

    /// Emits the text of the call that was being parsed as text: it is none.
    pub(super) fn not_a_call(&mut self) {
        for c in mem::take(&mut self.call_text).chars() {
            self.char(c);
        }
    }

    /// Emits the text of the call that was being parsed as a broken call. White space around it is kept, since a reader
    /// may want all text together.
    pub(super) fn broken(&mut self, reason: String) {
        // Nothing comes between the start of a call and its end.
        if std::mem::take(&mut self.is_started) {
            self.channel().space.clear();
        } else {
            self.flush_space();
        }
        let channel = self.channel();
        channel.has_text = true;
        channel.is_after_marker = false;
        let text = mem::take(&mut self.call_text);
        self.pieces.push(Piece::Broken(BrokenCall { text, reason }));
    }
}
