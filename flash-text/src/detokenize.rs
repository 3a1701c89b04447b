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
    /// Ids of special tokens that are text, ascending.
    visible: Vec<u32>,
}

#[derive(Debug)]
enum Mode {
    Streaming(Vec<Stage>),
    Buffered(Vec<u32>),
}

impl<'t> Detokenizer<'t> {
    /// Creates a detokenizer at the start of a text.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self::with_visible(tokenizer, &[])
    }

    /// Creates a detokenizer at the start of a text that contains some of the special tokens: markers that a parser
    /// needs to see ([`OutputFormat::markers`](crate::output::OutputFormat::markers)). Texts that are no tokens are
    /// ignored.
    pub fn with_visible(tokenizer: &'t Tokenizer, tokens: &[&str]) -> Self {
        let mut visible: Vec<u32> = tokens.iter().filter_map(|token| tokenizer.token_id(token)).collect();
        visible.sort_unstable();
        let mode = match stage::stages(tokenizer.decoder()) {
            Some(stages) => Mode::Streaming(stages),
            None => Mode::Buffered(Vec::new()),
        };
        Self { tokenizer, mode, visible }
    }

    /// Adds an id, and returns the text that is now final, if any.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        if self.visible.binary_search(&id).is_ok()
            && let Some(token) = self.tokenizer.special_token(id)
        {
            // The decoder must not change a marker, so the text before it ends here.
            let mut text = self.take_pending()?;
            text.push_str(&token);
            return Ok(Some(text));
        }
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
    pub fn finish(mut self) -> Result<String, TextError> {
        self.take_pending()
    }

    /// Returns the text that was held back, as if the text ended.
    fn take_pending(&mut self) -> Result<String, TextError> {
        match &mut self.mode {
            Mode::Buffered(ids) => self.tokenizer.decode(&std::mem::take(ids)),
            Mode::Streaming(stages) => {
                let mut text = String::new();
                stage::finish(stages, &mut text).map_err(|error| self.tokenizer.decode_error(0, error))?;
                Ok(text)
            }
        }
    }
}
