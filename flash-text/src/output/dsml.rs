//! DeepSeek V3.2 and V4 (DSML): `<｜DSML｜invoke name="f">`, a tag for each parameter, `</｜DSML｜invoke>`.

use super::arguments::ParameterArguments;
use super::call::{CallParser, Step, Tools, is_space};
use super::coerce::{coerce, coerce_untyped, string};
use super::sink::Sink;

/// The token that all tags contain.
pub(super) const TOKEN: &str = "｜DSML｜";
pub(super) const WRAPPERS: [&str; 4] = [
    "<｜DSML｜function_calls>",
    "</｜DSML｜function_calls>",
    // V4 calls the section by another name.
    "<｜DSML｜tool_calls>",
    "</｜DSML｜tool_calls>",
];
pub(super) const START: &str = "<｜DSML｜invoke name=\"";
pub(super) const END: &str = "</｜DSML｜invoke>";
const PARAMETER: &str = "<｜DSML｜parameter name=\"";
const PARAMETER_END: &str = "</｜DSML｜parameter>";

/// Parser of a call.
#[derive(Debug, Default)]
pub(super) struct Dsml {
    state: State,
    name: String,
    key: String,
    attributes: String,
    value: String,
    arguments: ParameterArguments,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Name,
    AfterName,
    /// Before a parameter or the end of the call.
    Body,
    Key,
    Attributes,
    Value,
}

impl Dsml {
    fn end_value(&mut self, tools: &Tools, out: &mut Sink) -> Step {
        let schema = tools.schema(&self.name);
        let value = match self.attributes.trim() {
            "string=\"true\"" => string(&self.value),
            "string=\"false\"" => coerce_untyped(&self.value, &self.key, schema),
            "" => coerce(&self.value, &self.key, schema),
            attributes => {
                return Step::broken(format!("a parameter has the unknown attribute {attributes:?}"));
            }
        };
        self.value.clear();
        self.state = State::Body;
        Step::of(self.arguments.push(&self.key, &value, out))
    }
}

impl CallParser for Dsml {
    fn markers(&self) -> &'static [&'static str] {
        match self.state {
            State::Body => &[PARAMETER, END],
            State::Value => &[PARAMETER_END],
            State::Name | State::AfterName | State::Key | State::Attributes => &[],
        }
    }

    fn marker(&mut self, marker: &'static str, tools: &Tools, out: &mut Sink) -> Step {
        match marker {
            PARAMETER => {
                self.key.clear();
                self.attributes.clear();
                self.state = State::Key;
                Step::More
            }
            PARAMETER_END => self.end_value(tools, out),
            _ => {
                self.arguments.finish(out);
                out.end_call();
                Step::Done
            }
        }
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match (self.state, c) {
            (State::Name, '"') if !self.name.is_empty() => self.state = State::AfterName,
            (State::Name, '"' | '<' | '>' | '\n') => return Step::broken("the call has no name"),
            (State::Name, c) => self.name.push(c),
            (State::AfterName, '>') => {
                out.start_call(&self.name, None);
                self.state = State::Body;
            }
            (State::AfterName | State::Body, c) if is_space(c) => {}
            (State::AfterName, _) => return Step::broken("the tag of the call does not end"),
            (State::Body, _) => return Step::broken("text stands between the parameters of the call"),
            (State::Key, '"') => self.state = State::Attributes,
            (State::Key, c) => self.key.push(c),
            (State::Attributes, '>') => self.state = State::Value,
            (State::Attributes, c) => self.attributes.push(c),
            (State::Value, c) => self.value.push(c),
        }
        Step::More
    }

    fn finish(&mut self, _: &Tools, _: &mut Sink) -> Step {
        Step::cut_off()
    }
}
