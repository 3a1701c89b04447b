//! Streaming detokenization: the concatenated pieces are the text, and no piece ends inside a character.

use flash_text::{Detokenizer, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

mod support;
use support::{dir_of, open};

const KINDS: [&str; 9] =
    ["gpt2", "llama3", "qwen", "o200k", "deepseek", "llama2", "gemma", "unigram", "wordpiece"];

/// Returns the streamed pieces; the last one is that of `finish`.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut pieces: Vec<String> =
        ids.iter().map(|&id| detokenizer.push(id).unwrap().unwrap_or_default()).collect();
    pieces.push(detokenizer.finish().unwrap());
    pieces
}

/// Opens the tokenizer of a kind with another decoder.
fn with_decoder(kind: &str, decoder: &serde_json::Value) -> Tokenizer {
    let dir = dir_of(kind);
    let path = dir.path().join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["decoder"] = decoder.clone();
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::open(dir.path()).unwrap()
}

/// Returns tokenizers with every decoder, each on a suitable vocabulary.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    use serde_json::json;
    let mut all: Vec<(String, Tokenizer)> =
        KINDS.iter().map(|kind| ((*kind).to_owned(), open(kind))).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let metaspace =
        |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let strip = |start, stop| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let of = |list: &[&serde_json::Value]| json!({"type": "Sequence", "decoders": list});
    for decoder in [
        json!(null),
        of(&[]),
        of(&[&replace, &fallback, &fuse, &strip(3, 0)]),
        of(&[&replace, &fuse, &strip(1, 0), &strip(1, 0)]),
        of(&[&replace, &fallback]),
        of(&[&fallback, &metaspace("always")]),
        of(&[&fallback, &metaspace("never")]),
        of(&[&metaspace("first"), &fuse]),
        of(&[&fuse, &replace]),
        of(&[&replace, &strip(1, 0)]),
        of(&[&fallback, &of(&[&fuse, &fuse])]),
        of(&[&replace, &bytes, &strip(1, 0)]),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    ] {
        all.push((format!("llama2 with {decoder}"), with_decoder("llama2", &decoder)));
    }
    all
}

fn assert_streams_as_decoded(name: &str, tokenizer: &Tokenizer, ids: &[u32]) {
    assert_eq!(stream(tokenizer, ids).concat(), tokenizer.decode(ids).unwrap(), "{name}: {ids:?}");
}

fn seeded() -> ProptestConfig {
    let persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    ProptestConfig { failure_persistence: persistence, ..ProptestConfig::default() }
}

#[test]
fn random_ids_stream_as_they_decode() {
    let tokenizers = tokenizers();
    // Includes ids slightly beyond the vocabulary: a model's output may be wider than its vocabulary.
    proptest!(seeded(), |(ids in prop::collection::vec(any::<prop::sample::Index>(), 0..60))| {
        for (name, tokenizer) in &tokenizers {
            let ids: Vec<u32> = ids.iter().map(|id| id.index(tokenizer.vocab_size() + 3) as u32).collect();
            assert_streams_as_decoded(name, tokenizer, &ids);
        }
    });
}

#[test]
fn random_bytes_stream_as_they_decode() {
    let tokenizers: Vec<_> = tokenizers().into_iter().filter(|(name, _)| !name.contains("gemma")).collect();
    // Mostly bytes of multi-byte characters, valid and invalid.
    let byte = prop_oneof![any::<u8>(), 0x80u8..0xc0, 0xe0u8..0xf5, Just(b'a'), Just(b' ')];
    proptest!(seeded(), |(bytes in prop::collection::vec(byte, 0..40), cuts in prop::collection::vec(any::<bool>(), 40))| {
        for (name, tokenizer) in &tokenizers {
            let mut ids = Vec::new();
            for (&byte, &cut) in bytes.iter().zip(&cuts) {
                ids.extend(byte_id(tokenizer, byte));
                if cut {
                    ids.extend(tokenizer.token_id("<|end|>"));
                }
            }
            assert_streams_as_decoded(name, tokenizer, &ids);
        }
    });
}

/// Returns the token of a byte, in byte-fallback and in byte-level vocabularies.
fn byte_id(tokenizer: &Tokenizer, byte: u8) -> Option<u32> {
    let level = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte) - 0x7f,
        0xad => 0x143,
    };
    let level = char::from_u32(level)?.to_string();
    tokenizer.token_id(&format!("<0x{byte:02X}>")).or_else(|| tokenizer.token_id(&level))
}

#[test]
fn random_texts_stream_as_they_decode() {
    let tokenizers = tokenizers();
    proptest!(seeded(), |(text in "(\\PC|[ a-z\n▁é你😀<>|]){0,40}")| {
        for (name, tokenizer) in &tokenizers {
            let ids = tokenizer.encode(&text, true).unwrap();
            assert_streams_as_decoded(name, tokenizer, &ids);
        }
    });
}

#[test]
fn a_character_is_held_back_until_it_is_complete() {
    let tokenizer = open("gpt2");
    let ids: Vec<u32> = "é😀!".bytes().map(|byte| byte_id(&tokenizer, byte).unwrap()).collect();
    assert_eq!(stream(&tokenizer, &ids), ["", "é", "", "", "", "😀", "!", ""]);
    assert_eq!(stream(&tokenizer, &ids[..5]), ["", "é", "", "", "", "\u{fffd}"]);
    // An incomplete character is replaced as soon as the next byte shows that it is invalid.
    let wrong = [ids[0], ids[6], ids[2], ids[2], ids[6]];
    assert_eq!(stream(&tokenizer, &wrong), ["", "\u{fffd}!", "", "\u{fffd}", "\u{fffd}!", ""]);
}

#[test]
fn a_run_of_byte_tokens_is_emitted_when_it_ends() {
    let tokenizer = open("llama2");
    let byte = |byte| byte_id(&tokenizer, byte).unwrap();
    let end = tokenizer.token_id("e").unwrap();
    let good = [byte(0xf0), byte(0x9f), byte(0x98), byte(0x80), end];
    assert_eq!(stream(&tokenizer, &good), ["", "", "", "", "😀e", ""]);
    let bad = [byte(0xc3), byte(0xa9), byte(0xff), end];
    assert_eq!(stream(&tokenizer, &bad), ["", "", "", "\u{fffd}\u{fffd}\u{fffd}e", ""]);
    assert_eq!(stream(&tokenizer, &[byte(b'\n')]), ["", "\n"]);
}

#[test]
fn the_space_that_sentencepiece_adds_is_stripped_once() {
    let tokenizer = open("llama2");
    let ids = tokenizer.encode("the dog  the", false).unwrap();
    let pieces = stream(&tokenizer, &ids);
    assert_eq!(pieces.concat(), "the dog  the");
    assert_eq!(pieces.iter().find(|piece| !piece.is_empty()).unwrap(), "t", "{pieces:?}");
    // Without the decoder's Strip the space stays.
    let ids = open("gemma").encode(" the", false).unwrap();
    assert_eq!(stream(&open("gemma"), &ids).concat(), " the");
}

#[test]
fn text_streams_as_it_comes() {
    for kind in KINDS.into_iter().filter(|kind| *kind != "wordpiece") {
        let tokenizer = open(kind);
        let ids = tokenizer.encode("The quick brown fox jumps over the lazy dog", false).unwrap();
        let pieces = stream(&tokenizer, &ids);
        let n_empty = pieces[..ids.len()].iter().filter(|piece| piece.is_empty()).count();
        // A lone first mark of a space is removed.
        assert!(n_empty <= 1, "{kind}: {pieces:?}");
        assert_eq!(pieces.last().unwrap(), "", "{kind}");
    }
}

#[test]
fn special_tokens_and_unknown_ids_give_nothing() {
    let tokenizer = open("gpt2");
    let mut detokenizer = Detokenizer::new(&tokenizer);
    for id in [tokenizer.token_id("<|end|>").unwrap(), 123_456, u32::MAX] {
        assert_eq!(detokenizer.push(id).unwrap(), None);
    }
    assert_eq!(detokenizer.finish().unwrap(), "");
}

#[test]
fn chosen_special_tokens_are_visible() {
    for kind in KINDS {
        let tokenizer = open(kind);
        let id = |token: &str| tokenizer.token_id(token).unwrap();
        let mut ids = tokenizer.encode("the dog", false).unwrap();
        ids.insert(0, id("<|user|>"));
        ids.push(id("<|end|>"));
        ids.push(id("<|user|>"));
        let mut detokenizer = Detokenizer::with_visible(&tokenizer, &["<|user|>", "no token"]);
        let mut text: String =
            ids.iter().map(|&id| detokenizer.push(id).unwrap().unwrap_or_default()).collect();
        text.push_str(&detokenizer.finish().unwrap());
        assert_eq!(text, format!("<|user|>{}<|user|>", tokenizer.decode(&ids).unwrap()), "{kind}");
    }
}

#[test]
fn a_visible_token_ends_an_incomplete_character() {
    let tokenizer = open("gpt2");
    let mut detokenizer = Detokenizer::with_visible(&tokenizer, &["<|end|>"]);
    assert_eq!(detokenizer.push(byte_id(&tokenizer, 0xc3).unwrap()).unwrap(), None);
    let end = tokenizer.token_id("<|end|>").unwrap();
    assert_eq!(detokenizer.push(end).unwrap().as_deref(), Some("\u{fffd}<|end|>"));
    assert_eq!(detokenizer.push(byte_id(&tokenizer, 0xa9).unwrap()).unwrap().as_deref(), Some("\u{fffd}"));
}
