//! Tokens that other files of the model directory add to the vocabulary of `tokenizer.json`.
//!
//! Follows `transformers` 5 (`PreTrainedTokenizerBase._from_pretrained`, `TokenizersBackend.__init__`):
//! `added_tokens_decoder` of `tokenizer_config.json` has tokens with ids and flags; models without it have
//! `added_tokens.json`, ids by text. Named special tokens and `additional_special_tokens` (`extra_special_tokens` since
//! version 5) are added if no added token has their text, with their id in the vocabulary or the next free one. A file
//! is rejected if transformers would give a token another id than the file does.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::error::{IdConflict, TextError};
use super::files::{read_object, wrong_field};
use super::special::SpecialTokens;

const DECODER: &str = "added_tokens_decoder";

/// A token with the id that a file assigns to it.
struct TokenWithId {
    id: u32,
    token: AddedToken,
}

/// Adds the tokens of `tokenizer_config.json`, passed as `config`, and of the other files to the tokenizer.
pub(super) fn add(
    tokenizer: &mut Tokenizer,
    dir: &Path,
    config: Option<&Map<String, Value>>,
    special: &SpecialTokens,
) -> Result<(), TextError> {
    let (path, mut tokens) = match config.and_then(|config| config.get(DECODER)).filter(|it| !it.is_null()) {
        Some(decoder) => {
            let path = dir.join("tokenizer_config.json");
            let tokens = decoder_tokens(&path, decoder)?;
            (path, tokens)
        }
        None => {
            let path = dir.join("added_tokens.json");
            let tokens = older_tokens(&path, tokenizer, special)?;
            (path, tokens)
        }
    };
    tokens.sort_by_key(|token| token.id);
    for TokenWithId { token, .. } in &mut tokens {
        token.special |= special.is_named(&token.content);
    }
    add_checked(tokenizer, &path, &tokens)?;
    special.check_eos(tokenizer)?;
    let known = tokenizer.get_added_vocabulary().get_vocab();
    let unknown: Vec<AddedToken> =
        special.tokens().filter(|token| !known.contains_key(&token.content)).cloned().collect();
    tokenizer.add_tokens(unknown).map_err(|error| refused(&path, error))?;
    Ok(())
}

/// Adds tokens of a file, each with the id that the file assigns to it.
pub(super) fn add_with_ids(
    tokenizer: &mut Tokenizer,
    path: &Path,
    tokens: Vec<(u32, AddedToken)>,
) -> Result<(), TextError> {
    let tokens: Vec<TokenWithId> = tokens.into_iter().map(|(id, token)| TokenWithId { id, token }).collect();
    add_checked(tokenizer, path, &tokens)
}

/// Adds tokens of a file, and checks that each gets the id that the file assigns to it.
fn add_checked(tokenizer: &mut Tokenizer, path: &Path, tokens: &[TokenWithId]) -> Result<(), TextError> {
    let conflict = |token: &TokenWithId, conflict| TextError::TokenId {
        path: path.to_owned(),
        token: token.token.content.clone(),
        id: token.id,
        conflict,
    };
    let (mut ids, mut texts) = (HashMap::new(), HashMap::new());
    for token in tokens {
        let text = token.token.content.as_str();
        let id = ids.insert(text, token.id).or_else(|| tokenizer.token_to_id(text));
        if let Some(id) = id.filter(|id| *id != token.id) {
            return Err(conflict(token, IdConflict::HasOther { id }));
        }
        let by = texts.insert(token.id, text).map(str::to_owned).or_else(|| tokenizer.id_to_token(token.id));
        if let Some(by) = by.filter(|by| by != text) {
            return Err(conflict(token, IdConflict::Taken { by }));
        }
    }
    let added: Vec<AddedToken> = tokens.iter().map(|token| token.token.clone()).collect();
    tokenizer.add_tokens(added).map_err(|error| refused(path, error))?;
    for token in tokens.iter().filter(|token| !token.token.content.is_empty()) {
        match tokenizer.token_to_id(&token.token.content) {
            Some(id) if id == token.id => {}
            next => return Err(conflict(token, IdConflict::Gap { next })),
        }
    }
    Ok(())
}

fn refused(path: &Path, error: tokenizers::Error) -> TextError {
    TextError::Part { path: path.to_owned(), field: "added_tokens", error }
}

/// Reads the tokens of `added_tokens_decoder`: an object from ids to text and flags.
fn decoder_tokens(path: &Path, decoder: &Value) -> Result<Vec<TokenWithId>, TextError> {
    let wrong = |field: &str, found: &Value| {
        wrong_field(path, field, "an object of token ids, each an object with a string \"content\"", found)
    };
    let entries = decoder.as_object().ok_or_else(|| wrong(DECODER, decoder))?;
    let tokens = entries.iter().map(|(id, value)| {
        let field = format!("{DECODER}.{id}");
        let id = id.trim().parse().map_err(|_| wrong(&field, value))?;
        let token = token(path, &field, value)?.filter(|_| value.is_object());
        Ok(TokenWithId { id, token: token.ok_or_else(|| wrong(&field, value))? })
    });
    tokens.collect()
}

/// Reads the tokens of `added_tokens.json`: an object from text to ids. Tokens that `tokenizer.json` has added already
/// keep their flags, except that named tokens are special.
fn older_tokens(
    path: &Path,
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
) -> Result<Vec<TokenWithId>, TextError> {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let mut tokens: Vec<TokenWithId> =
        added.iter().map(|(&id, token)| TokenWithId { id, token: token.clone() }).collect();
    for (content, value) in read_object(path)?.iter().flatten() {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| wrong_field(path, content, "a token id", value))?;
        if added.get(&id).is_some_and(|token| token.content == *content) {
            continue;
        }
        let is_special = special.tokens().any(|token| token.content == *content);
        tokens.push(TokenWithId { id, token: AddedToken::from(content.clone(), is_special) });
    }
    Ok(tokens)
}

/// Reads a token: a string, which makes it special, or an object with text and flags; `None` for null.
pub(super) fn token(path: &Path, field: &str, value: &Value) -> Result<Option<AddedToken>, TextError> {
    let entries = match value {
        Value::Null => return Ok(None),
        Value::String(content) => return Ok(Some(AddedToken::from(content.clone(), true))),
        Value::Object(entries) => entries,
        _ => {
            return Err(wrong_field(path, field, "a string or an object with a string \"content\"", value));
        }
    };
    let Some(Value::String(content)) = entries.get("content") else {
        return Err(wrong_field(path, field, "a string or an object with a string \"content\"", value));
    };
    let flag = |name: &str| match entries.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(found) => Err(wrong_field(path, &format!("{field}.{name}"), "true or false", found)),
    };
    let is_special = flag("special")?.unwrap_or(false);
    Ok(Some(AddedToken {
        content: content.clone(),
        single_word: flag("single_word")?.unwrap_or(false),
        lstrip: flag("lstrip")?.unwrap_or(false),
        rstrip: flag("rstrip")?.unwrap_or(false),
        normalized: flag("normalized")?.unwrap_or(!is_special),
        special: is_special,
    }))
}
