//! Checks that reject input on which the tokenizers crate would panic.

use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab};
use tokenizers::normalizers::Precompiled;

use super::error::TextError;
use super::files::wrong_field;
use super::load;

/// Rejects merges on which the builder would panic: it joins the two in a buffer of the longest token's length, without
/// the prefix of the right one, before it checks whether the result is a token.
pub(super) fn merges(
    path: &Path,
    vocab: &Vocab,
    merges: &Merges,
    prefix_bytes: usize,
) -> Result<(), TextError> {
    let token_bytes_max = vocab.keys().map(String::len).max().unwrap_or(0);
    for (index, (left, right)) in merges.iter().enumerate() {
        let fits = right.is_char_boundary(prefix_bytes)
            && left.len() + right.len() - prefix_bytes <= token_bytes_max;
        if !fits {
            let field = format!("model.merges[{index}]");
            let found = Value::from(vec![left.as_str(), right.as_str()]);
            return Err(wrong_field(path, &field, "two tokens that join to a token", &found));
        }
    }
    Ok(())
}

/// Rejects a precompiled character map on which the tokenizers crate would panic.
pub(super) fn precompiled(path: &Path, normalizer: &Value) -> Result<(), TextError> {
    if let Some(list) = normalizer.get("normalizers").and_then(Value::as_array) {
        list.iter().try_for_each(|inner| precompiled(path, inner))?;
    }
    if normalizer.get("type").and_then(Value::as_str) == Some("Precompiled") {
        load::part::<Precompiled>(path, "normalizer", Some(normalizer.clone()))?;
    }
    Ok(())
}

/// Rejects a post-processor template with an undefined special token or a second text.
pub(super) fn template(path: &Path, post_processor: &Value) -> Result<(), TextError> {
    if let Some(list) = post_processor.get("processors").and_then(Value::as_array) {
        list.iter().try_for_each(|inner| template(path, inner))?;
    }
    let Some(pieces) = post_processor.get("single").and_then(Value::as_array) else { return Ok(()) };
    for piece in pieces {
        let token = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
        let is_defined = token.is_none_or(|token| {
            let tokens = post_processor.get("special_tokens");
            tokens.and_then(|tokens| tokens.get(token)).is_some()
        });
        let is_second = piece.pointer("/Sequence/id").is_some_and(|id| id == "B");
        if !is_defined || is_second {
            let expected = "a template of one text and the special tokens it defines";
            return Err(wrong_field(path, "post_processor.single", expected, piece));
        }
    }
    Ok(())
}
