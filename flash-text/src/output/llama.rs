//! Llama 3.x: `<|python_tag|>{"name": "f", "parameters": {…}}`, or the JSON alone.

use super::call::{CallParser, Step, Tools, is_space};
use super::envelope::Envelope;
use super::piece::Piece;
use super::sink::Sink;

pub(super) const START: &str = "<|python_tag|>";

/// Parser of the objects after the tag. Several are separated by semicolons.
#[derive(Debug, Default)]
pub(super) enum Llama {
    #[default]
    Start,
    Object(Box<Envelope>),
    AfterObject,
}

impl Llama {
    fn object(&mut self, mut object: Box<Envelope>, c: char, out: &mut Sink) -> Step {
        let outcome = object.push(c, out);
        *self = if outcome == Ok(true) {
            out.end_call();
            Self::AfterObject
        } else {
            Self::Object(object)
        };
        Step::of(outcome)
    }
}

impl CallParser for Llama {
    fn markers(&self) -> &'static [&'static str] {
        &[]
    }

    fn marker(&mut self, _: &'static str, _: &Tools, _: &mut Sink) -> Step {
        Step::More
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match std::mem::take(self) {
            Self::Start if is_space(c) => Step::More,
            Self::Start if c == '{' => self.object(Box::default(), c, out),
            Self::Start => Step::NotACall,
            Self::Object(object) => self.object(object, c, out),
            Self::AfterObject if c == '{' => {
                out.clear_record();
                out.record("{");
                self.object(Box::default(), c, out)
            }
            Self::AfterObject => {
                *self = Self::AfterObject;
                if is_space(c) || c == ';' { Step::More } else { Step::NotACall }
            }
        }
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        match self {
            Self::Start => Step::NotACall,
            Self::Object(_) => Step::cut_off(),
            Self::AfterObject => {
                out.clear_record();
                Step::Done
            }
        }
    }
}

/// Parser of an output that is nothing but calls of tools that the model was given. Whether it is one is known only at
/// its end.
#[derive(Debug, Default)]
pub(super) struct BareLlama {
    objects: Llama,
    calls: Sink,
}

impl CallParser for BareLlama {
    fn markers(&self) -> &'static [&'static str] {
        &[]
    }

    fn marker(&mut self, _: &'static str, _: &Tools, _: &mut Sink) -> Step {
        Step::More
    }

    fn char(&mut self, c: char, tools: &Tools, _: &mut Sink) -> Step {
        match self.objects.char(c, tools, &mut self.calls) {
            Step::More => Step::More,
            _ => Step::NotACall,
        }
    }

    fn finish(&mut self, tools: &Tools, out: &mut Sink) -> Step {
        let is_complete = self.objects.finish(tools, &mut self.calls) == Step::Done;
        let pieces = self.calls.take();
        let are_known = pieces.iter().all(|piece| match piece {
            Piece::CallStart { name, .. } => tools.has(name),
            _ => true,
        });
        if !is_complete || !are_known {
            return Step::NotACall;
        }
        out.calls(pieces);
        Step::Done
    }
}
