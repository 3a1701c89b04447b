//! Text in and text out: tokens, chat templates, streaming, stop strings.
//!
//! A prompt becomes ids with [`Tokenizer::encode_prompt`], or a conversation becomes a prompt first
//! with [`ChatTemplate::render`]. Generated ids become text one at a time in a [`Detokenizer`],
//! which never gives out half a character, and a [`StopMatcher`] ends the text before a stop string.
//!
//! Everything is read from the files Hugging Face puts beside the weights: `tokenizer.json`,
//! `tokenizer_config.json`, `added_tokens.json`, `special_tokens_map.json`, `chat_template.jinja`, and the
//! end-of-sequence ids of `config.json` and `generation_config.json`. Where there is a choice of what a file means,
//! it means what transformers and mlx-lm take it to mean.

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
