//! Streaming decoders.
//!
//! A tokenizer's decoder is a chain of steps over the list of all tokens. Here each step is a [`Stage`] that takes one
//! token at a time, and holds back only text that a later token may still change. For a chain that cannot be streamed
//! with identical results, [`stages`] returns `None`.

use std::mem;

use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{Decoder, DecoderWrapper};

/// Replaces bytes that are not valid UTF-8.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A step of a decoder, with its state between tokens.
#[derive(Debug)]
pub(super) enum Stage {
    /// Replaces text within each token.
    Replace(Replace),
    /// Replaces the mark of a space by a space, or removes it from the first token.
    Metaspace { mark: char, keep_first: bool, is_first: bool },
    /// Decodes tokens such as `<0x0A>`: a run of them is text if all of it is valid UTF-8, else each byte is replaced.
    /// A run is therefore held back until a token of another kind ends it.
    ByteFallback { run: Vec<u8> },
    /// Decodes tokens in GPT-2's byte alphabet. An incomplete character is held back.
    ByteLevel { pending: Vec<u8> },
    /// Strips up to `left` characters from the start of the text.
    StripStart { content: char, left: usize },
    /// Joins tokens with spaces, for tokenizers without a decoder.
    Join { is_first: bool },
}

/// Returns the stages of a decoder; `None` if it cannot be run token by token.
pub(super) fn stages(decoder: Option<&DecoderWrapper>) -> Option<Vec<Stage>> {
    let Some(decoder) = decoder else { return Some(vec![Stage::Join { is_first: true }]) };
    let mut plan = Plan::default();
    plan.add(decoder)?;
    Some(plan.stages)
}

#[derive(Default)]
struct Plan {
    stages: Vec<Stage>,
    /// Whether the steps so far produce a single token, the whole text.
    is_fused: bool,
}

impl Plan {
    /// Adds a step; `None` if it requires all tokens at once.
    fn add(&mut self, decoder: &DecoderWrapper) -> Option<()> {
        let stage = match decoder {
            DecoderWrapper::Sequence(sequence) => {
                return sequence.get_decoders().iter().try_for_each(|inner| self.add(inner));
            }
            DecoderWrapper::Fuse(_) => {
                self.is_fused = true;
                return Some(());
            }
            DecoderWrapper::Strip(Strip { content, start, stop: 0, .. }) if self.is_fused => {
                Stage::StripStart { content: *content, left: *start }
            }
            // The steps below work within tokens, so their result would change after fusing.
            _ if self.is_fused => return None,
            DecoderWrapper::Replace(replace) => Stage::Replace(replace.clone()),
            DecoderWrapper::Metaspace(metaspace) => Stage::from(metaspace),
            DecoderWrapper::ByteFallback(_) => Stage::ByteFallback { run: Vec::new() },
            DecoderWrapper::ByteLevel(_) => {
                self.is_fused = true;
                Stage::ByteLevel { pending: Vec::new() }
            }
            _ => return None,
        };
        self.stages.push(stage);
        Some(())
    }
}

impl From<&Metaspace> for Stage {
    fn from(metaspace: &Metaspace) -> Self {
        Self::Metaspace {
            mark: metaspace.get_replacement(),
            keep_first: metaspace.prepend_scheme == PrependScheme::Never,
            is_first: true,
        }
    }
}

/// Passes a token through stages, and appends the result to `out`.
pub(super) fn push(stages: &mut [Stage], token: String, out: &mut String) -> tokenizers::Result<()> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        out.push_str(&token);
        return Ok(());
    };
    match stage {
        Stage::Replace(replace) => {
            for token in replace.decode_chain(vec![token])? {
                push(rest, token, out)?;
            }
            Ok(())
        }
        Stage::Metaspace { mark, keep_first, is_first } => {
            let loses_mark = mem::take(is_first) && !*keep_first;
            let token = token.replace(*mark, if loses_mark { "" } else { " " });
            push(rest, token, out)
        }
        Stage::ByteFallback { run } => {
            if let Some(byte) = byte_token(&token) {
                run.push(byte);
                return Ok(());
            }
            end_run(run, rest, out)?;
            push(rest, token, out)
        }
        Stage::ByteLevel { pending } => {
            match token.chars().map(byte_level).collect::<Option<Vec<u8>>>() {
                Some(bytes) => pending.extend(bytes),
                None => pending.extend(token.as_bytes()),
            }
            let text = take_decided(pending);
            push(rest, text, out)
        }
        Stage::StripStart { content, left } => {
            let kept = token.char_indices().enumerate().find(|(n, (_, c))| n == left || c != content);
            match kept {
                Some((_, (start, _))) => {
                    *left = 0;
                    push(rest, token[start..].to_owned(), out)
                }
                None => {
                    *left -= token.chars().count();
                    Ok(())
                }
            }
        }
        Stage::Join { is_first } => {
            let token = if mem::take(is_first) { token } else { format!(" {token}") };
            push(rest, token, out)
        }
    }
}

/// Returns the bytes of a token that is not the first. Stages that need other tokens must not be among the stages.
pub(super) fn token_bytes(stages: &[Stage], token: String) -> tokenizers::Result<Vec<u8>> {
    let mut tokens = vec![token];
    for stage in stages {
        match stage {
            Stage::Replace(replace) => tokens = replace.decode_chain(tokens)?,
            Stage::Metaspace { mark, .. } => {
                tokens.iter_mut().for_each(|token| *token = token.replace(*mark, " "));
            }
            Stage::ByteFallback { .. } => {
                if let [token] = tokens.as_slice()
                    && let Some(byte) = byte_token(token)
                {
                    return Ok(vec![byte]);
                }
            }
            Stage::ByteLevel { .. } => {
                let bytes = |token: &String| match token.chars().map(byte_level).collect::<Option<Vec<u8>>>()
                {
                    Some(bytes) => bytes,
                    None => token.clone().into_bytes(),
                };
                return Ok(tokens.iter().flat_map(bytes).collect());
            }
            Stage::StripStart { .. } | Stage::Join { .. } => {}
        }
    }
    Ok(tokens.concat().into_bytes())
}

/// Appends the text that the stages still hold back to `out`.
pub(super) fn finish(stages: &mut [Stage], out: &mut String) -> tokenizers::Result<()> {
    let Some((stage, rest)) = stages.split_first_mut() else { return Ok(()) };
    match stage {
        Stage::ByteFallback { run } => end_run(run, rest, out)?,
        Stage::ByteLevel { pending } => {
            let text = String::from_utf8_lossy(pending).into_owned();
            pending.clear();
            push(rest, text, out)?;
        }
        Stage::Replace(_) | Stage::Metaspace { .. } | Stage::StripStart { .. } | Stage::Join { .. } => {}
    }
    finish(rest, out)
}

/// Returns the byte of a token such as `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Passes on the text of a run of byte tokens: as one token if it is valid UTF-8, else as one replacement character per
/// byte.
fn end_run(run: &mut Vec<u8>, rest: &mut [Stage], out: &mut String) -> tokenizers::Result<()> {
    match String::from_utf8(mem::take(run)) {
        Ok(text) if text.is_empty() => Ok(()),
        Ok(text) => push(rest, text, out),
        Err(error) => error.as_bytes().iter().try_for_each(|_| push(rest, REPLACEMENT.to_string(), out)),
    }
}

/// Returns the byte of a character of GPT-2's byte alphabet: printable bytes are themselves, and others are numbered
/// from U+0100 on.
fn byte_level(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Removes the bytes of `pending` that later bytes cannot affect, and returns them decoded as `String::from_utf8_lossy`
/// does.
fn take_decided(pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(pending.len());
    let mut n_undecided = 0;
    let mut chunks = pending.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        match std::str::from_utf8(chunk.invalid()) {
            Ok(_) => {}
            // Only the last chunk can be incomplete: earlier ones were ended by the bytes after them.
            Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                n_undecided = chunk.invalid().len();
            }
            Err(_) => text.push(REPLACEMENT),
        }
    }
    pending.drain(..pending.len() - n_undecided);
    text
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_one_of_the_tokenizers_crate() {
        let mut ours: Vec<char> = ('\0'..='\u{200}').filter(|&c| byte_level(c).is_some()).collect();
        let mut theirs: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        for c in ours {
            let decoded = ByteLevel::default().decode_chain(vec![c.to_string()]).unwrap().concat();
            let byte = byte_level(c).unwrap();
            assert_eq!(decoded, String::from_utf8_lossy(&[byte]), "{c:?}");
        }
    }

    #[test]
    fn only_the_end_of_the_bytes_is_held_back() {
        let mut pending = b"a\xf0\x9f\x98".to_vec();
        assert_eq!(take_decided(&mut pending), "a");
        assert_eq!(pending, b"\xf0\x9f\x98");
        pending.push(b'b');
        assert_eq!(take_decided(&mut pending), "\u{fffd}b");
        assert!(pending.is_empty());
        pending.extend(b"\xff\xe2\x82\xe2\x82\xac\xe2");
        assert_eq!(take_decided(&mut pending), "\u{fffd}\u{fffd}\u{20ac}");
        assert_eq!(pending, b"\xe2");
    }
}
