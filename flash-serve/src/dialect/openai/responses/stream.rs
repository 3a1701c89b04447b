//! Streams of responses.

use super::object::{CALL_DELTA, OutputItem, OutputKind, ResponseHead, status};
use crate::engine::{Done, EngineError, Event};
use crate::http::stream::{Encoder, write_event};
use crate::json::{Json, object, set};

/// Writes a response as server-sent events with names and numbers.
pub(super) struct ResponseStream {
    head: ResponseHead,
    sequence_number: u64,
    is_begun: bool,
    /// The item that is being generated, and its text.
    open: Option<(OutputItem, String)>,
    /// Complete items.
    output: Vec<Json>,
}

impl ResponseStream {
    pub(super) fn new(head: ResponseHead) -> Self {
        Self { head, sequence_number: 0, is_begun: false, open: None, output: Vec::new() }
    }

    /// Writes an event with its number.
    fn write(&mut self, name: &str, mut data: Json, out: &mut Vec<u8>) {
        set(&mut data, "type", name);
        set(&mut data, "sequence_number", self.sequence_number);
        self.sequence_number += 1;
        write_event(out, name, &data);
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.is_begun {
            return;
        }
        self.is_begun = true;
        let response = self.head.object("in_progress", Vec::new());
        self.write("response.created", object! { "response": response.clone() }, out);
        self.write("response.in_progress", object! { "response": response }, out);
    }

    /// Writes an event of the open item.
    fn item_event(&mut self, name: &str, mut data: Json, out: &mut Vec<u8>) {
        let Some((item, _)) = &self.open else { return };
        set(&mut data, "item_id", &item.id);
        set(&mut data, "output_index", self.output.len());
        if !matches!(item.kind, OutputKind::Call { .. }) {
            set(&mut data, "content_index", 0_usize);
        }
        self.write(name, data, out);
    }

    /// Begins an item.
    fn open(&mut self, item: OutputItem, out: &mut Vec<u8>) {
        self.close(out);
        let data = object! { "output_index": self.output.len(), "item": item.begun() };
        self.write("response.output_item.added", data, out);
        let part = item.part("");
        self.open = Some((item, String::new()));
        if let Some(part) = part {
            self.item_event("response.content_part.added", object! { "part": part }, out);
        }
    }

    /// Begins an item of a kind without a name, unless one is open.
    fn open_kind(&mut self, kind: &OutputKind, item: fn() -> OutputItem, out: &mut Vec<u8>) {
        if self.open.as_ref().is_none_or(|(item, _)| item.kind != *kind) {
            self.open(item(), out);
        }
    }

    fn delta(&mut self, name: &str, text: String, out: &mut Vec<u8>) {
        if let Some((_, all)) = &mut self.open {
            all.push_str(&text);
        }
        let mut data = object! { "delta": text };
        if name == OutputKind::Message.delta_event() {
            set(&mut data, "logprobs", Json::Array(Vec::new()));
        }
        self.item_event(name, data, out);
    }

    /// Ends the open item.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some((item, text)) = self.open.clone() else { return };
        match &item.kind {
            OutputKind::Reasoning => {
                self.item_event("response.reasoning_text.done", object! { "text": &text }, out);
            }
            OutputKind::Message => {
                let data = object! { "text": &text, "logprobs": Json::Array(Vec::new()) };
                self.item_event("response.output_text.done", data, out);
            }
            OutputKind::Call { name, .. } => {
                let data = object! { "arguments": &text, "name": name };
                self.item_event("response.function_call_arguments.done", data, out);
            }
        }
        if let Some(part) = item.part(&text) {
            self.item_event("response.content_part.done", object! { "part": part }, out);
        }
        self.open = None;
        let complete = item.complete(&text);
        let data = object! { "output_index": self.output.len(), "item": complete.clone() };
        self.write("response.output_item.done", data, out);
        self.output.push(complete);
    }

    fn done(&mut self, done: &Done, out: &mut Vec<u8>) {
        self.close(out);
        let response = self.head.complete(done, self.output.clone());
        let name = format!("response.{}", status(done));
        self.write(&name, object! { "response": response }, out);
    }
}

impl Encoder for ResponseStream {
    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        self.begin(out);
        match event {
            Event::Text(text) if text.text.is_empty() => {}
            Event::Text(text) => {
                self.open_kind(&OutputKind::Message, OutputItem::message, out);
                self.delta(OutputKind::Message.delta_event(), text.text, out);
            }
            Event::Reasoning(text) => {
                self.open_kind(&OutputKind::Reasoning, OutputItem::reasoning, out);
                self.delta(OutputKind::Reasoning.delta_event(), text, out);
            }
            Event::CallStart(start) => self.open(OutputItem::call(start.id, start.name), out),
            Event::CallArguments(part) => self.delta(CALL_DELTA, part, out),
            Event::CallEnd => self.close(out),
            Event::Done(done) => self.done(&done, out),
            Event::Started(_) | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>) {
        self.begin(out);
        let mut response = self.head.object("failed", self.output.clone());
        set(&mut response, "error", object! { "code": "server_error", "message": error.to_string() });
        self.write("response.failed", object! { "response": response }, out);
    }

    /// Comments are not enough for Codex, which gives up on a stream without events (openai/codex#31539). Within an item it
    /// is an empty delta: from `response.in_progress` SDKs take over the output, which would lose the item.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        if !self.is_begun {
            return self.begin(out);
        }
        if let Some((item, _)) = &self.open {
            let name = item.kind.delta_event();
            return self.delta(name, String::new(), out);
        }
        let response = self.head.object("in_progress", self.output.clone());
        self.write("response.in_progress", object! { "response": response }, out);
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}
