//! Qwen3.5 and Qwen3-Next: Hugging Face checkpoints have zero-centered norms, and the text model of a vision-language
//! model is extracted under mlx-lm's names.

use flash_io::{Catalog, Tensor};

use super::family::SanitizeRule;
use super::parameter::{Content, Encoding, Parameter, Piece, Rows};
use super::tensors;
use crate::error::ConvertError;

/// Prefixes of the vision encoder's tensors.
const VISION: [&str; 2] = ["vision_tower", "model.visual"];

/// Part of the names of multi-token prediction layers.
const MTP: &str = "mtp.";

/// Prefix of the text model in a Hugging Face checkpoint.
const HF_PREFIX: &str = "model.language_model";
/// Prefix of the text model in mlx-lm.
const MLX_PREFIX: &str = "language_model.";

/// Suffixes of norms that are zero-centered in Hugging Face checkpoints and centered at one in the model.
const NORMS: [&str; 5] = [
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
];

/// Returns whether a tensor is not part of the text model.
pub(super) fn is_dropped(name: &str) -> bool {
    is_vision(name) || name.contains(MTP)
}

fn is_vision(name: &str) -> bool {
    VISION.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether a checkpoint has zero-centered norms, as Hugging Face's do and mlx-lm's do not. Like in mlx-lm,
/// unstacked experts or convolutions in `PyTorch`'s layout indicate a Hugging Face checkpoint.
pub(super) fn has_zero_centered_norms(catalog: &Catalog, rule: SanitizeRule) -> bool {
    let mut tensors = catalog.tensors().filter(|tensor| !is_vision(&tensor.name));
    match rule {
        SanitizeRule::Qwen3Next => {
            tensors.any(|tensor| tensor.name.ends_with(".mlp.experts.0.up_proj.weight"))
        }
        SanitizeRule::Qwen3_5 => tensors.any(|tensor| {
            tensor.name.contains("conv1d.weight") && tensor.shape.last().is_some_and(|last| *last != 1)
        }),
        _ => false,
    }
}

/// Marks the weights of a norm as zero-centered, so that 1 is added to them.
pub(super) fn add_one_to_norm(Parameter { name, shape, content }: &mut Parameter) {
    let is_norm = shape.len() == 1 && NORMS.iter().any(|suffix| name.ends_with(suffix));
    let (true, Content::Floats { pieces, .. }) = (is_norm, content) else { return };
    for piece in pieces {
        if let Encoding::Float(float) = piece.encoding {
            piece.encoding = Encoding::ZeroCentered(float);
        }
    }
}

/// Returns mlx-lm's name of a tensor.
fn name_of(name: &str) -> String {
    match name.strip_prefix(HF_PREFIX) {
        Some(rest) => format!("{MLX_PREFIX}model{rest}"),
        None if name.starts_with(MLX_PREFIX) => name.to_owned(),
        None => format!("{MLX_PREFIX}{name}"),
    }
}

/// Renames a parameter made from all of `tensor`, and splits stacked experts by projection.
pub(super) fn parameters(
    catalog: &Catalog,
    tensor: &Tensor,
    mut parameter: Parameter,
) -> Result<Vec<Parameter>, ConvertError> {
    parameter.name = name_of(&parameter.name);
    let Parameter { name, content, .. } = &parameter;
    if let Some((mlp, matrix)) = name.split_once(".experts.") {
        let matrices: &[&str] = match matrix {
            "gate_up_proj" => &["gate_proj", "up_proj"],
            "down_proj" => &["down_proj"],
            _ => return Ok(vec![parameter]),
        };
        let named = |matrix: &&str| format!("{mlp}.switch_mlp.{matrix}.weight");
        return experts(catalog, tensor, content, &matrices.iter().map(named).collect::<Vec<_>>());
    }
    Ok(vec![parameter])
}

/// Splits experts `[n_experts, rows, columns]` by rows into one parameter for each of `names`.
fn experts(
    catalog: &Catalog,
    tensor: &Tensor,
    content: &Content,
    names: &[String],
) -> Result<Vec<Parameter>, ConvertError> {
    let (Content::Floats { float, pieces }, n_parts) = (content, names.len() as u64) else {
        unreachable!("floats")
    };
    let &[n_experts, n_rows, n_cols] = tensor.shape.as_slice() else {
        return Err(tensors::shape_error(catalog, tensor, "[experts, rows, columns]".to_owned()));
    };
    if !n_rows.is_multiple_of(n_parts) {
        return Err(tensors::shape_error(catalog, tensor, "an even number of rows".to_owned()));
    }
    let count = n_rows / n_parts;
    let parameter = |(part_idx, name): (u64, &String)| {
        let of_expert = |expert_idx: u64| {
            let first = expert_idx * n_rows + part_idx * count;
            let rows = Rows { first, count, step: 1, n_cols, is_transposed: false };
            pieces.iter().map(move |piece| Piece { rows, ..piece.clone() })
        };
        Parameter {
            name: name.clone(),
            shape: vec![n_experts, count, n_cols],
            content: Content::Floats { float: *float, pieces: (0..n_experts).flat_map(of_expert).collect() },
        }
    };
    Ok((0..).zip(names).map(parameter).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_model_gets_one_prefix_in_every_layout() {
        let wanted = "language_model.model.layers.0.mlp.gate.weight";
        for name in
            ["model.language_model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.weight", wanted]
        {
            assert_eq!(name_of(name), wanted);
        }
        assert_eq!(name_of("lm_head.weight"), "language_model.lm_head.weight");
        for name in ["mtp.fc.weight", "model.visual.merger.norm.weight", "vision_tower.patch_embed.weight"] {
            assert!(is_dropped(name), "{name}");
        }
        assert!(!is_dropped(wanted));
    }
}
