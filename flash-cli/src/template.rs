//! Opens chat templates with the settings of flags.

use std::path::Path;

use flash_text::{ChatTemplate, Message};
use serde_json::{Map, Value};

use crate::args::TemplateArgs;
use crate::usage::UsageError;

/// The variable that switches reasoning on or off in the templates of Qwen 3 and other reasoning models.
const THINKING: &str = "enable_thinking";

/// Role of a system prompt.
pub(crate) const SYSTEM: &str = "system";

/// System prompt and template variables of a conversation.
#[derive(Debug)]
pub(crate) struct TemplateOptions {
    system: Option<String>,
    variables: Map<String, Value>,
}

impl TemplateOptions {
    pub(crate) fn resolve(args: TemplateArgs) -> Result<Self, UsageError> {
        let TemplateArgs { system, think, no_think, chat_template_kwargs } = args;
        let mut variables = chat_template_kwargs.unwrap_or_default().0;
        if (think || no_think) && variables.insert(THINKING.to_owned(), think.into()).is_some() {
            return Err(UsageError::ThinkingTwice);
        }
        Ok(Self { system, variables })
    }

    /// Returns a flag of the template that was given, if any was.
    pub(crate) fn given(&self) -> Option<&'static str> {
        match (&self.system, self.variables.contains_key(THINKING)) {
            (Some(_), _) => Some("--system"),
            (None, true) => Some("--think, --no-think or --chat-template-kwargs"),
            (None, false) if self.variables.is_empty() => None,
            (None, false) => Some("--chat-template-kwargs"),
        }
    }

    /// Checks that the conversation of the session `name` has the system prompt that was given, if one was.
    ///
    /// # Errors
    /// [`UsageError::OtherSystem`].
    pub(crate) fn check_system(&self, name: &str, messages: &[Message]) -> Result<(), UsageError> {
        let is_other = |first: &Message| self.system_message().is_some_and(|system| *first != system);
        match messages.first() {
            Some(first) if is_other(first) => Err(UsageError::OtherSystem { session: name.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Returns the system prompt as a message.
    pub(crate) fn system_message(&self) -> Option<Message> {
        self.system.as_ref().map(|text| Message::new(SYSTEM, text))
    }

    /// Opens the chat template of a model directory and sets its variables.
    ///
    /// # Errors
    /// [`UsageError::UnknownVariable`] for a variable that the template does not use: it would have no effect.
    pub(crate) fn open(&self, dir: &Path) -> anyhow::Result<ChatTemplate> {
        let mut template = ChatTemplate::open(dir)?;
        for (name, value) in &self.variables {
            if !template.uses(name) {
                return Err(UsageError::UnknownVariable { name: name.clone(), dir: dir.to_owned() }.into());
            }
            template.set_variable(name, value);
        }
        Ok(template)
    }
}
