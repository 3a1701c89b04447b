//! Check for unused tensors: tensors of other towers are ignored, an unused tensor of the text model is an error.

use serde::Deserialize;

use super::Checkpoint;
use crate::ModelError;

/// Name prefixes of vision and audio towers, which are not run.
const TOWERS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "visual.",
    "model.visual.",
    "model.vision_tower.",
    "model.vision_model.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
    "mm_projector.",
    "audio_tower.",
    "model.audio_tower.",
    "embed_audio.",
    "embed_vision.",
    "model.embed_audio.",
    "model.embed_vision.",
];

/// Name suffixes of tables that are computed from the configuration.
const COMPUTED: &[&str] =
    &["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "masked_bias"];

/// Name suffixes of a head that is unused because it is tied to the embedding.
const TIED: &[&str] = &["lm_head.weight", "lm_head.scales", "lm_head.biases"];

/// Parts of multi-token prediction (MTP) layers, which are stored as layers after the last one.
const MULTI_TOKEN: &[&str] = &["eh_proj", "enorm", "hnorm", "shared_head"];

#[derive(Debug, Deserialize)]
struct Args {
    num_hidden_layers: Option<usize>,
    num_nextn_predict_layers: Option<usize>,
}

impl Checkpoint {
    /// Checks that layers have requested all tensors of the text model. Ignores computed tables, vision and audio
    /// towers, MTP layers, and a tied head.
    ///
    /// # Errors
    /// [`ModelError::UnusedTensor`] with the first unused tensor, and a hint at the configuration field that would use
    /// it.
    pub(crate) fn refuse_unused(&self, embed_path: &str, head_path: &str) -> Result<(), ModelError> {
        let Args { num_hidden_layers, num_nextn_predict_layers } = self.config.args()?;
        let n_layers = num_hidden_layers.unwrap_or(usize::MAX);
        let n_multi_token = num_nextn_predict_layers.unwrap_or(0);
        let is_tied = embed_path == head_path;
        let has_mtp_parts = |layer: &str| {
            MULTI_TOKEN.iter().any(|part| self.catalog.get(&format!("{layer}.{part}.weight")).is_some())
        };
        let is_extra = |name: &str| {
            TOWERS.iter().any(|tower| name.starts_with(tower))
                || COMPUTED.iter().any(|end| name.ends_with(end))
                || name.starts_with("mtp.")
                || name.contains(".mtp.")
                || (is_tied && TIED.iter().any(|end| name.ends_with(end)))
                || layer_of(name).is_some_and(|(layer, layer_idx)| {
                    (n_layers..n_layers.saturating_add(n_multi_token)).contains(&layer_idx)
                        || (layer_idx >= n_layers && has_mtp_parts(layer))
                })
        };
        let is_unused = |name: &str| !self.usage.has_tensor(name) && !is_extra(name);
        let mut unused = self.catalog.tensors().filter(|tensor| is_unused(&tensor.name));
        let Some(first) = unused.next() else { return Ok(()) };
        Err(ModelError::UnusedTensor {
            path: self.catalog.shards()[first.shard.0].path.clone(),
            tensor: first.name.clone(),
            n_others: unused.count(),
            model_type: self.config.model_type().to_owned(),
            hint: hint(&first.name, n_layers).map(|hint| format!("; {hint}")).unwrap_or_default(),
        })
    }
}

/// Returns the path and index of the layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<(&str, usize)> {
    let start = name.find("layers.")? + "layers.".len();
    let len = name[start..].find('.')?;
    Some((&name[..start + len], name[start..start + len].parse().ok()?))
}

/// Returns a hint at the setting that would use a tensor.
fn hint(name: &str, n_layers: usize) -> Option<String> {
    if let Some((_, layer_idx)) = layer_of(name).filter(|(_, layer_idx)| *layer_idx >= n_layers) {
        return Some(format!("num_hidden_layers is {n_layers}, and this is layer {layer_idx}"));
    }
    let is_bias = name.ends_with(".bias");
    let hint = if is_bias && name.contains("lm_head") {
        "a head with a bias is not supported"
    } else if is_bias && (name.contains("attn") || name.contains("attention")) {
        "attention_bias would use it"
    } else if is_bias && name.contains("mlp") {
        "mlp_bias would use it"
    } else if name.ends_with("global_scale") {
        "matrices with a scale for all of their groups are not supported"
    } else if name.ends_with("weight_scale_inv") || name.ends_with("weight_scale") {
        "`flash-cli convert --hf` converts weights with such scales, if any"
    } else if name.contains("lora_") {
        "an adapter must be merged into its model first"
    } else if name.contains(".experts.") {
        "the number of experts in the configuration is too small for it"
    } else if name.contains("lm_head") {
        "tie_word_embeddings would not leave it out if it were false"
    } else if name.contains("q_norm") || name.contains("k_norm") {
        "a model whose queries and keys are normalised has another model_type"
    } else {
        return None;
    };
    Some(hint.to_owned())
}
