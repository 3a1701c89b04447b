//! Invalid models and prompts, and the one-line error for each.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::tiny::{CONTEXT_TOKENS, Tensor, Tiny, shard, shard_of, tensors};
use crate::support::{assert_refused, flash_cli, floor_mib, output, stderr};

fn run(tiny: &Tiny) -> Output {
    output(["run", "--model", tiny.dir(), "--prompt", "5 6"])
}

#[test]
fn missing_directory_is_named() {
    let tiny = Tiny::new(1);
    let dir = format!("{}/nowhere", tiny.dir());
    assert_refused(
        &output(["run", "--prompt", "5", "--model", &dir]),
        1,
        &[&dir, "No such file or directory, and not a model id (ORG/NAME"],
    );
}

#[test]
fn an_empty_name_is_no_model() {
    assert_refused(&output(["run", "--prompt", "5", "--model", ""]), 1, &["the name of the model is empty"]);
}

/// The tokenizer has a token that the model lacks.
#[test]
fn a_prompt_with_an_invalid_token_is_rejected_even_with_max_tokens_0() {
    let tiny = Tiny::new(1);
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(tiny.path("tokenizer.json")).unwrap()).unwrap();
    tokenizer["model"]["vocab"]["more"] = json!(64);
    tiny.write_json("tokenizer.json", &tokenizer);
    for max_tokens in ["0", "1"] {
        let run = output(["run", "--model", tiny.dir(), "--prompt", "5 more", "--max-tokens", max_tokens]);
        assert_refused(&run, 1, &["token 64 is outside of the model's vocabulary of 64"]);
    }
}

#[test]
fn a_file_is_no_model_directory() {
    let tiny = Tiny::new(1);
    let file = format!("{}/config.json", tiny.dir());
    assert_refused(&output(["run", "--prompt", "5", "--model", &file]), 1, &[&file, "not a directory"]);
}

#[test]
fn missing_config_is_named() {
    let tiny = Tiny::new(1);
    fs::remove_file(tiny.path("config.json")).unwrap();
    assert_refused(&run(&tiny), 1, &["config.json: No such file or directory"]);
}

#[test]
fn config_that_is_not_json_is_named_with_the_place() {
    let tiny = Tiny::new(1);
    tiny.write("config.json", b"{\n\"model_type\": llama}");
    assert_refused(&run(&tiny), 1, &["config.json: ", "line 2"]);
}

#[test]
fn unknown_model_type_lists_the_known_ones() {
    let tiny = Tiny::new(1);
    tiny.set_config("model_type", json!("hyena"));
    assert_refused(&run(&tiny), 1, &["config.json: model_type \"hyena\" is not supported", "llama"]);
}

#[test]
fn truncated_shard_is_named() {
    let tiny = Tiny::new(1);
    let whole = shard(&tensors(1));
    tiny.write("model.safetensors", &whole[..whole.len() - 100]);
    assert_refused(&run(&tiny), 1, &["model.safetensors: "]);
}

#[test]
fn header_longer_than_the_file_is_refused() {
    let tiny = Tiny::new(1);
    let mut bytes = shard(&tensors(1));
    let too_long = bytes.len() as u64 + 1;
    bytes[..8].copy_from_slice(&too_long.to_le_bytes());
    tiny.write("model.safetensors", &bytes);
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "header", &too_long.to_string()]);
}

#[test]
fn header_of_more_than_100_mb_is_refused() {
    let tiny = Tiny::new(1);
    tiny.write("model.safetensors", &100_000_001u64.to_le_bytes());
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "header", "100000001"]);
}

#[test]
fn overlapping_tensors_are_named() {
    let tiny = Tiny::new(1);
    let header = r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}"#;
    tiny.write("model.safetensors", &shard_of(header, &[0; 12]));
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "\"b\""]);
}

#[test]
fn tensor_beyond_the_file_is_named() {
    let tiny = Tiny::new(1);
    let header = r#"{"far":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#;
    tiny.write("model.safetensors", &shard_of(header, &[0; 4]));
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "\"far\""]);
}

#[test]
fn tensor_twice_in_a_shard_is_named() {
    let tiny = Tiny::new(1);
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
    tiny.write("model.safetensors", &shard_of(header, &[0; 8]));
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "\"a\""]);
}

/// File name of a shard that is one of several.
const SHARD: &str = "model-00001-of-00002.safetensors";

/// Returns a model whose shard has a name that allows further shards.
fn sharded() -> Tiny {
    let tiny = Tiny::new(1);
    fs::rename(tiny.path("model.safetensors"), tiny.path(SHARD)).unwrap();
    tiny
}

#[test]
fn tensor_in_two_shards_is_named_with_both() {
    let tiny = sharded();
    tiny.write("model-more.safetensors", &shard(&tensors(1)[..1]));
    assert_refused(&run(&tiny), 1, &["model-more.safetensors", SHARD, "model.embed_tokens.weight"]);
}

#[test]
fn index_that_names_a_missing_shard_is_refused() {
    let tiny = sharded();
    let index = json!({ "weight_map": { "model.norm.weight": "gone.safetensors" } });
    tiny.write_json("model.safetensors.index.json", &index);
    assert_refused(&run(&tiny), 1, &["model.safetensors.index.json", "gone.safetensors"]);
}

#[test]
fn index_that_names_a_missing_tensor_is_refused() {
    let tiny = sharded();
    let index = json!({ "weight_map": { "model.nothing": SHARD } });
    tiny.write_json("model.safetensors.index.json", &index);
    assert_refused(&run(&tiny), 1, &["model.safetensors.index.json", "\"model.nothing\"", SHARD]);
}

#[test]
fn missing_tensor_is_named() {
    let tiny = Tiny::new(1);
    tiny.set_config("num_hidden_layers", json!(2));
    assert_refused(&run(&tiny), 1, &[tiny.dir(), "\"model.layers.1.", "config.json"]);
}

/// Returns a model with its last tensor, `model.norm.weight`, replaced.
fn with_norm(shape: &[u64], dtype: &'static str, n_bytes: usize) -> Tiny {
    let tiny = Tiny::new(1);
    let mut tensors = tensors(1);
    let Tensor { name, .. } = tensors.pop().unwrap();
    tensors.push(Tensor { name, dtype, shape: shape.to_vec(), data: vec![0; n_bytes] });
    tiny.write("model.safetensors", &shard(&tensors));
    tiny
}

#[test]
fn shape_that_disagrees_with_the_config_is_named() {
    let tiny = with_norm(&[32], "F32", 128);
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "\"model.norm.weight\" has shape [32]", "[64]"]);
}

#[test]
fn dtype_that_disagrees_with_the_config_is_named() {
    let tiny = with_norm(&[64], "I32", 256);
    assert_refused(&run(&tiny), 1, &["model.safetensors: ", "\"model.norm.weight\" is I32"]);
}

#[test]
fn missing_tokenizer_is_named() {
    let tiny = Tiny::new(1);
    fs::remove_file(tiny.path("tokenizer.json")).unwrap();
    assert_refused(&run(&tiny), 1, &["tokenizer.json: no such file"]);
}

#[test]
fn missing_chat_template_is_named() {
    let tiny = Tiny::new(1);
    fs::remove_file(tiny.path("chat_template.jinja")).unwrap();
    let run = output(["run", "--model", tiny.dir(), "--prompt", "5", "--chat"]);
    assert_refused(&run, 1, &[tiny.dir(), "chat_template.jinja"]);
}

#[test]
fn empty_prompts_are_refused() {
    let tiny = Tiny::new(1);
    tiny.write("empty", b"");
    let empty = tiny.path("empty");
    let given = output(["run", "--model", tiny.dir(), "--prompt", ""]);
    let in_a_file = output(["run", "--model", tiny.dir(), "--prompt-file", empty.to_str().unwrap()]);
    let piped = flash_cli(["run", "--model", tiny.dir()]).write_stdin("").output().unwrap();
    let only_spaces = output(["run", "--model", tiny.dir(), "--prompt", "  "]);
    for output in [given, in_a_file, piped, only_spaces] {
        assert_refused(&output, 1, &["the prompt is empty"]);
    }
}

#[test]
fn a_prompt_longer_than_the_trained_context_runs_with_a_warning() {
    let tiny = Tiny::new(1);
    let prompt = "5 ".repeat(CONTEXT_TOKENS + 1);
    let args = ["run", "--model", tiny.dir(), "--max-tokens", "3", "--json"];
    let run = flash_cli(args).write_stdin(prompt).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&report["prompt_tokens"], &report["generated_tokens"]), (&2049.into(), &3.into()));
    let warning = stderr(&run);
    assert!(warning.contains("2052 tokens") && warning.contains("trained for 2048"), "{warning}");
}

#[test]
fn unreadable_files_are_named() {
    let tiny = Tiny::new(1);
    let prompt_file = tiny.path("nothing.txt");
    let run_file = output(["run", "--model", tiny.dir(), "--prompt-file", prompt_file.to_str().unwrap()]);
    assert_refused(&run_file, 1, &["nothing.txt: No such file or directory"]);

    // A directory can be opened, but not read: a file that root cannot read either.
    for name in ["tokenizer.json", "model.safetensors", "config.json"] {
        fs::remove_file(tiny.path(name)).unwrap();
        fs::create_dir(tiny.path(name)).unwrap();
        assert_refused(&run(&tiny), 1, &[&format!("{name}: ")]);
    }
}

#[test]
fn prompt_file_that_is_no_text_is_named() {
    let tiny = Tiny::new(1);
    let bytes = b"5 6 \xff\xfe";
    tiny.write("prompt", bytes);
    let file = tiny.path("prompt");
    let run = output(["run", "--model", tiny.dir(), "--prompt-file", file.to_str().unwrap()]);
    assert_refused(&run, 1, &[file.to_str().unwrap(), ": not UTF-8 text: invalid byte 0xff at offset 4"]);
    let piped = flash_cli(["run", "--model", tiny.dir()]).write_stdin(bytes).output().unwrap();
    assert_refused(&piped, 1, &["standard input: not UTF-8 text: invalid byte 0xff at offset 4"]);
}

/// Truncates the shard between two turns of a chat.
#[test]
fn file_truncated_while_running_ends_with_the_place_of_the_read() {
    let tiny = Tiny::new(160);
    let args = ["chat", "--model", tiny.dir(), "--io", "pread", "--ctx", "256", "--max-tokens", "2"];
    let ram = format!("{}MiB", floor_mib(args) + 1);
    let mut child = Command::new(env!("CARGO_BIN_EXE_flash-cli"))
        .args(args)
        .args(["--ram", &ram])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "5 6").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut answer = String::new();
    stdout.read_line(&mut answer).unwrap();
    assert_ne!(answer.trim(), "", "the first turn is answered");

    let shard = fs::File::options().write(true).open(tiny.path("model.safetensors")).unwrap();
    shard.set_len(shard.metadata().unwrap().len() / 2).unwrap();
    // The program may be gone before it has read the line.
    let _ = writeln!(stdin, "7");
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output).lines().last().unwrap();
    for part in
        ["error: tensor \"model.layers.", "model.safetensors: read at ", " wanted ", "the file ends early"]
    {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}
