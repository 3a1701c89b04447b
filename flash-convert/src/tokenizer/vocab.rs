use std::collections::HashMap;

use serde::{Serialize, Serializer};

use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::{GgufFile, Strings};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";

/// What GGUF says of a token (`enum llama_token_type` of llama.cpp).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tables of a vocabulary.
pub(super) struct Vocab<'a> {
    pub(super) tokens: &'a Strings,
    pub(super) types: Vec<TokenType>,
    pub(super) ids: HashMap<&'a str, u32>,
}

impl<'a> Vocab<'a> {
    pub(super) fn read(gguf: &'a GgufFile, n_embeddings: u32) -> Result<Self, ConvertError> {
        let metadata = gguf.metadata();
        let tokens = gguf.required(TOKENS, metadata.strings(TOKENS))?;
        let n_tokens = tokens.len();
        if n_tokens as u64 > u64::from(n_embeddings) {
            let problem =
                TokenizerProblem::MoreThanEmbeddings { wanted: n_embeddings.into(), found: n_tokens };
            return Err(fault(gguf, TOKENS, problem));
        }
        let mut ids = HashMap::with_capacity(n_tokens);
        for (text, second) in tokens.iter().zip(0u32..) {
            if let Some(first) = ids.insert(text, second) {
                let text = text.to_owned();
                let problem = TokenizerProblem::Duplicate { text, first, second };
                return Err(fault(gguf, TOKENS, problem));
            }
        }
        let types = gguf.required(TOKEN_TYPES, metadata.i32s(TOKEN_TYPES))?;
        same_length(gguf, TOKEN_TYPES, n_tokens, types.len())?;
        let types = types.iter().enumerate().map(|(id, ty)| {
            TokenType::from_number(*ty)
                .ok_or_else(|| fault(gguf, TOKEN_TYPES, TokenizerProblem::TokenType { id, found: *ty }))
        });
        Ok(Self { tokens, types: types.collect::<Result<_, _>>()?, ids })
    }

    /// Tokens with their types, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        let typed = self.tokens.iter().zip(self.types.iter().copied());
        typed.zip(0u32..).map(|((text, ty), id)| (id, text, ty))
    }

    /// The tokens that are found in text before it is cut up.
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

pub(super) fn fault(gguf: &GgufFile, key: &'static str, problem: TokenizerProblem) -> ConvertError {
    ConvertError::Tokenizer { path: gguf.path().to_owned(), key, problem }
}

pub(super) fn same_length(
    gguf: &GgufFile,
    key: &'static str,
    wanted: usize,
    found: usize,
) -> Result<(), ConvertError> {
    if wanted == found { Ok(()) } else { Err(fault(gguf, key, TokenizerProblem::Length { wanted, found })) }
}
