//! Kimi K2: `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, within a section.

use super::arguments::ObjectArguments;
use super::call::{CallParser, Step, Tools, is_space};
use super::sink::Sink;

pub(super) const SECTION: &str = "<|tool_calls_section_begin|>";
pub(super) const SECTION_END: &str = "<|tool_calls_section_end|>";
pub(super) const START: &str = "<|tool_call_begin|>";
pub(super) const ARGUMENTS: &str = "<|tool_call_argument_begin|>";
pub(super) const END: &str = "<|tool_call_end|>";

/// Parser of a call.
#[derive(Debug, Default)]
pub(super) struct Kimi {
    id: String,
    /// The arguments, after the marker of their start.
    arguments: Option<ObjectArguments>,
}

impl CallParser for Kimi {
    fn markers(&self) -> &'static [&'static str] {
        match &self.arguments {
            None => &[ARGUMENTS, END],
            Some(arguments) if arguments.is_started() => &[],
            Some(_) => &[END, SECTION_END],
        }
    }

    fn marker(&mut self, marker: &'static str, _: &Tools, out: &mut Sink) -> Step {
        match &self.arguments {
            None if marker == ARGUMENTS => {
                let id = self.id.trim();
                let name = name_of_id(id);
                if name.is_empty() {
                    return Step::broken("the call has no name");
                }
                out.start_call(name, Some(id.to_owned()));
                self.arguments = Some(ObjectArguments::default());
                Step::More
            }
            Some(arguments) if arguments.is_done() => {
                out.end_call();
                Step::Done
            }
            _ => Step::broken("the call has no arguments"),
        }
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match &mut self.arguments {
            None => {
                self.id.push(c);
                Step::More
            }
            Some(arguments) if arguments.is_done() && is_space(c) => Step::More,
            Some(arguments) => Step::of(arguments.push(c, out)),
        }
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        if self.arguments.as_ref().is_some_and(ObjectArguments::is_done) {
            out.end_call();
            return Step::Done;
        }
        Step::cut_off()
    }
}

/// Returns the name in an id such as `functions.f:0`.
fn name_of_id(id: &str) -> &str {
    let id = id.strip_prefix("functions.").unwrap_or(id);
    match id.rsplit_once(':') {
        Some((name, index)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => id,
    }
}
