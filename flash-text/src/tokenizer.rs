//! Tokenizers, which convert between text and token ids.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::TextError;
use super::files::{read_object, wrong_field};
use super::special::{self, SpecialTokens};
use super::{added, load};

/// The tokenizer of a model directory, with its end-of-sequence ids.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos_token: Option<String>,
    eos_ids: Vec<u32>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model directory.
    ///
    /// Adds the tokens of the other files, as transformers does: `added_tokens_decoder` of `tokenizer_config.json` or
    /// the older `added_tokens.json`, the named special tokens, and `additional_special_tokens`. If files contradict
    /// each other on an id, transformers uses that of `tokenizer.json`; this function rejects the directory.
    ///
    /// The end-of-sequence ids are all ids at which mlx-lm or transformers would stop: those of
    /// `generation_config.json` if it has any, else those of `config.json`, and in any case the id of the `eos_token`
    /// of `tokenizer_config.json` (or of `special_tokens_map.json` in models that still use it). A
    /// `generation_config.json` that is not JSON is rejected; mlx-lm ignores it.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] if there is no `tokenizer.json`; [`TextError::TokenId`] if ids contradict each other;
    /// [`TextError::NoEosId`] if `eos_token` has no id; another variant, always with the file and the problem, if a
    /// file cannot be read or is invalid. Files other than `tokenizer.json` may be absent.
    pub fn open(dir: &Path) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        let mut inner = load::load(&path)?;
        let config = read_object(&dir.join("tokenizer_config.json"))?;
        let special = SpecialTokens::read(dir, config.as_ref())?;
        added::add(&mut inner, dir, config.as_ref(), &special)?;
        if split_special_tokens(dir, config.as_ref())? {
            inner.set_encode_special_tokens(true);
        }
        let mut eos_ids = BTreeSet::from_iter(special::config_eos_ids(dir)?);
        eos_ids.extend(special.get("eos_token").and_then(|token| inner.token_to_id(token)));
        Ok(Self {
            inner,
            path,
            bos_token: special.get("bos_token").map(str::to_owned),
            eos_ids: eos_ids.into_iter().collect(),
        })
    }

    /// Encodes a text to ids. `add_special` adds the tokenizer's special tokens around the text, such as a
    /// beginning-of-sequence token; special tokens written out in the text are recognized either way.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer rejects the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        // `encode_fast` omits the offsets, which are not needed.
        let encoding = self.inner.encode_fast(text, add_special).map_err(|error| TextError::Encode {
            path: self.path.clone(),
            text_bytes: text.len(),
            error,
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes a prompt to ids, by mlx-lm's rule: special tokens are added, unless the prompt already starts with the
    /// text of the beginning-of-sequence token, as rendered chat templates often do.
    ///
    /// # Errors
    /// The errors of [`encode`](Self::encode).
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let starts_with_bos = self.bos_token.as_ref().is_some_and(|bos| prompt.starts_with(bos.as_str()));
        self.encode(prompt, !starts_with_bos)
    }

    /// Decodes ids to text. Special tokens and ids without a token are skipped; bytes that are not valid UTF-8 become
    /// U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        // Some decoders of the tokenizers crate panic without tokens.
        if ids.iter().all(|&id| self.decoded_token(id).is_none()) {
            return Ok(String::new());
        }
        self.inner.decode(ids, true).map_err(|error| self.decode_error(ids.len(), error))
    }

    pub(super) fn decode_error(&self, n_ids: usize, error: tokenizers::Error) -> TextError {
        TextError::Decode { path: self.path.clone(), n_ids, error }
    }

    /// Returns the end-of-sequence ids, ascending. [`open`](Self::open) describes how they are chosen.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Returns whether an id is an end-of-sequence id.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.binary_search(&id).is_ok()
    }

    /// Returns the number of tokens, including added ones. A model's output may be wider, for padding.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the highest id of a token.
    pub(super) fn max_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the id of a token by its text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the token that [`decode`](Self::decode) passes to the decoder for an id, if any.
    pub(super) fn decoded_token(&self, id: u32) -> Option<String> {
        use tokenizers::Model;
        let added = self.inner.get_added_vocabulary();
        added
            .simple_id_to_token(id)
            .or_else(|| self.inner.get_model().id_to_token(id))
            .filter(|token| !added.is_special_token(token))
    }

    /// Returns the text of a special token.
    pub(super) fn special_token(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).filter(|token| added.is_special_token(token))
    }

    pub(super) fn decoder(&self) -> Option<&tokenizers::DecoderWrapper> {
        self.inner.get_decoder()
    }
}

/// Returns whether special tokens written out in a text are tokenized like ordinary text: a field of
/// `tokenizer_config.json` that hardly any model sets.
fn split_special_tokens(dir: &Path, config: Option<&Map<String, Value>>) -> Result<bool, TextError> {
    const FIELD: &str = "split_special_tokens";
    match config.and_then(|config| config.get(FIELD)) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is_split)) => Ok(*is_split),
        Some(found) => Err(wrong_field(&dir.join("tokenizer_config.json"), FIELD, "true or false", found)),
    }
}
