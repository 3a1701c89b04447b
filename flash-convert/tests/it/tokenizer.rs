//! Converted tokenizers, loaded with the `tokenizers` library and checked against `goldens/tokenizers.json` (made by
//! `goldens/make_tokenizers.py` from `SentencePiece` and the published patterns), and rejected tokenizers.

use std::path::Path;

use flash_convert::gguf::BlockFormat;
use flash_convert::{ConvertError, SHARD_BYTES_DEFAULT, Target, TokenizerProblem};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::builder::{Builder, Typed};
use crate::converted::{json as read_json, open_error, run};
use crate::tiny::{Folder, Tiny};

fn golden() -> Value {
    serde_json::from_str(include_str!("../goldens/tokenizers.json")).unwrap()
}

fn with_vocab(n_vocab: usize) -> Builder {
    Tiny { n_vocab: n_vocab as u64, ..Tiny::new(BlockFormat::F16) }.build()
}

fn converted(gguf: &Builder) -> Folder {
    let folder = Folder::new(gguf);
    run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    folder
}

fn load(dir: &Path) -> Tokenizer {
    Tokenizer::from_file(dir.join("tokenizer.json")).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|item| item.as_u64().unwrap() as u32).collect()
}

/// Returns the tiny `SentencePiece` model of the golden as a GGUF file.
fn spm(spm: &Value) -> Builder {
    let tokens = strings(&spm["tokens"]);
    let scores: Vec<f32> =
        spm["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap() as f32).collect();
    let types: Vec<i32> = ids(&spm["types"]).into_iter().map(u32::cast_signed).collect();
    let id = |key: &str| Typed::u32(spm[key].as_u64().unwrap() as u32);
    let mut gguf = with_vocab(tokens.len());
    gguf.set("tokenizer.ggml.model", Typed::string("llama"))
        .set("tokenizer.ggml.tokens", Typed::strings(tokens))
        .set("tokenizer.ggml.scores", Typed::f32s(&scores))
        .set("tokenizer.ggml.token_type", Typed::i32s(&types))
        .set("tokenizer.ggml.bos_token_id", id("bos"))
        .set("tokenizer.ggml.eos_token_id", id("eos"))
        .set("tokenizer.ggml.unknown_token_id", id("unk"));
    gguf
}

#[test]
fn sentencepiece_models_give_the_ids_that_sentencepiece_gives() {
    let golden = golden();
    let folder = converted(&spm(&golden["spm"]));
    let tokenizer = load(&folder.out());
    let bos = golden["spm"]["bos"].as_u64().unwrap() as u32;
    for case in golden["spm"]["cases"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let plain = tokenizer.encode(text, false).unwrap();
        assert_eq!(plain.get_ids(), ids(&case[1]), "{text:?}");
        assert_eq!(tokenizer.decode(plain.get_ids(), false).unwrap(), text);
        let special = tokenizer.encode(text, true).unwrap();
        assert_eq!(special.get_ids(), [vec![bos], ids(&case[1])].concat(), "{text:?}");
    }
    let config = read_json(&folder.out().join("tokenizer_config.json"));
    assert_eq!(config["add_bos_token"], true);
    assert_eq!(config["unk_token"], "<unk>");
    let added = config["added_tokens_decoder"].as_object().unwrap();
    let is_special: Vec<_> = added.values().map(|token| (&token["content"], &token["special"])).collect();
    let wanted = [("<unk>", true), ("<s>", true), ("</s>", true), ("<|ctl|>", true), ("<|user|>", false)];
    assert_eq!(is_special.len(), wanted.len());
    for (content, special) in wanted {
        assert!(is_special.contains(&(&json!(content), &json!(special))), "{content}");
    }
}

#[test]
fn runs_of_spaces_and_line_ends_are_tokens_where_sentencepiece_has_them() {
    let golden = golden();
    let mut gguf = spm(&golden["gemma"]);
    gguf.set("tokenizer.ggml.add_space_prefix", Typed::bool(false));
    let tokenizer = load(&converted(&gguf).out());
    for case in golden["gemma"]["cases"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoding.get_ids(), ids(&case[1]), "{text:?} is {:?}", encoding.get_tokens());
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
    }
}

#[test]
fn without_a_space_prefix_text_starts_as_it_is() {
    let golden = golden();
    let mut gguf = spm(&golden["spm"]);
    gguf.set("tokenizer.ggml.add_space_prefix", Typed::bool(false));
    let tokenizer = load(&converted(&gguf).out());
    let encoding = tokenizer.encode("the fox", false).unwrap();
    assert_ne!(encoding.get_tokens()[0].chars().next(), Some('▁'));
    assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), "the fox");
}

/// Returns the characters to which byte-level tokenizers map bytes: printable ones map to themselves, others start at
/// 256.
fn byte_alphabet() -> Vec<char> {
    let mut next = 256;
    let spell = |byte: u32| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
        _ => {
            next += 1;
            next - 1
        }
    };
    (0..256).map(spell).map(|code| char::from_u32(code).unwrap()).collect()
}

#[test]
fn byte_level_models_cut_words_as_the_published_patterns_do() {
    let alphabet: Vec<String> = byte_alphabet().into_iter().map(String::from).collect();
    let mut tokens: Vec<&str> = vec!["<|b|>", "<|e|>"];
    tokens.extend(alphabet.iter().map(String::as_str));
    let types: Vec<i32> = [3, 3].into_iter().chain([1; 256]).collect();
    for (pre, cases) in golden()["splits"].as_object().unwrap() {
        let mut gguf = with_vocab(tokens.len());
        gguf.set("tokenizer.ggml.pre", Typed::string(pre))
            .set("tokenizer.ggml.tokens", Typed::strings(tokens.iter().copied()))
            .set("tokenizer.ggml.token_type", Typed::i32s(&types))
            .set("tokenizer.ggml.merges", Typed::strings([]));
        let tokenizer = load(&converted(&gguf).out());
        for case in cases.as_array().unwrap() {
            let text = case[0].as_str().unwrap();
            let encoding = tokenizer.encode(text, false).unwrap();
            // Without merges every byte is a token, and tokens of one word have one word id.
            let mut words: Vec<Vec<u8>> = Vec::new();
            let mut last = None;
            for (id, word) in encoding.get_ids().iter().zip(encoding.get_word_ids()) {
                if words.is_empty() || *word != last {
                    words.push(Vec::new());
                    last = *word;
                }
                words.last_mut().unwrap().push((id - 2) as u8);
            }
            let words: Vec<String> = words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect();
            assert_eq!(words, strings(&case[1]), "{pre}: {text:?}");
            assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text, "{pre}");
        }
        let with_special = tokenizer.encode("<|e|>!", true).unwrap();
        let exclamation = 2 + u32::from(b'!');
        let begins = ["llama-bpe", "falcon3", "lfm2", "pixtral", "tekken"].contains(&pre.as_str());
        let wanted = if begins { vec![0, 1, exclamation] } else { vec![1, exclamation] };
        assert_eq!(with_special.get_ids(), wanted, "{pre}");
    }
}

#[test]
fn begin_and_end_tokens_are_added_as_the_keys_say() {
    let mut gguf = with_vocab(8);
    gguf.set("tokenizer.ggml.add_bos_token", Typed::bool(true))
        .set("tokenizer.ggml.add_eos_token", Typed::bool(true))
        .set("tokenizer.ggml.eot_token_id", Typed::u32(0))
        .set("tokenizer.ggml.eom_token_id", Typed::u32(1))
        .set("tokenizer.ggml.padding_token_id", Typed::u32(1))
        .set("tokenizer.chat_template", Typed::string("{{ messages }}"));
    let folder = converted(&gguf);
    let tokenizer = load(&folder.out());
    assert_eq!(tokenizer.encode("ab", true).unwrap().get_ids(), [0, 4, 1]);
    let pair = tokenizer.encode(("ab", "a"), true).unwrap();
    assert_eq!(pair.get_ids(), [0, 4, 1, 0, 2, 1]);
    assert_eq!(pair.get_type_ids(), [0, 0, 0, 1, 1, 1]);
    let config = read_json(&folder.out().join("tokenizer_config.json"));
    assert_eq!(config["add_bos_token"], true);
    assert_eq!(config["add_eos_token"], true);
    assert_eq!(config["chat_template"], "{{ messages }}");
    let generation = read_json(&folder.out().join("generation_config.json"));
    assert_eq!(generation, json!({"bos_token_id": 0, "eos_token_id": [1, 0], "pad_token_id": 1}));
}

fn problem(key: &str, value: Typed) -> (&'static str, TokenizerProblem) {
    match open_error(with_vocab(8).set(key, value)) {
        ConvertError::Tokenizer { key, problem, .. } => (key, problem),
        other => panic!("{other}"),
    }
}

#[test]
fn unknown_tokenizers_are_refused_with_the_known_ones() {
    for (key, known) in [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.pre", "qwen2")] {
        let (found_key, problem) = problem(key, Typed::string("mystery"));
        let TokenizerProblem::Unknown { found, known: list } = problem else { panic!("{problem}") };
        assert_eq!((found_key, found.as_str()), (key, "mystery"));
        assert!(list.contains(known));
    }
}

#[test]
fn words_that_are_tokens_are_taken_whole_where_the_published_tokenizer_ignores_merges() {
    for (pre, is_whole) in [("llama-bpe", true), ("tekken", true), ("qwen2", false), ("gpt-4o", false)] {
        let mut gguf = with_vocab(8);
        gguf.set("tokenizer.ggml.pre", Typed::string(pre));
        let tokenizer = read_json(&converted(&gguf).out().join("tokenizer.json"));
        assert_eq!(tokenizer["model"]["ignore_merges"], is_whole, "{pre}");
    }
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let tokens = "tokenizer.ggml.tokens";
    let duplicate = TokenizerProblem::Duplicate { text: "a".to_owned(), first: 2, second: 4 };
    let found = problem(tokens, Typed::strings(["<|b|>", "<|e|>", "a", "b", "a"]));
    assert_eq!(found, (tokens, duplicate));

    let (key, found) = problem(tokens, Typed::strings(["1", "2", "3", "4", "5", "6", "7", "8", "9"]));
    assert_eq!((key, found), (tokens, TokenizerProblem::MoreThanEmbeddings { wanted: 8, found: 9 }));

    let types = "tokenizer.ggml.token_type";
    let length = TokenizerProblem::Length { wanted: 5, found: 4 };
    assert_eq!(problem(types, Typed::i32s(&[3, 3, 1, 1])), (types, length));
    let unknown = TokenizerProblem::TokenType { id: 1, found: 7 };
    assert_eq!(problem(types, Typed::i32s(&[3, 7, 1, 1, 1])), (types, unknown));

    let merges = "tokenizer.ggml.merges";
    for merge in ["ab", "a  b", "a c", "b a", ""] {
        let (key, found) = problem(merges, Typed::strings(["a b", merge]));
        let wanted = TokenizerProblem::Merge { idx: 1, text: merge.to_owned() };
        assert_eq!((key, found), (merges, wanted));
    }
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id"] {
        let wanted = TokenizerProblem::NoSuchToken { id: 5, n_tokens: 5 };
        assert_eq!(problem(key, Typed::u32(5)), (key, wanted));
    }
    let golden = golden();
    let mut gguf = spm(&golden["spm"]);
    gguf.set("tokenizer.ggml.scores", Typed::f32s(&[1.0]));
    assert!(matches!(
        open_error(&gguf),
        ConvertError::Tokenizer {
            key: "tokenizer.ggml.scores",
            problem: TokenizerProblem::Length { .. },
            ..
        }
    ));
}

#[test]
fn a_begin_token_that_is_added_must_be_named() {
    let mut gguf = with_vocab(8);
    gguf.set("tokenizer.ggml.add_bos_token", Typed::bool(true)).remove("tokenizer.ggml.bos_token_id");
    let message = open_error(&gguf).to_string();
    assert!(message.ends_with("metadata key \"tokenizer.ggml.bos_token_id\" is missing"), "{message}");
}
