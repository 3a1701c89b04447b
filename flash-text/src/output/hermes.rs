//! Hermes, Qwen2.5, Qwen3 and SmolLM3: `<tool_call>{"name": "f", "arguments": {…}}</tool_call>`.

use super::call::{CallParser, Step, Tools, is_space};
use super::envelope::Envelope;
use super::sink::Sink;

pub(super) const START: &str = "<tool_call>";
pub(super) const END: &str = "</tool_call>";

/// Parser of the JSON objects between the tags, usually one.
#[derive(Debug, Default)]
pub(super) enum Hermes {
    /// Before the first object.
    #[default]
    Start,
    Object(Box<Envelope>),
    /// After an object. Its call is ended by what follows.
    AfterObject,
}

impl Hermes {
    fn object(&mut self, mut object: Box<Envelope>, c: char, out: &mut Sink) -> Step {
        let outcome = object.push(c, out);
        *self = if outcome == Ok(true) { Self::AfterObject } else { Self::Object(object) };
        Step::of(outcome)
    }
}

impl CallParser for Hermes {
    fn markers(&self) -> &'static [&'static str] {
        match self {
            Self::AfterObject => &[END],
            Self::Start | Self::Object(_) => &[],
        }
    }

    fn marker(&mut self, _: &'static str, _: &Tools, out: &mut Sink) -> Step {
        out.end_call();
        Step::Done
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match std::mem::take(self) {
            Self::Start if is_space(c) => Step::More,
            Self::Start if c == '{' => self.object(Box::default(), c, out),
            Self::Start => Step::NotACall,
            Self::Object(object) => self.object(object, c, out),
            Self::AfterObject if c == '{' => {
                out.end_call();
                out.record("{");
                self.object(Box::default(), c, out)
            }
            Self::AfterObject => {
                *self = Self::AfterObject;
                if is_space(c) {
                    Step::More
                } else {
                    Step::broken("text follows the JSON object of the call")
                }
            }
        }
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        match self {
            Self::Start => Step::NotACall,
            Self::Object(_) => Step::cut_off(),
            Self::AfterObject => {
                out.end_call();
                Step::Done
            }
        }
    }
}
