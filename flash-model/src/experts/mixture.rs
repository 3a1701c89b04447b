//! A layer's experts before any of them is loaded: where they lie, and what they will be.

use std::collections::HashMap;
use std::rc::Rc;

use flash_io::{DIRECT_ALIGN, Slot, Tensor};
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{ModuleParameters as _, update_parameters};
use mlx_rs::{Array, Dtype};

use super::Router;
use crate::bundle::{Bundle, Part};
use crate::checkpoint::TensorKind;
use crate::layers::Linear;
use crate::weights::Weights;
use crate::{ModelError, mlx};

/// What an expert computes: `down(silu(gate(x)) · up(x))`.
#[derive(Debug, Clone, ModuleParameters)]
pub(crate) struct Expert {
    #[param]
    pub gate_proj: Linear,
    #[param]
    pub up_proj: Linear,
    #[param]
    pub down_proj: Linear,
}

/// What a checkpoint calls the parts of an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Where the tensors of all experts are, as mlx-lm stacks them.
    pub stacked: &'static str,
    /// Where those of each are, below its index, as they were trained.
    pub each: &'static str,
    /// What gate, up and down are called there.
    pub each_matrices: [&'static str; 3],
}

/// What stacked matrices are called.
const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// The lengths of an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertDims {
    pub n_experts: usize,
    pub hidden: i32,
    pub intermediate: i32,
}

/// The experts of a layer.
#[derive(Debug)]
pub(crate) struct Mixture {
    pub router: Router,
    pub dims: ExpertDims,
    path: String,
    /// An expert without weights.
    template: Expert,
    /// By parameter, in the order of their keys.
    parameters: Vec<(String, Place)>,
}

/// Where a parameter lies.
#[derive(Debug)]
enum Place {
    /// Of all experts, `[n_experts, …]`.
    Stacked(Tensor),
    /// Of each.
    Each(Vec<Tensor>),
}

impl Mixture {
    /// The experts below the path of `weights`.
    pub(crate) fn new(
        weights: &Weights<'_>,
        names: Names,
        dims: ExpertDims,
        router: Router,
    ) -> Result<Self, ModelError> {
        let checkpoint = weights.checkpoint();
        let is_stacked =
            checkpoint.has(&format!("{}.{}.{}.weight", weights.path(), names.stacked, MATRICES[0]));
        let (first, matrices) = if is_stacked {
            (weights.at(names.stacked), MATRICES)
        } else {
            (weights.at(names.each).at("0"), names.each_matrices)
        };
        let linear = |idx: usize, input, output| first.at(matrices[idx]).linear(input, output, false);
        let mut template = Expert {
            gate_proj: linear(0, dims.hidden, dims.intermediate)?,
            up_proj: linear(1, dims.hidden, dims.intermediate)?,
            down_proj: linear(2, dims.intermediate, dims.hidden)?,
        };
        let mut parameters = Vec::new();
        for (key, placeholder) in template.parameters_mut().flatten() {
            let kind =
                if placeholder.dtype() == Dtype::Uint32 { TensorKind::Codes } else { TensorKind::Float };
            let shape: Vec<u64> = placeholder.shape().iter().map(|&extent| extent as u64).collect();
            let place = if is_stacked {
                let shape = [&[dims.n_experts as u64], &shape[..]].concat();
                let name = format!("{}.{key}", first.path());
                Place::Stacked(checkpoint.tensor(&name, &shape, kind)?.clone())
            } else {
                let (matrix, parameter) = key.split_once('.').expect("a parameter of a matrix");
                let idx = MATRICES.iter().position(|name| *name == matrix).expect("a matrix of an expert");
                let tensor = |expert_idx| {
                    let path = weights.at(names.each).at(&format!("{expert_idx}"));
                    let name = format!("{}.{}.{parameter}", path.path(), names.each_matrices[idx]);
                    checkpoint.tensor(&name, &shape, kind).cloned()
                };
                Place::Each((0..dims.n_experts).map(tensor).collect::<Result<_, _>>()?)
            };
            parameters.push((key.to_string(), place));
        }
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let path = weights.at(if is_stacked { names.stacked } else { names.each }).path().to_owned();
        Ok(Self { router, dims, path, template, parameters })
    }

    /// Bytes of one expert.
    pub(crate) fn expert_bytes(&self) -> u64 {
        let n_experts = self.dims.n_experts as u64;
        let bytes = |(_, place): &(String, Place)| match place {
            Place::Stacked(tensor) => tensor.span.len_bytes() / n_experts.max(1),
            Place::Each(tensors) => tensors.first().map_or(0, |tensor| tensor.span.len_bytes()),
        };
        self.parameters.iter().map(bytes).sum()
    }

    /// A slot that any of them fits: each extent may be widened to whole blocks at both of its ends.
    pub(crate) fn slot_bytes(&self) -> usize {
        let blocks_bytes = 2 * DIRECT_ALIGN * self.parameters.len();
        (self.expert_bytes() as usize + blocks_bytes).next_multiple_of(DIRECT_ALIGN)
    }

    /// Numbers that passing `n_tokens` through it takes beside hidden states: what is sent and what comes back for all of
    /// them, their scores, and two waves of rows.
    pub(crate) fn activation_values(&self, n_tokens: u64) -> u64 {
        let [hidden, intermediate] = [self.dims.hidden, self.dims.intermediate].map(|extent| extent as u64);
        let rows = (super::WAVE_ROWS as u64).min(n_tokens * self.router.top_k as u64);
        let sent = n_tokens * (4 * hidden + 2 * self.dims.n_experts as u64);
        sent + 2 * rows * (2 * hidden + 3 * intermediate)
    }

    /// What MLX may take beside an expert to widen its half-precision numbers.
    pub(crate) fn widened_bytes(&self) -> u64 {
        self.bundle(0).widened_bytes()
    }

    /// What is read for an expert.
    pub(crate) fn bundle(&self, expert_idx: usize) -> Bundle {
        let part = |(_, place): &(String, Place)| match place {
            Place::Stacked(tensor) => {
                let idx = expert_idx as u64;
                let mut part = Part::rows(tensor, &(idx..idx + 1));
                part.shape.remove(0);
                part
            }
            Place::Each(tensors) => Part::rows(&tensors[expert_idx], &(0..tensors[expert_idx].shape[0])),
        };
        Bundle::new(format!("{}[{expert_idx}]", self.path), self.parameters.iter().map(part).collect())
    }

    /// An expert that was read into a slot, which goes back when nobody has the expert, or computes with it, any more.
    pub(crate) fn bind(&self, bundle: &Bundle, slot: Slot) -> Result<Expert, Exception> {
        let arrays = mlx::views(slot, (), &bundle.views())?;
        let mut expert = self.template.clone();
        let keys = self.parameters.iter().map(|(key, _)| Rc::from(key.as_str()));
        update_parameters(&mut expert, keys.zip(arrays).collect::<HashMap<Rc<str>, Array>>());
        Ok(expert)
    }
}
