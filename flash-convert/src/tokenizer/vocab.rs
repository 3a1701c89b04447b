//! The vocabulary: token texts and types.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::{GgufFile, Strings};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";

/// Type of a token (`enum llama_token_type` of llama.cpp).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a vocabulary with their types.
pub(super) struct Vocab<'a> {
    pub(super) tokens: &'a Strings,
    pub(super) types: Vec<TokenType>,
    pub(super) ids: HashMap<&'a str, u32>,
}

impl<'a> Vocab<'a> {
    /// Reads and validates the vocabulary; `n_embeddings` is the number of rows of the embedding.
    pub(super) fn read(gguf: &'a GgufFile, n_embeddings: u32) -> Result<Self, ConvertError> {
        let metadata = gguf.metadata();
        let tokens = gguf.required(TOKENS, metadata.strings(TOKENS))?;
        let n_tokens = tokens.len();
        if n_tokens as u64 > u64::from(n_embeddings) {
            let problem =
                TokenizerProblem::MoreThanEmbeddings { wanted: n_embeddings.into(), found: n_tokens };
            return Err(table_error(gguf, TOKENS, problem));
        }
        let mut ids = HashMap::with_capacity(n_tokens);
        for (text, second) in tokens.iter().zip(0u32..) {
            if let Some(first) = ids.insert(text, second) {
                let text = text.to_owned();
                let problem = TokenizerProblem::Duplicate { text, first, second };
                return Err(table_error(gguf, TOKENS, problem));
            }
        }
        let types = gguf.required(TOKEN_TYPES, metadata.i32s(TOKEN_TYPES))?;
        check_length(gguf, TOKEN_TYPES, n_tokens, types.len())?;
        let types = types.iter().enumerate().map(|(id, ty)| {
            TokenType::from_number(*ty)
                .ok_or_else(|| table_error(gguf, TOKEN_TYPES, TokenizerProblem::TokenType { id, found: *ty }))
        });
        Ok(Self { tokens, types: types.collect::<Result<_, _>>()?, ids })
    }

    /// Iterates over the ids, texts and types of all tokens.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        let typed = self.tokens.iter().zip(self.types.iter().copied());
        typed.zip(0u32..).map(|((text, ty), id)| (id, text, ty))
    }

    /// Iterates over the added tokens, which are matched in text before pre-tokenization.
    pub(super) fn added(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        self.iter().filter(|(_, _, ty)| {
            matches!(ty, TokenType::Unknown | TokenType::Control | TokenType::UserDefined)
        })
    }
}

impl TokenType {
    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.tokens.iter().zip(0u32..))
    }
}

/// Returns the error of a tokenizer table.
pub(super) fn table_error(gguf: &GgufFile, key: &'static str, problem: TokenizerProblem) -> ConvertError {
    ConvertError::Tokenizer { path: gguf.path().to_owned(), key, problem }
}

/// Returns an error if a table does not have `wanted` entries.
pub(super) fn check_length(
    gguf: &GgufFile,
    key: &'static str,
    wanted: usize,
    found: usize,
) -> Result<(), ConvertError> {
    if wanted == found {
        Ok(())
    } else {
        Err(table_error(gguf, key, TokenizerProblem::Length { wanted, found }))
    }
}
