//! The errors of this crate.

use std::io;
use std::path::PathBuf;

use flash_io::LfsPointer;

/// An error of tokenization, detokenization, chat templates, stop strings or grammars.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model directory has no tokenizer.
    #[error(
        "{path}: no such file, and without it the model has no tokenizer{}",
        instead.map_or_else(String::new, |instead| format!(
            " ({instead} is another program's: transformers can convert it to a tokenizer.json, with \
            AutoTokenizer.from_pretrained(\"DIR\").save_pretrained(\"DIR\"))"
        ))
    )]
    NoTokenizer {
        /// The missing `tokenizer.json`.
        path: PathBuf,
        /// A tokenizer of another program in the same directory.
        instead: Option<&'static str>,
    },
    /// An existing file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file is a Git LFS pointer.
    #[error("{path}: {pointer}")]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// The contents of the pointer.
        pointer: LfsPointer,
    },
    /// A file is not valid JSON, or has an unexpected structure.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line and column.
        error: serde_json::Error,
    },
    /// A field of a JSON file has an invalid value.
    #[error("{path}: \"{field}\" must be {expected}, found {found}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
        /// The accepted values.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A file assigns an id to a token that the token cannot have.
    #[error("{path}: token {token:?} is assigned id {id}, but {conflict}")]
    TokenId {
        /// The file.
        path: PathBuf,
        /// The token's text.
        token: String,
        /// The id that the file assigns.
        id: u32,
        /// The reason why the token cannot have that id.
        conflict: IdConflict,
    },
    /// The end-of-sequence token has no id in any file.
    #[error(
        "{path}: \"{field}\" is {token:?}, which has no id in any file, so generation would not stop at it"
    )]
    NoEosId {
        /// The file that names the token.
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
        /// The error of the tokenizers crate.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer rejected a text.
    #[error("{path}: a text of {text_bytes} B cannot be tokenized: {error}")]
    Encode {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The length of the text.
        text_bytes: usize,
        /// The error of the tokenizers crate.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer's decoder rejected ids.
    #[error("{path}: {n_ids} ids cannot be decoded: {error}")]
    Decode {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// Number of ids.
        n_ids: usize,
        /// The error of the tokenizers crate.
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
    /// The model has several chat templates, but no default.
    #[error("{path}: \"chat_template\" has no template named \"default\", only {names:?}")]
    NoDefaultTemplate {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// The names of the templates.
        names: Vec<String>,
    },
    /// A chat template is not valid Jinja.
    #[error("{path}: the chat template does not parse: {error}")]
    TemplateSyntax {
        /// The file with the template.
        path: PathBuf,
        /// The parser's error, with the line.
        error: Box<minijinja::Error>,
    },
    /// A chat template failed on a conversation.
    #[error("{path}: the chat template failed on {n_messages} messages: {error}")]
    Render {
        /// The file with the template.
        path: PathBuf,
        /// Number of messages.
        n_messages: usize,
        /// The error of rendering, with the line.
        error: Box<minijinja::Error>,
    },
    /// A chat template rejected a conversation with `raise_exception`.
    #[error("{path}: the chat template refuses this conversation: {message}")]
    Refused {
        /// The file with the template.
        path: PathBuf,
        /// The template's message.
        message: String,
    },
    /// The conversation has no messages.
    #[error("{path}: the chat template needs at least one message")]
    NoMessages {
        /// The file with the template.
        path: PathBuf,
    },
    /// A stop string is empty, and would match everywhere.
    #[error("stop string {index} is empty")]
    EmptyStop {
        /// Index of the stop string.
        index: usize,
    },
    /// A JSON schema has a keyword that grammars do not support.
    #[error("the schema has {keyword:?} at {pointer:?}, which grammars do not support")]
    SchemaKeyword {
        /// JSON pointer of the keyword.
        pointer: String,
        /// The keyword.
        keyword: String,
    },
    /// A JSON schema is invalid, or cannot be followed.
    #[error("the schema is refused at {pointer:?}: {reason}")]
    Schema {
        /// JSON pointer of the keyword or the subschema.
        pointer: String,
        /// The reason.
        reason: String,
    },
    /// A grammar is invalid.
    #[error("the {kind} is refused: {reason}")]
    Grammar {
        /// The kind of grammar.
        kind: &'static str,
        /// The message of llguidance.
        reason: String,
    },
    /// Text of a tokenizer cannot be made to follow grammars.
    #[error("{path}: grammars cannot be followed with this tokenizer: {reason}")]
    GrammarVocabulary {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// A token does not follow the grammar.
    #[error("token {token} cannot follow the {n_accepted} tokens before it by the grammar")]
    GrammarToken {
        /// The token.
        token: u32,
        /// Number of tokens before it.
        n_accepted: usize,
    },
    /// A grammar is too complex.
    #[error("the grammar cannot be followed: {reason}")]
    GrammarState {
        /// The message of llguidance.
        reason: String,
    },
}

/// The reason why a token cannot have the id that a file assigns to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdConflict {
    /// The token has another id already.
    #[error("it has id {id} in tokenizer.json, or twice in one file")]
    HasOther {
        /// The other id.
        id: u32,
    },
    /// Another token has the id.
    #[error("that is the id of {by:?}")]
    Taken {
        /// The other token.
        by: String,
    },
    /// Ids of added tokens are consecutive, and the next free id is another one.
    #[error(
        "ids of added tokens follow each other, and the next free one is {}",
        next.map_or_else(|| "none".to_owned(), |next| next.to_string())
    )]
    Gap {
        /// The id that the token would get.
        next: Option<u32>,
    },
}
