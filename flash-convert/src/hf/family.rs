//! What `mlx_lm` does to the tensors of a checkpoint before it has a model (`sanitize`), by model type.
//!
//! Source: `mlx_lm/models/*.py` of mlx-lm 0.32.

/// What the checkpoints of a model type have of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) model_type: &'static str,
    /// Whether the head is the embedding where config.json does not say. None: whether there is a head decides.
    pub(super) is_tied: Option<bool>,
    pub(super) experts: Option<Experts>,
}

/// Experts that are tensors of their own, and become one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Experts {
    /// The module of the layer that has them.
    pub(super) module: &'static str,
    /// The field of config.json that counts them.
    pub(super) count: &'static str,
    /// What a projection is called in an expert, and in the model.
    pub(super) projections: [(&'static str, &'static str); 3],
    /// How the router is stored, if not as everything else: its name in the module, its bits and its groups.
    pub(super) router: Option<Router>,
}

/// A router that keeps more bits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Router {
    pub(super) name: &'static str,
    pub(super) bits: u32,
    pub(super) group_size: usize,
}

/// Tensors of these names were computed once and are not parameters.
pub(super) const COMPUTED: &str = "self_attn.rotary_emb.inv_freq";

const FAMILIES: [Family; 9] = [
    dense("llama", Some(true)),
    dense("mistral", Some(true)),
    dense("qwen2", Some(true)),
    dense("qwen3", Some(false)),
    dense("smollm3", Some(true)),
    dense("gemma3_text", None),
    dense("phi3", None),
    Family {
        model_type: "mixtral",
        is_tied: Some(false),
        experts: Some(Experts {
            module: "block_sparse_moe",
            count: "num_local_experts",
            projections: [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")],
            router: None,
        }),
    },
    Family {
        model_type: "qwen3_moe",
        is_tied: Some(false),
        experts: Some(Experts {
            module: "mlp",
            count: "num_experts",
            projections: [("gate_proj", "gate_proj"), ("down_proj", "down_proj"), ("up_proj", "up_proj")],
            router: Some(Router { name: "gate", bits: 8, group_size: 64 }),
        }),
    },
];

/// What `model_type` may say.
pub(super) const KNOWN: &str = "llama, mistral, qwen2, qwen3, smollm3, gemma3_text, phi3, mixtral, qwen3_moe";

const fn dense(model_type: &'static str, is_tied: Option<bool>) -> Family {
    Family { model_type, is_tied, experts: None }
}

/// The family of that model type.
pub(super) fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
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

    /// The router, where `module` is one that is stored in its own way.
    pub(super) fn router(&self, module: &str) -> Option<&Router> {
        let router = self.router.as_ref()?;
        module.ends_with(&format!(".{}.{}", self.module, router.name)).then_some(router)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_known_families_are_named() {
        let names: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
        assert_eq!(names.join(", "), KNOWN);
        assert_eq!(find("hyena"), None);
    }

    #[test]
    fn experts_are_stacked_under_their_names_in_the_model() {
        let mixtral = find("mixtral").unwrap().experts.as_ref().unwrap();
        let name = "model.layers.3.block_sparse_moe.experts.11.w2.weight";
        let becomes = "model.layers.3.block_sparse_moe.switch_mlp.down_proj.weight";
        assert_eq!(mixtral.stacked(name), Some((becomes.to_owned(), 11)));
        for other in [
            "model.layers.3.block_sparse_moe.gate.weight",
            "model.layers.3.block_sparse_moe.experts.x.w2.weight",
            "model.layers.3.block_sparse_moe.experts.1.w9.weight",
            "model.layers.3.block_sparse_moe.experts.1.w2.bias",
        ] {
            assert_eq!(mixtral.stacked(other), None, "{other}");
        }
        assert_eq!(mixtral.router("model.layers.3.block_sparse_moe.gate"), None);
        let qwen3 = find("qwen3_moe").unwrap().experts.as_ref().unwrap();
        assert_eq!(qwen3.router("model.layers.0.mlp.gate").unwrap().bits, 8);
        assert_eq!(qwen3.router("model.layers.0.mlp.gate_proj"), None);
    }
}
