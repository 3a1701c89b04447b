//! Qwen3.5 and Qwen3-Next, whose norms lie around zero in checkpoints as they are trained; of a model that sees, the text model is
//! taken out, under the names that mlx-lm has.

use flash_io::{Catalog, Tensor};

use super::family::Own;
use super::parameter::{Content, Parameter, Piece, Rows, Stored};
use super::tensors;
use crate::error::ConvertError;

/// What sees.
const VISION: [&str; 2] = ["vision_tower", "model.visual"];

/// What predicts further tokens has it in its names.
const FURTHER: &str = "mtp.";

/// How a checkpoint calls the text model, and mlx-lm.
const TRAINED: &str = "model.language_model";
const TEXT: &str = "language_model.";

/// How the names of norms end whose weights lie around zero in a checkpoint as it is trained, and around one in the model.
const NORMS: [&str; 5] = [
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
];

/// Whether a tensor is none of the text model's.
pub(super) fn drops(name: &str) -> bool {
    is_vision(name) || name.contains(FURTHER)
}

fn is_vision(name: &str) -> bool {
    VISION.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a checkpoint is as it is trained: that there is a tensor for each expert tells, or its convolutions do.
pub(super) fn is_trained(catalog: &Catalog, own: Own) -> bool {
    let mut tensors = catalog.tensors().filter(|tensor| !is_vision(&tensor.name));
    match own {
        Own::Norms => tensors.any(|tensor| tensor.name.ends_with(".mlp.experts.0.up_proj.weight")),
        Own::Text => tensors.any(|tensor| {
            tensor.name.contains("conv1d.weight") && tensor.shape.last().is_some_and(|last| *last != 1)
        }),
        _ => false,
    }
}

/// Has the weights of a norm raised by one.
pub(super) fn raise_norm(Parameter { name, shape, content }: &mut Parameter) {
    let is_norm = shape.len() == 1 && NORMS.iter().any(|suffix| name.ends_with(suffix));
    let (true, Content::Floats { pieces, .. }) = (is_norm, content) else { return };
    for piece in pieces {
        if let Stored::Float(float) = piece.stored {
            piece.stored = Stored::AroundZero(float);
        }
    }
}

/// What the model calls a tensor of its own.
fn name_of(name: &str) -> String {
    match name.strip_prefix(TRAINED) {
        Some(rest) => format!("{TEXT}model{rest}"),
        None if name.starts_with(TEXT) => name.to_owned(),
        None => format!("{TEXT}{name}"),
    }
}

/// What a parameter becomes that has all of `tensor` and its name.
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

/// A parameter for each of `names`: of `[n_experts, rows, columns]`, each has its part of every expert's rows.
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
        return Err(tensors::misshapen(catalog, tensor, "[experts, rows, columns]".to_owned()));
    };
    if !n_rows.is_multiple_of(n_parts) {
        return Err(tensors::misshapen(catalog, tensor, "as many rows for gates as for values".to_owned()));
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
    fn the_text_model_has_one_name_wherever_it_was() {
        let wanted = "language_model.model.layers.0.mlp.gate.weight";
        for name in
            ["model.language_model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.weight", wanted]
        {
            assert_eq!(name_of(name), wanted);
        }
        assert_eq!(name_of("lm_head.weight"), "language_model.lm_head.weight");
        for name in ["mtp.fc.weight", "model.visual.merger.norm.weight", "vision_tower.patch_embed.weight"] {
            assert!(drops(name), "{name}");
        }
        assert!(!drops(wanted));
    }
}
