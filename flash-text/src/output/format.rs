//! Formats of reasoning and of tool calls, and their detection.

use super::call::CallParser;
use super::hermes::{self, Hermes};

/// How a model writes reasoning and tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputFormat {
    /// Format of the reasoning, if the model reasons.
    pub reasoning: Option<ReasoningFormat>,
    /// Format of tool calls, if the model calls tools.
    pub calls: Option<CallFormat>,
}

/// A format of reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReasoningFormat {
    /// `<think>…</think>`.
    Think,
}

/// A format of tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFormat {
    /// `<tool_call>{"name": "f", "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3, SmolLM3.
    Hermes,
}

impl OutputFormat {
    /// Returns the format of a model that only writes text.
    pub fn none() -> Self {
        Self::default()
    }

    /// Detects the formats of a model from the source of its chat template and from its vocabulary: `has_token` returns
    /// whether a text is a token.
    pub fn detect(template: &str, has_token: impl Fn(&str) -> bool) -> Self {
        let reads = |text: &str| template.contains(text);
        let think = reads("</think>") || has_token("<think>") && has_token("</think>");
        Self {
            reasoning: think.then_some(ReasoningFormat::Think),
            calls: reads(hermes::START).then_some(CallFormat::Hermes),
        }
    }

    /// Returns whether a prompt ends inside of reasoning, so that the output continues it: some templates write the
    /// start of reasoning themselves.
    pub fn prompt_opens_reasoning(&self, prompt: &str) -> bool {
        self.reasoning.is_some_and(|reasoning| prompt.trim_end().ends_with(reasoning.start()))
    }
}

impl ReasoningFormat {
    pub(super) fn start(self) -> &'static str {
        match self {
            Self::Think => "<think>",
        }
    }

    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Think => "</think>",
        }
    }
}

impl CallFormat {
    /// Returns the markers that start a call.
    pub(super) fn starts(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[hermes::START],
        }
    }

    /// Returns the markers that end a malformed call.
    pub(super) fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[hermes::END],
        }
    }

    pub(super) fn parser(self) -> Box<dyn CallParser> {
        match self {
            Self::Hermes => Box::<Hermes>::default(),
        }
    }
}
