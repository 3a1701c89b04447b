//! Conversations.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::{Tool, ToolChoice};
use crate::json::Json;

/// A conversation, and how the model should continue it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Conversation {
    /// Messages, at least one. Only the first can have the role [`Role::System`].
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Which tools it calls. Other than [`ToolChoice::Auto`] and [`ToolChoice::None`] only with tools, and a named tool is
    /// one of them.
    pub tool_choice: ToolChoice,
    /// It may call several tools in one answer.
    pub parallel_calls: bool,
    /// Reasoning before the answer.
    pub reasoning: Reasoning,
    /// The answer continues the text of the last message, which is the assistant's.
    pub continues_last: bool,
}

impl Conversation {
    /// Creates a conversation without tools.
    ///
    /// All system messages become one at the beginning, as many templates reject others. Results of tools get the names of
    /// the tools, which some templates print.
    pub fn new(messages: Vec<Message>) -> Self {
        let mut messages = with_leading_system(messages);
        set_tool_names(&mut messages);
        Self {
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_calls: true,
            reasoning: Reasoning::default(),
            continues_last: false,
        }
    }
}

/// Moves the parts of all system messages into one at the beginning.
fn with_leading_system(messages: Vec<Message>) -> Vec<Message> {
    let (system, others): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| message.role == Role::System);
    let parts: Vec<Part> =
        system.into_iter().flat_map(|message| message.parts).filter(|part| !part.is_empty()).collect();
    let leading = (!parts.is_empty()).then(|| Message { parts, ..Message::new(Role::System, "") });
    leading.into_iter().chain(others).collect()
}

/// Sets the names of results that only have the id of the call.
fn set_tool_names(messages: &mut [Message]) {
    let mut names = HashMap::new();
    for message in messages {
        for call in &message.tool_calls {
            names.insert(call.id.clone(), call.name.clone());
        }
        if message.role == Role::Tool && message.name.is_none() {
            message.name = message.tool_call_id.as_ref().and_then(|id| names.get(id).cloned());
        }
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// Its author.
    pub role: Role,
    /// Its content; empty if there is none.
    pub parts: Vec<Part>,
    /// Reasoning that preceded the content, of [`Role::Assistant`].
    pub reasoning: Option<String>,
    /// Calls that follow the content, of [`Role::Assistant`].
    pub tool_calls: Vec<ToolCall>,
    /// Id of the call that this is the result of, of [`Role::Tool`].
    pub tool_call_id: Option<String>,
    /// Name of the tool that this is the result of, of [`Role::Tool`], or of the author.
    pub name: Option<String>,
}

impl Message {
    /// Creates a message with one part of text, or none if the text is empty.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        let part = Part::Text(text.into());
        let parts = if part.is_empty() { Vec::new() } else { vec![part] };
        Self { role, parts, reasoning: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    /// Returns the text of all parts, with line breaks between them.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.parts.iter().map(|Part::Text(text)| text.as_str()).collect();
        texts.join("\n")
    }
}

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions. OpenAI's `developer` is the same.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// Returns the role's name in chat templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A part of a message's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
}

impl Part {
    fn is_empty(&self) -> bool {
        let Self::Text(text) = self;
        text.is_empty()
    }
}

/// A tool call of an earlier answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Id that its result refers to.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// The arguments as the client wrote them, usually a JSON object.
    pub arguments: String,
}

impl ToolCall {
    /// Returns the arguments as an object, which templates expect; what is no object stays a string.
    pub fn arguments_json(&self) -> Json {
        match Json::parse(self.arguments.as_bytes(), usize::MAX) {
            Ok(object @ Json::Object(_)) => object,
            _ => Json::String(self.arguments.clone()),
        }
    }
}

/// Reasoning before the answer. What is `None` has the model's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reasoning {
    /// Whether to reason.
    pub enabled: Option<bool>,
    /// The effort.
    pub effort: Option<Effort>,
    /// Maximum number of tokens.
    pub max_tokens: Option<usize>,
    /// Variables for the chat template, such as `enable_thinking`.
    pub template_variables: IndexMap<String, Json>,
}

/// Effort that a model spends on reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Hardly at all.
    Minimal,
    /// Little.
    Low,
    /// The usual amount.
    Medium,
    /// Much.
    High,
    /// More than is usual.
    ExtraHigh,
}

impl Reasoning {
    /// Sets whether and how much to reason by the name of an effort; returns whether there is such an effort.
    pub(crate) fn set_effort(&mut self, name: &str) -> bool {
        let effort = match name {
            "none" => None,
            "minimal" => Some(Effort::Minimal),
            "low" => Some(Effort::Low),
            "medium" => Some(Effort::Medium),
            "high" => Some(Effort::High),
            "xhigh" | "max" => Some(Effort::ExtraHigh),
            _ => return false,
        };
        self.enabled = Some(effort.is_some());
        self.effort = effort;
        true
    }
}

impl Effort {
    /// Returns the effort's name in chat templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::ExtraHigh => "xhigh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_messages_become_one_at_the_beginning() {
        let conversation = Conversation::new(vec![
            Message::new(Role::User, "a"),
            Message::new(Role::System, "b"),
            Message::new(Role::Assistant, "c"),
            Message::new(Role::System, "d"),
        ]);
        let roles: Vec<_> = conversation.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
        assert_eq!(conversation.messages[0].text(), "b\nd");
    }

    #[test]
    fn arguments_are_an_object_or_stay_a_string() {
        let call = |arguments: &str| ToolCall {
            id: String::new(),
            name: "f".to_owned(),
            arguments: arguments.to_owned(),
        };
        assert_eq!(call(r#"{"b":1,"a":2}"#).arguments_json().to_string(), r#"{"b":1,"a":2}"#);
        assert_eq!(call("[1]").arguments_json(), Json::from("[1]"));
        assert_eq!(call("{\"a\":").arguments_json(), Json::from("{\"a\":"));
    }

    #[test]
    fn empty_system_messages_are_left_out() {
        let messages = vec![Message::new(Role::System, ""), Message::new(Role::User, "a")];
        assert_eq!(Conversation::new(messages).messages, [Message::new(Role::User, "a")]);
    }
}
