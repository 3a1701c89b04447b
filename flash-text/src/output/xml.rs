//! Qwen3-Coder, Qwen3.5 and Nemotron 3: `<tool_call><function=f><parameter=k>v</parameter></function></tool_call>`.

use super::arguments::ParameterArguments;
use super::call::{CallParser, Step, Tools, is_name_char, is_space};
use super::coerce::coerce;
use super::hermes;
use super::sink::Sink;

/// Starts a call without the outer tags, which Qwen3-Coder at times leaves out. It is one only of a tool that the model
/// was given.
pub(super) const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// Parser of the functions between the outer tags, usually one.
#[derive(Debug)]
pub(super) struct Xml {
    is_wrapped: bool,
    state: State,
    name: String,
    key: String,
    value: String,
    arguments: ParameterArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Name,
    /// Before a parameter or the end of the function.
    Body,
    Key,
    Value,
    AfterFunction,
}

impl Xml {
    /// Creates a parser behind the marker that started the call.
    pub(super) fn new(start: &str) -> Self {
        let is_wrapped = start != FUNCTION;
        Self {
            is_wrapped,
            state: if is_wrapped { State::Start } else { State::Name },
            name: String::new(),
            key: String::new(),
            value: String::new(),
            arguments: ParameterArguments::default(),
        }
    }

    fn end_value(&mut self, tools: &Tools, out: &mut Sink) -> Step {
        let value = self.value.strip_prefix('\n').unwrap_or(&self.value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let value = coerce(value, &self.key, tools.schema(&self.name));
        self.value.clear();
        self.state = State::Body;
        Step::of(self.arguments.push(&self.key, &value, out))
    }
}

impl CallParser for Xml {
    fn markers(&self) -> &'static [&'static str] {
        match self.state {
            State::Start => &[FUNCTION],
            State::Name | State::Key => &[],
            State::Body => &[PARAMETER, FUNCTION_END],
            State::Value => &[PARAMETER_END],
            State::AfterFunction => &[FUNCTION, hermes::END],
        }
    }

    fn marker(&mut self, marker: &'static str, tools: &Tools, out: &mut Sink) -> Step {
        match marker {
            FUNCTION => {
                self.name.clear();
                self.state = State::Name;
            }
            PARAMETER => {
                self.key.clear();
                self.state = State::Key;
            }
            PARAMETER_END => return self.end_value(tools, out),
            FUNCTION_END => {
                self.arguments.finish(out);
                out.end_call();
                self.state = State::AfterFunction;
            }
            _ => {
                out.clear_record();
                return Step::Done;
            }
        }
        Step::More
    }

    fn char(&mut self, c: char, tools: &Tools, out: &mut Sink) -> Step {
        match (self.state, c) {
            (State::Start | State::Body | State::AfterFunction, c) if is_space(c) => {}
            (State::Start, _) => return Step::NotACall,
            (State::Name, '>') if !self.name.is_empty() && (self.is_wrapped || tools.has(&self.name)) => {
                out.start_call(&self.name, None);
                self.state = State::Body;
            }
            (State::Name, c) if is_name_char(c) => self.name.push(c),
            (State::Name, _) => return Step::NotACall,
            (State::Key, '>') => self.state = State::Value,
            (State::Key, '<' | '\n') => return Step::broken("the name of a parameter does not end"),
            (State::Key, c) => self.key.push(c),
            (State::Value, c) => self.value.push(c),
            (State::Body, _) => return Step::broken("text stands between the parameters of the call"),
            (State::AfterFunction, _) => return Step::NotACall,
        }
        Step::More
    }

    fn finish(&mut self, _: &Tools, _: &mut Sink) -> Step {
        match self.state {
            State::Start => Step::NotACall,
            State::Name if !self.is_wrapped => Step::NotACall,
            State::AfterFunction => Step::NotACall,
            _ => Step::cut_off(),
        }
    }
}
