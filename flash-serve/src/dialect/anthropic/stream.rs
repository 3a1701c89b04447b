//! Streams of messages.

use super::{answer, error};
use crate::engine::{CallStart, Done, EngineError, Event, Started, Usage};
use crate::http::stream::{Encoder, write_event};
use crate::ids;
use crate::json::{Json, object};

/// Writes a message as server-sent events with names.
pub(super) struct MessageStream {
    model: String,
    is_started: bool,
    open: Option<Block>,
    n_blocks: usize,
}

/// Kinds of content blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    ToolUse,
}

impl MessageStream {
    pub(super) fn new(model: String) -> Self {
        Self { model, is_started: false, open: None, n_blocks: 0 }
    }

    fn start(&mut self, started: Started, out: &mut Vec<u8>) {
        if self.is_started {
            return;
        }
        self.is_started = true;
        let Started { prompt_tokens, cached_tokens } = started;
        let usage = Usage { prompt_tokens, cached_tokens, ..Usage::default() };
        let message = answer::head(&self.model, &usage);
        write_event(out, "message_start", &object! { "type": "message_start", "message": message });
    }

    /// Begins a block, unless one of its kind is open.
    fn open(&mut self, block: Block, content: Json, out: &mut Vec<u8>) {
        if self.open == Some(block) && block != Block::ToolUse {
            return;
        }
        self.close(out);
        let start =
            object! { "type": "content_block_start", "index": self.n_blocks, "content_block": content };
        write_event(out, "content_block_start", &start);
        self.open = Some(block);
        self.n_blocks += 1;
    }

    fn delta(&self, delta: Json, out: &mut Vec<u8>) {
        let index = self.n_blocks.saturating_sub(1);
        write_event(
            out,
            "content_block_delta",
            &object! { "type": "content_block_delta", "index": index, "delta": delta },
        );
    }

    /// Ends the open block.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(block) = self.open.take() else { return };
        if block == Block::Thinking {
            self.delta(object! { "type": "signature_delta", "signature": answer::SIGNATURE }, out);
        }
        let index = self.n_blocks.saturating_sub(1);
        write_event(out, "content_block_stop", &object! { "type": "content_block_stop", "index": index });
    }

    fn tool_use(&mut self, start: CallStart, out: &mut Vec<u8>) {
        let id = start.id.unwrap_or_else(|| ids::random("toolu_"));
        let input = object! {};
        let content = object! { "type": "tool_use", "id": id, "name": start.name, "input": input };
        self.open(Block::ToolUse, content, out);
    }

    fn done(&mut self, done: &Done, out: &mut Vec<u8>) {
        self.close(out);
        let (stop_reason, stop_sequence) = answer::stop_reason(done);
        let delta = object! { "stop_reason": stop_reason, "stop_sequence": stop_sequence };
        let usage = answer::usage(&done.usage);
        write_event(
            out,
            "message_delta",
            &object! { "type": "message_delta", "delta": delta, "usage": usage },
        );
    }
}

impl Encoder for MessageStream {
    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Started(started) => return self.start(started, out),
            _ => self.start(Started::default(), out),
        }
        match event {
            Event::Text(text) if text.text.is_empty() => {}
            Event::Text(text) => {
                self.open(Block::Text, object! { "type": "text", "text": "" }, out);
                self.delta(object! { "type": "text_delta", "text": text.text }, out);
            }
            Event::Reasoning(text) => {
                let content = object! { "type": "thinking", "thinking": "", "signature": "" };
                self.open(Block::Thinking, content, out);
                self.delta(object! { "type": "thinking_delta", "thinking": text }, out);
            }
            Event::CallStart(start) => self.tool_use(start, out),
            Event::CallArguments(part) => {
                self.delta(object! { "type": "input_json_delta", "partial_json": part }, out);
            }
            Event::CallEnd => self.close(out),
            Event::Done(done) => self.done(&done, out),
            Event::Started(_) | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>) {
        write_event(out, "error", &error::late(error));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        write_event(out, "ping", &object! { "type": "ping" });
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        write_event(out, "message_stop", &object! { "type": "message_stop" });
    }
}
