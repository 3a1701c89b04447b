//! Log-probabilities in OpenAI's forms.

use crate::engine::TokenLogprob;
use crate::json::{Json, object};

/// Returns `logprobs` of chat completions.
pub(super) fn chat<'a>(tokens: impl IntoIterator<Item = &'a TokenLogprob>) -> Json {
    let content: Vec<Json> = tokens.into_iter().map(token).collect();
    object! { "content": content, "refusal": Json::Null }
}

fn token(token: &TokenLogprob) -> Json {
    let top: Vec<Json> = token.top.iter().map(|(bytes, logprob)| entry(bytes, *logprob)).collect();
    let mut entry = entry(&token.bytes, token.logprob);
    crate::json::set(&mut entry, "top_logprobs", top);
    entry
}

fn entry(bytes: &[u8], logprob: f32) -> Json {
    let numbers: Vec<u32> = bytes.iter().map(|&byte| byte.into()).collect();
    object! { "token": text(bytes), "logprob": finite(logprob), "bytes": numbers }
}

/// Returns `logprobs` of completions. `offset` is the number of characters of the answer before the tokens.
pub(super) fn completion<'a>(tokens: impl IntoIterator<Item = &'a TokenLogprob>, offset: &mut usize) -> Json {
    let (mut texts, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        let text = text(&token.bytes);
        offsets.push(*offset);
        *offset += text.chars().count();
        texts.push(text);
        logprobs.push(finite(token.logprob));
        let top = token.top.iter().map(|(bytes, logprob)| (self::text(bytes), finite(*logprob)));
        tops.push(Json::Object(top.collect()));
    }
    object! { "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets }
}

/// A token's text; the bytes of a part of a character are shown as a replacement character.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// JSON has no infinity; OpenAI writes this number for tokens that cannot occur.
fn finite(logprob: f32) -> Json {
    Json::from(logprob.max(-9999.0))
}
