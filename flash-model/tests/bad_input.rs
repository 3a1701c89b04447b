//! Invalid model directories: each is rejected with a typed error that names file and field.

use std::fs;
use std::path::Path;

use flash_io::{IoError, IoMode, parse_python_json};
use flash_model::{Checkpoint, Model, ModelError};
use serde_json::{Value, json};
use tempfile::TempDir;

const HIDDEN: u64 = 32;
const VOCAB: u64 = 50;

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": 1, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": VOCAB,
        "tie_word_embeddings": true,
    })
}

/// Returns name, dtype and shape of every tensor that [`config`] requires.
fn tensors() -> Vec<(String, &'static str, Vec<u64>)> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    vec![
        ("model.embed_tokens.weight".into(), "F32", vec![VOCAB, HIDDEN]),
        ("model.norm.weight".into(), "F32", vec![HIDDEN]),
        (layer("input_layernorm"), "F32", vec![HIDDEN]),
        (layer("post_attention_layernorm"), "F32", vec![HIDDEN]),
        (layer("self_attn.q_proj"), "F32", vec![HIDDEN, HIDDEN]),
        (layer("self_attn.k_proj"), "F32", vec![HIDDEN / 2, HIDDEN]),
        (layer("self_attn.v_proj"), "F32", vec![HIDDEN / 2, HIDDEN]),
        (layer("self_attn.o_proj"), "F32", vec![HIDDEN, HIDDEN]),
        (layer("mlp.gate_proj"), "F32", vec![64, HIDDEN]),
        (layer("mlp.up_proj"), "F32", vec![64, HIDDEN]),
        (layer("mlp.down_proj"), "F32", vec![HIDDEN, 64]),
    ]
}

fn write(dir: &Path, config: &Value, tensors: &[(String, &str, Vec<u64>)]) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "U8" => 1,
            "F16" => 2,
            _ => 4,
        };
        let end = offset + shape.iter().product::<u64>() * width;
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + offset as usize, 0);
    fs::write(dir.join("model.safetensors"), file).unwrap();
}

fn open(dir: &Path) -> Result<Model, ModelError> {
    Model::open(Checkpoint::open(dir, IoMode::Pread)?)
}

/// Returns the error of a model whose configuration has `value` at `field`.
fn error_with(field: &str, value: Value) -> ModelError {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config[field] = value;
    write(dir.path(), &config, &tensors());
    open(dir.path()).unwrap_err()
}

fn model_with(
    change: impl FnOnce(&mut Vec<(String, &'static str, Vec<u64>)>),
) -> (TempDir, Result<Model, ModelError>) {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tensors();
    change(&mut tensors);
    write(dir.path(), &config(), &tensors);
    let model = open(dir.path());
    (dir, model)
}

#[test]
fn the_valid_base_model_opens() {
    let (_dir, model) = model_with(|_| ());
    let model = model.unwrap();
    assert_eq!(model.bundles().next().unwrap().name, "model.layers.0");
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    let error = open(Path::new("/no/such/model")).unwrap_err();
    assert!(
        matches!(&error, ModelError::File { path, .. } if path == Path::new("/no/such/model")),
        "{error:?}"
    );
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = open(file.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::Io(IoError::NotADirectory { path }) if path == file.path()),
        "{error:?}"
    );
}

#[test]
fn a_directory_without_configuration_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(&error, ModelError::File { path, .. } if path.ends_with("config.json")), "{error:?}");
}

#[test]
fn a_configuration_that_is_no_json_names_line_and_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{\n\"model_type\" \"llama\"}").unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("line 2"), "{error}");
}

#[test]
fn an_unknown_model_type_lists_the_known() {
    let error = error_with("model_type", json!("gpt5"));
    assert!(matches!(&error, ModelError::UnknownModelType { given, .. } if given == "gpt5"), "{error:?}");
    assert!(error.to_string().contains("llama"), "{error}");
}

#[test]
fn a_configuration_without_model_type_names_the_field() {
    let error = error_with("model_type", Value::Null);
    assert!(matches!(error, ModelError::ConfigField { ref field, .. } if field == "model_type"), "{error:?}");
}

#[test]
fn a_missing_field_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.as_object_mut().unwrap().remove("intermediate_size");
    write(dir.path(), &config, &tensors());
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("intermediate_size"), "{error}");
}

#[test]
fn sizes_that_no_model_can_have_are_refused_by_field() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-32)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(0)),
        ("vocab_size", json!(0)),
        ("intermediate_size", json!(-1)),
        ("head_dim", json!(15)),
        ("head_dim", json!(0)),
        ("rope_theta", json!(0.0)),
        ("layer_types", json!(["chunked_attention"])),
    ] {
        let error = error_with(field, value.clone());
        assert!(
            matches!(&error, ModelError::ConfigField { field: named, .. } if named == field),
            "{field} = {value}: {error:?}"
        );
    }
}

#[test]
fn a_size_beyond_the_range_is_refused() {
    let error = error_with("hidden_size", json!(5_000_000_000_u64));
    assert!(matches!(&error, ModelError::ConfigField { field, .. } if field == "hidden_size"), "{error:?}");
}

#[test]
fn a_huge_size_is_refused_by_the_shape_of_the_first_tensor() {
    let error = error_with("intermediate_size", json!(i32::MAX));
    assert!(matches!(error, ModelError::TensorShape { .. }), "{error:?}");
}

#[test]
fn rope_scaling_that_is_not_supported_is_named() {
    let error = error_with("rope_scaling", json!({ "rope_type": "ntk", "factor": 4.0 }));
    assert!(
        matches!(&error, ModelError::ConfigField { field, given, .. } if field == "rope_scaling" && given == "ntk")
    );
    let error = error_with("rope_scaling", json!({ "type": "linear" }));
    assert!(
        matches!(error, ModelError::ConfigField { ref field, .. } if field == "rope_scaling.factor"),
        "{error:?}"
    );
}

#[test]
fn yarn_without_valid_frequencies_is_refused_by_field() {
    for (field, value, named) in [
        ("factor", json!(null), "rope_scaling.factor"),
        ("factor", json!(0.0), "rope_scaling.factor"),
        ("original_max_position_embeddings", json!(0), "rope_scaling.original_max_position_embeddings"),
        ("beta_fast", json!(-32), "rope_scaling.beta_fast"),
        ("beta_slow", json!(0), "rope_scaling.beta_slow"),
        ("mscale", json!(-100.0), "rope_scaling.mscale"),
        ("mscale_all_dim", json!(-100.0), "rope_scaling.mscale"),
    ] {
        let mut scaling = json!({ "rope_type": "yarn", "factor": 4.0 });
        scaling[field] = value.clone();
        let error = error_with("rope_scaling", scaling);
        assert!(
            matches!(&error, ModelError::ConfigField { field, .. } if field == named),
            "{field} = {value}: {error:?}"
        );
    }
}

#[test]
fn quantization_that_is_not_supported_is_named() {
    for value in [
        json!({ "group_size": 64, "bits": 7 }),
        json!({ "group_size": 16, "bits": 4 }),
        json!({ "group_size": 64, "bits": 4, "mode": "mxfp4" }),
        json!({ "group_size": 32, "bits": 4, "mode": "mxfp8" }),
        json!({ "group_size": 32, "bits": 4, "mode": "nvfp4" }),
        json!({ "group_size": 32, "bits": 4, "mode": "nf4" }),
        json!({ "group_size": 32, "bits": 4, "mode": 4 }),
        json!({ "group_size": 32, "bits": 4, "model.embed_tokens": { "group_size": 7, "bits": 4 } }),
        json!(4),
    ] {
        let error = error_with("quantization", value.clone());
        assert!(
            matches!(error, ModelError::ConfigField { ref field, .. } if field == "quantization"),
            "{value}: {error:?}"
        );
    }
}

#[test]
fn quantized_weights_without_a_configuration_are_named() {
    let (_dir, model) = model_with(|tensors| {
        tensors.push(("model.layers.0.mlp.up_proj.scales".into(), "F32", vec![64, 1]));
    });
    assert!(
        matches!(model.unwrap_err(), ModelError::ConfigField { ref field, .. } if field == "quantization")
    );
}

#[test]
fn a_missing_tensor_is_named() {
    let (dir, model) = model_with(|tensors| tensors.retain(|(name, ..)| !name.contains("v_proj")));
    let error = model.unwrap_err();
    let wanted = "model.layers.0.self_attn.v_proj.weight";
    assert!(matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == wanted), "{error:?}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_shape_that_disagrees_with_the_configuration_names_both() {
    let (_dir, model) = model_with(|tensors| tensors[8].2 = vec![65, HIDDEN]);
    let error = model.unwrap_err();
    let ModelError::TensorShape { path, tensor, shape, expected } = &error else { panic!("{error:?}") };
    assert!(path.ends_with("model.safetensors"));
    assert_eq!(tensor, "model.layers.0.mlp.gate_proj.weight");
    assert_eq!((shape.as_slice(), expected.as_slice()), (&[65, HIDDEN][..], &[64, HIDDEN][..]));
}

#[test]
fn biases_of_another_dtype_than_their_scales_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["quantization"] = json!({ "group_size": 32, "bits": 4 });
    let mut tensors = tensors();
    tensors[8] = ("model.layers.0.mlp.gate_proj.weight".into(), "U32", vec![64, HIDDEN / 8]);
    tensors.push(("model.layers.0.mlp.gate_proj.scales".into(), "F32", vec![64, HIDDEN / 32]));
    tensors.push(("model.layers.0.mlp.gate_proj.biases".into(), "F16", vec![64, HIDDEN / 32]));
    write(dir.path(), &config, &tensors);
    let error = open(dir.path()).unwrap_err();
    let wanted = "model.layers.0.mlp.gate_proj.biases";
    assert!(matches!(&error, ModelError::TensorDtype { tensor, .. } if tensor == wanted), "{error:?}");
    assert!(error.to_string().contains("the dtype of the scales"), "{error}");
}

#[test]
fn a_dtype_that_no_weight_can_have_is_named() {
    let (_dir, model) = model_with(|tensors| tensors[8].1 = "I32");
    let error = model.unwrap_err();
    assert!(
        matches!(&error, ModelError::TensorDtype { tensor, .. } if tensor.contains("gate_proj")),
        "{error:?}"
    );
    assert!(error.to_string().contains("I32") && error.to_string().contains("BF16"), "{error}");
}

#[test]
fn scales_of_another_mode_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    let path = "model.layers.0.mlp.gate_proj";
    config["quantization"] =
        json!({ "group_size": 32, "bits": 8, path: { "group_size": 32, "bits": 4, "mode": "mxfp4" } });
    let mut tensors = tensors();
    tensors[8] = (format!("{path}.weight"), "U32", vec![64, HIDDEN / 8]);
    tensors.push((format!("{path}.scales"), "F32", vec![64, HIDDEN / 32]));
    write(dir.path(), &config, &tensors);
    let error = open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::TensorDtype { tensor, expected: "U8", .. } if *tensor == format!("{path}.scales")),
        "{error:?}"
    );
}

#[test]
fn what_a_family_cannot_have_is_named() {
    let longrope = json!({ "type": "longrope", "long_factor": [1.0, 2.0] });
    for (model_type, field, value, named) in [
        ("qwen3", "rope_theta", json!(null), "rope_theta"),
        ("qwen2", "rope_theta", json!(-1.0), "rope_theta"),
        ("smollm3", "no_rope_layers", json!([1, 0]), "no_rope_layers"),
        ("smollm3", "no_rope_layer_interval", json!(0), "no_rope_layer_interval"),
        ("phi3", "partial_rotary_factor", json!(0.05), "partial_rotary_factor"),
        ("phi3", "partial_rotary_factor", json!(1.5), "partial_rotary_factor"),
        ("phi3", "rope_scaling", json!({ "type": "yarn" }), "rope_scaling.factor"),
        ("phi3", "rope_scaling", longrope, "rope_scaling.long_factor"),
        ("gpt_oss", "sliding_window", json!(0), "sliding_window"),
        ("gpt_oss", "layer_types", json!(["linear_attention"]), "layer_types"),
        ("gpt_oss", "layer_types", json!([]), "layer_types"),
        ("gpt_oss", "num_experts_per_tok", json!(129), "num_experts_per_tok"),
        ("gpt_oss", "num_local_experts", json!(0), "num_experts_per_tok"),
        ("gpt_oss", "swiglu_limit", json!(-7.0), "swiglu_limit"),
        ("gemma3_text", "sliding_window", json!(0), "sliding_window"),
        ("gemma3_text", "sliding_window_pattern", json!(0), "sliding_window_pattern"),
        ("gemma3_text", "query_pre_attn_scalar", json!(0.0), "query_pre_attn_scalar"),
        ("gemma3_text", "rope_local_base_freq", json!(0.0), "rope_local_base_freq"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config["model_type"] = json!(model_type);
        config[field] = value.clone();
        write(dir.path(), &config, &tensors());
        let error = open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, ModelError::ConfigField { field, .. } if field == named),
            "{model_type}, {field} = {value}: {error:?}"
        );
    }
}

/// Returns the error of a `gpt_oss` of two experts in its published format, after `change` to the tensors of its
/// experts.
fn published(change: impl FnOnce(&mut Vec<(String, &'static str, Vec<u64>)>)) -> ModelError {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["model_type"] = json!("gpt_oss");
    config["num_local_experts"] = json!(2);
    config["num_experts_per_tok"] = json!(1);
    let mut experts = Vec::new();
    for (name, rows, columns) in [("gate_up_proj", 2 * 64, HIDDEN), ("down_proj", HIDDEN, 64)] {
        let path = format!("model.layers.0.mlp.experts.{name}");
        experts.push((format!("{path}_blocks"), "U8", vec![2, rows, columns / 32, 16]));
        experts.push((format!("{path}_scales"), "U8", vec![2, rows, columns / 32]));
        experts.push((format!("{path}_bias"), "F32", vec![2, rows]));
    }
    change(&mut experts);
    write(dir.path(), &config, &[tensors(), experts].concat());
    open(dir.path()).unwrap_err()
}

#[test]
fn experts_in_blocks_that_are_invalid_are_named() {
    // Valid experts: the missing tensors come after them.
    let error = published(|_| ());
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if !tensor.contains("experts")),
        "{error:?}"
    );
    let error = published(|experts| experts[0].2[3] = 15);
    let ModelError::TensorShape { tensor, expected, .. } = &error else { panic!("{error:?}") };
    assert_eq!(tensor, "model.layers.0.mlp.experts.gate_up_proj_blocks");
    assert_eq!(expected.as_slice(), [2, 128, HIDDEN / 32, 16]);
    let error = published(|experts| experts[3].1 = "F32");
    assert!(matches!(&error, ModelError::TensorDtype { expected: "U8", .. }), "{error:?}");
    let error = published(|experts| drop(experts.remove(5)));
    let wanted = "model.layers.0.mlp.experts.down_proj_bias";
    assert!(matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == wanted), "{error:?}");
}

#[test]
fn a_fused_tensor_of_too_few_rows_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["model_type"] = json!("phi3");
    config["tie_word_embeddings"] = json!(true);
    let mut tensors = tensors();
    // Enough rows for queries and keys, but not for values.
    let wanted = "model.layers.0.self_attn.qkv_proj.weight";
    tensors.push((wanted.to_owned(), "F32", vec![HIDDEN + HIDDEN / 2, HIDDEN]));
    tensors.push(("model.layers.0.mlp.gate_up_proj.weight".to_owned(), "F32", vec![128, HIDDEN]));
    write(dir.path(), &config, &tensors);
    let error = open(dir.path()).unwrap_err();
    let ModelError::TensorShape { tensor, expected, .. } = &error else { panic!("{error:?}") };
    assert_eq!((tensor.as_str(), expected.as_slice()), (wanted, &[2 * HIDDEN, HIDDEN][..]));
}

#[test]
fn experts_in_one_tensor_that_are_not_as_configured_are_named() {
    let path = "model.language_model.layers.0.mlp";
    for (field, value, wanted) in [
        ("moe_intermediate_size", 20, "experts.down_proj"),
        ("moe_intermediate_size", i32::MAX, "experts.down_proj"),
        ("num_experts", 7, "experts.down_proj"),
        ("shared_expert_intermediate_size", 48, "shared_expert.down_proj.weight"),
    ] {
        let error = tiny_with("qwen3_5_moe-trained", field, json!(value)).unwrap_err();
        let named = match &error {
            ModelError::TensorShape { tensor, .. } => tensor.as_str(),
            _ => "",
        };
        assert_eq!(named, format!("{path}.{wanted}"), "{error:?}");
    }
}

/// Opens the committed `deepseek_v3` with `value` at `field`.
fn deepseek_with(field: &str, value: Value) -> Result<Model, ModelError> {
    tiny_with("deepseek_v3", field, value)
}

/// Opens a committed model with `value` at `field`.
fn tiny_with(name: &str, field: &str, value: Value) -> Result<Model, ModelError> {
    let mut config = tiny_config(name);
    config[field] = value;
    tiny_of(name, &config)
}

/// Reads the configuration of a committed model. A number that JSON cannot represent gets the tag that mlx-lm's
/// converter writes.
fn tiny_config(name: &str) -> Value {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name);
    parse_python_json(&fs::read_to_string(from.join("config.json")).unwrap()).unwrap()
}

/// Opens a committed model with another configuration.
fn tiny_of(name: &str, config: &Value) -> Result<Model, ModelError> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    open(dir.path())
}

#[test]
fn multi_token_prediction_layers_are_ignored() {
    let error = deepseek_with("num_hidden_layers", json!(2)).unwrap_err();
    assert!(error.to_string().contains("num_hidden_layers is 2"), "{error}");
    let mut config = tiny_config("deepseek_v3");
    config["num_hidden_layers"] = json!(2);
    config["num_nextn_predict_layers"] = json!(1);
    let model = tiny_of("deepseek_v3", &config).unwrap();
    let names: Vec<_> = model.bundles().map(|bundle| bundle.name).collect();
    assert!(names.iter().any(|name| name == "model.layers.1"), "{names:?}");
    assert!(!names.iter().any(|name| name == "model.layers.2"), "{names:?}");
}

#[test]
fn invalid_groups_of_experts_are_named() {
    for (wanted, value) in [
        ("n_group", json!(0)),
        ("n_group", json!(3)),
        ("n_group", json!(8)),
        ("topk_group", json!(0)),
        ("topk_group", json!(5)),
        ("num_experts_per_tok", json!(9)),
        ("topk_method", json!("greedy")),
        ("n_shared_experts", json!(-1)),
    ] {
        let error = deepseek_with(wanted, value).unwrap_err();
        assert!(matches!(&error, ModelError::ConfigField { field, .. } if field == wanted), "{error:?}");
    }
}

#[test]
fn invalid_sizes_of_latent_attention_are_named() {
    for field in ["kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"] {
        for value in [json!(0), json!(-8), json!(i32::MAX - 1)] {
            let error = deepseek_with(field, value.clone()).unwrap_err();
            let is_named = match &error {
                // Their sum is the length of a key, which is checked first.
                ModelError::ConfigField { field: got, .. } => got == field || got == "head_dim",
                _ => false,
            };
            assert!(is_named, "{field} {value}: {error:?}");
        }
    }
    let error = deepseek_with("qk_rope_head_dim", json!(7)).unwrap_err();
    assert!(matches!(error, ModelError::ConfigField { .. }), "{error:?}");
    let error = deepseek_with("kv_lora_rank", json!(18)).unwrap_err();
    assert!(matches!(error, ModelError::TensorShape { .. }), "{error:?}");
}

#[test]
fn invalid_recurrent_layers_are_refused_by_field() {
    let moe = "nemotron_h-moe";
    for (family, field, value) in [
        ("nemotron_h", "hybrid_override_pattern", json!("M-X*")),
        ("nemotron_h", "hybrid_override_pattern", json!("M--M")),
        ("nemotron_h", "hybrid_override_pattern", json!("")),
        ("nemotron_h-biases", "layers_block_type", json!(["mamba", "gru"])),
        ("nemotron_h", "n_groups", json!(3)),
        ("nemotron_h", "n_groups", json!(0)),
        ("nemotron_h", "conv_kernel", json!(1)),
        ("nemotron_h", "mamba_head_dim", json!(i32::MAX)),
        ("nemotron_h", "time_step_limit", json!([0.5, 0.1])),
        (moe, "moe_latent_size", json!(0)),
        (moe, "n_routed_experts", json!(null)),
        (moe, "moe_intermediate_size", json!(0)),
        (moe, "num_experts_per_tok", json!(9)),
        (moe, "routed_scaling_factor", json!(0.0)),
        ("qwen3_5", "full_attention_interval", json!(0)),
        ("qwen3_5", "full_attention_interval", json!(4)),
        ("qwen3_5", "linear_num_key_heads", json!(3)),
        ("qwen3_5", "linear_conv_kernel_dim", json!(1)),
        ("qwen3_5", "linear_key_head_dim", json!(-1)),
        ("qwen2_moe", "moe_intermediate_size", json!(-1)),
        ("qwen2_moe", "shared_expert_intermediate_size", json!(0)),
        ("qwen2_moe", "num_experts_per_tok", json!(9)),
        ("qwen3_moe", "moe_intermediate_size", json!(0)),
        ("qwen3_5_moe", "num_experts_per_tok", json!(0)),
        ("qwen3_5_moe", "num_experts_per_tok", json!(9)),
        ("qwen3_5_moe", "moe_intermediate_size", json!(0)),
        ("qwen3_5_moe", "shared_expert_intermediate_size", json!(-1)),
        ("qwen3_next", "partial_rotary_factor", json!(0.05)),
        ("qwen3_next", "rope_theta", json!(-1.0)),
        ("qwen3_next", "linear_value_head_dim", json!(0)),
        ("qwen3_next", "num_experts_per_tok", json!(9)),
    ] {
        let error = tiny_with(family, field, value.clone()).unwrap_err();
        assert!(
            matches!(&error, ModelError::ConfigField { field: named, .. } if named == field),
            "{family}: {field} = {value}: {error:?}"
        );
    }
}

/// Returns the error of a model with one more tensor.
fn error_with_tensor(name: &str, dtype: &'static str, shape: &[u64], field: Option<(&str, Value)>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    if let Some((field, value)) = field {
        config[field] = value;
    }
    let mut tensors = tensors();
    tensors.push((name.to_owned(), dtype, shape.to_vec()));
    write(dir.path(), &config, &tensors);
    open(dir.path()).unwrap_err().to_string()
}

#[test]
fn unused_tensors_are_named_with_the_field_that_would_use_them() {
    for (name, shape, named) in [
        ("model.layers.0.self_attn.q_proj.bias", &[HIDDEN][..], "attention_bias"),
        ("model.layers.0.mlp.up_proj.bias", &[64], "mlp_bias"),
        ("model.layers.0.self_attn.q_norm.weight", &[16], "model_type"),
        ("model.layers.1.input_layernorm.weight", &[HIDDEN], "num_hidden_layers is 1"),
        ("model.layers.0.mlp.gate_proj.global_scale", &[1], "scale for all of their groups"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, HIDDEN], "merged"),
        ("model.layers.0.post_feedforward_layernorm.weight", &[HIDDEN], "post_feedforward_layernorm"),
        ("score.weight", &[2, HIDDEN], "score.weight"),
    ] {
        let error = error_with_tensor(name, "F32", shape, None);
        assert!(error.contains(name) && error.contains(named), "{name}: {error}");
    }
    let error =
        error_with_tensor("lm_head.bias", "F32", &[VOCAB], Some(("tie_word_embeddings", json!(null))));
    assert!(error.contains("lm_head.bias"), "{error}");
}

#[test]
fn tensors_of_other_parts_than_the_text_model_pass() {
    let (_dir, model) = model_with(|tensors| {
        for name in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "vision_tower.blocks.0.attn.qkv.weight",
            "model.visual.patch_embed.proj.bias",
            "multi_modal_projector.linear.weight",
            "audio_tower.conv.weight",
            "mtp.layers.0.eh_proj.weight",
            // The head of a model with tied embeddings.
            "lm_head.weight",
        ] {
            tensors.push((name.to_owned(), "F32", vec![4]));
        }
    });
    model.unwrap();
}

#[test]
fn an_existing_head_is_used_unless_the_configuration_ties_it() {
    let head = ("lm_head.weight".to_owned(), "F32", vec![VOCAB, HIDDEN]);
    let heads = |tie: Value, has_head: bool| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config["tie_word_embeddings"] = tie;
        let mut tensors = tensors();
        tensors.extend(has_head.then(|| head.clone()));
        write(dir.path(), &config, &tensors);
        open(dir.path()).map(|model| model.bundles().last().unwrap().name)
    };
    let own = "lm_head[0..50]";
    let tied = "model.embed_tokens[0..50]";
    assert_eq!(heads(json!(null), true).unwrap(), own);
    assert_eq!(heads(json!(null), false).unwrap(), tied);
    assert_eq!(heads(json!(false), true).unwrap(), own);
    assert_eq!(heads(json!(true), true).unwrap(), tied);
    assert!(
        matches!(heads(json!(false), false), Err(ModelError::MissingTensor { tensor, .. }) if tensor == "lm_head.weight")
    );
}

#[test]
fn a_matrix_of_another_format_than_the_default_is_known_by_its_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["quantization"] = json!({ "group_size": 32, "bits": 4 });
    let mut tensors = tensors();
    // Eight bits, which the configuration does not list, and four, its default.
    for (idx, bits, name) in [(8, 8, "gate_proj"), (9, 4, "up_proj")] {
        let path = format!("model.layers.0.mlp.{name}");
        tensors[idx] = (format!("{path}.weight"), "U32", vec![64, HIDDEN * bits / 32]);
        tensors.push((format!("{path}.scales"), "F32", vec![64, HIDDEN / 32]));
        tensors.push((format!("{path}.biases"), "F32", vec![64, HIDDEN / 32]));
    }
    write(dir.path(), &config, &tensors);
    open(dir.path()).unwrap();
    // A shape that fits no format is still an error.
    tensors[8].2 = vec![64, 7];
    write(dir.path(), &config, &tensors);
    assert!(matches!(open(dir.path()).unwrap_err(), ModelError::TensorShape { .. }));
}

#[test]
fn sizes_that_a_family_has_defaults_for_may_be_missing() {
    for (name, wanted) in [("mixtral", 1e-5), ("gpt_oss", 1e-5), ("deepseek_v3", 1e-6)] {
        let mut config = tiny_config(name);
        config.as_object_mut().unwrap().remove("rms_norm_eps").expect("committed models say it");
        tiny_of(name, &config).unwrap_or_else(|error| panic!("{name}, {wanted}: {error}"));
    }
    let mut config = tiny_config("qwen3_moe");
    let n_experts = config.as_object_mut().unwrap().remove("num_experts").unwrap();
    config["num_local_experts"] = n_experts;
    tiny_of("qwen3_moe", &config).unwrap();
    config["num_experts"] = json!(3);
    let error = tiny_of("qwen3_moe", &config).unwrap_err().to_string();
    assert!(error.contains("num_local_experts"), "{error}");
}

#[test]
fn sizes_that_overflow_or_exceed_memory_are_refused_first() {
    for (field, value) in [
        ("num_hidden_layers", json!(1_000_000_000_u64)),
        ("num_hidden_layers", json!(u64::MAX / 2)),
        ("num_attention_heads", json!(2_147_483_646_u32)),
    ] {
        let error = error_with(field, value.clone());
        assert!(
            // The hidden size divided by that many heads is zero.
            matches!(&error, ModelError::ConfigField { field: named, .. } if named == field || named == "head_dim"),
            "{field} = {value}: {error:?}"
        );
    }
    let error = tiny_with("head-dim", "num_attention_heads", json!(2_147_483_646_u32)).unwrap_err();
    assert!(
        matches!(&error, ModelError::ConfigField { field, .. } if field == "num_attention_heads"),
        "{error:?}"
    );
}

#[test]
fn a_head_that_a_family_never_ties_is_used_whatever_the_configuration_says() {
    let mut config = config();
    config["model_type"] = json!("gemma3_text");
    config["head_dim"] = json!(16);
    let mut tensors = tensors();
    for norm in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
        tensors.push((format!("model.layers.0.{norm}.weight"), "F32", vec![HIDDEN]));
    }
    for norm in ["q_norm", "k_norm"] {
        tensors.push((format!("model.layers.0.self_attn.{norm}.weight"), "F32", vec![16]));
    }
    let head_of = |config: &Value, tensors: &[(String, &'static str, Vec<u64>)]| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), config, tensors);
        open(dir.path()).unwrap().bundles().last().unwrap().name
    };
    config["tie_word_embeddings"] = json!(false);
    assert_eq!(head_of(&config, &tensors), "model.embed_tokens[0..50]", "there is no other");
    config["tie_word_embeddings"] = json!(true);
    tensors.push(("lm_head.weight".to_owned(), "F32", vec![VOCAB, HIDDEN]));
    assert_eq!(head_of(&config, &tensors), "lm_head[0..50]");
}
