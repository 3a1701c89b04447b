//! The streaming parser.

use super::call::{CallParser, Step, Tools};
use super::format::{CallFormat, OutputFormat};
use super::harmony::{self, Harmony};
use super::llama::BareLlama;
use super::piece::{Piece, ToolSchema};
use super::sink::Sink;

/// Settings of an [`OutputParser`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParserOptions {
    /// Whether calls are parsed, as by default. If not, they are text, for requests without tools.
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
    /// The format of calls, if they are parsed.
    calls: Option<CallFormat>,
    tools: Tools,
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
    Harmony(Harmony),
}

impl OutputParser {
    /// Creates a parser at the start of an output. `tools` are those that the model was given.
    pub fn new(format: OutputFormat, tools: &[ToolSchema], options: ParserOptions) -> Self {
        let mut sink = Sink::default();
        let tools = Tools::new(tools);
        let calls = format.calls.filter(|_| options.calls);
        let state = if format.is_harmony() {
            State::Harmony(Harmony::new(calls.is_some()))
        } else if options.starts_in_reasoning && format.reasoning.is_some() {
            sink.set_reasoning(true);
            State::Reasoning
        } else if calls == Some(CallFormat::Llama) && !tools.is_empty() {
            State::Call(Box::<BareLlama>::default())
        } else {
            State::Text
        };
        Self { format, calls, tools, state, held: String::new(), sink }
    }

    /// Adds a piece of text, and returns the pieces of output that are now certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        for c in text.chars() {
            self.held.push(c);
            self.advance(false);
        }
        self.sink.take()
    }

    /// Ends the output, and returns the pieces that were held back.
    pub fn finish(mut self) -> Vec<Piece> {
        self.advance(true);
        let step = match &mut self.state {
            State::Text | State::Reasoning => Step::Done,
            State::Call(parser) => parser.finish(&self.tools, &mut self.sink),
            State::Broken { reason } => Step::Broken(std::mem::take(reason)),
            State::Harmony(harmony) => {
                harmony.finish(&mut self.sink);
                Step::Done
            }
        };
        match step {
            Step::Broken(reason) => self.sink.broken(reason),
            Step::NotACall => self.sink.not_a_call(),
            Step::More | Step::Done => {}
        }
        self.sink.finish();
        self.sink.take()
    }

    /// Processes the held text as far as it is certain, or all of it at the end.
    fn advance(&mut self, is_end: bool) {
        while let Some(c) = self.held.chars().next() {
            let (mut marker, mut may_become_marker) = (None, false);
            self.each_marker(|candidate| {
                if self.held.starts_with(candidate) {
                    marker = Some(candidate);
                }
                may_become_marker |= candidate.starts_with(self.held.as_str());
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

    /// Calls a function with each marker that can come next. None of them is the start of another.
    fn each_marker(&self, mut f: impl FnMut(&'static str)) {
        let mut all = |markers: &[&'static str]| markers.iter().copied().for_each(&mut f);
        let mut call_starts = || {
            if let Some(calls) = self.calls {
                all(calls.starts());
                all(calls.wrappers());
            }
        };
        match &self.state {
            State::Text => {
                call_starts();
                if let Some(reasoning) = self.format.reasoning {
                    f(reasoning.start());
                }
            }
            State::Reasoning => {
                // A special token can only be meant as one.
                if self.calls.is_some_and(CallFormat::has_special_tokens) {
                    call_starts();
                }
                if let Some(reasoning) = self.format.reasoning {
                    f(reasoning.end());
                }
            }
            State::Call(parser) => all(parser.markers()),
            State::Broken { .. } => {
                call_starts();
                if let Some(calls) = self.calls {
                    f(calls.end());
                }
            }
            State::Harmony(_) => all(&harmony::MARKERS),
        }
    }

    fn marker(&mut self, marker: &'static str) {
        match &mut self.state {
            State::Text => self.marker_in_text(marker),
            State::Reasoning => {
                self.sink.set_reasoning(false);
                self.state = State::Text;
                if self.format.reasoning.is_some_and(|reasoning| reasoning.end() != marker) {
                    self.marker_in_text(marker);
                }
            }
            State::Call(parser) => {
                self.sink.record(marker);
                let step = parser.marker(marker, &self.tools, &mut self.sink);
                self.step(step, None);
            }
            State::Broken { reason } => {
                let reason = std::mem::take(reason);
                let is_end = self.calls.is_some_and(|calls| calls.end() == marker);
                if is_end {
                    self.sink.record(marker);
                }
                self.sink.broken(reason);
                self.state = State::Text;
                if !is_end {
                    self.marker_in_text(marker);
                }
            }
            State::Harmony(harmony) => harmony.marker(marker, &mut self.sink),
        }
    }

    /// Starts a call or reasoning.
    fn marker_in_text(&mut self, marker: &'static str) {
        match self.calls {
            Some(calls) if calls.starts().contains(&marker) => {
                self.sink.record(marker);
                self.state = State::Call(calls.parser(marker));
            }
            Some(calls) if calls.wrappers().contains(&marker) => self.sink.marker(),
            _ => {
                self.sink.set_reasoning(true);
                self.state = State::Reasoning;
            }
        }
    }

    fn char(&mut self, c: char) {
        match &mut self.state {
            State::Text | State::Reasoning => self.sink.char(c),
            State::Call(parser) => {
                self.sink.record(c.encode_utf8(&mut [0; 4]));
                let step = parser.char(c, &self.tools, &mut self.sink);
                self.step(step, Some(c));
            }
            State::Broken { .. } => self.sink.record(c.encode_utf8(&mut [0; 4])),
            State::Harmony(harmony) => harmony.char(c, &mut self.sink),
        }
    }

    /// Acts on a step of the parser of a call, after the character `c` or a marker.
    fn step(&mut self, step: Step, c: Option<char>) {
        match step {
            Step::More => {}
            Step::Done => self.state = State::Text,
            Step::NotACall => {
                if let Some(c) = c {
                    self.sink.unrecord();
                    self.held.insert(0, c);
                }
                self.sink.not_a_call();
                self.state = State::Text;
            }
            Step::Broken(reason) => self.state = State::Broken { reason },
        }
    }
}
