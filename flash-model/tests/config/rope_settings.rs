//! RoPE settings are equivalent in all layouts, and contradictory ones are errors.

use flash_model::ModelError;
use serde_json::{Map, Value, json};

use super::{config_of, engine, fixture, logits, open, text, with_config};

/// Committed models with RoPE, of each family.
const ROTATED: [&str; 17] = [
    "rope-llama3",
    "rope-yarn-mscale",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "phi3-longrope",
    "gemma3-text",
    "gemma3",
    "gpt_oss",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5",
    "deepseek_v3",
];

fn error_of(name: &str, config: &Map<String, Value>) -> String {
    open(name, config).expect_err("invalid settings").to_string()
}

#[test]
fn rope_parameters_mean_what_the_older_fields_mean() {
    for name in ROTATED {
        let mut config = config_of(name);
        let settings = text(&mut config);
        let wanted = logits(&fixture(name));
        if let Some(Value::Object(parameters)) = settings.remove("rope_parameters") {
            // Convert to the older fields.
            let mut scaling = parameters.clone();
            for field in ["rope_theta", "partial_rotary_factor"] {
                if let Some(value) = scaling.remove(field) {
                    settings.insert(field.to_owned(), value);
                }
            }
            settings.insert("rope_scaling".to_owned(), Value::Object(scaling));
        } else {
            let mut parameters = match settings.remove("rope_scaling") {
                Some(Value::Object(scaling)) => scaling,
                _ => Map::from_iter([("rope_type".to_owned(), json!("default"))]),
            };
            for field in ["rope_theta", "partial_rotary_factor"] {
                if let Some(value) = settings.remove(field) {
                    parameters.insert(field.to_owned(), value);
                }
            }
            let parameters = match settings.remove("rope_local_base_freq") {
                Some(theta) => {
                    json!({ "full_attention": parameters, "sliding_attention": { "rope_theta": theta } })
                }
                None => Value::Object(parameters),
            };
            settings.insert("rope_parameters".to_owned(), parameters);
        }
        let found = logits(with_config(name, &config).path());
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn settings_that_are_changed_change_logits_in_every_family() {
    for name in ROTATED {
        let mut config = config_of(name);
        let settings = text(&mut config);
        for field in ["rope_theta", "rope_scaling", "rope_parameters"] {
            settings.remove(field);
        }
        let parameters = json!({ "rope_type": "linear", "factor": 3.0, "rope_theta": 500.0 });
        settings.insert("rope_parameters".to_owned(), parameters);
        assert_ne!(logits(with_config(name, &config).path()), logits(&fixture(name)), "{name}");
    }
}

#[test]
fn two_spellings_that_differ_are_an_error_that_names_the_setting() {
    for (field, value, named) in [
        ("rope_parameters", json!({ "rope_theta": 500.0 }), "rope_theta"),
        ("rope_parameters", json!({ "rope_type": "llama3", "factor": 3.0 }), "rope_parameters.factor"),
        ("rope_parameters", json!({ "type": "linear" }), "rope_parameters.rope_type"),
        ("rope_parameters", json!({ "low_freq_factor": "one" }), "rope_parameters"),
        ("rope_parameters", json!({ "sharpness": 2.0 }), "sharpness"),
        ("rope_parameters", json!([1]), "rope_parameters"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("original_max_position_embeddings", json!(33), "original_max_position_embeddings"),
    ] {
        let mut config = config_of("rope-llama3");
        config.insert(field.to_owned(), value.clone());
        let error = error_of("rope-llama3", &config);
        assert!(error.contains(named), "{field} = {value}: {error}");
    }
}

#[test]
fn settings_by_layer_type_are_refused_where_all_layers_share_rope() {
    let mut config = config_of("llama-sliding");
    let theta = config.remove("rope_theta").unwrap();
    let same =
        json!({ "full_attention": { "rope_theta": theta }, "sliding_attention": { "rope_theta": theta } });
    config.insert("rope_parameters".to_owned(), same);
    assert_eq!(logits(with_config("llama-sliding", &config).path()), logits(&fixture("llama-sliding")));
    config["rope_parameters"]["sliding_attention"]["rope_theta"] = json!(77.0);
    assert!(error_of("llama-sliding", &config).contains("rope_parameters"));
}

#[test]
fn sliding_window_of_mistral_equals_layer_types() {
    let mut config = config_of("mistral");
    config.insert("sliding_window".to_owned(), json!(16));
    let windowed = logits(with_config("mistral", &config).path());
    config.insert("layer_types".to_owned(), json!(["sliding_attention", "sliding_attention"]));
    config.insert("model_type".to_owned(), json!("llama"));
    assert_eq!(windowed, logits(with_config("mistral", &config).path()));
    assert_ne!(windowed, logits(&fixture("mistral")));
}

#[test]
fn dynamic_scaling_has_no_effect_up_to_the_trained_length_where_contexts_end() {
    let mut config = config_of("mistral");
    config.insert("rope_scaling".to_owned(), json!({ "type": "dynamic", "factor": 2.0 }));
    let dir = with_config("mistral", &config);
    assert_eq!(logits(dir.path()), logits(&fixture("mistral")));
    config.insert("max_position_embeddings".to_owned(), json!(64));
    let dir = with_config("mistral", &config);
    let mut engine = engine(dir.path(), 100);
    assert_eq!(engine.context_tokens(), 64);
    let error = engine.forward(&[1; 65]).unwrap_err();
    assert!(matches!(error, ModelError::PromptTooLong { context_tokens: 64, .. }), "{error}");
    config.remove("max_position_embeddings");
    assert!(error_of("mistral", &config).contains("max_position_embeddings"));
}

#[test]
fn yarn_extends_the_context_by_its_factor() {
    let mut config = config_of("rope-yarn");
    let scaling = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512 });
    config.insert("rope_scaling".to_owned(), scaling);
    config.insert("max_position_embeddings".to_owned(), json!(512));
    assert_eq!(open("rope-yarn", &config).unwrap().max_context_tokens(), Some(2048));
    // A larger `max_position_embeddings` takes precedence.
    config.insert("max_position_embeddings".to_owned(), json!(4096));
    assert_eq!(open("rope-yarn", &config).unwrap().max_context_tokens(), Some(4096));
}

#[test]
fn rope_traditional_is_refused_in_families_without_it() {
    for name in ["qwen3", "gemma3-text", "gpt_oss", "qwen3_moe", "qwen3_next"] {
        let mut config = config_of(name);
        text(&mut config).insert("rope_traditional".to_owned(), json!(true));
        assert!(error_of(name, &config).contains("rope_traditional"), "{name}");
    }
}

#[test]
fn unused_yarn_names_and_mrope_change_nothing() {
    let mut config = config_of("rope-yarn-mscale");
    let wanted = logits(&fixture("rope-yarn-mscale"));
    config["rope_scaling"]["attn_factor"] = json!(0.878);
    config["rope_scaling"]["extrapolation_factor"] = json!(1.0);
    assert_eq!(logits(with_config("rope-yarn-mscale", &config).path()), wanted);
    let mut config = config_of("mistral");
    let of_images = json!({ "type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3] });
    config.insert("rope_scaling".to_owned(), of_images);
    assert_eq!(logits(with_config("mistral", &config).path()), logits(&fixture("mistral")));
}
