//! Tokenizers against the ids and texts of the tokenizers package; mlx-lm's rules; invalid files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flash_text::{TextError, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

mod support;
use support::{FOLDER, dir_of, open};

#[derive(Deserialize)]
struct Goldens {
    texts: Vec<String>,
    cases: BTreeMap<String, Vec<Case>>,
}

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    decoded: String,
}

fn write(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}

/// Opens the tokenizer of a kind after a change to its `tokenizer.json`.
fn changed(kind: &str, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TextError> {
    let dir = dir_of(kind);
    let mut file = serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    change(&mut file);
    write(dir.path(), "tokenizer.json", &file);
    Tokenizer::open(dir.path())
}

#[test]
fn ids_and_texts_are_those_of_the_tokenizers_package() {
    let goldens = fs::read(Path::new(FOLDER).join("goldens.json")).unwrap();
    let goldens: Goldens = serde_json::from_slice(&goldens).unwrap();
    assert_eq!(goldens.cases.len(), 9);
    for (kind, cases) in &goldens.cases {
        let tokenizer = open(kind);
        assert_eq!(cases.len(), goldens.texts.len());
        for (text, case) in goldens.texts.iter().zip(cases) {
            assert_eq!(tokenizer.encode(text, true).unwrap(), case.ids, "{kind}: {text:?}");
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded, "{kind}: {text:?}");
        }
    }
}

#[test]
fn the_streamed_reader_builds_what_the_crate_builds() {
    for kind in ["gpt2", "llama3", "qwen", "o200k", "deepseek", "llama2", "gemma"] {
        let dir = dir_of(kind);
        let ours = Tokenizer::open(dir.path()).unwrap();
        let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        assert_eq!(ours.vocab_size(), theirs.get_vocab_size(true), "{kind}");
        for id in 0..u32::try_from(ours.vocab_size()).unwrap() {
            let token = theirs.id_to_token(id).unwrap();
            assert_eq!(ours.token_id(&token), Some(id), "{kind}: {token:?}");
            assert_eq!(ours.decode(&[id]).unwrap(), theirs.decode(&[id], true).unwrap(), "{kind}: {id}");
        }
    }
}

#[test]
fn special_tokens_are_added_on_request() {
    let tokenizer = open("llama3");
    let bos = tokenizer.token_id("<|bos|>").unwrap();
    let plain = tokenizer.encode("Hello", false).unwrap();
    assert_eq!(tokenizer.encode("Hello", true).unwrap(), [&[bos], plain.as_slice()].concat());
    assert_eq!(tokenizer.encode("", true).unwrap(), [bos]);
    assert!(tokenizer.encode("", false).unwrap().is_empty());
    assert_eq!(tokenizer.decode(&[bos]).unwrap(), "");
}

#[test]
fn a_prompt_that_starts_with_bos_gets_no_second_one() {
    let dir = dir_of("llama3");
    write(dir.path(), "tokenizer_config.json", &json!({"bos_token": "<|bos|>"}));
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let with_bos = tokenizer.encode_prompt("Hello").unwrap();
    assert_eq!(tokenizer.encode_prompt("<|bos|>Hello").unwrap(), with_bos);
    assert_eq!(tokenizer.encode_prompt(" <|bos|>").unwrap()[0], with_bos[0]);
    // Without a `bos_token` in the configuration the token is not recognised, and another is added.
    let tokenizer = open("llama3");
    let doubled = tokenizer.encode_prompt("<|bos|>Hello").unwrap();
    assert_eq!(doubled[1..], with_bos);
}

#[test]
fn truncation_and_padding_are_left_out() {
    for kind in ["gpt2", "unigram"] {
        let tokenizer = changed(kind, |file| {
            file["truncation"] =
                json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
            file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "<|bos|>"});
        });
        let text = "The quick brown fox";
        assert_eq!(tokenizer.unwrap().encode(text, true).unwrap(), open(kind).encode(text, true).unwrap());
    }
}

#[test]
fn ids_without_a_token_decode_to_nothing() {
    let tokenizer = open("gpt2");
    let ids = tokenizer.encode("ab", false).unwrap();
    let padded: Vec<u32> = ids.iter().flat_map(|&id| [id, 1_000_000, u32::MAX]).collect();
    assert_eq!(tokenizer.decode(&padded).unwrap(), "ab");
}

#[test]
fn eos_ids_are_those_that_mlx_lm_or_transformers_stop_at() {
    // generation_config.json, config.json, eos_token (id 1 is <|end|>), and the expected ids.
    let cases = [
        (json!(null), json!(null), json!(null), &[][..]),
        (json!(null), json!(null), json!("<|end|>"), &[1]),
        (json!(null), json!(5), json!(null), &[5]),
        (json!(null), json!(0), json!(null), &[0]),
        (json!(null), json!([9, 5]), json!("<|end|>"), &[1, 5, 9]),
        (json!([7, 3]), json!(5), json!("<|end|>"), &[1, 3, 7]),
        (json!(7), json!([5, 6]), json!({"content": "<|end|>"}), &[1, 7]),
        // mlx-lm ignores a single 0, and transformers does not.
        (json!(0), json!(5), json!(null), &[0, 5]),
        (json!([]), json!(5), json!(null), &[5]),
        (json!([0]), json!(5), json!(null), &[0]),
    ];
    for (generation, config, eos_token, wanted) in cases {
        let dir = dir_of("gpt2");
        if !generation.is_null() {
            write(dir.path(), "generation_config.json", &json!({"eos_token_id": generation}));
        }
        write(dir.path(), "config.json", &json!({"eos_token_id": config}));
        write(dir.path(), "tokenizer_config.json", &json!({"eos_token": eos_token}));
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        assert_eq!(tokenizer.eos_ids(), wanted, "{generation} {config} {eos_token}");
        assert!(wanted.iter().all(|&id| tokenizer.is_eos(id)) && !tokenizer.is_eos(2));
    }
}

#[test]
fn invalid_eos_ids_are_named() {
    for bad in [json!("</s>"), json!(-1), json!(1.5), json!([1, null]), json!(1u64 << 32), json!({})] {
        for name in ["config.json", "generation_config.json"] {
            let dir = dir_of("gpt2");
            write(dir.path(), name, &json!({"eos_token_id": bad}));
            let error = Tokenizer::open(dir.path()).unwrap_err();
            assert!(
                matches!(&error, TextError::Field { path, field, .. }
                    if path.ends_with(name) && field == "eos_token_id"),
                "{error}"
            );
            assert!(error.to_string().contains(&bad.to_string()), "{error}");
        }
    }
}

#[test]
fn a_missing_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TextError::NoTokenizer { path, instead: None } if *path == dir.path().join("tokenizer.json")),
        "{error}"
    );
}

#[test]
fn a_sentencepiece_tokenizer_is_named_with_a_way_to_convert_it() {
    for name in ["tokenizer.model", "tekken.json", "vocab.json"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), "x").unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, TextError::NoTokenizer { instead: Some(found), .. } if *found == name),
            "{error}"
        );
        assert!(error.to_string().contains(name) && error.to_string().contains("save_pretrained"), "{error}");
    }
}

#[test]
fn an_unreadable_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert!(matches!(&error, TextError::Read { path, .. } if path.ends_with("tokenizer.json")), "{error}");
}

#[test]
fn side_files_that_are_not_json_objects_are_named() {
    for name in ["tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"]
    {
        for bad in ["", "{", "[]", "7"] {
            let dir = dir_of("gpt2");
            fs::write(dir.path().join(name), bad).unwrap();
            let error = Tokenizer::open(dir.path()).unwrap_err();
            assert!(matches!(&error, TextError::Json { path, .. } if path.ends_with(name)), "{error}");
        }
    }
}

#[test]
fn a_tokenizer_cut_off_anywhere_is_an_error() {
    for kind in ["llama2", "gpt2", "unigram"] {
        let dir = dir_of(kind);
        let path = dir.path().join("tokenizer.json");
        let whole = fs::read(&path).unwrap();
        let end = whole.trim_ascii_end().len();
        for cut in (0..end).step_by(61).chain([end - 1]) {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = Tokenizer::open(dir.path()).unwrap_err();
            assert!(matches!(&error, TextError::Json { .. }), "{kind} cut at {cut}: {error}");
        }
    }
}

#[test]
fn merges_that_make_no_token_are_refused() {
    let long = "a".repeat(300);
    for (merge, hint) in [
        (json!(["a", "never a token"]), "never a token"),
        (json!(["nor this", "a"]), "nor this"),
        (json!(["z", "\u{100}z"]), "z"),
        (json!([long, "b"]), "merges[0]"),
        (json!("one"), "one"),
        (json!("one two three"), "one two three"),
        (json!("one  two"), "one  two"),
        (json!(["a"]), "two tokens"),
        (json!(["a", "b", "c"]), "two tokens"),
        (json!(7), "7"),
    ] {
        let error = changed("gpt2", |file| file["model"]["merges"][0] = merge.clone()).unwrap_err();
        assert!(error.to_string().contains(hint), "{merge}: {error}");
        assert!(error.to_string().contains("tokenizer.json"), "{merge}: {error}");
    }
}

#[test]
fn a_prefix_that_cuts_a_token_is_refused() {
    for prefix in ["é", "a prefix longer than any token of this tiny vocabulary"] {
        let error = changed("gpt2", |file| file["model"]["continuing_subword_prefix"] = json!(prefix));
        let error = error.unwrap_err();
        assert!(matches!(error, TextError::Field { .. } | TextError::Part { .. }), "{error}");
    }
}

#[test]
fn invalid_parts_are_named() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 9] = [
        ("normalizer", |file| file["normalizer"] = json!({"type": "Nothing"})),
        ("normalizer", |file| {
            file["normalizer"] = json!({"type": "Sequence", "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": "AAAA"}]});
        }),
        ("pre_tokenizer", |file| file["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "("}})),
        ("post_processor", |file| file["post_processor"] = json!([])),
        ("decoder", |file| file["decoder"] = json!({"type": "ByteLevel", "use_regex": 3})),
        ("version", |file| file["version"] = json!("2.0")),
        ("model.vocab", |file| file["model"]["vocab"] = json!(null)),
        ("model.merges", |file| file["model"]["merges"] = json!(null)),
        ("model", |file| file["model"]["dropout"] = json!(7.0)),
    ];
    for (part, change) in cases {
        let error = changed("gpt2", change).unwrap_err();
        let named = match &error {
            TextError::Part { field, .. } => *field,
            TextError::Field { field, .. } => field.as_str(),
            _ => "",
        };
        assert_eq!(named, part, "{error}");
    }
    for (change, hint) in [
        ((|file| file["model"]["vocab"]["a"] = json!(-1)) as Change, "-1"),
        (|file| file["added_tokens"][0]["content"] = json!(5), "5"),
        (|file| drop(file.as_object_mut().unwrap().remove("model")), "model"),
    ] {
        let error = changed("gpt2", change).unwrap_err();
        assert!(matches!(&error, TextError::Json { .. }) && error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn a_template_around_the_text_must_be_complete() {
    let changes: [fn(&mut Value); 3] = [
        |file| file["post_processor"]["special_tokens"] = json!({}),
        |file| file["post_processor"]["single"][1]["Sequence"]["id"] = json!("B"),
        |file| {
            let mut inner = file["post_processor"].take();
            inner["special_tokens"] = json!({});
            file["post_processor"] = json!({"type": "Sequence", "processors": [inner]});
        },
    ];
    for change in changes {
        let error = changed("llama3", change).unwrap_err();
        assert!(
            matches!(&error, TextError::Field { field, .. } if field == "post_processor.single"),
            "{error}"
        );
    }
}

#[test]
fn a_model_of_unknown_kind_is_refused() {
    let error = changed("gpt2", |file| file["model"]["type"] = json!("Oracle")).unwrap_err();
    assert!(matches!(&error, TextError::Part { field: "model", .. }), "{error}");
}

#[test]
fn older_files_without_a_model_type_are_read() {
    let untyped = changed("gpt2", |file| drop(file["model"].as_object_mut().unwrap().remove("type")));
    let text = "The quick brown fox, 42 times.";
    assert_eq!(untyped.unwrap().encode(text, true).unwrap(), open("gpt2").encode(text, true).unwrap());
}
