//! The streaming parser.

use super::call::{CallParser, Step};
use super::format::OutputFormat;
use super::piece::{Piece, ToolSchema};
use super::sink::Sink;

/// Settings of an [`OutputParser`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParserOptions {
    /// Whether calls are parsed. If not, they are text: for requests without tools.
    pub calls: bool,
    /// Whether the output starts within reasoning, because the prompt ends inside of it
    /// ([`OutputFormat::prompt_opens_reasoning`]).
    pub starts_in_reasoning: bool,
}

impl Default for ParserOptions {
    fn default() -> Self {
        Self { calls: true, starts_in_reasoning: false }
    }
}

/// Splits a model's output into pieces as it is generated.
///
/// [The module](super) describes the guarantees.
#[derive(Debug)]
pub struct OutputParser {
    format: OutputFormat,
    options: ParserOptions,
    state: State,
    /// Text that may become a marker, never longer than one.
    held: String,
    sink: Sink,
}

#[derive(Debug)]
enum State {
    Text,
    Reasoning,
    Call(Box<dyn CallParser>),
    /// Within a malformed call, whose text is collected up to a marker.
    Broken {
        reason: String,
    },
}

impl OutputParser {
    /// Creates a parser at the start of an output. `tools` are those that the model was given.
    pub fn new(format: OutputFormat, _tools: &[ToolSchema], options: ParserOptions) -> Self {
        let mut sink = Sink::default();
        let starts_in_reasoning = options.starts_in_reasoning && format.reasoning.is_some();
        if starts_in_reasoning {
            sink.set_reasoning(true);
        }
        let state = if starts_in_reasoning { State::Reasoning } else { State::Text };
        Self { format, options, state, held: String::new(), sink }
    }

    /// Adds a piece of text, and returns the pieces of output that are now certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        for c in text.chars() {
            self.held.push(c);
            self.advance(false);
        }
        self.sink.take()
    }

    /// Ends the output, and returns what was held back.
    pub fn finish(mut self) -> Vec<Piece> {
        self.advance(true);
        let step = match &mut self.state {
            State::Text | State::Reasoning => Step::Done,
            State::Call(parser) => parser.finish(&mut self.sink),
            State::Broken { reason } => Step::Broken(std::mem::take(reason)),
        };
        match step {
            Step::Broken(reason) => self.sink.broken(reason),
            Step::NotACall => self.sink.not_a_call(),
            Step::More | Step::Done | Step::DoneBefore => {}
        }
        self.sink.finish();
        self.sink.take()
    }

    /// Processes the held text as far as it is certain, or all of it at the end.
    fn advance(&mut self, is_end: bool) {
        while let Some(c) = self.held.chars().next() {
            let (mut marker, mut may_become_marker) = (None, false);
            self.each_marker(|candidate, held| {
                if held.starts_with(candidate) {
                    marker = Some(candidate);
                }
                may_become_marker |= candidate.starts_with(held);
            });
            if let Some(marker) = marker {
                self.held.drain(..marker.len());
                self.marker(marker);
            } else if may_become_marker && !is_end {
                return;
            } else {
                self.held.remove(0);
                self.char(c);
            }
        }
    }

    /// Calls a function with each marker that can come next, and with the held text.
    fn each_marker(&self, mut f: impl FnMut(&'static str, &str)) {
        let mut all = |markers: &[&'static str]| markers.iter().for_each(|marker| f(marker, &self.held));
        let calls = self.format.calls.filter(|_| self.options.calls);
        match &self.state {
            State::Text => {
                if let Some(reasoning) = self.format.reasoning {
                    all(&[reasoning.start()]);
                }
                if let Some(calls) = calls {
                    all(calls.starts());
                }
            }
            State::Reasoning => {
                if let Some(reasoning) = self.format.reasoning {
                    all(&[reasoning.end()]);
                }
            }
            State::Call(parser) => all(parser.markers()),
            State::Broken { .. } => {
                if let Some(calls) = calls {
                    all(calls.ends());
                    all(calls.starts());
                }
            }
        }
    }

    fn marker(&mut self, marker: &'static str) {
        let calls = self.format.calls;
        let is_start = calls.is_some_and(|calls| calls.starts().contains(&marker));
        match &mut self.state {
            State::Text if is_start => self.begin_call(marker),
            State::Text => {
                self.sink.set_reasoning(true);
                self.state = State::Reasoning;
            }
            State::Reasoning => {
                self.sink.set_reasoning(false);
                self.state = State::Text;
            }
            State::Call(parser) => {
                self.sink.record(marker);
                let step = parser.marker(marker, &mut self.sink);
                self.step(step, None);
            }
            State::Broken { reason } => {
                let reason = std::mem::take(reason);
                if !is_start {
                    self.sink.record(marker);
                }
                self.sink.broken(reason);
                self.state = State::Text;
                if is_start {
                    self.begin_call(marker);
                }
            }
        }
    }

    fn begin_call(&mut self, marker: &'static str) {
        if let Some(calls) = self.format.calls {
            self.sink.record(marker);
            self.state = State::Call(calls.parser());
        }
    }

    fn char(&mut self, c: char) {
        match &mut self.state {
            State::Text | State::Reasoning => self.sink.char(c),
            State::Call(parser) => {
                self.sink.record(c.encode_utf8(&mut [0; 4]));
                let step = parser.char(c, &mut self.sink);
                self.step(step, Some(c));
            }
            State::Broken { .. } => self.sink.record(c.encode_utf8(&mut [0; 4])),
        }
    }

    fn step(&mut self, step: Step, c: Option<char>) {
        let unread = |parser: &mut Self| {
            if let Some(c) = c {
                parser.sink.unrecord();
                parser.held.insert(0, c);
            }
        };
        match step {
            Step::More => {}
            Step::Done => self.state = State::Text,
            Step::DoneBefore => {
                unread(self);
                self.sink.end_of_markers();
                self.state = State::Text;
            }
            Step::NotACall => {
                unread(self);
                self.sink.not_a_call();
                self.state = State::Text;
            }
            Step::Broken(reason) => self.state = State::Broken { reason },
        }
    }
}
