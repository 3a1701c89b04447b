//! Gemma 4 and FunctionGemma: `call:f{k:v,…}` with strings between delimiters of their own.

use super::call::{CallParser, Step, Tools, is_name_char, is_space};
use super::json;
use super::sink::Sink;

/// Maximum nesting of arguments, as in the JSON of other formats.
const MAX_DEPTH: usize = 100;

/// Marker before the name of a call.
const PREFIX: &str = "call:";

/// The markers of a model.
#[derive(Debug)]
pub(super) struct Dialect {
    pub(super) start: [&'static str; 1],
    pub(super) end: [&'static str; 1],
    /// Stands before and after a string.
    pub(super) quote: [&'static str; 1],
    pub(super) quote_or_end: [&'static str; 2],
}

/// Gemma 4.
pub(super) static GEMMA4: Dialect = Dialect {
    start: ["<|tool_call>"],
    end: ["<tool_call|>"],
    quote: ["<|\"|>"],
    quote_or_end: ["<|\"|>", "<tool_call|>"],
};

/// FunctionGemma.
pub(super) static FUNCTION_GEMMA: Dialect = Dialect {
    start: ["<start_function_call>"],
    end: ["<end_function_call>"],
    quote: ["<escape>"],
    quote_or_end: ["<escape>", "<end_function_call>"],
};

/// Parser of the calls between the markers, usually one. Its arguments are converted to JSON.
#[derive(Debug)]
pub(super) struct Gemma {
    dialect: &'static Dialect,
    state: State,
    name: String,
    /// For each open container, whether it is an object.
    stack: Vec<bool>,
    json: String,
    /// A key, a word or a string, as far as it arrived.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within `call:` and the name.
    Name,
    /// A key, or the end of the object if it is empty.
    Key {
        is_first: bool,
    },
    /// A value, or the end of the array if it is empty.
    Value {
        is_first: bool,
    },
    /// Within a string between delimiters.
    String {
        is_key: bool,
    },
    /// Within a string in double quotes; the flag says whether a backslash precedes.
    Quoted {
        is_escaped: bool,
    },
    /// Within a value without delimiters.
    Word,
    /// After a key: a colon must follow.
    Colon,
    AfterValue,
    AfterCall,
}

impl Gemma {
    pub(super) fn new(dialect: &'static Dialect) -> Self {
        let text = String::new();
        Self {
            dialect,
            state: State::Name,
            name: String::new(),
            stack: Vec::new(),
            json: String::new(),
            text,
        }
    }

    fn name(&mut self, c: char, out: &mut Sink) -> Step {
        let n_prefix = self.name.len();
        if n_prefix < PREFIX.len() {
            if n_prefix == 0 && is_space(c) {
                return Step::More;
            }
            if !PREFIX[n_prefix..].starts_with(c) {
                return Step::NotACall;
            }
            self.name.push(c);
        } else if c == '{' && n_prefix > PREFIX.len() {
            out.start_call(&self.name[PREFIX.len()..], None);
            return self.open(true);
        } else if is_name_char(c) {
            self.name.push(c);
        } else {
            return Step::NotACall;
        }
        Step::More
    }

    fn open(&mut self, is_object: bool) -> Step {
        if self.stack.len() == MAX_DEPTH {
            return Step::broken("the arguments are nested too deeply");
        }
        self.stack.push(is_object);
        self.json.push(if is_object { '{' } else { '[' });
        self.state = if is_object { State::Key { is_first: true } } else { State::Value { is_first: true } };
        Step::More
    }

    fn close(&mut self, out: &mut Sink) -> Step {
        if let Some(is_object) = self.stack.pop() {
            self.json.push(if is_object { '}' } else { ']' });
        }
        self.state = State::AfterValue;
        if self.stack.is_empty() {
            out.arguments(&std::mem::take(&mut self.json));
            self.state = State::AfterCall;
        }
        Step::More
    }

    /// Takes a character between values.
    fn after_value(&mut self, c: char, out: &mut Sink) -> Step {
        match (c, self.stack.last()) {
            ('}', Some(true)) | (']', Some(false)) => self.close(out),
            (',', Some(is_object)) => {
                self.state = if *is_object {
                    State::Key { is_first: false }
                } else {
                    State::Value { is_first: false }
                };
                self.json.push_str(", ");
                Step::More
            }
            _ if is_space(c) => Step::More,
            _ => Step::broken("a comma or the end of an object or list is missing"),
        }
    }

    fn value(&mut self, c: char, is_first: bool, out: &mut Sink) -> Step {
        match c {
            '{' => return self.open(true),
            '[' => return self.open(false),
            ']' if is_first && self.stack.last() == Some(&false) => return self.close(out),
            ',' | '}' | ']' => return Step::broken("a value is missing"),
            '"' => {
                self.text.push(c);
                self.state = State::Quoted { is_escaped: false };
            }
            c if is_space(c) => {}
            c => {
                self.text.push(c);
                self.state = State::Word;
            }
        }
        Step::More
    }

    fn key(&mut self, c: char, is_first: bool, out: &mut Sink) -> Step {
        match c {
            '}' if is_first && self.text.is_empty() => return self.close(out),
            ':' if !self.text.trim().is_empty() => self.end_key(),
            '{' | '}' | '[' | ']' | ',' | ':' => return Step::broken("a key is malformed"),
            c if is_space(c) && self.text.is_empty() => {}
            c => self.text.push(c),
        }
        Step::More
    }

    /// Ends a key at its colon.
    fn end_key(&mut self) {
        json::push_string(self.text.trim().trim_matches('"'), &mut self.json);
        self.json.push_str(": ");
        self.text.clear();
        self.state = State::Value { is_first: false };
    }

    /// Ends a value without delimiters: a number or a word of JSON, else a string.
    fn end_word(&mut self) {
        let word = self.text.trim();
        match json::normalized(word) {
            Ok(value) => self.json.push_str(&value),
            Err(_) => json::push_string(word, &mut self.json),
        }
        self.text.clear();
        self.state = State::AfterValue;
    }

    /// Takes a character of a string in double quotes.
    fn quoted(&mut self, c: char, is_escaped: bool) -> Step {
        self.text.push(c);
        if c != '"' || is_escaped {
            self.state = State::Quoted { is_escaped: c == '\\' && !is_escaped };
            return Step::More;
        }
        let value = json::normalized(&self.text);
        self.text.clear();
        self.state = State::AfterValue;
        Step::of(value.map(|value| self.json.push_str(&value)))
    }
}

impl CallParser for Gemma {
    fn markers(&self) -> &'static [&'static str] {
        match self.state {
            State::Name | State::Quoted { .. } | State::Colon => &[],
            State::Key { .. } | State::Value { .. } | State::Word | State::AfterValue => {
                &self.dialect.quote_or_end
            }
            State::String { .. } => &self.dialect.quote,
            State::AfterCall => &self.dialect.end,
        }
    }

    fn marker(&mut self, marker: &'static str, _: &Tools, out: &mut Sink) -> Step {
        if marker == self.dialect.end[0] {
            if self.state == State::AfterCall {
                out.end_call();
                return Step::Done;
            }
            return Step::broken("the call ends inside of its arguments");
        }
        match self.state {
            State::Key { .. } if self.text.is_empty() => self.state = State::String { is_key: true },
            State::Value { .. } => self.state = State::String { is_key: false },
            State::String { is_key: true } => self.state = State::Colon,
            State::String { is_key: false } => {
                json::push_string(&self.text, &mut self.json);
                self.text.clear();
                self.state = State::AfterValue;
            }
            _ => return Step::broken("a string starts inside of a key or value"),
        }
        Step::More
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match self.state {
            State::Name => self.name(c, out),
            State::Key { is_first } => self.key(c, is_first, out),
            State::Value { is_first } => self.value(c, is_first, out),
            State::String { .. } => {
                self.text.push(c);
                Step::More
            }
            State::Quoted { is_escaped } => self.quoted(c, is_escaped),
            State::Word if matches!(c, ',' | '}' | ']') => {
                self.end_word();
                self.after_value(c, out)
            }
            State::Word => {
                self.text.push(c);
                Step::More
            }
            State::Colon if c == ':' => {
                self.end_key();
                Step::More
            }
            State::Colon => Step::broken("a colon is missing after a key"),
            State::AfterValue => self.after_value(c, out),
            State::AfterCall if is_space(c) => Step::More,
            State::AfterCall if c == 'c' => {
                out.end_call();
                out.record("c");
                *self = Self::new(self.dialect);
                self.name(c, out)
            }
            State::AfterCall => Step::broken("text follows the arguments of the call"),
        }
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        match self.state {
            State::Name => Step::NotACall,
            State::AfterCall => {
                out.end_call();
                Step::Done
            }
            _ => Step::cut_off(),
        }
    }
}
