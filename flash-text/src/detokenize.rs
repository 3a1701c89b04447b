//! Streaming detokenization.

use super::error::TextError;
use super::stage::{self, Stage};
use super::tokenizer::Tokenizer;

/// Decodes generated ids to text piece by piece.
///
/// The concatenated pieces equal [`Tokenizer::decode`] of all ids, and no piece ends inside a character: text that a
/// later id may still change is held back. That is an incomplete character for byte-level tokenizers, and a run of
/// byte-fallback tokens (`<0x0A>`) for tokenizers with such tokens, since one invalid byte changes the text of the
/// whole run. The cost of an id does not depend on the number of ids before it.
///
/// The usual decoders of language models run token by token: byte-level; replace, byte fallback, fuse and strip at the
/// start; metaspace; none. Other decoders need all tokens at once, and then all text comes from
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Streaming(Vec<Stage>),
    Buffered(Vec<u32>),
}

impl<'t> Detokenizer<'t> {
    /// Creates a detokenizer at the start of a text.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let mode = match stage::stages(tokenizer.decoder()) {
            Some(stages) => Mode::Streaming(stages),
            None => Mode::Buffered(Vec::new()),
        };
        Self { tokenizer, mode }
    }

    /// Adds an id, and returns the text that is now final, if any.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        match &mut self.mode {
            Mode::Buffered(ids) => {
                ids.push(id);
                Ok(None)
            }
            Mode::Streaming(stages) => {
                let mut text = String::new();
                if let Some(token) = self.tokenizer.decoded_token(id) {
                    stage::push(stages, token, &mut text)
                        .map_err(|error| self.tokenizer.decode_error(1, error))?;
                }
                Ok(Some(text).filter(|text| !text.is_empty()))
            }
        }
    }

    /// Ends the text, and returns the part that was held back.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TextError> {
        match self.mode {
            Mode::Buffered(ids) => self.tokenizer.decode(&ids),
            Mode::Streaming(mut stages) => {
                let mut text = String::new();
                stage::finish(&mut stages, &mut text)
                    .map_err(|error| self.tokenizer.decode_error(0, error))?;
                Ok(text)
            }
        }
    }
}
