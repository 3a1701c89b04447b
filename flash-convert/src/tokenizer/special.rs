//! Special tokens: BOS, EOS, padding and unknown.

use serde_json::{Map, Value, json};

use super::vocab::{Vocab, table_error};
use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::{GgufError, GgufFile};

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";

/// Keys of end-of-turn and end-of-message tokens, at which generation stops as it does at EOS.
const MORE_ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// A token's id and text.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    id: u32,
    text: &'a str,
}

/// Special tokens of a tokenizer.
pub(super) struct SpecialTokens<'a> {
    bos: Option<Token<'a>>,
    eos: Option<Token<'a>>,
    pad: Option<Token<'a>>,
    unk: Option<Token<'a>>,
    /// Ids of all tokens at which generation stops, `eos` first.
    ends: Vec<u32>,
    /// BOS, if it is prepended to every text.
    added_bos: Option<Token<'a>>,
    /// EOS, if it is appended to every text.
    added_eos: Option<Token<'a>>,
}

impl<'a> SpecialTokens<'a> {
    pub(super) fn read(
        gguf: &GgufFile,
        vocab: &Vocab<'a>,
        add_bos_default: bool,
    ) -> Result<Self, ConvertError> {
        let token = |key| token(gguf, vocab, key);
        let (bos, eos) = (token(BOS)?, token(EOS)?);
        let mut ends: Vec<u32> = eos.iter().map(|eos| eos.id).collect();
        for key in MORE_ENDS {
            if let Some(end) = token(key)?
                && !ends.contains(&end.id)
            {
                ends.push(end.id);
            }
        }
        let added = |key, default, token: Option<Token<'a>>, token_key: &str| {
            let is_added = gguf.checked(gguf.metadata().boolean(key))?;
            match (is_added.unwrap_or(default), token) {
                (false, _) => Ok(None),
                (true, Some(token)) => Ok(Some(token)),
                (true, None) => gguf.checked(Err(GgufError::MissingKey { key: token_key.to_owned() })),
            }
        };
        Ok(Self {
            bos,
            eos,
            pad: token(PAD)?,
            unk: token(UNK)?,
            ends,
            added_bos: added("tokenizer.ggml.add_bos_token", add_bos_default, bos, BOS)?,
            added_eos: added("tokenizer.ggml.add_eos_token", false, eos, EOS)?,
        })
    }

    /// Returns whether BOS is prepended to every text.
    pub(super) fn bos_is_added(&self) -> bool {
        self.added_bos.is_some()
    }

    /// Returns whether EOS is appended to every text.
    pub(super) fn eos_is_added(&self) -> bool {
        self.added_eos.is_some()
    }

    /// Iterates over the special tokens with their names in `tokenizer_config.json`.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad), ("unk_token", self.unk)]
            .into_iter()
            .filter_map(|(name, token)| Some((name, token?.text)))
    }

    /// Returns the contents of `generation_config.json`.
    pub(super) fn generation_config(&self) -> Value {
        let mut entries = Map::new();
        if let Some(bos) = self.bos {
            entries.insert("bos_token_id".to_owned(), bos.id.into());
        }
        match self.ends[..] {
            [] => {}
            [end] => {
                entries.insert("eos_token_id".to_owned(), end.into());
            }
            _ => {
                entries.insert("eos_token_id".to_owned(), json!(self.ends));
            }
        }
        if let Some(pad) = self.pad {
            entries.insert("pad_token_id".to_owned(), pad.id.into());
        }
        entries.into()
    }

    /// Returns the `post_processor` of tokenizer.json, which adds BOS and EOS to a text.
    pub(super) fn post_processor(&self) -> Value {
        let mut special_tokens = Map::new();
        for token in [self.added_bos, self.added_eos].into_iter().flatten() {
            let entry = json!({"id": token.text, "ids": [token.id], "tokens": [token.text]});
            special_tokens.insert(token.text.to_owned(), entry);
        }
        if special_tokens.is_empty() {
            return Value::Null;
        }
        let sequence = |name: &str, type_id: u32| {
            let special = |token: Token<'_>| json!({"SpecialToken": {"id": token.text, "type_id": type_id}});
            let mut sequence = Vec::from_iter(self.added_bos.map(special));
            sequence.push(json!({"Sequence": {"id": name, "type_id": type_id}}));
            sequence.extend(self.added_eos.map(special));
            sequence
        };
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": pair,
            "special_tokens": special_tokens,
        })
    }
}

/// Returns the token whose id is the value of `key`.
fn token<'a>(
    gguf: &GgufFile,
    vocab: &Vocab<'a>,
    key: &'static str,
) -> Result<Option<Token<'a>>, ConvertError> {
    let Some(id) = gguf.checked(gguf.metadata().u32(key))? else {
        return Ok(None);
    };
    match vocab.tokens.get(id as usize) {
        Some(text) => Ok(Some(Token { id, text })),
        None => {
            let problem = TokenizerProblem::NoSuchToken { id: id.into(), n_tokens: vocab.tokens.len() };
            Err(table_error(gguf, key, problem))
        }
    }
}
