//! A tokenizer for tests.

use std::fs;

use flash_text::Tokenizer;
use serde_json::{Value, json};

/// Returns a tokenizer whose words are numbers.
pub(crate) fn tokenizer(vocab: usize) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let vocab: serde_json::Map<String, Value> = (0..vocab).map(|id| (id.to_string(), json!(id))).collect();
    let model = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "0" });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null, "model": model,
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::open(dir.path()).unwrap()
}
