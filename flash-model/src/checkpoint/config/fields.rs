//! Classification of unread configuration fields: which of them may be ignored.

use serde_json::Value;

/// Fields that never change the output of a forward pass of the text model.
///
/// They configure training and initialization, other tasks and towers, or generation (which has its own file), or
/// describe the file itself. From transformers' `PretrainedConfig` and the configurations of the supported families.
const HARMLESS: &[&str] = &[
    // Metadata of the file.
    "architectures",
    "auto_map",
    "custom_generate",
    "dtype",
    "is_llama_config",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    // Read elsewhere.
    "quantization",
    "quantization_config",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "tokenizer_class",
    // Generation.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    // Outputs and caches of a pass, and implementation choices of other programs.
    "attn_implementation",
    "cache_implementation",
    "chunk_size",
    "chunk_size_feed_forward",
    "attention_implementation",
    "dual_chunk_attention_config",
    "flash_attn",
    "gradient_checkpointing",
    "mamba_ssm_cache_dtype",
    "mamba_ssm_dtype",
    "model_max_length",
    "moe_shared_expert_overlap",
    "num_logits_to_keep",
    "residual_in_fp32",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pretraining_tp",
    "ep_size",
    "return_dict",
    "return_dict_in_generate",
    "seq_length",
    "tf_legacy_loss",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "tensor_parallel_size",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_mamba_kernels",
    // Training.
    "aux_loss_alpha",
    "embedding_initializer_range",
    "initializer_factor",
    "initializer_range",
    "mamba_dt_init_floor",
    "neftune_noise_alpha",
    "rescale_prenorm_residual",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "seq_aux",
    "time_step_floor",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    // Other tasks: classification, encoders.
    "cross_attention_hidden_size",
    "finetuning_task",
    "id2label",
    "is_decoder",
    "label2id",
    "num_labels",
    "prefix",
    "problem_type",
    "pruned_heads",
    "task_specific_params",
    "tie_encoder_decoder",
    // Towers that are not run.
    "audio_config",
    "audio_token_id",
    "boi_token_index",
    "eoi_token_index",
    "image_token_id",
    "image_token_index",
    "language_model_only",
    "mm_tokens_per_image",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_feature_layer",
    "vision_start_token_id",
    // Multi-token prediction.
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    "num_mtp_layers",
    "num_nextn_predict_layers",
    // Redundant sizes (products or sums of others), and limits that no computation uses.
    "expand",
    "initial_context_length",
    "context_length",
    "max_window_layers",
    "num_key_value_groups",
    "original_vocab_size",
    "padded_vocab_size",
    "qk_head_dim",
    "tie_word_embeddings",
    "vocab_size",
    "max_position_embeddings",
];

/// Parts of names of fields that may change what layers compute.
const LAYER_TERMS: &[&str] = &[
    "act",
    "alibi",
    "alpha",
    "attention",
    "attn",
    "bias",
    "block",
    "clamp",
    "clip",
    "conv",
    "dim",
    "embed",
    "eps",
    "expert",
    "factor",
    "freq",
    "gate",
    "global",
    "group",
    "head",
    "hidden",
    "intermediate",
    "interval",
    "kv",
    "latent",
    "layer",
    "limit",
    "linear",
    "local",
    "logit",
    "lora",
    "mamba",
    "mix",
    "mlp",
    "moe",
    "multiplier",
    "norm",
    "parallel",
    "pattern",
    "position",
    "prob",
    "qk",
    "quant",
    "query",
    "rank",
    "residual",
    "rope",
    "rotary",
    "router",
    "routed",
    "scal",
    "score",
    "scoring",
    "shared",
    "size",
    "sliding",
    "smooth",
    "soft",
    "ssm",
    "state",
    "step",
    "swiglu",
    "temperature",
    "theta",
    "tie",
    "topk",
    "window",
    "yarn",
];

/// Name suffixes of factors, which have no effect at 1.
const NEUTRAL_AT_ONE: &[&str] = &["multiplier", "scaling", "_scale", "_pct"];

/// Classification of an unread field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It cannot change the output of layers.
    Harmless,
    /// Its meaning is unknown, but its name does not look like a setting of layers.
    Unknown,
    /// It may change the output of layers.
    Refused,
}

/// Classifies a field by its name and value.
pub(super) fn classify(name: &str, value: &Value) -> Verdict {
    let is_training = name.contains("dropout") || name.ends_with("pdrop") || name.starts_with('_');
    let is_training = is_training || ["_steps", "batch_size"].iter().any(|end| name.ends_with(end));
    let is_token = ["_token_id", "_token_ids", "_token_index"].iter().any(|end| name.ends_with(end));
    let is_image = name.starts_with("mm_");
    if is_token || is_image || HARMLESS.contains(&name) || is_training || is_off(name, value) {
        return Verdict::Harmless;
    }
    let name = name.to_ascii_lowercase();
    match LAYER_TERMS.iter().any(|part| name.contains(part)) {
        true => Verdict::Refused,
        false => Verdict::Unknown,
    }
}

/// Returns whether a value disables its field, or has no effect.
fn is_off(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) if NEUTRAL_AT_ONE.iter().any(|end| name.ends_with(end)) => {
            number.as_f64() == Some(1.0)
        }
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || (name == "rope_type" && text == "default"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_layers_are_refused_unless_they_are_off() {
        for (name, on, off) in [
            ("attn_logit_softcapping", json!(30.0), json!(null)),
            ("residual_multiplier", json!(0.22), json!(1.0)),
            ("use_qk_norm", json!(true), json!(false)),
            ("qkv_clip", json!(8), json!(0)),
            ("moe_layers_enum", json!("3,4"), json!("")),
            ("alibi", json!(true), json!(false)),
            ("layer_drop_plan", json!([1]), json!([])),
        ] {
            assert_eq!(classify(name, &on), Verdict::Refused, "{name}");
            assert_eq!(classify(name, &off), Verdict::Harmless, "{name}");
        }
    }

    #[test]
    fn fields_of_files_training_and_generation_are_harmless() {
        for name in ["_name_or_path", "attention_dropout", "resid_pdrop", "router_aux_loss_coef", "use_cache"]
        {
            assert_eq!(classify(name, &json!(0.5)), Verdict::Harmless, "{name}");
        }
        assert_eq!(classify("my_note", &json!("hello")), Verdict::Unknown);
    }
}
