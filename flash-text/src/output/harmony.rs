//! gpt-oss (harmony): messages with headers, in channels.
//!
//! `<|channel|>analysis<|message|>…<|end|>` is reasoning, `<|start|>assistant<|channel|>final<|message|>…<|return|>` the
//! answer, and `<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>` a call. Commentary without
//! a recipient is text for the user.

use super::arguments::ObjectArguments;
use super::call::{Step, is_space};
use super::sink::Sink;

const START: &str = "<|start|>";
pub(super) const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
pub(super) const MESSAGE: &str = "<|message|>";
pub(super) const END: &str = "<|end|>";
pub(super) const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";

/// All markers of the format.
pub(super) static MARKERS: [&str; 7] = [START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN];

/// Longest header. Text that goes on after a marker of a header is not one.
const MAX_HEADER_BYTES: usize = 512;

/// Parser of a whole output.
#[derive(Debug, Default)]
pub(super) struct Harmony {
    has_calls: bool,
    state: State,
    /// The header, with markers as spaces.
    header: String,
}

#[derive(Debug, Default)]
enum State {
    /// Within a message, or between messages.
    #[default]
    Text,
    Header,
    Arguments(ObjectArguments),
    /// Within a malformed call.
    Broken(String),
}

impl Harmony {
    /// Creates a parser of an output behind `<|start|>assistant`. Without `has_calls`, calls are text.
    pub(super) fn new(has_calls: bool) -> Self {
        Self { has_calls, ..Self::default() }
    }

    /// Takes a marker, one of [`MARKERS`].
    pub(super) fn marker(&mut self, marker: &'static str, out: &mut Sink) {
        match marker {
            START | CHANNEL | CONSTRAIN => {
                let is_header = matches!(self.state, State::Header);
                if !is_header {
                    self.end_message(None, out);
                    self.header.clear();
                    self.state = State::Header;
                }
                self.header.push(' ');
                out.record(marker);
            }
            MESSAGE => match self.state {
                State::Header => {
                    out.record(marker);
                    self.start_message(out);
                }
                _ => {
                    self.end_message(None, out);
                    out.set_reasoning(false);
                }
            },
            _ => {
                self.end_message(Some(marker), out);
                out.set_reasoning(false);
            }
        }
    }

    /// Takes a character.
    pub(super) fn char(&mut self, c: char, out: &mut Sink) {
        match &mut self.state {
            State::Text => out.char(c),
            State::Header => {
                self.header.push(c);
                out.record(c.encode_utf8(&mut [0; 4]));
                if self.header.len() > MAX_HEADER_BYTES {
                    self.end_header(out);
                }
            }
            State::Arguments(arguments) => {
                out.record(c.encode_utf8(&mut [0; 4]));
                let outcome =
                    if arguments.is_done() && is_space(c) { Ok(true) } else { arguments.push(c, out) };
                if let Step::Broken(reason) = Step::of(outcome) {
                    self.state = State::Broken(reason);
                }
            }
            State::Broken(_) => out.record(c.encode_utf8(&mut [0; 4])),
        }
    }

    /// Takes the end of the output.
    pub(super) fn finish(&mut self, out: &mut Sink) {
        self.end_message(None, out);
    }

    fn start_message(&mut self, out: &mut Sink) {
        let words = || self.header.split_whitespace();
        let recipient = words().find_map(|word| word.strip_prefix("to="));
        let is_analysis = words().any(|word| word == "analysis");
        let name = recipient.map(|recipient| recipient.strip_prefix("functions.").unwrap_or(recipient));
        self.state = match name {
            Some(name) if self.has_calls && !name.is_empty() => {
                out.set_reasoning(false);
                out.start_call(name, None);
                State::Arguments(ObjectArguments::default())
            }
            _ => {
                out.clear_record();
                out.set_reasoning(is_analysis);
                State::Text
            }
        };
    }

    /// Ends a header that no message follows: it is text.
    fn end_header(&mut self, out: &mut Sink) {
        out.set_reasoning(false);
        out.not_a_call();
        self.state = State::Text;
    }

    /// Ends the message at a marker, or before another message or the end of the output.
    fn end_message(&mut self, marker: Option<&str>, out: &mut Sink) {
        match std::mem::take(&mut self.state) {
            State::Text => {}
            State::Header => self.end_header(out),
            State::Arguments(arguments) => {
                out.record(marker.unwrap_or_default());
                if arguments.is_done() {
                    out.end_call();
                } else if arguments.is_started() {
                    out.broken("the message ends inside of the arguments".to_owned());
                } else if marker.is_some() {
                    out.arguments("{}");
                    out.end_call();
                } else {
                    out.broken("the message ends before the arguments".to_owned());
                }
            }
            State::Broken(reason) => {
                out.record(marker.unwrap_or_default());
                out.broken(reason);
            }
        }
    }
}
