//! `SentencePiece` BPE (`llama` in GGUF): merges are derived from the scores of the tokens.
//!
//! Source of the rules: `LlamaConverter` and `generate_merges` of Hugging Face transformers
//! (`convert_slow_tokenizer.py`).

use std::cmp::Ordering;

use serde_json::json;

use super::scheme::{Merges, Scheme};
use super::vocab::{TokenType, Vocab, check_length};
use crate::error::ConvertError;
use crate::gguf::GgufFile;

const SCORES: &str = "tokenizer.ggml.scores";

/// Replacement of a space in `SentencePiece` tokens.
const SPACE: &str = "▁";

/// Number of byte tokens that byte fallback requires.
const N_BYTES: usize = 256;

/// A merge and the score of the token it forms.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
}

/// Reads the scores and returns the components of the tokenizer.
pub(super) fn scheme<'a>(gguf: &'a GgufFile, vocab: &Vocab<'a>) -> Result<Scheme<'a>, ConvertError> {
    let metadata = gguf.metadata();
    let scores = gguf.required(SCORES, metadata.f32s(SCORES))?;
    check_length(gguf, SCORES, vocab.tokens.len(), scores.len())?;
    let key = "tokenizer.ggml.add_space_prefix";
    let add_prefix_space = gguf.checked(metadata.boolean(key))?.unwrap_or(true);
    let of_type = |wanted| vocab.iter().filter(move |(_, _, ty)| *ty == wanted);

    let space = json!({"String": " "});
    let replace = json!({"type": "Replace", "pattern": space, "content": SPACE});
    let normalizer = if add_prefix_space {
        let prepend = json!({"type": "Prepend", "prepend": SPACE});
        json!({"type": "Sequence", "normalizers": [prepend, replace]})
    } else {
        replace
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Scheme {
        normalizer,
        pre_tokenizer: serde_json::Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        merges: Merges::Derived(merges(vocab, &scores)),
        unk_token: of_type(TokenType::Unknown).map(|(_, text, _)| text).next(),
        byte_fallback: of_type(TokenType::Byte).count() == N_BYTES,
        ignore_merges: false,
        add_prefix_space,
        add_bos_default: true,
    })
}

/// Derives all merges of two tokens into a third, highest score first.
///
/// Control, unknown and byte tokens never take part in merges.
fn merges<'a>(vocab: &Vocab<'a>, scores: &[f32]) -> Vec<(&'a str, &'a str)> {
    let is_piece = |id: u32| {
        let ty = vocab.types[id as usize];
        matches!(ty, TokenType::Normal | TokenType::Unused | TokenType::UserDefined)
    };
    let piece = |text: &str| vocab.ids.get(text).copied().filter(|id| is_piece(*id));
    let mut merges = Vec::new();
    for ((id, text, _), score) in vocab.iter().zip(scores) {
        // tokenizer.json separates the two tokens of a merge with a space.
        if !is_piece(id) || text.contains(' ') {
            continue;
        }
        let first = merges.len();
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(left_id), Some(right_id)) = (piece(left), piece(right)) {
                let merge = Merge { left, right, score: *score };
                merges.push(((left_id, right_id), merge));
            }
        }
        merges[first..].sort_by_key(|(ids, _)| *ids);
    }
    // The sort is stable: equal merges keep the order of the vocabulary.
    merges.sort_by(|(_, a), (_, b)| precedence(a, b));
    merges.into_iter().map(|(_, merge)| (merge.left, merge.right)).collect()
}

/// Orders merges by higher score, then by longer left token, then by longer right token (in characters).
fn precedence(a: &Merge<'_>, b: &Merge<'_>) -> Ordering {
    let len = |piece: &str| piece.chars().count();
    b.score
        .total_cmp(&a.score)
        .then_with(|| len(b.left).cmp(&len(a.left)))
        .then_with(|| len(b.right).cmp(&len(a.right)))
}
