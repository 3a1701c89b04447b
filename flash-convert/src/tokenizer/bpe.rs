//! Byte-level BPE (`gpt2` in GGUF): GGUF stores the merges, but only the name of the pre-tokenizer.
//!
//! Sources: `llama-vocab.cpp` of llama.cpp for the meaning of the names, and for the patterns the tokenizer.json of the
//! models they are named after, from which llama.cpp derived its own.

use serde_json::{Value, json};

use super::scheme::{Merges, Scheme};
use super::vocab::{Vocab, table_error};
use crate::error::{ConvertError, TokenizerProblem};
use crate::gguf::GgufFile;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// Supported values of `tokenizer.ggml.pre`.
const KNOWN: &str = "default, gpt-2 (phi-2, olmo, mellum, gigachat, a.x-4.0, trillion), \
    llama-bpe (llama3, llama-v3, falcon3, falcon-h1, lfm2, pixtral, midm-2.0), smaug-bpe (dbrx), minicpm5, \
    qwen2 (deepseek-r1-qwen), qwen35, smollm (starcoder, refact, minerva-7b, exaone), seed-coder, deepseek-llm, \
    deepseek-coder, deepseek-v3, tekken, gpt-4o (llama4)";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns applied in sequence, each to the pieces left by its predecessor.
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
const DEEPSEEK_CODER: [&str; 5] =
    [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"];
const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-\u{d7ff}]+",
    r"\p{N}+",
];
const MINICPM5: [&str; 2] = [
    r"\p{N}{1,3}",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Patterns of llama.cpp's `default`, applied in sequence.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// Pre-tokenization rules of a named pre-tokenizer.
struct Rules {
    normalizer: Value,
    steps: Vec<Value>,
    /// Whether a word that is a token is encoded as this token without applying merges.
    ignore_merges: bool,
    add_bos: bool,
}

/// Reads and validates the merges and returns the components of the tokenizer.
pub(super) fn scheme<'a>(gguf: &'a GgufFile, vocab: &Vocab<'a>) -> Result<Scheme<'a>, ConvertError> {
    let metadata = gguf.metadata();
    let pre = gguf.required(PRE, metadata.string(PRE))?;
    let Some(rules) = rules(pre) else {
        let found = pre.to_owned();
        let known = KNOWN;
        return Err(table_error(gguf, PRE, TokenizerProblem::Unknown { found, known }));
    };
    let merges = gguf.required(MERGES, metadata.strings(MERGES))?;
    for (idx, text) in merges.iter().enumerate() {
        let is_known = |piece: &str| vocab.ids.contains_key(piece);
        let is_merge = text.split_once(' ').is_some_and(|(left, right)| {
            is_known(left) && is_known(right) && is_known(&[left, right].concat())
        });
        if !is_merge {
            let text = text.to_owned();
            return Err(table_error(gguf, MERGES, TokenizerProblem::Merge { idx, text }));
        }
    }
    Ok(Scheme {
        normalizer: rules.normalizer,
        pre_tokenizer: match &rules.steps[..] {
            [only] => only.clone(),
            steps => json!({"type": "Sequence", "pretokenizers": steps}),
        },
        decoder: byte_level(true, true),
        merges: Merges::Stored(merges),
        unk_token: None,
        byte_fallback: false,
        ignore_merges: rules.ignore_merges,
        add_prefix_space: false,
        add_bos_default: rules.add_bos,
    })
}

/// Returns the rules of the pre-tokenizer named `pre`.
fn rules(pre: &str) -> Option<Rules> {
    let plain = |steps| Rules { normalizer: Value::Null, steps, ignore_merges: false, add_bos: false };
    // The patterns split the text, so ByteLevel only maps bytes to characters.
    let cut = |patterns: &[&str]| -> Vec<Value> {
        let cuts = patterns.iter().map(|pattern| split(pattern));
        cuts.chain([byte_level(false, false)]).collect()
    };
    let composed = |rules| Rules { normalizer: json!({"type": "NFC"}), ..rules };
    let whole_words = |rules| Rules { ignore_merges: true, ..rules };
    Some(match pre {
        "default" => plain(cut(&DEFAULT)),
        "gpt-2" | "phi-2" | "olmo" | "mellum" | "gigachat" | "a.x-4.0" | "trillion" => {
            plain(vec![byte_level(false, true)])
        }
        "smollm" | "starcoder" | "refact" | "minerva-7b" | "exaone" => {
            plain(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)])
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "lfm2" | "pixtral" | "midm-2.0" => {
            Rules { add_bos: true, ..whole_words(plain(cut(&[LLAMA3]))) }
        }
        "smaug-bpe" | "dbrx" => plain(cut(&[LLAMA3])),
        "minicpm5" => whole_words(plain(cut(&MINICPM5))),
        "qwen2" | "deepseek-r1-qwen" => composed(plain(cut(&[QWEN2]))),
        "qwen35" => composed(plain(cut(&[QWEN35]))),
        "seed-coder" => plain(cut(&[SEED_CODER])),
        "deepseek-llm" => plain(cut(&DEEPSEEK_LLM)),
        "deepseek-coder" => plain(cut(&DEEPSEEK_CODER)),
        "deepseek-v3" => plain(cut(&DEEPSEEK_V3)),
        "tekken" => Rules { add_bos: true, ..whole_words(plain(cut(&[TEKKEN]))) },
        "gpt-4o" | "llama4" => plain(cut(&[GPT_4O])),
        _ => return None,
    })
}

/// Returns a `ByteLevel` component, which maps bytes to characters; `use_regex` also splits words as GPT-2 does.
fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

/// Returns a `Split` component that isolates matches of `pattern`.
fn split(pattern: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": false,
    })
}
