//! Named and listed special tokens, and end-of-sequence ids.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::added::token;
use super::error::TextError;
use super::files::{read_object, wrong_field};

/// The names of special tokens in transformers.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Suffix of the names of model-specific special tokens, such as `image_token`.
const NAME_SUFFIX: &str = "_token";

/// Fields that list special tokens without names: that of transformers 5, and that of earlier versions.
const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Default special tokens of transformers' tokenizer classes, for files that do not mention them.
const CLASSES: [(&str, &[(&str, &str)]); 5] = [
    ("LlamaTokenizer", &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]),
    (
        "GemmaTokenizer",
        &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
    ),
    ("Qwen2Tokenizer", QWEN),
    ("Qwen3_5Tokenizer", QWEN),
    (
        "GPT2Tokenizer",
        &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")],
    ),
];

const QWEN: &[(&str, &str)] =
    &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")];

/// A named special token.
#[derive(Debug)]
struct Named {
    name: String,
    token: AddedToken,
    /// The file that names the token; `None` for a default of the tokenizer class.
    path: Option<PathBuf>,
}

/// The named and the other special tokens of a model directory.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    named: Vec<Named>,
    others: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Reads special tokens from `tokenizer_config.json`, passed as `config`. For older models, which have no
    /// `added_tokens_decoder` there, `special_tokens_map.json` takes precedence.
    pub(super) fn read(dir: &Path, config: Option<&Map<String, Value>>) -> Result<Self, TextError> {
        let config_path = dir.join("tokenizer_config.json");
        let map_path = dir.join("special_tokens_map.json");
        let decoder = config.and_then(|config| config.get("added_tokens_decoder"));
        let map = if decoder.is_none_or(Value::is_null) { read_object(&map_path)? } else { None };
        let files = [map.as_ref().map(|map| (&map_path, map)), config.map(|config| (&config_path, config))];
        let mut special = Self::default();
        for (path, file) in files.into_iter().flatten() {
            special.add_named(path, file, path == &map_path)?;
        }
        special.add_defaults(dir, config)?;
        for (path, file) in files.into_iter().flatten().rev() {
            if special.others.is_empty() {
                special.add_others(path, file)?;
            }
        }
        special.named.retain(|named| !named.token.content.is_empty());
        Ok(special)
    }

    /// Adds the named tokens of a file, except those that an earlier file has set, even to null.
    fn add_named(&mut self, path: &Path, file: &Map<String, Value>, is_map: bool) -> Result<(), TextError> {
        // A list field whose tokens have names is an object.
        let lists = LISTS.iter().filter_map(|list| file.get(*list)?.as_object());
        let own = file.iter().chain(lists.flatten()).filter(|(name, value)| {
            let is_token = value.is_string() || value.get("content").is_some();
            !NAMES.contains(&name.as_str())
                && (name.ends_with(NAME_SUFFIX) || !file.contains_key(*name))
                && is_token
        });
        let known = NAMES.iter().filter_map(|name| file.get_key_value(*name));
        for (name, value) in known.chain(own) {
            if self.named.iter().any(|named| named.name == *name) {
                continue;
            }
            let token = token(path, name, value)?.map_or_else(AddedToken::default, |token| {
                let is_special = token.special || is_map;
                AddedToken { special: is_special, ..token }
            });
            self.named.push(Named { name: name.clone(), token, path: Some(path.to_owned()) });
        }
        Ok(())
    }

    /// Adds the default tokens of the tokenizer's class that no file mentions, not even as null.
    fn add_defaults(&mut self, dir: &Path, config: Option<&Map<String, Value>>) -> Result<(), TextError> {
        let of = |file: Option<&Map<String, Value>>, field| Some(file?.get(field)?.as_str()?.to_owned());
        let class = match of(config, "tokenizer_class") {
            Some(class) => class,
            None => {
                let model = read_object(&dir.join("config.json"))?;
                let by_model = || match of(model.as_ref(), "model_type")? {
                    model if model.starts_with("qwen2") || model.starts_with("qwen3") => {
                        Some("Qwen2Tokenizer")
                    }
                    model if model.starts_with("gemma") => Some("GemmaTokenizer"),
                    _ => None,
                };
                let class = of(model.as_ref(), "tokenizer_class");
                class.or_else(|| by_model().map(str::to_owned)).unwrap_or_default()
            }
        };
        let class = class.strip_suffix("Fast").unwrap_or(&class);
        for (name, content) in
            CLASSES.iter().filter(|(known, _)| *known == class).flat_map(|(_, tokens)| *tokens)
        {
            if self.named.iter().all(|named| named.name != *name) {
                let token = AddedToken::from(*content, true);
                self.named.push(Named { name: (*name).to_owned(), token, path: None });
            }
        }
        Ok(())
    }

    /// Adds the unnamed tokens that a file lists.
    fn add_others(&mut self, path: &Path, file: &Map<String, Value>) -> Result<(), TextError> {
        for list in LISTS {
            let Some(value) = file.get(list) else { continue };
            let Value::Array(tokens) = value else {
                if value.is_null() || value.is_object() {
                    continue;
                }
                return Err(wrong_field(path, list, "a list of tokens", value));
            };
            for (idx, value) in tokens.iter().enumerate() {
                self.others.extend(token(path, &format!("{list}[{idx}]"), value)?);
            }
        }
        Ok(())
    }

    /// Returns the names and texts of all named tokens that are set.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|named| (named.name.as_str(), named.token.content.as_str()))
    }

    /// Returns the text of a token by its name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, content)| content)
    }

    /// Returns all tokens that files mention, named ones first.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &AddedToken> {
        let named = self.named.iter().filter(|named| named.path.is_some());
        named.map(|named| &named.token).chain(&self.others)
    }

    /// Returns whether a token is a named one.
    pub(super) fn is_named(&self, content: &str) -> bool {
        self.named.iter().any(|named| named.token.content == content)
    }

    /// Rejects an `eos_token` that is not in the tokenizer's vocabulary.
    pub(super) fn check_eos(&self, tokenizer: &Tokenizer) -> Result<(), TextError> {
        let eos = self.named.iter().find(|named| named.name == "eos_token");
        match eos.filter(|eos| tokenizer.token_to_id(&eos.token.content).is_none()) {
            Some(Named { name, token, path: Some(path) }) => Err(TextError::NoEosId {
                path: path.clone(),
                field: name.clone(),
                token: token.content.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Reads the end-of-sequence ids of `generation_config.json` or, if it has none, of `config.json`.
///
/// A single id of 0 in `generation_config.json` counts for transformers but not for mlx-lm, which uses `config.json`
/// then: both are returned.
pub(super) fn config_eos_ids(dir: &Path) -> Result<Vec<u32>, TextError> {
    let path = dir.join("generation_config.json");
    let generation = eos_field(&path, read_object(&path)?.as_ref())?;
    if let Some(ids) = generation.as_ref().filter(|ids| !matches!(ids, EosIds::One(0)))
        && !ids.as_slice().is_empty()
    {
        return Ok(ids.as_slice().to_vec());
    }
    let path = dir.join("config.json");
    let object = read_object(&path)?;
    // A vision-language model may have the ids in its text model's configuration only.
    let text = object.as_ref().and_then(|object| object.get("text_config")?.as_object());
    let config = match eos_field(&path, object.as_ref())? {
        None => eos_field(&path, text)?,
        own => own,
    };
    Ok(generation.iter().chain(&config).flat_map(EosIds::as_slice).copied().collect())
}

/// The value of `eos_token_id`: one id, or a list.
enum EosIds {
    One(u32),
    Many(Vec<u32>),
}

impl EosIds {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

fn eos_field(path: &Path, object: Option<&Map<String, Value>>) -> Result<Option<EosIds>, TextError> {
    const FIELD: &str = "eos_token_id";
    let Some(value) = object.and_then(|object| object.get(FIELD)) else { return Ok(None) };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let wrong = || wrong_field(path, FIELD, "a token id or a list of token ids", value);
    match value {
        Value::Null => Ok(None),
        Value::Array(list) => {
            let ids = list.iter().map(id).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            Ok(Some(EosIds::Many(ids)))
        }
        _ => Ok(Some(EosIds::One(id(value).ok_or_else(wrong)?))),
    }
}
