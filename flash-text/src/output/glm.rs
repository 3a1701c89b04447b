//! GLM 4.5 to 5: `<tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`.

use super::arguments::ParameterArguments;
use super::call::{CallParser, Step, Tools, is_name_char, is_space};
use super::coerce::coerce_untyped;
use super::hermes;
use super::sink::Sink;

pub(super) const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";

/// The tags of parameters.
pub(super) const TAGS: [&str; 4] = [KEY, KEY_END, VALUE, VALUE_END];

/// Parser of a call between the tags.
#[derive(Debug, Default)]
pub(super) struct Glm {
    state: State,
    name: String,
    key: String,
    value: String,
    arguments: ParameterArguments,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Name,
    /// White space follows the name.
    AfterName,
    Key,
    AfterKey,
    Value,
    /// Before a parameter or the end of the call.
    Body,
}

impl CallParser for Glm {
    fn markers(&self) -> &'static [&'static str] {
        match self.state {
            State::Name | State::AfterName | State::Body => &[KEY, hermes::END],
            State::Key => &[KEY_END],
            State::AfterKey => &[VALUE],
            State::Value => &[VALUE_END],
        }
    }

    fn marker(&mut self, marker: &'static str, tools: &Tools, out: &mut Sink) -> Step {
        if self.name.is_empty() {
            return Step::NotACall;
        }
        if matches!(self.state, State::Name | State::AfterName) {
            out.start_call(&self.name, None);
        }
        match marker {
            KEY => {
                self.key.clear();
                self.state = State::Key;
            }
            KEY_END => self.state = State::AfterKey,
            VALUE => self.state = State::Value,
            VALUE_END => {
                let key = self.key.trim();
                let value = coerce_untyped(&self.value, key, tools.schema(&self.name));
                self.state = State::Body;
                let step = Step::of(self.arguments.push(key, &value, out));
                self.value.clear();
                return step;
            }
            _ => {
                self.arguments.finish(out);
                out.end_call();
                return Step::Done;
            }
        }
        Step::More
    }

    fn char(&mut self, c: char, _: &Tools, _: &mut Sink) -> Step {
        match self.state {
            State::Name if is_space(c) => {
                if !self.name.is_empty() {
                    self.state = State::AfterName;
                }
            }
            State::AfterName | State::AfterKey | State::Body if is_space(c) => {}
            State::Name if is_name_char(c) => self.name.push(c),
            State::Name | State::AfterName => return Step::NotACall,
            State::Key => self.key.push(c),
            State::Value => self.value.push(c),
            State::AfterKey | State::Body => {
                return Step::broken("text stands between the parameters of the call");
            }
        }
        Step::More
    }

    fn finish(&mut self, _: &Tools, _: &mut Sink) -> Step {
        match self.state {
            State::Name | State::AfterName => Step::NotACall,
            _ => Step::cut_off(),
        }
    }
}
