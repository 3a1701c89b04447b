//! Chat templates, which render conversations to prompts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::error::TextError;
use super::files::{read_object, read_text, wrong_field};
use super::render;
use super::special::SpecialTokens;

/// The name of the template that is used if a model has several.
const DEFAULT_NAME: &str = "default";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Role of the author, usually `system`, `user` or `assistant`.
    pub role: String,
    /// Text of the message.
    pub content: String,
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The compiled chat template of a model.
///
/// Renders as transformers' `apply_chat_template` does: with the same Jinja environment, the named special tokens as
/// variables (`bos_token`, `eos_token`, …), and `tools` and `documents` set to none. Templates access the clock only
/// through `strftime_now`.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    path: PathBuf,
    variables: BTreeMap<String, Value>,
}

impl ChatTemplate {
    /// Opens the chat template of a model directory: `chat_template.jinja` if there is one, else `chat_template` in
    /// `tokenizer_config.json`, which is a template or several named ones, of which `default` is used.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] if the model has none, [`TextError::NoDefaultTemplate`] if none of several is named
    /// `default`, [`TextError::TemplateSyntax`] if it does not compile; another variant, with the file and the problem,
    /// if a file cannot be read or is invalid.
    pub fn open(dir: &Path) -> Result<Self, TextError> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_object(&config_path)?;
        let file_path = dir.join("chat_template.jinja");
        let (path, source) = match read_text(&file_path)? {
            Some(source) => (file_path, source),
            None => {
                let source = from_config(&config_path, config.as_ref())?
                    .ok_or_else(|| TextError::NoTemplate { dir: dir.to_owned() })?;
                (config_path, source)
            }
        };
        let env = render::environment(&source)
            .map_err(|error| TextError::TemplateSyntax { path: path.clone(), error: Box::new(error) })?;
        let mut variables = BTreeMap::from([
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
        ]);
        for (name, token) in SpecialTokens::read(dir, config.as_ref())?.iter() {
            variables.insert(name.to_owned(), Value::from(token));
        }
        Ok(Self { env, source, path, variables })
    }

    /// Returns the source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Sets a variable that the template may read, such as `enable_thinking`, and replaces its former value.
    /// `messages` and `add_generation_prompt` are always the arguments of [`render`](Self::render).
    pub fn set_variable(&mut self, name: impl Into<String>, value: impl Serialize) {
        self.variables.insert(name.into(), Value::from(Serde(value)));
    }

    /// Returns whether the template reads the variable `name`; setting one that it does not read has no effect.
    pub fn uses(&self, name: &str) -> bool {
        render::variables(&self.env).contains(name)
    }

    /// Renders a conversation to a prompt. With `add_generation_prompt` the prompt ends where the assistant's answer
    /// begins.
    ///
    /// # Errors
    /// [`TextError::NoMessages`] for an empty conversation, [`TextError::Refused`] if the template calls
    /// `raise_exception` (for example because roles do not alternate), [`TextError::Render`] if it fails in another
    /// way.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        if messages.is_empty() {
            return Err(TextError::NoMessages { path: self.path.clone() });
        }
        let mut variables = self.variables.clone();
        let messages: Vec<Value> = messages.iter().map(message_value).collect();
        let n_messages = messages.len();
        variables.insert("messages".to_owned(), Value::from(messages));
        variables.insert("add_generation_prompt".to_owned(), Value::from(add_generation_prompt));
        render::render(&self.env, Value::from_pairs(variables)).map_err(|error| {
            let path = self.path.clone();
            match render::raised(&error) {
                Some(message) => TextError::Refused { path, message },
                None => TextError::Render { path, n_messages, error: Box::new(error) },
            }
        })
    }
}

fn message_value(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
}

/// Reads the template in `tokenizer_config.json`: a string, a list of `{name, template}`, or an object from names to
/// templates.
fn from_config(path: &Path, config: Option<&Map<String, Json>>) -> Result<Option<String>, TextError> {
    const FIELD: &str = "chat_template";
    let Some(value) = config.and_then(|config| config.get(FIELD)) else { return Ok(None) };
    let wrong =
        || wrong_field(path, FIELD, "a string, or a list of objects with \"name\" and \"template\"", value);
    let named: Vec<(&str, &str)> = match value {
        Json::Null => return Ok(None),
        Json::String(source) => return Ok(Some(source.clone())),
        Json::Array(list) => list
            .iter()
            .map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        Json::Object(entries) => entries
            .iter()
            .map(|(name, source)| Some((name.as_str(), source.as_str()?)))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    match named.iter().find(|(name, _)| *name == DEFAULT_NAME) {
        Some((_, source)) => Ok(Some((*source).to_owned())),
        None => Err(TextError::NoDefaultTemplate {
            path: path.to_owned(),
            names: named.iter().map(|(name, _)| (*name).to_owned()).collect(),
        }),
    }
}
