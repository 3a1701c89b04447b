//! Formats of reasoning and of tool calls.

use super::call::CallParser;
use super::deepseek::{self, DeepSeek};
use super::dsml::{self, Dsml};
use super::gemma::{FUNCTION_GEMMA, GEMMA4, Gemma};
use super::glm::Glm;
use super::harmony;
use super::hermes::{self, Hermes};
use super::kimi::{self, Kimi};
use super::llama::{self, Llama};
use super::mistral::{self, Mistral};
use super::xml::{self, Xml};

/// Formats of a model's reasoning and tool calls.
///
/// [`detect`](Self::detect) finds them for a model; the fields may be set to override that.
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
    /// `<think>…</think>`: most models.
    Think,
    /// `[THINK]…[/THINK]`: Mistral.
    Mistral,
    /// `<|channel>thought…<channel|>`: Gemma 4.
    Gemma4,
    /// Messages in the channel `analysis`: gpt-oss.
    Harmony,
}

/// A format of tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFormat {
    /// `<tool_call>{"name": "f", "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3, SmolLM3.
    Hermes,
    /// `<tool_call><function=f><parameter=k>v</parameter></function></tool_call>`: Qwen3-Coder, Qwen3.5, Nemotron 3.
    QwenXml,
    /// `<|python_tag|>{"name": "f", "parameters": {…}}`, or the JSON alone if tools were given: Llama 3.x.
    Llama,
    /// `<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>`: gpt-oss.
    Harmony,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f` and fenced JSON: DeepSeek V3 and R1; V3.1 without fence.
    DeepSeek,
    /// `<｜DSML｜invoke name="f">…</｜DSML｜invoke>`: DeepSeek V3.2 and V4.
    Dsml,
    /// `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`: Kimi K2.
    Kimi,
    /// `<tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`: GLM 4.5 to 5.
    Glm,
    /// `[TOOL_CALLS][{"name": "f", "arguments": {…}}]` and `[TOOL_CALLS]f[ARGS]{…}`: Mistral.
    Mistral,
    /// `<|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|>`: Gemma 4.
    Gemma4,
    /// `<start_function_call>call:f{k:<escape>v<escape>}<end_function_call>`: FunctionGemma.
    FunctionGemma,
}

impl OutputFormat {
    /// Returns the format of a model that only writes text.
    pub fn none() -> Self {
        Self::default()
    }

    /// Detects the formats of a model from the source of its chat template and from its vocabulary: `has_token` returns
    /// whether a text is a token.
    ///
    /// The first rule that holds gives the format of calls; "reads" means that the text occurs in the template:
    ///
    /// | the template … | calls |
    /// |---|---|
    /// | reads `<\|channel\|>` and `<\|message\|>` | harmony, also for reasoning |
    /// | reads `｜DSML｜`, or that is a token (DeepSeek V3.2 has no template) | DSML |
    /// | reads `<｜tool▁call▁begin｜>` | DeepSeek |
    /// | reads `<\|tool_call_begin\|>` or `<\|tool_calls_section_begin\|>` | Kimi |
    /// | reads `<\|tool_call>` | Gemma 4 |
    /// | reads `<start_function_call>` | FunctionGemma |
    /// | reads `<arg_key>` | GLM |
    /// | reads `<tool_call>` and `<function=` | Qwen's XML |
    /// | reads `[TOOL_CALLS]` | Mistral |
    /// | reads `<tool_call>` | Hermes |
    /// | reads `<\|python_tag\|>`, or that is a token and the template reads `tools` | Llama |
    ///
    /// Reasoning is `<think>` if the template reads `</think>` or both tags are tokens, Mistral's if `[THINK]` is read
    /// or a token, and Gemma 4's if `<|channel>` is read or a token.
    pub fn detect(template: &str, has_token: impl Fn(&str) -> bool) -> Self {
        let reads = |text: &str| template.contains(text);
        if reads(harmony::CHANNEL) && reads(harmony::MESSAGE) {
            return Self { reasoning: Some(ReasoningFormat::Harmony), calls: Some(CallFormat::Harmony) };
        }
        let calls = if reads(dsml::TOKEN) || has_token(dsml::TOKEN) {
            Some(CallFormat::Dsml)
        } else if reads(deepseek::START) {
            Some(CallFormat::DeepSeek)
        } else if reads(kimi::START) || reads(kimi::SECTION) {
            Some(CallFormat::Kimi)
        } else if reads(GEMMA4.start[0]) {
            Some(CallFormat::Gemma4)
        } else if reads(FUNCTION_GEMMA.start[0]) {
            Some(CallFormat::FunctionGemma)
        } else if reads(super::glm::KEY) {
            Some(CallFormat::Glm)
        } else if reads(hermes::START) && reads(xml::FUNCTION) {
            Some(CallFormat::QwenXml)
        } else if reads(mistral::START) {
            Some(CallFormat::Mistral)
        } else if reads(hermes::START) {
            Some(CallFormat::Hermes)
        } else if reads(llama::START) || has_token(llama::START) && reads("tools") {
            Some(CallFormat::Llama)
        } else {
            None
        };
        let both = |format: ReasoningFormat| has_token(format.start()) && has_token(format.end());
        let reasoning = if reads(ReasoningFormat::Think.end()) || both(ReasoningFormat::Think) {
            Some(ReasoningFormat::Think)
        } else if reads(ReasoningFormat::Mistral.start()) || has_token(ReasoningFormat::Mistral.start()) {
            Some(ReasoningFormat::Mistral)
        } else if reads(GEMMA_CHANNEL) || has_token(GEMMA_CHANNEL) {
            Some(ReasoningFormat::Gemma4)
        } else {
            None
        };
        Self { reasoning, calls }
    }

    pub(super) fn is_harmony(self) -> bool {
        self.reasoning == Some(ReasoningFormat::Harmony) || self.calls == Some(CallFormat::Harmony)
    }

    /// Returns whether a prompt ends inside of reasoning, so that the output continues it: some templates write the
    /// start of reasoning themselves.
    pub fn prompt_opens_reasoning(self, prompt: &str) -> bool {
        let prompt = prompt.trim_end();
        !self.is_harmony() && self.reasoning.is_some_and(|reasoning| prompt.ends_with(reasoning.start()))
    }

    /// Returns the tokens that the parser needs to see. Where they are special tokens, a detokenizer has to emit them
    /// as text ([`Detokenizer::with_visible`](crate::Detokenizer::with_visible)).
    pub fn markers(self) -> Vec<&'static str> {
        if self.is_harmony() {
            return harmony::MARKERS.to_vec();
        }
        let mut markers = Vec::new();
        match self.reasoning {
            Some(ReasoningFormat::Gemma4) => markers.extend([GEMMA_CHANNEL, ReasoningFormat::Gemma4.end()]),
            Some(reasoning) => markers.extend([reasoning.start(), reasoning.end()]),
            None => {}
        }
        markers.extend(self.calls.into_iter().flat_map(CallFormat::tokens));
        markers
    }
}

/// The token that Gemma 4's reasoning starts with.
const GEMMA_CHANNEL: &str = "<|channel>";

impl ReasoningFormat {
    pub(super) fn start(self) -> &'static str {
        match self {
            Self::Think => "<think>",
            Self::Mistral => "[THINK]",
            Self::Gemma4 => "<|channel>thought",
            Self::Harmony => harmony::CHANNEL,
        }
    }

    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Think => "</think>",
            Self::Mistral => "[/THINK]",
            Self::Gemma4 => "<channel|>",
            Self::Harmony => harmony::END,
        }
    }
}

impl CallFormat {
    /// Returns the markers that start a call.
    pub(super) fn starts(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::Glm => &[hermes::START],
            Self::QwenXml => &[hermes::START, xml::FUNCTION],
            Self::Llama => &[llama::START],
            Self::Harmony => &[],
            Self::DeepSeek => &[deepseek::START],
            Self::Dsml => &[dsml::START],
            Self::Kimi => &[kimi::START],
            Self::Mistral => &[mistral::START],
            Self::Gemma4 => &GEMMA4.start,
            Self::FunctionGemma => &FUNCTION_GEMMA.start,
        }
    }

    /// Returns the markers around a section of calls.
    pub(super) fn wrappers(self) -> &'static [&'static str] {
        match self {
            Self::DeepSeek => &[deepseek::SECTION, deepseek::SECTION_END],
            Self::Dsml => &dsml::WRAPPERS,
            Self::Kimi => &[kimi::SECTION, kimi::SECTION_END],
            _ => &[],
        }
    }

    /// Returns the marker that ends a malformed call, like the start of another.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Hermes | Self::Glm | Self::QwenXml => hermes::END,
            Self::Llama => llama::START,
            Self::Harmony => harmony::CALL,
            Self::DeepSeek => deepseek::END,
            Self::Dsml => dsml::END,
            Self::Kimi => kimi::END,
            Self::Mistral => mistral::START,
            Self::Gemma4 => GEMMA4.end[0],
            Self::FunctionGemma => FUNCTION_GEMMA.end[0],
        }
    }

    /// Returns whether calls start with special tokens, which cannot be meant as text.
    pub(super) fn has_special_tokens(self) -> bool {
        matches!(self, Self::DeepSeek | Self::Dsml | Self::Kimi)
    }

    /// Returns the tokens of the format that may be special.
    fn tokens(self) -> Vec<&'static str> {
        match self {
            Self::Hermes | Self::QwenXml => vec![hermes::START, hermes::END],
            Self::Glm => {
                let mut tokens = vec![hermes::START, hermes::END];
                tokens.extend(super::glm::TAGS);
                tokens
            }
            Self::Llama => vec![llama::START],
            Self::Harmony => harmony::MARKERS.to_vec(),
            Self::DeepSeek => vec![
                deepseek::SECTION,
                deepseek::SECTION_END,
                deepseek::START,
                deepseek::SEPARATOR,
                deepseek::END,
            ],
            Self::Dsml => vec![dsml::TOKEN],
            Self::Kimi => vec![kimi::SECTION, kimi::SECTION_END, kimi::START, kimi::ARGUMENTS, kimi::END],
            Self::Mistral => vec![mistral::START, mistral::CALL_ID, mistral::ARGUMENTS],
            Self::Gemma4 => vec![GEMMA4.start[0], GEMMA4.end[0], GEMMA4.quote[0]],
            Self::FunctionGemma => {
                vec![FUNCTION_GEMMA.start[0], FUNCTION_GEMMA.end[0], FUNCTION_GEMMA.quote[0]]
            }
        }
    }

    /// Creates a parser of the call that a marker starts.
    pub(super) fn parser(self, start: &'static str) -> Box<dyn CallParser> {
        match self {
            // Harmony has no marker that starts a call.
            Self::Hermes | Self::Harmony => Box::<Hermes>::default(),
            Self::QwenXml => Box::new(Xml::new(start)),
            Self::Llama => Box::<Llama>::default(),
            Self::DeepSeek => Box::<DeepSeek>::default(),
            Self::Dsml => Box::<Dsml>::default(),
            Self::Kimi => Box::<Kimi>::default(),
            Self::Glm => Box::<Glm>::default(),
            Self::Mistral => Box::<Mistral>::default(),
            Self::Gemma4 => Box::new(Gemma::new(&GEMMA4)),
            Self::FunctionGemma => Box::new(Gemma::new(&FUNCTION_GEMMA)),
        }
    }
}
