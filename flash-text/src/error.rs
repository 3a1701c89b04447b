//! The errors of text.

use std::io;
use std::path::PathBuf;

use flash_io::LfsPointer;

/// Why text could not become tokens, tokens text, or a conversation a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model directory has no tokenizer.
    #[error(
        "{path}: no such file, and without it the model has no tokenizer{}",
        instead.map_or_else(String::new, |instead| format!(
            " ({instead} is that of another program: transformers reads it and saves a tokenizer.json, with \
            AutoTokenizer.from_pretrained(\"DIR\").save_pretrained(\"DIR\"))"
        ))
    )]
    NoTokenizer {
        /// The `tokenizer.json` that was looked for.
        path: PathBuf,
        /// A tokenizer of another program that is there.
        instead: Option<&'static str>,
    },
    /// A file is there and cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is a Git LFS pointer.
    #[error("{path}: {pointer}")]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// What it says of the file that it stands for.
        pointer: LfsPointer,
    },
    /// A file is not JSON, or not of the form its name promises.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        error: serde_json::Error,
    },
    /// A field of a JSON file holds what it must not.
    #[error("{path}: \"{field}\" must be {expected}, found {found}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots between its parts.
        field: String,
        /// What would have been accepted.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A file gives a token an id that another token has, or that it cannot have.
    #[error("{path}: token {token:?} is said to have id {id}, but {conflict}")]
    TokenId {
        /// The file.
        path: PathBuf,
        /// The token's text.
        token: String,
        /// The id that the file gives it.
        id: u32,
        /// Why it cannot have that id.
        conflict: IdConflict,
    },
    /// The token that ends a text has no id in any of the files.
    #[error("{path}: \"{field}\" is {token:?}, which no file gives an id, so nothing would stop at it")]
    NoEosId {
        /// The file that names it.
        path: PathBuf,
        /// The field.
        field: String,
        /// The token's text.
        token: String,
    },
    /// A part of `tokenizer.json` cannot be built.
    #[error("{path}: \"{field}\" is refused: {error}")]
    Part {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The part.
        field: &'static str,
        /// What the tokenizers crate said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer refused a text.
    #[error("{path}: a text of {text_bytes} B cannot be tokenized: {error}")]
    Encode {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The length of the text.
        text_bytes: usize,
        /// What the tokenizers crate said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer's decoder refused ids.
    #[error("{path}: {n_ids} ids cannot be decoded: {error}")]
    Decode {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// How many ids there were.
        n_ids: usize,
        /// What the tokenizers crate said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has no chat template.
    #[error(
        "{dir}: no chat template: neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json"
    )]
    NoTemplate {
        /// The model directory.
        dir: PathBuf,
    },
    /// The model has chat templates, and none of them is the default one.
    #[error("{path}: \"chat_template\" has no template named \"default\", only {names:?}")]
    NoDefaultTemplate {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// The names that are there.
        names: Vec<String>,
    },
    /// A chat template is not Jinja.
    #[error("{path}: the chat template does not parse: {error}")]
    TemplateSyntax {
        /// The file that holds the template.
        path: PathBuf,
        /// Where and why parsing stopped.
        error: Box<minijinja::Error>,
    },
    /// A chat template failed on this conversation.
    #[error("{path}: the chat template failed on {n_messages} messages: {error}")]
    Render {
        /// The file that holds the template.
        path: PathBuf,
        /// How many messages there were.
        n_messages: usize,
        /// Where and why rendering stopped.
        error: Box<minijinja::Error>,
    },
    /// A chat template refused this conversation with `raise_exception`.
    #[error("{path}: the chat template refuses this conversation: {message}")]
    Refused {
        /// The file that holds the template.
        path: PathBuf,
        /// What the template says.
        message: String,
    },
    /// A conversation without messages was to be rendered.
    #[error("{path}: the chat template needs at least one message")]
    NoMessages {
        /// The file that holds the template.
        path: PathBuf,
    },
    /// A stop string is empty, and would stop everything.
    #[error("stop string {index} is empty")]
    EmptyStop {
        /// Its place among the stop strings, from 0.
        index: usize,
    },
}

/// Why a token cannot have the id that a file gives it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdConflict {
    /// The token has another id already.
    #[error("it has id {id} in tokenizer.json, or twice in one file")]
    HasOther {
        /// That id.
        id: u32,
    },
    /// Another token has the id.
    #[error("that is the id of {by:?}")]
    Taken {
        /// The other token.
        by: String,
    },
    /// Ids are given one after the other, and the next free one is another.
    #[error(
        "ids of added tokens follow each other, and the next free one is {}",
        next.map_or_else(|| "none".to_owned(), |next| next.to_string())
    )]
    Gap {
        /// The id that it would get.
        next: Option<u32>,
    },
}
