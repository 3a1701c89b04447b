//! Architectures other than `llama`, checked against the parameter names of mlx-lm and of the Python package gguf
//! (`goldens/make_names.py`).

use std::collections::BTreeMap;

use flash_convert::gguf::BlockFormat;
use flash_convert::{ConvertError, Target};
use serde_json::{Value, json};

use crate::builder::{Builder, Typed};
use crate::converted::{Converted, convert, open_error};
use crate::tiny::{Random, Tiny, blocks};

/// A model of the golden: its config.json, its GGUF file and the expected parameters.
struct Case {
    config: Value,
    gguf: Builder,
    parameters: BTreeMap<String, Vec<f32>>,
}

fn cases() -> Vec<Case> {
    let golden: Value = serde_json::from_str(include_str!("../goldens/names.json")).unwrap();
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

fn of(architecture: &str) -> Case {
    let key = format!("{architecture}.block_count");
    let is_it = |case: &Case| case.gguf.metadata.iter().any(|(name, _)| *name == key);
    cases().into_iter().find(is_it).unwrap()
}

fn case(golden: &Value) -> Case {
    let config = &golden["config"];
    let architecture = golden["architecture"].as_str().unwrap();
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |field: &str| Typed::u32(config[field].as_u64().unwrap() as u32);
    let float = |value: &Value| Typed::f32(value.as_f64().unwrap() as f32);

    // Takes only the tokenizer of the tiny `llama` model.
    let mut gguf = Tiny::new(BlockFormat::F32).build();
    gguf.tensors.clear();
    gguf.metadata.retain(|(key, _)| key.starts_with("tokenizer."));
    gguf.set("general.architecture", Typed::string(architecture))
        .set(&key("rope.freq_base"), float(&config["rope_theta"]))
        .set(&key("attention.layer_norm_rms_epsilon"), float(&config["rms_norm_eps"]));
    for (name, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
    ] {
        gguf.set(&key(name), number(field));
    }
    if config.get("sliding_window").is_some() {
        gguf.set(&key("attention.sliding_window"), number("sliding_window"));
    }
    if let Some(scaling) = config.get("rope_scaling") {
        gguf.set(&key("rope.scaling.type"), Typed::string(scaling["rope_type"].as_str().unwrap()))
            .set(&key("rope.scaling.factor"), float(&scaling["factor"]));
    }

    let mut random = Random::new(5);
    let mut parameters = BTreeMap::new();
    for line in golden["parameters"].as_array().unwrap() {
        let mut words = line.as_str().unwrap().splitn(3, ' ');
        let [name, gguf_name, shape] = [(); 3].map(|()| words.next().unwrap());
        let mut dims: Vec<u64> = serde_json::from_str(shape).unwrap();
        dims.reverse();
        let data = blocks(&mut random, BlockFormat::F32, dims.iter().product());
        let stored = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        // llama.cpp's converter adds 1 to the norms of Gemma; in MLX the model adds it at run time.
        let greater_by = if architecture == "gemma3" && name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        parameters.insert(name.to_owned(), stored.map(|value| value - greater_by).collect());
        gguf.tensor(gguf_name, &dims, 0, data);
    }
    Case { config: config.clone(), gguf, parameters }
}

#[track_caller]
fn assert_meant(case: &Case, model: &Converted) {
    let model_type = &case.config["model_type"];
    let names: Vec<_> = model.tensors.keys().collect();
    assert_eq!(names, case.parameters.keys().collect::<Vec<_>>(), "{model_type}");
    for (name, wanted) in &case.parameters {
        assert_eq!(&model.values(name), wanted, "{model_type}: {name}");
    }
}

#[test]
fn parameters_have_the_names_of_mlx_lm_and_the_values_of_the_file() {
    for case in cases() {
        let model = convert(&case.gguf, Target::Keep);
        assert_meant(&case, &model);
        assert!(model.report.tensors.iter().all(flash_convert::PlannedTensor::is_lossless));
    }
}

#[test]
fn the_config_has_the_fields_of_mlx_lm() {
    for case in cases() {
        let model = convert(&case.gguf, Target::Keep);
        for (field, wanted) in case.config.as_object().unwrap() {
            assert_eq!(&model.config[field], wanted, "{}: {field}", case.config["model_type"]);
        }
    }
}

#[test]
fn gemma_of_62_layers_scales_scores_by_the_hidden_size_for_each_head() {
    let mut case = of("gemma3");
    let layer: Vec<_> = case.gguf.tensors.iter().filter(|t| t.name.starts_with("blk.1.")).cloned().collect();
    for layer_idx in 2..62 {
        case.gguf.tensors.extend(layer.iter().cloned().map(|mut tensor| {
            tensor.name = tensor.name.replace("blk.1.", &format!("blk.{layer_idx}."));
            tensor
        }));
    }
    case.gguf.set("gemma3.block_count", Typed::u32(62));
    assert_eq!(convert(&case.gguf, Target::Keep).config["query_pre_attn_scalar"], json!(64 / 4));
}

#[test]
fn gemma_norms_lose_the_added_1_for_every_target() {
    let case = of("gemma3");
    let quantize = Target::Quantize { bits: 8, group_size: 64 };
    for target in [quantize, Target::Dense(flash_kernels::FloatType::F16)] {
        let model = convert(&case.gguf, target);
        let name = "model.layers.1.self_attn.q_norm.weight";
        for (found, wanted) in model.values(name).iter().zip(&case.parameters[name]) {
            assert!((found - wanted).abs() <= 1e-3, "{wanted} became {found}");
        }
    }
}

#[test]
fn parameters_of_other_architectures_are_refused() {
    let mut qwen2 = of("qwen2").gguf;
    qwen2.tensors.retain(|tensor| tensor.name != "blk.1.attn_k.bias");
    let error = open_error(&qwen2);
    assert!(matches!(&error, ConvertError::MissingTensor { tensor, .. } if tensor == "blk.1.attn_k.bias"));

    let mut qwen3 = of("qwen3").gguf;
    qwen3.tensor("blk.0.attn_q.bias", &[128], 0, vec![0; 512]);
    let error = open_error(&qwen3);
    assert!(matches!(&error, ConvertError::UnknownTensor { tensor, .. } if tensor == "blk.0.attn_q.bias"));
}

#[test]
fn settings_that_cannot_be_expressed_are_refused_by_their_own_key() {
    for (architecture, name, value) in [
        ("qwen2", "attention.sliding_window", Typed::u32(128)),
        ("qwen2", "attention.key_length", Typed::u32(32)),
        ("qwen3", "attention.sliding_window", Typed::u32(128)),
        ("gemma3", "final_logit_softcapping", Typed::f32(30.0)),
        ("gemma3", "attention.sliding_window", Typed::u32(0)),
    ] {
        let key = format!("{architecture}.{name}");
        let error = open_error(of(architecture).gguf.set(&key, value));
        assert!(matches!(&error, ConvertError::Unsupported { key: found, .. } if *found == key), "{error}");
    }
}
