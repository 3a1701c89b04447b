//! Conversion rules by model type: how mlx-lm transforms the tensors of a checkpoint (`sanitize`), and which of them it
//! casts and quantizes (`cast_predicate`, `quant_predicate`).
//!
//! Source: `mlx_lm/models/*.py` of mlx-lm 0.32.

/// Conversion rules of one or more model types.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// The values of `model_type` that share these rules.
    pub(super) model_types: &'static [&'static str],
    /// Default of `tie_word_embeddings`. None: the field is ignored, and a head is kept if the checkpoint has one.
    pub(super) is_tied: Option<bool>,
    pub(super) experts: Option<Experts>,
    /// Quantization of the router, if it differs from other matrices.
    pub(super) router: Option<Router>,
    /// Suffix of modules whose matrices are not quantized.
    pub(super) unquantized: Option<&'static str>,
    /// Suffixes of parameters that keep their float type.
    pub(super) keep_type: &'static [&'static str],
    /// Prefix of tensors that are not part of the model, such as multi-token prediction layers.
    pub(super) dropped: Option<&'static str>,
    pub(super) rule: SanitizeRule,
}

/// Model-specific transformation of tensors, named after the model it was first needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SanitizeRule {
    /// Each tensor is a parameter, or one expert of a parameter.
    None,
    /// Experts are published in mxfp4 (`gpt_oss.rs`).
    GptOss,
    /// Latent attention has one matrix for keys and values (`latent.rs`); weights may be fp8 (`fp8.rs`) or int4
    /// (`int4.rs`).
    DeepSeekV3,
    /// Depthwise convolutions `[channels, 1, taps]` become `[channels, taps, 1]`.
    NemotronH,
    /// The convolutions of `NemotronH`, and norms may be zero-centered (`qwen3_5.rs`).
    Qwen3Next,
    /// The rules of `Qwen3Next`, and the text model is extracted from a vision-language model (`qwen3_5.rs`).
    Qwen3_5,
}

/// Experts that are separate tensors in the checkpoint and stacked in the model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Experts {
    /// Name of the layer's mixture-of-experts module.
    pub(super) module: &'static str,
    /// Field of config.json with the number of experts.
    pub(super) count: &'static str,
    /// Names of the projections: in the checkpoint, and in the model.
    pub(super) projections: &'static [(&'static str, &'static str)],
}

/// A router with its own quantization parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Router {
    /// Suffixes of its modules.
    pub(super) suffixes: &'static [&'static str],
    pub(super) bits: u32,
    pub(super) group_size: usize,
}

/// Name of precomputed RoPE frequencies, which are not parameters.
pub(super) const INV_FREQ: &str = "rotary_emb.inv_freq";

/// Projections of an expert with the same names in the checkpoint and in the model.
const GATE_UP_DOWN: &[(&str, &str)] =
    &[("gate_proj", "gate_proj"), ("down_proj", "down_proj"), ("up_proj", "up_proj")];

/// Suffix of the decay rates of state-space and linear-attention layers.
const A_LOG: &str = ".A_log";

/// Suffix of the router's score correction bias.
const CORRECTION: &str = ".e_score_correction_bias";

/// The router and the gate of the shared expert.
const GATES: Router = Router { suffixes: &[".mlp.gate", ".mlp.shared_expert_gate"], bits: 8, group_size: 64 };

const FAMILIES: [Family; 15] = [
    dense(&["llama"], Some(true)),
    dense(&["mistral"], Some(true)),
    dense(&["qwen2"], Some(true)),
    dense(&["qwen3"], Some(false)),
    dense(&["smollm3"], Some(true)),
    dense(&["gemma3_text"], None),
    dense(&["phi3"], None),
    Family {
        experts: Some(Experts {
            module: "block_sparse_moe",
            count: "num_local_experts",
            projections: &[("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")],
        }),
        ..dense(&["mixtral"], Some(false))
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "num_experts", projections: GATE_UP_DOWN }),
        ..dense(&["qwen2_moe"], None)
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "num_experts", projections: GATE_UP_DOWN }),
        router: Some(Router { suffixes: &[".mlp.gate"], bits: 8, group_size: 64 }),
        ..dense(&["qwen3_moe"], Some(false))
    },
    Family {
        router: Some(Router { suffixes: &[".mlp.router"], bits: 8, group_size: 64 }),
        rule: SanitizeRule::GptOss,
        ..dense(&["gpt_oss"], None)
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "n_routed_experts", projections: GATE_UP_DOWN }),
        unquantized: Some(".mlp.gate"),
        keep_type: &[CORRECTION],
        rule: SanitizeRule::DeepSeekV3,
        ..dense(&["deepseek_v3", "kimi_k2", "joyai_llm_flash"], None)
    },
    Family {
        experts: Some(Experts {
            module: "mixer",
            count: "n_routed_experts",
            projections: &[("down_proj", "fc2"), ("up_proj", "fc1")],
        }),
        unquantized: Some(".mixer.gate"),
        keep_type: &[CORRECTION, A_LOG],
        dropped: Some("mtp."),
        rule: SanitizeRule::NemotronH,
        ..dense(&["nemotron_h"], None)
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "num_experts", projections: GATE_UP_DOWN }),
        router: Some(GATES),
        dropped: Some("mtp."),
        rule: SanitizeRule::Qwen3Next,
        ..dense(&["qwen3_next"], Some(false))
    },
    Family {
        router: Some(GATES),
        keep_type: &[A_LOG],
        rule: SanitizeRule::Qwen3_5,
        ..dense(&["qwen3_5", "qwen3_5_moe"], None)
    },
];

/// Supported values of `model_type`.
pub(super) const KNOWN: &str = "llama, mistral, qwen2, qwen3, smollm3, gemma3_text, phi3, mixtral, qwen2_moe, qwen3_moe, gpt_oss, \
                                deepseek_v3, kimi_k2, joyai_llm_flash, nemotron_h, qwen3_next, qwen3_5, \
                                qwen3_5_moe";

/// Returns the rules of a dense model, which the other entries of the table extend.
const fn dense(model_types: &'static [&'static str], is_tied: Option<bool>) -> Family {
    Family {
        model_types,
        is_tied,
        experts: None,
        router: None,
        unquantized: None,
        keep_type: &[],
        dropped: None,
        rule: SanitizeRule::None,
    }
}

/// Returns the rules for `model_type`.
pub(super) fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
}

impl Family {
    /// Returns whether a tensor is not a parameter of the model.
    pub(super) fn is_dropped(&self, name: &str) -> bool {
        name.contains(INV_FREQ) || self.dropped.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// Returns whether a parameter keeps its float type.
    pub(super) fn keeps_type(&self, name: &str) -> bool {
        self.keep_type.iter().any(|suffix| name.ends_with(suffix))
    }

    /// Returns whether the matrix of `module` is not quantized.
    pub(super) fn keeps_floats(&self, module: &str) -> bool {
        self.unquantized.is_some_and(|suffix| module.ends_with(suffix))
    }

    /// Returns the quantization parameters of `module` if it is a router with its own.
    pub(super) fn router(&self, module: &str) -> Option<&Router> {
        let is_router = |router: &&Router| router.suffixes.iter().any(|suffix| module.ends_with(suffix));
        self.router.as_ref().filter(is_router)
    }
}

impl Experts {
    /// Returns the name of the stacked parameter and the expert index, if `name` is a projection of an expert.
    pub(super) fn stacked(&self, name: &str) -> Option<(String, usize)> {
        let (layer, rest) = name.split_once(&format!(".{}.experts.", self.module))?;
        let (expert_idx, projection) = rest.split_once('.')?;
        let projection = projection.strip_suffix(".weight")?;
        let (_, becomes) = self.projections.iter().find(|(stored, _)| *stored == projection)?;
        Some((format!("{layer}.{}.switch_mlp.{becomes}.weight", self.module), expert_idx.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_known_families_are_named() {
        let names: Vec<_> = FAMILIES.iter().flat_map(|family| family.model_types).copied().collect();
        assert_eq!(names.join(", "), KNOWN);
        assert_eq!(find("hyena"), None);
    }

    #[test]
    fn experts_are_stacked_under_their_names_in_the_model() {
        let mixtral = find("mixtral").unwrap();
        let experts = mixtral.experts.as_ref().unwrap();
        let name = "model.layers.3.block_sparse_moe.experts.11.w2.weight";
        let becomes = "model.layers.3.block_sparse_moe.switch_mlp.down_proj.weight";
        assert_eq!(experts.stacked(name), Some((becomes.to_owned(), 11)));
        for other in [
            "model.layers.3.block_sparse_moe.gate.weight",
            "model.layers.3.block_sparse_moe.experts.x.w2.weight",
            "model.layers.3.block_sparse_moe.experts.1.w9.weight",
            "model.layers.3.block_sparse_moe.experts.1.w2.bias",
        ] {
            assert_eq!(experts.stacked(other), None, "{other}");
        }
        assert_eq!(mixtral.router("model.layers.3.block_sparse_moe.gate"), None);
        let qwen3 = find("qwen3_moe").unwrap();
        assert_eq!(qwen3.router("model.layers.0.mlp.gate").unwrap().bits, 8);
        assert_eq!(qwen3.router("model.layers.0.mlp.gate_proj"), None);
    }

    #[test]
    fn dropped_and_kept_tensors_are_recognised_by_name() {
        let nemotron = find("nemotron_h").unwrap();
        assert!(
            nemotron.is_dropped("mtp.layers.0.norm.weight") && !nemotron.is_dropped("backbone.norm_f.weight")
        );
        assert!(nemotron.keeps_type("backbone.layers.0.mixer.A_log"));
        assert!(!nemotron.keeps_type("backbone.layers.0.mixer.D"));
        let kimi = find("kimi_k2").unwrap();
        assert!(
            kimi.keeps_floats("model.layers.3.mlp.gate")
                && !kimi.keeps_floats("model.layers.3.mlp.gate_proj")
        );
        assert!(kimi.keeps_type("model.layers.3.mlp.gate.e_score_correction_bias"));
    }
}
