//! Added tokens and end-of-sequence tokens from files other than `tokenizer.json`, and invalid such files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flash_text::{ChatTemplate, IdConflict, TextError, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

mod support;
use support::{FOLDER, dir_of, open};

/// The first free id of the tiny `gpt2` tokenizer.
const FREE: u32 = 400;

#[derive(Deserialize)]
struct Goldens {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    files: BTreeMap<String, Value>,
    eos_id: Option<u32>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

fn write(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}

/// Opens the `gpt2` tokenizer with other files in its directory.
fn with(files: &[(&str, Value)]) -> Result<Tokenizer, TextError> {
    let dir = dir_of("gpt2");
    for (name, value) in files {
        write(dir.path(), name, value);
    }
    Tokenizer::open(dir.path())
}

fn decoder(tokens: &[(&str, &str)]) -> Value {
    let tokens =
        tokens.iter().map(|(id, content)| ((*id).to_owned(), json!({"content": content, "special": true})));
    json!({"added_tokens_decoder": Value::Object(tokens.collect())})
}

#[test]
fn tokens_of_other_files_are_added_as_by_transformers() {
    let goldens = fs::read(Path::new(FOLDER).join("added.json")).unwrap();
    let goldens: Goldens = serde_json::from_slice(&goldens).unwrap();
    assert!(goldens.cases.len() > 50);
    let mut wrong = Vec::new();
    for case in &goldens.cases {
        let dir = dir_of(&case.kind);
        for (name, value) in &case.files {
            write(dir.path(), name, value);
        }
        let what = format!("{} with {:?}", case.kind, case.files);
        let tokenizer = Tokenizer::open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        if tokenizer.eos_ids() != case.eos_id.as_slice() {
            wrong.push(format!("{what}: eos {:?}, not {:?}", tokenizer.eos_ids(), case.eos_id));
        }
        for (text, (ids, decoded)) in goldens.texts.iter().zip(case.ids.iter().zip(&case.decoded)) {
            let found = tokenizer.encode(text, true).unwrap();
            if found != *ids {
                wrong.push(format!("{what}: {text:?} is {found:?}, not {ids:?}"));
            } else if tokenizer.decode(ids).unwrap() != *decoded {
                wrong.push(format!("{what}: {ids:?} decodes to {:?}", tokenizer.decode(ids)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_eos_token_that_only_the_config_has_is_one_token_and_stops() {
    assert_eq!(open("gpt2").vocab_size(), FREE as usize);
    let mut config = decoder(&[("400", "<|im_end|>")]);
    config["eos_token"] = json!("<|im_end|>");
    let tokenizer = with(&[("tokenizer_config.json", config)]).unwrap();
    assert_eq!(tokenizer.eos_ids(), [FREE]);
    assert_eq!(tokenizer.encode("<|im_end|>", false).unwrap(), [FREE]);
    let older = [
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"})),
        ("added_tokens.json", json!({"<|im_end|>": FREE})),
    ];
    assert_eq!(with(&older).unwrap().eos_ids(), [FREE]);
}

#[test]
fn an_eos_token_without_an_id_is_refused_by_name() {
    let config = json!({"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"});
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let error = with(&[(name, config.clone()), ("config.json", json!({"eos_token_id": 5}))]).unwrap_err();
        assert!(
            matches!(&error, TextError::NoEosId { path, field, token }
                if path.ends_with(name) && field == "eos_token" && token == "<|im_end|>"),
            "{error}"
        );
    }
    // An empty `eos_token` is accepted.
    assert!(with(&[("tokenizer_config.json", json!({"eos_token": null}))]).unwrap().eos_ids().is_empty());
}

#[test]
fn files_that_contradict_each_other_on_an_id_are_refused() {
    let conflict = |files: &[(&str, Value)]| match with(files).unwrap_err() {
        TextError::TokenId { path, token, id, conflict } => {
            assert!(path.ends_with(files[0].0), "{}", path.display());
            (token, id, conflict)
        }
        other => panic!("{other}"),
    };
    let config = |tokens: &[(&str, &str)]| [("tokenizer_config.json", decoder(tokens))];
    let has = |id| IdConflict::HasOther { id };
    let taken = |by: &str| IdConflict::Taken { by: by.to_owned() };
    assert_eq!(conflict(&config(&[("400", "<|end|>")])), ("<|end|>".to_owned(), 400, has(1)));
    assert_eq!(conflict(&config(&[("1", "<x>")])), ("<x>".to_owned(), 1, taken("<|end|>")));
    assert_eq!(conflict(&config(&[("400", "<x>"), ("401", "<x>")])), ("<x>".to_owned(), 401, has(400)));
    let gap = IdConflict::Gap { next: Some(401) };
    assert_eq!(conflict(&config(&[("400", "<x>"), ("402", "<y>")])), ("<y>".to_owned(), 402, gap));
    let older = [("added_tokens.json", json!({"<x>": 400, "<y>": 400}))];
    assert_eq!(conflict(&older), ("<y>".to_owned(), 400, taken("<x>")));
}

#[test]
fn ids_that_tokenizer_json_gives_its_own_tokens_are_kept_or_refused() {
    for kind in ["gpt2", "unigram"] {
        let dir = dir_of(kind);
        let path = dir.path().join("tokenizer.json");
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let last = file["added_tokens"].as_array_mut().unwrap().last_mut().unwrap();
        last["id"] = json!(499);
        let token = last["content"].as_str().unwrap().to_owned();
        fs::write(&path, file.to_string()).unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, TextError::TokenId { token: found, id: 499, .. } if *found == token),
            "{kind}: {error}"
        );
    }
}

#[test]
fn tokens_of_the_wrong_form_are_named_with_their_field() {
    for (name, bad, field) in [
        ("tokenizer_config.json", json!({"added_tokens_decoder": []}), "added_tokens_decoder"),
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"x": {"content": "a"}}}),
            "added_tokens_decoder.x",
        ),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"400": "a"}}), "added_tokens_decoder.400"),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"400": {}}}), "added_tokens_decoder.400"),
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"400": {"content": "a", "lstrip": 1}}}),
            "added_tokens_decoder.400.lstrip",
        ),
        ("tokenizer_config.json", json!({"additional_special_tokens": "a"}), "additional_special_tokens"),
        (
            "tokenizer_config.json",
            json!({"additional_special_tokens": ["a", 1]}),
            "additional_special_tokens[1]",
        ),
        ("special_tokens_map.json", json!({"pad_token": 3}), "pad_token"),
        ("added_tokens.json", json!({"<x>": "400"}), "<x>"),
        ("added_tokens.json", json!({"<x>": -1}), "<x>"),
    ] {
        let error = with(&[(name, bad.clone())]).unwrap_err();
        assert!(
            matches!(&error, TextError::Field { path, field: found, .. } if path.ends_with(name) && found == field),
            "{bad}: {error}"
        );
    }
}

#[test]
fn tokens_that_models_name_themselves_are_variables_of_templates() {
    let dir = dir_of("gpt2");
    let config = json!({
        "chat_template": "{{ image_token }}|{{ boi_token }}|{{ eos_token }}",
        "eos_token": "<|end|>",
        "image_token": "<|image|>",
        "add_bos_token": true,
        "extra_special_tokens": {"boi_token": "<|boi|>"},
    });
    write(dir.path(), "tokenizer_config.json", &config);
    let message = flash_text::Message::new("user", "x");
    let prompt = ChatTemplate::open(dir.path()).unwrap().render(&[message], true).unwrap();
    assert_eq!(prompt, "<|image|>|<|boi|>|<|end|>");
}

#[test]
fn non_finite_numbers_are_accepted_in_every_file() {
    let dir = dir_of("gpt2");
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let text = r#"{"time_step_limit": [0.0, Infinity], "low": -Infinity, "x": NaN, "eos_token_id": 1}"#;
        fs::write(dir.path().join(name), text).unwrap();
    }
    assert_eq!(Tokenizer::open(dir.path()).unwrap().eos_ids(), [1]);
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(Tokenizer::open(dir.path()).unwrap().eos_ids(), [1]);
}

#[test]
fn an_lfs_pointer_in_place_of_a_file_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n";
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let dir = dir_of("gpt2");
        fs::write(dir.path().join(name), pointer).unwrap();
        let error = match name {
            "chat_template.jinja" => ChatTemplate::open(dir.path()).map(drop).unwrap_err(),
            _ => Tokenizer::open(dir.path()).map(drop).unwrap_err(),
        };
        assert!(matches!(&error, TextError::LfsPointer { path, .. } if path.ends_with(name)), "{error}");
        let message = error.to_string();
        assert!(message.contains(name) && message.contains("this is a Git LFS pointer"), "{message}");
    }
}

#[test]
fn an_error_in_tokenizer_json_names_its_field_and_line() {
    let dir = dir_of("gpt2");
    let path = dir.path().join("tokenizer.json");
    let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (pointer, bad, field) in [
        ("/added_tokens/1/content", json!(5), "added_tokens[1]"),
        ("/model/vocab/a", json!(-1), "model.vocab.a"),
        ("/model/fuse_unk", json!("no"), "model.fuse_unk"),
    ] {
        let mut file = file.clone();
        *file.pointer_mut(pointer).unwrap() = bad;
        fs::write(&path, serde_json::to_string_pretty(&file).unwrap()).unwrap();
        let message = Tokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("{field}: ")) && message.contains(" at line "), "{message}");
    }
}
