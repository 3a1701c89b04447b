//! Facts about models.

use std::time::SystemTime;

use serde::Serialize;

/// A model that can be asked for.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Id that requests name.
    pub id: String,
    /// Model family, such as `qwen3`.
    pub family: String,
    /// Number of parameters.
    pub n_parameters: u64,
    /// Precision of the weights, such as `4bit`.
    pub quantization: String,
    /// Size of the weights on disk.
    pub size_bytes: u64,
    /// Hexadecimal digest that identifies the weights.
    pub digest: String,
    /// Time of the last change of its files.
    #[serde(serialize_with = "super::state::as_rfc3339")]
    pub modified: SystemTime,
    /// Length of the context in tokens that requests can use.
    pub context_tokens: usize,
    /// Width of hidden states, which is the length of embeddings.
    pub hidden_size: usize,
    /// Chat template, if there is one.
    #[serde(skip)]
    pub chat_template: Option<String>,
    /// Capabilities of the model.
    pub capabilities: Capabilities,
    /// Its place in memory, if it has one.
    pub loaded: Option<Loaded>,
}

impl ModelInfo {
    /// Creates facts about the model `id`, of which nothing else is known.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            family: String::new(),
            n_parameters: 0,
            quantization: String::new(),
            size_bytes: 0,
            digest: String::new(),
            modified: SystemTime::UNIX_EPOCH,
            context_tokens: 0,
            hidden_size: 0,
            chat_template: None,
            capabilities: Capabilities::default(),
            loaded: None,
        }
    }
}

/// Capabilities of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// It has a chat template.
    pub chat: bool,
    /// Its template and parser know tools.
    pub tools: bool,
    /// It reasons before it answers.
    pub thinking: bool,
    /// It computes embeddings.
    pub embeddings: bool,
}

/// The place of a loaded model in memory.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Loaded {
    /// Memory that it takes.
    pub memory_bytes: u64,
    /// Time at which it is unloaded if nobody asks for it; `None` if it stays.
    #[serde(serialize_with = "super::state::as_optional_rfc3339")]
    pub expires: Option<SystemTime>,
}
