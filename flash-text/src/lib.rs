//! Tokenizers, chat templates, streaming detokenization, tool calls, grammars and stop strings.
//!
//! [`Tokenizer::encode_prompt`] converts a prompt to ids, and [`ChatTemplate::render`] a conversation to a prompt. A
//! [`Detokenizer`] converts generated ids to text one at a time, without splitting characters, and a [`StopMatcher`]
//! ends the text before a stop string. An [`output::OutputParser`] splits the text into reasoning, tool calls and visible
//! text, and a [`grammar::Constraint`] says which tokens follow a grammar.
//!
//! All are read from the files of a Hugging Face model directory: `tokenizer.json`, `tokenizer_config.json`,
//! `added_tokens.json`, `special_tokens_map.json`, `chat_template.jinja`, and the end-of-sequence ids of `config.json`
//! and `generation_config.json`. Ambiguous files are interpreted as transformers and mlx-lm do.
//!
//! ```no_run
//! use flash_text::{ChatTemplate, Detokenizer, Message, StopMatcher, Tokenizer};
//!
//! # fn next_token(ids: &[u32]) -> u32 { ids[0] }
//! # fn main() -> Result<(), flash_text::TextError> {
//! let dir = std::path::Path::new("SmolLM2-135M-Instruct");
//! let (tokenizer, template) = (Tokenizer::open(dir)?, ChatTemplate::open(dir)?);
//! let prompt = template.render(&[Message::new("user", "Name a river.")], true)?;
//! let mut ids = tokenizer.encode_prompt(&prompt)?;
//!
//! let mut detokenizer = Detokenizer::new(&tokenizer);
//! let mut stop = StopMatcher::new(vec![String::from("\n")])?;
//! loop {
//!     let id = next_token(&ids); // The model's part.
//!     if tokenizer.is_eos(id) {
//!         break;
//!     }
//!     ids.push(id);
//!     let outcome = stop.push(&detokenizer.push(id)?.unwrap_or_default());
//!     print!("{}", outcome.emit);
//!     if outcome.stopped {
//!         return Ok(());
//!     }
//! }
//! // The text that was held back until the end.
//! print!("{}", stop.push(&detokenizer.finish()?).emit);
//! print!("{}", stop.finish());
//! # Ok(())
//! # }
//! ```

mod added;
mod check;
mod detokenize;
mod error;
mod files;
mod filters;
pub mod grammar;
mod json;
mod load;
mod methods;
pub mod output;
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
