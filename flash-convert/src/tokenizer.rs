//! From GGUF's tokenizer tables to Hugging Face's tokenizer files.

mod bpe;
mod special;
mod spm;

use std::collections::HashMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::architecture::Config;
use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::{GgufFile, Strings};
use crate::writer::OutDir;
use special::Specials;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";

/// What `tokenizer.ggml.model` may say.
const KNOWN_MODELS: &str = "gpt2, llama";

/// What GGUF says of a token (`enum llama_token_type` of llama.cpp).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tables of a vocabulary.
struct Vocab<'a> {
    tokens: &'a Strings,
    types: Vec<TokenType>,
    ids: HashMap<&'a str, u32>,
}

/// How text becomes tokens: what the kinds of tokenizers differ in.
struct Scheme<'a> {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    merges: Merges<'a>,
    unk_token: Option<&'a str>,
    byte_fallback: bool,
    ignore_merges: bool,
    add_prefix_space: bool,
    add_bos_default: bool,
}

/// Pairs of pieces that are merged, the first of them first.
enum Merges<'a> {
    Stored(&'a Strings),
    Derived(Vec<(&'a str, &'a str)>),
}

/// A tokenizer that can be written.
pub(crate) struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    scheme: Scheme<'a>,
    specials: Specials<'a>,
    chat_template: Option<&'a str>,
}

impl<'a> Tokenizer<'a> {
    /// Reads and checks the tables.
    pub(crate) fn read(gguf: &'a GgufFile, config: &Config) -> Result<Self, ConvertError> {
        let metadata = gguf.metadata();
        let model = gguf.required(MODEL, metadata.string(MODEL))?;
        let vocab = Vocab::read(gguf, config.vocab_size)?;
        let scheme = match model {
            "gpt2" => bpe::scheme(gguf, &vocab)?,
            "llama" => spm::scheme(gguf, &vocab)?,
            _ => {
                let found = model.to_owned();
                let known = KNOWN_MODELS;
                return Err(fault(gguf, MODEL, TokenizerProblem::Unknown { found, known }));
            }
        };
        let specials = Specials::read(gguf, &vocab, scheme.add_bos_default)?;
        let chat_template = gguf.checked(metadata.string("tokenizer.chat_template"))?;
        Ok(Self { vocab, scheme, specials, chat_template })
    }

    /// Writes tokenizer.json, `tokenizer_config.json` and `generation_config.json`.
    pub(crate) fn write(&self, out: &OutDir, config: &Config) -> Result<(), ConvertError> {
        out.write_json("tokenizer.json", self, false)?;
        out.write_json("tokenizer_config.json", &self.config(config), true)?;
        out.write_json("generation_config.json", &self.specials.generation_config(), true)
    }

    /// `tokenizer_config.json`.
    fn config(&self, config: &Config) -> Value {
        let mut entries = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": self.scheme.add_prefix_space,
            "add_bos_token": self.specials.bos_is_added(),
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": false,
        });
        if self.specials.eos_is_added() {
            entries["add_eos_token"] = true.into();
        }
        for (name, text) in self.specials.named() {
            entries[name] = text.into();
        }
        if let Some(template) = self.chat_template {
            entries["chat_template"] = template.into();
        }
        let added = self.vocab.added();
        let decoder: Map<_, _> =
            added.map(|(id, text, ty)| (id.to_string(), added_token(text, ty))).collect();
        entries["added_tokens_decoder"] = decoder.into();
        entries
    }
}

impl Serialize for Tokenizer<'_> {
    /// tokenizer.json; in this order, as the `tokenizers` library writes it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let added: Vec<Value> = self
            .vocab
            .added()
            .map(|(id, text, ty)| {
                let mut token = added_token(text, ty);
                token["id"] = id.into();
                token
            })
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", "1.0")?;
        map.serialize_entry("truncation", &Value::Null)?;
        map.serialize_entry("padding", &Value::Null)?;
        map.serialize_entry("added_tokens", &added)?;
        map.serialize_entry("normalizer", &self.scheme.normalizer)?;
        map.serialize_entry("pre_tokenizer", &self.scheme.pre_tokenizer)?;
        map.serialize_entry("post_processor", &self.specials.post_processor())?;
        map.serialize_entry("decoder", &self.scheme.decoder)?;
        map.serialize_entry("model", &Model(self))?;
        map.end()
    }
}

/// The `model` of tokenizer.json: byte-pair encoding, whatever GGUF calls it.
struct Model<'a, 'b>(&'b Tokenizer<'a>);

impl Serialize for Model<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let scheme = &self.0.scheme;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "BPE")?;
        map.serialize_entry("dropout", &Value::Null)?;
        map.serialize_entry("unk_token", &scheme.unk_token)?;
        map.serialize_entry("continuing_subword_prefix", &Value::Null)?;
        map.serialize_entry("end_of_word_suffix", &Value::Null)?;
        map.serialize_entry("fuse_unk", &scheme.unk_token.is_some())?;
        map.serialize_entry("byte_fallback", &scheme.byte_fallback)?;
        map.serialize_entry("ignore_merges", &scheme.ignore_merges)?;
        map.serialize_entry("vocab", &self.0.vocab)?;
        map.serialize_entry("merges", &scheme.merges)?;
        map.end()
    }
}

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.tokens.iter().zip(0u32..))
    }
}

impl Serialize for Merges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stored(merges) => serializer.collect_seq(merges.iter()),
            Self::Derived(merges) => {
                let mut seq = serializer.serialize_seq(Some(merges.len()))?;
                for (left, right) in merges {
                    seq.serialize_element(&format_args!("{left} {right}"))?;
                }
                seq.end()
            }
        }
    }
}

impl<'a> Vocab<'a> {
    fn read(gguf: &'a GgufFile, n_embeddings: u32) -> Result<Self, ConvertError> {
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
    fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        let typed = self.tokens.iter().zip(self.types.iter().copied());
        typed.zip(0u32..).map(|((text, ty), id)| (id, text, ty))
    }

    /// The tokens that are found in text before it is cut up.
    fn added(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
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

/// A token that is found in text as it is; all but user-defined ones are left out of decoded text.
fn added_token(text: &str, ty: TokenType) -> Value {
    json!({
        "content": text,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": ty != TokenType::UserDefined,
    })
}

fn fault(gguf: &GgufFile, key: &'static str, problem: TokenizerProblem) -> ConvertError {
    ConvertError::Tokenizer { path: gguf.path().to_owned(), key, problem }
}

fn same_length(gguf: &GgufFile, key: &'static str, wanted: usize, found: usize) -> Result<(), ConvertError> {
    if wanted == found { Ok(()) } else { Err(fault(gguf, key, TokenizerProblem::Length { wanted, found })) }
}
