//! Special tokens that have a name or a list of their own, and end-of-sequence ids.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::added::token;
use super::error::TextError;
use super::files::{read_object, wrong_field};

/// The special tokens that have a name, as transformers lists them.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The end of the names that models give to special tokens of their own, such as `image_token`.
const NAME_END: &str = "_token";

/// Lists of special tokens without a name: as transformers 5 calls them, and as it did before.
const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Special tokens that a tokenizer class of transformers has if the files say nothing of them.
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

/// A special token with a name.
#[derive(Debug)]
struct Named {
    name: String,
    token: AddedToken,
    /// The file that names it; `None` for one that the class has by itself.
    path: Option<PathBuf>,
}

/// The special tokens of a model directory: those with names, and others.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    named: Vec<Named>,
    others: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Takes them from `tokenizer_config.json` as already read, and for older models
    /// (those without `added_tokens_decoder` there) from `special_tokens_map.json` before that.
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

    /// Adds the named tokens of a file, but those that a file before it has set, also to none.
    fn add_named(&mut self, path: &Path, file: &Map<String, Value>, is_map: bool) -> Result<(), TextError> {
        // Lists of tokens with names are objects.
        let lists = LISTS.iter().filter_map(|list| file.get(*list)?.as_object());
        let own = file.iter().chain(lists.flatten()).filter(|(name, value)| {
            let is_token = value.is_string() || value.get("content").is_some();
            !NAMES.contains(&name.as_str())
                && (name.ends_with(NAME_END) || !file.contains_key(*name))
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

    /// Adds the named tokens that the tokenizer's class has where no file mentions them, not even as null.
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

    /// Adds the tokens that a file lists without names.
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

    /// Every named token that is set, with its name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|named| (named.name.as_str(), named.token.content.as_str()))
    }

    /// One token by its name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, content)| content)
    }

    /// All tokens that files mention, those with names first.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &AddedToken> {
        let named = self.named.iter().filter(|named| named.path.is_some());
        named.map(|named| &named.token).chain(&self.others)
    }

    /// Whether a token has a name.
    pub(super) fn is_named(&self, content: &str) -> bool {
        self.named.iter().any(|named| named.token.content == content)
    }

    /// Refuses an `eos_token` that the tokenizer does not know.
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

/// The end-of-sequence ids that `config.json` and `generation_config.json` name.
///
/// `generation_config.json` decides if it names any. An id of 0 alone does not count for mlx-lm, which then takes those
/// of `config.json`, and does for transformers: both stay.
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
    // A model that also sees may have the ids with its text model alone.
    let text = object.as_ref().and_then(|object| object.get("text_config")?.as_object());
    let config = match eos_field(&path, object.as_ref())? {
        None => eos_field(&path, text)?,
        own => own,
    };
    Ok(generation.iter().chain(&config).flat_map(EosIds::as_slice).copied().collect())
}

/// `eos_token_id` as it is written: one id, or a list.
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
