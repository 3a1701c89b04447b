//! Converts GGUF tokenizer tables to Hugging Face tokenizer files.

mod bpe;
mod scheme;
mod special;
mod spm;
mod vocab;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::architecture::Config;
use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::GgufFile;
use crate::writer::OutDir;
use scheme::Scheme;
use special::SpecialTokens;
use vocab::{TokenType, Vocab, table_error};

const MODEL: &str = "tokenizer.ggml.model";

/// Supported values of `tokenizer.ggml.model`.
const KNOWN_MODELS: &str = "gpt2, llama";

/// A validated tokenizer.
pub(crate) struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    scheme: Scheme<'a>,
    specials: SpecialTokens<'a>,
    chat_template: Option<&'a str>,
}

impl<'a> Tokenizer<'a> {
    /// Reads and validates the tables.
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
                return Err(table_error(gguf, MODEL, TokenizerProblem::Unknown { found, known }));
            }
        };
        let specials = SpecialTokens::read(gguf, &vocab, scheme.add_bos_default)?;
        let chat_template = gguf.checked(metadata.string("tokenizer.chat_template"))?;
        Ok(Self { vocab, scheme, specials, chat_template })
    }

    /// Writes tokenizer.json, `tokenizer_config.json` and `generation_config.json`.
    pub(crate) fn write(&self, out: &OutDir, config: &Config) -> Result<(), ConvertError> {
        out.write_json("tokenizer.json", self, false)?;
        out.write_json("tokenizer_config.json", &self.config(config), true)?;
        out.write_json("generation_config.json", &self.specials.generation_config(), true)
    }

    /// Returns the contents of `tokenizer_config.json`.
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
    /// Writes tokenizer.json with the key order of the `tokenizers` library.
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

/// The `model` of tokenizer.json, which is BPE for every supported tokenizer.
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

/// Returns an entry of `added_tokens`, a token matched in text verbatim. User-defined tokens are not `special`, which
/// keeps them in decoded text.
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
