//! Tokenizers, chat templates, streaming detokenization and stop strings.
//!
//! [`Tokenizer::encode_prompt`] converts a prompt to ids, and [`ChatTemplate::render`] a conversation to a prompt. A
//! [`Detokenizer`] converts generated ids to text one at a time, without splitting characters, and a [`StopMatcher`]
//! ends the text before a stop string.
//!
//! All are read from the files of a Hugging Face model directory: `tokenizer.json`, `tokenizer_config.json`,
//! `added_tokens.json`, `special_tokens_map.json`, `chat_template.jinja`, and the end-of-sequence ids of `config.json`
//! and `generation_config.json`. Ambiguous files are interpreted as transformers and mlx-lm do.

mod added;
mod check;
mod detokenize;
mod error;
mod files;
mod filters;
mod json;
mod load;
mod methods;
mod render;
mod rewrite;
mod special;
mod stage;
mod stop;
mod strftime;
mod strings;
mod template;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use error::{IdConflict, TextError};
pub use stop::{StopMatcher, StopOutcome};
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
