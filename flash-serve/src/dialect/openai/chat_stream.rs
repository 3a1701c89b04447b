//! Streams of chat completions.

use super::chat::Head;
use super::{error, logprobs, usage};
use crate::engine::{Done, EngineError, Event, TokenLogprob, Usage};
use crate::http::stream::{Encoder, write_data};
use crate::ids;
use crate::json::{Json, object, set};

/// Writes `chat.completion.chunk` objects as server-sent events.
pub(super) struct ChatStream {
    head: Head,
    has_logprobs: bool,
    include_usage: bool,
    choices: Vec<Choice>,
}

#[derive(Default, Clone)]
struct Choice {
    has_role: bool,
    n_calls: usize,
    usage: Usage,
}

impl ChatStream {
    pub(super) fn new(head: Head, n: usize, has_logprobs: bool, include_usage: bool) -> Self {
        Self { head, has_logprobs, include_usage, choices: vec![Choice::default(); n] }
    }

    fn chunk(&self, choices: Vec<Json>) -> Json {
        let mut chunk = self.head.object("chat.completion.chunk", choices);
        if self.include_usage {
            // Present in all chunks, and null in all but the last.
            set(&mut chunk, "usage", Json::Null);
        }
        chunk
    }

    fn delta(&self, index: usize, delta: Json, out: &mut Vec<u8>) {
        let choice = object! { "index": index, "delta": delta, "finish_reason": Json::Null };
        write_data(out, &self.chunk(vec![choice]));
    }

    /// Writes the role, once, with empty content: some clients fail if the first content is missing.
    fn role(&mut self, index: usize, out: &mut Vec<u8>) {
        if !self.choices[index].has_role {
            self.choices[index].has_role = true;
            self.delta(index, object! { "role": "assistant", "content": "" }, out);
        }
    }

    fn text(&self, index: usize, text: String, tokens: &[TokenLogprob], out: &mut Vec<u8>) {
        let mut choice =
            object! { "index": index, "delta": object! { "content": text }, "finish_reason": Json::Null };
        if self.has_logprobs {
            set(&mut choice, "logprobs", logprobs::chat(tokens));
        }
        write_data(out, &self.chunk(vec![choice]));
    }

    /// Writes a part of the latest call of a choice. Every part has the index; clients cannot do without.
    fn call(&self, choice_idx: usize, mut call: Json, out: &mut Vec<u8>) {
        set(&mut call, "index", self.choices[choice_idx].n_calls.saturating_sub(1));
        self.delta(choice_idx, object! { "tool_calls": vec![call] }, out);
    }

    fn done(&mut self, index: usize, done: Done, out: &mut Vec<u8>) {
        let finish_reason = usage::finish_reason(&done);
        let choice = object! { "index": index, "delta": object! {}, "finish_reason": finish_reason };
        let mut chunk = self.chunk(vec![choice]);
        set(&mut chunk, "timings", usage::timings(&done.timings));
        self.choices[index].usage = done.usage;
        usage::set_warnings(&mut chunk, done.warnings);
        write_data(out, &chunk);
    }
}

impl Encoder for ChatStream {
    fn event(&mut self, choice_idx: usize, event: Event, out: &mut Vec<u8>) {
        self.role(choice_idx, out);
        match event {
            Event::Text(text) => self.text(choice_idx, text.text, &text.logprobs, out),
            Event::Reasoning(text) => {
                // Clients read one or the other.
                let delta = object! { "reasoning_content": &text, "reasoning": text };
                self.delta(choice_idx, delta, out);
            }
            Event::CallStart(start) => {
                self.choices[choice_idx].n_calls += 1;
                let id = start.id.unwrap_or_else(|| ids::random("call_"));
                let function = object! { "name": start.name, "arguments": "" };
                let call = object! { "index": 0_usize, "id": id, "type": "function", "function": function };
                self.call(choice_idx, call, out);
            }
            Event::CallArguments(arguments) => {
                let function = object! { "arguments": arguments };
                self.call(choice_idx, object! { "index": 0_usize, "function": function }, out);
            }
            Event::Done(done) => self.done(choice_idx, done, out),
            Event::Started(_) | Event::CallEnd | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>) {
        write_data(out, &error::late(error));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        // A comment keeps connections open; some clients only count events.
        out.extend_from_slice(b": keep-alive\n\n");
        self.role(0, out);
        self.delta(0, object! { "content": "" }, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.include_usage {
            let total = usage::total(self.choices.iter().map(|choice| &choice.usage), self.choices.len());
            let mut chunk = self.head.object("chat.completion.chunk", Vec::new());
            set(&mut chunk, "usage", usage::usage(&total));
            write_data(out, &chunk);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
