//! Answers as lines of JSON.

use std::time::Instant;

use super::answer::{self, Shape};
use super::error;
use crate::engine::{EngineError, Event};
use crate::http::stream::{Encoder, write_line};
use crate::http::whole::Call;
use crate::json::{Json, set};

/// Writes an answer as lines of JSON. Every line is an object: clients parse each, also empty ones.
pub(super) struct LineStream {
    shape: Shape,
    model: String,
    has_logprobs: bool,
    begin: Instant,
    /// The call that is being generated; clients get calls whole.
    call: Option<Call>,
    n_calls: usize,
}

impl LineStream {
    pub(super) fn new(shape: Shape, model: String, has_logprobs: bool, begin: Instant) -> Self {
        Self { shape, model, has_logprobs, begin, call: None, n_calls: 0 }
    }

    fn part(&self, text: &str, thinking: Option<&str>) -> Json {
        self.shape.object(&self.model, text, thinking)
    }

    fn call(&mut self, call: &Call, out: &mut Vec<u8>) {
        let line = match answer::tool_call(call, self.n_calls) {
            Some(object) => {
                self.n_calls += 1;
                let mut line = self.part("", None);
                self.shape.set_calls(&mut line, vec![object]);
                line
            }
            // The answer ended within the call.
            None => self.part(&call.arguments, None),
        };
        write_line(out, &line);
    }
}

impl Encoder for LineStream {
    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Text(text) => {
                let mut line = self.part(&text.text, None);
                if self.has_logprobs {
                    set(&mut line, "logprobs", answer::logprobs(&text.logprobs));
                }
                write_line(out, &line);
            }
            Event::Reasoning(text) => write_line(out, &self.part("", Some(&text))),
            Event::CallStart(start) => {
                self.call = Some(Call { id: start.id, name: start.name, arguments: String::new() });
            }
            Event::CallArguments(part) => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&part);
                }
            }
            Event::CallEnd => {
                if let Some(call) = self.call.take() {
                    self.call(&call, out);
                }
            }
            Event::Done(done) => {
                if let Some(call) = self.call.take() {
                    self.call(&call, out);
                }
                let mut line = self.part("", None);
                answer::set_done(&mut line, &done, self.begin.elapsed());
                write_line(out, &line);
            }
            Event::Started(_) | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>) {
        write_line(out, &error::line(&error.to_string()));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        write_line(out, &self.part("", None));
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}
