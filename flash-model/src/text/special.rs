//! The small files beside a tokenizer: named special tokens and end-of-sequence ids.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::TextError;

/// The special tokens that have a name, as transformers lists them.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The longest excerpt of a wrong value that an error repeats.
const FOUND_CHARS_MAX: usize = 80;

/// Reads a JSON object; `None` if there is no such file.
pub(super) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TextError::Read { path: path.to_owned(), error }),
    };
    serde_json::from_slice(&text).map_err(|error| TextError::Json { path: path.to_owned(), error })
}

/// The error for a field that holds the wrong thing.
pub(super) fn wrong_field(path: &Path, field: &str, expected: &'static str, found: &Value) -> TextError {
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(FOUND_CHARS_MAX) {
        found.truncate(cut);
        found.push('…');
    }
    TextError::Field { path: path.to_owned(), field: field.to_owned(), expected, found }
}

/// The named special tokens of a model directory, in the order of [`NAMES`].
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    named: Vec<(&'static str, String)>,
}

impl SpecialTokens {
    /// Takes them from `tokenizer_config.json` as already read, and for older models
    /// (those without `added_tokens_decoder` there) from `special_tokens_map.json` before that.
    pub(super) fn read(dir: &Path, config: Option<&Map<String, Value>>) -> Result<Self, TextError> {
        let config_path = dir.join("tokenizer_config.json");
        let map_path = dir.join("special_tokens_map.json");
        let is_older = config.is_none_or(|config| !config.contains_key("added_tokens_decoder"));
        let map = if is_older { read_object(&map_path)? } else { None };
        let mut named = Vec::new();
        for name in NAMES {
            let from_map = map.as_ref().and_then(|map| map.get(name)).map(|value| (&map_path, value));
            let from_config = config.and_then(|config| config.get(name)).map(|value| (&config_path, value));
            if let Some((path, value)) = from_map.or(from_config)
                && let Some(content) = token_content(path, name, value)?
            {
                named.push((name, content));
            }
        }
        Ok(Self { named })
    }

    /// Every token that is set, with its name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.named.iter().map(|(name, content)| (*name, content.as_str()))
    }

    /// One token by its name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, content)| content)
    }
}

/// A token is a string, or an object whose `content` is the string.
fn token_content(path: &Path, field: &str, value: &Value) -> Result<Option<String>, TextError> {
    match value {
        Value::Null => Ok(None),
        Value::String(content) => Ok(Some(content.clone())),
        Value::Object(token) if let Some(Value::String(content)) = token.get("content") => {
            Ok(Some(content.clone()))
        }
        _ => Err(wrong_field(path, field, "a string or an object with a string \"content\"", value)),
    }
}

/// The end-of-sequence ids that `config.json` and `generation_config.json` name.
///
/// `generation_config.json` decides if it names any; an id of 0 alone or an empty list there counts
/// as none, as in mlx-lm.
pub(super) fn config_eos_ids(dir: &Path) -> Result<Vec<u32>, TextError> {
    let path = dir.join("generation_config.json");
    let generation = eos_field(&path, read_object(&path)?.as_ref())?;
    if let Some(ids) = generation.filter(|ids| !matches!(ids, EosIds::One(0)) && !ids.as_slice().is_empty()) {
        return Ok(ids.as_slice().to_vec());
    }
    let path = dir.join("config.json");
    let config = eos_field(&path, read_object(&path)?.as_ref())?;
    Ok(config.map_or_else(Vec::new, |ids| ids.as_slice().to_vec()))
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
