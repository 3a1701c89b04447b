//! What `mlx_lm` does to the tensors of a checkpoint before it has a model (`sanitize`), and which of them it quantises and
//! how (`cast_predicate`, `quant_predicate`), by model type.
//!
//! Source: `mlx_lm/models/*.py` of mlx-lm 0.32.

/// What the checkpoints of a model type have of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// The model type, and others that are the same.
    pub(super) model_types: &'static [&'static str],
    /// Whether the head is the embedding where config.json does not say. None: whether there is a head decides.
    pub(super) is_tied: Option<bool>,
    pub(super) experts: Option<Experts>,
    /// How the router is stored, if not as everything else.
    pub(super) router: Option<Router>,
    /// How modules end whose weights are matrices and stay floats.
    pub(super) unquantized: Option<&'static str>,
    /// Parameters that keep the type in which they are stored: how their names end.
    pub(super) keep_type: &'static [&'static str],
    /// What tensors of another model that the checkpoint has besides are called first.
    pub(super) dropped: Option<&'static str>,
    pub(super) own: Own,
}

/// What the tensors of a family are cut of, or into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// Each is a parameter, or an expert of one.
    Nothing,
    /// Experts are published in mxfp4: `gpt_oss.rs`.
    Blocks,
    /// Keys and values of all heads are one matrix: `latent.rs`. Numbers may have eight bits: `fp8.rs`.
    Latent,
    /// Convolutions have the axis of channels, of which each has its own, last.
    Convolutions,
    /// Likewise, and norms may lie around zero: `qwen3_5.rs`.
    Norms,
    /// Likewise, and it is a model that sees, of which the text model is taken.
    Text,
}

/// Experts that are tensors of their own, and become one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Experts {
    /// The module of the layer that has them.
    pub(super) module: &'static str,
    /// The field of config.json that counts them.
    pub(super) count: &'static str,
    /// What a projection is called in an expert, and in the model.
    pub(super) projections: &'static [(&'static str, &'static str)],
}

/// A router that keeps more bits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Router {
    /// How the names of its modules end.
    pub(super) suffixes: &'static [&'static str],
    pub(super) bits: u32,
    pub(super) group_size: usize,
}

/// Tensors of these names were computed once and are not parameters.
pub(super) const COMPUTED: &str = "rotary_emb.inv_freq";

/// The three matrices of an expert, if they are called so in both.
const GATE_UP_DOWN: &[(&str, &str)] =
    &[("gate_proj", "gate_proj"), ("down_proj", "down_proj"), ("up_proj", "up_proj")];

/// What the states of recurrent layers fade with.
const A_LOG: &str = ".A_log";

/// What corrects the choice of experts.
const CORRECTION: &str = ".e_score_correction_bias";

/// The router, and the gate of the expert that every token takes.
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
        own: Own::Blocks,
        ..dense(&["gpt_oss"], None)
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "n_routed_experts", projections: GATE_UP_DOWN }),
        unquantized: Some(".mlp.gate"),
        keep_type: &[CORRECTION],
        own: Own::Latent,
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
        own: Own::Convolutions,
        ..dense(&["nemotron_h"], None)
    },
    Family {
        experts: Some(Experts { module: "mlp", count: "num_experts", projections: GATE_UP_DOWN }),
        router: Some(GATES),
        dropped: Some("mtp."),
        own: Own::Norms,
        ..dense(&["qwen3_next"], Some(false))
    },
    Family {
        router: Some(GATES),
        keep_type: &[A_LOG],
        own: Own::Text,
        ..dense(&["qwen3_5", "qwen3_5_moe"], None)
    },
];

/// What `model_type` may say.
pub(super) const KNOWN: &str = "llama, mistral, qwen2, qwen3, smollm3, gemma3_text, phi3, mixtral, qwen2_moe, qwen3_moe, gpt_oss, \
                                deepseek_v3, kimi_k2, joyai_llm_flash, nemotron_h, qwen3_next, qwen3_5, \
                                qwen3_5_moe";

const fn dense(model_types: &'static [&'static str], is_tied: Option<bool>) -> Family {
    Family {
        model_types,
        is_tied,
        experts: None,
        router: None,
        unquantized: None,
        keep_type: &[],
        dropped: None,
        own: Own::Nothing,
    }
}

/// The family of that model type.
pub(super) fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
}

impl Family {
    /// Whether a tensor is no parameter of the model.
    pub(super) fn drops(&self, name: &str) -> bool {
        name.contains(COMPUTED) || self.dropped.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// Whether a parameter stays in the type that it is stored in.
    pub(super) fn keeps_type(&self, name: &str) -> bool {
        self.keep_type.iter().any(|suffix| name.ends_with(suffix))
    }

    /// Whether the matrix of `module` stays one of floats.
    pub(super) fn keeps_floats(&self, module: &str) -> bool {
        self.unquantized.is_some_and(|suffix| module.ends_with(suffix))
    }

    /// The router, where `module` is one that is stored in its own way.
    pub(super) fn router(&self, module: &str) -> Option<&Router> {
        let is_router = |router: &&Router| router.suffixes.iter().any(|suffix| module.ends_with(suffix));
        self.router.as_ref().filter(is_router)
    }
}

impl Experts {
    /// Where a tensor of the checkpoint is the projection of an expert: the name of what all experts become, and which it is.
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
    fn what_is_dropped_or_left_alone_goes_by_its_name() {
        let nemotron = find("nemotron_h").unwrap();
        assert!(nemotron.drops("mtp.layers.0.norm.weight") && !nemotron.drops("backbone.norm_f.weight"));
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
