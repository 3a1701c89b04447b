//! Models in unsupported formats, and the errors that name the command to convert them.

use std::fs;

use serde_json::json;

use crate::support::tiny::{Tensor, Tiny, shard, tensors};
use crate::support::{assert_refused, flash_cli, output};

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

#[test]
fn a_gguf_file_is_named_where_it_cannot_be_converted() {
    let tiny = Tiny::new(1);
    tiny.write("model.gguf", b"GGUF\x03\0\0\0");
    let file = tiny.path("model.gguf");
    for verb in [&["run", "--prompt", "5"][..], &["inspect"], &["plan"], &["chat"]] {
        let mut run = flash_cli(verb);
        run.arg("--model").arg(&file).env("FLASH_CACHE", tiny.path("cache")).write_stdin("");
        assert_refused(&run.output().unwrap(), 1, &["model.gguf: "]);
    }
    let command = format!("flash-cli convert --gguf {} --out DIR", file.display());
    let hf = flash_cli(["convert", "--out", "nowhere", "--hf"]).arg(&file).output().unwrap();
    assert_refused(&hf, 1, &["model.gguf: this is a GGUF file", &command]);
}

#[test]
fn weights_in_other_formats_are_named() {
    let table = [
        (&["b.gguf", "a-00001-of-00002.gguf"][..], "convert --gguf ", "/a-00001-of-00002.gguf --out DIR"),
        (&["pytorch_model.bin"], "/pytorch_model.bin: the weights are PyTorch files", "only safetensors"),
        (&["consolidated.00.pth"], "/consolidated.00.pth: the weights are PyTorch files", "only safetensors"),
        (&["weights.npz"], "/weights.npz: the weights are NumPy files", "only safetensors"),
    ];
    for (names, one, other) in table {
        let tiny = Tiny::new(1);
        fs::remove_file(tiny.path("model.safetensors")).unwrap();
        for name in names {
            tiny.write(name, b"");
        }
        assert_refused(
            &output(["run", "--model", tiny.dir(), "--prompt", "5"]),
            1,
            &[tiny.dir(), one, other],
        );
        // A repository of GGUF files has nothing else.
        fs::remove_file(tiny.path("config.json")).unwrap();
        assert_refused(&output(["inspect", "--model", tiny.dir()]), 1, &[tiny.dir(), one, other]);
    }
}

/// Returns a model whose matrices are replaced by the tensors of a quantization method.
fn quantized(parts: &[&str]) -> Tiny {
    let tiny = Tiny::new(1);
    let (matrices, mut others): (Vec<_>, Vec<_>) =
        tensors(1).into_iter().partition(|tensor| tensor.name.contains("_proj"));
    for Tensor { name, .. } in matrices {
        for part in parts {
            let name = name.replace(".weight", part);
            others.push(Tensor { name, dtype: "I32", shape: vec![8, 8], data: vec![0; 256] });
        }
    }
    tiny.write("model.safetensors", &shard(&others));
    tiny
}

#[test]
fn weights_quantized_by_other_programs_are_named() {
    let awq = &[".qweight", ".qzeros", ".scales"][..];
    let table = [
        (awq, json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "AWQ"),
        (awq, json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false}), "GPTQ"),
        (awq, json!(null), "AWQ or GPTQ"),
        (&[".weight", ".weight.quant_map"], json!({"quant_method": "bitsandbytes"}), "bitsandbytes"),
        (&[".weight"], json!({"quant_method": "fp8"}), "FP8"),
    ];
    for (parts, quantization, method) in table {
        let tiny = quantized(parts);
        tiny.set_config("quantization_config", quantization);
        let sentence =
            format!("{}: the weights are quantized with {method}, which is not supported", tiny.dir());
        for verb in [&["run", "--prompt", "5"][..], &["inspect"]] {
            let refused = output([verb, &["--model", tiny.dir()]].concat());
            assert_refused(&refused, 1, &[&sentence, "flash-cli convert --hf"]);
        }
    }
}

#[test]
fn supported_quantization_names_the_command_that_converts_it() {
    // FP8 as published by DeepSeek: one layer suffices for detection.
    let tiny = Tiny::new(1);
    tiny.set_config("quantization_config", json!({"quant_method": "fp8", "weight_block_size": [128, 128]}));
    tiny.set_config("model_type", json!("deepseek_v3"));
    let refused = output(["run", "--model", tiny.dir(), "--prompt", "5"]);
    assert_refused(&refused, 1, &["quantized with FP8", &format!("convert --hf {} --out OUT", tiny.dir())]);
}

#[test]
fn a_git_lfs_pointer_in_place_of_any_file_is_named() {
    let names = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    ];
    for name in names {
        let tiny = Tiny::new(1);
        tiny.write(name, POINTER);
        let chat = flash_cli(["chat", "--model", tiny.dir()]).write_stdin("5\n").output().unwrap();
        assert_refused(&chat, 1, &[&format!("{name}: this is a Git LFS pointer"), "git lfs pull"]);
        for verb in [
            &["run", "--prompt", "5", "--model"][..],
            &["inspect", "--model"],
            &["convert", "--out", "x", "--hf"],
        ] {
            let refused = output([verb, &[tiny.dir()]].concat());
            assert_refused(&refused, 1, &[&format!("{name}: this is a Git LFS pointer")]);
        }
    }
    let tiny = Tiny::new(1);
    tiny.write("model.gguf", POINTER);
    let file = tiny.path("model.gguf");
    for args in [&["convert", "--out", "x", "--gguf"][..], &["run", "--prompt", "5", "--model"]] {
        let refused = flash_cli(args).arg(&file).output().unwrap();
        assert_refused(&refused, 1, &["model.gguf: this is a Git LFS pointer"]);
    }
}
