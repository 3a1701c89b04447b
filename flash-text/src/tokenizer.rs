//! Text to token ids and back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::TextError;
use super::files::{read_object, wrong_field};
use super::special::{self, SpecialTokens};
use super::{added, load};

/// The tokenizer of a model directory, with the ids that end its answers.
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
    /// Tokens that only the files beside `tokenizer.json` know are added to it, as transformers does:
    /// `added_tokens_decoder` of `tokenizer_config.json` or the older `added_tokens.json`, the named
    /// special tokens, and `additional_special_tokens`. Where files contradict each other on an id,
    /// transformers takes that of `tokenizer.json`, and this refuses the directory.
    ///
    /// The ids that end an answer are all at which mlx-lm or transformers would stop: those of
    /// `generation_config.json` if it names any, else those of `config.json`, and in any case the id of
    /// the `eos_token` of `tokenizer_config.json` (of `special_tokens_map.json` in models that still use
    /// it). Unlike mlx-lm, which passes over a `generation_config.json` that is not JSON, this refuses it.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] if there is no `tokenizer.json`; [`TextError::TokenId`] if an id
    /// contradicts another; [`TextError::NoEosId`] if `eos_token` has no id; another variant, always with
    /// the file and what is wrong in it, if any of the files cannot be read or makes no sense. The
    /// files other than `tokenizer.json` may be absent.
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

    /// The ids of a text. `add_special` adds what the tokenizer puts around a text, such as a
    /// beginning-of-sequence token; special tokens written out in the text are recognised either way.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        // `encode_fast` leaves out the offsets, which nothing here asks for.
        let encoding = self.inner.encode_fast(text, add_special).map_err(|error| TextError::Encode {
            path: self.path.clone(),
            text_bytes: text.len(),
            error,
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a prompt, by mlx-lm's rule: special tokens are added, unless the prompt already
    /// starts with the text of the beginning-of-sequence token (as what chat templates render often
    /// does).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let starts_with_bos = self.bos_token.as_ref().is_some_and(|bos| prompt.starts_with(bos.as_str()));
        self.encode(prompt, !starts_with_bos)
    }

    /// The text of ids. Special tokens, and ids that have no token, give nothing; bytes that are not
    /// UTF-8 give U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        // The crate's decoders expect a token, and some panic without one.
        if ids.iter().all(|&id| self.decoded_token(id).is_none()) {
            return Ok(String::new());
        }
        self.inner.decode(ids, true).map_err(|error| self.decode_error(ids.len(), error))
    }

    pub(super) fn decode_error(&self, n_ids: usize, error: tokenizers::Error) -> TextError {
        TextError::Decode { path: self.path.clone(), n_ids, error }
    }

    /// The ids that end an answer, ascending. How they are chosen is said at [`open`](Self::open).
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Whether an id ends an answer.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.binary_search(&id).is_ok()
    }

    /// How many tokens there are, added ones included. A model's output may be wider, for padding.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of one token, by its text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token that [`decode`](Self::decode) hands to the decoder for an id, if any.
    pub(super) fn decoded_token(&self, id: u32) -> Option<String> {
        use tokenizers::Model;
        let added = self.inner.get_added_vocabulary();
        added
            .simple_id_to_token(id)
            .or_else(|| self.inner.get_model().id_to_token(id))
            .filter(|token| !added.is_special_token(token))
    }

    pub(super) fn decoder(&self) -> Option<&tokenizers::DecoderWrapper> {
        self.inner.get_decoder()
    }
}

/// Whether special tokens that are written out in a text are cut into pieces like any text: a field of
/// `tokenizer_config.json` that nearly no model sets.
fn split_special_tokens(dir: &Path, config: Option<&Map<String, Value>>) -> Result<bool, TextError> {
    const FIELD: &str = "split_special_tokens";
    match config.and_then(|config| config.get(FIELD)) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is_split)) => Ok(*is_split),
        Some(found) => Err(wrong_field(&dir.join("tokenizer_config.json"), FIELD, "true or false", found)),
    }
}
