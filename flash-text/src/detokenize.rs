//! Token ids to text, as they are generated.

use super::error::TextError;
use super::stage::{self, Stage};
use super::tokenizer::Tokenizer;

/// Turns generated ids into text piece by piece.
///
/// The pieces together are exactly [`Tokenizer::decode`] of all the ids, and no piece ends inside a
/// character: what a later id may still change is held back. That is the start of a character for
/// byte-level tokenizers, and for those with byte-fallback tokens (`<0x0A>`) a run of these, since
/// one wrong byte changes what the whole run decodes to. Each id costs the same however many came
/// before it.
///
/// The decoders of language models are run token by token (the byte-level one; replacing, byte
/// fallback, fusing and stripping the start; metaspace; none). Other decoders need all tokens at once,
/// and then all of the text comes from [`finish`](Self::finish).
#[derive(Debug)]
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Streaming(Vec<Stage>),
    AtTheEnd(Vec<u32>),
}

impl<'t> Detokenizer<'t> {
    /// Starts a text.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let mode = match stage::stages(tokenizer.decoder()) {
            Some(stages) => Mode::Streaming(stages),
            None => Mode::AtTheEnd(Vec::new()),
        };
        Self { tokenizer, mode }
    }

    /// Adds an id, and gives the text that is now certain, if there is any.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        match &mut self.mode {
            Mode::AtTheEnd(ids) => {
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

    /// Ends the text, and gives what was held back.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TextError> {
        match self.mode {
            Mode::AtTheEnd(ids) => self.tokenizer.decode(&ids),
            Mode::Streaming(mut stages) => {
                let mut text = String::new();
                stage::finish(&mut stages, &mut text)
                    .map_err(|error| self.tokenizer.decode_error(0, error))?;
                Ok(text)
            }
        }
    }
}
