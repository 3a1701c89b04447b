//! Fields that transformers writes into every configuration do not keep a model from opening.
//!
//! `goldens/configs` has the fields of its configuration classes with their defaults; `make.py` there regenerates them.

use std::fs;

use flash_io::parse_python_json;
use serde_json::{Map, Value, json};

use super::{config_of, open, tests, text};

const VERSIONS: [&str; 3] = ["4.46.3", "4.57.1", "5.24.0"];

/// Families, each with a committed model.
const FIXTURES: [(&str, &str); 16] = [
    ("llama", "biases"),
    ("mistral", "mistral"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("smollm3", "smollm3"),
    ("phi3", "phi3"),
    ("gemma3_text", "gemma3-text"),
    ("gpt_oss", "gpt_oss"),
    ("mixtral", "mixtral"),
    ("qwen2_moe", "qwen2_moe"),
    ("qwen3_moe", "qwen3_moe"),
    ("qwen3_next", "qwen3_next"),
    ("qwen3_5", "qwen3_5"),
    ("qwen3_5_moe", "qwen3_5_moe"),
    ("deepseek_v3", "deepseek_v3"),
    ("nemotron_h", "nemotron_h-moe"),
];

/// Fields whose defaults contradict the committed models.
const OTHERS: [&str; 10] = [
    "num_key_value_heads",
    "tie_word_embeddings",
    "head_dim",
    "layer_types",
    "layers_block_type",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "no_rope_layers",
    "num_local_experts",
];

#[test]
fn fields_of_transformers_are_understood_in_every_family() {
    for version in VERSIONS {
        let path = tests().join(format!("goldens/configs/transformers-{version}.json"));
        let families: Map<String, Value> = parse_python_json(&fs::read_to_string(path).unwrap()).unwrap();
        for (family, fixture) in FIXTURES {
            let Some(fields) = families.get(family) else { continue };
            let mut config = config_of(fixture);
            let target = text(&mut config);
            for (name, value) in fields.as_object().unwrap() {
                if !OTHERS.contains(&name.as_str()) {
                    target.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            if let Err(error) = open(fixture, &config) {
                panic!("{family} with the fields of transformers {version}: {error}");
            }
        }
    }
}

/// Fields of published models, except sizes, that transformers' classes do not have.
fn published() -> [(&'static str, Value); 12] {
    [
        (
            "qwen3_moe",
            json!({ "use_qk_norm": true, "qkv_bias": false, "shared_expert_intermediate_size": 0 }),
        ),
        (
            "llama",
            json!({ "activation": "swiglu", "rope_pct": 1.0, "logits_scaling": 1, "mm_hidden_size": 1024 }),
        ),
        (
            "qwen3",
            json!({ "context_length": 4096.0, "text_token_id": 5, "warmup_steps": 100, "rope_type": "default" }),
        ),
        (
            "phi3",
            json!({ "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "auto_map": {} }),
        ),
        (
            "gpt_oss",
            json!({ "initial_context_length": 4096, "output_router_logits": false, "swiglu_limit": 7.0 }),
        ),
        ("qwen2", json!({ "use_mrope": false, "dual_chunk_attention_config": { "chunk_size": 262144 } })),
        ("llama", json!({ "is_llama_config": true, "rope_interleaved": false, "unsloth_version": "2025.1" })),
        (
            "mistral",
            json!({ "unsloth_fixed": true, "neftune_noise_alpha": 5, "attn_implementation": "sdpa" }),
        ),
        ("gemma3_text", json!({ "cache_implementation": "hybrid", "final_logit_softcapping": null })),
        (
            "qwen3_5",
            json!({ "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1, "attn_output_gate": true }),
        ),
        (
            "deepseek_v3",
            json!({ "ep_size": 1, "seq_aux": true, "aux_loss_alpha": 0.001, "scoring_func": "sigmoid" }),
        ),
        (
            "nemotron_h",
            json!({ "use_mamba_kernels": true, "num_logits_to_keep": 1, "norm_eps": 1e-5, "expand": 2 }),
        ),
    ]
}

#[test]
fn fields_of_published_models_are_understood() {
    for (family, fields) in published() {
        let fixture = FIXTURES.iter().find(|(known, _)| *known == family).unwrap().1;
        let mut config = config_of(fixture);
        text(&mut config).extend(fields.as_object().unwrap().clone());
        if let Err(error) = open(fixture, &config) {
            panic!("{family}: {error}");
        }
    }
}

#[test]
fn a_setting_of_layers_that_no_family_knows_is_refused_in_each() {
    for (family, fixture) in FIXTURES {
        for (field, value) in [
            ("attn_logit_softcapping", json!(30.0)),
            ("embedding_multiplier", json!(12.0)),
            ("use_alibi", json!(true)),
            ("hidden_act", json!("relu")),
            ("rope_scaling", json!({ "rope_type": "default", "low_pass": 2.0 })),
            ("moe_router_temperature", json!(2.0)),
        ] {
            if family == "nemotron_h" && ["rope_scaling", "hidden_act"].contains(&field) {
                continue;
            }
            let mut config = config_of(fixture);
            let target = text(&mut config);
            target.insert(field.to_owned(), value.clone());
            let error = open(fixture, &config).expect_err(&format!("{family} ignores {field}"));
            let named = if field == "rope_scaling" { "low_pass" } else { field };
            assert!(error.to_string().contains(named), "{family}: {error}");
        }
    }
}

#[test]
fn settings_that_are_off_are_understood() {
    for (family, fixture) in FIXTURES {
        let mut config = config_of(fixture);
        for (field, value) in [
            ("attn_logit_softcapping", json!(null)),
            ("embedding_multiplier", json!(1.0)),
            ("use_alibi", json!(false)),
            ("rope_scaling_of_images", json!({})),
        ] {
            config.insert(field.to_owned(), value);
        }
        if let Err(error) = open(fixture, &config) {
            panic!("{family}: {error}");
        }
    }
}
